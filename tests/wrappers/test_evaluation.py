"""`eval_params`: against NumPy after each of many steps, and in any composition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from references import divide
from streams import assert_near, follow, params_of, stream, types

import gradtx as gx

STEPS = 60
CURVATURE = np.array([0.1, 1.0, 5.0])
START = np.array([1.0, -2.0, 0.5])
NOISE = np.random.default_rng(0).standard_normal((STEPS, 3))
RATE = 0.1


def both(tx, steps=STEPS, dtype=None):
    """The parameters, and those to evaluate, after each step on a bowl with noise."""

    def step(carry, noise):
        params, state = carry
        updates, state = tx.update(CURVATURE * params + noise, state, params)
        params = gx.apply_updates(params, updates)
        return (params, state), (params, gx.eval_params(tx, state, params))

    params = jnp.asarray(START, dtype)
    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), jnp.asarray(NOISE[:steps], dtype)))()[1]


# ---------------------------------------------------------------- against NumPy
def descent():
    """Plain descent."""
    w = START
    for noise in NOISE:
        w = w - RATE * (CURVATURE * w + noise)
        yield w


def averaged(decay: Any, start=1, every=1):
    """The weighted mean by definition: each iterate weighs the product of the later decays."""
    taken, weights = [], []
    for t, w in enumerate(descent(), 1):
        if t >= start and (t - start) % every == 0:
            weights = [x * (decay(t - 1) if callable(decay) else decay) for x in weights] + [1.0]
            taken.append(w)
        yield w, np.average(taken, 0, weights) if taken else w


def as_in_pytorch(lambd, alpha, t0):
    """PyTorch's ASGD, whose average has a weight μ that the step before sets."""
    w, mean, eta, mu = START, 0 * START, RATE, 1.0
    for t, noise in enumerate(NOISE, 1):
        g = CURVATURE * w + noise
        w = w * (1 - lambd * eta) - eta * g
        mean = w if mu == 1 else mean + mu * (w - mean)
        eta, mu = RATE / (1 + lambd * RATE * t) ** alpha, 1 / max(1, t - t0)
        yield w, mean


def slow_and_fast(every, share):
    """The two loops of the paper."""
    slow, noise = START, iter(NOISE)
    while True:
        fast = slow
        for i in range(every):
            try:
                fast = fast - RATE * (CURVATURE * fast + next(noise))
            except StopIteration:
                return
            if i < every - 1:
                yield fast, slow
        slow = slow + share * (fast - slow)
        yield slow, slow


def free(b1: Any, weight: Any = lambda step: 1.0, b2: Any = None):
    """The paper's three sequences, all kept; with b2, for Adam without momentum."""
    x = z = y = START
    total, v = 0.0, 0.0
    for step, noise in enumerate(NOISE):
        g = CURVATURE * y + noise
        if b2:
            v = b2 * v + (1 - b2) * g**2
            g = divide(g, np.sqrt(v / (1 - b2 ** (step + 1))) + 1e-8)
        z = z - RATE * g
        total += weight(step)
        c = weight(step) / total if total else 0.0
        x = (1 - c) * x + c * z
        b: Any = b1(step) if callable(b1) else b1
        y = (1 - b) * z + b * x
        yield y, x


def late(step):
    return 0.5 + 0.4 * step / (step + 5)


ORACLES = {
    "EMA": (gx.average_params(gx.sgd(RATE), 0.9), averaged(0.9)),
    "EMA of a scheduled decay": (gx.average_params(gx.sgd(RATE), late), averaged(late)),
    "EMA, late and seldom": (gx.average_params(gx.sgd(RATE), 0.9, start=10, every_k=7), averaged(0.9, 10, 7)),
    "mean": (gx.average_params(gx.sgd(RATE), 1.0), averaged(1.0)),
    "swa": (gx.swa(gx.sgd(RATE), start=20, every_k=5), averaged(1.0, 20, 5)),
    "asgd": (gx.asgd(RATE, 0.3, 0.75, start=22), as_in_pytorch(0.3, 0.75, 20)),
    "lookahead": (gx.lookahead(gx.sgd(RATE)), slow_and_fast(6, 0.5)),
    "lookahead, each step": (gx.lookahead(gx.sgd(RATE), 1, 0.3), slow_and_fast(1, 0.3)),
    "schedule_free": (gx.schedule_free(gx.sgd(RATE)), free(0.9)),
    "schedule_free at its average": (gx.schedule_free(gx.sgd(RATE), 1.0), free(1.0)),
    "schedule_free, weighted": (gx.schedule_free(gx.sgd(RATE), 0.8, lambda step: step * 1.0), free(0.8, float)),
    "schedule_free of a scheduled b1": (gx.schedule_free(gx.sgd(RATE), late), free(late)),
    "schedule_free_adamw": (gx.schedule_free_adamw(RATE, 0.8, 0.9), free(0.8, b2=0.9)),
}


