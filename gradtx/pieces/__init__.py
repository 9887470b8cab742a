"""Transformations that do one thing each."""

from gradtx.pieces.accumulators import decayed_max, running_max, running_sum, scale_by_own_rms, sm3_sum
from gradtx.pieces.attention import qk_clip
from gradtx.pieces.averages import (
    add_momentum,
    bias_correction,
    nesterov_ema,
    rectify,
    running_mean,
    running_variance,
    scale_by_ema,
    yogi_average,
)
from gradtx.pieces.bases import eigenbasis, random_vectors, singular_vectors
from gradtx.pieces.clipping import (
    adabound_clip,
    adaptive_clip,
    adopt_clip,
    clip,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_rms,
    limit_growth,
)
from gradtx.pieces.coin_betting import coin_betting
from gradtx.pieces.curvature import hessian_diagonal
from gradtx.pieces.decay import add_weight_decay
from gradtx.pieces.directions import centralize, project_out
from gradtx.pieces.dual_averaging import from_start, ftrl_proximal
from gradtx.pieces.elementwise import (
    abs,
    add_constant,
    identity,
    lower_bound,
    ones,
    power,
    scale,
    scale_by_learning_rate,
    scale_by_step,
    sigmoid,
    sign,
    sqrt,
    square,
    zero_nonfinite,
)
from gradtx.pieces.factors import covariance_roots, whitening
from gradtx.pieces.lbfgs import scale_by_lbfgs
from gradtx.pieces.matrix import low_rank_momentum, orthogonalize, scale_by_shape
from gradtx.pieces.measures import cosine_similarity, global_norm, norm_ratio
from gradtx.pieces.noise import add_noise
from gradtx.pieces.norms import (
    fromage_rescale,
    normalize,
    scale_by_param_rms,
    scale_by_total_norm,
    trust_ratio,
    unit_rms,
)
from gradtx.pieces.plateau import reduce_on_plateau
from gradtx.pieces.polyak import polyak_step
from gradtx.pieces.rounding import kahan_summation, stochastic_rounding
from gradtx.pieces.rprop import rprop_steps
from gradtx.pieces.sources import delay, difference, emit_displacement, emit_params
from gradtx.pieces.spikes import loss_spike, norm_spike, zclip

__all__ = [
    "abs",
    "adabound_clip",
    "adaptive_clip",
    "add_constant",
    "add_momentum",
    "add_noise",
    "add_weight_decay",
    "adopt_clip",
    "bias_correction",
    "centralize",
    "clip",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_rms",
    "coin_betting",
    "cosine_similarity",
    "covariance_roots",
    "decayed_max",
    "delay",
    "difference",
    "eigenbasis",
    "emit_displacement",
    "emit_params",
    "from_start",
    "fromage_rescale",
    "ftrl_proximal",
    "global_norm",
    "hessian_diagonal",
    "identity",
    "kahan_summation",
    "limit_growth",
    "loss_spike",
    "low_rank_momentum",
    "lower_bound",
    "nesterov_ema",
    "norm_ratio",
    "norm_spike",
    "normalize",
    "ones",
    "orthogonalize",
    "polyak_step",
    "power",
    "project_out",
    "qk_clip",
    "random_vectors",
    "rectify",
    "reduce_on_plateau",
    "rprop_steps",
    "running_max",
    "running_mean",
    "running_sum",
    "running_variance",
    "scale",
    "scale_by_ema",
    "scale_by_lbfgs",
    "scale_by_learning_rate",
    "scale_by_own_rms",
    "scale_by_param_rms",
    "scale_by_shape",
    "scale_by_step",
    "scale_by_total_norm",
    "sigmoid",
    "sign",
    "singular_vectors",
    "sm3_sum",
    "sqrt",
    "square",
    "stochastic_rounding",
    "trust_ratio",
    "unit_rms",
    "whitening",
    "yogi_average",
    "zclip",
    "zero_nonfinite",
]


def __dir__() -> list[str]:
    return __all__
