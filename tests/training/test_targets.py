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


MOVES = {"incremental_update": (0.5,), "periodic_update": (1, 2)}
UNLIKE = {
    "a leaf missing": ({"w": NEW["w"]}, OLD, ValueError, r"new\['b'\] is missing: expected 'b', 'w', got 'w'"),
    "a shape": (NEW | {"w": NEW["w"].T}, OLD, ValueError, r"new\['w'\] must have shape \(3, 4\), got \(4, 3\)"),
    "a container": ([NEW["b"]], (OLD["b"],), ValueError, "new: the containers of the trees .* differ"),
    "a string": ({"a": "x"}, {"a": "y"}, TypeError, r"new\['a'\] must be an array, got 'x'"),
    "complex into real": (NEW["b"] + 1j, OLD["b"], TypeError, "new must be float32, got complex64"),
    "floats into integers": (NEW["b"], jnp.arange(4), TypeError, "new must be int32, got float32"),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("new, old, kind, text", UNLIKE.values(), ids=UNLIKE)
def test_unlike_trees(move, new, old, kind, text):
    with pytest.raises(kind, match=f"^{move}: {text}.*; new must be like old"):
        getattr(gx, move)(new, old, *MOVES[move])


BAD = {
    "step_size must be from 0 to 1, got": [(ValueError, x) for x in (-0.1, 1.5, float("nan"), np.float32(2), jnp.inf)],
    "step_size must be one number, got": [(TypeError, x) for x in (None, "1", True, jnp.ones(3), lambda step: 0.1)],
    "every_k must be an integer, 1 or more, got": [(ValueError, x) for x in (0, np.int64(-1), jnp.array(0))],
    "every_k must be an integer, got": [(TypeError, x) for x in (1.5, True, "2", jnp.ones(3, int))],
    "steps must be an integer, got": [(TypeError, x) for x in (1.5, None, {"a": 1}, jnp.ones(3, int))],
}


@pytest.mark.parametrize("text, kind, value", [(text, *row) for text, rows in BAD.items() for row in rows])
def test_a_bad_argument(text, kind, value):
    name, of_period = text.split(" ")[0], "step_size" not in text
    function, given = (gx.periodic_update, {"steps": 1, "every_k": 2}) if of_period else (gx.incremental_update, {})
    with pytest.raises(kind, match=f"^{function.__name__}: {text}"):
        function(NEW, OLD, **given | {name: value})
