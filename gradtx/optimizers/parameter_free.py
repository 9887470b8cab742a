"""Optimizers that need no learning rate."""

from gradtx.combinators import (
    chain,
    dadapt_distance,
    dog_distance,
    leafwise,
    momentum,
    momo_step,
    prodigy_distance,
    rms,
)
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.pieces import (
    add_weight_decay,
    coin_betting,
    polyak_step,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    scale_by_total_norm,
)
from gradtx.typing import ScalarOrSchedule, Where


@checked
def dog(
    learning_rate: ScalarOrSchedule = 1.0,
    initial_value: ScalarOrSchedule = 1e-6,
    relative: bool = True,
    eps: ScalarOrSchedule = 1e-8,
    per_leaf: bool = False,
) -> Transformation:
    """w ← w − η·r·g/√(Σ‖g‖² + ε), with r ← max(r, ‖w − w₀‖)

    The authors advise to average the iterates. `learning_rate` is best left at 1; `per_leaf` is their L-DoG.
    Source: Ivgi, Hinder and Carmon 2023, arXiv 2302.12022, equations 1 and 2, with ε of its published code.
    """
    tx = chain(dog_distance(scale_by_total_norm(eps), initial_value, relative), scale_by_learning_rate(learning_rate))
    return leafwise(tx) if per_leaf else tx


@checked
def dowg(learning_rate: ScalarOrSchedule = 1.0, initial_value: ScalarOrSchedule = 1e-2) -> Transformation:
    """w ← w − η·r²·g/√(Σr²‖g‖²), with r ← max(r, ‖w − w₀‖)

    DoG whose later gradients count more. `initial_value` is a distance; the default is that of the published code.
    Source: Khaled, Mishchenko and Jin 2023, arXiv 2305.16284, algorithm 1.
    """
    weighted = dog_distance(scale_by_total_norm(0.0), initial_value, relative=False, weighted=True)
    return chain(weighted, scale_by_learning_rate(learning_rate))


@checked
def prodigy(
    learning_rate: ScalarOrSchedule = 1.0,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    initial_value: ScalarOrSchedule = 1e-6,
    coefficient: ScalarOrSchedule = 1.0,
) -> Transformation:
    """w ← w − η·d·(m/(√v + d·ε) + λ·w), with m = ema(d·g), v = ema((d·g)²), d of `prodigy_distance`

    As in the paper, averages are not corrected for their start at 0; Optax corrects them by a factor of the rate.
    Source: Mishchenko and Defazio 2024, arXiv 2306.06101, algorithm 4.
    """
    direction, size, pull = momentum(b1, False), rms(b2, False), add_weight_decay(weight_decay, where)
    return chain(
        prodigy_distance(direction, size, eps, pull, learning_rate, b2, initial_value, coefficient), scale(-1.0)
    )


@checked
def dadapt_adam(
    learning_rate: ScalarOrSchedule = 1.0,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    initial_value: ScalarOrSchedule = 1e-6,
) -> Transformation:
    """w ← w − m/(√v + ε) − η·d·λ·w, with m = ema(η·d·g), v = ema(g²), d of `dadapt_distance`

    As in the paper, averages are not corrected for their start at 0, and d is estimated with the new v; its published
    code and Optax take the v of the step before.
    Source: Defazio and Mishchenko 2023, arXiv 2301.07733, the Adam form, with decoupled decay.
    """
    direction, size, pull = momentum(b1, False), rms(b2, False), add_weight_decay(weight_decay, where)
    return chain(dadapt_distance(direction, size, eps, pull, learning_rate, b2, initial_value), scale(-1.0))


@checked
def polyak_sgd(max_rate: ScalarOrSchedule = 1.0, lowest: ScalarOrSchedule = 0.0) -> Transformation:
    """w ← w − min(c, max(f − f*, 0)/‖g‖²)·g

    Source: Loizou et al. 2021, arXiv 2002.10542, equation 2, with the positive part of arXiv 2307.14528.
    """
    return chain(polyak_step(max_rate, lowest), scale(-1.0))


@checked
def momo(
    max_rate: ScalarOrSchedule = 1.0, decay: ScalarOrSchedule = 0.9, lowest: ScalarOrSchedule = 0.0
) -> Transformation:
    """w ← w − min(c, max(h − f*, 0)/‖m‖²)·m, with m = ema(g) from the first g, h of `momo_step`

    Polyak's step for momentum. `decay` is of `scale_by_ema`.
    Source: Schaipp et al. 2024, arXiv 2305.07583, algorithm 1, without decay.
    """
    return chain(momo_step(scale_by_ema(decay, True), max_rate=max_rate, lowest=lowest), scale(-1.0))


@checked
def momo_adam(
    max_rate: ScalarOrSchedule = 1e-2,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    lowest: ScalarOrSchedule = 0.0,
) -> Transformation:
    """w ← w − min(c, max(h − f*, 0)/⟨m̂, m̂/s⟩)·m̂/s, with s = √v̂ + ε, and m̂, v̂ of Adam, h of `momo_step`

    Source: Schaipp et al. 2024, arXiv 2305.07583, algorithm 2, without decay.
    """
    return chain(momo_step(momentum(b1), by=rms(b2), eps=eps, max_rate=max_rate, lowest=lowest), scale(-1.0))


@checked
def cocob(alpha: ScalarOrSchedule = 100.0) -> Transformation:
    """w ← w₀ + b, with b ← Σ(−g)/max(Σ|g| + l, α·l)·(1 + r/l), l = max|g|, r of `coin_betting`

    Source: Orabona and Tommasi 2017, arXiv 1705.07795, algorithm 2 (COCOB-Backprop).
    """
    return chain(coin_betting(alpha))
