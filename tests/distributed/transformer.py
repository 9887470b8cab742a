"""A small transformer on a mesh of one axis or two, for the tests of optimizers on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

SHAPES = {
    "embed/embedding": (16, 16),
    **{f"attention/{name}/kernel": (16, 16) for name in ("query", "key", "value", "out")},
    "mlp/up/kernel": (16, 32),
    "mlp/up/bias": (32,),
    "mlp/down/kernel": (32, 16),
    "norm/scale": (16,),
    "head/kernel": (16, 16),
}
TURNED = ("embed/embedding", "attention/out/kernel", "mlp/down/kernel")  # (rows, columns) divided the other way round
MESHES = {"data": (8,), "data and model": (4, 2)}


def mesh_of(name, kind=AxisType.Auto):
    shape = MESHES[name]
    return jax.make_mesh(shape, ("data", "model")[: len(shape)], axis_types=(kind,) * len(shape))


def specs_of(name):
    """How the parameters are divided: as FSDP and tensor parallelism divide them; the scale is whole."""
    both = ("data", "model") if name == "data and model" else ("data", None)
    specs = {path: both[::-1] if path in TURNED else both for path in SHAPES}
    return specs | {"mlp/up/bias": both[1:], "norm/scale": (None,)}


def params_of(dtype=jnp.float32):
    random = np.random.default_rng(0)
    return {
        path: jnp.asarray(0.3 * random.standard_normal(shape) + (path == "norm/scale"), dtype)
        for path, shape in SHAPES.items()
    }


def placed(params, name, mesh):
    """The parameters, divided over the mesh."""
    specs = specs_of(name)
    return {path: jax.device_put(p, NamedSharding(mesh, PartitionSpec(*specs[path]))) for path, p in params.items()}


def loss(params, tokens):
    """The loss of the next token, with all parameters gathered, as FSDP computes it."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        explicit = AxisType.Explicit in mesh.axis_types
        gather = jax.reshard if explicit else jax.lax.with_sharding_constraint
        params = {path: gather(p, PartitionSpec()) for path, p in params.items()}

    def of(x, path):
        return x @ params[f"{path}/kernel"]

    def normed(x):
        return params["norm/scale"] * x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)

    x = jax.nn.one_hot(tokens, 16) @ params["embed/embedding"]
    query, key, value = (of(normed(x), f"attention/{name}") for name in ("query", "key", "value"))
    weights = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", query, key) / 4)
    x = x + of(jnp.einsum("bqk,bkd->bqd", weights, value), "attention/out")
    x = x + of(jax.nn.gelu(of(normed(x), "mlp/up") + params["mlp/up/bias"]), "mlp/down")
    logs = jax.nn.log_softmax(of(normed(x), "head"))
    return -jnp.mean(jnp.sum(jax.nn.one_hot(tokens[:, ::-1], 16) * logs, -1))


def batches(count):
    random = np.random.default_rng(1)
    return [jnp.asarray(random.integers(0, 16, (16, 8))) for _ in range(count)]
