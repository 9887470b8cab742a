"""Records: frozen dataclasses that are pytrees, and print as the call that makes them.

A field's annotation says what it is. `Scalar` (or `Decay`, …) is a hyperparameter: a leaf. A class that can `coerce` a
value, as `Transformation`, or a tuple of it, is a subtree. Either may be `| None`. All else is structure: hashable.
"""

import dataclasses
import inspect
import math
import numbers
import operator
import textwrap
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, NamedTuple, dataclass_transform, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import GetAttrKey, register_pytree_with_keys

from gradtx import arguments
from gradtx.arguments import callable_of, check_fields, check_hint, checked, describe, hashable, init_of, said, sequence


class Kind(NamedTuple):
    """What a field holds: `convert(place, value)` checks and normalises it; `data` says whether jax sees it as data."""

    convert: Callable[[str, Any], Any]
    data: bool = False


def _interval(low: float, high: float, closed: bool = True, text: str = "a finite number") -> Kind:
    """A finite number from `low` to `high`; not `closed`: the ends themselves are excluded."""

    def convert(place: str, value: Any) -> Any:
        if isinstance(value, Schedule):
            return value
        if callable(value) and not isinstance(value, Record):
            return of_step(arguments.function_of(place, value, "the step"))
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            value = math.inf if isinstance(value, int) and value.bit_length() > 1023 else float(value)
        elif not (isinstance(value, (jax.Array, np.ndarray)) and arguments.is_real(value)):
            raise TypeError(
                f"{place} must be a number, an array, a schedule or a function of the step, got {said(value)}"
            )
        elif value.shape:
            raise ValueError(f"{place} must be one number, got {describe(value)}: make many optimizers with jax.vmap")
        elif not jnp.issubdtype(value.dtype, jnp.floating):
            value = jnp.asarray(value, float)
        if not isinstance(value, Tracer):
            arguments.check_number(place, float(value), low, high, closed, text)
        return value

    return Kind(convert, data=True)


_FINITE = _interval(-math.inf, math.inf)
Scalar = Annotated[Any, _FINITE]
"""Annotates a hyperparameter: a number, an array of shape (), a `Schedule`, or a function of the step."""
NonNegative = Annotated[Any, _interval(0, math.inf, text="a finite number, 0 or more")]
"""A `Scalar` that is 0 or more."""
Positive = Annotated[Any, _interval(0, math.inf, closed=False, text="a finite number above 0")]
"""A `Scalar` above 0."""
Decay = Annotated[Any, _interval(0, math.nextafter(1, 0), text="at least 0 and below 1")]
"""A `Scalar` in [0, 1): the share of an average that stays at each step."""
Share = Annotated[Any, _interval(math.nextafter(0, 1), 1, text="above 0 and at most 1")]
"""A `Scalar` in (0, 1]."""


def scalar(place: str, value: Any, kind: Any = Scalar) -> Any:
    """A hyperparameter of this kind, or an error that names the place."""
    return _kind(kind).convert(place, value)


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


def _special(x: Any) -> bool:
    """Whether what a class body holds says more of a field than its default."""
    named = isinstance(x, str) and ("InitVar" in x or "KW_ONLY" in x)
    return isinstance(x, (dataclasses.Field, dataclasses.InitVar)) or x is dataclasses.KW_ONLY or named


@dataclass_transform(frozen_default=True)
class Record:
    """A frozen dataclass registered as a pytree with key paths.

    Equal records are `==` and hash alike (leaves by value), pickle and copy; `repr` is the call that makes them. Fields
    are checked by their annotation when a record is made, never when jax unflattens one: leaves may then be anything.
    """

    _kinds: ClassVar[dict[str, Kind]] = {}
    _written: ClassVar[bool] = False  # whether dataclass writes the __init__, for fields with options

    def __init_subclass__(cls, init: bool = True, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = *vars(cls).values(), *vars(cls).get("__annotations__", {}).values()
        cls._written = cls._written or any(map(_special, own))
        dataclasses.dataclass(init=init and cls._written, repr=False, eq=False)(cls)
        fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
        texts = any(isinstance(x.type, str) for x in fields) and get_type_hints(cls, include_extras=True)
        cls._kinds = check_fields(cls, {x.name: _kind(texts[x.name] if texts else x.type) for x in fields})
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls.__init__)
        elif init:
            cls.__init__ = init_of(cls.__name__, {x.name: x.default for x in fields}, dataclasses.MISSING)
        data = [name for name, kind in cls._kinds.items() if kind.data]
        meta = [name for name, kind in cls._kinds.items() if not kind.data]

        def flatten_with_keys(self):
            return [(GetAttrKey(n), getattr(self, n)) for n in data], tuple(getattr(self, n) for n in meta)

        def unflatten(structure, children):
            self = object.__new__(cls)
            self.__dict__.update(zip(data, children), **dict(zip(meta, structure)))
            return self

        register_pytree_with_keys(cls, flatten_with_keys, unflatten)

    def __setattr__(self, name: str, *value: Any) -> None:  # frozen here once: dataclass would compile it for each
        if name not in self._kinds or name in self.__dict__:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        (self.__dict__[name],) = value

    __delattr__ = __setattr__

    def __post_init__(self) -> None:
        for name, kind in self._kinds.items():
            self.__dict__[name] = kind.convert(f"{type(self).__name__}: {name}", getattr(self, name))

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
        from gradtx.display import mimebundle

        return mimebundle(self)


def _value(leaf: Any) -> Any:
    """A leaf by value: a Python float and an array that holds it are alike."""
    if isinstance(leaf, Tracer):
        return id(leaf)
    leaf = np.asarray(leaf)
    return (leaf.shape, leaf.tobytes()) if leaf.shape else leaf.item()


def _show(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"<{describe(value)}>" if isinstance(value, Tracer) or value.shape else repr(float(value))
    return value.__name__ if inspect.isroutine(value) else repr(value)


def _arithmetic(sign: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    return (lambda self, other: combined(self, sign, other)), (lambda self, other: combined(other, sign, self))


class Schedule(Record):
    """A hyperparameter that is a function of the step: `schedule(step)`, where the first update is step 0.

    Schedules add, subtract, multiply and divide, with each other, with numbers and with functions of the step.
    """

    __array_ufunc__ = None  # so that a NumPy number leaves arithmetic to the schedule
    __add__, __radd__ = _arithmetic("+")
    __sub__, __rsub__ = _arithmetic("-")
    __mul__, __rmul__ = _arithmetic("*")
    __truediv__, __rtruediv__ = _arithmetic("/")

    def __call__(self, step: Any) -> Any:
        """The value at `step`, a number or an array of shape (); `step` may be traced."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, step)")


class combined(Schedule):
    """What arithmetic makes of two schedules, or a schedule and a number; it prints as that arithmetic."""

    left: Scalar
    sign: str
    right: Scalar

    def __call__(self, step: Any) -> Any:
        left, right = (x(step) if isinstance(x, Schedule) else x for x in (self.left, self.right))
        return {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[self.sign](left, right)

    def __repr__(self) -> str:
        return f"({_show(self.left)} {self.sign} {_show(self.right)})"


class of_step(Schedule):
    """The schedule that a plain function of the step defines.

    >>> of_step(lambda step: 0.1 * 0.5**step)(2)
    0.025
    """

    function: Callable[[Any], Any]

    @checked
    def __call__(self, step: Any) -> Any:
        return self.function(step)
