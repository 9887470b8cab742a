"""Read and set hyperparameters by name, in the words of the recipes.

A recipe returns a composition, which does not hold the names of the recipe's arguments. They are found by structure:
each recipe is called once with symbols as its arguments, and the fields in which a symbol lands have the argument's
name, in every composition of this structure. So names survive whatever JAX, `repr` and `replace` do to an optimizer.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradtx.combinators import chain, partition
from gradtx.core import Schedule, State, Transformation, leaves_by_path
from gradtx.core.arguments import checked
from gradtx.core.errors import said, unknown
from gradtx.core.root import distinct, keys_of, names_of, pieces
from gradtx.core.trees import unboxed
from gradtx.typing import Patterns, ScalarOrSchedule, TransformationLike


class Hyperparameter(NamedTuple):
    """A field of a piece that holds a number or a schedule."""

    names: tuple[str, ...]  # from the outermost piece to the field
    value: Any
    convert: Any
    owner: str

    @property
    def path(self) -> str:
        return ".".join(self.names)


class Group(NamedTuple):
    """Hyperparameters that are one to the user, and have one value: an average's decay and its correction's."""

    names: tuple[str, ...]  # in the words of a recipe; otherwise those of the first field
    fields: list[Hyperparameter]

    @property
    def value(self) -> Any:
        return self.fields[0].value


@checked
def hyperparameters(tx: TransformationLike, state: State | None = None) -> dict[str, Any]:
    """Return the values that the next update uses, by name.

    An argument of a recipe has its name there, as `b1` of `adam`: also in a wrapper, a group or a longer chain, and
    where the pieces of the recipe are written out. Any other hyperparameter has the name of its field. A name that two
    have gets a prefix that distinguishes them, as in `default.learning_rate`: a group, a piece, or the whole path, the
    names of the pieces from the outermost, as in the slots. A `bias_correction`, or a `rectify`, has the decay of the
    average in its chain, so the two are one hyperparameter.

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
    b1 0.9
    b2 0.999
    eps 1e-08
    learning_rate 0.1
    """
    tx = Transformation.coerce("hyperparameters: tx", tx)
    if not (state is None or isinstance(state, State)):
        raise TypeError(f"hyperparameters: state must be the State of tx.init, got {said(state)}")
    now = tx.at(0) if state is None else _now(tx, state)
    groups = _groups(now)
    return {name: plain(group.value) for name, group in zip(_short(groups), groups)}


@checked
def set_hyperparameters(tx: TransformationLike, values: Mapping[str, Any]) -> Transformation:
    """Return a new optimizer with other values of hyperparameters and the same structure, so that nothing recompiles.

    Pass the optimizer to a jitted step as an argument, and call the step with the new one.

    Args:
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.
        It is not changed.
      values: Numbers or arrays of shape () by name: a name as `hyperparameters` gives it, such as `"b1"`, which sets
        every place where a recipe puts the argument; or any part of the path that identifies one hyperparameter, such
        as `"by.decay"`.

    Raises:
      ValueError: A name is unknown or ambiguous; the message lists the candidates. Or the value is out of the
        hyperparameter's range, or the hyperparameter is a schedule, which a number would change in structure.

    >>> import gradtx as gx
    >>> gx.set_hyperparameters(gx.adam(0.1), {"learning_rate": 0.01, "b2": 0.99}) == gx.adam(0.01, b2=0.99)
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
        for hyperparameter in _find(name, groups).fields:
            if isinstance(hyperparameter.value, Schedule) or isinstance(value, Schedule) or callable(value):
                rate = hyperparameter.owner == "scale_by_learning_rate: learning_rate"
                how = "" if rate else "gx.restore(tx, params, state, strict=False) carries "
                raise ValueError(
                    f"{hyperparameter.path} cannot change from {hyperparameter.value!r} to {value!r}: schedules are "
                    f"structure. Make a new optimizer with the new value: {how}the state {'carries ' * rate}over"
                )
            piece, _, field = hyperparameter.owner.partition(": ")
            new = hyperparameter.convert(f"set_hyperparameters: {name} ({field} of {piece})", value)
            leaves[position[hyperparameter.names]] = _as(hyperparameter.value, new)
    structure = jax.tree.structure(tx, is_leaf=lambda x: isinstance(x, Schedule))
    return jax.tree.unflatten(structure, leaves)


