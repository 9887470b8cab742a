"""Optimizers that keep less state than one number for each parameter: one for each leaf, block, row or column."""

from gradtx.combinators import chain, factored, momentum, partition, precondition, reduced
from gradtx.combinators.averages import average
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.core.where import is_matrix
from gradtx.pieces import (
    add_constant,
    add_momentum,
    add_weight_decay,
    clip_by_rms,
    identity,
    running_mean,
    scale_by_ema,
    scale_by_learning_rate,
    scale_by_param_rms,
    sm3_sum,
    sqrt,
    square,
)
from gradtx.typing import Axes, ScalarOrSchedule, Where


def _size(eps: ScalarOrSchedule, mean: Transformation, min_size: int = 2) -> Transformation:
    return chain(square(), add_constant(eps), factored(mean, min_size), sqrt())


@checked
def adafactor(
    learning_rate: ScalarOrSchedule = 1e-2,
    power: ScalarOrSchedule = 0.8,
    eps: ScalarOrSchedule = 1e-30,
    max_rms: ScalarOrSchedule = 1.0,
    floor: ScalarOrSchedule = 1e-3,
    min_size: int = 2,
) -> Transformation:
    """Adafactor: Adam's denominator from row and column averages, with relative steps (Shazeer and Stern, 2018).

    w ← w − η·max(rms(w), c)·u/max(1, rms(u)/d), with u = g/√v, v = factored average of g² + ε

    The factored average is the matrix of rank one made of the averages over time of the row means and of the column
    means: n + m numbers for a matrix of n·m. The step is a fraction of the parameters. As in the paper, Keras and
    Optax, ε is added to the squares; PyTorch bounds √v from below.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It is a fraction of the
        parameters' RMS; the paper's, min(10⁻², 1/√t), is `schedules.relative_step()`. PyTorch bounds its rate by 1/√t
        at step t: `schedules.relative_step(η)` caps it.
      power: p, 0 or more: step t enters the averages with the weight t⁻ᵖ. At 1 all steps count alike, at 0 the last one
        alone.
      eps: ε, added to the squared gradients, 0 or more, in squared units of the gradients. PyTorch's lower bound of √v
        is by default the machine epsilon of the dtype.
      max_rms: d, the RMS above which u is scaled down, above 0.
      floor: c, the lower bound of rms(w), 0 or more, in units of the parameters. It lets a parameter leave 0.
      min_size: The smallest size of both axes of a leaf that is factored; smaller leaves keep their full shape. It is
        128 in Optax.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, algorithms 4 and 5.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> state = gx.adafactor().init(jnp.ones((100, 200)))
    >>> sum(x.size for x in jax.tree.leaves(state.slots) if x.shape)
    300
    """
    divided = precondition(identity(), _size(eps, running_mean(power), min_size), eps=0.0)
    return chain(divided, clip_by_rms(max_rms), scale_by_param_rms(floor), scale_by_learning_rate(learning_rate))


