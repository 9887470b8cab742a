"""The axes of a parameter that are inputs, outputs and batch: declared by rules, or else derived from its path."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

from gradtx.core.errors import said
from gradtx.core.trees import Owned, flatten_with_path, is_leaf, path_of

ROLES = ("in", "out", "row", "batch")
Library = Literal["flax", "nnx", "haiku", "equinox", "torch"]
HOW = "write layout(tx, {path: axes}) around the optimizer, with axes such as 'in in out' or 'batch in out'"


class Axes(NamedTuple):
    """The role of each axis of a parameter; an axis that a rule splits, such as `(3 out)`, counts as several."""

    roles: tuple[str, ...]
    splits: tuple[tuple[int | None, ...], ...] = ()  # for each axis of the parameter, the parts' sizes; None: the rest
    doubt: str = ""  # why roles are "?"

    def of(self, *roles: str) -> tuple[int, ...]:
        """The axes that have one of the roles, counted after splitting."""
        return tuple(i for i, role in enumerate(self.roles) if role in roles)

    @property
    def is_linear(self) -> bool:
        """Whether the parameter is a linear map, with known inputs and outputs."""
        return bool(self.of("in") and self.of("out"))

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an array like the parameter with its axes split; complex numbers are pairs on a last axis."""
        splits = (*self.splits, *[(None,)] * (len(shape) - len(self.splits)))
        rest = [size // math.prod(part for part in parts if part) for size, parts in zip(shape, splits)]
        return tuple(part or size for size, parts in zip(rest, splits) for part in parts)

    def of_one(self) -> "Axes":
        """The axes of one layer of the batch."""
        return Axes(tuple(role for role in self.roles if role != "batch"), doubt=self.doubt)

    def kept(self, over: str) -> tuple[int, ...]:
        """The axes of one layer that a reduction keeps: over the leaf, its rows, columns, inputs or outputs."""
        if over == "inputs":
            return self.of("out") if self.is_linear else self.of("row")
        if over == "outputs":
            return self.of("in") if self.is_linear else self.of("out") if self.of("row") else ()
        one = tuple(axis for axis, role in enumerate(self.roles) if role != "batch")
        return {"rows": one[:1], "columns": one[-1:], "leaf": ()}[over] if len(one) >= 2 else ()

    def refuse_doubt(self, place: str, path: str) -> None:
        """Raise unless the roles of all axes are known."""
        if self.doubt:
            raise ValueError(f"{place}: the axes of {path!r} are in doubt ({self.doubt}): {HOW}")

    def __str__(self) -> str:
        return " ".join(self.roles) + (f" ({self.doubt})" if self.doubt else "")


def parsed(place: str, text: Any) -> tuple[Any, ...]:
    """Parse the axes of a rule, `"batch ... (3 out)"`: each a role, the parts of a split axis, or `...`."""
    how = f"write a word for each axis, {', '.join(ROLES)}, as in 'batch in out', '(3 out) in', or 'batch ...'"
    words = re.findall(r"\([^()]*\)|[^\s()]+", text) if isinstance(text, str) else []
    if not words or "".join(words).replace(" ", "") != re.sub(r"\s", "", text):
        raise ValueError(f"{place} must be the axes of a parameter, got {said(text)}: {how}")
    out: list[Any] = []
    for word in words:
        parts = word.strip("()").split()
        roles = [part for part in parts if not part.isdigit()]
        split = word[0] == "("
        if roles == ["..."] and not split and Ellipsis not in out:
            out.append(...)
        elif len(roles) != 1 or roles[0] not in ROLES or (split and len(parts) < 2) or "0" in parts:
            raise ValueError(f"{place} has {word!r}, got {said(text)}: {how}")
        else:
            out.append(tuple(int(part) if part.isdigit() else part for part in parts))
    return tuple(out)


@functools.lru_cache(maxsize=65536)
def _expanded(text: str, path: str, shape: tuple[int, ...], library: str | None) -> Axes:
    """The axes of a parameter of this shape by the words of a rule."""
    words, place = parsed("layout", text), f"layout: {text!r} does not fit the parameter {path!r} of shape {shape}"
    if ... in words:
        at, rest = words.index(...), len(shape) - len(words) + 1
        if rest < 0:
            raise ValueError(f"{place}: it has {len(words) - 1} axes or more")
        others = guessed(path, rest, library)
        words = (*words[:at], *((role,) for role in others.roles), *words[at + 1 :])
        doubt = others.doubt
    else:
        doubt = ""
    if len(words) != len(shape):
        raise ValueError(f"{place}: it has {len(words)} axes")
    for word, size in zip(words, shape):
        if size % (count := math.prod(part for part in word if isinstance(part, int))):
            raise ValueError(f"{place}: {count} does not divide {size}")
    splits = tuple(tuple(part if isinstance(part, int) else None for part in word) for word in words)
    return Axes(tuple("batch" if isinstance(part, int) else part for word in words for part in word), splits, doubt)


@functools.lru_cache(maxsize=65536)
def guessed(path: str, ndim: int, library: str | None) -> Axes:
    """The roles of a parameter's axes by its name and that of its layer, or a doubt."""
    *_, layer, name = ("", "", *path.lower().split("/"))
    vector = Axes(("out",) * ndim)
    if ndim < 2 or re.search("bias", name) or name in ("scale", "offset", "gamma", "beta"):
        return vector
    if name == "b":
        return vector if library == "haiku" else Axes(("?",) * ndim, doubt="b: a matrix, or biases of stacked layers?")
    if re.search(r"norm|(^|_)(ln|bn)(_|\d|$)", layer) and re.fullmatch("weight|w|kernel", name):
        return vector
    table = r"embed|(^|_)emb(_|$)|^wte$|^wpe$"
    if ndim == 2 and (re.search(table, name) or (re.search(table, layer) and name == "weight")):
        return Axes(("row", "out"))
    first = library in ("equinox", "torch") or (library is None and name.startswith("weight") | name.endswith("weight"))
    if ndim == 2:
        return Axes(("out", "in") if first else ("in", "out"))
    inner = ("in",) * (ndim - 1)
    if "conv" in layer and not (first and "transpose" in layer):
        return Axes(("out", *inner) if first else (*inner, "out"))
    if name == "kernel" and ndim == 3 and layer in ("query", "key", "value"):  # of Flax: (features, heads, head_dim)
        return Axes(("in", "out", "out"))
    if name == "kernel" and ndim == 3 and layer == "out":
        return Axes(("in", "in", "out"))
    return Axes(("?",) * ndim, doubt=f"{ndim} axes: a convolution, heads or stacked layers?")


class Layout(NamedTuple):
    """Rules that declare the axes of parameters; the first that chooses one applies. Names decide for the others."""

    rules: tuple[tuple[Any, str], ...] = ()  # (what `chooser` takes, the axes)
    library: str | None = None

    def axes_of(self, path: str, leaf: Any) -> Axes:
        """The axes of a parameter as the user has it."""
        shape = leaf.shape if isinstance(leaf, Leaf) else jnp.shape(leaf)
        for where, text in self.rules:
            with within(layout=Layout((), self.library)):  # where `is_matrix` is a rule, names decide
                chosen = where(path, leaf)
            if chosen:
                return _expanded(text, path, shape, self.library)
        return guessed(path, len(shape), self.library)


class Scope(NamedTuple):
    """The parameters and their layout while `init` or `update` runs."""

    layout: Layout = Layout()
    leaves: Mapping[str, Any] = MappingProxyType({})  # the parameters as the user has them, by path: shapes and dtypes
    one: bool = False  # whether it runs on one layer at a time
    fewer: bool = False  # whether leaves are reductions of the parameters, without their inputs and outputs
    shapes: bool = False  # whether only the shapes and dtypes of slots are used


_START = Scope()
_SCOPE: ContextVar[Scope] = ContextVar("scope", default=_START)


def scope() -> Scope:
    """The current scope."""
    return _SCOPE.get()


@contextmanager
def within(**changes: Any) -> Iterator[None]:
    """Change the scope: `layout`, `leaves`, `one`, `fewer`, `shapes`."""
    outer = _SCOPE.set(_SCOPE.get()._replace(**changes))
    try:
        yield
    finally:
        _SCOPE.reset(outer)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter as a function of (path, leaf) sees it: the properties that init and update both know."""

    shape: tuple[int, ...]
    dtype: Any
    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: math.prod(self.shape))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a parameter is chosen by its path and type: a leaf has shape, ndim, size and dtype, not {name!r}"
        )


def viewed(views: Mapping[str, tuple[str, Any]]) -> AbstractContextManager[None]:
    """Change the scope to one in which these leaves, by path, are other arrays, with axes as `layout` writes them."""
    now, words = scope(), {path: axes for path, (axes, _) in views.items()}

    def rule(axes: str) -> tuple[Any, str]:
        return lambda path, leaf: words.get(path) == axes, axes

    return within(
        layout=Layout((*map(rule, dict.fromkeys(words.values())), *now.layout.rules), now.layout.library),
        leaves={**now.leaves, **{path: Leaf(x.shape, x.dtype) for path, (_, x) in views.items()}},
    )


def leaf_of(x: Any) -> Leaf:
    """The leaf that is an array, or that describes one."""
    x, owner = (x.content, x.owner) if isinstance(x, Owned) else (x, None)
    dtype = jnp.result_type(x) if isinstance(x, (int, float, complex)) else getattr(x, "dtype", None)
    return Leaf(owner.shape if owner else getattr(x, "shape", ()), dtype)


def leaves_of(tree: Any) -> dict[str, Leaf]:
    """The leaves of a tree by path."""
    leaves = flatten_with_path(tree, is_leaf)[0]
    return {path_of(keys): leaf_of(x) for keys, x in leaves if x is not None and getattr(x, "content", x) is not None}


def given(path: str, leaf: Any) -> Any:
    """The parameter as the user has it, before it is widened, reduced or cut into layers; else the leaf."""
    return _SCOPE.get().leaves.get(path, leaf)


def axes_of(path: str, leaf: Any) -> Axes:
    """The axes of a leaf: the parameter's, unless it is a reduction of the parameter."""
    return Axes(("out",) * len(getattr(leaf, "shape", ()))) if scope().fewer else declared(path, leaf)


def declared(path: str, leaf: Any) -> Axes:
    """The axes of a parameter; of one layer, where layers are run one at a time."""
    now = scope()
    if path not in now.leaves:  # not a parameter, but a number that a piece keeps beside them
        return guessed(path, len(getattr(leaf, "shape", ())), now.layout.library)
    axes = now.layout.axes_of(path, now.leaves[path])
    return axes.of_one() if now.one else axes


def layers_of(path: str, leaf: Any) -> Axes | None:
    """The axes of a parameter that is several layers, unless they are already run one at a time."""
    now = scope()
    whole = now.leaves.get(path)
    if now.one or not now.layout.rules or leaf is None or whole is None:
        return None
    axes = now.layout.axes_of(path, whole)
    return axes if "batch" in axes.roles and leaf.ndim >= whole.ndim else None


def _batch_first(ndim: int, axes: Axes) -> tuple[int, ...]:
    batch = axes.of("batch")
    return (*batch, *(i for i in range(ndim) if i not in batch))


def cut(x: Array, axes: Axes) -> Array:
    """The layers of a parameter, or of an array like it, along the first axes."""
    split = axes.sizes(x.shape)
    return jnp.transpose(jnp.reshape(x, split), _batch_first(len(split), axes))


def joined(x: Array, axes: Axes, shape: tuple[int, ...]) -> Array:
    """Undo `cut` for an array of this shape."""
    order = _batch_first(x.ndim, axes)
    return jnp.reshape(jnp.transpose(x, sorted(range(x.ndim), key=order.__getitem__)), shape)


def refuse_doubt(piece: Any, params: Any) -> None:
    """Raise for a parameter whose axes the piece must know, and which are in doubt."""
    for path, leaf in leaves_of(params).items():
        axes_of(path, leaf).refuse_doubt(type(piece).__name__, path)
