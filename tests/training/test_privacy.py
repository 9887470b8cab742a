"""Private gradients against Optax's aggregate and a loop in NumPy, and the size of the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from streams import assert_near

import gradtx as gx

rng = np.random.default_rng(0)
PARAMS = {"w": jnp.asarray(rng.standard_normal((3, 2))), "b": jnp.asarray(rng.standard_normal(2))}
BATCH = jnp.asarray(rng.standard_normal((16, 3))), jnp.asarray(rng.standard_normal((16, 2)))
key = jax.random.key(0)


def loss(params, example):
    x, y = example
    return jnp.sum((x @ params["w"] + params["b"] - y) ** 2)


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 100.0])
@pytest.mark.promotes("Optax's arithmetic")
def test_without_noise_it_is_the_mean_of_clipped_gradients(x64, max_norm):
    params, (x, y) = jax.tree.map(np.asarray, (PARAMS, BATCH))
    total, values = {"w": 0.0, "b": 0.0}, []
    for i in range(16):
        away = x[i] @ params["w"] + params["b"] - y[i]
        g = {"w": np.outer(x[i], 2 * away), "b": 2 * away}
        length = np.sqrt(sum(np.sum(leaf**2) for leaf in g.values()))
        total = {name: total[name] + leaf * min(1, max_norm / length) for name, leaf in g.items()}
        values.append(away @ away)
    value, got = jax.jit(lambda p, b: gx.private_gradient(loss, p, b, key, max_norm, 0.0))(PARAMS, BATCH)
    assert_near((value, got), (np.mean(values), {name: leaf / 16 for name, leaf in total.items()}), 1e-6)
    theirs = optax.contrib.differentially_private_aggregate(max_norm, 0.0, key)
    each = jax.vmap(jax.grad(loss), (None, 0))(PARAMS, BATCH)
    assert_near(got, theirs.update(each, theirs.init(PARAMS))[0], 1e-6)


def test_the_noise_has_its_deviation_and_differs_between_leaves_and_keys():
    params = {"a": jnp.zeros(4000), "b": jnp.zeros(4000)}
    draw = lambda key: gx.private_gradient(lambda p, x: x, params, jnp.ones(8), key, 2.0, 3.0)[1]  # noqa: E731
    noise, other = draw(key), draw(jax.random.key(1))
    for x in (*noise.values(), *other.values()):
        assert abs(x.std() / (2 * 3 / 8) - 1) < 0.05 and abs(x.mean()) < 0.05
    for x in (noise["b"], other["a"]):
        assert abs(jnp.corrcoef(noise["a"], x)[0, 1]) < 0.06


BAD = {
    "max_norm must be a finite number above 0, got 0.0": (ValueError, {"max_norm": 0.0}),
    "noise_multiplier must be 0 or more, got -1.0": (ValueError, {"noise_multiplier": -1.0}),
    "max_norm must be a number, got '1'": (TypeError, {"max_norm": "1"}),
    "key must be one random key": (TypeError, {"key": jax.random.split(key)}),
    "batch must be arrays of one first axis": (ValueError, {"batch": (BATCH[0], BATCH[1][:3])}),
    "batch must be arrays .* with 1 example or more, got \\[\\]": (ValueError, {"batch": []}),
    "batch must be arrays .* got 'text'": (ValueError, {"batch": "text"}),
    "loss must be a function of \\(params, example\\), got": (TypeError, {"loss": lambda params: 1.0}),
    "params\\['w'\\] must be float32 or float64": (TypeError, {"params": {"w": jnp.bfloat16(1)}}),
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_argument(text):
    kind, wrong = BAD[text]
    with pytest.raises(kind, match=f"^private_gradient: {text}"):
        gx.private_gradient(**{"loss": loss, "params": PARAMS, "batch": BATCH, "key": key} | wrong)
    with pytest.raises(ValueError, match=r"the loss must return one floating number"):
        gx.private_gradient(lambda p, x: p["b"], PARAMS, BATCH, key)
