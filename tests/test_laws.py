"""The laws of composition: chain's algebra, and the limits in which one optimizer becomes another."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import collected
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import assert_near, follow, params_of, stream

import gradtx as gx

number = st.floats(0.01, 0.99)
pieces = st.one_of(
    st.builds(gx.scale_by_ema, number, st.booleans()),
    st.builds(gx.add_momentum, number, st.booleans()),
    st.builds(gx.bias_correction, number),
    st.builds(gx.running_sum, number),
    st.builds(gx.clip, number),
    st.builds(gx.clip_by_global_norm, number),
    st.builds(gx.add_weight_decay, number),
    st.builds(gx.scale, number),
    st.just(gx.identity()),
    st.builds(gx.momentum, number),
    st.builds(lambda b, c: gx.precondition(gx.momentum(b), by=gx.rms(c)), number, number),
)
chains = st.lists(pieces, max_size=3).map(lambda several: gx.chain(*several))


@settings(max_examples=25, deadline=None)
@given(chains, chains, chains)
def test_chain_is_associative_states_included(a, b, c):
    left, right, flat = gx.chain(gx.chain(a, b), c), gx.chain(a, gx.chain(b, c)), gx.chain(a, b, c)
    assert left == right == flat and hash(left) == hash(right)
    params = params_of()
    state = left.init(params)
    chex.assert_trees_all_equal(state, right.init(params))
    assert jax.tree.structure(state) == jax.tree.structure(right.init(params))
    nested = params
    for tx in (a, b, c):  # applied one after another, each with its own state
        nested, _ = tx.update(nested, tx.init(params), params)
    assert_near(flat.update(params, state, params)[0], nested, 1e-5)


@settings(max_examples=25, deadline=None)
@given(chains)
def test_identity_is_the_unit_of_chain(tx):
    params = params_of()
    gradients = list(stream(params, 2))
    expected, state = follow(tx, params, gradients)
    for same in (gx.chain(gx.identity(), tx), gx.chain(tx, gx.identity()), gx.chain(gx.chain(), tx)):
        got, same_state = follow(same, params, gradients)
        chex.assert_trees_all_equal((got, same_state), (expected, state))
        assert jax.tree.structure(same_state) == jax.tree.structure(state)


@settings(max_examples=25, deadline=None)
@given(chains)
def test_a_composition_prints_as_the_call_that_makes_it(tx):
    assert gx.read(repr(tx)) == tx


@settings(max_examples=10, deadline=None)
@given(pieces)
def test_a_chain_of_one_has_the_state_of_the_one(piece):
    params = params_of()
    assert jax.tree.structure(gx.chain(piece).init(params)) == jax.tree.structure(piece.init(params))
    both = (gx.chain(piece).update(params, gx.chain(piece).init(params), params) for piece in (piece,))
    assert_near(next(both), piece.update(params, piece.init(params), params))


@settings(max_examples=10, deadline=None)
@given(st.lists(pieces, min_size=1, max_size=3))
def test_add_is_the_sum_of_its_parts(several):
    params = params_of()
    parts = [follow(piece, params, [params])[0][0] for piece in several]
    got, _ = follow(gx.add(*several), params, [params])
    assert_near(got[0], jax.tree.map(lambda *x: sum(x), *parts), 1e-6)


def test_putting_a_piece_in_keeps_the_slots():
    params = params_of()
    adam, clipped = gx.adam(), gx.chain(gx.clip_by_global_norm(1.0), gx.adam(lambda step: 1e-3))
    assert jax.tree.structure(adam.init(params)) == jax.tree.structure(clipped.init(params))
    assert set(adam.init(params).slots) == {"precondition"}


# ---------------------------------------------------------------- the family
rate = 0.03
without_bias = gx.chain(gx.square(), gx.scale_by_ema(0.9), gx.sqrt())
FAMILY = {
    "adam without a direction is corrected RMSProp": (gx.adam(rate, b1=0.0), gx.rmsprop(rate, 0.999, corrected=True)),
    "adam without a denominator is momentum": (
        gx.chain(gx.momentum(0.9), gx.scale_by_learning_rate(rate)),
        gx.chain(gx.precondition(gx.momentum(0.9), by=gx.chain(gx.scale(0.0)), eps=1.0), gx.sgd(rate)),
    ),
    "adam with neither is SGD on signs": (
        gx.adam(rate, 0.0, 0.0, eps=0.0),
        gx.chain(gx.sign(), gx.scale_by_learning_rate(rate)),
    ),
    "uncorrected adam without a direction is RMSProp": (
        gx.adam(rate, 0.0, 0.9, corrected=False),
        gx.rmsprop(rate, 0.9),
    ),
    "adamw without decay is adam": (gx.adamw(rate, weight_decay=0.0), gx.adam(rate)),
    "adamw with decay nowhere is adam": (gx.adamw(rate, where={"w": False, "b": False}), gx.adam(rate)),
    "momentum 0 is SGD": (gx.heavy_ball(rate, 0.0), gx.sgd(rate)),
    "averaged momentum 0 is SGD": (gx.averaged_momentum(rate, 0.0), gx.sgd(rate)),
    "nesterov 0 is SGD": (gx.nesterov(rate, 0.0), gx.sgd(rate)),
    "rate-inside momentum is the heavy ball": (gx.rate_inside_momentum(rate, 0.9), gx.heavy_ball(rate, 0.9)),
    "averaged momentum is the heavy ball at a (1 − b)th of the rate": (
        gx.averaged_momentum(rate, 0.9),
        gx.heavy_ball(rate * (1 - 0.9), 0.9),
    ),
    "a ball that rolls is the heavy ball": (gx.rolling_ball(0.1, friction=2.0, mass=4.0), gx.heavy_ball(0.1, 0.95)),
    "sgd(momentum) is the heavy ball": (gx.sgd(rate, 0.9), gx.heavy_ball(rate, 0.9)),
    "sgd(nesterov) is nesterov": (gx.sgd(rate, 0.9, nesterov=True), gx.nesterov(rate, 0.9)),
    "sgdw without decay is the heavy ball": (gx.sgdw(rate, 0.9, weight_decay=0.0), gx.heavy_ball(rate, 0.9)),
    "signum that forgets is sign_sgd": (gx.signum(rate, 0.0), gx.sign_sgd(rate)),
    "lion of one decay is signum": (gx.lion(rate, 0.9, 0.9, weight_decay=0.0), gx.signum(rate, 0.9)),
    "qhm with all of the average is averaged momentum": (gx.qhm(rate, 0.9, 1.0), gx.averaged_momentum(rate, 0.9)),
    "qhm with none of it is SGD": (gx.qhm(rate, 0.9, 0.0), gx.sgd(rate)),
    "qhm with its decay as the weight is Nesterov's": (
        gx.qhm(rate, 0.9, 0.9),
        gx.chain(gx.scale(1 - 0.9), gx.nesterov(rate, 0.9)),
    ),
    "lion's direction is qhm's": (
        gx.chain(gx.blend(gx.scale_by_ema(0.8, before=True), 0.7 * 0.8), gx.scale_by_learning_rate(rate)),
        gx.qhm(rate, 0.8, 0.7),
    ),
    "qhadam with all of the averages is adam": (gx.qhadam(rate, 0.9, 0.999, 1.0, 1.0), gx.adam(rate)),
    "aggmo of one momentum is the heavy ball": (gx.aggmo(rate, (0.9,)), gx.heavy_ball(rate, 0.9)),
    "aggmo without momenta is SGD": (gx.aggmo(rate, (0.0, 0.0)), gx.sgd(rate)),
    "optimistic_sgd without optimism is SGD": (gx.optimistic_sgd(rate, 0.0), gx.sgd(rate)),
    "optimistic_adam without optimism is adam": (gx.optimistic_adam(rate, 0.0), gx.adam(rate)),
    "ademamix without its slow average is adam": (gx.ademamix(rate, alpha=0.0), gx.adam(rate)),
    "adan without the change is adam": (gx.adan(rate, 0.9, 0.9, 0.999, gain=0.0), gx.adam(rate)),
    "grokfast without gain is its inner": (gx.grokfast(gx.adam(rate), gain=0.0), gx.adam(rate)),
    "cautious does not change an optimizer that never goes uphill": (
        gx.cautious(gx.adam(rate, b1=0.0), floor=1.0),
        gx.adam(rate, b1=0.0),
    ),
    "nadam without a direction is adam without one": (gx.nadam(rate, b1=0.0), gx.adam(rate, b1=0.0)),
    "adamax that forgets is the sign": (
        gx.adamax(rate, b1=0.0, b2=0.0, eps=0.0),
        gx.chain(gx.sign(), gx.scale_by_learning_rate(rate)),
    ),
    "laprop without a direction is adam without one": (
        gx.laprop(rate, b1=0.0, eps=1e-8),
        gx.adam(rate, b1=0.0),
    ),
    "adabelief whose average is the gradient has only ε for a denominator": (
        gx.adabelief(rate, b1=0.0, eps=1.0, eps_in_average=0.0),
        gx.sgd(rate),
    ),
    "adabelief of one decay divides by the running variance": (
        gx.adabelief(rate, 0.9, 0.9, eps=0.0, eps_in_average=0.0),
        gx.chain(
            gx.precondition(
                gx.momentum(0.9),
                by=gx.chain(gx.running_variance(0.9), gx.scale(0.9), gx.bias_correction(0.9), gx.sqrt()),
                eps=0.0,
            ),
            gx.scale_by_learning_rate(rate),
        ),
    ),
    "radam whose squares are too few is momentum": (
        gx.radam(rate, 0.9, b2=0.5),
        gx.chain(gx.momentum(0.9), gx.scale_by_learning_rate(rate)),
    ),
    "stable_adamw whose denominator never lags is adamw": (
        gx.stable_adamw(rate, b2=0.0),
        gx.adamw(rate, b2=0.0, eps=1e-6),
    ),
    "adopt that forgets divides by the gradient before": (
        gx.adopt(rate, b1=0.0, b2=0.0),
        gx.chain(
            gx.precondition(gx.identity(), by=gx.chain(gx.abs(), gx.delay(), gx.lower_bound(1e-6)), eps=0.0),
            gx.adopt_clip(0.25),
            gx.scale_by_learning_rate(rate),
        ),
    ),
    "nadamw without decay is nadam": (gx.nadamw(rate, weight_decay=0.0), gx.nadam(rate)),
    "adamaxw without decay is adamax": (gx.adamaxw(rate, weight_decay=0.0), gx.adamax(rate)),
    "rprop with fixed steps is the sign": (
        gx.rprop(rate, grow=1.0, shrink=1.0),
        gx.chain(gx.sign(), gx.scale_by_learning_rate(rate)),
    ),
    "scale_by_rms is the RMSProp piece": (
        gx.chain(gx.scale_by_rms(0.9), gx.scale_by_learning_rate(rate)),
        gx.rmsprop(rate, 0.9),
    ),
    "rmsprop is the composition": (
        gx.chain(gx.precondition(gx.identity(), by=without_bias), gx.scale_by_learning_rate(rate)),
        gx.rmsprop(rate, 0.9),
    ),
    "the average of a constant stream, corrected, is the stream": (
        gx.chain(gx.scale(0.0), gx.add_constant(3.0), gx.momentum(0.99)),
        gx.chain(gx.scale(0.0), gx.add_constant(3.0)),
    ),
    "an average from the first update needs no correction on a constant": (
        gx.chain(gx.scale(0.0), gx.add_constant(3.0), gx.scale_by_ema(0.99, from_first=True)),
        gx.chain(gx.scale(0.0), gx.add_constant(3.0)),
    ),
}


FAMILY |= collected("LAWS")
IN_THE_LIMIT = {  # of a number that can only be made large
    "adabound with narrow bounds is momentum",
    "asam of one width is sam",
    "came that is sure of all is adafactor's direction, averaged",
    "cocob of the first bets is the mean gradient",
}


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.usefixtures("eager")
def test_the_family(x64, name):
    params = params_of("float64")
    gradients = list(stream(params))
    made, parent = (follow(tx, params, gradients)[0] for tx in FAMILY[name])
    assert_near(made, parent, 2e-6 if name in IN_THE_LIMIT else 1e-12)


def test_amsgrad_is_adam_while_the_denominator_grows():
    params = params_of()
    growing = [jax.tree.map(lambda p, t=t: p * t, params) for t in range(1, 8)]
    amsgrad, _ = follow(gx.amsgrad(rate, correct_first=False), params, growing)
    assert_near(amsgrad, follow(gx.adam(rate), params, growing)[0], 2e-6)


def test_yogi_is_adagrad_while_the_squares_exceed_their_average():
    params = params_of()
    growing = [jax.tree.map(lambda p, t=t: p * t, params) for t in range(1, 8)]
    yogi, _ = follow(gx.yogi(rate, b1=0.0, b2=0.75, eps=0.0, initial_value=0.0, corrected=False), params, growing)
    assert_near(yogi, follow(gx.adagrad(2 * rate, eps=0.0), params, growing)[0], 2e-6)


def test_adagrad_stalls_and_rmsprop_does_not():
    params, constant = jnp.zeros(2), [jnp.array([1.0, 100.0])] * 400
    adagrad, _ = follow(gx.adagrad(1.0, eps=0.0), params, constant)
    rmsprop, _ = follow(gx.rmsprop(1.0, 0.9, eps=0.0), params, constant)
    for t in (1, 4, 100, 400):
        assert_near(adagrad[t - 1], -jnp.ones(2) / jnp.sqrt(t), 1e-6)
    assert_near(rmsprop[-1], -jnp.ones(2), 1e-6)


def test_the_notes_average_of_a_series():
    """Row 12: 25, 13, 17, 31, 43, from 0 and from the first value."""
    series = [jnp.array(x) for x in (25.0, 13.0, 17.0, 31.0, 43.0)]
    for decay in (0.5, 0.9):
        for from_first in (False, True):
            value = 25.0 if from_first else 0.0
            got, _ = follow(gx.scale_by_ema(decay, from_first), jnp.zeros(()), series)
            for x, v in zip(series, got):
                value = decay * value + (1 - decay) * float(x)
                assert abs(float(v) - value) < 1e-5


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_the_global_norm_at_any_scale(size):
    tree = {"a": jnp.full(3, 3 * size), "b": jnp.full((2, 2), -2 * size), "c": None}
    expected = size * (3 * 9 + 4 * 4) ** 0.5
    assert abs(float(gx.global_norm(tree)) / expected - 1) < 1e-6
    tx = gx.clip_by_global_norm(size)
    u, _ = tx.update(tree, tx.init(tree))
    assert abs(float(gx.global_norm(u)) / size - 1) < 1e-6
    wide = gx.clip_by_global_norm(size * 100) if size < 1e30 else gx.clip_by_global_norm(3e38)
    chex.assert_trees_all_equal(wide.update(tree, wide.init(tree))[0], tree)


@pytest.mark.parametrize(
    "dtype, value, count", [("float16", 300.0, 3), ("bfloat16", 1.0, 1000), ("float16", 1.0, 10**6)]
)
def test_the_global_norm_in_low_precision(dtype, value, count):
    tree = [jnp.full(count, value, dtype)] * 2
    assert abs(float(gx.global_norm(tree)) / (value * (2 * count) ** 0.5) - 1) < 1e-6


@pytest.mark.parametrize("size", [0.0, 2e-38, 1e-30, 1.0, 1e30, 1e37])
def test_the_global_norm_of_constants(size):
    """XLA folds constants of a compiled function, which must not overflow on the way."""
    for count in (1, 30):
        got = jax.jit(lambda: gx.global_norm({"w": jnp.full(count, size), "b": jnp.zeros(())}))()  # noqa: B023
        assert abs(float(got) - size * count**0.5) <= 1e-6 * size * count**0.5


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_clipping_by_norm_does_not_hide_non_finite_gradients(bad):
    """A non-finite coordinate makes NaN of every coordinate under the norm."""
    g = {"a": jnp.array([bad, 1.0]), "b": jnp.ones(2)}
    for tx, spared in ((gx.clip_by_global_norm(1.0), 0), (gx.clip_by_norm(2.0), 2)):
        u, _ = tx.update(g, tx.init(g))
        assert bool(jnp.isnan(u["a"]).all()) and jnp.sum(u["b"] == 1) == spared
        assert bool(jnp.isnan(u["b"]).all()) == (not spared)


ODD = [
    gx.sgd(rate, 0.9, nesterov=True),
    gx.rmsprop(rate),
    gx.adam(rate),
    gx.lion(rate, weight_decay=0.0),
    gx.adan(rate),
]


@pytest.mark.parametrize("tx", ODD, ids=["sgd", "rmsprop", "adam", "lion", "adan"])
@pytest.mark.usefixtures("eager")
def test_a_flip_of_sign_flips_the_updates_to_the_bit(tx):
    params = params_of()
    flip = partial(jax.tree.map, jnp.negative)
    expected, _ = follow(tx, params, stream(params, 4))
    assert_near(follow(tx, params, map(flip, stream(params, 4)))[0], flip(expected), 0)


@pytest.mark.parametrize("tx", [gx.adam(rate, eps=0.0), gx.lion(rate, weight_decay=0.0), gx.lamb(rate, eps=0.0)])
@pytest.mark.parametrize("scale", [1e-6, 1000.0])
@pytest.mark.usefixtures("eager")
def test_without_eps_the_scale_of_the_gradients_does_not_matter(tx, scale):
    params = params_of()
    expected, _ = follow(tx, params, stream(params, 4))
    scaled = (jax.tree.map(lambda x: scale * x, g) for g in stream(params, 4))
    assert_near(follow(tx, params, scaled)[0], expected)


@pytest.mark.parametrize(
    "tx", [gx.sgd(rate), gx.sgd(rate, 0.9, nesterov=True), gx.averaged_momentum(rate), gx.qhm(rate)]
)
@pytest.mark.usefixtures("eager")
def test_linear_optimizers_commute_with_rotations(tx):
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0], jnp.float32)
    params = jnp.ones(12)
    expected, _ = follow(tx, params, stream(params, 4))
    turned, _ = follow(tx, params, (turn @ g for g in stream(params, 4)))
    assert_near(turned, [turn @ u for u in expected])
