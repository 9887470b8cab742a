"""gradtx inside Optax, and Optax inside gradtx."""

import jax
import jax.numpy as jnp
import optax
import pytest
from streams import assert_near, follow, params_of, stream

import gradtx as gx

TXS = [gx.adamw(where="**/w"), gx.chain(gx.clip_by_global_norm(1.0), gx.nadam()), gx.sgd()]
each_tx = pytest.mark.parametrize("tx", TXS, ids=["adamw", "clipped nadam", "sgd"])


def tree():
    return {"layer": params_of()}


@each_tx
@pytest.mark.parametrize("wrap", [lambda tx: tx, gx.as_optax], ids=["as it is", "as_optax"])
@pytest.mark.promotes("Optax's arithmetic")
def test_in_optax_chain_and_multi_steps(tx, wrap):
    params = tree()
    gradients = list(stream(params))
    expected, _ = follow(tx, params, gradients)
    got, _ = follow(optax.chain(optax.identity(), wrap(tx)), params, gradients)
    assert_near(got, expected)
    twice = [g for g in gradients for _ in range(2)]
    got, _ = follow(optax.MultiSteps(wrap(tx), 2), params, twice)
    assert_near(got[1::2], expected)
    assert not any(x.any() for x in jax.tree.leaves(got[::2]))


@each_tx
def test_in_optax_partition(tx):
    params = {"on": tree(), "off": jnp.ones(4)}
    gradients = list(stream(params, 3))
    split = optax.partition({"on": tx, "off": optax.set_to_zero()}, {"on": "on", "off": "off"})
    got, _ = follow(split, params, gradients)
    expected, _ = follow(tx, {"on": params["on"]}, [{"on": g["on"]} for g in gradients])
    assert_near([u["on"] for u in got], [u["on"] for u in expected])
    assert not any(u["off"].any() for u in got)


class scale_by_value(gx.PerLeaf):
    """Multiplies by the extra argument `value`."""

    needs = ("value",)

    def update_leaf(self, g, slots, context):
        return g * context.extra["value"], slots


def test_extra_arguments_both_ways():
    params = jnp.ones(3)
    tx = gx.chain(scale_by_value(), gx.scale(2.0))
    inside = optax.chain(optax.identity(), gx.as_optax(tx))
    u, _ = inside.update(params, inside.init(params), params, value=3.0, unknown=1)
    assert jnp.all(u == 6)
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    outside = gx.chain(optax.GradientTransformationExtraArgs(lambda params: (), update), scale_by_value())
    u, _ = outside.update(params, outside.init(params), params, value=3.0, other=1.0)
    assert (u == 3).all() and set(seen) == {"value", "other"}


@pytest.mark.promotes("Optax's arithmetic")
def test_optax_inside_is_optax():
    params = params_of()
    gradients = list(stream(params))
    adam = optax.adam(1e-2)
    tx = gx.chain(optax.clip(0.5), gx.scale(2.0), (adam.init, adam.update))
    alone = optax.chain(optax.clip(0.5), optax.scale(2.0), adam)
    got, state = follow(tx, params, gradients)
    expected, _ = follow(alone, params, gradients)
    assert_near(got, expected)
    jitted, _ = follow(tx, params, gradients, jax.jit(tx.update))
    assert_near(jitted, got)
    assert set(state.slots) == {"pair", "pair_2"}


def test_optax_wrappers_of_gradtx_inside_gradtx():
    params = params_of()
    gradients = list(stream(params))
    tx = gx.chain(gx.clip(0.5), optax.apply_if_finite(gx.as_optax(gx.adam()), 2))
    expected, _ = follow(gx.chain(gx.clip(0.5), gx.adam()), params, gradients)
    assert_near(follow(tx, params, gradients)[0], expected)
