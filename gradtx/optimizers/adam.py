"""Adam and its variants."""

from gradtx.combinators import (
    add,
    atan2_precondition,
    blend,
    chain,
    clipped_precondition,
    momentum,
    multiply,
    precondition,
    rms,
)
from gradtx.combinators.averages import average
from gradtx.core import Positive, Transformation, scalar
from gradtx.core.arguments import checked
from gradtx.pieces import (
    abs,
    adabound_clip,
    add_constant,
    add_momentum,
    add_weight_decay,
    adopt_clip,
    bias_correction,
    decayed_max,
    delay,
    difference,
    identity,
    lower_bound,
    nesterov_ema,
    power,
    rectify,
    running_max,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    sigmoid,
    sqrt,
    square,
    yogi_average,
)
from gradtx.typing import ScalarOrSchedule, Where


@checked
def adam(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_in_sqrt: bool = False,
    corrected: bool = True,
) -> Transformation:
    """Adam: adaptive moment estimation (Kingma and Ba, 2015).

    w ← w − η·m̂/(√ŝ + ε), with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    The first step is about η in every coordinate, whatever the scale of its gradient. PyTorch adds ε after the bias
    correction, as here; Keras adds it before.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient.
      eps_in_sqrt: If True, add ε inside the square root instead. ε is then in squared units, and the denominator is √(ŝ
        + ε).
      corrected: If True, correct both averages for their start at 0: divide them by 1 − β₁ᵗ and 1 − β₂ᵗ.

    Source: Kingma and Ba 2015, arXiv 1412.6980, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.adam(1.0)
    >>> tx.update(jnp.array([4.0, -0.02]), tx.init(jnp.zeros(2)))[0].round(4)
    Array([-1.,  1.], dtype=float32)
    """
    divided = precondition(momentum(b1, corrected), by=rms(b2, corrected), eps=eps, eps_in_sqrt=eps_in_sqrt)
    return chain(divided, scale_by_learning_rate(learning_rate))


