"""What XLA says that a jitted Adam costs, beside Optax's: the bytes that it accesses, and its temporaries."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gradtx as gx


def costs(tx: Any, size: int) -> Any:
    params = {"w": jnp.zeros(size)}

    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    compiled: Any = jax.jit(step, donate_argnums=(0, 1, 2)).lower(params, tx.init(params), params).compile()
    return compiled.cost_analysis()["bytes accessed"], compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("size", [10, 10**4, 10**6])
def test_adam_costs_no_more_than_optax(size):
    (accessed, temporary), (by_optax, temporary_of_optax) = costs(gx.adam(1e-3), size), costs(optax.adam(1e-3), size)
    assert accessed <= by_optax and temporary <= temporary_of_optax