@pytest.mark.parametrize(("tx", "expected"), ORACLES.values(), ids=ORACLES)
@pytest.mark.promotes("functions of the step, as users write them")
def test_eval_params_equal_numpy(x64, tx, expected):
    params, evaluated = both(tx)
    trained, averages = map(np.array, zip(*expected))
    assert_near(params, trained, 1e-12)
    assert_near(evaluated, averages, 1e-12)


@pytest.mark.promotes("Optax's arithmetic")
def test_an_average_with_decay_equals_optax(x64):
    _, evaluated = both(gx.average_params(gx.sgd(RATE), 0.9))
    ema = optax.ema(0.9, debias=True)
    state, theirs = ema.init(jnp.asarray(START)), []
    for w in descent():
        mean, state = ema.update(jnp.asarray(w), state)
        theirs.append(mean)
    assert_near(evaluated, jnp.stack(theirs), 1e-12)


def test_the_eval_params_of_schedule_free_equal_optax(x64):
    _, evaluated = both(gx.schedule_free(gx.sgd(RATE), 0.8))
    theirs = optax.contrib.schedule_free(optax.sgd(RATE), RATE, 0.8)
    params = jnp.asarray(START)
    state = theirs.init(params)
    for noise, ours in zip(NOISE, evaluated):
        updates, state = theirs.update(CURVATURE * params + noise, state, params)
        params = optax.apply_updates(params, updates)
        assert_near(ours, optax.contrib.schedule_free_eval_params(state, params), 1e-12)


def errors_in_float32(tx, evaluate):
    """Of the parameters and those to evaluate after 10,000 steps, against float64 with the same, rounded, numbers."""
    noise = np.random.default_rng(0).standard_normal((10_000, 3)).astype(np.float32)
    curvature, start = CURVATURE.astype(np.float32), START.astype(np.float32)
    rate, b1 = float(np.float32(RATE)), float(np.float32(0.9))
    x = y = z = start.astype(float)
    for t, g in enumerate(noise, 1):
        z = z - rate * (curvature.astype(float) * y + g)
        x = x + (z - x) / t
        y = z + b1 * (x - z)

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(curvature * params + g, state, params)
        return (params + updates, state), None

    start = jnp.asarray(start)
    params, state = jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), noise)[0])()
    return [np.max(abs(got - to)) / np.max(abs(to)) for got, to in ((params, y), (evaluate(state, params), x))]


def test_schedule_free_in_float32():
    tx = gx.schedule_free(gx.sgd(RATE))
    assert max(errors_in_float32(tx, lambda state, params: gx.eval_params(tx, state, params))) <= 5e-6
    theirs = optax.contrib.schedule_free(optax.sgd(RATE), RATE)
    assert max(errors_in_float32(theirs, optax.contrib.schedule_free_eval_params)) > 2e-5


@pytest.mark.parametrize(
    "tx", [gx.lookahead(gx.sgd(1.0), every_k=2), gx.average_params(gx.sgd(1.0), start=2, every_k=2)]
)
def test_a_nan_between_the_steps_that_count_is_ignored(tx):
    """Updates between the counted ones are not multiplied by 0."""
    params, gradients = jnp.zeros(2), [jnp.array([x, 1.0]) for x in (1.0, 2.0, jnp.nan, 3.0)]
    clean = [jnp.nan_to_num(g) for g in gradients]
    (_, state), (_, expected) = (follow(tx, params, stream) for stream in (gradients, clean))
    assert jnp.isfinite(gx.eval_params(tx, state, params)).all()
    assert_near(gx.eval_params(tx, state, params), gx.eval_params(tx, expected, params), 0)