def learning_rates(tx: Transformation, state: State) -> Any:
    """Return the learning rate of the next update; a dict of them by name if there are several, None without one.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.partition({"bias": gx.sgd(0.1)}, default=gx.adam(0.01))
    >>> learning_rates(tx, tx.init({"bias": jnp.ones(2), "w": jnp.ones(2)}))
    {'bias': 0.1, 'default': 0.01}
    """
    groups = _groups(_now(tx, state))
    rates = {
        name.removesuffix(".learning_rate"): group.value
        for name, group in zip(_short(groups), groups)
        if group.names[-1] == "learning_rate"
    }
    return rates if len(rates) > 1 else next(iter(rates.values()), None)


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


def _groups(tx: Transformation) -> list[Group]:
    """Group hyperparameters that must be equal, unless their values differ: the places of one argument of a recipe.

    Elsewhere, a `bias_correction` or `rectify` decay is tied to the average that it corrects. The average is in the
    same chain, or else the direction of a `precondition` there (AdaBelief).
    """
    averages = ("scale_by_ema: decay", "yogi_average: decay")
    followers = ("bias_correction: decay", "rectify: decay")
    found, groups, spoken = list(every(tx, names_of(tx))), [], _spoken(tx)
    places: dict[Any, list[Hyperparameter]] = {}
    for h in found:
        places.setdefault(spoken.get(h.names), []).append(h)
    for h in found:
        name = spoken.get(h.names)
        if name and not any(_differ(h.value, other.value) for other in places[name]):
            if h is places[name][0]:
                groups.append(Group(name, places[name]))
            continue
        first = [(g, g.fields[0]) for g in groups]
        chains = [f.names[:-2] for _, f in first if f.owner in averages]
        place = h.names[:-2] if h.names[:-2] in chains else (*h.names[:-2], "precondition", "direction")
        followed = [g for g, f in first if f.names[:-2] == place and f.owner in averages]
        if h.owner in followers and len(followed) == 1 and not _differ(followed[0].value, h.value):
            followed[0].fields.append(h)
        else:
            groups.append(Group(h.names, [h]))
    return groups


# ---------------------------------------------------------------- the words of the recipes
class symbol(Schedule):
    """An argument of a recipe, while the fields are found in which it lands."""

    name: str


def _shape(tx: Transformation) -> tuple[Any, ...]:
    """The structure of a transformation as a sequence of links: their classes and parts, without numbers and flags."""

    def of(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(of, value))
        return _shape(value) if isinstance(value, Transformation) else value is None

    def link(tx: Transformation) -> tuple[Any, ...]:
        return type(tx), *(of(getattr(tx, name)) for name in tx._data)

    return tuple(map(link, _links(tx)))


def _links(tx: Transformation) -> tuple[Transformation, ...]:
    return tx.links if isinstance(tx, chain) else (tx,)


@cache
def _recipes() -> dict[tuple[Any, ...], tuple[str, tuple[str | None, ...]]]:
    """For the structure of each recipe, its name, and for each hyperparameter the argument that lands there, or None.

    An argument from which a recipe computes a number names no field: to set the field would not set the argument.
    """
    from gradtx import optimizers  # which needs this module's package

    def is_symbol(x: Any) -> bool:
        return isinstance(x, symbol)

    table: dict[Any, Any] = {}
    for recipe in map(vars(optimizers).__getitem__, optimizers.__all__):
        takes = inspect.signature(recipe).parameters.values()
        given: dict[str, Any] = {x.name: symbol(x.name) for x in takes if x.annotation == ScalarOrSchedule}
        given |= {x.name: chain() for x in takes if x.name in ("inner", "default")}
        flags = [{x.name: not x.default} for x in takes if x.annotation is bool]
        flags += [{x.name: 0.0} for x in takes if x.annotation == ScalarOrSchedule and x.default == 0.0]
        groups = {x.name: x.name for x in takes if x.annotation == Patterns}
        for form in ({}, *flags, groups, *({name: name} for name in groups)):  # the structures that it can have
            made = recipe(**given | form)
            for tx in made.members if isinstance(made, partition) else (made,):
                fields = list(every(tx, ()))
                inside = [x for h in fields if not is_symbol(h.value) for x in jax.tree.leaves(h.value, is_symbol)]
                computed = {x.name for x in inside if is_symbol(x)}
                arguments = (h.value.name if is_symbol(h.value) else None for h in fields)
                words = tuple(None if word in computed else word for word in arguments)
                own = sum(word is not None and word != h.names[-1] for word, h in zip(words, fields))
                # Of recipes that are one composition, the one with more words: sgd's `momentum`, heavy_ball's `decay`.
                if any(words) and own > table.get(_shape(tx), (-1,))[0]:
                    table[_shape(tx)] = own, recipe.__name__, words
    return {shape: entry[1:] for shape, entry in table.items()}


