"""Master weights: the parameters, the inputs of the inner optimizer, and changes from outside."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import bits, follow, of_bits, params_of, stream

import gradtx as gx

low = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


def rounded(x, dtype):
    """By NumPy, in float64."""
    return np.asarray(x).astype(jnp.dtype(dtype)).astype(np.float64)


def masters_of(state, dtype):
    return state.slots["master_weights"][f"of_{dtype}"]


@low
@pytest.mark.parametrize("same", [True, False])
def test_the_parameters_are_the_masters_rounded_after_each_of_10000_steps(dtype, same):
    """Bit for bit with float32 updates; in the parameter's dtype too, except for steps that it cannot hold."""
    random, steps, size = np.random.default_rng(0), 10_000, 32
    start = rounded(np.exp(random.uniform(-6, 3, size)) * random.choice([-1, 1], size), dtype)
    target, tx = np.roll(start, 7).astype(np.float32), gx.master_weights(gx.sgd(1e-3, 0.9))

    def step(carry, noise):
        params, state = carry
        g = (params.astype(jnp.float32) - target + noise).astype(dtype if same else "float32")
        u, state = tx.update(g, state, params)
        params = gx.apply_updates(params, u)
        return (params, state), (bits(params), masters_of(state, dtype))

    params = jnp.asarray(start, dtype)
    noise = 0.5 * random.standard_normal((steps, size)).astype(np.float32)
    _, (params, masters) = jax.lax.scan(step, (params, tx.init(params)), noise)
    params, right = of_bits(params, dtype), rounded(masters, dtype)
    before = np.concatenate([start[None], params[:-1]])
    beside = params != right
    assert np.sum(before * params < 0) > 100 and np.unique(params[:, 0]).size > 50  # they move, through 0 too
    if same:
        said = (right == before) | ((before / 2 <= right) & (right <= 2 * before))
        said |= (2 * before <= right) & (right <= before / 2)
        assert beside.any() and not beside[said].any() and said.mean() > 0.95
        unit = float(jnp.finfo(dtype).eps) * 2.0 ** (np.frexp(right - before)[1] - 1)
        assert (np.abs(params - right) <= unit)[~said].all()
    else:
        assert not beside.any()


@pytest.mark.parametrize("inner", [gx.adamw(1e-2), gx.average_params(gx.sgd(0.1), 0.5)], ids=["adamw", "an average"])
@low
@pytest.mark.usefixtures("eager")
def test_the_inner_optimizer_runs_as_on_parameters_of_float32(inner, dtype):
    params, tx = params_of(dtype), gx.master_weights(inner)
    gradients = list(stream(params_of()))
    masters = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    state, inner_state = tx.init(params), inner.init(masters)
    for g in gradients:
        u, state = tx.update(g, state, params)
        params = gx.apply_updates(params, u)
        u, inner_state = inner.update(g, inner_state, masters)
        masters = gx.apply_updates(masters, u)
        chex.assert_trees_all_equal(masters_of(state, dtype), masters)
        chex.assert_trees_all_equal(state.slots["master_weights"]["inner"], inner_state.slots)
        chex.assert_trees_all_equal(params, jax.tree.map(lambda m: m.astype(dtype), masters))
        evaluated = gx.eval_params(inner, inner_state, masters)
        expected = jax.tree.map(lambda m: m.astype(dtype), evaluated)
        chex.assert_trees_all_equal(gx.eval_params(tx, state, params), expected)


def test_parameters_to_evaluate_are_made_of_the_masters():
    """x = z + (y − z)/b: from rounded parameters, the rounding error would be ten times as large."""
    params, tx = jnp.ones(64, "bfloat16"), gx.master_weights(gx.schedule_free(gx.sgd(1e-3), b1=0.1))
    state = tx.init(params)
    for _ in range(40):
        u, state = tx.update(jnp.linspace(0.1, 1, 64), state, params)
        params = gx.apply_updates(params, u)
    y, z = masters_of(state, "bfloat16"), state.slots["master_weights"]["inner"]["schedule_free"]["base"]
    x = np.asarray(z, np.float64) + (np.asarray(y, np.float64) - np.asarray(z, np.float64)) / 0.1
    away = np.abs(np.asarray(gx.eval_params(tx, state, params), np.float64) - x)
    assert away.max() <= 2.0**-9 * 1.01


