"""The core: records, schedules and transformations, on which everything else is built."""

from gradtx.core.kinds import Kind
from gradtx.core.record import Record
from gradtx.core.root import Context, Slots, State, at_work, init_slots, run, walk
from gradtx.core.schedule import Decay, Fraction, NonNegative, Positive, Scalar, Schedule, of_step, scalar
from gradtx.core.transformation import Part, PerLeaf, Transformation, TransformationLike, pair
from gradtx.core.trees import NOTHING, leaves_by_path, path_of, working_dtype

__all__ = [
    "NOTHING",
    "Context",
    "Decay",
    "Fraction",
    "Kind",
    "NonNegative",
    "Part",
    "PerLeaf",
    "Positive",
    "Record",
    "Scalar",
    "Schedule",
    "Slots",
    "State",
    "Transformation",
    "TransformationLike",
    "at_work",
    "init_slots",
    "leaves_by_path",
    "of_step",
    "pair",
    "path_of",
    "run",
    "scalar",
    "walk",
    "working_dtype",
]


def __dir__() -> list[str]:
    return __all__
