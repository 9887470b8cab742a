"""`rowwise` and `leafwise` against a loop of separate optimizers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from streams import assert_near, extra, follow, params_of, stream

import gradtx as gx
from gradtx.core import leaves_by_path

SHAPES = {"w": (3, 4), "v": (3, 4), "stack": (4, 3, 5)}
INNER = {
    "adam": gx.adam(0.1),
    "adamw": gx.adamw(0.1),
    "scheduled": gx.adam(lambda step: 0.1 / (1 + step), b1=lambda step: 0.5),
    "a norm": gx.chain(gx.clip_by_global_norm(0.5), gx.heavy_ball(0.1)),
    "lamb": gx.lamb(0.1),
    "dog": gx.dog(),
    "adafactor": gx.adafactor(0.1),
    "sm3": gx.sm3(0.1),
    "a mean of rows": gx.reduced(gx.momentum(0.8), "rows"),
    "accumulate": gx.accumulate(gx.adam(0.1), 2),
    "skip_nonfinite": gx.skip_nonfinite(gx.adam(0.1)),
    "lookahead": gx.lookahead(gx.adam(0.1), every_k=2),
    "polyak_sgd": gx.polyak_sgd(),
    "optax": gx.pair(*optax.adam(0.1)),
}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", INNER)
@pytest.mark.promotes("Optax's arithmetic")
def test_rows_are_parameters_of_separate_optimizers(name, axis):
    inner, random = INNER[name], np.random.default_rng(0)
    params = {name: jnp.asarray(random.standard_normal(shape), "float32") for name, shape in SHAPES.items()}
    gradients = list(stream(params))
    got, state = follow(gx.rowwise(inner, axis), params, gradients)
    for leaf, p in params.items():
        for i in range(p.shape[axis]):
            row = [jnp.take(g[leaf], i, axis) for g in gradients]
            expected, alone = follow(inner, jnp.take(p, i, axis), row)
            assert_near([jnp.take(u[leaf], i, axis) for u in got], expected)
            slots = state.slots["rowwise"][leaf] if alone.slots else {}
            assert_near(jax.tree.map(lambda x, i=i: jnp.take(x, i, min(axis, x.ndim - 1)), slots), alone.slots)


@pytest.mark.parametrize("axis", [0, 1])
def test_slots_have_the_shape_of_their_leaf_and_ages_are_of_rows(axis):
    state = gx.rowwise(gx.adam(), axis).init({"w": jnp.zeros((3, 4, 5))})
    for path, x in leaves_by_path(state.slots).items():
        assert x.shape == ((3, 4, 5) if path.endswith("mean") else ((3, 4)[axis],)), path


def test_complex_rows_and_leaves_without_rows_or_without_a_gradient():
    params = {"c": jnp.full((2, 3), 1 + 2j), "e": jnp.zeros((0, 3)), "late": jnp.ones((2, 3)), "n": jnp.arange(2)}
    tx = gx.rowwise(gx.adam(0.1))
    g = {"c": params["c"], "e": params["e"], "late": None, "n": None}
    u, state = tx.update(g, tx.init(params), params)
    assert_near([u["c"].real, u["c"].imag], [jnp.full((2, 3), -0.1)] * 2)
    assert u["late"] is None and u["n"] is None and u["e"].shape == (0, 3)
    chex.assert_trees_all_equal(state.slots["rowwise"]["late"], tx.init(params).slots["rowwise"]["late"])


@pytest.mark.parametrize("by", [gx.leafwise, gx.rowwise])
def test_a_leaf_whose_first_gradient_comes_late_begins_as_a_new_one(by):
    params = {"w": jnp.ones((2, 3)), "late": jnp.ones((2, 3))}
    gradients = [{**g, "late": None} if i < 3 else g for i, g in enumerate(stream(params))]
    tx = by(gx.adam(0.1))
    got, _ = follow(tx, params, gradients)
    alone, _ = follow(tx, {"late": params["late"]}, [{"late": g["late"]} for g in gradients[3:]])
    assert_near([u["late"] for u in got[3:]], [u["late"] for u in alone])


def test_rows_that_are_reset_begin_as_new_ones():
    table = jnp.ones((4, 3))
    gradients = list(stream(table, 6))
    tx = gx.rowwise(gx.adam(0.1))
    _, state = follow(tx, table, gradients[:3])
    fresh, reset = tx.init(table), jnp.array([1, 3])
    state = gx.map_params(lambda slot, p, axes: slot.at[reset].set(0) if axes[0] == 0 else slot, tx, state, table)
    straight, _ = follow(tx, table, gradients)
    for i in range(3, 6):
        u, state = tx.update(gradients[i], state, table)
        v, fresh = tx.update(gradients[i], fresh, table)
        assert_near(u[reset], v[reset])
        assert_near(u[::2], straight[i][::2])


@pytest.mark.parametrize("by", [gx.leafwise, gx.rowwise])
def test_random_numbers_differ_in_every_leaf_and_row(by):
    zeros = {"w": jnp.zeros((2, 3)), "v": jnp.zeros((2, 3))}
    tx = by(gx.add_noise())
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        u, _ = tx.update(zeros, tx.init(zeros), key=key)
        assert len(np.unique(np.concatenate([u["w"], u["v"]]))) == 12


def test_rows_in_a_scan():
    params = {"w": params_of()["w"]}
    gradients = list(stream(params))
    tx = gx.rowwise(gx.adam(0.1))
    expected, _ = follow(tx, params, gradients)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)

    def step(state, g):
        u, state = tx.update(g, state, params)
        return state, u

    _, got = jax.lax.scan(step, jax.jit(tx.init)(params), stacked)
    assert_near(got, jax.tree.map(lambda *x: jnp.stack(x), *expected))


def test_what_rowwise_refuses():
    for leaf, axis in ((jnp.ones(()), 0), (2.0, 0), (jnp.ones(3), 1)):
        with pytest.raises(ValueError, match=rf"^rowwise: the leaf 'b' of shape \S+ has no axis {axis} and so no rows"):
            gx.rowwise(gx.adam(), axis).init({"w": jnp.ones((2, 2)), "b": leaf})
    with pytest.raises(ValueError, match=r"^rowwise: sam needs 'grad_fn', a function of all parameters, but here it"):
        gx.rowwise(gx.sam(gx.sgd(0.1)))
    with pytest.raises(ValueError, match=r"^rowwise: axis must be an integer, 0 or more, got -1"):
        gx.rowwise(gx.adam(), axis=-1)
    tx, params = gx.rowwise(gx.add_noise()), jnp.ones((2, 2))
    with pytest.raises(TypeError, match=r"^add_noise: key must be one random key"):
        tx.update(params, tx.init(params), key=1)
    assert extra(tx).keys() == {"key"}


@pytest.mark.parametrize("separate", [gx.leafwise, gx.rowwise])
def test_a_complex_vector_is_no_matrix(separate):
    shape = (2,) if separate is gx.leafwise else (3, 2)
    params = {"z": jnp.full(shape, 1 + 2j), "r": jnp.ones(shape)}
    tx = separate(gx.masked(gx.scale_by_ema(0.5), gx.is_matrix, otherwise="identity"))
    updates, _ = tx.update(params, tx.init(params), params)
    chex.assert_trees_all_equal(updates, params)
