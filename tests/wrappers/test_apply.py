"""`apply`, the update and its addition as one: equal to both, except where nothing is emitted."""

from collections import OrderedDict

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near, extra, params_of, stream

import gradtx as gx

params = params_of()
adamw = gx.adamw(gx.schedules.linear(0.1, 0.01, 4))


def is_huge(gradients, value, state):
    return ~(gx.global_norm(gradients) < 1e6)


spike = gx.norm_spike(1.1, warmup=1)
WRAPPED = {
    "spikes": gx.skip_if(adamw, spike),
    "spikes of parts": gx.skip_if(gx.accumulate(adamw, 2), spike),
    "parts without spikes": gx.accumulate(gx.skip_if(adamw, spike), 2),
    "a function that refuses": gx.skip_nonfinite(gx.skip_if(adamw, is_huge)),
    "a guard": gx.skip_nonfinite(adamw),
    "parts": gx.accumulate(adamw, 2),
    "one part": gx.accumulate(adamw, 1),
    "parts, guarded": gx.skip_nonfinite(gx.accumulate(adamw, 2)),
    "guarded parts": gx.accumulate(gx.skip_nonfinite(adamw), 2),
    "parts of parts": gx.accumulate(gx.accumulate(adamw, 2), 2),
    "last of a chain": gx.chain(gx.clip(10.0), gx.sgd(1.0), gx.scale(-1.0), gx.skip_nonfinite(adamw)),
    "first of a chain": gx.chain(gx.skip_nonfinite(gx.scale_by_ema(0.9)), adamw),
    "in a group": gx.partition({"w": gx.skip_nonfinite(adamw)}, default=gx.accumulate(adamw, 2)),
    "the loss": gx.skip_nonfinite(gx.accumulate(gx.chain(gx.reduce_on_plateau(patience=1), adamw), 2)),
    "a function": gx.skip_nonfinite(gx.sam(adamw)),
    "no memory": gx.accumulate(gx.skip_nonfinite(gx.scale(-0.1)), 2),
    "nothing in a chain": gx.chain(),
}


def separately(tx, g, state, params, **given):
    updates, state = tx.update(g, state, params, **given)
    return gx.apply_updates(params, updates), state


@pytest.mark.parametrize("name", WRAPPED)
def test_apply_adds_the_update(name):
    """For non-finite gradients too, the first and the last of a window among them."""
    tx, gradients = WRAPPED[name], list(stream(params, 8))
    if "skip_nonfinite" in repr(tx):
        for i, bad in ((1, jnp.nan), (4, jnp.inf), (5, jnp.nan)):
            gradients[i]["b"] = gradients[i]["b"].at[2].set(bad)
    as_one = jax.jit(tx.apply, static_argnames=tuple({"grad_fn"} & extra(tx).keys()))
    state, theta = tx.init(params), params
    for g in gradients:
        expected = separately(tx, g, state, theta, **extra(tx))
        theta, state = as_one(theta, state, g, **extra(tx))
        assert_near(*(jax.tree.map(lambda x: jnp.nan_to_num(x, nan=7.0), x) for x in ((theta, state), expected)))


APART = (
    "a guard",
    "parts",
    "parts, guarded",
    "last of a chain",
    "spikes",
    "spikes of parts",
    "a function that refuses",
)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("tx", [WRAPPED[name] for name in APART])
def test_parameters_are_unchanged_bit_for_bit_where_nothing_is_emitted(tx, eager):
    theta = {
        "zeros": jnp.array([-0.0, 0.0]),
        "odd": jnp.array([jnp.nan, jnp.inf, 1e-45]),
        "half": jnp.array([-0.0, 1.0], jnp.bfloat16),
        "complex": jnp.array([1 - 0.0j, -0.0]),
        "fixed": jnp.arange(3),
        "number": 0.5,
    }
    g = {name: jnp.full(jnp.shape(x), jnp.nan, jnp.result_type(x)) for name, x in theta.items()} | {"fixed": None}
    state = tx.init(theta)
    with jax.disable_jit(eager):
        got, after = tx.apply(theta, state, g)
    for name, x in theta.items():
        a, b = np.asarray(jnp.asarray(got[name])), np.asarray(jnp.asarray(x))
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), name
    assert after.step == 1
    updates, alike = tx.update(g, state, theta)
    chex.assert_trees_all_equal(after, alike)
    assert all(not np.any(u) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    "name", ["a guard", "parts, guarded", "guarded parts", "last of a chain", "a function", "spikes"]
)
def test_a_mesh_equals_one_device(name, axis_type):
    tx, w = WRAPPED[name], jnp.arange(64.0) / 64
    theta = {"w": w.reshape(16, 4), "b": 1 - w}
    gradients = [jax.tree.map(lambda x, i=i: x - i, theta) for i in range(4)]
    gradients[2]["b"] = gradients[2]["b"].at[40].set(jnp.nan)

    def walked(put):
        p, g = put(theta), [put(g) for g in gradients]
        state = tx.init(p)
        for one in g:
            p, state = jax.jit(lambda p, s, g: tx.apply(p, s, g, **extra(tx)))(p, state, one)
        return p

    expected = walked(lambda tree: tree)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        spec = NamedSharding(mesh, PartitionSpec("x"))
        got = walked(lambda tree: jax.device_put(tree, spec))
    assert all(x.sharding.is_equivalent_to(spec, x.ndim) for x in jax.tree.leaves(got))
    assert_near(got, expected, 1e-6)


