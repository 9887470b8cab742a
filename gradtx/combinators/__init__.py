"""Transformations made of transformations."""

from gradtx.combinators.averages import momentum, rms, scale_by_rms
from gradtx.combinators.blend import blend, cautious
from gradtx.combinators.chain import add, chain, multiply
from gradtx.combinators.distance import estimate_distance, grow_distance, scale_by_distance
from gradtx.combinators.graft import graft, project_if_orthogonal
from gradtx.combinators.leafwise import leafwise
from gradtx.combinators.model import model_step
from gradtx.combinators.monitor import measurements, monitor
from gradtx.combinators.partition import freeze, masked, partition
from gradtx.combinators.precondition import clipped_precondition, precondition
from gradtx.combinators.reduced import factored, reduced

__all__ = [
    "add",
    "blend",
    "cautious",
    "chain",
    "clipped_precondition",
    "estimate_distance",
    "factored",
    "freeze",
    "graft",
    "grow_distance",
    "leafwise",
    "masked",
    "measurements",
    "model_step",
    "momentum",
    "monitor",
    "multiply",
    "partition",
    "precondition",
    "project_if_orthogonal",
    "reduced",
    "rms",
    "scale_by_distance",
    "scale_by_rms",
]


def __dir__() -> list[str]:
    return __all__
