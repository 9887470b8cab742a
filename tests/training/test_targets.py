"""Target networks against Optax's, and their dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from streams import assert_near, params_of

import gradtx as gx

NEW, OLD = params_of(seed=1), params_of(seed=2)


@pytest.mark.parametrize("step_size", [0.0, 0.005, 0.5, 1.0])
@pytest.mark.promotes("Optax's arithmetic")
def test_incremental_update_is_optaxs(step_size):
    assert_near(gx.incremental_update(NEW, OLD, step_size), optax.incremental_update(NEW, OLD, step_size))
    jitted = jax.jit(gx.incremental_update)(NEW, OLD, step_size)
    assert_near(jitted, jax.tree.map(lambda x, y: step_size * x + (1 - step_size) * y, NEW, OLD))


@pytest.mark.parametrize("every_k", [1, 2, 5])
@pytest.mark.promotes("Optax's arithmetic")
def test_periodic_update_is_optaxs(every_k):
    for step in range(12):
        got = jax.jit(gx.periodic_update)(NEW, OLD, step, every_k)
        assert_near(got, optax.periodic_update(NEW, OLD, jnp.asarray(step), every_k), 0)


def test_dtypes_and_leaves_of_other_kinds():
    low, old = jnp.bfloat16(1.0), jnp.bfloat16(0.0)
    tree = {"low": old, "z": jnp.complex64(1j), "n": jnp.array(3), "none": None, "f": 2.0}
    new = {"low": low, "z": jnp.complex64(1), "n": jnp.array(4), "none": None, "f": 4.0}
    got = gx.incremental_update(new, tree, 0.25)
    assert got["low"].dtype == jnp.bfloat16 and got["low"] == 0.25
    assert np.isclose(got["z"], 0.25 + 0.75j) and got["n"] == 4 and got["none"] is None and got["f"] == 2.5
    # Many small moves add up to the closed form.
    slow = jax.lax.fori_loop(0, 2000, lambda i, x: gx.incremental_update(jnp.ones(3), x, 0.01), jnp.zeros(3))
    assert jnp.allclose(slow, 1 - 0.99**2000)


def test_a_bad_argument():
    for step_size in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"^incremental_update: step_size must be from 0 to 1, got {step_size}"):
            gx.incremental_update(NEW, OLD, step_size)
    with pytest.raises(ValueError, match=r"^periodic_update: every_k must be an integer, 1 or more, got 0"):
        gx.periodic_update(NEW, OLD, 1, 0)
    with pytest.raises(
        ValueError, match=r"^incremental_update: new must be like old: expected shape \(4,\) at 'b', got n"
    ):
        gx.incremental_update({"w": NEW["w"]}, OLD, 0.1)
    with pytest.raises(
        ValueError, match=r"^periodic_update: new .* expected shape \(3, 4\) at 'w', got shape \(4, 3\)"
    ):
        gx.periodic_update(NEW | {"w": NEW["w"].T}, OLD, 1, 2)
