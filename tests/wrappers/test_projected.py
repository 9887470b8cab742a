"""Optimizers whose parameters stay in a set."""
# pyright: reportArgumentType=false

import jax.numpy as jnp
import numpy as np
import pytest
from streams import assert_near, follow, params_of, stream

import gradtx as gx


def descend(tx, gradient, params, steps):
    state = tx.init(params)
    for _ in range(steps):
        u, state = tx.update(gradient(params), state, params)
        params = gx.apply_updates(params, u)
    return params


@pytest.mark.parametrize(
    "projection, nearest",
    [
        (gx.lower_bound(0.0), [2.0, 0.0, 0.25]),
        (gx.projections.box(-0.5, 1.0), [1.0, -0.5, 0.25]),
        (gx.projections.simplex(1.0), [1.0, 0.0, 0.0]),
        (gx.projections.l1_ball(2.0), [1.5, -0.5, 0.0]),
        (gx.clip_by_norm(1.0), np.array([2.0, -1.0, 0.25]) / np.sqrt(5.0625)),
    ],
    ids=repr,
)
def test_projected_descent_finds_the_nearest_point(projection, nearest):
    target = jnp.array([2.0, -1.0, 0.25])
    for inner in (gx.sgd(0.5), gx.sgd(0.1, momentum=0.5)):
        found = descend(gx.projected(inner, projection), lambda w: w - target, jnp.array([-3.0, 5.0, 1.0]), 100)
        assert np.allclose(found, nearest, atol=1e-5)


@pytest.mark.parametrize(
    "projection",
    [
        gx.lower_bound(0.0),
        gx.projections.box(-0.25, 0.5),
        gx.projections.simplex(),
        gx.projections.l1_ball(),
        gx.clip_by_norm(1.0),
    ],
)
@pytest.mark.parametrize("dtype, bound", [("float32", 2e-7), ("bfloat16", 8e-3)])
def test_after_each_update_every_leaf_is_in_the_set_up_to_rounding(projection, dtype, bound):
    tx, params = gx.projected(gx.adam(0.3), projection), params_of(dtype)
    state = tx.init(params)
    for g in stream(params, 5):
        u, state = tx.update(g, state, params)
        params = gx.apply_updates(params, u)
        for leaf in params.values():
            away = projection.update(leaf, projection.init(leaf))[0] - leaf
            assert float(jnp.max(jnp.abs(away))) <= 4 * bound


def test_each_keeps_its_slots_and_groups_see_their_own_parameters():
    params = params_of()
    tx = gx.partition({"w": gx.projected(gx.adam(0.1), gx.clip_by_norm(0.5))}, default=gx.sgd(0.1))
    alone = {"w": params["w"]}
    got, _ = follow(tx, params, stream(params))
    expected, _ = follow(
        gx.projected(gx.adam(0.1), gx.clip_by_norm(0.5)), alone, ({"w": g["w"]} for g in stream(params))
    )
    assert_near([{"w": u["w"]} for u in got], expected)
    assert list(gx.projected(gx.adam(), gx.scale_by_ema(0.5)).init(params).slots["projected"]) == [
        "inner",
        "onto",
    ]
    assert gx.projected(gx.sgd(0.1), gx.projections.simplex()).init(params).slots == {}


def test_bad_input():
    with pytest.raises(TypeError, match="projected: onto must be a transformation"):
        gx.projected(gx.sgd(), jnp.abs)
    tx = gx.projected(gx.sgd(), gx.projections.simplex())
    with pytest.raises(ValueError, match="projected needs the parameters"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
