"""The guard: a non-finite step changes only the counts, and later steps are unaffected."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near, extra, follow, params_of, stream

import gradtx as gx
from gradtx.pieces.measures import all_finite

params = params_of()
falling = gx.schedules.linear(0.1, 0.01, 4)
INNER = {
    "adam": gx.adam(0.1),  # corrects for its bias
    "schedules": gx.adam(falling, b1=gx.schedules.linear(0.5, 0.9, 4)),
    "in a group": gx.partition({"w": gx.adamw(falling)}, default=gx.momentum(0.9)),
    "every": gx.every(gx.adam(falling), 2),
    "accumulate": gx.accumulate(gx.adam(falling), 2),
    "schedule_free": gx.schedule_free(gx.sgd(falling)),
    "value": gx.chain(gx.reduce_on_plateau(patience=1), gx.momo(0.5)),
    "key": gx.chain(gx.add_noise(0.1), gx.sgd(falling)),
    "grad_fn": gx.sam(gx.adam(falling)),
    "without memory": gx.scale(falling),
    "guarded": gx.skip_nonfinite(gx.adam(falling)),
    "Optax's": gx.pair(*optax.adam(optax.linear_schedule(0.1, 0.01, 4))),
}


def spoilt(g, bad=jnp.nan):
    return {**g, "b": g["b"].at[2].set(bad)}


def walked(tx, gradients, jit=True):
    """The parameters after each step, and the last state."""
    theta, state, way = params, tx.init(params), []
    functions = {"grad_fn", "hvp"} & extra(tx).keys()
    update = jax.jit(tx.update, static_argnames=tuple(functions)) if jit else tx.update
    for g in gradients:
        u, state = update(g, state, theta, **extra(tx))
        theta = gx.apply_updates(theta, u)
        way.append(theta)
    return way, state


def inner_of(state):
    return state.slots["skip_nonfinite"].get("inner", {}), state.slots["skip_nonfinite"]["step"]


def counts(state):
    return [int(x) for x in gx.measurements(state).values()]


# ---------------------------------------------------------------- the three sentences
@pytest.mark.parametrize("name", INNER)
@pytest.mark.promotes("Optax's arithmetic")
def test_without_a_guard_non_finite_gradients_propagate(name):
    if name == "guarded":
        pytest.skip("declared: it has a guard")
    way, _ = walked(INNER[name], [spoilt(g) for g in stream(params, 2)], jit=False)
    assert not all_finite(way[-1])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("name", INNER)
@pytest.mark.promotes("Optax's arithmetic")
def test_a_guarded_step_changes_nothing_but_its_counts(name, bad):
    tx = gx.skip_nonfinite(INNER[name])
    gradients = list(stream(params, 3))
    way, state = walked(tx, gradients, jit=False)
    u, after = tx.update(spoilt(gradients[0], bad), state, way[-1], **extra(tx))
    chex.assert_trees_all_equal(u, jax.tree.map(jnp.zeros_like, params))
    chex.assert_trees_all_equal(gx.apply_updates(way[-1], u), way[-1])
    chex.assert_trees_all_equal(inner_of(after), inner_of(state))
    assert (counts(state)[-2:], counts(after)[-2:]) == ([0, 0], [1, 1]) and after.step == 4


@pytest.mark.parametrize("name", INNER)
@pytest.mark.promotes("Optax's arithmetic")
def test_the_step_after_skipped_steps_is_unaffected(name):
    gradients = list(stream(params, 5))
    tx = gx.skip_nonfinite(INNER[name])
    clean, expected = walked(tx, gradients)
    a, b, c, d, e = gradients
    way, state = walked(tx, [spoilt(a), a, b, spoilt(b), spoilt(c, jnp.inf), c, d, e])
    chex.assert_trees_all_equal([way[i] for i in (1, 2, 5, 6, 7)], clean)
    chex.assert_trees_all_equal(inner_of(state), inner_of(expected))
    assert counts(state)[-2:] == [3, 0] and counts(expected)[-2:] == [0, 0]
    if name not in ("key", "Optax's"):
        assert_near(clean, walked(INNER[name], gradients)[0], 1e-6)


# ---------------------------------------------------------------- refused steps
@pytest.mark.parametrize("outgoing", [False, True])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_loss_that_is_not_finite_is_skipped(value, outgoing):
    tx = gx.skip_nonfinite(gx.sgd(0.1), outgoing=outgoing)
    u, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)), value=value)
    assert not u.any() and counts(state) == [1, 1]
    u, state = tx.update(jnp.ones(2), state, value=1.0)
    assert u.all() and counts(state) == [1, 0]


@pytest.mark.parametrize("inner, g", [(gx.scale(1e30), 1e30), (gx.momentum(0.9), jnp.inf), (gx.sgd(1e30), -1e30)])
def test_updates_are_checked(inner, g):
    tx = gx.skip_nonfinite(inner)
    u, state = tx.update(jnp.array([1.0, g]), tx.init(jnp.zeros(2)))
    assert u.tolist() == [0, 0] and counts(state) == [1, 1]


@pytest.mark.parametrize("inner, g", [(gx.scale(1e30), 1e30), (gx.momentum(0.9), jnp.inf), (gx.sgd(1e30), -1e30)])
def test_updates_are_not_checked_without_outgoing(inner, g):
    tx, bad = gx.skip_nonfinite(inner, outgoing=False), not jnp.isfinite(g)
    u, state = tx.update(jnp.array([1.0, g]), tx.init(jnp.zeros(2)))
    assert jnp.isfinite(u).tolist() == [True, bad] and counts(state) == [bad, bad]
    u, after = tx.update(jnp.array([1.0, jnp.nan]), state)
    chex.assert_trees_all_equal(inner_of(after), inner_of(state))
    assert not u.any() and counts(after) == [1 + bad, 1 + bad]


@pytest.mark.parametrize("name", ["adam", "accumulate", "grad_fn"])
def test_a_guard_without_outgoing_skips_the_same_steps(name):
    a, b, c = stream(params, 3)
    one, two = (
        walked(gx.skip_nonfinite(INNER[name], outgoing=flag), [a, spoilt(a), b, spoilt(b, -jnp.inf), c])
        for flag in (True, False)
    )
    chex.assert_trees_all_equal(inner_of(one[1]), inner_of(two[1]))
    assert counts(one[1])[-2:] == counts(two[1])[-2:] == [2, 0]
    chex.assert_trees_all_equal(one[0], two[0])


def test_new_slots_are_checked():
    """Squares overflow before updates do: Adam would divide by ∞ from then on."""
    tx, g = gx.skip_nonfinite(gx.adam(0.1)), jnp.array([1e20])
    u, state = tx.update(g, tx.init(jnp.zeros(1)))
    assert u == 0 and counts(state) == [1, 1]
    unguarded, poisoned = gx.adam(0.1).update(g, gx.adam().init(jnp.zeros(1)))
    assert jnp.isfinite(unguarded).all() and not all_finite(poisoned.slots)


class least(gx.Transformation):
    """Keeps the smallest loss, ∞ before the first."""

    needs = ("value",)

    def init_tree(self, params):
        return {"value": jnp.array(jnp.inf)}

    def update_tree(self, updates, slots, context):
        return updates, {"value": jnp.minimum(slots["value"], jnp.nan_to_num(context.extra["value"]))}


def test_slots_that_start_infinite_may_stay_infinite_and_a_bad_loss_is_refused():
    tx = gx.skip_nonfinite(least())
    u, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), value=2.0)
    assert u.all() and inner_of(state)[0] == {"least": {"value": 2.0}}
    for bad in (jnp.nan, jnp.inf):
        u, after = tx.update(jnp.ones(2), state, value=bad)
        assert not u.any() and counts(after) == [1, 1] and inner_of(after)[0] == {"least": {"value": 2.0}}
    held = gx.skip_nonfinite(gx.every(least(), 2))
    assert held.update(jnp.ones(2), held.init(jnp.ones(2)), value=2.0)[0].all()


def test_it_skips_without_limit_and_a_loop_can_stop():
    tx, g = gx.skip_nonfinite(gx.adam(0.1)), jnp.array([1.0, jnp.nan])
    start = tx.init(jnp.zeros(2))

    def body(carry):
        theta, state = carry
        u, state = tx.update(g, state, theta)
        return gx.apply_updates(theta, u), state

    theta, state = jax.lax.while_loop(
        lambda carry: gx.measurements(carry[1])["skipped in a row"] < 1000, body, (jnp.zeros(2), start)
    )
    assert counts(state) == [1000, 1000] and not theta.any()
    u, state = tx.update(jnp.ones(2), state)
    assert_near(u, jnp.full(2, -0.1))
    assert counts(state) == [1000, 0]


def test_counts_saturate():
    tx = gx.skip_nonfinite(gx.scale(2.0))
    last = jnp.array(2**31 - 1, jnp.int32)
    state = jax.tree.map(lambda x: last, tx.init(jnp.ones(1)))
    for g, expected in ((jnp.nan, [2**31 - 1, 2**31 - 1]), (1.0, [2**31 - 1, 0])):
        _, after = tx.update(jnp.array([g]), state)
        assert counts(after) == expected and inner_of(after)[1] == last


def test_a_nan_is_found_in_any_entry():
    """In the first or last coordinate of leaves of any shape, many at a time or not; integers are finite."""
    for shape in ((), (1,), (31,), (32,), (33,), (64, 3), (3, 64), (997,), (2, 5, 96)):
        x = {"a": jnp.ones(shape), "b": None, "n": jnp.arange(3), "e": jnp.zeros((0, 4))}
        assert all_finite(x) and all_finite(x, {"deep": x, "more": jnp.ones(7)}, None)
        for place in {0, x["a"].size - 1}:
            bad = {**x, "a": x["a"].ravel().at[place].set(jnp.inf).reshape(shape)}
            assert not all_finite(bad) and not all_finite(x, {"deep": bad}) and not all_finite(jnp.ones(3), bad)
    assert all_finite({}) and all_finite(None) and not all_finite({}, jnp.array(1j * jnp.nan))


# ---------------------------------------------------------------- with everything
def test_a_guard_in_a_group_skips_its_group_alone():
    tx = gx.chain(gx.clip(1e3), gx.partition({"b": gx.skip_nonfinite(gx.adam(falling))}, default=gx.sgd(0.5)))
    (g,) = stream(params, 1)
    u, state = tx.update(spoilt(g), tx.init(params), params)
    assert not u["b"].any() and u["w"].any() and counts(state) == [1, 1]
    two = gx.partition({"b": gx.skip_nonfinite(gx.sgd(0.1))}, default=gx.skip_nonfinite(gx.sgd(0.1)))
    _, state = two.update(spoilt(g), two.init(params), params)
    assert {name: int(x) for name, x in gx.measurements(state).items()} == {
        f"partition.{group}.skip_nonfinite.{name}": n
        for group, n in (("b", 1), ("default", 0))
        for name in ("skipped", "skipped in a row")
    }


def test_a_guard_inside_every_has_its_own_clock():
    tx = gx.every(gx.skip_nonfinite(gx.adam(falling)), 2)
    a, b, c = stream(params, 3)
    clean, expected = follow(tx, params, [a, a, b, b, c])
    got, state = follow(tx, params, [a, a, spoilt(b), b, b, b, c])
    assert_near([*got[:2], *got[4:]], clean, 0)
    chex.assert_trees_all_equal(got[2:4], [jax.tree.map(jnp.zeros_like, params)] * 2)
    assert counts(state) == [1, 0]
    chex.assert_trees_all_equal(*(s.slots["every"]["inner"]["skip_nonfinite"]["inner"] for s in (state, expected)))


@pytest.mark.promotes("functions of the step, as users write them")
def test_hyperparameters_inside_a_guard_are_the_values_of_the_next_update():
    tx = gx.chain(
        gx.clip(lambda step: 1.0 + step), gx.skip_nonfinite(gx.accumulate(gx.skip_nonfinite(gx.sgd(falling)), 2))
    )
    g = jnp.ones(())
    state, rates = tx.init(g), []
    for bad in (0, 1, 0, 1, 0, 1, 0):
        rates.append(gx.hyperparameters(tx, state))
        _, state = tx.update(jnp.where(bad, jnp.nan, g), state)
    assert [values["limit"] for values in rates] == [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(
        [values["learning_rate"] for values in rates], [falling(n // 2) for n in (0, 1, 1, 2, 2, 3, 3)], rtol=1e-6
    )
    assert gx.hyperparameters(tx)["learning_rate"] == 0.1
    assert tx.at(4) == gx.chain(
        gx.clip(5.0), gx.skip_nonfinite(gx.accumulate(gx.skip_nonfinite(gx.sgd(float(falling(2)))), 2))
    )


def test_under_vmap_each_step_is_refused_by_itself():
    def run(tx, bad):
        def step(state, g):
            u, state = tx.update(g, state)
            return state, u

        return jax.lax.scan(step, tx.init(jnp.ones(2)), jnp.stack([jnp.ones(2), bad, jnp.ones(2)]))

    rates, bad = jnp.array([0.1, 0.2, 0.3]), jnp.array([[1.0, 1.0], [1.0, jnp.nan], [jnp.inf, 1.0]])
    state, got = jax.vmap(lambda rate, bad: run(gx.skip_nonfinite(gx.adam(rate)), bad))(rates, bad)
    for i in range(3):
        alone_state, alone = run(gx.skip_nonfinite(gx.adam(float(rates[i]))), bad[i])
        assert_near(got[i], alone)
        assert_near(jax.tree.map(lambda x, i=i: x[i], state), alone_state)
    assert gx.measurements(state)["skipped"].tolist() == [0, 1, 1]


def test_a_refused_step_has_a_finite_derivative():
    def last(rate, g):
        tx = gx.skip_nonfinite(gx.adam(rate))
        theta, state = jnp.ones(2), tx.init(jnp.ones(2))
        for x in (jnp.ones(2), g, jnp.ones(2)):
            u, state = tx.update(x, state)
            theta = theta + u
        return theta.sum()

    slope = jax.grad(last)(0.1, jnp.array([jnp.nan, 1.0]))
    np.testing.assert_allclose(slope, -4.0, rtol=1e-5)  # two steps of two coordinates


def test_sharded_leaves_are_checked_without_moving_them():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    tx = gx.skip_nonfinite(gx.adam())
    for spec in (PartitionSpec("x"), PartitionSpec(None, "x")):
        place = NamedSharding(mesh, spec)
        g = jax.device_put(jnp.ones((64, 512)), place)
        state = jax.jit(tx.init)(g)
        text: Any = jax.jit(tx.update).lower(g, state).compile().as_text()
        assert "all-gather" not in text and "all-to-all" not in text
        u, state = tx.update(g.at[63, 511].set(jnp.nan), state)
        assert not u.any() and counts(state) == [1, 1]


def test_a_bad_transformation():
    bad: Any = 10
    with pytest.raises(TypeError, match=r"^skip_nonfinite: inner must be a transformation"):
        gx.skip_nonfinite(bad)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 64)])
def test_exactly_the_non_finite_values_are_found(dtype, shape):
    finite = jnp.asarray(np.random.default_rng(0).standard_normal(shape) * 1e4, dtype)  # a sum of which may overflow
    assert all_finite({"w": finite, "n": jnp.arange(3)}, {"w": -0.0 * finite, "n": jnp.arange(3)}, None)
    parts = (1, 1j) if dtype == "complex64" else (1,)
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        for part in parts:
            x = np.array(finite)
            x.flat[-1] = complex(1, bad) if part == 1j else bad
            x = jnp.asarray(x)
            assert not all_finite({"w": finite}, {"w": x}) and not all_finite({"w": finite}, x) and not all_finite(x)


class halves(gx.PerLeaf):
    """Emits updates of fewer bits than it receives."""

    def update_leaf(self, g, slots, context):
        return (g / 2).astype(jnp.bfloat16), slots


@pytest.mark.parametrize("tx", [gx.skip_nonfinite(halves()), gx.accumulate(halves(), 1)], ids=["guard", "accumulate"])
def test_updates_may_have_another_dtype(tx):
    g = jnp.array([1.0, 3.0])
    u, _ = tx.update(g, tx.init(g))
    assert u.dtype == g.dtype and (u == g / 2).all()
