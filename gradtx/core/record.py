"""Records: frozen dataclasses that are pytrees, and print as the call that makes them.

The annotation of a field says whether it is data or structure. `Scalar` (or `Decay`, …) is a hyperparameter: a leaf. A
class with a `coerce` method, such as `Transformation`, or a tuple of one, is a subtree. Either may be `| None`. All
other fields are structure, and must be hashable.
"""

import dataclasses
import inspect
import sys
import textwrap
from functools import singledispatch
from typing import Any, ClassVar, dataclass_transform, get_type_hints

import jax
import numpy as np
from jax.core import Tracer
from jax.tree_util import GetAttrKey, register_pytree_with_keys

from gradtx.core.arguments import checked, live
from gradtx.core.errors import about, describe
from gradtx.core.kinds import Kind, kind_of


@singledispatch
def mimebundle(record: Any) -> dict[str, str]:
    """The display of a record in a notebook, beside its repr. gradtx/display.py registers formulas and curves."""
    return {}


_IN_NNX: set[type] = set()


def _register(nnx: Any) -> None:
    """Let NNX keep records with arrays in its modules: to NNX, an attribute of an unknown class is without data."""
    classes = [Record]
    for cls in classes:
        classes += cls.__subclasses__()
        if cls not in _IN_NNX and hasattr(nnx, "register_data_type"):
            nnx.register_data_type(cls)
            _IN_NNX.add(cls)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Record:
    """A frozen dataclass registered as a pytree with key paths.

    Equal records are `==` and hash alike (leaves by value), pickle and copy; `repr` is the call that makes them. Fields
    are checked by their annotation when a record is made, never when jax unflattens one: leaves may then be anything.
    """

    _kinds: ClassVar[dict[str, Kind]] = {}
    _data: ClassVar[tuple[str, ...]] = ()  # the fields that are children
    _meta: ClassVar[tuple[str, ...]] = ()  # the fields that are structure

    def __init_subclass__(cls, init: bool = True, **options: Any) -> None:
        super().__init_subclass__(**options)
        try:
            dataclasses.dataclass(init=init, repr=False, eq=False)(cls)
        except TypeError as error:
            raise TypeError(f"{cls.__name__}: {error}: fields with defaults come last") from error
        fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
        texts = any(isinstance(x.type, str) for x in fields) and get_type_hints(cls, include_extras=True)
        hints = {x.name: texts[x.name] if texts else x.type for x in fields}
        for name, hint in hints.items():
            if name not in cls._kinds and inspect.isroutine(getattr(super(cls, cls), name, None)):
                raise TypeError(f"{cls.__name__}: a field cannot be called {name!r}, the name of a method")
            if hint is float:
                why = "annotated as float, which would make it a constant: annotate it as gx.Scalar"
                raise TypeError(f"{cls.__name__}: the field {name!r} is {why}")
        cls._kinds = {name: kind_of(hint) for name, hint in hints.items()}
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls.__init__)
        cls._data = tuple(name for name, kind in cls._kinds.items() if kind.data)
        cls._meta = tuple(name for name, kind in cls._kinds.items() if not kind.data)

        # The names are read from the class: cloudpickle makes an empty class first, and sets its attributes later.
        # Of the record, not of the class, whose defaults a deleted field would leave.
        def flatten(self):
            held = self.__dict__
            try:
                return [held[n] for n in cls._data], tuple([held[n] for n in cls._meta])
            except KeyError as error:
                how = "records do not change: make a new one"
                raise AttributeError(f"{cls.__name__}: the field {error} was deleted: {how}") from None

        def flatten_with_keys(self):
            data, meta = flatten(self)
            return list(zip(map(GetAttrKey, cls._data), data)), meta

        def unflatten(structure, children):
            self = object.__new__(cls)
            self.__dict__.update(zip(cls._data, children), **dict(zip(cls._meta, structure)))
            return self

        register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)

    def __setattr__(self, name: str, *value: Any) -> None:  # frozen here once: dataclass would compile it for each
        if name not in self._kinds or name in self.__dict__:
            raise dataclasses.FrozenInstanceError(f"cannot {'assign to' if value else 'delete'} field {name!r}")
        (self.__dict__[name],) = value

    __delattr__ = __setattr__

    def __post_init__(self) -> None:
        for name, kind in self._kinds.items():
            place, value = f"{type(self).__name__}: {name}", getattr(self, name)
            try:
                self.__dict__[name] = kind.convert(place, value)
            except (TypeError, ValueError) as error:
                raise about(error, place, value) from error.__cause__
        if type(self) not in _IN_NNX and (nnx := sys.modules.get("flax.nnx")):
            _register(nnx)

    def _arguments(self) -> list[str]:
        """The arguments of the call that makes this record; structure at its default is left out."""
        shown = []
        for name, kind in self._kinds.items():
            value = getattr(self, name)
            if kind.data or value != getattr(type(self), name, dataclasses.MISSING):
                shown.append(_show(value) if name == next(iter(self._kinds)) else f"{name}={_show(value)}")
        return shown

    def __repr__(self) -> str:
        name, arguments = type(self).__name__, self._arguments()
        line = f"{name}({', '.join(arguments)})"
        if len(line) <= 80 and "\n" not in line:
            return line
        return f"{name}(\n{textwrap.indent(f',{chr(10)}'.join(arguments), '    ')},\n)"

    def __eq__(self, other: object) -> bool:
        (mine, shape), (theirs, other_shape) = jax.tree.flatten(self), jax.tree.flatten(other)
        return shape == other_shape and all(x is y or _value(x) == _value(y) for x, y in zip(mine, theirs))

    def __hash__(self) -> int:
        return hash((jax.tree.structure(self), *map(_value, jax.tree.leaves(self))))

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:  # for notebooks, beside the repr
        return mimebundle(self)


def _value(leaf: Any) -> Any:
    """A leaf by value: a Python float and an array that holds it are alike."""
    if isinstance(leaf, Tracer):
        return id(leaf)
    live("a hyperparameter", leaf)
    leaf = np.asarray(leaf)
    return (leaf.shape, leaf.tobytes()) if leaf.shape else leaf.item()


def _show(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)):
        unread = isinstance(value, Tracer) or value.shape or (isinstance(value, jax.Array) and value.is_deleted())
        return f"<{describe(value)}>" if unread else repr(float(value))
    return value.__name__ if inspect.isroutine(value) else repr(value)
