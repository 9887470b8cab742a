"""Optimizers within `jax.shard_map`, where each device runs the update on its own shards."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, Kind, Part, Slots, Transformation, checks, init_slots, path_of, run
from gradtx.core.axes import Leaf, given, leaves_of, scope, within
from gradtx.core.errors import place, said
from gradtx.core.owners import Slot, slots_of
from gradtx.core.trees import map_with_path
from gradtx.core.where import chooser
from gradtx.distributed.shard_state import partition_specs, specs_argument
from gradtx.distributed.shards import (
    Shard,
    Spec,
    checks_vma,
    differentiable_by,
    function_of_shards,
    interpreted,
    local_shape,
    placed,
    whole_shape,
)


class in_shard_map(Transformation):
    """Within `jax.shard_map`, make the updates of the whole parameters, of which each device holds a shard.

    u = inner(g)

    There, an optimizer would take the norms, means and maxima of a shard for those of the whole parameter, and the
    devices would disagree. This wrapper traces the inner optimizer on whole shapes, and runs each operation on shards:
    elementwise operations as they are, sums and maxima followed by `jax.lax.psum` and `pmax` over the mesh axes that
    divide the reduced axes. Operations on whole matrices, as in `orthogonalize` and the bases of SOAP, gather them, and
    each device computes all of it. So the updates are those of the whole parameters for any optimizer, one of Optax
    included, with `check_vma` and without. The slots of the state are divided as their parameters.

    You rarely need it: compute gradients within `shard_map` and run the update outside, where XLA divides the work.
    Outside `shard_map` this wrapper is the inner optimizer, so make the state there.

    Gradients must be reduced before: the shards of a parameter that is whole along a mesh axis are equal along it.
    So are the loss and what `value_fn` returns; `grad_fn` and `hvp` return shards.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. Functions that
        it holds are of whole arrays, without collectives.
      specs: The sharding of the parameters, as in the `in_specs` of `shard_map`: a dict of the mesh axes of each axis
        by path pattern, `{"**/kernel": (None, "model")}`. Parameters without an entry are whole.

    Raises:
      ValueError: `specs` has an axis that the mesh has not, or more axes than a parameter; a leaf, or the loss, differs
        between devices where `specs` says that it is whole; or a function of the optimizer calls a collective.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> mesh, rows = jax.make_mesh((jax.device_count(),), ("x",)), jax.P("x")
    >>> w = jax.device_put(jnp.ones(4 * jax.device_count()), jax.NamedSharding(mesh, rows))
    >>> tx = gx.in_shard_map(gx.clip_by_global_norm(1.0), {"w": ("x",)})
    >>> def step(g):
    ...     return tx.update(g, tx.init(g))[0]
    >>> u = jax.shard_map(step, mesh=mesh, in_specs=rows, out_specs=rows)({"w": w})
    >>> gx.global_norm(u).round(3)
    Array(1., dtype=float32)
    """

    inner: Part
    specs: Annotated[Any, Kind(partition_specs)] = ()

    fed = ("inner",)
    exact_on_shards = True
    formula = "u = inner(g)"

    @property
    def linear(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.linear

    def _arguments(self) -> list[str]:
        return [repr(self.inner), *specs_argument(self.specs)]

    def init_tree(self, params: Any) -> Slots:
        if not checks.manual_axes():
            return super().init_tree(params)
        shards = self._shards("params", params)
        whole = None if scope().shapes else self._run(self._slots, shards)
        slots, form = self._slots_of(shards)
        if whole is None:
            zeros = [jnp.zeros(local_shape(slot.struct.shape, spec), slot.struct.dtype) for slot, spec in slots]
            kept = form.unflatten(zeros)
        else:
            kept = jax.tree.map(placed, whole, form.unflatten(spec for _, spec in slots))
            kept = jax.tree.map(lambda shard: shard.x, kept)
        return {"inner": kept} if kept else {}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        if not checks.manual_axes():
            made = self.part("inner", updates, slots, context, new := {})
            return made, new
        shards = self._shards("updates", updates)
        params = self._shards("params", context.params)
        like = shards if context.params is None else params
        of_slots, form = self._slots_of(like)
        specs, old = form.unflatten(spec for _, spec in of_slots), slots.get("inner", {})
        extra = {name: x for name, x in context.extra.items() if name != "grad"}
        for name, x in extra.items():
            if callable(x):
                extra[name] = self._function(name, x, like)
            else:
                jax.tree.map(lambda x, name=name: _shard(name, x, ()), x)  # raises where it differs
        grad = self._shards("grad", context.extra.get("grad"))

        def update(updates: Any, slots: Slots, params: Any, grad: Any) -> tuple[Any, Slots]:
            own = context._replace(params=params, extra=extra | ({} if grad is None else {"grad": grad}))
            with within(leaves=self._leaves()):
                return run(self.inner, updates, slots, own)

        old = jax.tree.map(Shard, old, specs)
        made, new = self._run(update, shards, old, params, grad)
        made = jax.tree.map(lambda shard, like: placed(shard, like.spec), made, shards)
        new = jax.tree.map(placed, new, specs)
        made, new = jax.tree.map(lambda shard: shard.x, (made, new))
        return made, {"inner": new} if new else {}

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        """The results of a function of whole arrays, given shards of its arguments: trees of shards."""
        shards, form = jax.tree.flatten(args)
        structs = (jax.ShapeDtypeStruct(whole_shape(x.x.shape, x.spec), x.x.dtype) for x in shards)
        program, out = jax.make_jaxpr(function, return_shape=True)(*form.unflatten(structs))
        return jax.tree.structure(out).unflatten(interpreted(program, shards))

    def _slots(self, params: Any) -> Slots:
        with within(leaves=leaves_of(params), shapes=False):
            return init_slots(self.inner, params)

    def _slots_of(self, shards: Any) -> tuple[list[tuple[Slot, Spec]], Any]:
        """The slots of the inner optimizer, each divided over the axes that it has of its parameter, and their form."""
        structs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(whole_shape(x.x.shape, x.spec), x.x.dtype), shards)
        slots, form = slots_of(self._slots, structs)
        specs = [x.spec for x in jax.tree.leaves(shards)]

        def spec(slot: Slot) -> Spec:
            if slot.owner is None:
                return ((),) * slot.struct.ndim
            own = dict(enumerate(specs[slot.owner]))
            return tuple(own.pop(axis, ()) if axis is not None else () for axis in slot.axes)  # each axis once

        return [(slot, spec(slot)) for slot in slots], form

    def _shards(self, name: str, tree: Any) -> Any:
        """The arrays of a tree like the parameters, as shards."""

        def shard(keys: Any, x: Any) -> Shard:
            path = path_of(keys)
            return _shard(place(name, path), x, self._spec(path, x))

        return map_with_path(shard, tree)

    def _spec(self, path: str, leaf: Any) -> Spec:
        """The mesh axes of each axis of a parameter, without those that `shard_map` leaves to XLA."""
        mesh, ndim = jax.sharding.get_abstract_mesh(), len(leaf.shape)
        own = next((spec for where, spec in self.specs if chooser(where)(path, given(path, leaf))), ())
        names = [name if isinstance(name, tuple) else () if name is None else (name,) for name in own]
        for name in (name for several in names for name in several if name not in mesh.shape):
            raise ValueError(f"in_shard_map: specs has the axis {name!r}, and the mesh is {said(dict(mesh.shape))}")
        if len(names) > ndim:
            raise ValueError(f"in_shard_map: specs has {own} for {path!r}, of {ndim} axes")
        names = [tuple(name for name in several if name in mesh.manual_axes) for several in names]
        return (*names, *[()] * (ndim - len(names)))

    def _leaves(self) -> dict[str, Leaf]:
        """The parameters of the scope, whole."""
        leaves = scope().leaves.items()
        return {path: Leaf(whole_shape(x.shape, self._spec(path, x)), x.dtype) for path, x in leaves}

    def _function(self, name: str, function: Callable[..., Any], like: Any) -> Callable[..., Any]:
        """`value_fn`, `grad_fn` or `hvp` as a function of the whole parameters."""
        shards, form = jax.tree.flatten(like)
        result = jax.eval_shape(function, form.unflatten(x.x for x in shards))
        structs, out = jax.tree.flatten(result)
        specs = [x.spec for x in shards] if out == form else [((),) * x.ndim for x in structs]
        wholes = [jax.ShapeDtypeStruct(whole_shape(x.shape, s), x.dtype) for x, s in zip(structs, specs)]

        def of_shards(*values: Any) -> list[Any]:
            made = jax.tree.leaves(function(form.unflatten(values)))
            return [_shard(f"{name}(…)", x, spec).x for x, spec in zip(made, specs)]

        own = [x.spec for x in shards]
        call = function_of_shards(of_shards, own, [*zip(wholes, specs)])
        if out != form:  # one number: line searches take its derivative

            def gradient(*values: Any) -> tuple[Any, ...]:
                if not checks_vma():
                    raise ValueError(
                        f"in_shard_map: expected shard_map to have check_vma=True for the derivative of {name}, got "
                        "False, with which JAX multiplies it by the number of devices: leave it True, or pass grad_fn"
                    )
                return jax.grad(lambda values: of_shards(*values)[0])(values)

            like = [(jax.ShapeDtypeStruct(whole_shape(x.x.shape, x.spec), x.x.dtype), x.spec) for x in shards]
            call = differentiable_by(function_of_shards(gradient, own, like), call)
        return lambda tree: out.unflatten(call(*form.flatten_up_to(tree)))


def _shard(name: str, x: Any, spec: Spec) -> Shard:
    """The shard; raise if it differs between devices along an axis over which it is whole."""
    manual = checks.manual_axes()
    own = {axis for several in spec for axis in several}
    for axis in (axis for axis in manual if axis in checks.varying(x) and axis not in own):
        raise ValueError(
            f"in_shard_map: expected {name} to be the same on all devices along {axis!r}, got one that differs: reduce "
            f"it with jax.lax.pmean(…, {axis!r}), or give the parameter this axis in specs"
        )
    return Shard(x, spec or ((),) * len(jax.typeof(x).shape))
