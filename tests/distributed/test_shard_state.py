"""ZeRO: a divided state makes the updates of the inner optimizer, in one n-th of the memory of each device."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near, follow, stream

import gradtx as gx

INNER = {
    "adamw": gx.adamw(1e-2),
    "adafactor": gx.adafactor(1e-2),
    "lamb": gx.lamb(1e-2),
    "muon": gx.muon(1e-2),
    "clipped": gx.chain(gx.clip_by_global_norm(0.5), gx.adam(1e-2)),
    "guarded": gx.skip_nonfinite(gx.adamw(1e-2)),
    "accumulated": gx.accumulate(gx.adamw(1e-2), 2),
    "masters": gx.master_weights(gx.adamw(1e-2)),
}
SPECS = {"w": (None, "model"), "rows/w": ("model", None), "bias": (), "odd": ()}


def bytes_of(state):
    """The bytes of a state on one device."""
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))


@pytest.mark.parametrize("shape", [(8,), (4, 2)], ids=["data", "data and model"])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda of: of.name)
@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_a_divided_state_makes_the_same_updates_in_a_part_of_the_memory(inner, axis_type, shape):
    params = {"w": jnp.arange(256.0).reshape(32, 8) / 256, "bias": jnp.ones(16), "odd": jnp.ones(3)}
    params["rows/w"] = params["w"].T
    gradients = list(stream(params, 4))
    expected, whole = follow(inner, params, gradients)
    mesh = jax.make_mesh(shape, ("data", "model")[: len(shape)], axis_types=(axis_type,) * len(shape))
    specs = SPECS if len(shape) == 2 else dict.fromkeys(SPECS, ())
    tx = gx.shard_state(inner, specs=specs if len(shape) == 2 and axis_type is AxisType.Auto else {})
    with jax.set_mesh(mesh):
        place = {name: NamedSharding(mesh, PartitionSpec(*spec)) for name, spec in specs.items()}
        params = jax.device_put(params, place)
        state, update, out = jax.jit(tx.init)(params), jax.jit(tx.update), []
        alone = sum(x.nbytes for x in jax.tree.leaves(whole.slots) if x.size == 1 or x.size % 4)  # ages, and "odd"
        alone += 4 * (8 + 32) if inner == INNER["adafactor"] else 0  # means over the divided axis, which they lack
        assert bytes_of(state.slots) <= sum(x.nbytes for x in jax.tree.leaves(whole.slots)) / shape[0] + alone + 64
        assert all(x.addressable_shards[0].data.size == x.size / 8 for x in jax.tree.leaves(state) if x.ndim == 2)
        places = jax.tree.map(lambda x: x.sharding, state)
        for g in gradients:
            updates, state = update(jax.device_put(g, place), state, params)
            assert all(u.sharding.is_equivalent_to(place[name], u.ndim) for name, u in updates.items())
            out.append(updates)
    jax.tree.map(lambda x, where: None if x.sharding.is_equivalent_to(where, x.ndim) else pytest.fail(), state, places)
    assert_near(out, expected, 3e-6)
    assert update._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_without_a_mesh_it_is_the_inner_optimizer():
    params = {"w": jnp.ones((8, 2))}
    made, bare = (follow(tx, params, stream(params, 3))[0] for tx in (gx.shard_state(gx.adam()), gx.adam()))
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(bare), strict=True))


def test_the_work_is_divided_too():
    """The program of a device computes on its part: about an eighth of the operations."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    params, flops = {"w": jnp.ones((64, 64))}, {}
    with jax.set_mesh(mesh):
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        for name, tx in {"whole": gx.adam(), "divided": gx.shard_state(gx.adam())}.items():
            program = jax.jit(tx.update).lower(params, jax.jit(tx.init)(params), params).compile()
            flops[name] = program.cost_analysis()["flops"]  # pyright: ignore[reportOptionalSubscript]
    assert flops["divided"] < flops["whole"] / 5


@pytest.mark.parametrize(
    "tx, context, message",
    [
        (
            gx.shard_state(gx.adam(), "batch"),
            "Auto",
            r"axis='batch' is not an axis of the mesh \{'data': 4, 'model': 2",
        ),
        (gx.shard_state(gx.adam()), "Auto", r"the mesh has several automatic axes, data, model, whose shardings jit"),
        (
            gx.shard_state(gx.adam(), specs={"w": (None, None, "model")}),
            "Auto",
            r"specs has .* for 'w', of shape \(8, 4",
        ),
        (gx.shard_state(gx.adam()), "none", r"parameters are on a mesh, and the context has none: run init and update"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(tx, context, message):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    params = {"w": jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, PartitionSpec()))}
    with jax.set_mesh(mesh) if context == "Auto" else nullcontext(), pytest.raises(ValueError, match=message):
        tx.init(params)


def test_within_shard_map_it_is_refused():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole = PartitionSpec()
    init = jax.shard_map(gx.shard_state(gx.sgd()).init, mesh=mesh, in_specs=(whole,), out_specs=whole)
    with pytest.raises(ValueError, match="the axis 'data' is manual, within shard_map: compute gradients there"):
        init({"w": jnp.ones((8, 4))})


@pytest.mark.parametrize("specs", ["model", {"w": "model"}, {"w": (1, None)}])
def test_specs_are_partition_specs_by_pattern(specs):
    with pytest.raises(
        TypeError, match=r"shard_state: specs(\['w'\])? must be (a dict of partition specs|the mesh axis)"
    ):
        gx.shard_state(gx.adam(), specs=specs)


def test_it_prints_as_the_call_that_makes_it():
    tx = gx.shard_state(gx.sgd(0.1), "fsdp", {"**/kernel": PartitionSpec(("a", "b"), None)})
    assert repr(gx.read(repr(tx))) == repr(tx)
    assert gx.read(repr(tx)) == tx
    assert tx.specs == (("**/kernel", (("a", "b"), None)),)
