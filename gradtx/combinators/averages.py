"""Compositions that recipes share: what a direction and a size are usually made of."""

from gradtx.combinators.chain import chain
from gradtx.combinators.precondition import precondition
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.pieces.averages import bias_correction, scale_by_ema
from gradtx.pieces.elementwise import identity, sqrt, square
from gradtx.typing import ScalarOrSchedule


def average(decay: ScalarOrSchedule, corrected: bool = True) -> Transformation:
    """An exponential average of the updates, corrected for its start at 0 or not."""
    return chain(scale_by_ema(decay), bias_correction(decay)) if corrected else chain(scale_by_ema(decay))


@checked
def momentum(decay: ScalarOrSchedule = 0.9, corrected: bool = True) -> Transformation:
    r"""Momentum as an average of gradients, the direction of Adam.   m̂ = ema(g) / (1 − bᵗ)

    Args:
      decay: b, of `scale_by_ema`.
      corrected: Whether the average's start at 0 is corrected (`bias_correction`).

    >>> import gradtx as gx
    >>> gx.momentum(0.9)
    chain(scale_by_ema(0.9), bias_correction(0.9))
    """
    return average(decay, corrected)


@checked
def rms(decay: ScalarOrSchedule = 0.999, corrected: bool = True) -> Transformation:
    r"""The root of the average square of each coordinate, the size of Adam and RMSProp.   s = √(ema(g²) / (1 − bᵗ))

    Args:
      decay: b, of `scale_by_ema`.
      corrected: Whether the average's start at 0 is corrected (`bias_correction`).

    >>> import gradtx as gx
    >>> gx.rms(0.999)
    chain(square(), scale_by_ema(0.999), bias_correction(0.999), sqrt())
    """
    return chain(square(), average(decay, corrected), sqrt())


@checked
def scale_by_rms(decay: ScalarOrSchedule = 0.999, eps: ScalarOrSchedule = 1e-8) -> Transformation:
    r"""The RMSProp piece on its own: the updates divided by their `rms`.   u = g / (s + ε)

    >>> import gradtx as gx
    >>> gx.scale_by_rms(0.9) == gx.precondition(gx.identity(), by=gx.rms(0.9), eps=1e-8)
    True
    """
    return precondition(identity(), by=rms(decay), eps=eps)
