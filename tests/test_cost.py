"""The cost of a jitted step according to XLA: the bytes that it accesses, and its temporaries."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import CASES
from streams import extra

import gradtx as gx
from gradtx import optimizers


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


# ---------------------------------------------------------------- donation
LEAVES = {"w": jnp.ones((96, 64)), "v": jnp.ones((64, 48)), "b": jnp.ones(3000)}
# Of the three leaves, two of them matrices. XLA copies a slot that two results read, its own new value and the update,
# and a gradient that becomes a slot. They may only shrink.
COPIES = {"acprop": 6, "adan": 12, "adopt": 3, "asgd": 6, "cocob": 12, "conda": 2, "dadapt_adam": 3, "diffgrad": 6}
COPIES |= {"fira": 2, "ftrl": 3, "galore": 2, "gpa": 3, "kl_soap": 6, "lion": 3, "mars": 6, "optimistic_adam": 6}
COPIES |= {"optimistic_sgd": 6, "pid": 6, "prodigy": 3, "ranger": 6, "rprop": 9, "schedule_free_adamw": 3, "soap": 6}
COPIES |= {"splus": 8, "swa": 6, "adadelta": 3}  # adadelta's with the flags of the tests alone
LOSS = {"lbfgs", "sophia", "adahessian"}  # they evaluate a loss, whose copies are not theirs


def copies(program: str | None, params: Any) -> int:
    """How many arrays of the shape of a parameter a compiled program copies."""
    assert program
    shapes = {",".join(map(str, p.shape)) for p in jax.tree.leaves(params)}
    return sum(shape in shapes for shape in re.findall(r"= f32\[([\d,]+)\]\S* copy\(", program))


@pytest.mark.parametrize("name", [name for name in optimizers.__all__ if name in CASES and name not in LOSS])
def test_a_donated_apply_copies_no_parameter_and_no_slot(name):
    tx = CASES[name][0].tx
    given = extra(tx)
    step = jax.jit(lambda params, state, g: tx.apply(params, state, g, **given), donate_argnums=(0, 1))
    program = step.lower(LEAVES, tx.init(LEAVES), LEAVES).compile().as_text()
    assert copies(program, LEAVES) == COPIES.get(name, 0)


@pytest.mark.parametrize("measure, most", [(False, 0), (True, 1)])  # the length of a step needs the old parameters
@pytest.mark.parametrize("loop", ["train_step", "fit"])
def test_a_training_loop_copies_no_parameter_and_no_slot(loop, measure, most, monkeypatch):
    programs, jit = [], jax.jit

    def recorded(function, **options):
        made = jit(function, **options)
        if not {"donate_argnums", "donate_argnames"} & {*options}:
            return made

        def call(*args, **named):
            programs.append(made.lower(*args, **named).compile().as_text())
            return made(*args, **named)

        return call

    monkeypatch.setattr(jax, "jit", recorded)
    params, batch = {"w": jnp.ones((33, 17))}, jnp.ones((8, 33))

    def loss(params, batch):
        return jnp.mean(jnp.tanh(batch @ params["w"]) ** 2)

    if loop == "fit":
        gx.fit(params, gx.adamw(1e-3), loss, batch, steps=3, progress=False, measure=measure)
    else:
        step = gx.train_step(loss, tx := gx.adamw(1e-3), measure=measure)
        step(params, tx.init(params), batch)
    assert programs and all(copies(program, params) <= most for program in programs)
