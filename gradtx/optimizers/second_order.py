"""Optimizers that use curvature."""

from gradtx.combinators import chain, momentum, precondition, rms
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.pieces import (
    add_weight_decay,
    clip,
    hessian_diagonal,
    lower_bound,
    power,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
)
from gradtx.typing import ScalarOrSchedule, TransformationLike, Where
from gradtx.wrappers import every

HUTCHINSON = hessian_diagonal()


@checked
def adahessian(
    learning_rate: ScalarOrSchedule = 0.15,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-4,
    hessian_power: ScalarOrSchedule = 1.0,
    diagonal: TransformationLike = HUTCHINSON,
) -> Transformation:
    """w ← w − η·m̂/(√ŝᵏ + ε), with ŝ = ema(h²)/(1 − β₂ᵗ), h the diagonal of the Hessian

    Adam with squares of the curvature instead of the gradient's; k is `hessian_power`, from 0 (momentum) to 1, and ε is
    the published code's. `diagonal` makes h: `hessian_diagonal("first")` averages it over the kernels of convolutions
    (signed, as in the paper; its code averages |h|), `every(hessian_diagonal(), 10)` measures it at every tenth update.
    Source: Yao et al. 2020, arXiv 2006.00719, algorithm 1.
    """
    size = chain(diagonal, rms(b2), power(hessian_power))
    return chain(precondition(momentum(b1), by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def sophia(
    learning_rate: ScalarOrSchedule = 1e-4,
    b1: ScalarOrSchedule = 0.96,
    b2: ScalarOrSchedule = 0.99,
    gamma: ScalarOrSchedule = 0.01,
    eps: ScalarOrSchedule = 1e-12,
    weight_decay: ScalarOrSchedule = 0.2,
    where: Where = None,
    every_k: int = 10,
    diagonal: TransformationLike = HUTCHINSON,
) -> Transformation:
    """w ← w − η·(clip(m/max(γ·h, ε), ±1) + λ·w), with h ← ema(diagonal of the Hessian) at every tenth update

    Sophia-H. As in the paper, neither average is corrected, and h is of the same step; Optax corrects m and divides by
    the h of the step before. Another `diagonal`, a transformation that makes it, is another Sophia.
    Source: Liu et al. 2023, arXiv 2305.14342, algorithm 3.
    """
    size = chain(every(chain(diagonal, scale_by_ema(b2)), every_k), scale(gamma), lower_bound(eps))
    clipped = chain(precondition(momentum(b1, corrected=False), by=size, eps=0.0), clip(1.0))
    return chain(clipped, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))