@checked
def adamw(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
) -> Transformation:
    """AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    w ← w − η·(m̂/(√ŝ + ε) + λ·w), with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. For one that is
        not, use `independent_decay(adam(rate), weight_decay)`. Optax's default is 1e-4.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> params = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
    >>> tx, gradients = gx.adamw(1.0, weight_decay=0.5, where="*kernel"), params
    >>> tx.update(gradients, tx.init(params), params)[0]
    {'bias': Array([-1., -1.], dtype=float32), 'kernel': Array([[-1.5, -1.5]], dtype=float32)}
    """
    divided = precondition(momentum(b1), by=rms(b2), eps=eps)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def adam_atan2(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    scale: ScalarOrSchedule = 1.27,
    width: ScalarOrSchedule = 1.0,
) -> Transformation:
    """Adam-atan2: Adam without ε, with an angle in place of the quotient (Everett et al., 2024).

    w ← w − η·(a·atan2(m̂, b·√ŝ) + λ·w), with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    Multiplying all gradients by any factor leaves the steps as they are. A coordinate of a step is at most η·a·π/2.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      scale: a, the factor of the angle, above 0. With the default, the first step is about η in every coordinate.
      width: b, the factor of √ŝ, above 0.

    Source: Everett et al. 2024, arXiv 2407.05872.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.adam_atan2(1.0), jnp.zeros(2)
    >>> tx.update(jnp.array([4.0, -1e-15]), tx.init(params), params)[0].round(2)
    Array([-1.,  1.], dtype=float32)
    """
    angle = atan2_precondition(momentum(b1), by=rms(b2), scale=scale, width=width)
    return chain(angle, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def adamax(
    learning_rate: ScalarOrSchedule = 2e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
) -> Transformation:
    """AdaMax: Adam with a decayed maximum as the denominator (Kingma and Ba, 2015).

    w ← w − η·m̂/s, with m̂ = ema(g)/(1 − β₁ᵗ), s ← max(β₂·s, |g| + ε)

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the maximum of absolute gradients, in [0, 1).
      eps: ε, added to |g| before the maximum, 0 or more. In units of the gradient.

    Source: Kingma and Ba 2015, arXiv 1412.6980, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.adamax(1.0, b1=0.0, b2=0.5)
    >>> gradients, start = jnp.array([4.0, 1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-1. , -0.5, -1. ], dtype=float32)
    """
    size = chain(abs(), add_constant(eps), decayed_max(b2))
    return chain(precondition(momentum(b1), by=size, eps=0.0), scale_by_learning_rate(learning_rate))


@checked
def adamaxw(
    learning_rate: ScalarOrSchedule = 2e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
) -> Transformation:
    """AdaMaxW: AdaMax with decoupled weight decay (Kingma and Ba, 2015; Loshchilov and Hutter, 2019).

    w ← w − η·(m̂/s + λ·w), with m̂ = ema(g)/(1 − β₁ᵗ), s ← max(β₂·s, |g| + ε)

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the maximum of absolute gradients, in [0, 1).
      eps: ε, added to |g| before the maximum, 0 or more. In units of the gradient.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. Optax's default is
        1e-4.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Kingma and Ba 2015, arXiv 1412.6980; Loshchilov and Hutter 2019, arXiv 1711.05101.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, w = gx.adamaxw(1.0, weight_decay=0.5), jnp.array([1.0, 2.0])
    >>> tx.update(jnp.array([4.0, 0.0]), tx.init(w), w)[0].round(4)
    Array([-1.5, -1. ], dtype=float32)
    """
    divided = precondition(momentum(b1), by=chain(abs(), add_constant(eps), decayed_max(b2)), eps=0.0)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def nadam(
    learning_rate: ScalarOrSchedule = 2e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    warmup: bool = False,
    warmup_rate: ScalarOrSchedule = 0.004,
) -> Transformation:
    """NAdam: Adam with Nesterov momentum (Dozat, 2016).

    w ← w − η·n/(√ŝ + ε), with n = β₁·m/(1 − β₁ᵗ⁺¹) + (1−β₁)·g/(1 − β₁ᵗ), m = ema(g), ŝ = ema(g²)/(1 − β₂ᵗ)

    This is Optax's form, with a constant β₁. PyTorch and Keras warm β₁ up, as the paper does (`warmup`).

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient.
      warmup: If True, replace β₁ in n by μₜ = β₁·(1 − ½·0.96^(ψ·t)), as in the paper: n = μₜ₊₁·m/(1 − μ₁⋯μₜ₊₁) +
        (1−μₜ)·g/(1 − μ₁⋯μₜ). The average m still decays by β₁, as in PyTorch and Keras.
      warmup_rate: ψ, the speed of the warm-up per step, 0 or more. It has no effect unless `warmup` is True.

    Source: Dozat 2016.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.nadam(1.0, b1=0.5)
    >>> gradients, start = jnp.array([4.0, -2.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-1.3333,  0.4217], dtype=float32)
    """
    direction = nesterov_ema(b1, warmup, warmup_rate)
    return chain(precondition(direction, by=rms(b2), eps=eps), scale_by_learning_rate(learning_rate))


@checked
def nadamw(
    learning_rate: ScalarOrSchedule = 2e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
    warmup: bool = False,
    warmup_rate: ScalarOrSchedule = 0.004,
) -> Transformation:
    """NAdamW: NAdam with decoupled weight decay (Dozat, 2016; Loshchilov and Hutter, 2019).

    w ← w − η·(n/(√ŝ + ε) + λ·w), with n = β₁·m/(1 − β₁ᵗ⁺¹) + (1−β₁)·g/(1 − β₁ᵗ), m = ema(g), ŝ = ema(g²)/(1 − β₂ᵗ)

    This is Optax's form, with a constant β₁. PyTorch and Keras warm β₁ up, as the paper does (`warmup`).

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. Optax's default is
        1e-4.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      warmup: If True, replace β₁ in n by μₜ = β₁·(1 − ½·0.96^(ψ·t)), as in the paper: n = μₜ₊₁·m/(1 − μ₁⋯μₜ₊₁) +
        (1−μₜ)·g/(1 − μ₁⋯μₜ). The average m still decays by β₁, as in PyTorch and Keras.
      warmup_rate: ψ, the speed of the warm-up per step, 0 or more. It has no effect unless `warmup` is True.

    Source: Dozat 2016; Loshchilov and Hutter 2019, arXiv 1711.05101.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, w = gx.nadamw(1.0, b1=0.0, weight_decay=0.5), jnp.array([1.0, 2.0])
    >>> tx.update(jnp.array([4.0, 0.0]), tx.init(w), w)[0].round(4)
    Array([-1.5, -1. ], dtype=float32)
    """
    divided = precondition(nesterov_ema(b1, warmup, warmup_rate), by=rms(b2), eps=eps)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def radam(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    threshold: ScalarOrSchedule = 5.0,
) -> Transformation:
    """RAdam: rectified Adam (Liu et al., 2020).

    w ← w − η·r·m̂/(√ŝ + ε) if ρ > ρ₀, else w ← w − η·m̂, with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    The factor r = √((ρ − 4)(ρ − 2)·n/((n − 4)(n − 2)·ρ)) shortens the steps while ŝ averages few squares, and until it
    averages enough the step is momentum. ρ = n − 2·t·β₂ᵗ/(1 − β₂ᵗ) is the number of steps over which a simple moving
    average has the same average age as ŝ; it grows from 1 at the first update to n = 2/(1 − β₂) − 1.

    This is Optax's form; PyTorch adds ε before the bias correction.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient; without effect while the step is momentum.
      threshold: ρ₀, at least 4, because 1/√ŝ has no finite variance below; smaller values count as 4. The paper uses 4,
        its code and other libraries 5.

    Source: Liu et al. 2020, arXiv 1908.03265, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.radam(1.0)
    >>> gradients, start = jnp.full(6, 4.0), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-4.    , -4.    , -4.    , -4.    , -4.    , -0.0258], dtype=float32)
    """
    size = chain(rms(b2), add_constant(eps), rectify(b2, threshold))
    return chain(precondition(momentum(b1), by=size, eps=0.0), scale_by_learning_rate(learning_rate))


@checked
def amsgrad(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    correct_first: bool = True,
) -> Transformation:
    """AMSGrad: Adam with the largest average of squared gradients so far (Reddi, Kale and Kumar, 2018).

    w ← w − η·m̂/(√max ŝ + ε), with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ), max over all steps so far

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient.
      correct_first: If True, take the maximum of the corrected averages ŝ, as in Optax. If False, take the maximum of
        the averages and then correct it, as in PyTorch.

    Source: Reddi, Kale and Kumar 2018, arXiv 1904.09237, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.amsgrad(1.0, b1=0.0, b2=0.5)
    >>> gradients, start = jnp.array([4.0, 1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-1.  , -0.25, -0.25], dtype=float32)
    """
    largest = (bias_correction(b2), running_max()) if correct_first else (running_max(), bias_correction(b2))
    size = chain(square(), scale_by_ema(b2), *largest, sqrt())
    return chain(precondition(momentum(b1), by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def laprop(
    learning_rate: ScalarOrSchedule = 4e-4,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-15,
) -> Transformation:
    """LaProp: momentum of normalised gradients (Ziyin, Wang and Ueda, 2020).

    w ← w − η·ema(g/(√ŝ + ε))/(1 − β₁ᵗ), with ŝ = ema(g²)/(1 − β₂ᵗ)

    LaProp applies the pieces of Adam in the other order: it divides each gradient first and averages the quotients.
    Under a schedule, the current learning rate multiplies the whole average; in the authors' code, each quotient in the
    average keeps the learning rate of its own step.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of the quotients g/(√ŝ + ε), in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient.

    Source: Ziyin, Wang and Ueda 2020, arXiv 2002.04839, algorithm 1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.laprop(1.0, b1=0.5, b2=0.5)
    >>> gradients, start = jnp.array([4.0, -2.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-1.    ,  0.1381], dtype=float32)
    """
    return chain(precondition(identity(), by=rms(b2), eps=eps), momentum(b1), scale_by_learning_rate(learning_rate))


@checked
def adabelief(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-16,
    eps_in_average: ScalarOrSchedule = 1e-13,
) -> Transformation:
    """AdaBelief: Adam that divides by the deviation of the gradients from their average (Zhuang et al., 2020).

    w ← w − η·m̂/(√ŝ + ε), with m = ema(g), m̂ = m/(1 − β₁ᵗ), ŝ = ema((g − m)² + ε')/(1 − β₂ᵗ)

    The paper, its code and Optax add an ε to the average itself at every step, and then correct the average for its
    start at 0. That amounts to a constant ε/(1 − β₂) under the square root, which is ε' here.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared deviations, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient.
      eps_in_average: ε', added to the squared deviations, 0 or more. In squared units of the gradient. The default
        corresponds to the 1e-16 of the paper, its code and Optax at β₂ = 0.999.

    Source: Zhuang et al. 2020, arXiv 2010.07468, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.adabelief(1.0)
    >>> gradients, start = jnp.array([4.0, -2.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-1.1111, -0.2837], dtype=float32)
    """
    size = chain(square(), add_constant(eps_in_average), scale_by_ema(b2), bias_correction(b2), sqrt())
    divided = precondition(scale_by_ema(b1), by=size, eps=eps, centered=True)
    return chain(divided, bias_correction(b1), scale_by_learning_rate(learning_rate))


@checked
def yogi(
    learning_rate: ScalarOrSchedule = 1e-2,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-3,
    initial_value: ScalarOrSchedule = 1e-6,
    corrected: bool = True,
) -> Transformation:
    """Yogi: Adam with an additively updated average of squared gradients (Zaheer et al., 2018).

    w ← w − η·m̂/(√ŝ + ε), with m̂ = ema(g)/(1 − β₁ᵗ), s ← s − (1−β₂)·sign(s − g²)·g², ŝ = s/(1 − β₂ᵗ)

    Both averages are divided by 1 − βᵗ, as in Optax and TensorFlow; in the paper neither is.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1). Each step moves s by (1−β₂)·g².
      eps: ε, added to the denominator, 0 or more. In units of the gradient.
      initial_value: s before the first update, 0 or more. In squared units of the gradient. Optax also starts the
        average of gradients at this value.
      corrected: If True, divide the averages by 1 − β₁ᵗ and 1 − β₂ᵗ; False is the paper's form.

    Source: Zaheer et al. 2018, Adaptive methods for nonconvex optimization, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.yogi(1.0, b1=0.0, b2=0.5, eps=0.0)
    >>> gradients, start = jnp.array([4.0, 1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-1.    , -0.3162, -0.3536], dtype=float32)
    """
    size = chain(square(), yogi_average(b2, initial_value), *((bias_correction(b2),) if corrected else ()), sqrt())
    return chain(precondition(momentum(b1, corrected), by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def stable_adamw(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.99,
    eps: ScalarOrSchedule = 1e-6,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
) -> Transformation:
    """StableAdamW: AdamW with update clipping (Wortsman et al., 2023).

    w ← w − η/k·(m̂/(√ŝ + ε) + λ·w), with k = max(1, rms(g/max(√ŝ, ε))), m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    rms is the root mean square over a leaf, so k is one number for each leaf. It exceeds 1 when gradients grow faster
    than the average of their squares. The weight decay is divided by k too, as with a smaller learning rate.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient. In k it is the lower bound of √ŝ instead.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Wortsman et al. 2023, arXiv 2304.13013, algorithm 2; the clipping is by Shazeer and Stern 2018, arXiv
    1804.04235.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, w = gx.stable_adamw(1.0, b1=0.0, weight_decay=0.0), jnp.zeros(())
    >>> gradients = jnp.array([1.0, 1.0, 10.0])
    >>> jax.lax.scan(lambda state, g: tx.update(g, state, w)[::-1], tx.init(w), gradients)[1].round(4)
    Array([-1., -1., -1.], dtype=float32)
    """
    clipped = clipped_precondition(momentum(b1), by=rms(b2), then=add_weight_decay(weight_decay, where), eps=eps)
    return chain(clipped, scale_by_learning_rate(learning_rate))


@checked
def adopt(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.9999,
    eps: ScalarOrSchedule = 1e-6,
    clip_power: ScalarOrSchedule = 0.25,
) -> Transformation:
    """ADOPT: Adam with the denominator of the previous step (Taniguchi et al., 2024).

    w ← w − η·ema(clip(g/max(√s₋₁, ε), ±(t−1)ᵖ)), with s₋₁ = ema(g²) up to the previous step, from the first g²

    The denominator does not depend on the gradient that it divides, so the method converges for any β₂. The first
    gradient only starts the denominator and makes no step.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of the clipped quotients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, the lower bound of the denominator, 0 or more. In units of the gradient.
      clip_power: p, the power of the bound (t−1)ᵖ on the quotients, above 0. The paper uses ¼.

    Source: Taniguchi et al. 2024, arXiv 2411.02853, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.adopt(1.0, b1=0.0)
    >>> gradients, start = jnp.array([4.0, -2.0, 2.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-0. ,  0.5, -0.5], dtype=float32)
    """
    size = chain(square(), scale_by_ema(b2, from_first=True, before=True), sqrt(), lower_bound(eps))
    clipped = chain(precondition(identity(), by=size, eps=0.0), adopt_clip(clip_power))
    return chain(clipped, scale_by_ema(b1), scale_by_learning_rate(learning_rate))


@checked
def adamc(
    learning_rate: ScalarOrSchedule = 1e-3,
    peak: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
) -> Transformation:
    """AdamC: AdamW with a corrected weight decay (Defazio, 2025).

    w ← w − η·m̂/(√ŝ + ε) − (η²/peak)·λ·w, with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    With a constant η = peak this is AdamW. Use AdamW itself for layers that are not followed by normalisation.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      peak: The largest learning rate of the schedule, above 0.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by η²/peak.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Defazio 2025, arXiv 2506.02285.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, w = gx.adamc(0.5, peak=1.0, weight_decay=1.0), jnp.array([1.0, 2.0])
    >>> tx.update(jnp.array([0.0, 0.0]), tx.init(w), w)[0].round(4)
    Array([-0.25, -0.5 ], dtype=float32)
    """
    adam, rate = precondition(momentum(b1), by=rms(b2), eps=eps), scale_by_learning_rate(learning_rate)
    share = scalar("adamc: weight_decay", weight_decay) / scalar("adamc: peak", peak, Positive)
    decay = chain(scale(0.0), add_weight_decay(share, where), rate, scale(-1.0))
    return chain(add(adam, decay), rate)


@checked
def qhadam(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.995,
    b2: ScalarOrSchedule = 0.999,
    weight1: ScalarOrSchedule = 0.7,
    weight2: ScalarOrSchedule = 1.0,
    eps: ScalarOrSchedule = 1e-8,
) -> Transformation:
    """QHAdam: Adam with quasi-hyperbolic averages (Ma and Yarats, 2019).

    w ← w − η·(ν₁·m̂ + (1−ν₁)·g)/(√(ν₂·ŝ + (1−ν₂)·g²) + ε), with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      weight1: ν₁, the weight of the average of gradients in the direction: 1 is Adam's direction, 0 the gradient.
      weight2: ν₂, the weight of the average of squared gradients in the denominator: 1 is Adam's denominator, 0 is |g|.
      eps: ε, added to the denominator, 0 or more. In units of the gradient.

    Source: Ma and Yarats 2019, arXiv 1810.06801, section 4.3.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.qhadam(1.0)
    >>> gradients, start = jnp.array([4.0, -2.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-1.  , -0.03], dtype=float32)
    """
    direction, size = blend(momentum(b1), weight1), chain(square(), blend(average(b2), weight2), sqrt())
    return chain(precondition(direction, by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def optimistic_adam(
    learning_rate: ScalarOrSchedule = 1e-3,
    optimism: ScalarOrSchedule = 1.0,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
) -> Transformation:
    """Optimistic Adam: Adam that extrapolates its updates (Daskalakis et al., 2018).

    w ← w + u + β·(u − u₋₁), with u = −η·m̂/(√ŝ + ε), m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    u₋₁ is Adam's previous update u; at the first step it equals u.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      optimism: β, the weight of the change u − u₋₁; 0 is Adam.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient.

    Source: Daskalakis et al. 2018, arXiv 1711.00141, algorithm 1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.optimistic_adam(1.0, b1=0.0, b2=0.0)
    >>> gradients, start = jnp.array([4.0, -2.0, -1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-1.,  3.,  1.], dtype=float32)
    """
    return chain(adam(learning_rate, b1, b2, eps), add(identity(), chain(difference(from_first=True), scale(optimism))))


@checked
def ademamix(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 6.0,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
) -> Transformation:
    """AdEMAMix: AdamW with a second, slow average of gradients (Pagliardini, Ablin and Grangier, 2024).

    w ← w − η·((m̂ + α·l)/(√ŝ + ε) + λ·w), with l ← β₃·l + (1−β₃)·g, m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    The slow average l is not corrected for its start at 0. The paper warms β₃ and α up: pass schedules.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      b3: β₃, the decay of the slow average of gradients, in [0, 1).
      alpha: α, the weight of the slow average; 0 is AdamW. Optax's default is 5.
      eps: ε, added to the denominator, 0 or more. In units of the gradient.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Pagliardini, Ablin and Grangier 2024, arXiv 2409.03137, algorithm 1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, w = gx.ademamix(1.0, b3=0.5, alpha=4.0), jnp.zeros(())
    >>> gradients = jnp.array([4.0, 4.0, 4.0])
    >>> jax.lax.scan(lambda state, g: tx.update(g, state, w)[::-1], tx.init(w), gradients)[1].round(4)
    Array([-3. , -4. , -4.5], dtype=float32)
    """
    direction = add(momentum(b1), chain(scale_by_ema(b3), scale(alpha)))
    divided = precondition(direction, by=rms(b2), eps=eps)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def adan(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.98,
    b2: ScalarOrSchedule = 0.92,
    b3: ScalarOrSchedule = 0.99,
    gain: ScalarOrSchedule = 0.92,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
) -> Transformation:
    """Adan: adaptive Nesterov momentum (Xie et al., 2022).

    w ← w − η·((m̂ + γ·d̂)/(√ŝ + ε) + λ·w), with m = ema(g), d = ema(g − g₋₁), s = ema((g + γ·(g − g₋₁))²)

    All three averages are corrected for their start at 0, as in the published code: m̂ = m/(1 − β₁ᵗ), d̂ = d/(1 − β₂ᵗ)
    and ŝ = s/(1 − β₃ᵗ). The first difference g − g₋₁ is 0.

    The decays β₁, β₂ and β₃ are 1 minus the paper's. The paper divides w by 1 + λ·η where this function subtracts
    η·λ·w.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of gradient differences, in [0, 1).
      b3: β₃, the decay of the average of squares of g + γ·(g − g₋₁), in [0, 1).
      gain: γ, the weight of the gradient difference. The paper and its code use the β₂ given here, Optax 1 − β₂.
      eps: ε, added to the denominator, 0 or more. In units of the gradient.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Xie et al. 2022, arXiv 2208.06677, algorithm 1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, w = gx.adan(1.0), jnp.zeros(())
    >>> gradients = jnp.array([4.0, -2.0])
    >>> jax.lax.scan(lambda state, g: tx.update(g, state, w)[::-1], tx.init(w), gradients)[1].round(4)
    Array([-1.    ,  0.3159], dtype=float32)
    """
    change = difference(from_first=True)
    size = chain(add(identity(), chain(change, scale(gain))), rms(b3))
    divided = precondition(add(momentum(b1), chain(change, momentum(b2), scale(gain))), by=size, eps=eps)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def padam(
    learning_rate: ScalarOrSchedule = 1e-1,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    exponent: ScalarOrSchedule = 0.125,
) -> Transformation:
    """Padam: partially adaptive momentum (Chen et al., 2018).

    w ← w − η·m̂/((max ŝ)ᵖ + ε), with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ), max over all steps so far

    Padam lies between momentum, at p = 0, and AMSGrad, at p = ½. Both averages are corrected for their start at 0, as
    in AMSGrad here; in the paper neither is.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient to the power 2·p.
      exponent: p, the power of the largest average of squared gradients, 0 or more; 0 is momentum, ½ is AMSGrad.

    Source: Chen et al. 2018, arXiv 1806.06763, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.padam(1.0)
    >>> tx.update(jnp.array([16.0, -1.0]), tx.init(jnp.zeros(2)))[0].round(4)
    Array([-8.,  1.], dtype=float32)
    """
    size = chain(square(), scale_by_ema(b2), bias_correction(b2), running_max(), power(exponent))
    return chain(precondition(momentum(b1), by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def diffgrad(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
) -> Transformation:
    """DiffGrad: Adam with smaller steps where the gradient changes little (Dubey et al., 2019).

    w ← w − η·σ(|g − g₋₁|)·m̂/(√ŝ + ε), with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    σ is the sigmoid, so the factor is ½ where the gradient does not change and approaches 1 where it changes much. At
    the first step g₋₁ is 0.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient.

    Source: Dubey et al. 2019, arXiv 1909.11015.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.diffgrad(1.0)
    >>> gradients, start = jnp.array([4.0, 4.0, 4.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-0.982, -0.5  , -0.5  ], dtype=float32)
    """
    friction = chain(difference(), abs(), sigmoid())
    direction = multiply(momentum(b1), friction)
    return chain(precondition(direction, by=rms(b2), eps=eps), scale_by_learning_rate(learning_rate))


@checked
def adabound(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    final_size: ScalarOrSchedule = 1e-2,
    speed: ScalarOrSchedule = 1e-3,
) -> Transformation:
    """AdaBound: Adam whose denominator is bounded ever more tightly (Luo et al., 2019).

    w ← w − η·m̂/min(max(√ŝ + ε, c·r), c/r), with r = γ·t/(γ·t + 1), m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    AdaBound starts as Adam and ends as momentum with the learning rate η/c: c is the denominator that all coordinates
    reach, where the paper sets the final learning rate. The paper also multiplies the learning rate by 1/√t: pass a
    schedule for that. The averages of the paper are not corrected for their start at 0.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient. It is added before the bounds.
      final_size: c, the final denominator of all coordinates, above 0. In units of the gradient.
      speed: γ, the speed at which the bounds close, per step, above 0.

    Source: Luo et al. 2019, arXiv 1902.09843, algorithm 2, with the bounds of its published code.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.adabound(0.5, final_size=1.0, speed=1.0)
    >>> gradients, start = jnp.full(3, 4.0), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-1.    , -1.3333, -1.5   ], dtype=float32)
    """
    size = chain(rms(b2), add_constant(eps), adabound_clip(final_size, speed))
    return chain(precondition(momentum(b1), by=size, eps=0.0), scale_by_learning_rate(learning_rate))


@checked
def acprop(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-16,
    eps_in_average: ScalarOrSchedule = 1e-13,
) -> Transformation:
    """ACProp: gradients divided by their previous deviation from the average (Zhuang et al., 2021).

    w ← w − η·g/(√ŝ₋₁ + ε), with m = ema(g), ŝ = ema((g − m)² + ε')/(1 − β₂ᵗ) up to the previous step

    The first step has no previous deviation and is divided by its own: it is at most η/β₁ in every coordinate, whatever
    the scale of its gradient. Optax divides it by 1, so that it is as large as the gradient, and uses g − m₋₁ in place
    of g − m.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared deviations, in [0, 1).
      eps: ε, added to the denominator, 0 or more. In units of the gradient.
      eps_in_average: ε', added to the squared deviations, 0 or more. In squared units of the gradient. The paper adds
        an ε to the average itself at every step, which amounts to ε' = ε/(1 − β₂): the default is 1e-16 at β₂ = 0.999.

    Source: Zhuang et al. 2021, arXiv 2110.05454, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.acprop(1.0)
    >>> gradients, start = jnp.array([4.0, -2.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-1.1111,  0.5556, -0.3369], dtype=float32)
    """
    away = add(identity(), chain(scale_by_ema(b1), scale(-1.0)))
    average = chain(square(), add_constant(eps_in_average), scale_by_ema(b2), bias_correction(b2))
    size = chain(away, average, delay(from_first=True), sqrt())
    return chain(precondition(identity(), by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def simplified_ademamix(
    learning_rate: ScalarOrSchedule = 1e-5,
    b1: ScalarOrSchedule = 0.99,
    b2: ScalarOrSchedule = 0.95,
    alpha: ScalarOrSchedule = 0.0,
    eps: ScalarOrSchedule = 1e-8,
) -> Transformation:
    """Simplified AdEMAMix: Adam with heavy-ball momentum and an extra gradient term (Morwani et al., 2025).

    w ← w − η·(v + α·g)/(√ŝ + ε), with v ← β₁·v + g, ŝ = ema(g²)/(1 − β₂ᵗ)

    The momentum v replaces the two averages of AdEMAMix. It is a sum, so the learning rate should be about 1 − β₁ times
    Adam's.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the sum of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      alpha: α, the weight of the gradient in the direction; 0 is the sum alone.
      eps: ε, added to the denominator, 0 or more. In units of the gradient.

    Source: Morwani et al. 2025, arXiv 2502.02431.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.simplified_ademamix(1.0, b1=0.5)
    >>> gradients, start = jnp.array([4.0, 4.0, 4.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([-1.  , -1.5 , -1.75], dtype=float32)
    """
    direction = add(add_momentum(b1), scale(alpha))
    return chain(precondition(direction, by=rms(b2), eps=eps), scale_by_learning_rate(learning_rate))
