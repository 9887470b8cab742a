"""Kinds of fields: what an annotation says of the values that a record may hold."""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args, get_origin

from gradtx.core import arguments
from gradtx.core.arguments import callable_of, check_hint, hashable, sequence


class Kind(NamedTuple):
    """What a field holds: `convert(place, value)` checks and normalises it; `data` says whether jax sees it as data."""

    convert: Callable[[str, Any], Any]
    data: bool = False


def _kind(hint: Any) -> Kind:
    """What a field with this annotation holds."""
    if notes := [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Kind)]:
        return notes[0]
    if hasattr(hint, "coerce"):
        return Kind(hint.coerce, data=True)
    if (some := arguments.or_none(hint)) is not None:
        inner = _kind(some)
        return Kind(lambda place, value: None if value is None else inner.convert(place, value), inner.data)
    if hint is bool or callable_of(hint):
        return Kind(lambda place, value: hashable(place, check_hint(place, value, hint)))
    if get_origin(hint) is tuple and (inner := _kind(get_args(hint)[0])).data:

        def convert(place: str, values: Any) -> Any:
            return tuple(inner.convert(f"{place}[{i}]", value) for i, value in enumerate(sequence(place, values)))

        return Kind(convert, data=True)
    return Kind(hashable)
