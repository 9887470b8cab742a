"""Optimizers that divide each coordinate by a root of squared gradients: AdaGrad, RMSProp, AdaDelta."""

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
    """AdaGrad: the gradient divided by the root of the sum of its squares (Duchi, Hazan and Singer, 2011).

    w ← w − η·g/(√s + ε), with s ← s + g²

    This is PyTorch's form, with another ε. Optax starts s at 0.1 and adds ε inside the root (`initial_value=0.1,
    eps_in_sqrt=True`).

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      eps: ε, added to the denominator, 0 or more. In units of the gradients, or squared units inside the root.
        PyTorch's default is 1e-10; Optax's, inside the root, is 1e-7.
      eps_in_sqrt: If True, add ε inside the square root instead.
      initial_value: s before the first update, 0 or more, in squared units of the gradients. Optax's default is 0.1.

    Source: Duchi, Hazan and Singer 2011.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.adagrad(1.0)
    >>> gradients, start = jnp.array([3.0, 4.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([-1. , -0.8], dtype=float32)
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
    """RMSProp: the gradient divided by the root of the average of its squares (Hinton, Srivastava and Swersky, 2012).

    w ← w − η·v, with v ← β·v + g/(√s + ε), s ← α·s + (1−α)·g²

    PyTorch adds ε outside the root, as here by default; Optax adds it inside (`eps_in_sqrt=True`).

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. PyTorch's default is
        0.01.
      decay: α, the decay of the average of squared gradients, in [0, 1). PyTorch's default is 0.99.
      eps: ε, added to the denominator, 0 or more. In units of the gradients, or squared units inside the root.
      eps_in_sqrt: If True, add ε inside the square root instead. Optax's default is True.
      centered: If True, s is the variance of the gradients, ema(g²) − ema(g)².
      momentum: β, the decay of the momentum, in [0, 1). The number 0 keeps no velocity in the state, and v is the
        quotient itself.
      nesterov: If True, use Nesterov's form of momentum. It needs a momentum above 0.
      corrected: If True, correct s for its start at 0: divide it by 1 − αᵗ.

    Raises:
      ValueError: Both `centered` and `corrected` are True, or `nesterov` is True and `momentum` is the number 0.

    Source: Hinton, Srivastava and Swersky 2012, lecture 6e; centred, Graves 2013, arXiv 1308.0850.

    >>> import gradtx as gx
    >>> gx.rmsprop(0.1, momentum=0.9)
    chain(
        precondition(
            identity(),
            by=chain(square(), scale_by_ema(0.9), sqrt()),
            eps=1e-08,
        ),
        add_momentum(0.9),
        scale_by_learning_rate(0.1),
    )
    """
    if centered and corrected:
        raise ValueError("rmsprop: centered=True has no corrected form; choose one of the two")
    size = chain(running_variance(decay), sqrt()) if centered else rms(decay, corrected)
    steps = (link for link in sgd(learning_rate, momentum, nesterov).parts().values() if link != identity())
    return chain(precondition(identity(), size, eps, eps_in_sqrt), *steps)


@checked
def adadelta(
    learning_rate: ScalarOrSchedule = 1.0, decay: ScalarOrSchedule = 0.9, eps: ScalarOrSchedule = 1e-6
) -> Transformation:
    """AdaDelta: steps in units of the parameters, from the ratio of two running RMS values (Zeiler, 2012).

    w ← w − η·u, with u = g·√(x + ε)/√(s + ε), s = ema(g²), x = ema(u²) before u

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      decay: ρ, the decay of both averages, s and x, in [0, 1).
      eps: ε, added inside both square roots, 0 or more. √ε sets the scale of the first steps, as x starts at 0.

    Source: Zeiler 2012, arXiv 1212.5701.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.adadelta(decay=0.75, eps=0.01)
    >>> tx.update(jnp.array([30.0, -4.0]), tx.init(jnp.zeros(2)))[0].round(3)
    Array([-0.2,  0.2], dtype=float32)
    """
    divided = precondition(identity(), rms(decay, corrected=False), eps, eps_in_sqrt=True)
    return chain(divided, scale_by_own_rms(decay, eps), scale_by_learning_rate(learning_rate))
