"""What XLA says that a jitted Adam costs, beside Optax's: bytes and temporaries for each parameter."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradtx as gx


def costs(tx: Any, size: int) -> Any:
    params = {"w": jnp.zeros(size)}

    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    compiled: Any = jax.jit(step, donate_argnums=(0, 1, 2)).lower(params, tx.init(params), params).compile()
    return compiled.cost_analysis()["bytes accessed"], compiled.memory_analysis().temp_size_in_bytes


def test_adam_costs_no_more_than_optax_for_each_parameter():
    """The scalars beside them, such as the two mean logarithms of the decays, do not grow with the model."""
    (few_bytes, few_temporary), (many_bytes, many_temporary) = (costs(gx.adam(1e-3), n) for n in (10**5, 10**6))
    (few_optax, _), (many_optax, optax_temporary) = (costs(optax.adam(1e-3), n) for n in (10**5, 10**6))
    assert many_bytes - few_bytes <= many_optax - few_optax
    assert many_bytes - many_optax <= 64
    assert few_temporary == many_temporary <= optax_temporary
