"""Programs for eight TPUs, compiled ahead of time on a machine that has none: their collectives and their memory."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

# In a process of its own: libtpu takes no flags of XLA for CPUs.
COMPILE = """
import json
import jax, numpy as np, optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import gradtx as gx

mesh = Mesh(np.array(topologies.get_topology_desc("v5e:2x4", platform="tpu").devices), ("data",))
ROWS, WHOLE, N = P("data"), P(), 1024

def struct(spec, *shape):
    return jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, spec))

def loss(params, x):
    for name in params:
        x = jax.numpy.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return jax.numpy.mean(x**2)

def apply(tx, params, state, g):
    updates, state = tx.update(g, state, params)
    return optax.apply_updates(params, updates), state

def program(tx, spec, trains):
    params = {str(i): {"kernel": struct(spec, N, N), "bias": struct(spec, N)} for i in range(4)}
    places = jax.jit(tx.init).lower(params).compile().output_shardings

    def place(x, sharding):
        if not isinstance(tx, gx.Transformation):  # XLA replicates the state of Optax
            sharding = NamedSharding(mesh, spec if x.ndim else WHOLE)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    state = jax.tree.map(place, jax.eval_shape(tx.init, params), places)

    def step(params, state, x):
        g = jax.grad(loss)(params, x) if trains else x
        return tx.apply(params, state, g) if isinstance(tx, gx.Transformation) else apply(tx, params, state, g)

    given = struct(ROWS, 128, N) if trains else params
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, given).compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return {"text": text, "temporary": memory.temp_size_in_bytes, "arguments": memory.argument_size_in_bytes}

PROGRAMS = {
    "adamw": (gx.adamw(1e-3), ROWS, False),
    "clip": (gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3)), ROWS, False),
    "clip of Optax": (optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)), ROWS, False),
    "FSDP": (gx.adamw(1e-3), ROWS, True),
    "FSDP of Optax": (optax.adamw(1e-3), ROWS, True),
    "data parallel": (gx.adamw(1e-3), WHOLE, True),
    "data parallel of Optax": (optax.adamw(1e-3), WHOLE, True),
    "ZeRO": (gx.shard_state(gx.adamw(1e-3)), WHOLE, True),
}
with jax.set_mesh(mesh):
    print(json.dumps({name: program(*of) for name, of in PROGRAMS.items()}))
"""
KINDS = "all-reduce reduce-scatter all-gather all-to-all collective-permute".split()
PARAMETERS = 4 * 4 * (1024 * 1024 + 1024)  # bytes


@pytest.fixture(scope="module")
def programs():
    if not find_spec("libtpu"):
        pytest.skip('declared: libtpu is not installed: pip install "gradtx[tpu-aot]"')
    env = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"}
    env |= {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for program in found.values():
        for kind in KINDS:
            program[kind] = len(re.findall(rf"= .*? {kind}(?:-start)?\(", program["text"]))
    return found


def collectives(program):
    return {kind: program[kind] for kind in KINDS if program[kind]}


def test_an_update_of_divided_parameters_communicates_nothing_and_needs_no_memory(programs):
    assert not collectives(programs["adamw"]) and programs["adamw"]["temporary"] == 0


def test_a_clip_adds_the_reduction_of_one_number(programs):
    """And one more in the branch for norms that overflow, which does not run."""
    assert collectives(programs["clip of Optax"]) == {"all-reduce": 1}
    assert collectives(programs["clip"]) == {"all-reduce": 2}


@pytest.mark.parametrize("name", ["FSDP", "data parallel"])
def test_a_training_step_communicates_what_one_of_optax_does(programs, name):
    own, of_optax = programs[name], programs[f"{name} of Optax"]
    assert collectives(own) == collectives(of_optax) and own["temporary"] <= of_optax["temporary"]


def test_zero_scatters_the_gradients_gathers_the_updates_and_keeps_an_eighth_of_the_state(programs):
    program = programs["ZeRO"]
    assert "calls=%all-reduce-scatter" in program["text"] and program["all-gather"]
    assert program["arguments"] < 1.01 * PARAMETERS * (1 + 2 / 8) + 128 / 8 * 1024 * 4
    assert programs["data parallel"]["arguments"] > PARAMETERS * 3
