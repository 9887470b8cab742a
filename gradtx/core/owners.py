"""The parameter that each array of a state belongs to, and the axes of the parameter that the array has.

Nothing is derived from names or from equal sizes. `init` runs, on shapes alone, on parameters that are each inside a
container, `Owned`: as it maps over the parameters, each slot comes out in the container of its parameter. It runs once
more on parameters of other sizes: the axis of a slot that changes with an axis of the parameter is that axis.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from jax.tree_util import tree_flatten_with_path

from gradtx.core.errors import place
from gradtx.core.trees import Owned, Owner, differentiable, leaves_by_path

# Other sizes of axis r of size n, which differ for each axis. A piece may decide by sizes which slots a leaf has, as
# `factored` does by `min_size`: where it decides otherwise, smaller sizes are tried, and at last the true ones.
# Multiples are first: the blocks of `reduced` divide them.
SIZES: tuple[Callable[[int, int], int], ...] = (
    lambda n, r: n * (r + 2),
    lambda n, r: max(n - r - 1, 0),
    lambda n, r: n,
)
TRUE = len(SIZES) - 1


class Slot(NamedTuple):
    """An array of a state."""

    struct: ShapeDtypeStruct
    owner: int | None = None  # the parameter that it belongs to, among their leaves
    axes: tuple[int | None, ...] = ()  # the parameter's axis for each axis of the array


def slots_of(init: Callable[[Any], Any], params: Any) -> tuple[list[Slot], Any]:
    """Return the arrays of the state `init(params)` and its structure. Only shapes are computed."""
    _check(params)
    leaves, tree = jax.tree.flatten(params)
    shapes: list[tuple[int, ...]] = [jnp.shape(p) for p in leaves]

    def sized(i: int, trial: int) -> tuple[int, ...]:
        return tuple(SIZES[trial](n, r) for r, n in enumerate(shapes[i]))

    def made(trials: list[int]) -> Any:
        structs = (ShapeDtypeStruct(sized(i, trial), jnp.result_type(leaves[i])) for i, trial in enumerate(trials))
        return jax.eval_shape(init, tree.unflatten(Owned(x, Owner(i, shapes[i])) for i, x in enumerate(structs)))

    def by_path(state: Any) -> dict[Any, ShapeDtypeStruct]:
        return dict(tree_flatten_with_path(state)[0])

    state = made([TRUE] * len(leaves))
    slots, trials = by_path(state), [0] * len(leaves)
    while True:
        try:
            others = by_path(made(trials))
        except Exception:  # it made the true slots: a piece refuses these sizes
            trials = [TRUE] * len(leaves)
            others = slots
        alike = {path for path, x in slots.items() if path in others and others[path].ndim == x.ndim}
        changed = {owner.number for path in slots.keys() | others if path not in alike and (owner := _owner(path))}
        if not (again := [i for i in changed if trials[i] != TRUE]):
            break
        for i in again:
            trials[i] += 1

    def slot(path: Any, x: ShapeDtypeStruct) -> Slot:
        if not (owner := _owner(path)):
            return Slot(x)
        trial, other = (trials[owner.number], others[path]) if path in alike else (TRUE, x)
        changes = list(zip(owner.shape, sized(owner.number, trial)))
        return Slot(x, owner.number, _axes(list(zip(x.shape, other.shape)), changes))

    bare = jax.tree.map(_content, state, is_leaf=lambda x: isinstance(x, Owned))
    return [slot(path, x) for path, x in slots.items()], jax.tree.structure(bare)


def _check(params: Any) -> None:
    for path, p in leaves_by_path(params).items():
        differentiable(place("params", path), p)


def _content(x: Any) -> Any:
    return x.content if isinstance(x, Owned) else x


def _owner(path: Any) -> Owner | None:
    return next((key for key in path if isinstance(key, Owner)), None)


def _axes(slot: list[tuple[int, int]], param: list[tuple[int, int]]) -> tuple[int | None, ...]:
    """For each axis of the slot, the parameter's axis that has its two sizes; None if there is none."""

    def axis(i: int, sizes: tuple[int, int]) -> int | None:
        found = [r for r, own in enumerate(param) if own == sizes]
        if i in found and len(slot) >= len(param):  # several are found where sizes are 0, or true because they decide
            return i
        return found[0] if len(found) == 1 else None

    return tuple(axis(i, sizes) for i, sizes in enumerate(slot))


def refuse_placeholder(init: Callable[[Any], Any], params: Any) -> None:
    """Raise for the placeholder that `optax.tree_map_params` gives to `init`, unless there are no slots to map over."""
    if type(params).__name__ != "_ParamsPlaceholder":
        return
    try:
        stateless = not init(jnp.zeros((1, 1))).slots
    except (TypeError, ValueError):  # it chooses parameters by path or shape
        stateless = False
    if not stateless:
        raise TypeError(
            "optax.tree_map_params expected an optimizer whose init takes its placeholder in place of the parameters, "
            "got one of gradtx, whose slots depend on the paths and shapes of the parameters: call "
            "gx.map_params(f, tx, state, params, *rest), with f(slot, param, axes, *rest)"
        )


def structs_of(init: Callable[[Any], Any], params: Any) -> Any:
    """Return the state `init(params)` as structs, each sharded as its parameter over the axes that it has."""
    shardings = [getattr(p, "sharding", None) for p in jax.tree.leaves(params)]
    if all(sharding is None for sharding in shardings):
        _check(params)
        return jax.eval_shape(init, params)
    meshes = {x.mesh: NamedSharding(x.mesh, PartitionSpec()) for x in shardings if isinstance(x, NamedSharding)}
    several = {*meshes.values(), *(x for x in shardings if isinstance(x, SingleDeviceSharding))}
    replicated = several.pop() if len(several) == 1 else None  # of what belongs to no parameter
    slots, structure = slots_of(init, params)

    def struct(slot: Slot) -> ShapeDtypeStruct:
        sharding = replicated if slot.owner is None else sharding_of(shardings[slot.owner], slot.axes)
        return slot.struct.update(sharding=sharding)

    return structure.unflatten(map(struct, slots))


def sharding_of(sharding: Any, axes: tuple[int | None, ...]) -> Any:
    """Return the sharding of a slot with these axes of a parameter, given the parameter's."""
    if not isinstance(sharding, NamedSharding):
        return sharding if isinstance(sharding, SingleDeviceSharding) else None
    spec: dict[int | None, Any] = dict(enumerate(sharding.spec))
    taken = [spec.get(axis) if axes.index(axis) == i else None for i, axis in enumerate(axes)]  # each axis once
    return NamedSharding(sharding.mesh, PartitionSpec(*taken), memory_kind=sharding.memory_kind)