def test_the_masters_decide_and_start_where_the_parameters_are():
    tx, params = gx.master_weights(gx.sgd(0.0)), params_of("bfloat16")
    zeros = jax.tree.map(jnp.zeros_like, params_of())
    (u,), state = follow(tx, params, [zeros])
    assert not any(x.any() for x in u.values())
    changed = jax.tree.map(lambda p: p + 1, params)
    u, _ = tx.update(zeros, state, changed)
    chex.assert_trees_all_equal(gx.apply_updates(changed, u), params)


def test_a_state_of_another_precision_is_refused():
    tx = gx.master_weights(gx.sgd())
    with pytest.raises(ValueError, match=r"slots\['master_weights/of_float16/b'\] is missing"):
        tx.update(params_of(), tx.init(params_of("bfloat16")), params_of("float16"))


# ---------------------------------------------------------------- split weights
@low
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("same", [True, False])
def test_split_weights_are_the_sum_in_float64_up_to_their_precision(dtype, bits, same):
    """1,000 steps, each of less than the parameter's dtype resolves."""
    random, size, rate = np.random.default_rng(0), 512, 1e-5
    tx = gx.split_weights(gx.sgd(rate), bits)
    params = jnp.asarray(random.uniform(1, 2, size), dtype)
    exact, state, steps = np.asarray(params, np.float64), tx.init(params), 1000

    def step(carry, g):
        params, state = carry
        return tx.apply(params, state, g.astype(dtype if same else "float32")), None

    gradients = jnp.asarray(random.uniform(0.5, 1.5, (steps, size)), dtype if same else "float32")
    (params, state), _ = jax.lax.scan(step, (params, state), gradients.astype("float32"))
    exact = exact - rate * np.asarray(gradients, np.float64).sum(0)
    whole = tx.params_of("inner", params.astype("float32"), state.slots["split_weights"])
    level = 2.0 ** -(jnp.finfo(dtype).nmant + 1) / (2 ** (bits - 1) - 1)  # between two values of c
    away = np.asarray(whole, np.float64) - exact
    assert np.abs(away).max() <= 5 * np.sqrt(steps * rate * level) + 2e-4 * (bits == 16) + level
    assert np.abs(away.mean()) <= 5 * np.sqrt(steps * rate * level / size) + 1e-4 * (bits == 16)
    assert np.mean(np.asarray(params) != np.asarray(whole.astype(dtype))) < 0.01  # c = ±1 is a tie


@low
def test_split_weights_take_parameters_that_others_change_as_they_are(dtype):
    tx, params = gx.split_weights(gx.sgd(1.0)), jnp.ones(3, dtype)
    _, state = tx.update(jnp.full(3, 1e-3, dtype), tx.init(params), params)
    other = jnp.full(3, 8.0, dtype)
    u, _ = tx.update(jnp.ones(3, dtype), state, other)
    np.testing.assert_array_equal(gx.apply_updates(other, u), jnp.full(3, 7.0, dtype))


def test_split_weights_have_no_slot_for_float32():
    params = jnp.ones(3)
    state = gx.split_weights(gx.sgd(0.1)).init(params)
    assert not state.slots
    u, _ = gx.split_weights(gx.sgd(0.1)).update(params, state, params)
    np.testing.assert_array_equal(u, jnp.full(3, -0.1))


def test_adamw_in_seven_bytes():
    params = jnp.zeros((256, 256), jnp.bfloat16)
    state = gx.summary(gx.split_weights(gx.store(gx.adamw())), params).bytes / params.size
    assert 2 + 2 + state < 7.04 and state < 3.1
