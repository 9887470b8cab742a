"""Stacks of matrices, divided over the devices of a mesh: each device computes its part, and sends the results."""

from collections.abc import Callable
from math import prod
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.lax import with_sharding_constraint
from jax.sharding import AxisType, NamedSharding, PartitionSpec, reshard

from gradtx.core import Kind
from gradtx.core.errors import said


def _names(place: str, value: Any) -> tuple[str, ...] | None:
    names = (value,) if isinstance(value, str) else value
    if names is not None and not (isinstance(names, (tuple, list)) and all(isinstance(x, str) for x in names)):
        raise TypeError(
            f"{place} must be the names of mesh axes, such as ('data', 'model'), or None, got {said(value)}"
        )
    return names if names is None else tuple(names)


FREE = PartitionSpec.UNCONSTRAINED
Over = Annotated[Any, Kind(_names)]
"""Annotates the mesh axes over which matrices are spread; None for all."""


def axes_over(tx: Any, leaves: Any) -> tuple[Any, tuple[str, ...]]:
    """The mesh of the leaves or of the context, and its axes over which the matrices are spread.

    There are none within `shard_map`, where each device has matrices of its own.
    """
    meshes = [jax.typeof(x).sharding.mesh for x in leaves if isinstance(x, Tracer)]
    mesh = next((mesh for mesh in meshes if not mesh.empty), jax.sharding.get_abstract_mesh())
    names = mesh.axis_names if tx.over is None else tx.over
    types = dict(zip(mesh.axis_names, mesh.axis_types))
    for name in tx.over or ():
        place = f"{type(tx).__name__}: over={name!r}"
        if not mesh.empty and name not in types:
            raise ValueError(f"{place} is not an axis of the mesh {said(dict(mesh.shape))}")
        if types.get(name) is AxisType.Manual:
            raise ValueError(f"{place}: the axis is manual, within shard_map: leave it out")
        if mesh.empty and any(_is_on_a_mesh(x) for x in leaves):
            raise ValueError(
                f"{place}: the parameters are on a mesh, and the context has none: run init and update "
                "under jax.set_mesh(mesh)"
            )
    if mesh.empty:
        return mesh, ()
    return mesh, tuple(name for name in names if mesh.shape[name] > 1 and types[name] is not AxisType.Manual)


def _is_on_a_mesh(x: Any) -> bool:
    sharding = None if isinstance(x, Tracer) else getattr(x, "sharding", None)
    return isinstance(sharding, NamedSharding) and sharding.mesh.size > 1


def spread(
    function: Callable[..., Any], mesh: Any, names: tuple[str, ...], whole: Any, *stacks: Any, like: Any = None
) -> Any:
    """`function(whole, *stacks)`, which maps over the first axis of the stacks: each device computes its part of it.

    On an explicit mesh the stacks, and the results, are divided by the spec `like`; on an automatic one, as XLA
    chooses. Without `like`, each device gets all results.
    """
    types = dict(zip(mesh.axis_names, mesh.axis_types))
    explicit = AxisType.Explicit in types.values()

    def put(tree: Any, *spec: Any) -> Any:
        place = reshard if explicit else with_sharding_constraint
        return jax.tree.map(lambda x: place(x, NamedSharding(mesh, PartitionSpec(*spec[: x.ndim]))), tree)

    first, *sides = like or (None, None, None)
    if not names:  # each device computes all that is not divided along the first axis
        return put(function(whole, *put(stacks, first)), first, *sides) if explicit else function(whole, *stacks)
    count = jax.tree.leaves(stacks)[0].shape[0]
    more = -count % prod(mesh.shape[name] for name in names)
    if more:  # repeat the last: of zeros, a function may be NaN
        stacks, first = put(stacks, None, *sides) if first else stacks, None
        stacks = jax.tree.map(lambda x: jnp.concatenate([x, jnp.broadcast_to(x[-1:], (more, *x.shape[1:]))]), stacks)
    # The axes of the mesh move to the first axis one by one, and back: XLA gathers the whole to move several at once.
    moving = tuple(name for name in names if types[name] is AxisType.Explicit) if explicit else names
    steps: list[Any] = [(first, *sides) if explicit else (None, FREE, FREE)]
    for n in range(len(moving)):
        steps.append((moving[: n + 1], *(_without(x, moving[: n + 1]) for x in steps[0][1:])))
        stacks = put(stacks, *steps[-1])
    stacks = put(stacks, moving) if explicit else stacks
    # Manual over all axes, or XLA would divide the matrices over the others.
    free, spec = {name for name, of in types.items() if of is not AxisType.Manual}, PartitionSpec(names)
    specs = (PartitionSpec(), *(spec for _ in stacks))
    made = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=spec, axis_names=free, check_vma=False)(
        whole, *stacks
    )
    for step in reversed(steps[:-1]) if like else [()]:
        made = put(made, *step)
    return jax.tree.map(lambda x: x[:count], made) if more else made


def _without(of_axis: Any, names: tuple[str, ...]) -> Any:
    """How an axis is divided without some of the axes of the mesh."""
    several = of_axis if isinstance(of_axis, tuple) else (of_axis,)
    return of_axis if of_axis in (None, FREE) else tuple(name for name in several if name not in names)
