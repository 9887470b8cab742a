"""Optimizers for large batches: the step of each layer depends on its norm."""

from gradtx.combinators import chain, momentum, precondition, project_if_orthogonal, rms
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.pieces import (
    add_momentum,
    add_weight_decay,
    fromage_rescale,
    scale_by_learning_rate,
    trust_ratio,
)
from gradtx.typing import ScalarOrSchedule, Where


@checked
def lars(
    learning_rate: ScalarOrSchedule = 1.0,
    momentum: ScalarOrSchedule = 0.9,
    nesterov: bool = False,
    weight_decay: ScalarOrSchedule = 5e-4,
    where: Where = None,
    coefficient: ScalarOrSchedule = 1e-3,
) -> Transformation:
    """w ← w − v, with v ← β·v + η·r·(g + λ·w), r = c·‖w‖/(‖g‖ + λ·‖w‖) in each leaf

    The rate is inside the momentum, and ‖g‖ and λ·‖w‖ are added, as in the paper and TensorFlow; Optax takes
    ‖g + λ·w‖. c is `trust_ratio`'s.
    Source: You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1.
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
    """w ← w − η·(‖w‖/‖u‖)·u in each leaf, with u = m̂/(√ŝ + ε) + λ·w of AdamW

    φ of the paper is the identity, as in its experiments, and the averages are corrected; `trust_ratio` has φ's bounds.
    Source: You et al. 2020, arXiv 1904.00962, algorithm 2.
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    decay = add_weight_decay(weight_decay, where)
    return chain(adam, decay, trust_ratio(), scale_by_learning_rate(learning_rate))


@checked
def fromage(learning_rate: ScalarOrSchedule = 1e-2) -> Transformation:
    """w ← (w − η·(‖w‖/‖g‖)·g)/√(1 + η²) in each leaf

    The ratio is 1 where w or g is 0, as in the authors' code; Optax raises both norms to 1e-6 instead.
    Source: Bernstein et al. 2020, arXiv 2002.03432, algorithm 1.
    """
    return chain(trust_ratio(), scale_by_learning_rate(learning_rate), fromage_rescale(learning_rate))


@checked
def sgdp(
    learning_rate: ScalarOrSchedule = 1e-1,
    momentum: ScalarOrSchedule = 0.9,
    nesterov: bool = False,
    threshold: ScalarOrSchedule = 0.1,
    output_axis: int = -1,
) -> Transformation:
    """w ← w − η·Π(v), with v ← β·v + g, and Π off w for a matrix to which g is orthogonal

    `threshold` and `output_axis` are `project_if_orthogonal`'s. There is no decay; in the authors' code, where Π
    projects, a tenth of it.
    Source: Heo et al. 2021, arXiv 2006.08217, algorithm 1.
    """
    projected = project_if_orthogonal(add_momentum(momentum, nesterov), threshold, output_axis)
    return chain(projected, scale_by_learning_rate(learning_rate))


@checked
def adamp(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    threshold: ScalarOrSchedule = 0.1,
    output_axis: int = -1,
) -> Transformation:
    """w ← w − η·Π(m̂/(√ŝ + ε)), with m̂, ŝ of Adam, and Π off w for a matrix to which g is orthogonal

    What is said of `sgdp` holds here too.
    Source: Heo et al. 2021, arXiv 2006.08217, algorithm 2.
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    return chain(project_if_orthogonal(adam, threshold, output_axis), scale_by_learning_rate(learning_rate))
