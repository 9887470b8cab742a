"""A table of the pieces of an optimizer, their hyperparameters and their state."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from gradtx.codecs import is_encoded
from gradtx.core import Schedule, Transformation, leaves_by_path
from gradtx.core.arguments import checked
from gradtx.core.checks import differentiable
from gradtx.core.errors import place, said
from gradtx.core.root import names_of, pieces
from gradtx.core.transformation import TransformationLike
from gradtx.inspect.hyperparameters import every, plain
from gradtx.inspect.tables import aligned


class Row(NamedTuple):
    """A piece in a summary."""

    piece: str
    hyperparameters: str
    state: str
    bytes: int
    bytes_per_device: int


class Summary(NamedTuple):
    """The pieces of an optimizer and their state; prints as a table."""

    rows: list[Row]
    parameters: int
    bytes: int
    bytes_per_device: int
    devices: int = 1

    def __str__(self) -> str:
        per = (lambda n: f"{n / self.parameters:.2f}") if self.parameters else (lambda n: "–")
        table = [("piece", "hyperparameters", "state", "bytes/parameter", "bytes", "bytes/device")]
        table += [(piece, values, slots, per(n), f"{n:,}", f"{own:,}") for piece, values, slots, n, own in self.rows]
        text = f"{self.parameters:,} parameters"
        table += [("all", text, "", per(self.bytes), f"{self.bytes:,}", f"{self.bytes_per_device:,}")]
        return aligned(table if self.devices > 1 else [row[:-1] for row in table], left=3)

    __repr__ = __str__


@checked
def summary(tx: TransformationLike, params: Any, mesh: Any = None) -> Summary:
    """Return a table of the pieces of an optimizer: hyperparameters at the first step, state, and bytes of state.

    The table is computed from shapes alone: nothing is allocated, so `params` may be `jax.ShapeDtypeStruct`s of any
    size. If they have shardings, or with `mesh`, the table also has the bytes on each device: slots are divided as
    their parameters are, and by `shard_state`. An abstract mesh may have more devices than there are.

    Args:
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.
      params: The parameters, or `jax.ShapeDtypeStruct`s. A parameter without a `NamedSharding` is whole on each device.
      mesh: The mesh of devices, a `jax.sharding.Mesh` or `AbstractMesh`. None for the mesh of the parameters.

    Returns:
      A table with `rows`, one for each piece, the number of `parameters`, the `bytes` of the state, and the
      `bytes_per_device` of one of the `devices`.

    Raises:
      TypeError: `mesh` is not a mesh.
      ValueError: The parameters are on another mesh than `mesh`, or on several.

    >>> import gradtx as gx, jax
    >>> gx.summary(gx.adam(), {"w": jax.ShapeDtypeStruct((1000, 1000), "float32")})
    piece                                   hyperparameters       state                bytes/parameter      bytes
    precondition                            eps=1e-08                                             0.00          0
    precondition.direction.scale_by_ema     decay=0.9             mean                            4.00  4,000,000
    precondition.direction.bias_correction  decay=0.9             age, mean_log_decay             0.00          8
    precondition.by.square                                                                        0.00          0
    precondition.by.scale_by_ema            decay=0.999           mean                            4.00  4,000,000
    precondition.by.bias_correction         decay=0.999           age, mean_log_decay             0.00          8
    precondition.by.sqrt                                                                          0.00          0
    scale_by_learning_rate                  learning_rate=0.001                                   0.00          0
    step                                                          step                            0.00          4
    all                                     1,000,000 parameters                                  8.00  8,000,020
    """
    tx = Transformation.coerce("summary: tx", tx)
    for path, p in leaves_by_path(params).items():
        differentiable(place("params", path), p)
    mesh, structs = _on_mesh(params, mesh)
    with jax.sharding.use_abstract_mesh(mesh):
        state, now = jax.eval_shape(tx.init, structs), tx.at(0)
    found = dict(pieces(now))
    values: dict[tuple[str, ...], list[str]] = {}
    scheduled = {h.names for h in every(tx, names_of(tx)) if isinstance(h.value, Schedule)}
    for h in every(now, names_of(now)):
        when = " at step 0" if h.names in scheduled else ""
        values.setdefault(h.names[:-1], []).append(f"{h.names[-1]}={plain(h.value)!r}{when}")
    rows = []
    for names, piece in found.items():
        slots = state.slots
        for name in names:
            slots = slots.get(name, {})
        inner = {other[len(names)] for other in found if other[: len(names)] == names and len(other) > len(names)}
        own = {name: slot for name, slot in slots.items() if name not in inner}
        if not piece.flat:
            rows.append(
                Row(
                    ".".join(names),
                    ", ".join(values.get(names, [])),
                    ", ".join(map(_named, own, own.values())),
                    _bytes(own),
                    _bytes_per_device(own),
                )
            )
    rows.append(Row("step", "", "step", _bytes(state.step), _bytes_per_device(state.step)))
    count = sum(math.prod(jnp.shape(x)) for x in jax.tree.leaves(params))
    return Summary(rows, count, _bytes(state), _bytes_per_device(state), math.prod(mesh.shape.values()))


def _on_mesh(params: Any, mesh: Any) -> tuple[AbstractMesh, Any]:
    """The mesh with explicit axes, on which the types of arrays have shardings, and the parameters as structs on it."""
    if not (mesh is None or isinstance(mesh, (Mesh, AbstractMesh))):
        raise TypeError(f"summary: mesh must be a jax.sharding.Mesh or AbstractMesh, got {said(mesh)}")
    shardings = {path: getattr(p, "sharding", None) for path, p in leaves_by_path(params).items()}
    sizes = None if mesh is None else dict(mesh.shape)
    for path, sharding in shardings.items():
        if isinstance(sharding, NamedSharding):
            sizes = dict(sharding.mesh.shape) if sizes is None else sizes
            if dict(sharding.mesh.shape) != sizes:
                raise ValueError(
                    f"summary: {place('params', path)} must be on the mesh {sizes}, got {dict(sharding.mesh.shape)}"
                )
    sizes = sizes or {}
    on = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Explicit,) * len(sizes))

    def struct(p: Any) -> Any:
        sharding = getattr(p, "sharding", None)
        spec = sharding.spec if isinstance(sharding, NamedSharding) else PartitionSpec()
        return jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p), sharding=NamedSharding(on, spec))

    return on, jax.tree.map(struct, params) if sizes else params


def _named(name: str, slot: Any) -> str:
    """The name of a slot, with the codecs of its arrays if they are encoded."""
    codecs = dict.fromkeys(x.codec for x in jax.tree.leaves(slot, is_encoded) if is_encoded(x))
    return f"{name} ({', '.join(codecs)})" if codecs else name


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _bytes_per_device(tree: Any) -> int:
    def own(x: Any) -> int:
        return math.prod(x.sharding.shard_shape(x.shape) if x.sharding else x.shape) * x.dtype.itemsize

    return sum(map(own, jax.tree.leaves(tree)))
