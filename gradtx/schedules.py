"""Schedules: records that give a hyperparameter as a function of the step. The first update is step 0.

Any hyperparameter takes one: `gx.adam(schedules.cosine(1e-3, steps=1000), b1=schedules.linear(0.8, 0.9, 100))`. Peaks,
floors, rates and powers are leaves, so they can be swept, learned, or be schedules themselves. Counts of steps are
structure: integers to 2³¹ − 1, which a float32 leaf could not hold. Whole steps are subtracted, divided and compared as
integers, so a boundary is never off by one. Beyond its last step, a schedule keeps its last value.

With t the step and T a count, `done` = t/T and `left` = (T − t)/T, both from 0 to 1; a way from a to b has a shape:

| shape | value |
|---|---|
| `"linear"` | a·left + b·done |
| `"cosine"` | a·sin²(π/2·left) + b·sin²(π/2·done), which is b + (a − b)·(1 + cos(π·done))/2 |
| `"1-sqrt"` | a·left/(1 + √done) + b·√done, which is b + (a − b)·(1 − √done) |
| `"rex"` | a·2·left/(1 + left) + b·done/(1 + left) |

Every schedule raises `ValueError` or `TypeError` that names the argument: for a number that is not finite, a count or a
boundary that is no integer or out of range, and boundaries out of order. So does a call with a step that is no integer
or below 0; a traced step below 0 is taken as 0.
"""

import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from gradtx.arguments import said
from gradtx.core import Kind, NonNegative, Positive, Scalar, Schedule, scalar

__all__ = [
    "constant",
    "cosine",
    "cosine_restarts",
    "cycle",
    "cyclic",
    "exponential",
    "inverse_sqrt",
    "inverse_time",
    "join",
    "linear",
    "linear_restarts",
    "one_cycle",
    "piecewise_constant",
    "piecewise_interpolated",
    "polynomial",
    "relative_step",
    "rex",
    "warmup",
    "wsd",
]

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


class constant(_Curve):
    """The same value at every step.

    >>> constant(0.1)(7)
    0.1
    """

    value: Scalar

    def curve(self, step: Array) -> Any:
        return self.value


class linear(_Curve):
    """A straight line.   start·left + end·done

    >>> [float(linear(1.0, 0.0, steps=4)(step)) for step in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """

    start: Scalar
    end: Scalar
    steps: Count

    def curve(self, step: Array) -> Array:
        return _way("linear", self.start, self.end, step, self.steps)


class polynomial(_Curve):
    """A power of what is left.   end + (start − end)·leftᵖ

    Args:
      power: p, above 0.

    >>> [float(polynomial(1.0, 0.0, steps=4, power=2.0)(step)) for step in (0, 2, 4)]
    [1.0, 0.25, 0.0]
    """

    start: Scalar
    end: Scalar
    steps: Count
    power: Positive = 1.0

    def curve(self, step: Array) -> Array:
        _, left = _shares(step, self.steps)
        return self.end + (self.start - self.end) * left**self.power


class cosine(_Fall):
    """Half a cosine, from its peak to its floor.   floor + (peak − floor)·(1 + cos(π·done))/2

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5.

    >>> [round(float(cosine(1.0, steps=4)(step)), 3) for step in (0, 1, 2, 4)]
    [1.0, 0.854, 0.5, 0.0]
    """

    way = "cosine"


class rex(_Fall):
    """Reflected exponential: slow at first, fast at the end.   floor + (peak − floor)·left / (½ + ½·left)

    Source: Chen, Wolfe and Kyrillidis 2021, arXiv 2107.04197.

    >>> [round(float(rex(1.0, steps=4)(step)), 3) for step in (0, 2, 4)]
    [1.0, 0.667, 0.0]
    """

    way = "rex"


