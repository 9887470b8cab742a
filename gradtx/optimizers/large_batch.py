"""Optimizers whose step of each layer depends on the norm of its weights, as those for large batches."""

from gradtx.combinators import chain, momentum, precondition, project_if_orthogonal, rms
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.pieces import (
    add_momentum,
    add_weight_decay,
    fromage_rescale,
    scale,
    scale_by_learning_rate,
    trust_ratio,
)
from gradtx.projections import initial_norm
from gradtx.typing import ScalarOrSchedule, TransformationLike, Where
from gradtx.wrappers import projected


@checked
def lars(
    learning_rate: ScalarOrSchedule = 1.0,
    momentum: ScalarOrSchedule = 0.9,
    nesterov: bool = False,
    weight_decay: ScalarOrSchedule = 5e-4,
    where: Where = None,
    coefficient: ScalarOrSchedule = 1e-3,
) -> Transformation:
    """LARS: momentum with a trust ratio for each layer, for large batches (You, Gitman and Ginsburg, 2017).

    w ← w − v, with v ← β·v + η·r·(g + λ·w), r = c·‖w‖/(‖g‖ + λ·‖w‖) in each leaf

    r is 1 in a leaf where w or g is 0. The learning rate is inside the momentum, and ‖g‖ and λ·‖w‖ are added, as in the
    paper and TensorFlow; Optax takes ‖g + λ·w‖ instead of the sum.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      momentum: β, the decay of the momentum, in [0, 1).
      nesterov: If True, use Nesterov's form of momentum.
      weight_decay: λ, the weight decay, 0 or more; it is added to the gradient before the ratio scales both. Optax's
        default is 0.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
        The ratio scales all parameters, with λ = 0 where they do not decay.
      coefficient: c, the trust coefficient, above 0: the norm of a step as a fraction of ‖w‖ at η = 1, without momentum
        and decay.

    Source: You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.lars(weight_decay=0.0, coefficient=0.5), jnp.array([0.0, 10.0])
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)[0]
    Array([-3., -4.], dtype=float32)
    """
    layers = trust_ratio(coefficient, weight_decay=weight_decay, where=where)
    return chain(layers, scale_by_learning_rate(learning_rate), add_momentum(momentum, nesterov))


