"""The cost of a jitted step according to XLA: the bytes that it accesses, and its temporaries."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gradtx as gx


def costs(tx: Any, size: int, leaves: int = 1, as_one: bool = False) -> Any:
    params = {f"w{i}": jax.ShapeDtypeStruct((size,), jnp.float32) for i in range(leaves)}
    arguments = params, jax.eval_shape(tx.init, params), params

    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    def apply(params, state, g):  # XLA gives results the memory of arguments, in the order of arguments
        return tx.apply(params, state, g)

    compiled: Any = jax.jit(apply if as_one else step, donate_argnums=(0, 1, 2)).lower(*arguments).compile()
    return compiled.cost_analysis()["bytes accessed"], compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("size", [10, 10**4, 10**6])
@pytest.mark.promotes("Optax's arithmetic")
def test_adam_costs_what_optax_costs_and_the_ages_of_its_averages(size):
    """Two averages keep two numbers each. XLA counts 64 bytes for them, and that of JAX 0.10 and 0.11 counts 80."""
    most = 64 if jax.__version_info__ >= (0, 12) else 80
    (accessed, temporary), (by_optax, temporary_of_optax) = costs(gx.adam(1e-3), size), costs(optax.adam(1e-3), size)
    assert accessed <= by_optax + most and temporary <= temporary_of_optax


def test_a_clip_adds_one_read_of_the_gradient():
    """4 bytes a parameter. XLA counts the branch for extremes too, which reads it again and a factor beside it."""
    size, leaves = 10**5, 8
    accessed, temporary = costs(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw()), size, leaves)
    plain, _ = costs(gx.adamw(), size, leaves)
    assert accessed - plain <= (4 + 4 + 4 + 4 / leaves) * size * leaves + 1e4 and temporary <= 4 * size + 1e4


def test_a_guard_against_spikes_costs_what_a_clip_costs():
    (accessed, temporary), (clipped, temporary_of_clip) = (
        costs(tx, 10**5, 8, as_one=True)
        for tx in (
            gx.skip_if(gx.adamw(), gx.norm_spike()),
            gx.chain(gx.clip_by_global_norm(1.0), gx.adamw()),
        )
    )
    assert accessed <= clipped + 1e4 and temporary <= temporary_of_clip + 1e4


@pytest.mark.parametrize(
    "wrap, most, as_one",
    [
        (gx.skip_nonfinite, 1.75, False),  # all four trees are read once more, and updates are written and read
        (gx.skip_nonfinite, 1.41, True),  # they are read once more: 56 bytes of 40
        (lambda tx: gx.skip_nonfinite(tx, outgoing=False), 1.11, True),  # the gradient is read once more: 44
        (lambda tx: gx.accumulate(tx, 8), 1.65, False),  # of both branches together
        (lambda tx: gx.accumulate(tx, 8), 1.31, True),  # 52, of which a part that waits executes 12
    ],
    ids=["skip_nonfinite", "skip_nonfinite, as one", "what comes in", "accumulate", "accumulate, as one"],
)
def test_a_branch_needs_no_memory(wrap, most, as_one):
    """Whether it runs or not, the state, and as one the parameters too, are written in place, or left alone. Where
    updates are emitted, what came in gives its memory to them."""
    (accessed, temporary), (plain, temporary_of_plain) = (
        costs(tx, 10**6, 20, as_one) for tx in (wrap(gx.adamw()), gx.adamw())
    )
    assert temporary - temporary_of_plain <= 0.01 * 20 * 4 * 10**6 and accessed <= most * plain