@checked
def came(
    learning_rate: ScalarOrSchedule = 2e-4,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    eps: ScalarOrSchedule = 1e-30,
    eps_confidence: ScalarOrSchedule = 1e-16,
    max_rms: ScalarOrSchedule = 1.0,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
) -> Transformation:
    """CAME: Adafactor with momentum, divided by a factored estimate of its own error (Luo et al., 2023).

    w ← w − η·(m/√s + λ·w), with m = ema(u), s = factored ema((u − m)² + ε')

    u is g/√v with v = factored ema(g² + ε), scaled down where its RMS is above d. A factored average is the matrix of
    rank one made of the averages of the row means and of the column means. The farther u is from m, the smaller the
    step. v has the constant decay β₂, and no average is corrected for its start at 0. As in the authors' code, a leaf
    that is not a matrix has s = 1.

    Where no gradient ever came, the derivatives with respect to hyperparameters are in the range of float32 for an
    `eps` of 1e-24 or more.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average m of the clipped updates u, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      b3: β₃, the decay of the average of the squared distances (u − m)², in [0, 1).
      eps: ε, added to the squared gradients, 0 or more, in squared units of the gradients.
      eps_confidence: ε', added to the squared distances (u − m)², 0 or more.
      max_rms: d, the RMS above which u is scaled down, above 0.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Luo et al. 2023, arXiv 2307.02047, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> state = gx.came().init(jnp.ones((100, 200)))  # m, and row and column averages for v and s
    >>> sum(x.size for x in jax.tree.leaves(state.slots))
    20600
    """
    trusted = precondition(scale_by_ema(b1), _size(eps_confidence, scale_by_ema(b3)), eps=0.0, centered=True)
    direction = partition({is_matrix: trusted}, default=scale_by_ema(b1), optional=is_matrix)
    clipped = (precondition(identity(), _size(eps, scale_by_ema(b2)), eps=0.0), clip_by_rms(max_rms))
    return chain(*clipped, direction, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def novograd(
    learning_rate: ScalarOrSchedule = 1e-2,
    b1: ScalarOrSchedule = 0.95,
    b2: ScalarOrSchedule = 0.98,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
) -> Transformation:
    """NovoGrad: momentum of gradients divided by a running norm of each layer (Ginsburg et al., 2019).

    w ← w − η·v, with v ← β₁·v + g/(√s + ε) + λ·w, s = ema(‖g‖²) of each leaf, from the first

    s is one number for a leaf; it starts at the first ‖g‖², not at 0. v is a sum, so a step is 1/(1 − β₁) times as long
    as with an average.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the momentum v, in [0, 1). Optax's default is 0.9.
      b2: β₂, the decay of the average of the squared norms ‖g‖², in [0, 1). Optax's is 0.25.
      eps: ε, added to the denominator, 0 or more. Optax's is 1e-6.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. It is added inside
        the momentum.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Ginsburg et al. 2019, arXiv 1905.11286, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.novograd(1.0), jnp.zeros(2)
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)[0]
    Array([-0.6, -0.8], dtype=float32)
    """
    size = chain(square(), reduced(scale_by_ema(b2, from_first=True), how="sum"), sqrt())
    decay = add_weight_decay(weight_decay, where)
    return chain(precondition(identity(), size, eps), decay, add_momentum(b1), scale_by_learning_rate(learning_rate))


@checked
def sm3(
    learning_rate: ScalarOrSchedule = 1e-1, momentum: ScalarOrSchedule = 0.9, eps: ScalarOrSchedule = 1e-30
) -> Transformation:
    """SM3: AdaGrad with one accumulator for each row and each column (Anil et al., 2019).

    w ← w − η·ema(g/√(s + ε)), with sᵢⱼ = min(rᵢ, cⱼ) + gᵢⱼ², rᵢ ← maxⱼ sᵢⱼ, cⱼ ← maxᵢ sᵢⱼ

    The sum s of squared gradients takes n + m numbers for a matrix of n·m. A leaf with more axes keeps one number for
    each index of each axis; a leaf with fewer keeps its full shape. The momentum is an average. In the paper ε is 0, in
    Optax 10⁻⁸; here it is 10⁻³⁰, for gradients whose squares underflow in float32.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      momentum: β, the decay of the momentum, in [0, 1).
      eps: ε, added to s inside the square root, 0 or more, in squared units of the gradients.

    Source: Anil et al. 2019, arXiv 1901.11150, algorithm SM3-II.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> state = gx.sm3().init(jnp.ones((100, 200)))  # the momentum, and s
    >>> sum(x.size for x in jax.tree.leaves(state.slots))
    20300
    """
    divided = precondition(identity(), chain(square(), sm3_sum(), sqrt()), eps, eps_in_sqrt=True)
    return chain(divided, scale_by_ema(momentum), scale_by_learning_rate(learning_rate))


@checked
def adam_mini(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    over: str | Axes = "inputs",
    blocks: int | None = None,
) -> Transformation:
    """Adam-mini: Adam with one denominator for each block of parameters (Zhang et al., 2024).

    w ← w − η·(m̂/(√ŝ + ε) + λ·w), with ŝ = ema(mean g²)/(1 − β₂ᵗ) of each block, m̂ = ema(g)/(1 − β₁ᵗ)

    By default a block is the weights into one output of a linear map, a row of a table of embeddings, or a whole
    vector. `over` and `blocks` choose other blocks, and `partition` chooses them by parameter:
    `{"**/query/kernel": adam_mini(blocks=heads)}`.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      over: The blocks: `"inputs"`, the weights into one output, or a row of a table; `"columns"`, each x[..., j];
        `"rows"`, each x[i]; `"leaf"`; or the axes to average over, such as `(0, 2)`.
      blocks: The number of equal blocks into which neighbouring outputs, rows or columns are gathered, such as the
        number of heads; None for one block for each.

    Raises:
      ValueError: A leaf lacks an axis of `over`, its rows or columns do not make `blocks` equal blocks, or, with
        `"inputs"`, its axes are in doubt: declare them with `layout`.

    Source: Zhang et al. 2024, arXiv 2406.16793, algorithms 1 to 3.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.adam_mini(1.0), jnp.zeros((4, 2))
    >>> gradients = jnp.array([[3.0, 2.0], [3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
    >>> tx.update(gradients, tx.init(params), params)[0].round(3).T
    Array([[-1., -1., -1., -1.],
           [-2., -0., -0., -0.]], dtype=float32)
    """
    divided = precondition(momentum(b1), chain(square(), reduced(average(b2), over, blocks), sqrt()), eps)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))
