"""Optimizers that average their iterates."""

from gradtx import schedules
from gradtx.combinators import chain, scale_by_rms
from gradtx.core import Transformation, scalar
from gradtx.core.arguments import checked
from gradtx.optimizers.adam import radam
from gradtx.pieces import add_weight_decay, centralize, scale_by_learning_rate
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
    """w ← w − ηₜ·(g + λ·w), with ηₜ = η/(1 + λ·η·(t−1))ᵖ and the mean of w

    Polyak and Ruppert's averaging, of all w from update `start` on (`average_params`). PyTorch's t0 is start − 2, and
    a million by default.
    Source: Polyak and Juditsky 1992; with this rate, Bottou 2010, Large-scale machine learning with SGD.
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
    """Lookahead of RAdam, of g less its mean over the inputs of each output

    `lookahead` of `radam` after `centralize`, with its author's defaults; `add_weight_decay` within makes it decay.
    Source: Wright 2019, Ranger; Zhang et al. 2019, arXiv 1907.08610; Yong et al. 2020, arXiv 2004.01461.
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
    """z ← z − η·(g/(√ŝ + ε) + λ·w), x ← x + c·(z − x), w ← z + β₁·(x − z), with ŝ of Adam

    AdamW whose momentum is `schedule_free`'s: g is taken, and λ pulls, at w between z and the average x, which is for
    evaluation. The iterates count by η², as in the authors' code, whose warm-up is a schedule of the rate here.
    Source: Defazio et al. 2024, arXiv 2405.15682, algorithm 1.
    """
    rate = scalar("schedule_free_adamw: learning_rate", learning_rate)
    inner = chain(scale_by_rms(b2, eps), add_weight_decay(weight_decay, where), scale_by_learning_rate(rate))
    return schedule_free(inner, b1, weight=rate * rate)


@checked
def swa(inner: TransformationLike, start: int = 1, every_k: int = 1) -> Transformation:
    """Any optimizer, and the mean of w after the updates start, start + every_k, …

    Stochastic weight averaging: late in a run at a constant or cyclic rate, once a cycle or an epoch. `average_params`
    without decay. The statistics of batch normalization are those of other weights: run the data once more.
    Source: Izmailov et al. 2018, arXiv 1803.05407, algorithm 1.
    """
    return average_params(inner, 1.0, start, every_k)
