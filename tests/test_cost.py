"""What XLA says that a jitted step costs: the bytes that it accesses, and its temporaries."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gradtx as gx


def costs(tx: Any, size: int, leaves: int = 1) -> Any:
    params = {f"w{i}": jax.ShapeDtypeStruct((size,), jnp.float32) for i in range(leaves)}

    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    compiled: Any = (
        jax.jit(step, donate_argnums=(0, 1, 2)).lower(params, jax.eval_shape(tx.init, params), params).compile()
    )
    return compiled.cost_analysis()["bytes accessed"], compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("size", [10, 10**4, 10**6])
@pytest.mark.promotes("Optax's arithmetic")
def test_adam_costs_no_more_than_optax(size):
    (accessed, temporary), (by_optax, temporary_of_optax) = costs(gx.adam(1e-3), size), costs(optax.adam(1e-3), size)
    assert accessed <= by_optax and temporary <= temporary_of_optax


def test_a_clip_adds_one_reading_of_the_gradient():
    """4 bytes a parameter. XLA counts the branch for extremes too, which reads it again and a factor beside it."""
    size, leaves = 10**5, 8
    accessed, temporary = costs(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw()), size, leaves)
    plain, _ = costs(gx.adamw(), size, leaves)
    assert accessed - plain <= (4 + 4 + 4 + 4 / leaves) * size * leaves + 1e4 and temporary <= 4 * size + 1e4


@pytest.mark.parametrize(
    "wrap, most",
    [
        (gx.skip_nonfinite, 1.75),  # all four trees are read once more, and updates are written and read
        (lambda tx: gx.accumulate(tx, 8), 1.65),  # of both branches together
    ],
    ids=["skip_nonfinite", "accumulate"],
)
def test_a_branch_needs_no_memory(wrap, most):
    """Whether it runs or not, the state is written in place; what came in gives its memory to what comes out."""
    (accessed, temporary), (plain, temporary_of_plain) = (costs(tx, 10**6, 20) for tx in (wrap(gx.adamw()), gx.adamw()))
    assert temporary - temporary_of_plain <= 0.01 * 20 * 4 * 10**6 and accessed <= most * plain
