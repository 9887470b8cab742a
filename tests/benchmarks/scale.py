"""Memory and traffic of optimizers for models of 7, 70 and 700 billion parameters, on paper: notebooks/guides/scale.md.

    PYTHONPATH=. python tests/benchmarks/scale.py [--traffic]

Memory is from `gx.summary`, of shapes on abstract meshes. With --traffic, small programs are compiled for eight devices
of a CPU, and the bytes that each device receives are counted.
"""

import math
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

import gradtx as gx

MODELS = {  # layers, width, inner width, width of keys and values, vocabulary
    "7B": (32, 4096, 11008, 4096, 32000),
    "70B": (80, 8192, 28672, 1024, 128256),
    "700B": (160, 18432, 65536, 2304, 128256),
}
MESHES = {8: (8, 1), 256: (32, 8), 4096: (256, 16)}
TXS = {"AdamW": gx.adamw(), "Muon": gx.muon(), "SOAP": gx.soap(), "Adafactor": gx.adafactor()}


def model(name, mesh):
    """The parameters of a transformer with stacked layers, in float32, divided over both axes of the mesh."""
    layers, width, inner, keys, words = MODELS[name]
    maps = {"query": (width, width), "key": (width, keys), "value": (width, keys), "out": (width, width)}
    maps |= {"gate": (width, inner), "up": (width, inner), "down": (inner, width)}
    shapes = {f"layers/{path}/kernel": (layers, *shape) for path, shape in maps.items()}
    shapes |= {"embed/embedding": (words, width), "head/kernel": (width, words), "layers/norm/scale": (layers, width)}

    def spec(path, shape):
        if path == "layers/norm/scale":
            return (None, None)
        both = ("model", "data") if path.split("/")[-2] in ("out", "down", "embed") else ("data", "model")
        return (None,) * (len(shape) - 2) + both

    return {
        path: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec(path, shape))))
        for path, shape in shapes.items()
    }


def memory():
    """Rows of the table: model, devices, and GB on each device of the parameters and of the state of each optimizer."""
    for name in MODELS:
        for devices, shape in MESHES.items():
            mesh = AbstractMesh(shape, ("data", "model"))
            params = model(name, mesh)
            own = sum(4 * math.prod(p.sharding.shard_shape(p.shape)) for p in params.values())
            states = [gx.summary(gx.layout(tx, {"layers/**": "batch ..."}), params) for tx in TXS.values()]
            yield [name, f"{devices:,}", *(f"{n / 1e9:,.2f}" for n in (own, *(s.bytes_per_device for s in states)))]


def traffic_of():
    """Rows: bytes that each of eight devices receives in an update, relative to the bytes of all matrices."""
    from collectives import traffic

    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            on = NamedSharding(mesh, PartitionSpec("data"))
            params = {f"{i}/kernel": jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=on) for i in range(16)}
            size = sum(4 * p.size for p in params.values())
            for name, tx in TXS.items():
                state = tx.init(params)
                out = jax.tree.map(lambda x: x.sharding, (params, state))
                program = jax.jit(tx.update, out_shardings=out).lower(params, state, params).compile()
                found = traffic(program)
                yield [name, kind.name, f"{found.received / size:.2f}", f"{found.in_branches / size:.2f}"]


def table(head, rows):
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(["model", "devices", "parameters", *TXS], memory()))
    if "--traffic" in sys.argv:
        print(table(["optimizer", "mesh", "every update", "when bases are renewed"], traffic_of()))
