"""Updates in k parts: the update of the mean at the last part, nothing before it, and the inner clock."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import assert_near, extra, follow, params_of, stream

import gradtx as gx

params = params_of()
falling = gx.schedules.linear(0.1, 0.01, 4)
INNER = {
    "adam": gx.adam(0.1),
    "schedules": gx.adam(falling, b1=gx.schedules.linear(0.5, 0.9, 4)),
    "a schedule in a group": gx.partition({"w": gx.adamw(falling)}, default=gx.momentum(0.9)),
    "schedule_free": gx.schedule_free(gx.sgd(falling)),
    "every": gx.every(gx.adam(falling), 2),
    "guarded": gx.skip_nonfinite(gx.adam(falling)),
    "grad_fn": gx.sam(gx.sgd(falling)),
    "without memory": gx.scale(falling),
}
ZERO = jax.tree.map(jnp.zeros_like, params)


def reduced(gradients, k, how=np.mean):
    """The mean of every k gradients, or their sum, in float64."""
    parts = [gradients[i : i + k] for i in range(0, len(gradients) - k + 1, k)]
    return [
        jax.tree.map(lambda *x: jnp.asarray(how(np.asarray(x, np.float64), 0), x[0].dtype), *part) for part in parts
    ]


# ---------------------------------------------------------------- the law
@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("name", INNER)
def test_accumulate_is_the_inner_optimizer_on_the_mean_of_k(name, k, mean):
    gradients = list(stream(params, 9))
    expected, state = follow(INNER[name], params, reduced(gradients, k, np.mean if mean else np.sum))
    functions = {"grad_fn"} & extra(INNER[name]).keys()
    tx = gx.chain(gx.accumulate(INNER[name], k, mean=mean))
    got, held = follow(tx, params, gradients, jax.jit(tx.update, static_argnames=tuple(functions)))
    for t, u in enumerate(got, 1):
        if t % k:
            chex.assert_trees_all_equal(u, ZERO)
            assert not any(np.signbit(x).any() for x in jax.tree.leaves(u))
        else:
            assert_near(u, expected[t // k - 1])
    assert_near(held.slots.get("accumulate", {}).get("inner", {}), state.slots)


@pytest.mark.parametrize("k", [2, 3, 8])
def test_the_mean_is_the_mean(k):
    gradients = list(stream(params, k))
    got, _ = follow(gx.accumulate(gx.identity(), k), params, gradients)
    assert_near(got[-1], reduced(gradients, k)[0], 2e-7)
    got, _ = follow(gx.accumulate(gx.identity(), k, mean=False), params, gradients)
    assert_near(got[-1], reduced(gradients, k, np.sum)[0], 2e-7)


@pytest.mark.promotes("a function of the step, as users write it")
@pytest.mark.parametrize("k", [8, 64, 256, 300, 1024, lambda step: 1024], ids=[8, 64, 256, 300, 1024, "a schedule"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_mean_of_many_parts_is_accurate(k, seed):
    """Within 2e-7 of the largest coordinate of NumPy's mean in float64, for gradients of one sign and of both."""
    of = 1024 if callable(k) else k
    gradients = np.random.default_rng(seed).uniform(-0.5 * seed, 1, (of, 1000)).astype(np.float32)
    for weights in (np.ones(of, np.float32), np.arange(of, dtype=np.float32)):
        weighted = bool(weights[0] == 0)
        tx: Any = gx.accumulate(gx.identity(), k, weighted=weighted)

        def update(state, given, tx=tx, weighted=weighted):
            return tx.update(given[0], state, **({"weight": given[1]} if weighted else {}))[::-1]

        _, got = jax.lax.scan(update, tx.init(jnp.zeros(1000)), (gradients, weights))
        expected = np.average(gradients.astype(float), 0, weights)
        assert np.abs(got[-1] - expected).max() <= 2e-7 * np.abs(expected).max()
        assert not got[:-1].any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_many_parts_in_a_narrow_dtype_are_summed_in_float32(dtype):
    gradients = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, (256, 16)), dtype)
    tx: Any = gx.accumulate(gx.identity(), 256)
    start = tx.init(jnp.zeros(16, dtype))
    assert start.slots["accumulate"]["sum"].dtype == jnp.float32
    state, got = jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)
    assert got.dtype == dtype and not got[:-1].any()
    expected = np.asarray(gradients, np.float64)
    np.testing.assert_allclose(state.slots["accumulate"]["sum"], expected.sum(0), rtol=1e-6)
    assert (got[-1] == jnp.asarray(expected.mean(0), dtype)).all()


