"""Optimizers that run in the eigenbasis of the gradients of each matrix."""

from typing import Literal

from gradtx.combinators import chain, in_basis, momentum, partition, precondition, rms
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.core.where import is_linear
from gradtx.pieces import (
    add_weight_decay,
    eigenbasis,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    scale_by_shape,
    sign,
)
from gradtx.typing import MeshAxes, ScalarOrSchedule, Where
from gradtx.wrappers import average_params

Sides = Literal["both", "smaller", "larger", "inputs", "outputs"]


@checked
def soap(
    learning_rate: ScalarOrSchedule = 3e-3,
    b1: ScalarOrSchedule = 0.95,
    b2: ScalarOrSchedule = 0.95,
    b3: ScalarOrSchedule = 0.95,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
    every_k: int = 10,
    which: Sides = "both",
    method: Literal["qr", "eigh"] = "qr",
    largest: int = 8192,
    over: MeshAxes = None,
) -> Transformation:
    """SOAP: Adam in the eigenbasis of the gradients of each matrix (Vyas et al., 2024).

    w ← w − η·(Q·(m̂/(√ŝ + ε))·Pᵀ + λ·w), with m̂ = corrected ema(x), ŝ = corrected ema(x²), x = Qᵀ·g·P

    Q are eigenvectors of ema(g·gᵀ) and P of ema(gᵀ·g), renewed at each k-th update. When they change, m turns with them
    and s stays. A leaf that is not a linear map, such as a bias or a table of embeddings, takes Adam's steps. The first
    update is 0, as in the authors' code: it only makes a basis.

    The authors' code makes the first basis by `eigh`. Here it starts as the identity and follows the averages by the
    same QR steps as later, with a small multiple of the identity added: the null space of few gradients is then not
    chosen by rounding errors. `in_basis` builds variants: `in_basis(inner, eigenbasis())` with AdEMAMix, Lion, or a
    factored denominator as the inner transformation.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1). The squares are those of the coordinates.
      b3: β₃, the decay of the averages of g·gᵀ and gᵀ·g, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      every_k: k, an integer, 1 or more. The first update makes a basis, and each k-th update after it.
      which: The sides that have a basis: `"both"`, the `"smaller"` or the `"larger"`, the `"inputs"` or the
        `"outputs"`. On the smaller side alone, a basis costs the least.
      method: `"qr"`, a step of orthogonal iteration, or `"eigh"`, the exact eigenvectors.
      largest: The largest side that has a basis, an integer.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Source: Vyas et al. 2024, arXiv 2409.11321, algorithms 3 and 4.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.soap(1.0, weight_decay=0.0), jnp.zeros((2, 2))
    >>> g = jnp.array([[3.0, 0.0], [0.0, 400.0]])
    >>> _, state = tx.update(g, tx.init(params), params)
    >>> tx.update(g, state, params)[0].round(3)
    Array([[-1., -0.],
           [-0., -1.]], dtype=float32)
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    basis = eigenbasis(every_k, which, b3, method=method, largest=largest, over=over)
    return chain(in_basis(adam, basis), add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def kl_soap(
    learning_rate: ScalarOrSchedule = 3e-3,
    b1: ScalarOrSchedule = 0.95,
    b2: ScalarOrSchedule = 0.95,
    b3: ScalarOrSchedule = 0.95,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
    every_k: int = 10,
    largest: int = 8192,
    over: MeshAxes = None,
) -> Transformation:
    """KL-SOAP: SOAP, with the two sides measured by a Kullback-Leibler divergence (Lin et al., 2025).

    w ← w − η·(Q·(m̂/(√ŝ + ε))·Pᵀ + λ·w), with m̂ = corrected ema(x), ŝ = corrected ema(x²), x = Qᵀ·g·P

    Q are eigenvectors of L ← β₃·L + (1 − β₃)·g·R⁻¹·gᵀ/m and P of R ← β₃·R + (1 − β₃)·gᵀ·L⁻¹·g/n, for g of n × m: each
    side is measured after the other has been whitened. The inverses have the eigenvalues along the current vectors,
    with a hundredth of their mean added. The first update is 0 and measures g·gᵀ and gᵀ·g. A leaf that is not a linear
    map takes Adam's steps.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1). The squares are those of the coordinates.
      b3: β₃, the decay of L and R, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      every_k: k, an integer, 1 or more. The first update makes a basis, and each k-th update after it.
      largest: The largest side that has a basis, an integer.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Source: Lin et al. 2025, arXiv 2509.03378.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.kl_soap(1.0, weight_decay=0.0), jnp.zeros((2, 2))
    >>> g = jnp.array([[3.0, 0.0], [0.0, 400.0]])
    >>> _, state = tx.update(g, tx.init(params), params)
    >>> tx.update(g, state, params)[0].round(3)
    Array([[-1., -0.],
           [-0., -1.]], dtype=float32)
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    basis = eigenbasis(every_k, decay=b3, whiten=True, largest=largest, over=over)
    return chain(in_basis(adam, basis), add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def splus(
    learning_rate: ScalarOrSchedule = 0.1,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    decay: ScalarOrSchedule = 0.999,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
    every_k: int = 100,
    largest: int = 8192,
    over: MeshAxes = None,
) -> Transformation:
    """SPlus: signs of the momentum in the eigenbasis of the gradients of each matrix (Frans et al., 2025).

    w ← w − η·c·(Q·sign(Qᵀ·m·P)·Pᵀ + λ·w), with m = ema(g), c = 2/(inputs + outputs)

    Q are eigenvectors of ema(g·gᵀ) and P of ema(gᵀ·g), by `eigh` at the first update and at each k-th after it; the
    first update has Q = P = 1. A leaf that is not a linear map takes steps of sign(m), with c = 0.001. `eval_params`
    returns the average of the parameters.

    The authors' codes have other factors of the shape: 1/(2·(inputs + outputs)) in PyTorch, 1/inputs in Optax.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the averages of g·gᵀ and gᵀ·g, in [0, 1).
      decay: The decay of the average of the parameters, above 0 and at most 1.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. It is also
        multiplied by c.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      every_k: k, an integer, 1 or more. The first update makes a basis, and each k-th update after it.
      largest: The largest side that has a basis, an integer.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Source: Frans, Levine and Abbeel 2025, arXiv 2506.07254.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.splus(1.0, weight_decay=0.0), jnp.zeros((2, 2))
    >>> tx.update(jnp.array([[3.0, -1.0], [1.0, 3.0]]), tx.init(params), params)[0]
    Array([[-0.5,  0.5],
           [-0.5, -0.5]], dtype=float32)
    """
    basis = eigenbasis(every_k, decay=b2, method="eigh", largest=largest, over=over)
    signs = in_basis(chain(scale_by_ema(b1), sign()), basis, skip_first=False)
    shaped = partition({is_linear: scale_by_shape("mean")}, default=scale(1e-3), optional=is_linear)
    stepped = chain(signs, add_weight_decay(weight_decay, where), shaped, scale_by_learning_rate(learning_rate))
    return average_params(stepped, decay)
