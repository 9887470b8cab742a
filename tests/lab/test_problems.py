import tomllib
from importlib.resources import files
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import gradtx as gx
from gradtx.lab import Batch, digits, line, text, xor
from gradtx.lab.problems import network, transformer


def test_digits_are_scikit_learns_each_in_one_part():
    problem = digits()
    assert problem.train.inputs.shape == (1437, 64) and problem.test.inputs.shape == (360, 64)
    images, classes = load_digits(return_X_y=True)
    rows = np.c_[
        np.r_[problem.train.inputs, problem.test.inputs] * 16, np.r_[problem.train.targets, problem.test.targets]
    ]
    expected = np.c_[images, classes]
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    assert set(problem.test.targets) == set(range(10))


def test_digits_split_is_fixed():
    np.testing.assert_array_equal(digits().test.inputs, digits().test.inputs)


def numpy_network(params, x):
    first, second = [{name: np.asarray(value, float) for name, value in layer.items()} for layer in params]
    return np.maximum(x @ first["weight"] + first["bias"], 0) @ second["weight"] + second["bias"]


def test_digits_loss_and_accuracy_are_the_textbooks():
    problem = digits()
    params = problem.init(jax.random.key(0))
    assert [layer["weight"].shape for layer in params] == [(64, 64), (64, 10)]
    x, classes = problem.test
    scores = numpy_network(params, x)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    loss = -np.mean(np.log(probabilities[np.arange(360), classes]))
    assert float(problem.loss(params, problem.test)) == pytest.approx(loss, rel=1e-5)
    assert problem.accuracy is not None
    assert float(problem.accuracy(params, problem.test)) == pytest.approx(np.mean(scores.argmax(1) == classes))


def test_xor_loss_and_accuracy_are_the_textbooks():
    problem = xor()
    params = problem.init(jax.random.key(2))
    x, y = problem.train
    np.testing.assert_array_equal(y, np.logical_xor(x[:, 0], x[:, 1]))
    p = 1 / (1 + np.exp(-numpy_network(params, x)[:, 0]))
    loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert float(problem.loss(params, problem.train)) == pytest.approx(loss, rel=1e-5)
    assert problem.accuracy is not None
    assert float(problem.accuracy(params, problem.train)) == pytest.approx(np.mean((p > 0.5) == y))


def test_line_loss_is_the_mean_squared_error():
    problem = line()
    (x, y), params = problem.train, {"a": np.float32(1.5), "b": np.float32(-0.5)}
    assert float(problem.loss(params, problem.train)) == pytest.approx(
        np.mean((1.5 * x[:, 0] - 0.5 - y) ** 2), rel=1e-5
    )


def test_weights_start_with_variance_two_over_inputs():
    first, second = digits().init(jax.random.key(0))
    assert float(first["weight"].var()) == pytest.approx(2 / 64, rel=0.1)
    assert float(second["weight"].var()) == pytest.approx(2 / 64, rel=0.2)
    assert not first["bias"].any() and not second["bias"].any()


def test_network_of_one_layer_is_affine():
    params = [{"weight": jnp.array([[2.0]]), "bias": jnp.array([1.0])}]
    np.testing.assert_allclose(network(params, np.array([[-3.0], [3.0]])), [[-5.0], [7.0]])


# ---------------------------------------------------------------- the novel
NOVEL = files("gradtx.lab").joinpath("pride_and_prejudice.txt")


def test_the_novel_is_in_the_wheel_and_small():
    """CI runs this on the installed wheel, which has every file of the package."""
    root = Path(__file__).parents[2]
    assert NOVEL.is_file() and len(NOVEL.read_bytes()) < 200_000
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert settings == {"targets": {"wheel": {"packages": ["gradtx"]}}}


def test_the_examples_are_the_novel_in_order_and_the_targets_are_the_next_characters():
    novel, problem = NOVEL.read_text(encoding="utf-8"), text()
    characters = np.array(sorted(set(novel)))
    for part, start in ((problem.train, 0), (problem.test, 64 * len(problem.train.inputs))):
        assert part.inputs.shape == part.targets.shape == (len(part.inputs), 64)
        assert "".join(characters[part.inputs.ravel()]) == novel[start : start + part.inputs.size]
        assert "".join(characters[part.targets.ravel()]) == novel[start + 1 : start + 1 + part.inputs.size]


def test_the_transformer_is_causal_and_starts_near_a_uniform_guess():
    problem = text()
    params = problem.init(jax.random.key(0))
    x = problem.train.inputs[:2]
    changed = np.concatenate([x[:, :40], 1 + x[:, 40:] % 70], axis=1)
    before, after = (np.asarray(transformer(params, rows)) for rows in (x, changed))
    np.testing.assert_allclose(before[:, :40], after[:, :40], atol=1e-4)
    assert abs(before[:, 40:] - after[:, 40:]).max() > 0.1
    assert np.log(74) < float(problem.loss(params, Batch(*(part[:8] for part in problem.train)))) < np.log(74) + 1
    assert all(w.ndim == 2 for w in jax.tree.leaves(params))


def numpy_transformer(params, x):
    def normed(z):
        return z / np.sqrt(np.mean(z * z, axis=-1, keepdims=True) + 1e-6)

    params = jax.tree.map(lambda w: np.asarray(w, float), params)
    h = params["embedding"][x] + params["position"][: len(x)]
    mask = np.where(np.tri(len(x)) > 0, 0.0, -np.inf)
    for layer in params["layers"]:
        z, parts = normed(h), []
        for head in range(4):
            q, k, v = (z @ layer[name][:, 32 * head : 32 * head + 32] for name in ("query", "key", "value"))
            weights = np.exp(q @ k.T / np.sqrt(32) + mask)
            parts.append(weights / weights.sum(axis=1, keepdims=True) @ v)
        h = h + np.concatenate(parts, axis=1) @ layer["out"]
        h = h + np.maximum(normed(h) @ layer["up"], 0) ** 2 @ layer["down"]
    return normed(h) @ params["head"]


def test_the_transformer_is_the_textbooks():
    problem = text()
    params, x, y = problem.init(jax.random.key(1)), problem.train.inputs[7], problem.train.targets[7]
    expected = numpy_transformer(params, x)
    np.testing.assert_allclose(transformer(params, x[None])[0], expected, atol=1e-3)
    log_sum = np.log(np.exp(expected).sum(axis=1))
    loss = float(problem.loss(params, Batch(x[None], y[None])))
    assert loss == pytest.approx(np.mean(log_sum - expected[np.arange(64), y]), rel=1e-4)
    assert problem.accuracy is not None
    accuracy = float(problem.accuracy(params, Batch(x[None], y[None])))
    assert accuracy == pytest.approx(np.mean(expected.argmax(axis=1) == y), abs=0.02)


def test_a_few_steps_lower_the_loss_of_the_novel():
    problem = text()
    assert problem.entries is not None and {"muon", "adam"} <= problem.entries.keys()
    tx = problem.entries["muon"].make(0.01)
    start = problem.init(jax.random.key(0))
    run = gx.fit(start, tx, problem.loss, problem.train, steps=12, batch_size=8, progress=False)
    losses = run.history["loss"]
    assert losses[-1] < losses[0] - 1 and np.isfinite(losses).all()