def test_an_average_keeps_changes_that_bfloat16_loses():
    """Steps of 1e-3 from 1 are lost in bfloat16 parameters, but not in the base of schedule_free."""
    for tx in (gx.schedule_free(gx.sgd(1e-3), 0.5), gx.average_params(gx.sgd(1e-3), 1.0)):
        params = jnp.ones(3, jnp.bfloat16)
        state = tx.init(params)
        for _ in range(100):
            updates, state = tx.update(jnp.ones(3), state, params)
            params = gx.apply_updates(params, updates)
        slots = jax.tree.leaves(state.slots)
        assert all(slot.dtype == jnp.float32 for slot in slots if slot.shape)
        assert any(slot.shape and (slot < 1 - 5e-4).all() for slot in slots)


LONG = {  # the transformation, its decay, and the first update that it averages
    "mean": (gx.average_params(gx.sgd(1.0), 1.0), 1.0, 1),
    "EMA": (gx.average_params(gx.sgd(1.0), 0.99999), float(np.float32(0.99999)), 1),
    "asgd": (gx.asgd(1.0, 0.0, start=1000), 1.0, 1000),
}


@pytest.mark.parametrize(("tx", "decay", "start"), LONG.values(), ids=LONG)
def test_an_average_over_a_million_updates_does_not_stall(tx, decay, start):
    """Parameters rise from 1 to 1.01; the average is NumPy's in float64, rounded to float32."""
    steps = 1_000_000
    path = np.linspace(1, 1.01, steps, dtype=np.float32)

    @jax.jit
    def last(state):
        return jax.lax.scan(lambda s, p: (tx.update(jnp.zeros(1), s, p[None])[1], None), state, path)[0]

    state = last(tx.init(jnp.ones(1)))
    taken = path[start - 1 :].astype(float)
    expected = np.average(taken, weights=decay ** np.arange(len(taken), dtype=float)[::-1])
    got = float(gx.eval_params(tx, state, jnp.ones(1))[0])
    assert abs(got - expected) < 1e-7


# ---------------------------------------------------------------- in any composition
average, ahead = gx.average_params(gx.sgd(RATE), 0.5), gx.lookahead(gx.sgd(RATE), 2)
SAME = {
    "in a chain": (gx.chain(gx.identity(), average), average),
    "in a chain in a chain": (gx.chain(gx.scale(1.0), gx.chain(average, gx.identity())), average),
    "the last of a chain": (gx.chain(gx.average_params(gx.scale(1.0), 0.9), average), average),
    "the outermost": (gx.lookahead(average, 2), ahead),
    "average_params around lookahead": (
        gx.average_params(ahead, 0.5),
        gx.average_params(gx.lookahead(gx.sgd(RATE), 2), 0.5),
    ),
    "in every group": (gx.partition({"**": average}), average),
    "in a group's chain": (gx.masked(gx.chain(gx.identity(), average), None, otherwise="zero"), average),
    "among labels": (gx.partition({"a": average}, labels={"w": "a", "b": "a"}), average),
    "two groups in a chain": (
        gx.chain(
            gx.masked(gx.average_params(gx.sgd(RATE), 0.5), "w", otherwise="identity"),
            gx.masked(gx.average_params(gx.sgd(RATE), 0.5), "b", otherwise="identity"),
        ),
        average,
    ),
    "beside a stream that is measured": (
        gx.chain(average, gx.monitor("mean", gx.global_norm, gx.average_params(gx.scale(2.0), 0.9))),
        average,
    ),
    "within another's field": (gx.blend(average, 1.0), average),
    "in a sum": (gx.add(average, gx.scale(0.0)), average),
}


def run(tx, steps=3):
    params = params_of()
    state = tx.init(params)
    for g in stream(params, steps):
        updates, state = tx.update(g, state, params)
        params = gx.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize(("tx", "same"), SAME.values(), ids=SAME)
def test_eval_params_are_found_at_any_depth(tx, same):
    params, state = run(tx)
    own, own_state = run(same)
    assert_near(gx.eval_params(tx, state, params), gx.eval_params(same, own_state, own))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), gx.eval_params(tx, state, params), params)
    assert moved == {"w": True, "b": True}


def test_each_group_has_its_own_eval_params_and_the_others_are_the_same_objects():
    tx = gx.partition({"w": average}, default=gx.adam())
    params, state = run(tx)
    evaluated = gx.eval_params(tx, state, params)
    assert evaluated["b"] is params["b"]
    alone = run(average)
    assert_near(evaluated["w"], gx.eval_params(average, alone[1], alone[0])["w"])
    for tx in (gx.adam(), gx.chain(), gx.partition({"w": gx.sgd(), "b": gx.adam()})):
        params, state = run(tx)
        assert gx.eval_params(tx, state, params) is params


