"""Common parts of the schedules: kinds of fields, integer arithmetic of steps, and the shapes of curves."""

import itertools
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from gradtx.core import Kind, Scalar, Schedule, scalar
from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.core.kinds import Count, integer

LAST_STEP = 2**31 - 1  # the largest step


# ---------------------------------------------------------------- kinds of fields
def _boundaries(place: str, values: Any) -> tuple[int, ...]:
    numbers = tuple(integer(1).convert(f"{place}[{i}]", v) for i, v in enumerate(_sequence(place, values)))
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


Boundaries = Annotated[tuple[int, ...], Kind(_boundaries)]
Scalars = Annotated[
    tuple[Any, ...],
    Kind(lambda place, xs: tuple(scalar(f"{place}[{i}]", x) for i, x in enumerate(_sequence(place, xs))), data=True),
]
Shape = Annotated[str, Kind(_shape)]


def require(schedule: Schedule, holds: bool, text: str) -> None:
    if not holds:
        raise ValueError(f"{type(schedule).__name__}: {text}")


def require_one_more(schedule: Schedule, name: str, values: tuple[Any, ...], boundaries: tuple[int, ...]) -> None:
    text = f"{name} must have one more item than boundaries, got {len(values)} and {len(boundaries)}"
    require(schedule, len(values) == len(boundaries) + 1, text)


# ---------------------------------------------------------------- arithmetic of steps
def integer_step(step: Any) -> Array:
    """Return the step as int32, 0 or more."""
    if type(step) is not int and not jnp.issubdtype(getattr(step, "dtype", float), jnp.integer):
        raise TypeError(f"the step must be an integer, got {said(step)}")
    if not isinstance(step, Tracer) and not np.all((np.asarray(step) >= 0) & (np.asarray(step) <= LAST_STEP)):
        raise ValueError(f"the step must be 0 or more and at most 2³¹ − 1, got {said(step)}")
    return jnp.clip(step, 0, LAST_STEP).astype(jnp.int32)  # in this order: an int64 may be larger


def value_at(x: Any, step: Any) -> Any:
    return x(step) if isinstance(x, Schedule) else x


def fractions(step: Array, steps: Any, beyond: Any = 0.0) -> tuple[Array, Array]:
    """Return the fractions of `steps` (+ `beyond`) done and left at `step`; each is exact near its 0."""
    step = jnp.clip(step, 0, steps)
    done, left = step.astype(float), (steps - step).astype(float) + beyond
    whole = done + left  # not a constant: XLA would multiply by its rounded inverse, and done would not end at 1
    return done / whole, left / whole


def periods(step: Array, steps: int, staircase: bool) -> Array:
    """Return t/T, unbounded; with `staircase`, ⌊t/T⌋."""
    whole = (step // steps).astype(float)
    return whole if staircase else whole + fractions(step % steps, steps)[0]


def _ease(x: Array) -> Array:
    return jnp.square(jnp.sin(jnp.pi / 2 * x))


_SHAPES: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {  # (done, left) -> the weights of a and b
    "linear": lambda done, left: (left, done),
    "cosine": lambda done, left: (_ease(left), _ease(done)),
    "1-sqrt": lambda done, left: (left / (1 + jnp.sqrt(done)), jnp.sqrt(done)),
    "rex": lambda done, left: (2 * left / (1 + left), done / (1 + left)),
}


def interpolate(shape: str, a: Any, b: Any, step: Array, steps: Any, beyond: Any = 0.0) -> Array:
    """Interpolate from a to b in `steps`: a before step 0, b after the last step."""
    of_a, of_b = _SHAPES[shape](*fractions(step, steps, beyond))
    return a * of_a + b * of_b


def select(step: Array, values: Iterable[Any], boundaries: Iterable[int]) -> Any:
    """Return the first value, and from each boundary on the next one."""
    now, *later = values
    for begin, value in zip(boundaries, later):
        now = jnp.where(step < begin, now, value)
    return now


def interpolate_all(shape: str, values: tuple[Any, ...], step: Array, boundaries: tuple[int, ...]) -> Any:
    """Interpolate through all values: the first at step 0, one more at each boundary."""
    pairs, ends = itertools.pairwise(values), itertools.pairwise((0, *boundaries))
    ways = [interpolate(shape, a, b, step - begin, end - begin) for (a, b), (begin, end) in zip(pairs, ends)]
    return select(step, (values[0], *ways), (0, *boundaries))


class Curve(Schedule):
    """A schedule whose numbers may be schedules: a subclass defines `curve`, which sees their values at the step."""

    def curve(self, step: Array) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define curve(self, step)")

    @checked
    def __call__(self, step: Any) -> Any:
        step = integer_step(step)
        now = jax.tree.map(
            lambda x: value_at(x, step), self, is_leaf=lambda x: isinstance(x, Schedule) and x is not self
        )
        return now.curve(step)


# ---------------------------------------------------------------- from a peak to a floor
class Fall(Curve):
    """A curve from its peak to its floor; a subclass sets its shape."""

    peak: Scalar
    steps: Count
    floor: Scalar = 0.0

    way: ClassVar[str]  # the shape of the curve

    def curve(self, step: Array) -> Array:
        return interpolate(self.way, self.peak, self.floor, step, self.steps)