# ---------------------------------------------------------------- without an end
class exponential(_Curve):
    """Multiplied by a rate every so many steps.   max(start·rate^(t/steps), floor)

    Args:
      rate: What `steps` steps multiply by, above 0. float32 keeps (0.5, steps=10**6) better than (0.9999993, steps=1).
      staircase: Whether t/steps is rounded down, so that the value falls once every `steps`.

    >>> [float(exponential(1.0, 0.25, steps=2)(step)) for step in (0, 1, 2, 4)]
    [1.0, 0.5, 0.25, 0.0625]
    """

    start: NonNegative
    rate: Positive
    steps: Count = 1
    floor: NonNegative = 0.0
    staircase: bool = False

    def curve(self, step: Array) -> Array:
        return jnp.maximum(self.start * self.rate ** _laps(step, self.steps, self.staircase), self.floor)


class inverse_time(_Curve):
    """The textbook's 1/t decay.   start / (1 + rate·t/steps)ᵖ

    Args:
      rate: What `steps` steps add to the divisor, 0 or more.
      staircase: Whether t/steps is rounded down.
      power: p, 0 or more.

    >>> [float(inverse_time(1.0, 1.0)(step)) for step in (0, 1, 3)]
    [1.0, 0.5, 0.25]
    """

    start: Scalar
    rate: NonNegative
    steps: Count = 1
    staircase: bool = False
    power: NonNegative = 1.0

    def curve(self, step: Array) -> Array:
        return self.start / (1 + self.rate * _laps(step, self.steps, self.staircase)) ** self.power


class inverse_sqrt(_Curve):
    """A linear warm-up, then the inverse square root of the step.   peak·min(t/w, 1)·√(w / max(t, w))

    With a cooldown, the last steps are a straight line from what it then is to the floor.

    Args:
      warmup: w, the steps of the warm-up, and the time scale of what follows.
      steps: All steps, warm-up and cooldown included; None: without an end.
      cooldown: How many of them are the cooldown.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 5.3; the cooldown, Zhai et al. 2022, arXiv 2106.04560.

    >>> [float(inverse_sqrt(1.0, warmup=2, steps=10, cooldown=2)(step)) for step in (0, 1, 2, 8, 9, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.25, 0.0]
    """

    peak: Scalar
    warmup: Count
    steps: Count | None = None
    cooldown: CountOrZero = 0
    floor: Scalar = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        given = f"got steps={self.steps}, warmup={self.warmup}, cooldown={self.cooldown}"
        room = self.cooldown == 0 if self.steps is None else self.steps >= self.warmup + self.cooldown
        _require(self, room, f"steps must have room for warmup and cooldown, {given}")

    def curve(self, step: Array) -> Array:
        begin = _LAST if self.steps is None else self.steps - self.cooldown
        t, w = jnp.minimum(step, begin), self.warmup
        value = self.peak * _shares(t, w)[0] * jnp.sqrt(w / jnp.maximum(t, w).astype(float))
        return _way("linear", value, self.floor, step - begin, self.cooldown) if self.cooldown else value


class relative_step(_Curve):
    """Adafactor's rate, as a share of the parameters.   min(c, 1/√(t + 1))

    Args:
      most: c, above 0.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, algorithm 6.

    >>> [float(relative_step(0.5)(step)) for step in (0, 3, 15)]
    [0.5, 0.5, 0.25]
    """

    most: Positive = 1e-2

    def curve(self, step: Array) -> Array:
        return jnp.minimum(self.most, 1 / jnp.sqrt(step.astype(float) + 1))


# ---------------------------------------------------------------- in phases
class _Piecewise(_Curve):
    values: Scalars
    boundaries: Boundaries

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_more(self, "values", self.values, self.boundaries)


class piecewise_constant(_Piecewise):
    """One value after another: values[0], and from boundaries[i] on values[i + 1].

    >>> [float(piecewise_constant((1.0, 0.5), boundaries=(100,))(step)) for step in (99, 100)]
    [1.0, 0.5]
    """

    def curve(self, step: Array) -> Any:
        return _select(step, self.values, self.boundaries)


