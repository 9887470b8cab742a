"""What XLA says that a jitted Adam costs, beside Optax's: the bytes that it accesses, and its temporaries."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gradtx as gx


def costs(tx: Any, size: int, leaves: int = 1) -> Any:
    params = {f"w{i}": jnp.zeros(size) for i in range(leaves)}

    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    compiled: Any = jax.jit(step, donate_argnums=(0, 1, 2)).lower(params, tx.init(params), params).compile()
    return compiled.cost_analysis()["bytes accessed"], compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("size", [10, 10**4, 10**6])
def test_adam_costs_no_more_than_optax(size):
    (accessed, temporary), (by_optax, temporary_of_optax) = costs(gx.adam(1e-3), size), costs(optax.adam(1e-3), size)
    assert accessed <= by_optax and temporary <= temporary_of_optax


def test_a_clip_adds_one_reading_of_the_gradient():
    """4 bytes a parameter. XLA counts the branch for extremes too, which reads it again and a factor beside it."""
    size, leaves = 10**5, 8
    accessed, temporary = costs(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw()), size, leaves)
    plain, _ = costs(gx.adamw(), size, leaves)
    assert accessed - plain <= (4 + 4 + 4 + 4 / leaves) * size * leaves + 1e4 and temporary <= 4 * size + 1e4
