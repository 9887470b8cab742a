"""Trees of arrays: compilation, paths, precision and sharding."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.dtypes import float0, prng_key
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import (
    keystr,
    register_pytree_with_keys,
    register_pytree_with_keys_class,
    tree_flatten_with_path,
)

from gradtx.core.arguments import foreign, is_array, live
from gradtx.core.errors import said
from gradtx.core.programs import program_for

Function = TypeVar("Function", bound=Callable[..., Any])
NOTHING: Any = object()  # emitted in place of updates that are all 0: see `Transformation.finish_tree`
_ARRAYS: set[type] = {float, int, complex, bool}  # types of array leaves, collected as they are met


def compiled(function: Function) -> Function:
    """Run `function`, whose first argument may be an optimizer, through a cached `jax.jit`.

    It is compiled outside a trace, and traced once for all traces. A call with anything other than arrays, such as a
    function, runs it as it is.
    """

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        for leaf in jax.tree.leaves((args, named)):
            if type(leaf) not in _ARRAYS:
                if isinstance(leaf, jax.ShapeDtypeStruct) or not is_array(leaf):
                    return function(*args, **named)
                if isinstance(leaf, jax.Array):
                    _ARRAYS.add(type(leaf))
        try:
            program, own = program_for(function, args)
            return program(*own, **named)
        except (RuntimeError, OverflowError, jax.errors.UnexpectedTracerError):
            for path, leaf in leaves_by_path(dict(zip(function.__code__.co_varnames, args)) | named).items():
                live(path, leaf)
            raise

    return cast(Function, call)


is_none = functools.partial(operator.is_, None)


def is_float0(x: Any) -> bool:
    """Whether `x` is the float0 array that `jax.grad` returns for an integer."""
    return getattr(x, "dtype", None) == float0


class Owner(NamedTuple):
    """The parameter that is, or owns, what is inside an `Owned`; the key of its path."""

    number: int  # among the leaves of the parameters
    shape: tuple[int, ...]


@register_pytree_with_keys_class
class Owned:
    """A parameter, or what belongs to one, while `gradtx.core.owners` looks for the owner of each slot.

    It is a container: what `jax.tree.map` makes of the parameter stays inside, whatever its type and wherever it goes.
    """

    def __init__(self, content: Any, owner: Owner):
        self.content, self.owner = content, owner

    def tree_flatten_with_keys(self) -> Any:
        return ((self.owner, self.content),), self.owner

    @classmethod
    def tree_unflatten(cls, owner: Owner, content: Any) -> Any:
        (inside,) = content
        return cls(inside, owner)


def is_leaf(x: Any) -> bool:
    """Whether `x` stands in the place of a parameter, for `jax.tree.flatten`."""
    return x is None or isinstance(x, Owned)


class Opened:
    """A node in place of a user's node whose class checks its children: it holds anything, under the same keys."""

    def __init__(self, keys: Any, box: bool, children: Any) -> None:
        self.keys, self.box, self.children = keys, box, children  # whether it is in place of a box of Flax

    def __repr__(self) -> str:
        return repr(dict(zip((keystr((key,), simple=True) for key in self.keys), self.children)))


register_pytree_with_keys(
    Opened,
    lambda node: (list(zip(node.keys, node.children)), (node.keys, node.box)),
    lambda form, children: Opened(*form, children),
)
_CHECKS: dict[type, bool] = {}  # whether a class checks its children, by class


def _checks(node: Any) -> bool:
    """Whether the class of a node refuses to hold anything, as a dataclass does that checks the types of its fields."""
    if (kind := type(node)) not in _CHECKS:
        children, form = jax.tree.flatten(node, is_leaf=lambda x: x is not node)
        if not children:
            return False
        try:
            for child in (object(), np.zeros((1,) * 7, bool)):
                form.unflatten([child] * len(children))
        except Exception:  # whatever a user's class raises
            _CHECKS[kind] = True
        else:
            _CHECKS[kind] = False
    return _CHECKS[kind]


def opened(tree: Any) -> Any:
    """Replace the nodes of classes that check their children: inside, these may be None, shapes or reduced slots."""

    def one(node: Any) -> Any:
        if not _checks(node):
            return node
        children = tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
        return Opened(tuple(key for (key,), _ in children), is_box(node), [opened(child) for _, child in children])

    return jax.tree.map(one, tree, is_leaf=_checks)


def arranged(tree: Any, like: Any) -> Any:
    """Put the leaves of a tree in the nodes of another, which has the same leaves in the same order."""
    form = jax.tree.structure(like)
    return tree if jax.tree.structure(tree) == form else form.unflatten(jax.tree.leaves(tree))


def boxed_like(tree: Any, like: Any) -> Any:
    """The tree with the boxes of `like`; the tree itself if the two differ by more than boxes."""
    same = jax.tree.structure(unboxed(tree)) == jax.tree.structure(unboxed(like))
    return arranged(tree, like) if same else tree


