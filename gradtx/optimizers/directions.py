"""Optimizers that change the direction: of the gradient, of momentum, of several momenta."""

from collections.abc import Sequence
from typing import Any

from gradtx.combinators import add, blend, chain, momentum, precondition, rms
from gradtx.combinators.averages import average
from gradtx.core import Transformation
from gradtx.optimizers.adam import adam
from gradtx.pieces import (
    add_momentum,
    add_weight_decay,
    difference,
    identity,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    sign,
    sqrt,
    square,
)


def sgdw(learning_rate: Any = 1e-2, momentum: Any = 0.9, weight_decay: Any = 1e-2, where: Any = None) -> Transformation:
    """w ← w − η·(v + λ·w), with v ← β·v + g

    Args:
      learning_rate: Of `sgd`, as is momentum.
      momentum: Of `sgd`.
      weight_decay: λ, of `add_weight_decay`.
      where: Which parameters decay, of `add_weight_decay`.

    Source: Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 1; there β·v + η·g is kept.

    >>> import gradtx as gx
    >>> gx.sgdw(0.1)
    chain(add_momentum(0.9), add_weight_decay(0.01), scale_by_learning_rate(0.1))
    """
    return chain(add_momentum(momentum), add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


def sign_sgd(learning_rate: Any = 1e-3) -> Transformation:
    """w ← w − η·sign(g)

    Args:
      learning_rate: η, in units of the parameters: what every coordinate moves by.

    Source: Bernstein et al. 2018, arXiv 1802.04434, algorithm 1.

    >>> import gradtx as gx
    >>> gx.sign_sgd(0.1)
    chain(sign(), scale_by_learning_rate(0.1))
    """
    return chain(sign(), scale_by_learning_rate(learning_rate))


def signum(learning_rate: Any = 1e-3, decay: Any = 0.9) -> Transformation:
    """w ← w − η·sign(m), with m ← β·m + (1−β)·g

    Args:
      learning_rate: Of `sign_sgd`.
      decay: β, of `scale_by_ema`.

    Source: Bernstein et al. 2018, arXiv 1802.04434, algorithm 2.

    >>> import gradtx as gx
    >>> gx.signum(0.1)
    chain(scale_by_ema(0.9), sign(), scale_by_learning_rate(0.1))
    """
    return chain(scale_by_ema(decay), sign(), scale_by_learning_rate(learning_rate))


def lion(
    learning_rate: Any = 1e-4, b1: Any = 0.9, b2: Any = 0.99, weight_decay: Any = 1e-3, where: Any = None
) -> Transformation:
    """w ← w − η·(sign(β₁·m + (1−β₁)·g) + λ·w), then m ← β₂·m + (1−β₂)·g

    Args:
      learning_rate: Of `sign_sgd`; a tenth to a third of Adam's.
      b1: β₁, the share of m, of `blend`.
      b2: β₂, of `scale_by_ema`.
      weight_decay: λ, of `add_weight_decay`; three to ten times AdamW's.
      where: Which parameters decay, of `add_weight_decay`.

    Source: Chen et al. 2023, arXiv 2302.06675, algorithm 2; λ as in Optax.

    >>> import gradtx as gx
    >>> gx.lion()
    chain(
        blend(scale_by_ema(0.99, before=True), share=0.9),
        sign(),
        add_weight_decay(0.001),
        scale_by_learning_rate(0.0001),
    )
    """
    return chain(
        blend(scale_by_ema(b2, before=True), b1),
        sign(),
        add_weight_decay(weight_decay, where),
        scale_by_learning_rate(learning_rate),
    )


def qhm(learning_rate: Any = 1.0, decay: Any = 0.999, share: Any = 0.7) -> Transformation:
    """w ← w − η·(ν·m + (1−ν)·g), with m ← β·m + (1−β)·g

    Args:
      learning_rate: η, of `scale_by_learning_rate`.
      decay: β, of `scale_by_ema`.
      share: ν, of `blend`.

    Source: Ma and Yarats 2019, arXiv 1810.06801, equations 3 and 4.

    >>> import gradtx as gx
    >>> gx.qhm()
    chain(blend(scale_by_ema(0.999), share=0.7), scale_by_learning_rate(1.0))
    """
    return chain(blend(scale_by_ema(decay), share), scale_by_learning_rate(learning_rate))


def qhadam(
    learning_rate: Any = 1e-3,
    b1: Any = 0.995,
    b2: Any = 0.999,
    share1: Any = 0.7,
    share2: Any = 1.0,
    eps: Any = 1e-8,
) -> Transformation:
    """w ← w − η·(ν₁·m̂ + (1−ν₁)·g)/(√(ν₂·ŝ + (1−ν₂)·g²) + ε), with m̂, ŝ of Adam

    Args:
      learning_rate: Of `adam`, as are b1, b2 and eps.
      b1: Of `adam`.
      b2: Of `adam`.
      share1: ν₁, of `blend`.
      share2: ν₂, of `blend`.
      eps: Of `adam`.

    Source: Ma and Yarats 2019, arXiv 1810.06801, section 4.3.

    >>> import gradtx as gx
    >>> gx.qhadam()
    chain(
        precondition(
            blend(chain(scale_by_ema(0.995), bias_correction(0.995)), share=0.7),
            by=chain(
                square(),
                blend(chain(scale_by_ema(0.999), bias_correction(0.999)), share=1.0),
                sqrt(),
            ),
            eps=1e-08,
        ),
        scale_by_learning_rate(0.001),
    )
    """
    return chain(
        precondition(blend(momentum(b1), share1), by=chain(square(), blend(average(b2), share2), sqrt()), eps=eps),
        scale_by_learning_rate(learning_rate),
    )


def aggmo(learning_rate: Any = 1e-1, decays: Sequence[Any] = (0.0, 0.9, 0.99)) -> Transformation:
    """w ← w − η·(v₁ + … + vₖ)/k, with vᵢ ← βᵢ·vᵢ + g

    Args:
      learning_rate: η, of `scale_by_learning_rate`.
      decays: βᵢ, of `add_momentum`, one or more.

    Source: Lucas et al. 2019, arXiv 1804.00325, equation 4.

    >>> import gradtx as gx
    >>> gx.aggmo()
    chain(
        add(add_momentum(0.0), add_momentum(0.9), add_momentum(0.99)),
        scale(0.3333333333333333),
        scale_by_learning_rate(0.1),
    )
    """
    return chain(
        add(*(add_momentum(decay) for decay in decays)), scale(1 / len(decays)), scale_by_learning_rate(learning_rate)
    )


def optimistic_sgd(learning_rate: Any = 1e-2, optimism: Any = 1.0) -> Transformation:
    """w ← w − η·(g + β·(g − g₋₁))

    Args:
      learning_rate: η, of `scale_by_learning_rate`.
      optimism: β: how far the change of the gradient is taken to go on.

    Source: Daskalakis et al. 2018, arXiv 1711.00141, equation 4; before the first gradient is the first.

    >>> import gradtx as gx
    >>> gx.optimistic_sgd()
    chain(
        add(identity(), chain(difference(True), scale(1.0))),
        scale_by_learning_rate(0.01),
    )
    """
    return chain(
        add(identity(), chain(difference(from_first=True), scale(optimism))), scale_by_learning_rate(learning_rate)
    )


def optimistic_adam(
    learning_rate: Any = 1e-3, optimism: Any = 1.0, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8
) -> Transformation:
    """w ← w + u + β·(u − u₋₁), with u of Adam

    Args:
      learning_rate: Of `adam`, as are b1, b2 and eps.
      optimism: β, of `optimistic_sgd`.
      b1: Of `adam`.
      b2: Of `adam`.
      eps: Of `adam`.

    Source: Daskalakis et al. 2018, arXiv 1711.00141, algorithm 1; before the first u is the first.

    >>> import gradtx as gx
    >>> gx.optimistic_adam()
    chain(
        precondition(
            chain(scale_by_ema(0.9), bias_correction(0.9)),
            by=chain(square(), scale_by_ema(0.999), bias_correction(0.999), sqrt()),
            eps=1e-08,
        ),
        scale_by_learning_rate(0.001),
        add(identity(), chain(difference(True), scale(1.0))),
    )
    """
    return chain(adam(learning_rate, b1, b2, eps), add(identity(), chain(difference(from_first=True), scale(optimism))))


def ademamix(
    learning_rate: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 6.0,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    where: Any = None,
) -> Transformation:
    """w ← w − η·((m̂ + α·l)/(√ŝ + ε) + λ·w), with l ← β₃·l + (1−β₃)·g, and m̂, ŝ of Adam

    Args:
      learning_rate: Of `adam`, as are b1, b2 and eps.
      b1: Of `adam`.
      b2: Of `adam`.
      b3: β₃, of `scale_by_ema`. The paper warms it up, and α: give schedules.
      alpha: α, how much the slow average l, which is not corrected, counts.
      eps: Of `adam`.
      weight_decay: λ, of `add_weight_decay`.
      where: Which parameters decay, of `add_weight_decay`.

    Source: Pagliardini, Ablin and Grangier 2024, arXiv 2409.03137, algorithm 1.

    >>> import gradtx as gx
    >>> gx.ademamix()
    chain(
        precondition(
            add(
                chain(scale_by_ema(0.9), bias_correction(0.9)),
                chain(scale_by_ema(0.9999), scale(6.0)),
            ),
            by=chain(square(), scale_by_ema(0.999), bias_correction(0.999), sqrt()),
            eps=1e-08,
        ),
        add_weight_decay(0.0),
        scale_by_learning_rate(0.001),
    )
    """
    return chain(
        precondition(add(momentum(b1), chain(scale_by_ema(b3), scale(alpha))), by=rms(b2), eps=eps),
        add_weight_decay(weight_decay, where),
        scale_by_learning_rate(learning_rate),
    )


def adan(
    learning_rate: Any = 1e-3,
    b1: Any = 0.98,
    b2: Any = 0.92,
    b3: Any = 0.99,
    gain: Any = 0.92,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    where: Any = None,
) -> Transformation:
    """w ← w − η·((m̂ + γ·d̂)/(√ŝ + ε) + λ·w), with m = ema(g), d = ema(g − g₋₁), s = ema((g + γ·(g − g₋₁))²)

    Args:
      learning_rate: Of `adam`, as is eps.
      b1: β₁, of the average of g; here and below what stays of it, 1 less the paper's β.
      b2: β₂, of the average of the change of g, which at the first step is 0.
      b3: β₃, of the average of the squares.
      gain: γ, how far the change of g is taken to go on: β₂ in the paper and its code, 1 − β₂ in Optax.
      eps: Of `adam`.
      weight_decay: λ, of `add_weight_decay`; in the paper w/(1 + λ·η) instead of w·(1 − λ·η).
      where: Which parameters decay, of `add_weight_decay`.

    Source: Xie et al. 2022, arXiv 2208.06677, algorithm 1, with every average corrected, as in its published code.

    >>> import gradtx as gx
    >>> gx.adan()
    chain(
        precondition(
            add(
                chain(scale_by_ema(0.98), bias_correction(0.98)),
                chain(difference(True), scale_by_ema(0.92), bias_correction(0.92), scale(0.92)),
            ),
            by=chain(
                add(identity(), chain(difference(True), scale(0.92))),
                square(),
                scale_by_ema(0.99),
                bias_correction(0.99),
                sqrt(),
            ),
            eps=1e-08,
        ),
        add_weight_decay(0.0),
        scale_by_learning_rate(0.001),
    )
    """
    change = difference(from_first=True)
    return chain(
        precondition(
            add(momentum(b1), chain(change, momentum(b2), scale(gain))),
            by=chain(add(identity(), chain(change, scale(gain))), rms(b3)),
            eps=eps,
        ),
        add_weight_decay(weight_decay, where),
        scale_by_learning_rate(learning_rate),
    )


def grokfast(inner: Any, decay: Any = 0.98, gain: Any = 2.0) -> Transformation:
    """Any optimizer, of g + λ·ema(g)

    Args:
      inner: The optimizer.
      decay: Of `scale_by_ema`.
      gain: λ: how much the slow part of the gradient counts beside the whole.

    Source: Lee et al. 2024, arXiv 2405.20233, algorithm 4 (Grokfast-EMA); there the average starts at the first
    gradient.

    >>> import gradtx as gx
    >>> gx.grokfast(gx.sgd(0.1))
    chain(
        add(identity(), chain(scale_by_ema(0.98, from_first=True), scale(2.0))),
        identity(),
        scale_by_learning_rate(0.1),
    )
    """
    return chain(add(identity(), chain(scale_by_ema(decay, from_first=True), scale(gain))), inner)
