"""Skipped spikes: against the rule in NumPy, and with everything that a guard is used with."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import assert_near, params_of, stream

import gradtx as gx

falling = gx.schedules.linear(0.1, 0.01, 4)
params = params_of()


def average(numbers, warmup, decay):
    """The mean and the variance by definition: plain ones of the first numbers, then exponential ones."""
    mean, variance = np.mean(numbers[:warmup]), np.var(numbers[:warmup])
    for x in numbers[warmup:]:
        mean = decay * mean + (1 - decay) * x
        variance = decay * variance + (1 - decay) * (x - mean) ** 2
    return mean, variance


def spikes_of_norm(norms, factor, decay, warmup):
    seen, found = [], []
    for x in norms:
        mean = average(seen, warmup, decay)[0] if seen else 0.0
        spike = not np.isfinite(x) or (len(seen) >= warmup and x > factor * mean)
        seen += [min(x, factor * mean) if spike else x] if np.isfinite(x) else []
        found.append(bool(spike))
    return found


def spikes_of_loss(losses, factor, decay, warmup):
    seen, found = [], []
    for x in losses:
        mean, variance = average(seen, warmup, decay) if seen else (0.0, 0.0)
        spike = not np.isfinite(x) or (len(seen) >= warmup and variance > 0 and x > mean + factor * variance**0.5)
        seen += [mean + factor * variance**0.5 if spike else x] if np.isfinite(x) else []
        found.append(bool(spike))
    return found


def numbers_of(seed):
    x = np.exp(0.3 * np.random.default_rng(seed).standard_normal(200))
    x[[20, 60, 61, 62, 110]] *= 30
    x[[3, 90]] = np.nan, np.inf
    x[150:] *= 5  # a rise that lasts
    return x


# ---------------------------------------------------------------- the rules
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("factor", "decay", "warmup"), [(2.0, 0.9, 10), (3.0, 0.99, 1), (1.5, 0.5, 5)])
def test_spikes_are_those_of_the_rule(factor, decay, warmup, seed, x64):
    numbers = numbers_of(seed)
    gradients = np.where(np.isfinite(numbers), 0.6 * numbers, numbers)[:, None], 0.8 * numbers[:, None]
    tx = gx.skip_if(gx.sgd(1.0), gx.norm_spike(factor, decay, warmup))
    got, state = followed(tx, [jnp.asarray(x) for x in gradients])
    expected = spikes_of_norm(numbers, factor, decay, warmup)
    assert got.tolist() == expected and 6 < sum(expected) < 100 and not all(expected[-5:])
    assert gx.measurements(state)["skipped"] == sum(expected)
    tx = gx.skip_if(gx.sgd(1.0), gx.loss_spike(factor, decay, warmup))
    got, state = followed(tx, [jnp.ones((200, 1)), jnp.ones((200, 1))], jnp.asarray(numbers - 3))
    expected = spikes_of_loss(numbers - 3, factor, decay, warmup)
    assert got.tolist() == expected and 6 < sum(expected) < 190


def followed(tx, gradients, values=None):
    """Which steps were skipped, and the last state."""

    def step(state, given):
        g, value = given
        u, state = tx.update(g, state, None, **({} if values is None else {"value": value}))
        return state, u[1][0] == 0

    start = tx.init([jnp.zeros(1, gradients[0].dtype)] * 2)
    state, skipped = jax.lax.scan(step, start, (gradients, jnp.zeros(len(gradients[0])) if values is None else values))
    return np.asarray(skipped), state


@pytest.mark.parametrize("level", [1.0, 0.0, -2.0])
def test_a_constant_loss_has_no_spikes_and_a_new_level_is_accepted(level):
    tx = gx.skip_if(gx.sgd(1.0), gx.loss_spike(warmup=5))
    values = jnp.concatenate([jnp.full(50, level), jnp.full(400, level + 100.0)])
    got, _ = followed(tx, [jnp.ones((450, 1))] * 2, values)
    assert not got[:50].any() and not got[-5:].any()


def test_a_lasting_rise_of_the_norm_is_accepted():
    norms = jnp.concatenate([jnp.ones(50), jnp.full(1000, 100.0)])[:, None]
    got, _ = followed(gx.skip_if(gx.sgd(1.0), gx.norm_spike()), [norms, 0 * norms + 1e-3])
    assert not got[:50].any() and got[50] and not got[-5:].any()


# ---------------------------------------------------------------- the state
def is_bad(gradients, value, state):
    return gradients["b"][2] > 1e3


PREDICATES = {"norm": gx.norm_spike(3.0, warmup=1), "a function": is_bad}
INNER = {
    "adam": gx.adam(falling),
    "every": gx.every(gx.adam(falling), 2),
    "accumulate": gx.accumulate(gx.adam(falling), 2),
    "a group": gx.partition({"w": gx.adamw(falling)}, default=gx.momentum(0.9)),
    "another guard": gx.skip_nonfinite(gx.adam(falling)),
}


def spoilt(g):
    return {**g, "b": g["b"].at[2].set(1e6)}


def walked(tx, gradients):
    theta, state, path, apply = params, tx.init(params), [], jax.jit(tx.apply)
    for g in gradients:
        theta, state = apply(theta, state, g)
        path.append(theta)
    return path, state


@pytest.mark.parametrize("predicate", PREDICATES)
@pytest.mark.parametrize("inner", INNER)
def test_the_step_after_skipped_steps_is_unaffected(inner, predicate):
    a, b, c, d, e = stream(params, 5)
    tx = gx.skip_if(INNER[inner], PREDICATES[predicate])
    clean, expected = walked(tx, [a, b, c, d, e])
    path, state = walked(tx, [a, b, spoilt(b), spoilt(c), c, d, e])
    chex.assert_trees_all_equal([path[i] for i in (0, 1, 4, 5, 6)], clean)
    chex.assert_trees_all_equal(path[2:4], [path[1]] * 2)
    for name in ("inner", "step"):
        chex.assert_trees_all_equal(state.slots["skip_if"][name], expected.slots["skip_if"][name])
    assert [int(x) for x in [*gx.measurements(state).values()][-2:]] == [2, 0]


def test_a_function_sees_the_loss_and_the_measurements_of_the_state():
    seen = []

    def rule(gradients, value, state):
        seen.append((value is None, isinstance(state, gx.State)))
        return gx.measurements(state)["norm"] > (2.0 if value is None else value)

    inner = gx.chain(gx.monitor("norm", gx.global_norm), gx.sgd(1.0))
    tx = gx.skip_if(inner, rule)
    state, out = tx.init(jnp.zeros(1)), []
    for g, given in ((3.0, {}), (1.0, {}), (1.0, {"value": 4.0}), (1.0, {"value": 0.5})):
        u, state = tx.update(jnp.array([g]), state, **given)
        out.append(float(u[0]))
    assert out == [-3.0, 0.0, -1.0, 0.0] and set(seen) == {(True, True), (False, True)}
    assert "predicate=rule" in repr(tx) and gx.read(repr(tx), {"rule": rule}) == tx


def test_it_is_resumed_from_a_saved_state():
    tx, gradients = gx.skip_if(gx.adam(falling), gx.norm_spike(1.2, warmup=2)), list(stream(params, 8))
    whole, expected = walked(tx, gradients)
    _, half = walked(tx, gradients[:4])
    state, report = gx.restore(tx, params, jax.tree.map(np.asarray, half))
    assert not report.fresh and not report.dropped
    theta = whole[3]
    for g in gradients[4:]:
        theta, state = tx.apply(theta, state, g)
    assert_near((theta, state), (whole[-1], expected))
    bare, _ = gx.restore(gx.adam(falling), params, half, strict=False)  # without the guard, at its clock
    assert bare.step == half.slots["skip_if"]["step"]
    again, report = gx.restore(tx, params, bare, strict=False)
    assert again.slots["skip_if"]["step"] == bare.step
    assert {path.split("/")[2] for path in report.fresh} == {"measured", "predicate"}


def test_under_vmap_each_step_is_refused_by_itself():
    def run(factor, gradients):
        tx: Any = gx.skip_if(gx.adam(0.1), gx.norm_spike(factor, warmup=1))
        return jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], tx.init(jnp.ones(2)), gradients)

    factors, rows = jnp.array([1.5, 5.0]), jnp.array([[1.0, 1.0], [3.0, 3.0], [1.0, 1.2]])
    state, out = jax.vmap(run, (0, None))(factors, rows)
    assert gx.measurements(state)["skipped"].tolist() == [1, 0]
    for i in range(2):
        alone_state, alone = run(float(factors[i]), rows)
        assert_near(out[i], alone)
        assert_near(jax.tree.map(lambda x, i=i: x[i], state), alone_state)


def test_hyperparameters_of_the_predicate_are_the_optimizer_s():
    tx = gx.skip_if(gx.sgd(0.1), gx.norm_spike(gx.schedules.linear(3.0, 1.0, 2)))
    assert gx.hyperparameters(tx) == {"learning_rate": 0.1, "factor": 3.0, "decay": 0.99}
    state = tx.init(jnp.ones(1))
    _, state = tx.update(jnp.ones(1), state)
    assert gx.hyperparameters(tx, state)["factor"] == 2.0
    plain = gx.skip_if(gx.sgd(0.1), gx.norm_spike(3.0))
    assert gx.set_hyperparameters(plain, {"factor": 4.0}) == gx.skip_if(gx.sgd(0.1), gx.norm_spike(4.0))


def test_train_step_gives_the_loss_to_guards():
    def loss(w, batch):
        return w @ w + jnp.where(batch > 5, jnp.nan, 0.0)  # whose gradient is finite

    w = jnp.ones(2)
    for tx in (
        gx.skip_nonfinite(gx.sgd(0.1)),
        gx.skip_if(gx.sgd(0.1), gx.loss_spike()),
        gx.skip_if(gx.sgd(0.1), lambda gradients, value, state: jnp.isnan(value)),
        gx.accumulate(gx.skip_nonfinite(gx.sgd(0.1)), 1),
    ):
        step = gx.train_step(loss, tx, donate=False)
        state = step.tx.init(w)
        good, _, _ = step(w, state, jnp.array(0.0))
        same, after, metrics = step(w, state, jnp.array(9.0))
        assert (good < w).all() and (same == w).all() and jnp.isnan(metrics.loss)
        assert gx.measurements(after)["skipped"] == 1
    tx = gx.accumulate(gx.skip_nonfinite(gx.sgd(0.1)), 2)
    step, theta = gx.train_step(loss, tx, donate=False), w
    state = step.tx.init(w)
    for batch in (9.0, 0.0):  # the loss of the group is not finite
        theta, state, _ = step(theta, state, jnp.array(batch))
    assert (theta == w).all() and gx.measurements(state)["skipped"] == 1


@pytest.mark.parametrize("answer", [True, False, np.True_, np.False_])
def test_a_predicate_may_return_a_bool(answer):
    tx = gx.skip_if(gx.sgd(0.5), lambda gradients, value, state: answer)
    updates, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    assert (updates == (0.0 if answer else -0.5)).all()


def test_its_errors_name_the_argument():
    for bad in (3.0, gx.adam(), None, lambda gradients: True, gx.norm_spike):
        with pytest.raises(TypeError, match=r"^skip_if: predicate must be "):
            gx.skip_if(gx.sgd(0.1), bad)
    tx = gx.skip_if(gx.sgd(0.1), lambda gradients, value, state: gradients)
    with pytest.raises(TypeError, match=r"^skip_if: predicate must return True or False, got "):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    with pytest.raises(ValueError, match=r"^loss_spike needs the argument 'value'"):
        gx.loss_spike().update(jnp.ones(2), gx.loss_spike().init(jnp.ones(2)))
    for tx in (gx.skip_nonfinite(gx.sgd(0.1)), gx.skip_if(gx.sgd(0.1), is_bad)):
        with pytest.raises(ValueError, match=f"^{type(tx).__name__}: value must be one real number"):
            tx.update(jnp.ones(2), tx.init(jnp.ones(2)), value=jnp.ones(2))
