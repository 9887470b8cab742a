"""Schedules: records that give a hyperparameter as a function of the step. The first update is step 0.

Any hyperparameter takes a schedule: `gx.adam(schedules.cosine(1e-3, steps=1000), b1=schedules.linear(0.8, 0.9, 100))`.
Peaks, floors, rates and powers are leaves: they can be swept, learned, or be schedules themselves. Counts of steps are
structure: integers up to 2³¹ − 1, which a float32 leaf could not hold. Whole steps are subtracted, divided and compared
as integers, so a boundary is never off by one. Beyond its last step, a schedule keeps its last value.

With t the step and T a count, `done` = t/T and `left` = (T − t)/T, both from 0 to 1. A curve from a to b has a shape:

| shape | value |
|---|---|
| `"linear"` | a·left + b·done |
| `"cosine"` | a·sin²(π/2·left) + b·sin²(π/2·done), which is b + (a − b)·(1 + cos(π·done))/2 |
| `"1-sqrt"` | a·left/(1 + √done) + b·√done, which is b + (a − b)·(1 − √done) |
| `"rex"` | a·2·left/(1 + left) + b·done/(1 + left) |

Every schedule raises a `ValueError` or `TypeError` that names the argument if a number is not finite, if a count or a
boundary is not an integer or is out of range, or if boundaries do not increase. A call raises one if the step is not an
integer or is below 0; a traced step below 0 is taken as 0.
"""

from typing import TYPE_CHECKING

from gradtx.schedules.compose import cycle, join, piecewise_constant, piecewise_interpolated
from gradtx.schedules.cyclic import cosine_restarts, cyclic, linear_restarts
from gradtx.schedules.decay import (
    constant,
    cosine,
    exponential,
    inverse_sqrt,
    inverse_time,
    linear,
    polynomial,
    relative_step,
    rex,
)
from gradtx.schedules.phases import one_cycle, warmup, warmup_cosine, wsd

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
    "warmup_cosine",
    "wsd",
]


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # a type checker would take any name for one of the module

    def __getattr__(name):
        from gradtx.core.errors import public

        raise AttributeError(public("gradtx.schedules", name, __all__))