@checked
def lamb(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-6,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
) -> Transformation:
    """LAMB: AdamW with a trust ratio for each layer, for large batches (You et al., 2020).

    w ← w − η·(‖w‖/‖u‖)·u in each leaf, with u = m̂/(√ŝ + ε) + λ·w, m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    The ratio ‖w‖/‖u‖ is 1 in a leaf where w or u is 0. The paper's φ(‖w‖) is ‖w‖ here, as in its experiments, and the
    averages are corrected for their start at 0. To bound ‖w‖, build the optimizer with `trust_ratio(bounds=…)`.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It is the norm of a step
        as a fraction of ‖w‖.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. The trust ratio
        scales it too. Optax's default is 0.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: You et al. 2020, arXiv 1904.00962, algorithm 2.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.lamb(0.5, weight_decay=0.0), jnp.array([3.0, 3.0])
    >>> tx.update(jnp.array([0.1, -7.0]), tx.init(params), params)[0].round(1)
    Array([-1.5,  1.5], dtype=float32)
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    decay = add_weight_decay(weight_decay, where)
    return chain(adam, decay, trust_ratio(), scale_by_learning_rate(learning_rate))


@checked
def fromage(learning_rate: ScalarOrSchedule = 1e-2) -> Transformation:
    """Fromage: steps relative to each layer's norm, which do not make it grow (Bernstein et al., 2020).

    w ← (w − η·(‖w‖/‖g‖)·g)/√(1 + η²) in each leaf

    The ratio is 1 in a leaf where w or g is 0, as in the authors' code; Optax raises both norms to at least 1e-6
    instead.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It is the norm of a step
        as a fraction of ‖w‖.

    Source: Bernstein et al. 2020, arXiv 2002.03432, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.fromage(0.75), jnp.array([4.0, 0.0])
    >>> params + tx.update(jnp.array([0.0, -1.0]), tx.init(params), params)[0]  # the norm is 4 again
    Array([3.2, 2.4], dtype=float32)
    """
    return chain(trust_ratio(), scale_by_learning_rate(learning_rate), fromage_rescale(learning_rate))


@checked
def sgdp(
    learning_rate: ScalarOrSchedule = 1e-1,
    momentum: ScalarOrSchedule = 0.9,
    nesterov: bool = False,
    threshold: ScalarOrSchedule = 0.1,
) -> Transformation:
    """SGDP: momentum projected off the weights whose scale does not matter (Heo et al., 2021).

    w ← w − η·Π(v), with v ← β·v + g, Π(v) = v − ŵ·⟨ŵ, v⟩ where |cos(g, w)| < δ/√n, else v, ŵ = w/‖w‖

    A weight before a normalization has a gradient orthogonal to it, and momentum makes its norm grow. The projection Π
    prevents this. It acts on each channel, the n weights of an output, if the condition holds for all channels; else on
    the leaf as a whole, of n weights, if the condition holds for that. Leaves of fewer than two axes are not projected.

    There is no weight decay. In the authors' code, weights that Π projects decay by a tenth of the weight decay.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      momentum: β, the decay of the momentum, in [0, 1).
      nesterov: If True, use Nesterov's form of momentum.
      threshold: δ, above 0: the cosine, times √n, below which gradient and weight count as orthogonal.

    Raises:
      ValueError: The axes of a leaf are in doubt: declare them with `layout`.

    Source: Heo et al. 2021, arXiv 2006.08217, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.sgdp(1.0, momentum=0.5), jnp.array([[3.0], [4.0]])
    >>> _, state = tx.update(jnp.array([[5.0], [0.0]]), tx.init(params), params)  # not orthogonal: v = g
    >>> tx.update(jnp.array([[4.0], [-3.0]]), state, params)[0].round(2).T  # orthogonal: v loses its part along w
    Array([[-5.6,  4.2]], dtype=float32)
    """
    projected = project_if_orthogonal(add_momentum(momentum, nesterov), threshold)
    return chain(projected, scale_by_learning_rate(learning_rate))


@checked
def adamp(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    threshold: ScalarOrSchedule = 0.1,
) -> Transformation:
    """AdamP: Adam projected off the weights whose scale does not matter (Heo et al., 2021).

    w ← w − η·Π(m̂/(√ŝ + ε)), with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    A weight before a normalization has a gradient orthogonal to it, and momentum makes its norm grow. The projection Π
    prevents this: Π(u) = u − ŵ·⟨ŵ, u⟩ with ŵ = w/‖w‖ where |cos(g, w)| < δ/√n, else u. It acts on each channel, the n
    weights of an output, if the condition holds for all channels; else on the leaf as a whole, of n weights, if the
    condition holds for that. Leaves of fewer than two axes are not projected.

    There is no weight decay. In the authors' code, weights that Π projects decay by a tenth of the weight decay.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      threshold: δ, above 0: the cosine, times √n, below which gradient and weight count as orthogonal.

    Raises:
      ValueError: The axes of a leaf are in doubt: declare them with `layout`.

    Source: Heo et al. 2021, arXiv 2006.08217, algorithm 2.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.adamp(1.0), jnp.array([[3.0], [4.0]])
    >>> u, _ = tx.update(jnp.array([[4.0], [-3.0]]), tx.init(params), params)
    >>> bool(abs((u * params).sum()) < 1e-5)  # orthogonal to the weights; Adam's (-1, 1) is not
    True
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    return chain(project_if_orthogonal(adam, threshold), scale_by_learning_rate(learning_rate))


@checked
def hyperball(inner: TransformationLike, learning_rate: ScalarOrSchedule = 1e-2) -> Transformation:
    """Hyperball: steps and weights of fixed norms, for any optimizer (Wen et al., 2026).

    w ← r·p/‖p‖, with p = w + η·r·a(g)/‖a(g)‖, r = ‖w₀‖ of each leaf

    a(g) is the update of the inner optimizer, and r the norm of the parameter at the start. So η alone is the norm of a
    step as a fraction of the norm of the weights, and weight decay has nothing to do. Every update needs `params`.

    The authors apply it to the linear maps of a network, and Adam to all other parameters. A parameter that is 0 at the
    start stays 0: `partition({is_linear: hyperball(adam())}, default=adam(1e-3))`.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. A constant
        learning rate inside has no effect.
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It is a fraction of the
        norm of the parameter.

    Source: Wen et al. 2026, arXiv 2606.16899.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.hyperball(gx.adam(), 0.75), jnp.array([4.0, 0.0])
    >>> u, state = tx.update(jnp.array([0.0, -5.0]), tx.init(params), params)
    >>> params + u  # (4, 3), at the norm 4 of the start
    Array([3.2, 2.4], dtype=float32)
    """
    step = chain(inner, scale(-1.0), initial_norm(), scale_by_learning_rate(learning_rate))
    return projected(step, initial_norm())
