"""Optimizers that step by the norm of each layer: orthogonal matrices for matrices, another rule for the rest."""

from typing import Any

from gradtx.combinators import chain, partition
from gradtx.core import Transformation
from gradtx.core.arguments import checked, sequence
from gradtx.core.where import is_matrix
from gradtx.optimizers.adam import adam
from gradtx.pieces import (
    add_momentum,
    add_weight_decay,
    nesterov_ema,
    orthogonalize,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    scale_by_shape,
    sign,
    unit_rms,
)
from gradtx.typing import Axes, DTypeLike, Patterns, ScalarOrSchedule, TransformationLike, Where


def _each(where: Where, tx: TransformationLike) -> dict[Any, TransformationLike]:
    """The rules that give `tx` to one pattern or function, or to each of several."""
    one = isinstance(where, str) or callable(where)
    return dict.fromkeys((where,) if one else sequence("the patterns of a group", where), tx)


ADAM = adam(3e-4, b2=0.95, eps=1e-10)  # of the author's code, for what is no matrix


@checked
def muon(
    learning_rate: ScalarOrSchedule = 0.02,
    momentum: ScalarOrSchedule = 0.95,
    weight_decay: ScalarOrSchedule = 0.0,
    default: TransformationLike = ADAM,
    where: Where = is_matrix,
    exclude: Patterns = (),
    nesterov: bool = True,
    corrected: bool = False,
    rule: str = "original",
    axes: tuple[Axes, Axes] = (-2, -1),
    method: str = "newton_schulz",
    dtype: DTypeLike | None = None,
) -> Transformation:
    """w ← w − η·(c·U·Vᵀ + λ·w), of U·S·Vᵀ = g + β·v, v ← β·v + g, with c = √max(1, outputs/inputs)

    For the parameters that `where` chooses, a pattern or a function. Those of the patterns `apart`, such as embeddings
    and heads, and all others go by `rest`. v may as well be an average (PyTorch): only its direction counts. Optax
    corrects that for its start before Nesterov's step, which differs at first: `corrected`, with `nesterov_ema`.
    `rule` and `axes`, (inputs, outputs) as in Optax and (-1, -2) in PyTorch's layout, are of `scale_by_shape`, `method`
    and `dtype` of `orthogonalize`.
    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers; Liu et al. 2025, arXiv 2502.16982 (decay).
    """
    direction = nesterov_ema(momentum) if corrected and nesterov else add_momentum(momentum, nesterov)
    shaped = chain(direction, orthogonalize(method, axes=axes, dtype=dtype), scale_by_shape(rule, axes))
    matrices = chain(shaped, add_weight_decay(weight_decay), scale_by_learning_rate(learning_rate))
    return partition(_each(exclude, default) | {where: matrices}, default, optional=where if callable(where) else ())


@checked
def scion(
    learning_rate: ScalarOrSchedule = 2.0**-12,
    decay: ScalarOrSchedule = 0.9,
    radius: ScalarOrSchedule = 50.0,
    outer_radius: ScalarOrSchedule = 3000.0,
    heads: Patterns = (),
    embeddings: Patterns = (),
    constrained: bool = True,
    axes: tuple[Axes, Axes] = (-2, -1),
) -> Transformation:
    """w ← w − η·(ρ·o + w), with o = √(outputs/inputs)·U·Vᵀ of U·S·Vᵀ = ema(g)

    o is where the unit ball of the layer's norm reaches farthest along m = ema(g): sign(m)/inputs for the patterns
    `heads` and sign(m) for `embeddings`, of radius `outer_radius`, and m/rms(m) for vectors. The weights stay in balls
    of radius ρ; not `constrained`, the term w is left out. The defaults are the paper's for nanoGPT; the radius of a
    small net is about 1. For convolutions the paper's o is smaller by the width of the kernel.
    Source: Pethick et al. 2025, arXiv 2502.07529 (SCG, and uSCG if not `constrained`), without its ε.
    """
    signs, outer = (sign(), scale_by_shape("sign", axes)), scale(outer_radius)
    spectral = chain(orthogonalize(axes=axes), scale_by_shape("spectral", axes), scale(radius))
    rules = _each(heads, chain(*signs, outer)) | _each(embeddings, chain(sign(), outer)) | {is_matrix: spectral}
    oracle = partition(rules, default=chain(unit_rms(), scale(radius)), optional=is_matrix)
    inward = (add_weight_decay(1.0),) if constrained else ()
    return chain(scale_by_ema(decay), oracle, *inward, scale_by_learning_rate(learning_rate))
