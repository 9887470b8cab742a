"""The schedule protocol, and the hyperparameters that a schedule may stand for."""

import math
import numbers
import operator
import re
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradtx.core.arguments import checked, foreign, function_of, live
from gradtx.core.errors import describe, said
from gradtx.core.kinds import Kind, kind_of
from gradtx.core.record import Record, _show


def interval(low: float, high: float, closed: bool = True, text: str = "a finite number") -> Kind:
    """A finite number from `low` to `high`; not `closed`: the ends themselves are excluded."""

    def convert(place: str, value: Any) -> Any:
        if isinstance(value, Schedule):
            return value
        if callable(value) and not isinstance(value, Record):
            return of_step(function_of(place, value, "the step"))
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            value = math.inf if isinstance(value, int) and value.bit_length() > 1023 else float(value)
        elif not (
            isinstance(value, (jax.Array, np.ndarray))
            and jnp.issubdtype(value.dtype, jnp.number)
            and jnp.isrealobj(value)
        ):
            what = "a number, an array, a schedule or a function of the step"
            quoted = isinstance(value, str) and re.fullmatch(r"[-+.\de]+", value, re.IGNORECASE)
            fix = f": write float({value!r})" if quoted else ""
            raise TypeError(f"{place} must be {what}, got {said(value)}{fix}")
        elif value.shape:
            raise ValueError(f"{place} must be one number, got {describe(value)}: make many optimizers with jax.vmap")
        elif not jnp.issubdtype(value.dtype, jnp.floating):
            value = jnp.asarray(value, float)
        elif isinstance(value, np.ndarray):
            value = value.copy()  # the caller may write to theirs
            value = np.asarray(value, float) if foreign(value) else value
            value.flags.writeable = False
        live(place, value)
        if not isinstance(value, Tracer):
            number = float(value)
            with np.errstate(over="ignore"):
                seen = float(np.asarray(number, jax.dtypes.canonicalize_dtype(float)))  # as JAX rounds it by default
            good = [math.isfinite(x) and (low <= x <= high if closed else low < x < high) for x in (number, seen)]
            if not all(good):
                raise ValueError(f"{place} must be {text}, got {number!r}{f', {seen!r} in float32' if good[0] else ''}")
        return value

    return Kind(convert, data=True)


Scalar = Annotated[Any, interval(-math.inf, math.inf)]
"""Annotates a hyperparameter: a number, an array of shape (), a `Schedule`, or a function of the step."""
NonNegative = Annotated[Any, interval(0, math.inf, text="a finite number, 0 or more")]
"""A `Scalar` that is 0 or more."""
Positive = Annotated[Any, interval(0, math.inf, closed=False, text="a finite number above 0")]
"""A `Scalar` above 0."""
Decay = Annotated[Any, interval(0, math.nextafter(1, 0), text="at least 0 and below 1")]
"""A `Scalar` in [0, 1): the weight of the old value in an average."""
Fraction = Annotated[Any, interval(math.nextafter(0, 1), 1, text="above 0 and at most 1")]
"""A `Scalar` in (0, 1]."""
Weight = Annotated[Any, interval(0, 1, text="from 0 to 1")]
"""A `Scalar` in [0, 1]."""


def scalar(place: str, value: Any, kind: Any = Scalar) -> Any:
    """Convert a value to a hyperparameter of this kind, or raise an error that names the place."""
    return kind_of(kind).convert(place, value)


def _arithmetic(sign: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    return (lambda self, other: combined(self, sign, other)), (lambda self, other: combined(other, sign, self))


class Schedule(Record):
    """Base class of hyperparameters that depend on the step: `schedule(step)`; the first update is step 0.

    The argument is the number of updates before this one, `state.step`: at the first update a schedule gives its value
    at 0. A piece counts from 1 instead: at the same update, `context.step` is 1 (see `Context`).

    A value out of the hyperparameter's range, such as a rate below 0, raises an error at step 0. At later steps the
    value is traced and used as it is: bound it with `jnp.maximum` or `jnp.clip` where the schedule may leave the range.

    Schedules can be added, subtracted, multiplied and divided, with each other, with numbers and with functions of the
    step.

    >>> import gradtx as gx
    >>> class halving(gx.Schedule):
    ...     start: gx.NonNegative
    ...     def __call__(self, step):
    ...         return self.start * 0.5**step
    >>> (halving(0.8) + 1.0)(2)
    1.2
    >>> gx.hyperparameters(gx.scale(halving(0.8)))  # at the first update
    {'factor': 0.8}
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
    """The sum, difference, product or quotient of two schedules, or of a schedule and a number."""

    left: Scalar
    sign: str
    right: Scalar

    @checked
    def __call__(self, step: Any) -> Any:
        left, right = (x(step) if isinstance(x, Schedule) else x for x in (self.left, self.right))
        return {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}[self.sign](left, right)

    def __repr__(self) -> str:
        return f"({_show(self.left)} {self.sign} {_show(self.right)})"


class of_step(Schedule):
    """Make a schedule from a function of the step.

    Args:
      function: `function(step)` returns the value at the step, a number or an array of shape ().

    >>> of_step(lambda step: 0.1 * 0.5**step)(2)
    0.025
    """

    function: Callable[[Any], Any]

    @checked
    def __call__(self, step: Any) -> Any:
        try:
            return self.function(step)
        except AttributeError:  # it may be written for arrays, such as the step of an update
            if type(step) is not int or step.bit_length() > 31:
                raise
            return self.function(jnp.asarray(step, jnp.int32))
