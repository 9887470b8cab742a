"""Optimizers that keep less state than one number for each parameter: per leaf, block, row or column."""

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
    """w ← w − η·max(rms(w), c)·u/max(1, rms(u)/d), with u = g/√v, v of the row and column means of g² + ε

    The rate is a share of the parameters; the paper's, min(10⁻², 1/√t), is `schedules.relative_step()`. As in the
    paper, Keras and Optax, ε (`eps`) is added to the squares; PyTorch bounds √v from below. `power` is of
    `running_mean`, d of `clip_by_rms`, c of `scale_by_param_rms`, `min_size` of `factored` (128 in Optax).
    Source: Shazeer and Stern 2018, arXiv 1804.04235, algorithms 4 and 5.
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
    """w ← w − η·(m/√s + λ·w), with m = ema(u), s = factored ema((u − m)² + ε'), u of Adafactor, clipped

    How far u is from m says how little m is to be trusted. u is made with a constant decay β₂; no average is corrected.
    As in the authors' code, what is not a matrix has s = 1. ε' is `eps_confidence`. Where no gradient ever came, the
    derivatives with respect to hyperparameters are within float32 for an `eps` of 1e-24 or more.
    Source: Luo et al. 2023, arXiv 2307.02047, algorithm 2.
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
    """w ← w − η·v, with v ← β₁·v + g/(√s + ε) + λ·w, s = ema(‖g‖²) of each leaf, from the first

    One number for a leaf. v is a sum, so that a step is 1/(1 − β₁) times as long as that of an average.
    Source: Ginsburg et al. 2019, arXiv 1905.11286, algorithm 1.
    """
    size = chain(square(), reduced(scale_by_ema(b2, from_first=True), how="sum"), sqrt())
    decay = add_weight_decay(weight_decay, where)
    return chain(precondition(identity(), size, eps), decay, add_momentum(b1), scale_by_learning_rate(learning_rate))


@checked
def sm3(
    learning_rate: ScalarOrSchedule = 1e-1, momentum: ScalarOrSchedule = 0.9, eps: ScalarOrSchedule = 1e-30
) -> Transformation:
    """w ← w − η·ema(g/√(s + ε)), with s the sum of g², of which the largest of each row and column are remembered

    AdaGrad with n + m numbers for n·m, and momentum as an average. ε is 0 in the paper, 10⁻⁸ in Optax; here it is for
    gradients whose squares are too small for float32.
    Source: Anil et al. 2019, arXiv 1901.11150, algorithm SM3-II.
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
    over: str | Axes = "columns",
    blocks: int | None = None,
) -> Transformation:
    """w ← w − η·(m̂/(√ŝ + ε) + λ·w), with ŝ = ema(mean g²)/(1 − β₂ᵗ) of each block, m̂ of Adam

    A block is what has one rate: by default a column, the weights into a neuron where kernels are (in, out), and a
    whole vector. `over` and `blocks`, of `reduced`, name others, and `partition` says for which parameters:
    `{"**/embedding": adam_mini(over="rows"), "**/query/kernel": adam_mini(blocks=heads)}`.
    Source: Zhang et al. 2024, arXiv 2406.16793, algorithms 1 to 3.
    """
    divided = precondition(momentum(b1), chain(square(), reduced(average(b2), over, blocks), sqrt()), eps)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))
