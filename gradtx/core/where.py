"""Choosing parameters: by a path pattern, a function of (path, leaf), or a tree of booleans."""

import re
from collections.abc import Callable, Collection
from functools import partial, reduce
from typing import Annotated, Any

import jax
import numpy as np

from gradtx.core import axes
from gradtx.core.arguments import checked, function_of
from gradtx.core.errors import said
from gradtx.core.kinds import Kind
from gradtx.core.trees import is_none, leaves_by_path


class Paths(dict[str, Any]):
    """A tree of booleans, or of labels, by path: a leaf may stand for a whole branch."""

    def __call__(self, path: str, leaf: Any) -> Any:
        for branch, chosen in self.items():
            if within(path, branch):
                return chosen
        raise ValueError(f"the tree of booleans has no entry for the parameter {path!r}; it has {list(self)}")

    def check(self, place: str, paths: Collection[str]) -> None:
        """Raise for a path in the tree that is not a parameter."""
        for branch in self if paths else ():
            if not any(within(path, branch) or branch.startswith(f"{path}/") for path in paths):
                raise ValueError(f"{place}[{branch!r}] matches no parameter; there are {', '.join(paths)}")

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(tuple(self.items()))


def within(path: str, branch: str) -> bool:
    """Whether a branch of the tree holds a path."""
    return branch in ("", path) or path.startswith(f"{branch}/")


def _convert(place: str, value: Any) -> Any:
    if value is None or isinstance(value, (str, Paths)):
        return value
    leaves = jax.tree.leaves(value)
    if callable(value) and not (leaves and all(isinstance(leaf, (bool, np.bool_)) for leaf in leaves)):
        return function_of(place, value, "path", "leaf")
    if any(not isinstance(leaf, (bool, np.bool_)) for leaf in leaves):
        options = "a path pattern such as '**/kernel', a function of (path, leaf), or a tree of booleans"
        raise TypeError(f"{place} must be {options}, got {said(value)}")
    return Paths(leaves_by_path(jax.tree.map(bool, value)))


Where = Annotated[Any, Kind(_convert)]
"""Annotates a choice of parameters: None for all, a pattern (`*` any name, `**` any number of names), a function of
(path, leaf), or a tree of booleans, whose leaves may stand for whole branches."""


def chooser(where: Any) -> Callable[[str, Any], bool]:
    """Convert `where` to a function of (path, leaf)."""
    if where is None:
        return lambda path, leaf: True
    if not isinstance(where, str):
        return where
    if "*" not in where:
        return lambda path, leaf: path == where
    parts = [part for part in re.split(r"(\*\*/|/\*\*\Z|\*\*|\*)", where) if part]
    return lambda path, leaf: len(path) in reduce(partial(_matched, path), parts, {0})


def _matched(path: str, starts: set[int], part: str) -> set[int]:
    """The places in a path up to which a part of a pattern matches, from any of several places.

    So the time is linear in the path and in the pattern; to try all choices of a regular expression is exponential.
    """
    if not starts:
        return starts
    after = range(min(starts) + 1, len(path) + 1)
    if part == "**":
        return {min(starts), *after}
    if part == "**/":
        return starts | {i for i in after if path[i - 1] == "/"}
    if part == "/**":  # at the end
        here = [i for i in starts if path[i : i + 1] == "/"]
        return starts | ({*range(min(here) + 1, len(path) + 1)} if here else set())
    if part != "*":
        return {i + len(part) for i in starts if path.startswith(part, i)}
    ends = {min(starts)}
    for i in after:
        if i in starts or (i - 1 in ends and path[i - 1] != "/"):
            ends.add(i)
    return ends


def choose(place: str, where: Any, params: Any) -> set[str]:
    """Return the paths of the chosen parameters. A pattern must match at least one."""
    chooses, leaves, chosen = chooser(where), leaves_by_path(params, is_none), set()
    if isinstance(where, Paths):
        where.check(place, leaves)
    for path, leaf in leaves.items():
        if leaf is None and not isinstance(where, str):  # of another group; a pattern may still match it
            continue
        answer = chooses(path, axes.given(path, leaf))
        if not isinstance(answer, (bool, np.bool_)):
            raise TypeError(f"{place} must return True or False for {path!r}, got {said(answer)}")
        if answer:
            chosen.add(path)
    if jax.tree.leaves(params) and not chosen and isinstance(where, str):
        raise ValueError(f"{place}={where!r} chooses no parameter; there are {', '.join(leaves)}")
    return chosen


@checked
def is_matrix(path: str, leaf: Any) -> bool:
    """Whether a parameter has two axes or more: True for weights, False for biases and scales.

    Axes that only count layers, as declared by `layout`, do not count. A parameter named `bias` or `scale` is a vector,
    whatever its shape.

    Args:
      path: The path of the parameter.
      leaf: The parameter, or anything with its shape.

    Returns:
      A bool.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> gx.is_matrix("layer/bias", jnp.zeros(3)), gx.is_matrix("attention/query/bias", jnp.zeros((8, 64)))
    (False, False)
    >>> gx.adamw(0.001, where=gx.is_matrix).links[1]
    add_weight_decay(0.01, where=is_matrix)
    """
    roles = [role for role in axes.declared(path, leaf).roles if role != "batch"]
    return len(roles) >= 2 and roles != ["out"] * len(roles)


@checked
def is_linear(path: str, leaf: Any) -> bool:
    """Whether a parameter is a linear map with known inputs and outputs, as Muon needs.

    True for the kernels of dense layers, convolutions and attention; False for vectors, for tables of embeddings, and
    for a leaf whose axes are in doubt. `layout` declares the axes; `explain` lists them, with the reason of each doubt.

    Args:
      path: The path of the parameter.
      leaf: The parameter, or anything with its shape.

    Returns:
      A bool.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> gx.is_linear("dense/kernel", jnp.zeros((3, 4))), gx.is_linear("embed/embedding", jnp.zeros((100, 4)))
    (True, False)
    """
    return axes.declared(path, leaf).is_linear