@pytest.mark.promotes("functions of the step, as users write them")
def test_clocks_nest():
    count = gx.add_constant(lambda step: 1.0 + step)
    tx = gx.chain(gx.accumulate(gx.accumulate(count, 2), 3), gx.add_constant(lambda step: 100 * step))
    got, _ = follow(tx, jnp.zeros(()), [jnp.zeros(())] * 13)
    assert [float(u) - 100 * t for t, u in enumerate(got)] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0]
    three = gx.accumulate(gx.accumulate(gx.add_constant(3.0), 2), 3)
    assert tx.at(12) == gx.chain(three, gx.add_constant(1200.0))


def test_only_the_needed_slots_are_kept():
    assert gx.accumulate(gx.scale(2.0), 1).init(params).slots["accumulate"].keys() == {"step", "count"}
    kept = gx.accumulate(gx.scale(2.0), 2).init(params).slots["accumulate"]
    assert kept.keys() == {"step", "count", "sum"}
    assert_near(kept["sum"], ZERO)
    kept = gx.accumulate(gx.polyak_step(), 2).init(params).slots["accumulate"]
    assert kept.keys() == {"step", "count", "sum", "value"}


# ---------------------------------------------------------------- non-finite gradients
@pytest.mark.parametrize("name", ["adam", "schedules", "a schedule in a group"])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_an_inner_guard_skips_all_k_and_an_outer_guard_skips_one_part(name, bad):
    gradients = list(stream(params, 9))
    a, b, c, d, e, f, *rest = gradients
    spoilt = {**e, "b": e["b"].at[0].set(bad)}
    within = gx.accumulate(gx.skip_nonfinite(INNER[name]), 3)
    got, state = follow(within, params, [a, b, c, d, spoilt, f, *rest])
    clean, expected = follow(within, params, [a, b, c, *rest])
    assert_near([*got[:3], *got[6:]], clean, 0)
    chex.assert_trees_all_equal(got[3:6], [ZERO] * 3)
    assert list(map(int, gx.measurements(state).values())) == [1, 0]
    chex.assert_trees_all_equal(*(s.slots["accumulate"]["inner"]["skip_nonfinite"]["inner"] for s in (state, expected)))
    around = gx.skip_nonfinite(gx.accumulate(INNER[name], 3))
    got, state = follow(around, params, [a, b, c, d, spoilt, e, f, *rest])
    clean, expected = follow(around, params, gradients)
    assert_near([*got[:4], *got[5:]], clean, 0)
    chex.assert_trees_all_equal(got[4], ZERO)
    chex.assert_trees_all_equal(*(s.slots["skip_nonfinite"]["inner"] for s in (state, expected)))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_without_a_guard_a_nan_affects_its_k_alone_if_the_inner_is_stateless(place):
    gradients = [jnp.ones(2)] * 6
    gradients[place] = jnp.array([1.0, jnp.nan])
    got, state = follow(gx.accumulate(gx.scale(2.0), 3), jnp.ones(2), gradients)
    assert [str(u.tolist()) for u in got] == ["[0.0, 0.0]"] * 2 + ["[2.0, nan]"] + ["[0.0, 0.0]"] * 2 + ["[2.0, 2.0]"]
    assert jnp.isfinite(state.slots["accumulate"]["sum"]).all()


# ---------------------------------------------------------------- the arguments of the inner one
class told(gx.Transformation):
    """Emits the loss that it receives."""

    needs = ("value",)

    def update_tree(self, updates, slots, context):
        return jax.tree.map(lambda g: jnp.full_like(g, context.extra["value"]), updates), slots


@pytest.mark.parametrize("mean, expected", [(True, [2.0, 5.0]), (False, [6.0, 15.0])])
def test_the_loss_is_over_the_whole_batch(mean, expected):
    tx = gx.accumulate(told(), 3, mean=mean)
    state, got = tx.init(jnp.zeros(2)), []
    for value in (1.0, jnp.float32(2), 3, 4.0, 5.0, 6.0):
        u, state = tx.update(jnp.ones(2), state, value=value)
        got.append(float(u[0]))
    assert got == [0, 0, expected[0], 0, 0, expected[1]]


