"""Kinds of fields: what the annotation of a record's field says of its values."""

import operator
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from gradtx.core.arguments import check_hint, hashable, sequence
from gradtx.core.errors import said


class Kind(NamedTuple):
    """The kind of a field: `convert(place, value)` checks and normalises a value; `data` fields are pytree children."""

    convert: Callable[[str, Any], Any]
    data: bool = False


def integer(low: int | None = None) -> Kind:
    """An integer of at most 2³¹ − 1, and of at least `low` if that is given."""

    def convert(place: str, value: Any) -> int:
        text = f"{place} must be an integer{'' if low is None else f', {low} or more'}, got {said(value)}"
        try:
            number = operator.index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool):
            raise TypeError(text)
        if low is not None and number < low:
            raise ValueError(text)
        if abs(number) > 2**31 - 1:
            raise ValueError(f"{place} must be at most 2³¹ − 1, got {said(value)}")
        return number

    return Kind(convert)


Count = Annotated[int, integer(1)]
"""Annotates a count: an integer, 1 or more. It is structure: another count compiles anew."""
CountOrZero = Annotated[int, integer(0)]
"""Annotates a count that may be 0."""
Axis = Annotated[int, integer()]
"""Annotates an axis: an integer; −1 is the last."""


def one_of(*options: Any) -> Kind:
    """One of several constants: the kind of a field annotated as `Literal`."""
    *others, last = map(repr, options)
    listed = f"{', '.join(others)} or {last}" if others else last

    def convert(place: str, value: Any) -> Any:
        if not any(type(value) is type(option) and value == option for option in options):
            raise ValueError(f"{place} must be {listed}, got {said(value)}")
        return value

    return Kind(convert)


def kind_of(hint: Any) -> Kind:
    """The kind of a field with this annotation."""
    if notes := [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Kind)]:
        return notes[0]
    if hasattr(hint, "coerce"):
        return Kind(hint.coerce, data=True)
    either = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    if len(either) == 2 and NoneType in either:
        inner = kind_of(either[either[0] is NoneType])
        return Kind(lambda place, value: None if value is None else inner.convert(place, value), inner.data)
    if hint is int:
        return integer()
    if get_origin(hint) is Literal:
        return one_of(*get_args(hint))
    if hint in (bool, str) or get_origin(hint) is Callable:
        return Kind(lambda place, value: hashable(place, check_hint(place, value, hint)))
    if get_origin(hint) is tuple and (inner := kind_of(get_args(hint)[0])).data:

        def convert(place: str, values: Any) -> Any:
            return tuple(inner.convert(f"{place}[{i}]", value) for i, value in enumerate(sequence(place, values)))

        return Kind(convert, data=True)
    return Kind(hashable)