def is_box(x: Any) -> bool:
    """Whether `x` is a box of Flax, one array with metadata: a variable of NNX, or one with axis names of Linen."""
    return _is_box_class(type(x)) or (isinstance(x, Opened) and x.box)


@functools.cache
def _is_box_class(kind: type) -> bool:
    return any(c.__name__ in ("Variable", "AxisMetadata") and c.__module__[:5] == "flax." for c in kind.__mro__)


class Measurement(NamedTuple):
    """The number, or the dict of numbers, that a `monitor` measured, as the state holds it: under its name alone."""

    value: Any


def _is_unnamed(x: Any) -> bool:
    """Whether the content of `x` has the path of `x`."""
    return is_box(x) or isinstance(x, Measurement)


def unboxed(tree: Any) -> Any:
    """Replace the boxes of Flax by the arrays in them."""
    return jax.tree.map(lambda x: jax.tree.leaves(x, lambda y: y is not x)[0] if is_box(x) else x, tree, is_leaf=is_box)


def boxed_as(params: Any, slots: Any) -> Any:
    """The slots without the boxes of Flax around those of another shape than the parameter, whose axes they name."""
    if not any(map(is_box, jax.tree.leaves(slots, is_box))):
        return slots
    shapes = {path: jnp.shape(p) for path, p in leaves_by_path(params).items()}

    def one(path: Any, x: Any) -> Any:
        if not is_box(x):
            return x
        slot, names = unboxed(x), path_of(path).split("/")
        ends = ("/".join(names[i:]) for i in range(len(names) + 1))
        return x if getattr(slot, "shape", None) == next((shapes[end] for end in ends if end in shapes), ()) else slot

    return map_with_path(one, slots, is_leaf=is_box)


def path_of(keys: Any) -> str:
    """The path of a leaf, `layers/0/weight`, of its keys as `flatten_with_path` returns them."""
    return keystr(keys[:-1] if keys and isinstance(keys[-1], Owner) else keys, simple=True, separator="/")


def flatten_with_path(tree: Any, is_leaf: Any = None) -> tuple[list[tuple[Any, Any]], Any]:
    """Flatten with the keys of each leaf, as JAX's function, without those inside boxes of Flax and measurements.

    So a boxed leaf has the path of its box, and updates without boxes have the paths of boxed parameters.
    """

    def ends(x: Any) -> bool:
        return _is_unnamed(x) or (is_leaf is not None and is_leaf(x))

    flat, structure = tree_flatten_with_path(tree, ends)
    if not any(_is_unnamed(x) for _, x in flat):
        return flat, structure
    leaves = []
    for keys, x in flat:
        inside = _is_unnamed(x) and not (is_leaf is not None and is_leaf(x))
        for child in jax.tree.leaves(x, functools.partial(operator.is_not, x)) if inside else ():
            leaves += [((*keys, *more), leaf) for more, leaf in flatten_with_path(child, is_leaf)[0]]
        leaves += [] if inside else [(keys, x)]
    return leaves, jax.tree.structure(tree, is_leaf)


def map_with_path(function: Any, tree: Any, *rest: Any, is_leaf: Any = None) -> Any:
    """Map a function of the keys, as `flatten_with_path` returns them, and the leaves of one tree or several."""
    flat, structure = flatten_with_path(tree, is_leaf)
    others = map(structure.flatten_up_to, rest)
    return structure.unflatten(function(keys, x, *more) for (keys, x), *more in zip(flat, *others))


def boxed_paths(tree: Any) -> dict[str, str]:
    """The path of each leaf by the path that a file has for it: of boxed leaves, Flax saves w as `w/value`."""
    both = zip(tree_flatten_with_path(tree)[0], flatten_with_path(tree)[0])
    return {keystr(saved, simple=True, separator="/"): path_of(keys) for (saved, _), (keys, _) in both}


def leaves_by_path(tree: Any, is_leaf: Any = None) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    several = flatten_with_path(tree, is_leaf)[0]
    leaves = {path_of(path): leaf for path, leaf in several}
    if len(leaves) < len(several):
        raise ValueError(f"two leaves have the same path, among {list(leaves)}: avoid / in names")
    return leaves


def differentiable(place: str, leaf: Any) -> bool:
    """Whether a leaf is floating or complex. Raise for a random key, and for a leaf that is not an array."""
    if not isinstance(leaf, (float, int, complex)) and not is_array(leaf):
        how = foreign(leaf) or "keep arrays and None only (equinox.filter(model, is_inexact_array))"
        raise TypeError(f"{place} is {said(leaf)}: {how}")
    live(place, leaf)
    dtype = getattr(leaf, "dtype", None) or jnp.result_type(leaf)
    if jnp.issubdtype(dtype, prng_key):
        raise TypeError(f"{place} is a random key, not a parameter: put None in its place")
    return jnp.issubdtype(dtype, jnp.inexact)


def working_dtype(*trees: Any) -> Any:
    """The widest real dtype of the trees' floating leaves, at least float32."""
    dtypes = {_dtype(x) for x in jax.tree.leaves(trees)}
    return max(map(_wide, dtypes), key=lambda dtype: dtype.itemsize, default=jnp.dtype("float32"))


