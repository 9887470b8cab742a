"""Optimizers that average their iterates."""

from gradtx import schedules
from gradtx.combinators import chain, scale_by_rms
from gradtx.core import Transformation, scalar
from gradtx.core.arguments import checked
from gradtx.optimizers.adam import radam
from gradtx.pieces import add_momentum, add_weight_decay, centralize, scale_by_learning_rate
from gradtx.typing import ScalarOrSchedule, TransformationLike, Where
from gradtx.wrappers import average_params, lookahead, schedule_free


@checked
def asgd(
    learning_rate: ScalarOrSchedule = 1e-2,
    weight_decay: ScalarOrSchedule = 1e-4,
    power: ScalarOrSchedule = 0.75,
    start: int = 1,
    where: Where = None,
) -> Transformation:
    """ASGD: SGD with averaged iterates and a falling learning rate (Polyak and Juditsky, 1992).

    w ← w − ηₜ·(g + λ·w), with ηₜ = η/(1 + λ·η·(t−1))ᵖ; the average is the mean of w

    Evaluate the mean of the iterates, which `eval_params` returns; every update needs `params`. PyTorch's `t0` is
    start − 2, and a million by default.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      weight_decay: λ, the weight decay, 0 or more. It is added to the gradient, and sets how fast the learning rate
        falls.
      power: p, the exponent with which the learning rate falls.
      start: The first update after which the parameters are averaged, an integer, 1 or more. PyTorch's default
        corresponds to 1_000_002.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Polyak and Juditsky 1992; with this rate, Bottou 2010, Large-scale machine learning with SGD.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.asgd(1.0, weight_decay=0.0), jnp.array([0.0])
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.array([-1.0]), state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> params, gx.eval_params(tx, state, params)
    (Array([3.], dtype=float32), Array([2.], dtype=float32))
    """
    first, decay = scalar("asgd: learning_rate", learning_rate), scalar("asgd: weight_decay", weight_decay)
    rate = schedules.inverse_time(first, first * decay, power=power)
    return average_params(chain(add_weight_decay(decay, where), scale_by_learning_rate(rate)), 1.0, start)


@checked
def ranger(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.95,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-5,
    every_k: int = 6,
    weight: ScalarOrSchedule = 0.5,
) -> Transformation:
    """Ranger: gradient centralization, then RAdam, wrapped in Lookahead (Wright, 2019).

    w' = w + radam(g − mean(g)), and every k updates s ← s + c·(w' − s), w' = s

    The mean of g is over the inputs of each output. The defaults are the author's. The slow weights s are for
    evaluation, and `eval_params` returns them; every update needs `params`. For weight decay, compose the pieces and
    add `add_weight_decay` inside `lookahead`.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      every_k: k, an integer, 1 or more. The slow weights move every k updates.
      weight: c, above 0 and at most 1: the fraction of the path from s to w' that s moves.

    Source: Wright 2019, Ranger; Zhang et al. 2019, arXiv 1907.08610; Yong et al. 2020, arXiv 2004.01461.

    >>> import gradtx as gx
    >>> gx.ranger() == gx.lookahead(gx.chain(gx.centralize(), gx.radam(1e-3, 0.95, 0.999, 1e-5)), 6, 0.5)
    True
    """
    return lookahead(chain(centralize(), radam(learning_rate, b1, b2, eps)), every_k, weight)


@checked
def schedule_free_adamw(
    learning_rate: ScalarOrSchedule = 2.5e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
) -> Transformation:
    """Schedule-Free AdamW: AdamW with iterate averaging in place of momentum and a schedule (Defazio et al., 2024).

    z ← z − η·(g/(√ŝ + ε) + λ·w), x ← x + c·(z − x), w ← z + β₁·(x − z), with ŝ = ema(g²)/(1 − β₂ᵗ)

    The gradient is taken, and the weight decay acts, at w between z and the average x. Evaluate at x, which
    `eval_params` returns; every update needs `params`. The learning rate need not fall.

    The iterates are weighted by η², as in the authors' code: c = ηₜ²/(η₁² + … + ηₜ²). The warm-up is an argument of the
    authors' code; here it is a schedule of the learning rate.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the weight of the average x in the point w where the gradient is taken, above 0 and at most 1.
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Defazio et al. 2024, arXiv 2405.15682, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.schedule_free_adamw(1.0), jnp.array([0.0])
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.array([-1.0]), state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> params.round(2), gx.eval_params(tx, state, params).round(2)
    (Array([2.1], dtype=float32), Array([2.], dtype=float32))
    """
    rate = scalar("schedule_free_adamw: learning_rate", learning_rate)
    divided = scale_by_rms(b2, eps, corrected=True)
    inner = chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(rate))
    return schedule_free(inner, b1, weight=rate * rate)


