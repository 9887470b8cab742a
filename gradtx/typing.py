"""Types for annotations: `def my_adam(learning_rate: ScalarOrSchedule = 1e-3) -> Transformation`."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jax import Array
from jax.typing import DTypeLike

from gradtx.core.transformation import TransformationLike

PyTree: TypeAlias = Any
"""Nested dicts, lists, tuples, dataclasses, … of arrays: anything registered with `jax.tree_util`."""
Scalar: TypeAlias = float | Array | np.ndarray[Any, Any] | np.number[Any]
"""A number, or an array of shape ()."""
ScalarOrSchedule: TypeAlias = Scalar | Callable[[Any], Any]
"""A hyperparameter: a number, an array of shape (), a `gx.Schedule`, or a function of the step."""
Where: TypeAlias = str | Callable[[str, Any], Any] | PyTree | None
"""Which parameters: a path pattern, a function of (path, leaf), or a tree of booleans; None for all."""
Patterns: TypeAlias = str | Callable[[str, Any], Any] | Sequence[str | Callable[[str, Any], Any]]
"""One path pattern or function of (path, leaf), or several."""
Axes: TypeAlias = int | Sequence[int]
"""One axis, or several."""
MeshAxes: TypeAlias = str | tuple[str, ...] | None
"""One axis of a mesh of devices by its name, or several; None for all."""

__all__ = [
    "Axes",
    "DTypeLike",
    "MeshAxes",
    "Patterns",
    "PyTree",
    "Scalar",
    "ScalarOrSchedule",
    "TransformationLike",
    "Where",
]


def __dir__() -> list[str]:
    return __all__
