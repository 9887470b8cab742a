"""A table of the pieces of an optimizer, their hyperparameters and their state."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx.codecs import is_encoded
from gradtx.core import Transformation, leaves_by_path
from gradtx.core.arguments import checked
from gradtx.core.checks import differentiable
from gradtx.core.errors import place
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


class Summary(NamedTuple):
    """The pieces of an optimizer and their state; prints as a table."""

    rows: list[Row]
    parameters: int
    bytes: int

    def __str__(self) -> str:
        per = (lambda n: f"{n / self.parameters:.2f}") if self.parameters else (lambda n: "–")
        table = [("piece", "hyperparameters", "state", "bytes/parameter", "bytes")]
        table += [(piece, values, slots, per(n), f"{n:,}") for piece, values, slots, n in self.rows]
        table += [("all", f"{self.parameters:,} parameters", "", per(self.bytes), f"{self.bytes:,}")]
        return aligned(table, left=3)

    __repr__ = __str__


@checked
def summary(tx: TransformationLike, params: Any) -> Summary:
    """Return a table of the pieces of an optimizer: hyperparameters at the first step, state, and bytes of state.

    The table is computed from shapes alone: nothing is allocated, so `params` may be `jax.ShapeDtypeStruct`s of any
    size.

    Args:
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.
      params: The parameters, or `jax.ShapeDtypeStruct`s.

    Returns:
      A table with `rows`, one for each piece, the number of `parameters` and the `bytes` of the state.

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
    state, now = jax.eval_shape(tx.init, params), tx.at(0)
    found = dict(pieces(now))
    values: dict[tuple[str, ...], list[str]] = {}
    for h in every(now, names_of(now)):
        values.setdefault(h.names[:-1], []).append(f"{h.names[-1]}={plain(h.value)!r}")
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
                )
            )
    rows.append(Row("step", "", "step", _bytes(state.step)))
    return Summary(rows, sum(math.prod(jnp.shape(x)) for x in jax.tree.leaves(params)), _bytes(state))


def _named(name: str, slot: Any) -> str:
    """The name of a slot, with the codecs of its arrays if they are encoded."""
    codecs = dict.fromkeys(x.codec for x in jax.tree.leaves(slot, is_encoded) if is_encoded(x))
    return f"{name} ({', '.join(codecs)})" if codecs else name


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