@checked
def swa(inner: TransformationLike, start: int = 1, every_k: int = 1) -> Transformation:
    """SWA: stochastic weight averaging of any optimizer's iterates (Izmailov et al., 2018).

    w ← w + inner(g), n ← n + 1, w̄ ← w̄ + (w − w̄)/n; the average w̄ moves after the updates start, start + k, …

    Use it late in a run at a constant or cyclic learning rate, and average once a cycle or once an epoch. `eval_params`
    returns the average; every update needs `params`. Recompute batch-norm statistics for the averaged weights before
    evaluating.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      start: The first update after which the parameters are averaged, an integer, 1 or more.
      every_k: k, an integer, 1 or more. The parameters are averaged after every k-th update from `start` on.

    Source: Izmailov et al. 2018, arXiv 1803.05407, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.swa(gx.sgd(1.0), start=2, every_k=2), jnp.array([0.0])
    >>> state = tx.init(params)
    >>> for _ in range(4):
    ...     updates, state = tx.update(jnp.array([-1.0]), state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> params, gx.eval_params(tx, state, params)  # the mean of 2 and 4
    (Array([4.], dtype=float32), Array([3.], dtype=float32))
    """
    return average_params(inner, 1.0, start, every_k)


@checked
def gpa(inner: TransformationLike, b1: ScalarOrSchedule = 0.7, decay: ScalarOrSchedule = 0.9967) -> Transformation:
    """GPA: generalized primal averaging of any optimizer's iterates (Defazio et al., 2025).

    z ← z + inner(g), x ← μ·x + (1 − μ)·z, w = z + β·(x − z)

    The gradient is taken at w, between the last iterate z and its exponential average x. Evaluate at x, which
    `eval_params` returns; every update needs `params`. It is `schedule_free` with a constant weight of each iterate.
    The learning rate falls as without it.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      b1: β, the weight of the average x in the point w where the gradient is taken, above 0 and at most 1: μ_y of the
        paper.
      decay: μ, the decay of the average x, at least 0 and below 1: μ_x of the paper. The effective window is the last
        1/(1 − μ) iterates. 0.9934, 0.9967 and 0.9984 stand for 16, 32 and 64 local steps of DiLoCo.

    Source: Defazio et al. 2025, arXiv 2512.17131; the defaults, and decay at w, are those of the authors' code.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.gpa(gx.sgd(1.0), b1=0.5, decay=0.5), jnp.array([0.0])
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array([-1.0]), state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> params, gx.eval_params(tx, state, params)  # z is 1, then 2
    (Array([1.625], dtype=float32), Array([1.25], dtype=float32))
    """
    return schedule_free(inner, b1, decay=decay)


@checked
def snoo(
    inner: TransformationLike,
    learning_rate: ScalarOrSchedule = 0.68,
    momentum: ScalarOrSchedule = 0.37,
    every_k: int = 28,
) -> Transformation:
    """SNOO: Nesterov momentum for the steps of Lookahead's slow weights (Kallusky et al., 2025).

    w' = w + inner(g), and every k updates v ← β·v + (s − w'), s ← s − η·(s − w' + β·v), w' = s

    The displacement of k updates stands for a gradient: this is the outer step of DiLoCo, on one worker. The slow
    weights s are for evaluation, and `eval_params` returns them; every update needs `params`. modded-nanogpt's code
    synchronises at the updates 1, k + 1, 2k + 1, …; here, as in the paper, at k, 2k, …

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It is of the slow
        weights: 1 takes the whole displacement, and momentum makes it longer.
      momentum: β, the decay of the momentum, in [0, 1). It counts synchronisations.
      every_k: k, an integer, 1 or more. The slow weights move every k updates.

    Source: Kallusky et al. 2025, arXiv 2510.15830; the defaults are those of modded-nanogpt.

    >>> import gradtx as gx
    >>> gx.snoo(gx.adam(), 0.5, 0.9, 10) == gx.lookahead(gx.adam(), 10, outer=gx.sgd(0.5, momentum=0.9, nesterov=True))
    True
    """
    outer = chain(add_momentum(momentum, nesterov=True), scale_by_learning_rate(learning_rate))
    return lookahead(inner, every_k, outer=outer)
