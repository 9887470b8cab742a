"""Read and set hyperparameters by name."""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradtx.core import Schedule, State, Transformation, leaves_by_path
from gradtx.core.arguments import checked
from gradtx.core.errors import said, unknown
from gradtx.core.root import keys_of, names_of, pieces
from gradtx.core.transformation import TransformationLike
from gradtx.core.trees import unboxed


class Hyperparameter(NamedTuple):
    """A hyperparameter of an optimizer; a piece and its bias correction may hold one value together."""

    names: tuple[str, ...]  # from the outermost piece to the field
    value: Any
    convert: Any
    owner: str

    @property
    def path(self) -> str:
        return ".".join(self.names)


@checked
def hyperparameters(tx: TransformationLike, state: State | None = None) -> dict[str, Any]:
    """Return the values that the next update uses, by name.

    The name is the field's name if no other hyperparameter has it, else the whole path: the names of the pieces from
    the outermost, as in the slots, and the field. A `bias_correction`, or a `rectify`, has the decay of the average in
    its chain, so the two are one hyperparameter.

    Args:
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.
      state: The state of `tx`, for the values of schedules at the next step; None for the values at the first step.

    Returns:
      A dict from names to numbers.

    Raises:
      TypeError: `state` is not a `State`.

    >>> import gradtx as gx
    >>> for name, value in gx.hyperparameters(gx.adam(lambda step: 0.1 * 0.5**step)).items():
    ...     print(name, value)
    precondition.direction.scale_by_ema.decay 0.9
    precondition.by.scale_by_ema.decay 0.999
    eps 1e-08
    learning_rate 0.1
    """
    tx = Transformation.coerce("hyperparameters: tx", tx)
    if not (state is None or isinstance(state, State)):
        raise TypeError(f"hyperparameters: state must be the State of tx.init, got {said(state)}")
    now = tx.at(0) if state is None else _now(tx, state)
    groups = _groups(now)
    return {_short(group[0], groups): plain(group[0].value) for group in groups}


@checked
def set_hyperparameters(tx: TransformationLike, values: Mapping[str, Any]) -> Transformation:
    """Return a new optimizer with other values of hyperparameters and the same structure, so that nothing recompiles.

    Pass the optimizer to a jitted step as an argument, and call the step with the new one.

    Args:
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.
        It is not changed.
      values: Numbers or arrays of shape () by name: a name as `hyperparameters` gives it, or any part of the path that
        identifies one hyperparameter, such as `"by.decay"`.

    Raises:
      ValueError: A name is unknown or ambiguous; the message lists the candidates. Or the value is out of the
        hyperparameter's range, or the hyperparameter is a schedule, which a number would change in structure.

    >>> import gradtx as gx
    >>> gx.set_hyperparameters(gx.adam(0.1), {"learning_rate": 0.01, "by.decay": 0.99}) == gx.adam(0.01, b2=0.99)
    True
    """
    tx = Transformation.coerce("set_hyperparameters: tx", tx)
    if not isinstance(values, Mapping):
        raise TypeError(f"set_hyperparameters: values must be a dict from names to numbers, got {said(values)}")
    groups = _groups(tx)
    found = list(every(tx, names_of(tx)))
    leaves = [hyperparameter.value for hyperparameter in found]
    position = {hyperparameter.names: i for i, hyperparameter in enumerate(found)}
    for name, value in values.items():
        for hyperparameter in _find(name, groups):
            if isinstance(hyperparameter.value, Schedule) or isinstance(value, Schedule) or callable(value):
                rate = hyperparameter.owner == "scale_by_learning_rate: learning_rate"
                how = "" if rate else "gx.restore(tx, params, state, strict=False) carries "
                raise ValueError(
                    f"{hyperparameter.path} cannot change from {hyperparameter.value!r} to {value!r}: schedules are "
                    f"structure. Make a new optimizer with the new value: {how}the state {'carries ' * rate}over"
                )
            new = hyperparameter.convert(hyperparameter.owner, value)
            leaves[position[hyperparameter.names]] = _as(hyperparameter.value, new)
    structure = jax.tree.structure(tx, is_leaf=lambda x: isinstance(x, Schedule))
    return jax.tree.unflatten(structure, leaves)


def every(tx: Transformation, names: tuple[str, ...]) -> Iterator[Hyperparameter]:
    """Yield every hyperparameter with its names, in the order of the pytree's leaves."""
    parts = iter(tx.parts().items())
    for field, kind in tx._kinds.items():
        value = getattr(tx, field) if kind.data else ()
        several = value if isinstance(value, tuple) else (value,)
        for one in several:
            if isinstance(one, Transformation):
                name, part = next(parts)
                yield from every(part, (*names, *keys_of(tx, name, part)))
            elif several is not value and value is not None:
                yield Hyperparameter((*names, field), value, kind.convert, f"{type(tx).__name__}: {field}")


