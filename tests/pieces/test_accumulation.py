"""Accumulators of little memory, and pieces that use a leaf's root mean square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import assert_near, follow, params_of, stream

import gradtx as gx
from gradtx.pieces.norms import root_mean_square


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (5,), ()])
def test_covered_sums_are_between_the_sums_and_the_largest(shape):
    params = jnp.zeros(shape)
    squares = [jnp.square(g) for g in stream(params, 8)]
    covered, _ = follow(gx.sm3_sum(), params, squares)
    sums, _ = follow(gx.running_sum(), params, squares)
    most = 0.0
    for c, s, g in zip(covered, sums, squares):
        most = most + jnp.max(g)
        assert bool((c >= s).all()) and bool((c <= most + 1e-5).all())
    assert bool((covered[-1] > sums[-1]).any()) == (len(shape) > 1)


def test_a_covered_sum_is_the_sum_where_the_row_or_the_column_is_quiet():
    g = jnp.zeros((3, 4)).at[0, 1].set(4.0).at[0, 2].set(1.0)
    u, _ = follow(gx.sm3_sum(), g, [g, g, 0 * g])
    assert_near(u[-1], 2 * g)


def test_a_running_mean_weighs_by_its_power():
    series = np.array([5.0, 1.0, 4.0, 2.0])
    for power, weights in ((1.0, [1, 1, 1, 1]), (0.0, [0, 0, 0, 1])):
        got, _ = follow(gx.running_mean(power), jnp.zeros(()), map(jnp.asarray, series))
        assert abs(float(got[-1]) - np.average(series, weights=weights)) < 1e-6


def test_a_running_mean_counts_a_late_update_in_full_digits():
    """In float32 1 − (1 − t⁻ᵖ) has lost its digits at t = 10⁷."""
    tx, late = gx.running_mean(1.0), jnp.array(10**7 - 1, jnp.int32)
    state = tx.init(jnp.zeros(()))
    mean, _ = tx.update(
        jnp.array(1.0), state._replace(slots={"running_mean": state.slots["running_mean"] | {"age": late}})
    )
    assert abs(float(mean) * 1e7 - 1) < 1e-6


@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e-10, 1.0, 1e10, 1e30, 1e37])
def test_a_root_mean_square_of_any_scale(size):
    g = {"a": jnp.full(3, 3 * size), "b": jnp.array([4 * size, 0.0])}
    assert abs(float(root_mean_square(g["a"])) / (3 * size) - 1) < 1e-6
    assert abs(float(root_mean_square(g["b"])) / (8**0.5 * size) - 1) < 1e-6
    clip, scale = gx.clip_by_rms(size), gx.scale_by_param_rms(0.0)
    for leaf in jax.tree.leaves(clip.update(g, clip.init(g))[0]):
        assert abs(float(root_mean_square(leaf)) / size - 1) < 1e-6
    ones = jax.tree.map(jnp.ones_like, g)
    scaled = scale.update(ones, scale.init(g), g)[0]
    assert_near(scaled, {"a": g["a"], "b": jnp.full(2, 8**0.5 * size)}, 1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_nan_under_clip_by_rms_spreads_to_its_leaf_alone(bad):
    tx = gx.clip_by_rms(1.0)
    u, _ = tx.update({"a": jnp.array([bad, 1.0]), "b": jnp.ones(2)}, tx.init({"a": jnp.ones(2), "b": jnp.ones(2)}))
    assert bool(jnp.isnan(u["a"]).all()) and bool((u["b"] == 1).all())


def test_adafactor_at_extreme_gradients():
    """Gradients of 1e-12 and 1e15 have squares that float32 holds; the updates do not depend on their scale."""
    params = params_of()
    for g in stream(params, 1):
        expected, _ = follow(gx.adafactor(), params, [g])
        for size in (1e-12, 1e15):
            u, _ = follow(gx.adafactor(), params, [jax.tree.map(lambda x, size=size: size * x, g)])
            assert_near(u, expected, 1e-5)
