"""A state in the memory of the host: the same results, and refusals of what would mix the two memories."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near, follow, stream

import gradtx as gx

INNER = {
    "adamw": gx.adamw(1e-2),
    "guarded": gx.skip_nonfinite(gx.adamw(1e-2)),
    "accumulated": gx.accumulate(gx.adamw(1e-2), 2),
    "averaged": gx.average_params(gx.adamw(1e-2)),
    "adafactor": gx.adafactor(1e-2),
    "soap": gx.soap(every_k=2),
}
PARAMS = {"w": jnp.arange(12.0).reshape(3, 4) / 12, "bias": jnp.ones(4)}


def kinds(state):
    return {x.sharding.memory_kind for x in jax.tree.leaves(state) if x.ndim}


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_an_offloaded_state_makes_the_same_updates(inner):
    tx, gradients = gx.offload(inner), list(stream(PARAMS, 4))
    made, state = follow(tx, PARAMS, gradients, jax.jit(tx.update))
    bare, expected = follow(inner, PARAMS, gradients, jax.jit(inner.update))
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(bare), strict=True))
    slots = jax.device_put(state.slots["offload"]["inner"], jax.memory.Space.Device)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(slots), jax.tree.leaves(expected.slots), strict=True))
    for init in (tx.init, jax.jit(tx.init)):
        assert kinds(init(PARAMS)) == {"pinned_host"}
    assert kinds(state) == {"pinned_host"}


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda of: of.name)
def test_on_a_mesh_each_slot_is_sharded_as_its_parameter(axis_type):
    tx, mesh = gx.offload(gx.adamw(1e-2)), jax.make_mesh((4,), ("x",), axis_types=(axis_type,))
    params = {"w": jnp.arange(32.0).reshape(8, 4) / 32, "bias": jnp.ones(4)}
    bare, _ = follow(gx.adamw(1e-2), params, stream(params, 2))
    with jax.set_mesh(mesh):
        place = {"w": NamedSharding(mesh, PartitionSpec("x", None)), "bias": NamedSharding(mesh, PartitionSpec())}
        params, out = jax.device_put(params, place), []
        state = jax.jit(tx.init)(params)
        for g in stream(params, 2):
            u, state = jax.jit(tx.update)(jax.device_put(g, place), state, params)
            out.append(u)
    for slot in jax.tree.leaves(state):
        if slot.shape == (8, 4):
            assert slot.sharding.memory_kind == "pinned_host" and slot.sharding.shard_shape(slot.shape) == (2, 4)
    assert_near(out, bare)


def test_a_step_compiles_once_and_its_state_can_be_donated():
    tx, params = gx.offload(gx.adam(1e-2)), jax.device_put(jax.tree.map(jnp.copy, PARAMS), jax.devices()[0])
    step, state = jax.jit(tx.apply, donate_argnums=(0, 1)), jax.jit(tx.init)(params)
    for g in stream(PARAMS, 3):
        params, state = step(params, state, g)
    assert kinds(state) == {"pinned_host"}
    assert step._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_a_part_of_another_transformation_is_refused():
    message = r"offload must be outermost, got skip_nonfinite\(… offload\(…\)\): write offload\(skip_nonfinite\(…\)\)"
    with pytest.raises(ValueError, match=message):
        gx.skip_nonfinite(gx.offload(gx.adam())).init(PARAMS)
    with pytest.raises(ValueError, match="offload must be outermost, got chain"):
        gx.chain(gx.clip(1.0), gx.offload(gx.adam())).init(PARAMS)


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
def test_a_state_in_the_memory_of_the_host_needs_offload(jitted):
    tx = gx.adam()
    state = jax.device_put(tx.init(PARAMS), jax.memory.Space.Host)
    update = jax.jit(tx.update) if jitted else tx.update
    with pytest.raises(
        ValueError, match=r"is in the memory of the host, got an update of chain: wrap the optimizer in"
    ):
        update(PARAMS, state, PARAMS)


def test_a_restored_state_is_in_the_memory_of_its_template():
    tx, inner = gx.offload(gx.adam(1e-2)), gx.adam(1e-2)
    _, state = follow(inner, PARAMS, stream(PARAMS, 2))
    restored, _ = gx.restore(tx, PARAMS, state)
    assert kinds(restored) == {"pinned_host"}
