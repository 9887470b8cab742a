"""Optimizers that step by the sign of the gradient: signSGD, Signum, Lion, Rprop."""

from gradtx.combinators import blend, chain
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.pieces import (
    add_weight_decay,
    rprop_steps,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    sign,
)
from gradtx.typing import ScalarOrSchedule, Where


@checked
def rprop(
    learning_rate: ScalarOrSchedule = 1e-2,
    grow: ScalarOrSchedule = 1.2,
    shrink: ScalarOrSchedule = 0.6,
    smallest: ScalarOrSchedule = 1e-6,
    largest: ScalarOrSchedule = 50.0,
    wait_on_flip: bool = False,
) -> Transformation:
    """w ← w − s·sign(g), with s ← 1.2·s while sign(g) stays, 0.6·s when it flips

    For gradients of the whole data set. The rate is s at the start; all arguments are those of `rprop_steps`. Other
    libraries shrink by 0.5 and wait on a flip.
    Source: Riedmiller and Braun 1993.
    """
    return chain(rprop_steps(learning_rate, grow, shrink, smallest, largest, wait_on_flip), scale(-1.0))


@checked
def sign_sgd(learning_rate: ScalarOrSchedule = 1e-3) -> Transformation:
    """w ← w − η·sign(g)

    Source: Bernstein et al. 2018, arXiv 1802.04434, algorithm 1.
    """
    return chain(sign(), scale_by_learning_rate(learning_rate))


@checked
def signum(learning_rate: ScalarOrSchedule = 1e-3, decay: ScalarOrSchedule = 0.9) -> Transformation:
    """w ← w − η·sign(m), with m ← β·m + (1−β)·g

    Source: Bernstein et al. 2018, arXiv 1802.04434, algorithm 2.
    """
    return chain(scale_by_ema(decay), sign(), scale_by_learning_rate(learning_rate))


@checked
def lion(
    learning_rate: ScalarOrSchedule = 1e-4,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.99,
    weight_decay: ScalarOrSchedule = 1e-3,
    where: Where = None,
) -> Transformation:
    """w ← w − η·(sign(β₁·m + (1−β₁)·g) + λ·w), then m ← β₂·m + (1−β₂)·g

    Every coordinate moves by η: take a tenth to a third of Adam's, and three to ten times AdamW's λ.
    Source: Chen et al. 2023, arXiv 2302.06675, algorithm 2; λ as in Optax.
    """
    direction = chain(blend(scale_by_ema(b2, before=True), b1), sign())
    return chain(direction, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))
