"""Optimizers that change the size of each coordinate's step: AdaGrad, RMSProp, AdaDelta."""

from gradtx.combinators import chain, precondition, rms
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.optimizers.sgd import sgd
from gradtx.pieces import (
    identity,
    running_sum,
    running_variance,
    scale_by_learning_rate,
    scale_by_own_rms,
    sqrt,
    square,
)
from gradtx.typing import ScalarOrSchedule


@checked
def adagrad(
    learning_rate: ScalarOrSchedule = 1e-2,
    eps: ScalarOrSchedule = 1e-8,
    eps_in_sqrt: bool = False,
    initial_value: ScalarOrSchedule = 0.0,
) -> Transformation:
    """w ← w − η·g/(√s + ε), with s ← s + g²

    s starts at `initial_value`. PyTorch's form; Optax starts at 0.1 and has ε in the root (`eps_in_sqrt`).
    Source: Duchi, Hazan and Singer 2011.
    """
    divided = precondition(identity(), chain(square(), running_sum(initial_value), sqrt()), eps, eps_in_sqrt)
    return chain(divided, scale_by_learning_rate(learning_rate))


@checked
def rmsprop(
    learning_rate: ScalarOrSchedule = 1e-3,
    decay: ScalarOrSchedule = 0.9,
    eps: ScalarOrSchedule = 1e-8,
    eps_in_sqrt: bool = False,
    centered: bool = False,
    momentum: ScalarOrSchedule = 0.0,
    nesterov: bool = False,
    corrected: bool = False,
) -> Transformation:
    """w ← w − η·g/(√s + ε), with s ← β·s + (1−β)·g²

    ε is outside the root (PyTorch) or inside (Optax, `eps_in_sqrt`); s may be `corrected`, or `centered`: s − ema(g)².
    Source: Hinton, Srivastava and Swersky 2012, lecture 6e; centred, Graves 2013, arXiv 1308.0850.
    """
    if centered and corrected:
        raise ValueError("rmsprop: centered=True has no corrected form; choose one of the two")
    size = chain(running_variance(decay), sqrt()) if centered else rms(decay, corrected)
    return chain(precondition(identity(), size, eps, eps_in_sqrt), sgd(learning_rate, momentum, nesterov))


@checked
def adadelta(
    learning_rate: ScalarOrSchedule = 1.0, decay: ScalarOrSchedule = 0.9, eps: ScalarOrSchedule = 1e-6
) -> Transformation:
    """w ← w − η·u, with u = g·√(x + ε)/√(s + ε), s = ema(g²), x = ema(u²) before u

    Source: Zeiler 2012, arXiv 1212.5701.
    """
    divided = precondition(identity(), rms(decay, corrected=False), eps, eps_in_sqrt=True)
    return chain(divided, scale_by_own_rms(decay, eps), scale_by_learning_rate(learning_rate))
