"""What a transformation is. Pieces, combinators and recipes are built on what this package names."""

from gradtx.core.record import Decay, Kind, NonNegative, Positive, Record, Scalar, Schedule, Share, of_step, scalar
from gradtx.core.transformation import (
    Context,
    Part,
    PerLeaf,
    Slots,
    State,
    Transformation,
    at_work,
    init_slots,
    run,
    walk,
)
from gradtx.core.trees import NOTHING, leaves_by_path, path_of, working_dtype

__all__ = [
    "NOTHING",
    "Context",
    "Decay",
    "Kind",
    "NonNegative",
    "Part",
    "PerLeaf",
    "Positive",
    "Record",
    "Scalar",
    "Schedule",
    "Share",
    "Slots",
    "State",
    "Transformation",
    "at_work",
    "init_slots",
    "leaves_by_path",
    "of_step",
    "path_of",
    "run",
    "scalar",
    "walk",
    "working_dtype",
]


def __dir__() -> list[str]:
    return __all__
