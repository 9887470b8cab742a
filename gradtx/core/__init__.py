"""What a transformation is. Pieces, combinators and recipes are built on what this package names."""

from gradtx.core.record import Decay, Kind, NonNegative, Positive, Record, Scalar, Schedule, of_step
from gradtx.core.transformation import (
    Context,
    PerLeaf,
    Slots,
    State,
    Transformation,
    apply_updates,
    init_slots,
    pair,
    run,
    walk,
)
from gradtx.core.trees import leaves_by_path, lerp, path_of, safe_divide, safe_sqrt, working_dtype

__all__ = [
    "Context",
    "Decay",
    "Kind",
    "NonNegative",
    "PerLeaf",
    "Positive",
    "Record",
    "Scalar",
    "Schedule",
    "Slots",
    "State",
    "Transformation",
    "apply_updates",
    "init_slots",
    "leaves_by_path",
    "lerp",
    "of_step",
    "pair",
    "path_of",
    "run",
    "safe_divide",
    "safe_sqrt",
    "walk",
    "working_dtype",
]