@pytest.mark.promotes("its models, as users write them")
def test_functions_of_the_last_part_are_used_and_no_other_is_called():
    calls = []

    def grad_fn(x, scale):
        jax.debug.callback(lambda: calls.append(1))
        return jax.tree.map(lambda x: scale * x, x)

    tx: Any = gx.accumulate(gx.sam(gx.sgd(1.0), radius=0.0), 3)

    def step(state, i):
        return tx.update(params, state, params, grad_fn=partial(grad_fn, scale=1.0 + i))[::-1]

    _, got = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(6)))(tx.init(params))
    jax.block_until_ready(got)
    jax.effects_barrier()
    assert len(calls) == 2
    for t, factor in enumerate([0, 0, -3, 0, 0, -6]):
        assert_near(jax.tree.map(lambda x, t=t: x[t], got), jax.tree.map(lambda x, f=factor: f * x, params))


def test_a_leaf_without_a_gradient_adds_nothing_and_the_next_k_is_clean():
    def emitted(*rows):
        gradients = [{"a": None if a is None else jnp.array(a), "b": jnp.ones(())} for a in rows]
        got, _ = follow(
            gx.accumulate(gx.identity(), 2, mean=False), {"a": jnp.zeros(()), "b": jnp.zeros(())}, gradients
        )
        assert [float(u["b"]) for u in got] == [0, 2] * (len(rows) // 2)
        return [None if u["a"] is None else float(u["a"]) for u in got]

    assert emitted(None, 2.0, 3.0, 4.0) == [None, 2, 0, 7]
    assert emitted(1.0, None, 3.0, 4.0) == [0, None, 0, 7]
    assert emitted(1.0, 2.0, None, 4.0) == [0, 3, None, 4]
    assert emitted(1.0, None, None, 4.0) == [0, None, None, 4]


def test_under_vmap_each_has_its_own_clock():
    tx = gx.accumulate(gx.adam(falling), 2)
    gradients = list(stream(params, 4))
    _, odd = follow(tx, params, gradients[:3])
    _, even = follow(tx, params, gradients[:2])
    both = jax.tree.map(lambda *x: jnp.stack(x), odd, even)
    got, after = jax.vmap(lambda state: tx.update(gradients[3], state, params))(both)
    for i, state in enumerate((odd, even)):
        alone = tx.update(gradients[3], state, params)
        assert_near(jax.tree.map(lambda x, i=i: x[i], (got, after)), alone)


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize("every", [0, -1, 2**31])
def test_a_bad_every_k(every):
    with pytest.raises(ValueError, match=r"^accumulate: every_k must be"):
        gx.accumulate(gx.sgd(), every)


@pytest.mark.parametrize("every", [1.5, True, None, "2"])
def test_a_missing_every_k(every):
    with pytest.raises(TypeError, match=r"^accumulate: every_k must be an integer, 1 or more, got"):
        gx.accumulate(gx.sgd(), every)


def test_bad_arguments():
    bad: Any = 10
    with pytest.raises(TypeError, match=r"^accumulate: inner must be a transformation"):
        gx.accumulate(bad, 2)
    with pytest.raises(TypeError, match=r"^accumulate: mean must be True or False, got 10"):
        gx.accumulate(gx.sgd(), 2, mean=bad)
    with pytest.raises(ValueError, match="told needs the argument 'value'"):
        tx = gx.accumulate(told(), 2)
        tx.update(params, tx.init(params), params)


# ---------------------------------------------------------------- an unfinished group
AROUND = {
    "alone": lambda tx: gx.accumulate(tx, 4),
    "in a guard": lambda tx: gx.skip_nonfinite(gx.accumulate(tx, 4)),
    "in a chain": lambda tx: gx.chain(gx.clip(100.0), gx.accumulate(tx, 4)),
    "in a group": lambda tx: gx.partition({"*": gx.accumulate(tx, 4)}),
    "compiled": lambda tx: gx.accumulate(tx, 4),
}


@pytest.mark.parametrize("around", AROUND)
def test_flush_applies_the_mean_of_an_unfinished_group(around):
    tx, gradients = gx.adam(falling), list(stream(params, 10))
    wrapped = AROUND[around](tx)
    flush = partial(gx.flush, wrapped)
    flush = jax.jit(flush) if around == "compiled" else flush
    at, state = params, wrapped.init(params)
    for g in gradients[:6]:
        at, state = wrapped.apply(at, state, g)
    at, state = flush(at, state)
    expected, inner = params, tx.init(params)
    for group in (gradients[:4], gradients[4:6], gradients[6:10]):
        mean = jax.tree.map(lambda *g: sum(g) / len(g), *group)
        expected, inner = tx.apply(expected, inner, mean)
        if len(group) == 2:
            assert_near(at, expected)
            chex.assert_trees_all_equal(flush(at, state)[0], at)  # nothing is left to apply
    for g in gradients[6:]:
        at, state = wrapped.apply(at, state, g)
    assert_near(at, expected)


def test_flush_of_groups_of_one_and_of_other_optimizers_changes_no_parameter():
    for tx in (gx.accumulate(gx.sgd(1.0), 1), gx.sgd(1.0)):
        at, _ = gx.flush(tx, params, tx.init(params))
        chex.assert_trees_all_equal(at, params)


# ---------------------------------------------------------------- weights
@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("name", ["adam", "schedules", "guarded", "without memory"])
def test_weighted_parts_are_their_weighted_mean(name, mean):
    gradients, weights = list(stream(params, 8)), np.array([1.0, 3.0, 0.5, 0.0, 7.0, 2.0, 2.0, 1.0])
    gradients[3] = jax.tree.map(lambda g: g * jnp.nan, gradients[3])  # of weight 0
    tx = gx.accumulate(INNER[name], 4, mean=mean, weighted=True)
    state, got, update = tx.init(params), [], jax.jit(tx.update)
    for g, weight in zip(gradients, weights):
        u, state = update(g, state, params, weight=weight)
        got.append(u)
    expected = []
    for i in (0, 4):
        of, w = gradients[i : i + 4], weights[i : i + 4]
        total = jax.tree.map(
            lambda *x, w=w: sum(k * np.asarray(a, np.float64) for k, a in zip(w, x) if k) / (w.sum() if mean else 1),
            *of,
        )
        expected.append(jax.tree.map(jnp.float32, total))
    assert_near([got[3], got[7]], follow(INNER[name], params, expected)[0], 1e-5)
    chex.assert_trees_all_equal(got[0], ZERO)


def test_the_loss_is_weighted_too_and_flush_needs_no_weight():
    tx = gx.accumulate(gx.chain(gx.polyak_step(1e9), gx.scale(-1.0)), 4, weighted=True)
    w, state = jnp.array([2.0]), None
    state = tx.init(w)
    for value, weight in ((4.0, 1), (8.0, 3)):
        w, state = tx.apply(w, state, jnp.array([2.0]), value=value, weight=weight)
    moved, state = gx.flush(tx, w, state, value=0.0)
    assert_near(w - moved, jnp.array([7.0 / 2.0]))  # f / ‖g‖² · g, with f = (4 + 3·8)/4
    nested = gx.accumulate(gx.accumulate(gx.sgd(1.0), 2, weighted=True), 2, weighted=True)
    state, w = nested.init(w), jnp.zeros(1)
    for g, weight in ((1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (4.0, 4.0)):
        w, state = nested.apply(w, state, jnp.array([g]), weight=weight)
    assert_near(w, jnp.array([-3.0]))  # (1 + 4 + 9 + 16)/10


def test_a_missing_or_bad_weight_is_refused():
    tx = gx.accumulate(gx.sgd(1.0), 2, weighted=True)
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"^accumulate needs the argument 'weight': call update"):
        tx.update(params, state, params)
    with pytest.raises(ValueError, match=r"^accumulate: weight must be one real number"):
        tx.update(params, state, params, weight=jnp.ones(2))
    with pytest.raises(TypeError, match=r"^unexpected argument 'weight'"):
        gx.accumulate(gx.sgd(1.0), 2).update(params, gx.accumulate(gx.sgd(1.0), 2).init(params), weight=1.0)


# ---------------------------------------------------------------- groups that grow
def growing(step):
    return 1 + step // 2  # 1, 1, 2, 2, 3, 3, …


GROWING = {"a function": growing, "a schedule": gx.schedules.piecewise_constant((1, 2, 3, 4, 5), (2, 4, 6, 8))}
LENGTHS = [1, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("every_k", GROWING.values(), ids=GROWING)
@pytest.mark.parametrize("name", ["adam", "schedules", "every", "guarded"])
def test_groups_that_grow_are_the_inner_optimizer_on_their_means(name, every_k):
    gradients, ends = list(stream(params, sum(LENGTHS))), np.cumsum(LENGTHS)
    means = [reduced(gradients[end - n : end], n)[0] for n, end in zip(LENGTHS, ends)]
    expected, state = follow(INNER[name], params, means)
    tx: Any = gx.accumulate(INNER[name], every_k)
    got, held = follow(tx, params, gradients, jax.jit(tx.update))
    assert_near([got[end - 1] for end in ends], expected)
    assert all(not np.any(u) for i, one in enumerate(got, 1) if i not in ends for u in jax.tree.leaves(one))
    assert_near(held.slots["accumulate"].get("inner", {}), state.slots)
    rows = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
    scanned = jax.lax.scan(lambda s, g: tx.update(g, s, params)[::-1], tx.init(params), rows)[1]
    assert_near(jax.tree.map(lambda x: x[-1], scanned), got[-1])


def test_the_clock_of_groups_that_grow():
    tx = gx.accumulate(gx.sgd(falling), growing)
    runs = [0, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 6, 7]
    state, g = tx.init(jnp.ones(1)), jnp.ones(1)
    for step, done in enumerate(runs):
        assert int(tx.runs(step)) == int(jax.jit(tx.runs)(step)) == done
        assert state.slots["accumulate"]["step"] == done
        assert tx.at(step) == gx.accumulate(gx.sgd(float(falling(done))), growing)
        np.testing.assert_allclose(gx.hyperparameters(tx, state)["learning_rate"], falling(done), rtol=1e-6)
        _, state = tx.update(g, state)
    assert [tx.updates(n) for n in range(8)] == [0, *np.cumsum(LENGTHS)]
    assert gx.accumulate(gx.sgd(0.1), 4).updates(3) == 12


def test_an_unfinished_group_that_grows_is_flushed_and_restored():
    tx = gx.accumulate(gx.sgd(1.0), gx.schedules.piecewise_constant((1, 3), (1,)))
    assert gx.read(repr(tx)) == tx and jax.tree.leaves(tx) == [1.0]
    w, state = jnp.zeros(1), None
    state = tx.init(w)
    for g in (1.0, 2.0, 4.0):
        w, state = tx.apply(w, state, jnp.array([g]))
    assert w == -1
    again, report = gx.restore(tx, w, jax.tree.map(np.asarray, state))
    assert not report.fresh and not report.dropped
    for one in (state, again):
        flushed, after = gx.flush(tx, w, one)
        assert flushed == -4 and after.slots["accumulate"]["step"] == 2
        nothing, _ = gx.flush(tx, flushed, after)
        assert nothing == flushed
        whole, _ = tx.apply(w, one, jnp.array([9.0]))
        assert whole == -6
    fixed, _ = gx.restore(gx.accumulate(gx.sgd(1.0), 3), w, state)
    assert gx.accumulate(gx.sgd(1.0), 3).apply(w, fixed, jnp.array([9.0]))[0] == -6


@pytest.mark.parametrize("k", [(4, 16), (16, 4), (lambda step: 16, 4)])
def test_the_size_of_a_group_may_change_between_runs(k):
    """A group of more than 8 also keeps rounding errors; a state with and one without them fit both."""
    old, new = (gx.accumulate(gx.sgd(1.0), size) for size in k)
    w = jnp.zeros(1)
    _, state = old.apply(w, old.init(w), jnp.array([3.0]))
    state, report = gx.restore(new, w, state)
    assert {path.rpartition("/")[2] for path in [*report.fresh, *report.dropped]} == {"lost"}
    assert gx.flush(new, w, state)[0] == -3


@pytest.mark.parametrize(("k", "runs"), [(0.2, 8), (1.4, 8), (1.6, 4), (-3.0, 8)])
def test_the_number_of_a_schedule_is_rounded_and_at_least_one(k, runs):
    tx = gx.accumulate(gx.sgd(1.0), lambda step: k)
    _, state = follow(tx, jnp.ones(1), [jnp.ones(1)] * 8)
    assert state.slots["accumulate"]["step"] == runs


def test_the_number_is_an_integer_or_a_schedule():
    for bad in (0, 1.5, "2", None, gx.sgd(0.1)):
        with pytest.raises((TypeError, ValueError), match=r"^accumulate: every_k must be an integer, 1 or more"):
            gx.accumulate(gx.sgd(0.1), bad)
    with pytest.raises(TypeError, match=r"^accumulate: every_k must be a function of the step"):
        gx.accumulate(gx.sgd(0.1), lambda: 2)
