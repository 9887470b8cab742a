"""The group of each parameter, and the transformation that runs on it."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from gradtx.combinators.layout import layout
from gradtx.combinators.partition import Groups
from gradtx.core import Part, Transformation, path_of, walk
from gradtx.core.arguments import checked
from gradtx.core.axes import axes_of, leaves_of, within
from gradtx.core.errors import describe
from gradtx.core.transformation import TransformationLike
from gradtx.core.trees import differentiable, flatten_with_path
from gradtx.inspect.tables import aligned
from gradtx.pieces.elementwise import identity


class Assignment(NamedTuple):
    """A parameter's type, the roles of its axes, its group and its transformation."""

    parameter: str
    type: str
    axes: str
    group: str
    tx: Part


class Explanation(NamedTuple):
    """The group of each parameter; prints as a table, followed by the transformation of each group."""

    rows: list[Assignment]

    def __str__(self) -> str:
        table = [("parameter", "type", "axes", "group"), *(row[:4] for row in self.rows)]
        groups = {row.group: row.tx for row in self.rows}
        return "\n".join([aligned(table, left=4), "", *(f"{group} = {tx!r}" for group, tx in groups.items())])

    __repr__ = __str__


@checked
def explain(tx: TransformationLike, params: Any) -> Explanation:
    """List the group of each parameter, and the transformation that runs on it.

    The transformation is `tx` with one group chosen in every `partition`, `masked` and `freeze`.

    Args:
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.
        `partition`, `masked` and `freeze` may be anywhere in it.
      params: The parameters, or `jax.ShapeDtypeStruct`s: nothing is computed.

    Returns:
      A table with a row for each parameter: `parameter`, `type`, `axes` (the role of each axis: see `layout`), `group`
      and `tx`.

    >>> import gradtx as gx, jax
    >>> tx = gx.partition({"b": gx.scale(-1.0)}, default=gx.clip(1.0))
    >>> params = {"w": jax.ShapeDtypeStruct((3, 2), "float32"), "b": jax.ShapeDtypeStruct((2,), "float32")}
    >>> gx.explain(gx.chain(tx, gx.freeze("w")), params)
    parameter  type          axes    group
    b          float32[2]    out     partition.b, freeze.otherwise
    w          float32[3,2]  in out  partition.default, freeze.frozen
    <BLANKLINE>
    partition.b, freeze.otherwise = chain(scale(-1.0), identity())
    partition.default, freeze.frozen = chain(clip(1.0), zero())
    """
    with within(leaves=leaves_of(params)):
        gets = _resolve(Transformation.coerce("explain: tx", tx), params)
    rows = []
    for path, leaf in flatten_with_path(params)[0]:
        kind = describe(leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf))
        axes, names, own = gets.get(path_of(path), ("", ["not floating"], identity()))
        rows.append(Assignment(path_of(path), kind, axes, ", ".join(names) or "all", own))
    return Explanation(rows)


def _resolve(tx: Transformation, params: Any) -> dict[str, tuple[str, list[str], Transformation]]:
    """Return, for each floating leaf, its axes, the names of its groups and the transformation that runs on it."""
    if isinstance(tx, Groups):
        parts, out = tx.cut(params), {}
        for rule in tx.groups():
            own = f"{type(tx).__name__}.{rule.name}"
            for path, (axes, names, inner) in _resolve(rule.tx, parts.to(rule.name, params)).items():
                out[path] = (axes, [f"{own}.{name}" for name in names] or [own], inner)
        return out
    out = {
        path_of(path): (str(axes_of(path_of(path), leaf)), [], tx)
        for path, leaf in flatten_with_path(params)[0]
        if differentiable(f"params[{path_of(path)!r}]", leaf)
    }
    with tx.scope():
        columns = {
            name: _resolve(part, params)
            for name, part in tx.parts().items()
            if any(isinstance(piece, (Groups, layout)) for piece in walk(part)) or isinstance(tx, layout)
        }
    for path in out if columns else ():
        names = [name for column in columns.values() for name in column[path][1]]
        axes = next(iter(columns.values()))[path][0]
        out[path] = (axes, names, _with_parts(tx, {name: column[path][2] for name, column in columns.items()}))
    return out


def _with_parts(tx: Transformation, new: dict[str, Transformation]) -> Transformation:
    """Return `tx` with other transformations in place of some of its parts."""
    names = iter(tx.parts())

    def part(value: Any) -> Any:
        return new.get(next(names), value) if isinstance(value, Transformation) else value

    fields = {name: getattr(tx, name) for name, kind in tx._kinds.items() if kind.data}
    return dataclasses.replace(
        tx, **{name: tuple(map(part, x)) if isinstance(x, tuple) else part(x) for name, x in fields.items()}
    )
