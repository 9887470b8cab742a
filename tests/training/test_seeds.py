import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx
from gradtx import plots
from gradtx.training import Fit, Fits

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5], np.float32) + np.random.default_rng(1).normal(size=40).astype(np.float32)


def loss(w, batch):
    x, y = batch
    return jnp.mean((x @ w["w"] + w["b"] - y) ** 2)


def init(key):
    return {"w": jax.random.normal(key, (3,)), "b": jnp.zeros(())}


def noisy(w, batch, key):
    return loss(w, batch) + 0.1 * jax.random.normal(key) * w["b"]


def counting(w, batch, count):
    return loss(w, batch) / (1 + count), (count + 1, {"twice": 2 * count})


def random_batch(key):
    x = jax.random.normal(key, (8, 3))
    return x, x.sum(axis=1)


BATCHES = [(X[i : i + 5], Y[i : i + 5]) for i in range(0, 40, 5)]
CASES = {
    "rows": (gx.adam(0.05), loss, (X, Y), {"batch_size": 7}),
    "all rows": (gx.sgd(0.05), loss, (X, Y), {}),
    "a function": (gx.muon(0.02, default=gx.adam(0.1)), loss, random_batch, {}),
    "batches": (gx.nesterov(0.05), loss, BATCHES, {}),
    "a key": (gx.noisy_sgd(0.01, 0.1), noisy, (X, Y), {"batch_size": 10, "has_key": True}),
    "a model state": (gx.adamw(0.1), counting, (X, Y), {"model_state": jnp.zeros(()), "has_aux": True}),
    "a schedule, in micro-batches": (
        gx.lion(gx.schedules.cosine(0.1, steps=30)),
        loss,
        (X, Y),
        {"batch_size": 8, "micro_batches": 2, "skip_nonfinite": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_seed_is_a_single_fit_with_that_seed(case):
    tx, of, data, options = CASES[case]
    seeds = [3, 0, 2**32 - 1]
    several = gx.fit_seeds(init, tx, of, data, 31, seeds=seeds, progress=False, **options)
    assert isinstance(several, Fit) and several.stopped == "steps"
    for i, seed in enumerate(seeds):
        one = gx.fit(init(jax.random.key(seed)), tx, of, data, 31, seed=seed, progress=False, **options)
        for mine, expected in zip(jax.tree.leaves(several._replace(history=None)), jax.tree.leaves(one[:2] + one[3:])):
            if not isinstance(mine, str):
                np.testing.assert_allclose(mine[i], expected, rtol=1e-4, atol=1e-5)
        assert several.history.keys() == one.history.keys()
        np.testing.assert_array_equal(several.history["step"], one.history["step"])
        for name in one.history.keys() - {"step"}:
            np.testing.assert_allclose(several.history[name][i], one.history[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_it_compiles_once_and_the_seeds_are_counted_from_0():
    traces = []

    def counted(w, batch):
        traces.append(1)
        return loss(w, batch)

    def run(rate, steps):
        return gx.fit_seeds(init, gx.sgd(rate), counted, (X, Y), steps, seeds=3, batch_size=8, progress=False)

    first = run(0.1, 70)
    once = len(traces)
    run(0.01, 9)
    assert len(traces) == once
    again = gx.fit_seeds(init, gx.sgd(0.1), counted, (X, Y), 70, seeds=[0, 1, 2], batch_size=8, progress=False)
    np.testing.assert_array_equal(first.history["loss"], again.history["loss"])
    assert len({tuple(row) for row in first.history["loss"]}) == 3


def test_parameters_of_one_start_are_not_changed():
    start = init(jax.random.key(0))
    run = gx.fit_seeds(start, gx.sgd(0.1), loss, (X, Y), 5, seeds=2, batch_size=8, progress=False)
    assert run.params["w"].shape == (2, 3) and np.isfinite(start["w"]).all()
    assert run.history["loss"][0, 0] != run.history["loss"][1, 0]  # of other rows


def test_curves_draw_a_fit_and_fits():
    several = gx.fit_seeds(init, gx.adam(0.1), loss, (X, Y), 20, seeds=5, batch_size=8, progress=False)
    one = gx.fit(init(jax.random.key(0)), gx.sgd(0.1), loss, (X, Y), 12, progress=False)
    axes = plots.curves({"adam": several, "sgd": one})
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    np.testing.assert_allclose(drawn["adam"], np.median(several.history["loss"], axis=0))
    np.testing.assert_allclose(drawn["sgd"], one.history["loss"])
    assert len(axes.collections) == 1 and axes.get_xlabel() == "step  (median of 5 seeds; band: quartiles)"
    (panel,) = plots.panels({"both": {"adam": several, "sgd": one}}, points=5)
    assert len(panel.collections) == 1


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_end_of_the_data_and_the_printed_form(seeds, capsys):
    run = gx.fit_seeds(init, gx.sgd(0.1), loss, iter(BATCHES), 20, seeds=seeds, progress=True)
    assert run.stopped == "data" and run.history["loss"].shape == (seeds, 8)
    assert repr(run).startswith("Fits(step=8, loss=") and f"medians of {seeds} seeds, stopped='data')" in repr(run)
    assert "loss" in capsys.readouterr().err


def test_the_frame_has_a_row_for_each_run_and_step(monkeypatch):
    run = gx.fit_seeds(init, gx.sgd(0.1), loss, (X, Y), 6, seeds=[4, 9], batch_size=8, progress=False)
    table = types.SimpleNamespace(DataFrame=lambda columns: types.SimpleNamespace(set_index=lambda name: columns))
    monkeypatch.setitem(sys.modules, "pandas", table)
    columns = run.frame()
    np.testing.assert_array_equal(columns["run"], [0] * 6 + [1] * 6)
    np.testing.assert_array_equal(columns["step"], [*range(1, 7)] * 2)
    np.testing.assert_array_equal(columns["loss"], run.history["loss"].ravel())


@pytest.mark.parametrize(
    "given, message",
    [
        ({"seeds": 0}, "seeds must be a number of seeds, 1 or more, or a sequence of them, got 0"),
        ({"seeds": -1}, "seeds must be a number of seeds"),
        ({"seeds": []}, "seeds must be a number of seeds"),
        ({"seeds": "five"}, "seeds must be"),
        ({"seeds": [1, -1]}, "seed must be an integer from 0 to 4294967295, got -1"),
        ({"seeds": [0.5]}, "seed must be an integer"),
        ({"seed": 3}, "fit_seeds has no argument 'seed': did you mean 'seeds'"),
        ({"evaluate": loss}, "fit_seeds has no argument 'evaluate'"),
        ({"batch_size": 41}, "batch_size must be 'all' or from 1 to 40"),
    ],
)
def test_errors(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        gx.fit_seeds(init, gx.sgd(0.1), loss, (X, Y), 3, progress=False, **given)


def test_fits_is_exported():
    assert gx.training.Fits is Fits and "fit_seeds" in gx.__all__
