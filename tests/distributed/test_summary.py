"""The bytes of a state on each device, from shapes alone."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from benchmarks.scale import TXS as AT_SCALE
from benchmarks.scale import memory, table
from distributed.transformer import MESHES, SHAPES, mesh_of, params_of, placed
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

import gradtx as gx

TXS = {
    "adamw": gx.adamw(),
    "adafactor": gx.adafactor(min_size=8),
    "muon": gx.muon(),
    "soap": gx.soap(),
    "masters": gx.master_weights(gx.adamw()),
    "zero": gx.shard_state(gx.adamw()),
}


def structs(params):
    return jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), params)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", TXS)
def test_it_counts_the_bytes_of_each_device(name, mesh):
    tx, on = TXS[name], mesh_of(mesh, AxisType.Explicit)
    with jax.set_mesh(on):
        params = placed(params_of(), mesh, on)
        if name == "zero":
            params = jax.device_put(params, NamedSharding(on, PartitionSpec()))
        state = jax.jit(tx.init)(params)
    summary = gx.summary(tx, params)
    assert summary.bytes == sum(x.nbytes for x in jax.tree.leaves(state))
    assert summary.bytes_per_device == sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    assert summary.bytes_per_device == sum(row.bytes_per_device for row in summary.rows)
    assert summary == gx.summary(tx, structs(params)) == gx.summary(tx, params, on)
    assert summary.devices == 8 and "bytes/device" in str(summary)


def test_without_a_mesh_the_only_device_has_all():
    summary = gx.summary(gx.adam(), params_of())
    assert summary.bytes == summary.bytes_per_device and summary.devices == 1
    assert "bytes/device" not in str(summary)


def test_a_mesh_without_shardings_divides_the_state_of_shard_state():
    mesh = AbstractMesh((4096,), ("data",))
    params = {"w": jax.ShapeDtypeStruct((8192, 8192), "bfloat16")}
    whole, divided = (gx.summary(tx, params, mesh) for tx in (gx.adamw(), gx.shard_state(gx.adamw())))
    assert whole.bytes_per_device == whole.bytes == divided.bytes
    assert divided.bytes_per_device - 8192**2 * 8 // 4096 < 64


def test_of_seventy_billion_parameters_nothing_is_made():
    """On more devices than there are, and in bytes that no device has."""
    mesh = AbstractMesh((256, 16), ("data", "model"))
    both = NamedSharding(mesh, PartitionSpec("data", "model"))
    params = {f"{i}/kernel": jax.ShapeDtypeStruct((8192, 8192), "float32", sharding=both) for i in range(1050)}
    before = sum(x.nbytes for x in jax.live_arrays())
    summary = gx.summary(gx.adamw(), params)
    assert sum(x.nbytes for x in jax.live_arrays()) - before < 1e6
    assert summary.parameters == 1050 * 8192**2
    assert summary.bytes_per_device == 8 * 1050 * 8192**2 // 4096 + 8 * 2 + 4


def test_what_is_not_one_mesh_is_refused():
    params = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in SHAPES.items()}
    with pytest.raises(TypeError, match=r"summary: mesh must be a jax.sharding.Mesh or AbstractMesh, got \(4, 2\)"):
        gx.summary(gx.adam(), params, (4, 2))
    other = placed(params_of(), "data", mesh_of("data"))
    message = r"summary: params\['.*'\] must be on the mesh \{'data': 4, 'model': 2\}, got \{'data': 8\}"
    with pytest.raises(ValueError, match=message):
        gx.summary(gx.adam(), other, mesh_of("data and model"))


def test_the_page_has_the_table_of_the_script():
    page = Path(__file__).parents[2] / "notebooks" / "guides" / "scale.md"
    assert table(["model", "devices", "parameters", *AT_SCALE], memory()) in page.read_text(encoding="utf-8")


def test_a_schedule_shows_its_first_value():
    """A warm-up begins at 0: without the step, the rate would seem to stay 0."""
    tx = gx.chain(gx.scale_by_ema(0.9), gx.scale_by_learning_rate(gx.schedules.linear(0.0, 0.1, 10)))
    rows = {row.piece: row for row in gx.summary(tx, {"w": jax.ShapeDtypeStruct((2,), "float32")}).rows}
    assert rows["scale_by_learning_rate"].hyperparameters == "learning_rate=0.0 at step 0"
    assert rows["scale_by_ema"].hyperparameters == "decay=0.9"
