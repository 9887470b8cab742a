"""What all schedules share: kinds of fields, integer arithmetic of steps, and the shapes of a curve."""

import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from gradtx.core import Kind, Scalar, Schedule, scalar
from gradtx.core.errors import said

_LAST = 2**31 - 1  # the largest step


# ---------------------------------------------------------------- what the fields hold
def _count(low: int) -> Kind:
    def convert(place: str, value: Any) -> int:
        text = f"{place} must be an integer, {low} or more, got {said(value)}"
        try:
            number = operator.index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool):
            raise TypeError(text)
        if not low <= number <= _LAST:
            raise ValueError(text if number < low else f"{place} must be at most 2³¹ − 1, got {said(value)}")
        return number

    return Kind(convert)


def _boundaries(place: str, values: Any) -> tuple[int, ...]:
    numbers = tuple(_count(1).convert(f"{place}[{i}]", v) for i, v in enumerate(_sequence(place, values)))
    if any(a >= b for a, b in itertools.pairwise(numbers)):
        raise ValueError(f"{place} must increase, got {numbers}")
    return numbers


def _sequence(place: str, values: Any) -> Any:
    if isinstance(values, (str, dict, set)) or not np.iterable(values):
        raise TypeError(f"{place} must be a sequence, got {said(values)}")
    return values


def _shape(place: str, value: Any) -> str:
    if not (isinstance(value, str) and value in _SHAPES):
        raise ValueError(f"{place} must be one of {', '.join(map(repr, _SHAPES))}, got {said(value)}")
    return value


Count = Annotated[int, _count(1)]
CountOrZero = Annotated[int, _count(0)]
Boundaries = Annotated[tuple[int, ...], Kind(_boundaries)]
Scalars = Annotated[
    tuple[Any, ...],
    Kind(lambda place, xs: tuple(scalar(f"{place}[{i}]", x) for i, x in enumerate(_sequence(place, xs))), data=True),
]
Shape = Annotated[str, Kind(_shape)]


def _require(schedule: Schedule, holds: bool, text: str) -> None:
    if not holds:
        raise ValueError(f"{type(schedule).__name__}: {text}")


def _one_more(schedule: Schedule, name: str, values: tuple[Any, ...], boundaries: tuple[int, ...]) -> None:
    text = f"{name} must be one more than boundaries, got {len(values)} and {len(boundaries)}"
    _require(schedule, len(values) == len(boundaries) + 1, text)


# ---------------------------------------------------------------- what they compute with
def _integer(step: Any) -> Array:
    """The step as int32, 0 or more."""
    if type(step) is not int and not jnp.issubdtype(getattr(step, "dtype", float), jnp.integer):
        raise TypeError(f"the step must be an integer, got {said(step)}")
    if not isinstance(step, Tracer) and not np.all((np.asarray(step) >= 0) & (np.asarray(step) <= _LAST)):
        raise ValueError(f"the step must be 0 or more and at most 2³¹ − 1, got {said(step)}")
    return jnp.maximum(jnp.asarray(step, jnp.int32), 0)


def _value(x: Any, step: Any) -> Any:
    return x(step) if isinstance(x, Schedule) else x


def _shares(step: Array, steps: Any, beyond: Any = 0.0) -> tuple[Array, Array]:
    """The share of `steps` (+ `beyond`) that is done at `step`, and the share that is left: each exact near its 0."""
    step = jnp.clip(step, 0, steps)
    done, left = step.astype(float), (steps - step).astype(float) + beyond
    whole = done + left  # no constant: XLA would multiply by its rounded inverse, and the end would not be 1
    return done / whole, left / whole


def _laps(step: Array, steps: int, staircase: bool) -> Array:
    """t/T, or with a staircase ⌊t/T⌋; unbounded."""
    whole = (step // steps).astype(float)
    return whole if staircase else whole + _shares(step % steps, steps)[0]


def _ease(x: Array) -> Array:
    return jnp.square(jnp.sin(jnp.pi / 2 * x))


_SHAPES: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {  # (done, left) -> the weights of a and b
    "linear": lambda done, left: (left, done),
    "cosine": lambda done, left: (_ease(left), _ease(done)),
    "1-sqrt": lambda done, left: (left / (1 + jnp.sqrt(done)), jnp.sqrt(done)),
    "rex": lambda done, left: (2 * left / (1 + left), done / (1 + left)),
}


def _way(shape: str, a: Any, b: Any, step: Array, steps: Any, beyond: Any = 0.0) -> Array:
    """From a to b in `steps`; a before step 0, b after the last."""
    of_a, of_b = _SHAPES[shape](*_shares(step, steps, beyond))
    return a * of_a + b * of_b


def _select(step: Array, values: Iterable[Any], boundaries: Iterable[int]) -> Any:
    """The first of the values, and from each boundary on the next."""
    now, *later = values
    for begin, value in zip(boundaries, later):
        now = jnp.where(step < begin, now, value)
    return now


def _ways(shape: str, values: tuple[Any, ...], step: Array, boundaries: tuple[int, ...]) -> Any:
    """Through all the values, one at step 0 and one at each boundary."""
    pairs, ends = itertools.pairwise(values), itertools.pairwise((0, *boundaries))
    ways = [_way(shape, a, b, step - begin, end - begin) for (a, b), (begin, end) in zip(pairs, ends)]
    return _select(step, (values[0], *ways), (0, *boundaries))


class _Curve(Schedule):
    """A schedule whose numbers may be schedules: a subclass defines `curve`, and sees their values at the step."""

    def curve(self, step: Array) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define curve(self, step)")

    def __call__(self, step: Any) -> Any:
        step = _integer(step)
        now = jax.tree.map(lambda x: _value(x, step), self, is_leaf=lambda x: isinstance(x, Schedule) and x is not self)
        return now.curve(step)


# ---------------------------------------------------------------- from one value to another
class _Fall(_Curve):
    peak: Scalar
    steps: Count
    floor: Scalar = 0.0

    way: ClassVar[str]  # its shape

    def curve(self, step: Array) -> Array:
        return _way(self.way, self.peak, self.floor, step, self.steps)
