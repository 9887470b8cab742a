"""Filters of the gradient in front of any optimizer, and a controller."""

from gradtx.combinators import add, chain
from gradtx.core import Decay, Transformation, scalar
from gradtx.core.arguments import checked
from gradtx.pieces import (
    add_momentum,
    clip_by_norm,
    difference,
    identity,
    project_out,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
)
from gradtx.typing import ScalarOrSchedule, TransformationLike


@checked
def grokfast(inner: TransformationLike, decay: ScalarOrSchedule = 0.98, gain: ScalarOrSchedule = 2.0) -> Transformation:
    """Any optimizer, of g + λ·ema(g)

    λ, `gain`, is how much the slow part of the gradient counts beside the whole.
    Source: Lee et al. 2024, arXiv 2405.20233, algorithm 4 (Grokfast-EMA), from the first gradient.
    """
    return chain(add(identity(), chain(scale_by_ema(decay, from_first=True), scale(gain))), inner)


@checked
def mars(inner: TransformationLike, decay: ScalarOrSchedule = 0.95, gain: ScalarOrSchedule = 0.025) -> Transformation:
    """Any optimizer, of c/max(1, ‖c‖) over each leaf, with c = g + γ·β/(1−β)·(g − g₋₁)

    β is that of the inner optimizer's momentum. The approximate form, with the last batch's gradient for this batch's
    at the last point; the first change is 0, as in the paper, where the authors' code has g.
    Source: Yuan et al. 2024, arXiv 2411.10438, algorithm 1 (MARS-approx).
    """
    β, γ = scalar("mars: decay", decay, Decay), scalar("mars: gain", gain)
    change = chain(difference(from_first=True), scale(γ * β / (1 - β)))
    return chain(add(identity(), change), clip_by_norm(1.0), inner)


@checked
def pid(
    learning_rate: ScalarOrSchedule = 1e-3,
    decay: ScalarOrSchedule = 0.9,
    integral: ScalarOrSchedule = 5.0,
    derivative: ScalarOrSchedule = 10.0,
) -> Transformation:
    """w ← w − η·(g + I·v + D·d), with v ← β·v + g, d ← β·d + (1−β)·(g − g₋₁)

    A controller of three terms: what is, was and comes. The first change is 0.
    Source: An et al. 2018, A PID controller approach for stochastic optimization of deep networks, as published.
    """
    was = chain(add_momentum(decay), scale(integral))
    comes = chain(difference(from_first=True), scale_by_ema(decay), scale(derivative))
    return chain(add(identity(), was, comes), scale_by_learning_rate(learning_rate))


@checked
def orthograd(inner: TransformationLike) -> Transformation:
    """Any optimizer, of g⊥·‖g‖/‖g⊥‖ in each leaf, with g⊥ = g − w⟨w, g⟩/‖w‖²

    Source: Prieto et al. 2025, arXiv 2501.04697.
    """
    return chain(project_out(keep_norm=True), inner)