def _now(tx: Transformation, state: State) -> Any:
    """Return the optimizer with the values of the next update: of a wrapper with a clock, at the step in its slots."""
    state = unboxed(state)
    now = tx.at(state.step)
    place = {h.names: i for i, h in enumerate(every(now, names_of(now)))}
    leaves, structure = jax.tree.flatten(now)
    for names, piece in pieces(tx):
        slots = reduce(lambda kept, name: kept.get(name, {}), names, state.slots)
        for name, part in piece.parts().items() if piece.clock and slots else ():
            for h in every(part.at(slots["step"]), (*names, *keys_of(piece, name, part))):
                leaves[place[h.names]] = h.value
    return jax.tree.unflatten(structure, leaves)


def _groups(tx: Transformation) -> list[list[Hyperparameter]]:
    """Group hyperparameters that must be equal.

    A `bias_correction` or `rectify` decay is tied to the average it corrects, unless their values differ. The average
    is in the same chain, or else the direction of a `precondition` there (AdaBelief).
    """
    averages = ("scale_by_ema: decay", "yogi_average: decay")
    followers = ("bias_correction: decay", "rectify: decay")
    groups: list[list[Hyperparameter]] = []
    for h in every(tx, names_of(tx)):
        places = [g[0].names[:-2] for g in groups if g[0].owner in averages]
        place = h.names[:-2] if h.names[:-2] in places else (*h.names[:-2], "precondition", "direction")
        followed = [g for g in groups if g[0].names[:-2] == place and g[0].owner in averages]
        if h.owner in followers and len(followed) == 1 and not _differ(followed[0][0].value, h.value):
            followed[0].append(h)
        else:
            groups.append([h])
    return groups


def _differ(a: Any, b: Any) -> bool:
    """Whether two hyperparameters are known to differ; a traced value is unknown."""
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return False
    return a != b if isinstance(a, Schedule) or isinstance(b, Schedule) else not np.array_equal(a, b)


def _short(h: Hyperparameter, groups: list[list[Hyperparameter]]) -> str:
    return h.names[-1] if sum(g[0].names[-1] == h.names[-1] for g in groups) == 1 else h.path


def labels(tx: Transformation) -> dict[str, Any]:
    """Return every number of every hyperparameter, those within schedules too, by its shortest unambiguous name.

    >>> import gradtx as gx
    >>> list(labels(gx.adam(gx.schedules.cosine(0.1, steps=100))))
    ['direction.decay', 'by.decay', 'eps', 'peak', 'floor']
    """
    every = [
        ((*group[0].names, *path.split("/")) if path else group[0].names, value)
        for group in _groups(tx)
        for path, value in leaves_by_path(group[0].value).items()
    ]
    return {_shortest(names, [other for other, _ in every]): value for names, value in every}


def _shortest(names: tuple[str, ...], every: list[tuple[str, ...]]) -> str:
    for first in range(len(names) - 1, -1, -1):
        says = names[-1:] if first == len(names) - 1 else (names[first], names[-1])
        exactly = [other for other in every if other[-len(says) :] == says] == [names] and len(says) == 2
        if exactly or sum(_says(says, other) for other in every) == 1:
            return ".".join(says)
    return ".".join(names)


def _says(parts: Sequence[str], names: Sequence[str]) -> bool:
    """Whether the parts are in the names, in order, and end with the last name."""
    rest = iter(names)
    return names[-1] == parts[-1] and all(part in rest for part in parts)


def _find(name: str, groups: list[list[Hyperparameter]]) -> list[Hyperparameter]:
    """Return the one hyperparameter whose path the name identifies."""
    parts = str(name).split(".")
    found = [g for g in groups if g[0].path == name] or [g for g in groups if any(_says(parts, h.names) for h in g)]
    listed = ", ".join(g[0].path for g in found or groups) or "none"
    if not found:
        known = [_short(g[0], groups) for g in groups]
        raise ValueError(unknown("there is no hyperparameter", name, known, f"There are {listed}"))
    if len(found) > 1:
        raise ValueError(f"the hyperparameter {name!r} is ambiguous: {listed}")
    return found[0]


def _as(old: Any, new: Any) -> Any:
    """Return the new number in the type of the old one, so that nothing recompiles; a traced value keeps its type."""
    if isinstance(old, jax.Array) and not isinstance(new, Tracer):
        return jnp.asarray(new, None if old.weak_type else old.dtype)  # weak: as the number that it was
    return float(new) if isinstance(old, float) and not isinstance(new, Tracer) else new


def plain(value: Any) -> Any:
    """Return a concrete array of shape () as the shortest number that it holds: 0.1, not 0.10000000149."""
    concrete = isinstance(value, jax.Array) and not isinstance(value, Tracer) and not value.shape
    return float(str(np.asarray(value)[()])) if concrete else value