def _spoken(tx: Transformation) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The names of hyperparameters in the words of recipes, by their paths: the longest run of links that one makes.

    Where two recipes in one chain have a word in common, the names of the recipes tell them apart: `adam_2.b1`.
    """
    spoken: dict[tuple[str, ...], tuple[str, ...]] = {}
    for names, piece in pieces(tx):  # the outermost first: what it names, its parts do not name again
        parts = piece.parts().items() if isinstance(piece, chain) else ()
        links = [((*names, *keys_of(piece, name, part)), part) for name, part in parts] or [(names, piece)]
        shape, begin = _shape(piece), 0
        found: list[tuple[str, list[tuple[tuple[str, ...], str]]]] = []  # recipes, with paths and their words
        while begin < len(shape):
            ends = (end for end in range(len(shape), begin, -1) if shape[begin:end] in _recipes())
            end = next(ends, begin)
            if end > begin:
                recipe, words = _recipes()[shape[begin:end]]
                paths = (h.names for path, link in links[begin:end] for h in every(link, path))
                several = [(path, word) for path, word in zip(paths, words) if word and path not in spoken]
                found.append((recipe, several))
            begin = max(end, begin + 1)
        words = [word for _, several in found for word in {word for _, word in several}]
        apart = len(set(words)) < len(words)
        recipes = distinct([recipe for recipe, _ in found], [name for name, _ in parts])
        for recipe, (_, several) in zip(recipes, found):
            spoken |= {path: (*names, *((recipe,) if apart else ()), word) for path, word in several}
    return spoken


def _differ(a: Any, b: Any) -> bool:
    """Whether two hyperparameters are known to differ; a traced value is unknown."""
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return False
    return a != b if isinstance(a, Schedule) or isinstance(b, Schedule) else not np.array_equal(a, b)


def _short(groups: list[Group]) -> list[str]:
    """The shortest unambiguous name of each group."""
    every = [group.names for group in groups]
    return [_shortest(names, every) for names in every]


def labels(tx: Transformation) -> dict[str, Any]:
    """Return every number of every hyperparameter, those within schedules too, by its shortest unambiguous name.

    >>> import gradtx as gx
    >>> list(labels(gx.adam(gx.schedules.cosine(0.1, steps=100))))
    ['b1', 'b2', 'eps', 'peak', 'floor']
    """
    every = [
        ((*group.names, *path.split("/")) if path else group.names, value)
        for group in _groups(tx)
        for path, value in leaves_by_path(group.value).items()
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


def _find(name: Any, groups: list[Group]) -> Group:
    """Return the one group that the name identifies: a whole path, then the shortest name, then a part of a path."""
    parts, short = str(name).split("."), _short(groups)
    found = (
        [g for g in groups if name in (".".join(g.names), *(h.path for h in g.fields))]
        or [g for g, called in zip(groups, short) if called == name]
        or [g for g in groups if _says(parts, g.names)]
        or [g for g in groups if any(_says(parts, h.names) for h in g.fields)]
    )
    if not found:
        listed = ", ".join(short) or "none"
        raise ValueError(unknown("there is no hyperparameter", name, short, f"There are {listed}"))
    if len(found) > 1:
        listed = ", ".join(called for g, called in zip(groups, short) if g in found)
        raise ValueError(f"the hyperparameter {name!r} is ambiguous: {listed}")
    return found[0]


def _as(old: Any, new: Any) -> Any:
    """Return the new number in the type of the old one, so that nothing recompiles; a traced value keeps its type."""
    if isinstance(old, jax.Array) and not isinstance(new, Tracer):
        return jnp.asarray(new, None if old.weak_type else old.dtype)  # weak: as the number that it was
    return float(new) if isinstance(old, float) and not isinstance(new, Tracer) else new


def plain(value: Any) -> Any:
    """Return a concrete array of shape () as the shortest number that it holds: 0.1, not 0.10000000149."""
    concrete = isinstance(value, (jax.Array, np.generic, np.ndarray)) and not isinstance(value, Tracer)
    return float(str(np.asarray(value)[()])) if concrete and not value.shape else value
