"""`every` and `apply_if`: when the inner transformation runs, on which updates, and by which clock."""
# pyright: reportArgumentType=false

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from streams import assert_near, follow, params_of, stream

import gradtx as gx

params = params_of()
falling = gx.schedules.linear(0.1, 0.01, 4)
INNER = {
    "adam": gx.adam(),
    "schedules": gx.adam(falling, b1=gx.schedules.linear(0.5, 0.9, 4)),
    "a schedule in a group": gx.partition({"w": gx.sgd(falling)}, default=gx.momentum(0.9)),
    "without memory": gx.scale(falling),
}


@pytest.mark.parametrize("interval", [1, 2, 3, 7])
@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_every_runs_the_inner_one_on_every_kth_update(inner, interval):
    gradients = list(stream(params, 8))
    expected, state = follow(inner, params, gradients[::interval])
    got, held = follow(gx.chain(gx.every(inner, interval)), params, gradients)
    for t, u in enumerate(got):
        assert_near(u, expected[t // interval])
    kept = held.slots.get("every", {}).get("inner", {})
    assert_near(kept, state.slots)


def test_clocks_nest_and_are_the_inner_ones_alone():
    tx = gx.chain(
        gx.every(gx.every(gx.add_constant(lambda step: step), 2), 3), gx.add_constant(lambda step: 100 * step)
    )
    zeros = [jnp.zeros(())] * 13
    got, _ = follow(tx, jnp.zeros(()), zeros)
    _, state = follow(tx, jnp.zeros(()), zeros[:12])
    assert [float(u) for u in got] == [100 * t + t // 6 for t in range(13)]
    assert tx.at(12) == gx.chain(gx.every(gx.every(gx.add_constant(2.0), 2), 3), gx.add_constant(1200.0))
    assert gx.hyperparameters(tx, state) == {
        "inner.constant": 2.0,
        "add_constant.constant": 1200.0,
    }


def test_an_average_is_corrected_by_the_inner_clock():
    got, _ = follow(gx.every(gx.momentum(0.99), 4), jnp.zeros(()), [jnp.array(3.0)] * 9)
    for u in got:
        assert_near(u, jnp.array(3.0))


@pytest.mark.parametrize("interval, runs", [(1, 20), (3, 7), (10, 2), (50, 1)])
def test_held_updates_are_not_computed(interval, runs):
    """They are a branch of the compiled program, including the functions passed to update."""
    calls = []

    def hvp(v):
        jax.debug.callback(lambda: calls.append(1))
        return v

    tx: Any = gx.sophia(every_k=interval)

    def step(state, _):
        return tx.update(params, state, params, hvp=hvp, key=jax.random.key(0))[::-1]

    jax.block_until_ready(jax.jit(lambda state: jax.lax.scan(step, state, length=20))(tx.init(params)))
    jax.effects_barrier()
    assert len(calls) == runs


def test_only_the_needed_slots_are_kept():
    assert gx.every(gx.scale(2.0), 1).init(params).slots["every"].keys() == {"step", "count"}
    kept = gx.every(gx.scale(2.0), 2).init(params).slots["every"]
    assert kept.keys() == {"step", "count", "last"}
    assert_near(kept["last"], jax.tree.map(jnp.zeros_like, params))


def test_a_leaf_without_a_gradient_at_a_run_emits_its_last_update():
    tx, gradients = gx.every(gx.running_sum(), 2), list(stream(params, 4))
    w, b = (gradients[0][name] for name in ("w", "b"))
    seen = [gradients[0], gradients[1], {**gradients[2], "b": None}, {**gradients[3], "w": None}]
    got, state = follow(tx, params, seen)
    assert got[2]["b"] is None and got[3]["w"] is None
    assert_near(got[1]["b"], b)
    assert_near(got[3]["b"], b)
    assert_near(got[2]["w"], w + gradients[2]["w"])
    assert_near(state.slots["every"]["last"], {"w": got[2]["w"], "b": b})
    first_none, _ = follow(tx, params, [{**gradients[0], "b": None}, gradients[1]])
    assert not first_none[1]["b"].any()


def test_a_nan_between_runs_is_ignored_and_one_at_a_run_is_held():
    bad, good = jnp.array(jnp.nan), jnp.array(2.0)
    got, _ = follow(gx.every(gx.identity(), 2), good, [good, bad, bad, good, good])
    assert [str(float(u)) for u in got] == ["2.0", "2.0", "nan", "nan", "2.0"]


@pytest.mark.parametrize("interval", [0, -1, 1.5, True, None, 2**31])
def test_a_bad_interval(interval):
    with pytest.raises((TypeError, ValueError), match=r"^every: every_k must be"):
        gx.every(gx.sgd(), interval)


def test_a_bad_transformation():
    swapped: Any = (10, gx.sgd())
    with pytest.raises(TypeError, match=r"^every: inner must be a transformation"):
        gx.every(*swapped)


# ---------------------------------------------------------------- apply_if
def late(step):
    return step >= 2


def large(step, value):
    return (value > 1.0) & (step > 0)


@pytest.mark.promotes("Optax's arithmetic")
@pytest.mark.parametrize("otherwise", ["identity", "zero"])
def test_apply_if_is_optaxs(x64, otherwise):
    make = optax.conditionally_mask if otherwise == "zero" else optax.conditionally_transform
    params = params_of("float64")
    for condition, forward in ((late, False), (large, True)):
        theirs = make(optax.adam(0.1, eps=1e-6), condition, forward)
        tx = gx.apply_if(gx.adam(0.1, eps=1e-6), condition, otherwise)
        state, optax_state = tx.init(params), theirs.init(params)
        for value, g in zip((2.0, 0.5, 3.0, 2.0, 0.1), stream(params)):
            extra = {"value": value} if forward else {}
            u, state = tx.update(g, state, params, **extra)
            v, optax_state = theirs.update(g, optax_state, params, **extra)
            assert_near(u, v, 1e-12)


def test_apply_if_reads_what_its_condition_names():
    tx, params = gx.apply_if(gx.sgd(0.5), large), jnp.ones(2)
    with pytest.raises(ValueError, match=r"^apply_if needs the argument 'value': call update\(.*, value=…\)"):
        tx.update(params, tx.init(params))
    state = tx.init(params)
    for expected in (params, -0.5 * params):
        u, state = tx.update(params, state, value=2.0)
        assert_near(u, expected)
    assert int(state.step) == 2 and int(state.slots["apply_if"]["step"]) == 1


def test_the_inner_schedules_of_apply_if_count_its_runs():
    tx, params = gx.apply_if(gx.sgd(gx.schedules.linear(1.0, 0.0, 4)), late), jnp.ones(())
    made, _ = follow(tx, params, [jnp.ones(())] * 5)
    assert_near(jnp.stack(made), jnp.array([1.0, 1.0, -1.0, -0.75, -0.5]))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (3, "^apply_if: condition must be a function"),
        (lambda: True, "^apply_if: condition must be a function of step and extra arguments"),
        (lambda step: step, "^apply_if: condition must return True or False, got"),
        (lambda step: jnp.ones(2, bool), r"^apply_if: condition must return True or False, got bool\[2\]"),
    ],
)
def test_conditions_that_are_not(condition, message):
    with pytest.raises(TypeError, match=message):
        tx = gx.apply_if(gx.sgd(0.1), condition)
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
