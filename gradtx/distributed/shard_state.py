"""ZeRO: the state of an optimizer, and the work of its update, divided over devices that hold whole parameters."""

from collections.abc import Mapping
from typing import Annotated, Any

import jax
from jax import Array
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gradtx.core import Context, Kind, Part, Slots, Transformation, path_of
from gradtx.core.arguments import function_of
from gradtx.core.errors import said
from gradtx.core.trees import flatten_with_path, is_none
from gradtx.core.where import chooser

FREE = PartitionSpec.UNCONSTRAINED
HOW = "run init and update under jax.set_mesh(mesh)"


def partition_specs(place: str, value: Any) -> tuple[tuple[Any, tuple[Any, ...]], ...]:
    """Convert a dict of partition specs by path pattern to pairs."""
    if not isinstance(value, (Mapping, tuple)):
        raise TypeError(f"{place} must be a dict of partition specs by path pattern, got {said(value)}")
    rows = []
    for where, spec in dict(value).items():
        if not isinstance(where, str):
            function_of(f"{place}: the key {said(where)}", where, "path", "leaf")
        names = tuple(spec) if isinstance(spec, (tuple, list, PartitionSpec)) else None
        names = names and tuple(tuple(name) if isinstance(name, list) else name for name in names)
        flat = [x for name in names or () for x in (name if isinstance(name, tuple) else (name,))]
        if names is None or not all(x is None or isinstance(x, str) for x in flat):
            raise TypeError(
                f"{place}[{getattr(where, '__name__', repr(where))}] must be the mesh axis of each axis, "
                f"such as (None, 'model'), got {said(spec)}"
            )
        rows.append((where, names))
    return tuple(rows)


def specs_argument(specs: Any) -> list[str]:
    """The argument `specs` as it is printed, if there are any."""
    each = ", ".join(f"{getattr(where, '__name__', repr(where))}: {spec!r}" for where, spec in specs)
    return [f"specs={{{each}}}"] if specs else []


class shard_state(Transformation):
    """Divide the state and the work of an update over devices that hold whole parameters (ZeRO; Rajbhandari, 2020).

    u = inner(g)

    In data-parallel training each device holds all parameters, and would hold all of the state and compute all of the
    update. Here each computes its part: XLA reduces and scatters the gradients, runs the inner optimizer on the parts,
    and gathers the updates, as ZeRO's first stage does. On n devices the state takes 1/n of the memory on each. Of each
    parameter, the first axis that the number of devices divides and that is not sharded yet is divided; a parameter
    without such an axis stays whole, and so do numbers such as ages. The updates are sharded as the parameters again.

    It needs the mesh in the context, `jax.set_mesh(mesh)`, at `init` and at `update`. Without a mesh it is the inner
    optimizer, so one program runs on one device and on several. `jax.jit(tx.init)` makes the state in parts from the
    start; `init` outside `jit` makes it whole first, and `init` of shapes knows the shardings of the parameters only:
    `jax.jit(tx.init).lower(shapes).compile().output_shardings` has those of the state.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. Norms and
        means over a parameter are those of the whole parameter.
      axis: The axis of the mesh over which the parameters are whole.
      specs: For a mesh with several automatic axes, where JAX hides shardings inside `jit`: the sharding of the
        parameters, a dict of the mesh axes of each axis by path pattern, `{"**/kernel": (None, "model")}`. Parameters
        without an entry are whole. Explicit axes need none.

    Raises:
      ValueError: The mesh has no such axis; its axes are manual, as within `jax.shard_map`; `specs` is missing; or the
        parameters are on a mesh, and the context has none.

    Source: Rajbhandari et al. 2020, arXiv 1910.02054, section 5.1; by shardings as Xu et al. 2020, arXiv 2004.13336.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
    >>> tx, params = gx.shard_state(gx.adamw(1e-3)), {"w": jnp.zeros((jax.device_count() * 4, 2))}
    >>> with jax.set_mesh(mesh):
    ...     mean = jax.jit(tx.init)(params).slots["shard_state"]["inner"]["precondition"]["direction"]
    >>> mean["scale_by_ema"]["mean"]["w"].addressable_shards[0].data.shape  # on each device
    (4, 2)
    """

    inner: Part
    axis: str = "data"
    specs: Annotated[Any, Kind(partition_specs)] = ()

    fed = ("inner",)
    formula = "u = inner(g)"

    @property
    def linear(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.linear

    def _arguments(self) -> list[str]:
        axis = [f"axis={self.axis!r}"] if self.axis != "data" else []
        return [repr(self.inner), *axis, *specs_argument(self.specs)]

    def init_tree(self, params: Any) -> Slots:
        return super().init_tree(self._put(params, divided=True))

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        own = context
        if context.params is not None:
            own = context._replace(params=self._put(context.params, divided=True))
        made = self.part("inner", self._put(updates, divided=True), slots, own, new := {})
        return self._put(made, divided=False, like=updates), new

    def _put(self, tree: Any, divided: bool, like: Any = None) -> Any:
        """The leaves divided along the axis, or as they are without it."""
        leaves, form = flatten_with_path(tree, is_leaf=is_none)
        given = [x for _, x in leaves] if like is None else form.flatten_up_to(like)
        if not (mesh := self._mesh(given)):
            return tree
        return form.unflatten(
            x if x is None else self._constrained(path_of(keys), x, given, mesh, divided)
            for (keys, x), given in zip(leaves, given)
        )

    def _mesh(self, leaves: Any) -> Any:
        """The mesh of the context; None without one, or with one device along the axis."""
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            for x in leaves:
                sharding = None if isinstance(x, Tracer) else getattr(x, "sharding", None)
                if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
                    raise ValueError(f"shard_state: the parameters are on a mesh, and the context has none: {HOW}")
            return None
        if self.axis not in mesh.shape:
            raise ValueError(f"shard_state: axis={self.axis!r} is not an axis of the mesh {said(dict(mesh.shape))}")
        types = dict(zip(mesh.axis_names, mesh.axis_types))
        if types[self.axis] is AxisType.Manual:
            raise ValueError(
                f"shard_state: the axis {self.axis!r} is manual, within shard_map: compute gradients there, and run "
                "update outside"
            )
        several = [name for name, of in types.items() if of is AxisType.Auto and mesh.shape[name] > 1]
        if len(several) > 1 and not self.specs:
            raise ValueError(
                f"shard_state: the mesh has several automatic axes, {', '.join(several)}, whose shardings jit hides: "
                'declare those of the parameters, specs={"**/kernel": (None, "model")}'
            )
        return mesh if mesh.shape[self.axis] > 1 else None

    def _constrained(self, path: str, x: Array, given: Array, mesh: Any, divided: bool) -> Array:
        explicit = mesh.axis_types[mesh.axis_names.index(self.axis)] is AxisType.Explicit
        if explicit:
            own = tuple(jax.typeof(given).sharding.spec)
        else:
            own = next((spec for where, spec in self.specs if chooser(where)(path, given)), ())
            if len(own) > x.ndim:
                raise ValueError(f"shard_state: specs has {own} for {path!r}, of shape {x.shape}")
        own = (*own, *[None] * (x.ndim - len(own)))
        free = [i for i, size in enumerate(x.shape) if own[i] is None and size and size % mesh.shape[self.axis] == 0]
        if not free or any(self.axis in (name if isinstance(name, tuple) else (name,)) for name in own):
            return x
        spec = PartitionSpec(*[self.axis if divided and i == free[0] else name for i, name in enumerate(own)])
        return jax.reshard(x, spec) if explicit else jax.lax.with_sharding_constraint(x, spec)
