"""Combinators: transformations made of transformations."""

from gradtx.combinators.averages import momentum, rms, scale_by_rms
from gradtx.combinators.blend import blend, cautious
from gradtx.combinators.blocks import in_blocks
from gradtx.combinators.chain import add, chain, multiply
from gradtx.combinators.distances import dadapt_distance, dog_distance, prodigy_distance
from gradtx.combinators.graft import graft, project_if_orthogonal
from gradtx.combinators.in_basis import in_basis
from gradtx.combinators.kronecker import kronecker
from gradtx.combinators.layout import layout
from gradtx.combinators.lazy import lazy
from gradtx.combinators.leafwise import leafwise, rowwise
from gradtx.combinators.momo import momo_step
from gradtx.combinators.monitor import measurements, monitor, monitor_layers
from gradtx.combinators.partition import freeze, masked, partition
from gradtx.combinators.precondition import atan2_precondition, clipped_precondition, precondition
from gradtx.combinators.reduced import factored, reduced

__all__ = [
    "add",
    "atan2_precondition",
    "blend",
    "cautious",
    "chain",
    "clipped_precondition",
    "dadapt_distance",
    "dog_distance",
    "factored",
    "freeze",
    "graft",
    "in_basis",
    "in_blocks",
    "kronecker",
    "layout",
    "lazy",
    "leafwise",
    "masked",
    "measurements",
    "momentum",
    "momo_step",
    "monitor",
    "monitor_layers",
    "multiply",
    "partition",
    "precondition",
    "prodigy_distance",
    "project_if_orthogonal",
    "reduced",
    "rms",
    "rowwise",
    "scale_by_rms",
]


def __dir__() -> list[str]:
    return __all__
