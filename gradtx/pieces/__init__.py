"""Transformations that do one thing each."""

from gradtx.pieces.accumulators import covered_sum, decayed_max, running_max, running_sum, scale_by_own_rms
from gradtx.pieces.averages import (
    add_momentum,
    additive_average,
    bias_correction,
    nesterov_ema,
    rectify,
    running_mean,
    running_variance,
    scale_by_ema,
)
from gradtx.pieces.clipping import clip, clip_by_global_norm, clip_by_norm, clip_by_rms, growing_clip, narrowing_clip
from gradtx.pieces.coin_betting import bet_coins
from gradtx.pieces.curvature import hessian_diagonal
from gradtx.pieces.decay import add_weight_decay
from gradtx.pieces.directions import centralize, project_out
from gradtx.pieces.dual_averaging import follow_the_leader, from_start
from gradtx.pieces.elementwise import (
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
from gradtx.pieces.matrix import orthogonalize, scale_by_shape
from gradtx.pieces.measures import cosine_similarity, global_norm, norm_ratio
from gradtx.pieces.noise import add_noise
from gradtx.pieces.norms import normalize, scale_by_param_rms, scale_by_total_norm, shrink, trust_ratio, unit_rms
from gradtx.pieces.plateau import reduce_on_plateau
from gradtx.pieces.polyak import polyak_step
from gradtx.pieces.rounding import kahan_summation, stochastic_rounding
from gradtx.pieces.rprop import sign_steps
from gradtx.pieces.sources import delay, difference, emit_displacement, emit_params

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
    "kahan_summation",
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
    "sqrt",
    "square",
    "stochastic_rounding",
    "trust_ratio",
    "unit_rms",
]


def __dir__() -> list[str]:
    return __all__
