"""Compositions that recipes share: the usual directions and denominators."""

from gradtx.combinators.chain import chain
from gradtx.combinators.precondition import precondition
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.pieces.averages import bias_correction, scale_by_ema
from gradtx.pieces.elementwise import identity, sqrt, square
from gradtx.typing import ScalarOrSchedule


def average(decay: ScalarOrSchedule, corrected: bool = True) -> Transformation:
    """Exponential moving average of the updates, bias-corrected if `corrected`."""
    return chain(scale_by_ema(decay), bias_correction(decay)) if corrected else chain(scale_by_ema(decay))


@checked
def momentum(decay: ScalarOrSchedule = 0.9, corrected: bool = True) -> Transformation:
    """Average the gradients exponentially: momentum, the numerator of Adam.

    m̂ = ema(g) / (1 − bᵗ)

    `momentum` has no learning rate; `heavy_ball`, `averaged_momentum` and `sgd(momentum=…)` are whole optimizers, and
    `add_momentum` is the decaying sum v ← b·v + g.

    Args:
      decay: b, the decay of the average, in [0, 1).
      corrected: If True, divide the average by 1 − bᵗ, which corrects for its start at 0.

    >>> import gradtx as gx
    >>> gx.momentum(0.9)
    chain(scale_by_ema(0.9), bias_correction(0.9))
    """
    return average(decay, corrected)


@checked
def rms(decay: ScalarOrSchedule = 0.999, corrected: bool = True) -> Transformation:
    """Return the root of the average squared update: the denominator of Adam and RMSProp.

    s = √(ema(g²) / (1 − bᵗ))

    It emits the denominator itself; `scale_by_rms` divides the updates by it.

    Args:
      decay: b, the decay of the average of squared updates, in [0, 1).
      corrected: If True, divide the average by 1 − bᵗ, which corrects for its start at 0.

    >>> import gradtx as gx
    >>> gx.rms(0.999)
    chain(square(), scale_by_ema(0.999), bias_correction(0.999), sqrt())
    """
    return chain(square(), average(decay, corrected), sqrt())


@checked
def scale_by_rms(
    decay: ScalarOrSchedule = 0.9, eps: ScalarOrSchedule = 1e-8, corrected: bool = False
) -> Transformation:
    """RMSProp's piece: divide the updates by the root of the average of their squares.

    u = g / (√s + ε), with s ← b·s + (1−b)·g²

    Args:
      decay: b, the decay of the average of squared updates, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      corrected: If True, correct the average for its start at 0: divide it by 1 − bᵗ, as Adam does.

    Source: Hinton, Srivastava and Swersky 2012, lecture 6e.

    >>> import gradtx as gx
    >>> gx.chain(gx.scale_by_rms(0.9, eps=1e-8), gx.scale_by_learning_rate(0.1)) == gx.rmsprop(0.1, decay=0.9, eps=1e-8)
    True
    """
    return precondition(identity(), by=rms(decay, corrected), eps=eps)
