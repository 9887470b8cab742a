"""Transformations that do one thing each."""

from gradtx.pieces.accumulation import covered_sum, running_mean
from gradtx.pieces.betting import bet_coins
from gradtx.pieces.clipping import (
    clip,
    clip_by_global_norm,
    clip_by_norm,
    growing_clip,
    narrowing_clip,
)
from gradtx.pieces.curvature import hessian_diagonal
from gradtx.pieces.decay import add_weight_decay
from gradtx.pieces.directions import centralize, project_out
from gradtx.pieces.displacement import emit_displacement
from gradtx.pieces.lengths import normalize, shrink, trust_ratio
from gradtx.pieces.matrix import orthogonalize, scale_by_shape
from gradtx.pieces.measures import cosine_similarity, global_norm, norm_ratio
from gradtx.pieces.momentum import add_momentum, bias_correction, nesterov_ema, scale_by_ema
from gradtx.pieces.noise import add_noise
from gradtx.pieces.norms import polyak_step, scale_by_total_norm
from gradtx.pieces.plateau import reduce_on_plateau
from gradtx.pieces.rms import clip_by_rms, scale_by_param_rms, unit_rms
from gradtx.pieces.rounding import kahan_summation, stochastic_rounding
from gradtx.pieces.scaling import (
    absolute,
    add_constant,
    at_least,
    emit_one,
    identity,
    power,
    scale,
    scale_by_learning_rate,
    scale_by_step,
    sigmoid,
    sign,
    sqrt,
    square,
)
from gradtx.pieces.sets import box, l1_ball, simplex
from gradtx.pieces.size import (
    additive_average,
    decayed_max,
    rectify,
    running_max,
    running_sum,
    running_variance,
    scale_by_own_rms,
    sign_steps,
)
from gradtx.pieces.sources import delay, difference, emit_params
from gradtx.pieces.targets import follow_the_leader, from_start
from gradtx.pieces.where import is_matrix

__all__ = [
    "absolute",
    "add_constant",
    "add_momentum",
    "add_noise",
    "add_weight_decay",
    "additive_average",
    "at_least",
    "bet_coins",
    "bias_correction",
    "box",
    "centralize",
    "clip",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_rms",
    "cosine_similarity",
    "covered_sum",
    "decayed_max",
    "delay",
    "difference",
    "emit_displacement",
    "emit_one",
    "emit_params",
    "follow_the_leader",
    "from_start",
    "global_norm",
    "growing_clip",
    "hessian_diagonal",
    "identity",
    "is_matrix",
    "kahan_summation",
    "l1_ball",
    "narrowing_clip",
    "nesterov_ema",
    "norm_ratio",
    "normalize",
    "orthogonalize",
    "polyak_step",
    "power",
    "project_out",
    "rectify",
    "reduce_on_plateau",
    "running_max",
    "running_mean",
    "running_sum",
    "running_variance",
    "scale",
    "scale_by_ema",
    "scale_by_learning_rate",
    "scale_by_own_rms",
    "scale_by_param_rms",
    "scale_by_shape",
    "scale_by_step",
    "scale_by_total_norm",
    "shrink",
    "sigmoid",
    "sign",
    "sign_steps",
    "simplex",
    "sqrt",
    "square",
    "stochastic_rounding",
    "trust_ratio",
    "unit_rms",
]


def __dir__() -> list[str]:
    return __all__
