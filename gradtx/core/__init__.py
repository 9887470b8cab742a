"""What a transformation is. Pieces, combinators and recipes are built on what this package names."""

from gradtx.core.record import Decay, Kind, NonNegative, Positive, Record, Scalar, Schedule, Share, of_step, scalar
from gradtx.core.transformation import Context, PerLeaf, Slots, State, Transformation, at_work, init_slots, run, walk
from gradtx.core.trees import NOTHING, leaves_by_path, path_of, working_dtype