def test_one_leaf_without_a_gradient_does_not_change():
    """The tree is None there, which differs from emitting nothing."""
    for tx in (gx.adam(0.1), gx.skip_nonfinite(gx.adam(0.1)), gx.accumulate(gx.adam(0.1), 1)):
        w, state = tx.apply(jnp.ones(2), tx.init(jnp.ones(2)), None)
        assert w.tolist() == [1, 1] and state.step == 1


def test_hypergradients_pass_through_branches():
    """Equal to those without a branch: two equal parts are the whole batch."""

    def loss_after(rate, wrap, steps):
        tx = wrap(gx.adam(rate))

        def step(carry, _):
            w, state = carry
            return tx.apply(w, state, 2 * w), None

        w = jnp.array([1.0, -2.0])
        (w, _), _ = jax.lax.scan(step, (w, tx.init(w)), length=steps)
        return jnp.sum(w**2)

    plain = jax.value_and_grad(loss_after)(0.1, lambda tx: tx, 3)
    for wrap in (gx.skip_nonfinite, lambda tx: gx.skip_nonfinite(gx.accumulate(tx, 2))):
        steps = 3 if wrap is gx.skip_nonfinite else 6
        assert_near(jax.value_and_grad(loss_after)(0.1, wrap, steps), plain, 1e-6)


class forgets(gx.Transformation):
    def update_tree(self, updates, slots, context):
        return None, slots


class grows(gx.Transformation):
    def update_tree(self, updates, slots, context):
        return jax.tree.map(lambda g: jnp.append(g, g), updates), slots


class renames(gx.Transformation):
    def update_tree(self, updates, slots, context):
        return {"v": updates["w"]}, slots


class rewraps(gx.Transformation):
    def update_tree(self, updates, slots, context):
        return OrderedDict(updates), slots


class remembers(gx.Transformation):
    def update_tree(self, updates, slots, context):
        return updates, {"mean": updates}


@pytest.mark.parametrize("as_one", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: tx,
        gx.skip_nonfinite,
        lambda tx: gx.accumulate(tx, 2),
        lambda tx: gx.chain(gx.scale(2.0), tx),
        lambda tx: gx.chain(tx, gx.scale(2.0)),
        lambda tx: gx.add(gx.identity(), tx),
        lambda tx: gx.skip_nonfinite(gx.chain(tx, gx.accumulate(gx.scale(2.0), 2))),
        lambda tx: gx.monitor("size", gx.global_norm, tx),
    ],
)
@pytest.mark.parametrize(
    "tx, error, message",
    [
        (forgets(), ValueError, r"^forgets: updates\['w'\] is missing: expected 'w', got ''"),
        (grows(), ValueError, r"^grows: updates\['w'\] must have shape \(2,\), got \(4,\)"),
        (renames(), ValueError, r"^renames: updates\['w'\] is missing: expected 'w', got 'v'"),
        (rewraps(), ValueError, r"^rewraps: updates: the containers of the trees .* differ"),
        (remembers(), ValueError, r"^remembers: slots\['mean/w'\] is unexpected: expected no leaves, got 'mean/w'"),
    ],
)
def test_an_error_about_a_pieces_result_names_the_piece(tx, error, message, wrap, as_one):
    tx, params = wrap(tx), {"w": jnp.ones(2)}
    with pytest.raises(error, match=message):
        (tx.apply if as_one else tx.update)(params, tx.init(params), params)
