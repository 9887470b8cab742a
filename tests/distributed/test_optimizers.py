"""Every optimizer on meshes is that of one device, with its slots placed as their parameters, in one program."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from distributed.transformer import MESHES, batches, loss, mesh_of, params_of, placed
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gradtx as gx
from gradtx.core import walk

TXS = {name: CASES[name][0].tx for name in gx.optimizers.__all__ if name in CASES}
TXS |= {"stable_adamw": gx.stable_adamw(), "lora_plus": gx.lora_plus(gx.adam(), where="**/query/kernel")}
# At rates of ten times as much, their paths are chaotic: errors double with each step.
TXS |= {"hyperball": gx.hyperball(gx.momentum(0.8), 0.01), "scion": gx.scion(0.001)}
TXS |= {"sam": gx.sam(gx.adam()), "clip_by_global_norm": gx.chain(gx.clip_by_global_norm(0.5), gx.adamw(1e-3))}
TXS |= {"skip_nonfinite": gx.skip_nonfinite(gx.adamw(1e-3)), "accumulate": gx.accumulate(gx.adamw(1e-3), 2)}
# They divide by numbers that may be as small as rounding errors, an old variance or an entry of the Hessian, or turn
# singular vectors of nearly equal singular values, or take the sign of such a number: float32 differs by 1e-3 to 1e-2.
# Float64 differs by as much less as it is finer, so the order of the sums differs, and nothing else.
AMPLIFIES = {"acprop", "adahessian", "conda", "splus"}
STEPS = 10
pytestmark = pytest.mark.promotes("a model as users write it")


def follow(tx, params, place=None):
    """The parameters after some steps, the first state, and how often the step was compiled."""
    step = gx.train_step(loss, tx, measure=False, donate=False)
    state = first = jax.jit(tx.init)(params)
    more = {"key": jax.random.key(0)} if any("key" in piece.needs for piece in walk(tx)) else {}
    run = jax.jit(lambda *args: step(*args, **more)[:2], out_shardings=place and place((params, state)))
    for batch in batches(STEPS):
        if not (mesh := jax.sharding.get_mesh()).empty:
            batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
        params, state = run(params, state, batch)
    return params, first, run._cache_size()  # pyright: ignore[reportAttributeAccessIssue]


def shardings(tree):
    return jax.tree.map(lambda x: x.sharding, tree)


@contextlib.contextmanager
def precision(name):
    with jax.enable_x64(True) if name in AMPLIFIES else contextlib.nullcontext():
        yield jnp.float64 if name in AMPLIFIES else jnp.float32


@functools.cache
def on_one_device(name):
    with precision(name) as dtype:
        return jax.device_get(follow(TXS[name], params_of(dtype))[0])


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", TXS)
def test_on_a_mesh_it_is_that_of_one_device(name, kind, mesh):
    tx, expected, on = TXS[name], on_one_device(name), mesh_of(mesh, kind)
    with precision(name) as dtype, jax.set_mesh(on):
        params = placed(params_of(dtype), mesh, on)
        # On an automatic mesh XLA places results as it likes, unless their shardings are given.
        got, first, programs = follow(tx, params, shardings if kind is AxisType.Auto else None)
        structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), params)
        expected_places = jax.tree.leaves(tx.init(structs))
    for (path, slot), like in zip(jax.tree_util.tree_flatten_with_path(first)[0], expected_places, strict=True):
        assert slot.sharding.is_equivalent_to(like.sharding, slot.ndim), jax.tree_util.keystr(path)
    assert programs == 1
    errors = {}
    for path, p in got.items():
        errors[path] = float(np.max(np.abs(jax.device_get(p) - expected[path])) / np.max(np.abs(expected[path])))
    assert max(errors.values()) <= (1e-9 if name in AMPLIFIES else 5e-5), errors
