import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import gradtx as gx
from gradtx.plots import ratios, state

PARAMS = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(30, 4)), jnp.float32), "b": jnp.arange(4.0)}


def state_of(tx, params=PARAMS):
    return tx.update(params, tx.init(params), params)[1]


def bars(axes):
    """The counts and the edges of each outline, by its label."""
    return {p.get_label(): p.get_data() for p in axes.patches if p.get_label()}


def test_a_slot_is_a_panel_and_its_bars_count_its_entries():
    kept = state_of(gx.adam())
    by, direction = state(kept, PARAMS)
    mean = kept.slots["precondition"]["direction"]["scale_by_ema"]["mean"]
    for leaf in ("w", "b"):
        counts, edges, _ = bars(direction)[leaf]
        np.testing.assert_array_equal(counts, np.histogram(np.asarray(mean[leaf]), edges)[0])
        assert counts.sum() == mean[leaf].size
    assert bars(by)["w"][0].sum() == 120 and bars(by)["b"][0].sum() == 3  # one entry is 0
    assert (by.get_xscale(), direction.get_xscale()) == ("log", "linear")
    assert (by.get_xlabel(), direction.get_xlabel(), by.get_ylabel()) == ("value (1% are 0)", "value", "entries")
    titles = [axes.get_title(loc="left") for axes in (by, direction)]
    assert titles == ["by/scale_by_ema/mean", "direction/scale_by_ema/mean"]


def test_without_parameters_a_leaf_is_a_panel_and_one_array_needs_none():
    titles = [axes.get_title(loc="left") for axes in state(state_of(gx.heavy_ball()))]
    assert titles == ["velocity/b", "velocity/w"]
    (axes,) = state(state_of(gx.heavy_ball(), PARAMS["w"]))
    assert bars(axes)["parameters"][0].sum() == 120


def test_entries_that_cannot_be_drawn_are_counted_and_numbers_are_left_out():
    kept = gx.State(jnp.zeros((), int), {"a": {"mean": jnp.array([1.0, jnp.nan, jnp.inf, 0.0]), "count": jnp.ones(())}})
    (axes,) = state(kept)
    assert axes.get_xlabel() == "value (50% are 0, 2 not finite)" and bars(axes)["parameters"][0].sum() == 1
    (axes,) = state(gx.State(jnp.zeros((), int), {"a": {"mean": jnp.zeros(5)}}))
    assert bars(axes)["parameters"][0].sum() == 5  # all are alike


@pytest.mark.parametrize("entries, bins", [(4, 10), (400, 40), (2500, 60)])
def test_the_number_of_bars_grows_with_the_entries(entries, bins):
    params = jnp.linspace(-1.0, 1.0, entries)
    (axes,) = state(state_of(gx.heavy_ball(), params), params, Figure().subplots())
    assert len(bars(axes)["parameters"][0]) == bins


def test_many_leaves_are_drawn_together():
    params = {str(i): jnp.full(3, 1.0 + i) for i in range(7)}
    (axes,) = state(state_of(gx.heavy_ball(), params), params, Figure().subplots(), bins=5)
    assert list(bars(axes)) == ["all 7 parameters"] and bars(axes)["all 7 parameters"][0].sum() == 21


def test_ratios_are_drawn_over_steps_with_the_rule_of_thumb():
    history = {"weights": np.array([1e-2, 0.0, 1e-5]), "biases": jnp.full(3, 0.1)}
    axes = ratios(history, Figure().subplots())
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(np.asarray(lines["weights"].get_ydata()), [1e-2, np.nan, 1e-5])
    np.testing.assert_allclose(np.asarray(lines["biases"].get_xdata()), [1, 2, 3])
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] < 1e-5 and axes.get_xlabel() == "step"
    assert {text.get_text() for text in axes.texts} == {"weights", "biases", "rule of thumb: 0.001"}
    alone = ratios(np.full(4, 0.5), healthy=None)
    assert not alone.texts and len(alone.lines) == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: state(gx.sgd().init(PARAMS)), "keeps no arrays"),
        (
            lambda: state(state_of(gx.adam()), PARAMS, Figure().subplots()),
            "state: axes must be 2 matplotlib Axes, got 1",
        ),
        (lambda: ratios({}), "ratios needs one array or more, got none"),
        (lambda: ratios({"w": np.ones((2, 2))}), r"ratios: 'w' must be an array of shape \(steps,\), got \(2, 2\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
