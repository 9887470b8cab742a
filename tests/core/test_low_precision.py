"""Where additions in bfloat16 are lost: averages, denominators, hyperparameters, parameters, sums of micro-batches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from streams import bits, extra, follow, of_bits, params_of, stream

import gradtx as gx

HALF = 2.0**-8  # of the distance between the numbers of bfloat16 from 1 to 2


COMPUTED = ["adam", "adamw", "nadam", "amsgrad", "lamb", "lion", "adafactor", "radam", "sgd"]


@pytest.mark.parametrize("name", [*COMPUTED, pytest.param("pair", marks=pytest.mark.promotes("Optax's arithmetic"))])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_inputs_are_computed_in_float32(name, dtype):
    """The same updates as of the same numbers in float32, rounded once: hyperparameters and slots stay float32."""
    tx = CASES[name][0].tx
    params = params_of(dtype)
    gradients = list(stream(params, 3))
    got, state = follow(tx, params, gradients)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (params, gradients))
    expected, wide_state = follow(tx, *wide)
    chex.assert_trees_all_equal(got, jax.tree.map(lambda u: u.astype(dtype), expected))
    chex.assert_trees_all_equal(state, wide_state, strict=True)
    assert all(np.isfinite(np.asarray(u, np.float64)).all() for u in jax.tree.leaves(got))


def test_adam_of_ones_for_5000_steps():
    tx, w = gx.adam(1e-3), jnp.ones(2, "bfloat16")

    def step(state, _):
        u, state = tx.update(w, state, w)
        return state, (u, state.slots["precondition"]["by"]["scale_by_ema"]["mean"])

    _, (updates, squares) = jax.lax.scan(step, tx.init(w), length=5000)
    expected = 1 - float(np.float32(0.999)) ** np.arange(1, 5001)[:, None]
    np.testing.assert_allclose(np.asarray(squares, np.float64), np.broadcast_to(expected, (5000, 2)), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(updates, np.float64), -1e-3 / (1 + 1e-8), rtol=HALF)


def test_an_average_with_a_long_memory():
    tx, w = gx.scale_by_ema(0.999), jnp.ones(2, "bfloat16")

    def step(state, _):
        u, state = tx.update(w, state)
        return state, u

    _, means = jax.lax.scan(step, tx.init(w), length=5000)
    expected = 1 - 0.999 ** np.arange(1, 5001)[:, None]
    np.testing.assert_allclose(np.asarray(means, np.float64), np.broadcast_to(expected, (5000, 2)), rtol=1.01 * HALF)


def walked(tx, dtype, steps=1000, size=4000):
    """Parameters that start at 1, after each step with a gradient of 1."""
    params = jnp.ones(size, dtype)

    def step(carry, _):
        params, state = carry
        u, state = tx.update(jnp.ones(size, dtype), state, params, **extra(tx))
        params = gx.apply_updates(params, u)
        return (params, state), bits(params)

    return of_bits(jax.lax.scan(step, (params, tx.init(params)), length=steps)[1], dtype)


@pytest.mark.parametrize("optimizer", [gx.sgd(1e-3), gx.adam(1e-3)], ids=["sgd", "adam"])
def test_parameters_of_bfloat16_that_start_at_1_go_to_0_at_a_rate_of_a_thousandth(optimizer):
    """Alone, they stay at 1; with master weights or Kahan summation they are as near as bfloat16 has numbers."""
    right = 1 - 1e-3 * np.arange(1, 1001)[:, None]
    assert (walked(optimizer, "bfloat16", size=1) == 1).all()
    got = walked(gx.master_weights(optimizer), "bfloat16", size=1)
    assert (np.abs(got - right) <= HALF * right + 1000 * 2.0**-25).all()
    got = walked(gx.chain(optimizer, gx.kahan_summation()), "bfloat16", size=1)
    assert (np.abs(got - right) <= HALF * right + 1000 * 2.0**-19).all()  # as they fall, half of 2⁻¹⁸ on average
    got = walked(gx.chain(optimizer, gx.stochastic_rounding()), "bfloat16")
    error = got.std(1, keepdims=True) / got.shape[1] ** 0.5
    assert (np.abs(got.mean(1, keepdims=True) - right) <= 5 * error + 1e-6)[::50].all()
    assert got.std(1).max() < 0.06  # √(Σ h²·chance·(1 − chance)), h the distance between neighbours


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_mean_of_256_micro_batches(dtype):
    x = np.random.default_rng(0).uniform(0.5, 0.9, 256).astype(jnp.dtype(dtype))
    step = gx.train_step(lambda w, batch: jnp.sum(w * batch), gx.sgd(1.0), micro_batches=256)
    params = jnp.zeros((), dtype)
    params, _, _ = step(params, step.tx.init(params), jnp.asarray(x))
    expected = -np.mean(x.astype(np.float64))
    assert float(params) == float(np.float64(expected).astype(jnp.dtype(dtype)))
    plain = jnp.zeros((), dtype)
    for value in x:
        plain = plain + jnp.asarray(value) / 256
    assert abs(float(plain) + expected) > 4 * abs(float(params) - expected)  # in its own dtype the sum is off
