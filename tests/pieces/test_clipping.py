"""Clipping: no limit, by unit, and by the running average of the norm."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx

CLIPS = {c.__name__: c for c in (gx.clip, gx.clip_by_norm, gx.clip_by_global_norm, gx.clip_by_rms)}


# ---------------------------------------------------------------- no limit
@pytest.mark.parametrize("unlimited", [None, math.inf, np.float32(np.inf)])
@pytest.mark.parametrize("name", CLIPS)
def test_without_a_limit_nothing_is_clipped(name, unlimited):
    tx, g = CLIPS[name](unlimited), {"w": jnp.array([1e30, -1e38]), "b": jnp.array([jnp.nan, jnp.inf])}
    assert tx == CLIPS[name](None) and repr(tx) == f"{name}(None)" and gx.read(f"{name}(inf)") == tx
    assert jax.tree.leaves(tx) == [] and gx.hyperparameters(tx) == {}
    u, _ = tx.update(g, tx.init(g))
    for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(g)):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", CLIPS)
def test_a_limit_that_is_a_schedule_may_end(name):
    tx, g = CLIPS[name](lambda step: jnp.where(step < 1, 0.5, jnp.inf)), jnp.array([3.0])
    state = tx.init(g)
    first, state = tx.update(g, state)
    assert (float(first[0]), float(tx.update(g, state)[0][0])) == (0.5, 3.0)


def test_hyperparameters_beside_a_clip_without_a_limit_can_be_set():
    tx = gx.chain(gx.clip_by_global_norm(None), gx.sgd(0.1))
    assert gx.set_hyperparameters(tx, {"learning_rate": 0.2}) == gx.chain(gx.clip_by_global_norm(None), gx.sgd(0.2))