class remembered(gx.Transformation):
    """A user's wrapper, which evaluates half the parameters."""

    inner: gx.Transformation

    def init_tree(self, params):
        return {"share": jnp.full((), 0.5)}

    def update_tree(self, updates, slots, context):
        return updates, slots

    def evaluate(self, params, slots):
        return jax.tree.map(lambda p: slots["share"] * p, params)


def test_a_users_wrapper():
    tx = gx.chain(gx.scale(1.0), remembered(gx.identity()))
    params, state = run(tx)
    assert_near(gx.eval_params(tx, state, params), jax.tree.map(lambda p: p / 2, params))


# ---------------------------------------------------------------- of any parameters
EACH = {
    "average_params": gx.average_params(gx.adam(), 0.9),
    "swa": gx.swa(gx.adam(), start=2),
    "lookahead": gx.lookahead(gx.adam(), 2),
    "schedule_free": gx.schedule_free(gx.adam(b1=0.0)),
}
each = pytest.mark.parametrize("tx", EACH.values(), ids=EACH)


@each
def test_eval_params_have_the_structure_and_dtypes_of_the_parameters(tx):
    params = {
        "low": jnp.ones(3, jnp.bfloat16),
        "pair": (jnp.full((2,), 1 + 2j, jnp.complex64), None),
        "count": jnp.arange(3),
        "float": 2.0,
        "empty": jnp.zeros((0, 2)),
    }
    g = params | {"count": None, "float": jnp.array(2.0)}
    state = tx.init(params)
    before = gx.eval_params(tx, state, params)
    for _ in range(3):
        updates, state = tx.update(g, state, params)
        params = gx.apply_updates(params, updates)
    after = gx.eval_params(tx, state, params)
    compiled = jax.jit(lambda state, params: gx.eval_params(tx, state, params))(state, params)
    for evaluated in (after, compiled):
        assert types(evaluated) == types(params)
        assert (evaluated["count"] == params["count"]).all() and evaluated["pair"][1] is None
        assert jnp.abs(evaluated["pair"][0] - params["pair"][0]).max() > 0
    assert_near(jax.tree.map(jnp.abs, compiled), jax.tree.map(jnp.abs, after))
    assert before["float"] == 2.0 and before["pair"][0].dtype == jnp.complex64
    assert after["count"] is params["count"]


@each
def test_before_the_first_update_eval_params_are_the_parameters(tx):
    for dtype in ("float32", "bfloat16"):
        params = params_of(dtype)
        evaluated = gx.eval_params(tx, tx.init(params), params)
        assert_near(evaluated, params, 0)
    for empty in ({}, {"a": None}):
        assert gx.eval_params(tx, tx.init(empty), empty) == empty


@each
def test_eval_params_of_a_parameter_without_gradients_are_the_parameter(tx):
    params = params_of()
    still, state = params["b"], tx.init(params)
    for g in stream(params, 4):
        updates, state = tx.update({**g, "b": None}, state, params)
        params = gx.apply_updates(params, updates)
    evaluated = gx.eval_params(tx, state, params)
    assert_near(evaluated["b"], still, 0)
    assert (evaluated["w"] != params["w"]).any() or isinstance(tx, gx.lookahead)


@pytest.mark.promotes("its models, as users write them")
def test_many_at_once():
    batch = gx.stack([gx.average_params(gx.sgd(RATE), decay) for decay in (0.5, 0.9)])
    params, evaluated = jax.vmap(lambda tx: both(tx, 5, "float32"))(batch)
    for i, decay in enumerate((0.5, 0.9)):
        alone = both(gx.average_params(gx.sgd(RATE), decay), 5, "float32")
        assert_near((params[i], evaluated[i]), alone)