class piecewise_interpolated(_Piecewise):
    """Through values[0] at step 0 and values[i + 1] at boundaries[i], on lines or another shape.

    >>> [float(piecewise_interpolated((0.0, 1.0, 0.5), boundaries=(2, 4))(step)) for step in (0, 1, 2, 3, 4)]
    [0.0, 0.5, 1.0, 0.75, 0.5]
    """

    shape: Shape = "linear"

    def curve(self, step: Array) -> Any:
        return _ways(self.shape, self.values, step, self.boundaries)


class one_cycle(_Curve):
    """One rise and one fall, far below where it began.   start·peak → peak → end·peak,  or by way of start·peak again

    Args:
      rise: The steps of the rise, below `steps`; None: three tenths, rounded down, but one at least.
      back: The step at which it is back at start·peak, for a third phase; None: no such phase.
      start: The value at step 0, as a share of the peak.
      end: The value at the end, as a share of the peak.

    Source: Smith and Topin 2019, arXiv 1708.07120.

    >>> [round(float(one_cycle(1.0, steps=10)(step)), 4) for step in (0, 3, 10)]
    [0.04, 1.0, 0.0]
    """

    peak: Scalar
    steps: Count
    rise: Count | None = None
    back: Count | None = None
    start: Scalar = 1 / 25
    end: Scalar = 1 / 25e4
    shape: Shape = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = self._boundaries()
        _require(self, all(a < b for a, b in itertools.pairwise(ends)), f"rise, back, steps must increase, got {ends}")

    def _boundaries(self) -> tuple[int, ...]:
        rise = max(3 * self.steps // 10, 1) if self.rise is None else self.rise
        return (rise, self.steps) if self.back is None else (rise, self.back, self.steps)

    def curve(self, step: Array) -> Any:
        low = self.start * self.peak
        between = () if self.back is None else (low,)
        return _ways(self.shape, (low, self.peak, *between, self.end * self.peak), step, self._boundaries())


class wsd(_Curve):
    """Warm-up, stable, decay: a line from 0 to the peak, the peak, then down to the floor on a line or another shape.

    Args:
      warmup, stable, decay: The steps of each phase.

    Source: Hu et al. 2024, arXiv 2404.06395; `shape="1-sqrt"`, Hägele et al. 2024, arXiv 2405.18392.

    >>> [float(wsd(1.0, warmup=2, stable=5, decay=4)(step)) for step in (0, 1, 2, 7, 8, 11)]
    [0.0, 0.5, 1.0, 1.0, 0.75, 0.0]
    """

    peak: Scalar
    warmup: CountOrZero
    stable: CountOrZero
    decay: Count
    floor: Scalar = 0.0
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        total = self.warmup + self.stable + self.decay
        _require(self, total <= _LAST, f"warmup + stable + decay must be at most 2³¹ − 1, got {total}")

    def curve(self, step: Array) -> Array:
        rising = _way("linear", 0.0, self.peak, step, max(self.warmup, 1))
        falling = _way(self.shape, self.peak, self.floor, step - self.warmup - self.stable, self.decay)
        return jnp.where(step < self.warmup, rising, falling)


# ---------------------------------------------------------------- again and again
class _Restarts(_Fall):
    growth: Count = 1

    def curve(self, step: Array) -> Array:
        if self.growth == 1:
            return super().curve(step % self.steps)
        begins, lengths = [0], [self.steps]
        while begins[-1] + lengths[-1] <= _LAST:
            begins.append(begins[-1] + lengths[-1])
            lengths.append(lengths[-1] * self.growth)
        length = np.array(lengths, object)  # the last may be too large for int32
        table = np.minimum(length, _LAST).astype(np.int32)
        i = jnp.searchsorted(jnp.array(begins, jnp.int32), step, side="right") - 1
        begin, steps, beyond = (
            jnp.array(x)[i] for x in (np.array(begins, np.int32), table, (length - table).astype(float))
        )
        return _way(self.way, self.peak, self.floor, step - begin, steps, beyond)


class cosine_restarts(_Restarts):
    """`cosine(peak, steps, floor)` again and again, each time `growth` times as long; at a restart, the peak.

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983 (SGDR).

    >>> [float(cosine_restarts(1.0, steps=2, growth=2)(step).round(3)) for step in (0, 1, 2, 4, 6)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    way = "cosine"


class linear_restarts(_Restarts):
    """A line from the peak to the floor again and again, each time `growth` times as long; at a restart, the peak.

    >>> [float(linear_restarts(1.0, steps=2)(step)) for step in (0, 1, 2, 3)]
    [1.0, 0.5, 1.0, 0.5]
    """

    way = "linear"


class cyclic(_Curve):
    """A triangle again and again: from low to high in `rise` steps, and back in `fall`.

    A triangle that shrinks is a product: `low + cyclic(0, high - low, n) * exponential(1, 0.5, 2 * n, staircase=True)`.

    Args:
      fall: The steps of the way back; None: as many as of the rise.

    Source: Smith 2017, arXiv 1506.01186.

    >>> [float(cyclic(0.0, 1.0, rise=2)(step)) for step in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    """

    low: Scalar
    high: Scalar
    rise: Count
    fall: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, self._period() <= _LAST, f"rise + fall must be at most 2³¹ − 1, got {self._period()}")

    def _period(self) -> int:
        return self.rise + (self.rise if self.fall is None else self.fall)

    def curve(self, step: Array) -> Any:
        period = self._period()
        return _ways("linear", (self.low, self.high, self.low), step % period, (self.rise, period))


# ---------------------------------------------------------------- made of other schedules
class warmup(Schedule):
    """A line from start to peak, in front of any other schedule, which then begins at its own step 0.

    Args:
      steps: The steps of the line; with 0 there is none.
      then: A schedule, a function of the step, or a number; None: the peak.
      start: The value at step 0.

    >>> rate = warmup(1.0, steps=2, then=linear(1.0, 0.0, steps=4))
    >>> [float(rate(step)) for step in (0, 1, 2, 3, 6)]
    [0.0, 0.5, 1.0, 0.75, 0.0]
    """

    peak: Scalar
    steps: CountOrZero
    then: Scalar | None = None
    start: Scalar = 0.0

    def __call__(self, step: Any) -> Any:
        step = _integer(step)
        start, peak = _value(self.start, step), _value(self.peak, step)
        then = peak if self.then is None else _value(self.then, jnp.maximum(step - self.steps, 0))
        return jnp.where(step < self.steps, _way("linear", start, peak, step, max(self.steps, 1)), then)


class join(Schedule):
    """One schedule after another: from boundaries[i] on schedules[i + 1], which begins there at its own step 0.

    >>> rate = join((0.5, linear(1.0, 0.0, steps=4)), boundaries=(10,))
    >>> [float(rate(step)) for step in (9, 10, 11)]
    [0.5, 1.0, 0.75]
    """

    schedules: Scalars
    boundaries: Boundaries

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_more(self, "schedules", self.schedules, self.boundaries)

    def __call__(self, step: Any) -> Any:
        step = _integer(step)
        begins = (0, *self.boundaries)
        return _select(step, (_value(s, jnp.maximum(step - b, 0)) for s, b in zip(self.schedules, begins)), begins[1:])


class cycle(Schedule):
    """The first steps of a schedule, again and again.   schedule(t mod steps)

    >>> [float(cycle(linear(1.0, 0.0, steps=4), steps=3)(step)) for step in range(5)]
    [1.0, 0.75, 0.5, 1.0, 0.75]
    """

    schedule: Scalar
    steps: Count

    def __call__(self, step: Any) -> Any:
        return _value(self.schedule, _integer(step) % self.steps)


def __dir__() -> list[str]:
    return __all__