def _dtype(x: Any) -> Any:
    """The dtype of a leaf as JAX has it: a NumPy float64 is float32 unless x64 is enabled."""
    return x.dtype if isinstance(x, jax.Array) or is_float0(x) else jnp.result_type(x)


@functools.cache
def _wide(dtype: Any) -> Any:
    """The real dtype that holds one, at least float32."""
    single = jnp.dtype("float32")
    inexact = dtype != float0 and jnp.issubdtype(dtype, jnp.inexact)
    return max(single, jnp.finfo(dtype).dtype, key=lambda x: x.itemsize) if inexact else single


def widen(x: Any, dtype: Any = None) -> jax.Array:
    """A real array of at least float32, or of `dtype`. A complex one becomes pairs of reals: shape (…, 2)."""
    have = _dtype(x)
    dtype = dtype or _wide(have)
    return as_dtype(
        jnp.stack([jnp.real(x), jnp.imag(x)], -1) if jnp.issubdtype(have, jnp.complexfloating) else x, dtype
    )


def narrow(x: jax.Array, like: Any) -> jax.Array:
    """Undo `widen`: cast to the dtype of `like`."""
    x = jax.lax.complex(x[..., 0], x[..., 1]) if jnp.iscomplexobj(like) else x
    return as_dtype(x, _dtype(like))


def as_dtype(x: Any, dtype: Any) -> jax.Array:
    """An array of the dtype: `x` itself where it is one, since casting hundreds of leaves makes a trace longer."""
    is_one = isinstance(x, jax.Array) and x.dtype == dtype and not getattr(x, "weak_type", False)
    return x if is_one else jnp.asarray(x, dtype)


def sharded_along(slot: Any, param: Any, axes: tuple[int | None, ...]) -> Any:
    """Return the slot, each axis sharded as an axis of its parameter (both widened), if one is named for it."""
    if not slot.size or all(axis is None for axis in axes):
        return slot
    if not isinstance(param, Tracer):
        sharding = getattr(param, "sharding", None)
        if not isinstance(sharding, NamedSharding) or not any(sharding.spec):
            return slot
        return jax.device_put(slot, NamedSharding(sharding.mesh, PartitionSpec(*_of_axes(sharding.spec, axes))))
    sharding = jax.typeof(param).sharding
    if any(sharding.spec):
        slot = jax.reshard(slot, NamedSharding(sharding.mesh, PartitionSpec(*_of_axes(sharding.spec, axes))))
    # As below: XLA shards the result of an operation as its operands.
    others = tuple(i for i in range(param.ndim) if i not in axes)
    never = _never(jnp.max(lax.stop_gradient(param), others))
    shape = [1] * slot.ndim
    for axis in sorted(axis for axis in axes if axis is not None):
        shape[axes.index(axis)] = param.shape[axis]
    return jnp.where(jnp.reshape(never, shape), jnp.zeros_like(slot), slot)


def _never(x: Any) -> Any:
    """False for each coordinate, which XLA cannot know. It may compute x twice, rounded otherwise: hence the margin."""
    return lax.gt(x, 2 * jnp.abs(lax.optimization_barrier(x)) + 1)


def _of_axes(spec: Any, axes: tuple[int | None, ...]) -> list[Any]:
    spec = dict(enumerate(spec))
    return [spec.get(axis) if axis is not None else None for axis in axes]


def sharded(slot: Any, param: Any) -> Any:
    """Return the slot, sharded as its parameter (both widened) under `jit` too, which would choose another sharding."""
    if not isinstance(param, Tracer) or slot.shape != param.shape:
        return slot  # outside jit, `zeros_like` has done it
    sharding = jax.typeof(param).sharding
    same = jax.typeof(slot).sharding == sharding
    if sharding.mesh.empty and not same:  # an array made outside the mesh of the context, or a shape without a sharding
        return slot
    return _sharded_as(slot if same else jax.reshard(slot, sharding), param)


@jax.jit  # traced once for all slots of one type
def _sharded_as(slot: Any, param: Any) -> Any:
    """XLA shards the result of an operation as its operands, provided that it cannot fold the operation."""
    param = lax.stop_gradient(param)
    return lax.select(
        _never(param), param if param.dtype == slot.dtype else lax.convert_element_type(param, slot.dtype), slot
    )


def moved(slots: Any, space: Any) -> Any:
    """The slots in a memory, `jax.memory.Space.Host` or `Device`; numbers stay on the device."""
    return jax.tree.map(lambda x: jax.device_put(x, space) if x.ndim else x, slots)


def spans_processes(x: Any) -> bool:
    """Whether an array has devices of other processes."""
    return isinstance(x, jax.Array) and not isinstance(x, Tracer) and not x.is_fully_addressable


def is_divided(x: Any) -> bool:
    """Whether no process holds the array whole."""
    return spans_processes(x) and not x.is_fully_replicated
