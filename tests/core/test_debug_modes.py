"""JAX's checks for NaN and infinities, `jax_debug_nans` and `jax_debug_infs`, raise no alarm on finite gradients.

With `jax_disable_jit`, they see the result of every operation: there is no infinity and no NaN on the way either.
"""

import contextlib

import jax
import jax.numpy as jnp
import pytest
from cases import ALL
from streams import extra, params_of, stream

import gradtx as gx

SCALES = (1.0, 1e-20, 1e20)
OVERFLOWS = {  # declared: squares of 1e20 overflow in it, although its updates are finite
    "precondition-1": "the denominator is infinite, and the update 0",
    "skip_nonfinite-0": "the step is skipped",
    "whitening-0": "the factors stay as they were",
    "kronecker-1": "the factors stay as they were",
    "scale_by_lbfgs-0": "no pair is kept, and the update is 0",
    **dict.fromkeys(("backtracking-0", "backtracking-1", "zoom-0", "lbfgs-0"), "the search fails, and the update is 0"),
}


def alarmed(nans=True, infs=True, jit=False):
    flags = contextlib.ExitStack()
    for flag in (jax.debug_nans(nans), jax.debug_infs(infs), jax.disable_jit(not jit)):
        flags.enter_context(flag)
    return flags


def train(tx, scale, dtype=jnp.float32):
    """Init, updates of zeros and of gradients of this scale, and apply."""
    params = params_of(dtype) | {"scalar": jnp.ones((), dtype), "empty": jnp.ones((0, 2), dtype)}
    state, updates, g = tx.init(params), params, params
    for g in (jax.tree.map(jnp.zeros_like, params), *stream(params, 2)):
        g = jax.tree.map(lambda x: x * jnp.asarray(scale, x.dtype), g)
        updates, state = tx.update(g, state, params, **extra(tx))
        params = gx.apply_updates(params, updates)
    return updates, *tx.apply(params, state, g, **extra(tx))


def all_finite(tree):
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(tree))


each = pytest.mark.parametrize(
    "name, tx",
    [
        pytest.param(name, case.tx, id=name, marks=[pytest.mark.promotes("Optax's arithmetic")] * (name[:4] == "pair"))
        for name, case in ALL
    ],
)


@each
def test_no_operation_makes_a_nan_or_an_infinity(name, tx):
    for scale in SCALES:
        try:
            with alarmed():
                train(tx, scale)
        except FloatingPointError:
            with jax.disable_jit():
                in_range = all_finite(train(tx, scale)) and name not in OVERFLOWS
            assert scale != 1.0 and not in_range, scale


@each
def test_no_compiled_update_returns_a_nan_or_an_infinity(name, tx):
    with alarmed(jit=True):
        train(tx, 1.0)


@pytest.mark.parametrize("tx", [gx.stochastic_rounding(), gx.kahan_summation(), gx.master_weights(gx.adam())])
def test_neither_does_rounding_to_bfloat16(tx):
    with alarmed():
        train(tx, 1.0, jnp.bfloat16)


def test_the_global_norm_under_vmap():
    """Both of its branches are computed, whatever the scale."""
    scales = jnp.array([0.0, 1e-30, 1e-20, 1e-3, 1.0, 1e10, 1e30])
    with alarmed():
        norms = jax.vmap(lambda s: gx.global_norm({"w": s * jnp.array([3.0, 4.0])}))(scales)
    assert jnp.allclose(norms, 5 * scales, rtol=1e-6, atol=0)


def test_a_non_finite_gradient_does_raise():
    g = jnp.array([1.0, jnp.nan])
    for tx in (gx.clip_by_global_norm(1.0), gx.clip_by_norm(1.0), gx.clip_by_rms(1.0), gx.adam()):
        state = tx.init(g)
        with alarmed(infs=False, jit=True), pytest.raises(FloatingPointError):
            tx.update(g, state)