# ---------------------------------------------------------------- errors
def test_bad_wrapper_input():
    p: Any = gx
    tx, params = p.average_params(p.sgd(RATE)), params_of()
    state, plain = tx.init(params), p.sgd(RATE).init(params)
    other, wide = tx.init({"w": params["w"]}), tx.init({**params, "w": jnp.ones(5)})
    refused = [
        (lambda: p.eval_params(3, state, params), TypeError, "eval_params: tx must be a transformation"),
        (lambda: p.eval_params(tx, params, params), TypeError, "needs the State of tx.init, got dict"),
        (lambda: p.eval_params(tx, plain, params), ValueError, r"slots\['average_params/.*'\] is missing"),
        (lambda: p.eval_params(p.sgd(RATE), state, params), ValueError, r"slots\['average_params/.*'\] is unexpected"),
        (lambda: p.eval_params(tx, other, params), ValueError, r"slots\['average_params/average/b'\] is missing"),
        (lambda: p.eval_params(tx, wide, params), ValueError, r"slots\['.*/w'\] must have shape \(3, 4\), got \(5,\)"),
        (lambda: p.eval_params(tx, state, {"w": "text"}), TypeError, r"params\['w'\] is 'text'"),
        (lambda: tx.update(params, state), ValueError, "average_params needs the parameters"),
        (lambda: p.average_params(p.sgd(), 0.0), ValueError, "average_params: decay must be above 0 and at"),
        (lambda: p.average_params(p.sgd(), 1.1), ValueError, "average_params: decay must be above 0 and at"),
        (lambda: p.average_params(p.sgd(), start=0), ValueError, "average_params: start must be an integer, 1 or"),
        (lambda: p.swa(p.sgd(), every_k=0.5), TypeError, "swa: every_k must be an integer"),
        (lambda: p.lookahead(p.sgd(), every_k=0), ValueError, "lookahead: every_k must be an integer, 1 or more"),
        (lambda: p.lookahead(p.sgd(), weight=0.0), ValueError, "lookahead: weight must be above 0 and at"),
        (lambda: p.lookahead(0.1), TypeError, "lookahead: inner must be a transformation"),
        (lambda: p.schedule_free(p.sgd(), 0.0), ValueError, "schedule_free: b1 must be above 0 and at"),
        (lambda: p.schedule_free(p.sgd(), weight=-1.0), ValueError, "schedule_free: weight must be a finite num"),
        (lambda: p.schedule_free_adamw("fast"), TypeError, "schedule_free_adamw: learning_rate must be a number"),
    ]  # fmt: skip
    for call, error, message in refused:
        with pytest.raises(error, match=message):
            call()


INSIDE = {
    "chain": (gx.chain, True),
    "add": (lambda inner: gx.add(inner, gx.scale(0.0)), True),
    "lazy": (gx.lazy, True),
    "leafwise": (gx.leafwise, True),
    "leafwise twice": (lambda inner: gx.leafwise(gx.chain(gx.clip(9.0), gx.leafwise(inner))), True),
    "rowwise": (gx.rowwise, True),
    "rowwise, columns": (lambda inner: gx.rowwise(inner, axis=1), True),
    "masked": (lambda inner: gx.masked(inner, None, otherwise="zero"), True),
    "partition": (lambda inner: gx.partition({"slow": inner}, default=inner), True),
    "accumulate": (lambda inner: gx.accumulate(inner, 1), True),
    "skip_nonfinite": (gx.skip_nonfinite, True),
    "reduced": (gx.reduced, False),  # the slow weights are of means
    "factored": (gx.factored, False),
    "monitor": (lambda inner: gx.monitor("m", lambda tree: 0.0, inner), False),
}


@pytest.mark.parametrize("name", INSIDE)
def test_in_every_combinator_whatever_the_parameters_are_called(name):
    around, seen = INSIDE[name]
    names = ["inner", "slow", "links", "lookahead", "step", "measured", "default"]
    params = {key: jnp.full((2, 3), 1.0 + i) for i, key in enumerate(names)}
    tx = around(gx.lookahead(gx.sgd(0.5), every_k=3))
    u, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    moved = gx.apply_updates(params, u)
    found = gx.eval_params(tx, state, moved)
    for one, expected in zip(jax.tree.leaves(found), jax.tree.leaves(params if seen else moved)):
        assert one.shape == expected.shape and jnp.array_equal(one, expected)
    assert {row.parameter for row in gx.explain(tx, params).rows} == {*names}
    assert 0.5 in gx.hyperparameters(tx, state).values()
    assert gx.measurements(state).keys() == {"skip_nonfinite": {"skipped", "skipped in a row"}, "monitor": {"m"}}.get(
        name, set()
    )
