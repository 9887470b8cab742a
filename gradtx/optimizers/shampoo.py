"""Optimizers that precondition each matrix by a matrix for each of its sides."""

from typing import Literal

from gradtx.combinators import chain, graft, kronecker, momentum, partition, precondition, rms
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.core.where import is_linear
from gradtx.pieces import add_weight_decay, clip_by_rms, covariance_roots, scale_by_learning_rate, whitening
from gradtx.typing import MeshAxes, ScalarOrSchedule, Where


@checked
def shampoo(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    b3: ScalarOrSchedule = 0.99,
    eps: ScalarOrSchedule = 1e-8,
    root_eps: ScalarOrSchedule = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    root: int = 4,
    every_k: int = 10,
    which: Literal["both", "smaller", "larger", "inputs", "outputs"] = "both",
    method: Literal["eigh", "newton"] = "eigh",
    largest: int = 8192,
    over: MeshAxes = None,
) -> Transformation:
    """Shampoo: momentum between inverse roots of both covariances, with Adam's norm (Gupta et al., 2018).

    w ← w − η·(u·‖a‖/‖u‖ + λ·w), with u = L̂^(−1/p)·m̂·R̂^(−1/p), L̂ and R̂ = corrected averages of g·gᵀ and gᵀ·g

    a is Adam's step, whose norm each matrix has (grafting). The roots are renewed at each k-th update. A leaf that is
    not a linear map, such as a bias or a table of embeddings, takes Adam's steps. The paper has sums, `b3=1.0`, no
    momentum and no grafting; averages and grafting are Anil's and Meta's.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1). It is Adam's.
      b3: β₃, the decay of the averages of g·gᵀ and gᵀ·g, above 0 and at most 1. With 1 they are sums.
      eps: ε, added to the denominator, 0 or more. It is Adam's.
      root_eps: The number added to the eigenvalues of L̂ and R̂, 0 or more, in units of their mean.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      root: p, an integer: 4 is the paper's, 2 is common.
      every_k: k, an integer, 1 or more. The first update makes the roots, and each k-th update after it.
      which: The sides that have a root: `"both"`, the `"smaller"` or the `"larger"`, the `"inputs"` or the `"outputs"`.
      method: `"eigh"`, or `"newton"`, which is products alone.
      largest: The largest side that has a root, an integer.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Source: Gupta, Koren and Singer 2018, arXiv 1802.09568, algorithm 1; Anil et al. 2020, arXiv 2002.09018; Shi et al.
    2023, arXiv 2309.06497 (corrections of the averages).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.shampoo(1.0), jnp.zeros((2, 2))
    >>> tx.update(jnp.array([[400.0, 0.0], [0.0, 2.0]]), tx.init(params), params)[0].round(2)
    Array([[-1., -0.],
           [-0., -1.]], dtype=float32)
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    roots = covariance_roots(every_k, which, b3, root, root_eps, method=method, largest=largest, over=over)
    matrices = graft(adam, kronecker(momentum(b1), by=roots))
    steps = partition({is_linear: matrices}, default=adam, optional=is_linear)
    return chain(steps, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def kl_shampoo(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.95,
    b2: ScalarOrSchedule = 0.999,
    b3: ScalarOrSchedule = 0.95,
    eps: ScalarOrSchedule = 1e-8,
    root_eps: ScalarOrSchedule = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    every_k: int = 10,
    method: Literal["eigh", "newton"] = "eigh",
    largest: int = 8192,
    over: MeshAxes = None,
) -> Transformation:
    """KL-Shampoo: Shampoo whose two sides are measured by a Kullback-Leibler divergence (Lin et al., 2025).

    w ← w − η·(u·‖a‖/‖u‖ + λ·w), with u = L̂^(−½)·m̂·R̂^(−½), L = ema(g·R̂⁻¹·gᵀ/m), R = ema(gᵀ·L̂⁻¹·g/n)

    g is n × m, and L and R have the decay β₃. Each side is measured after the other has been whitened by its last root;
    the first update measures g·gᵀ and gᵀ·g. a is Adam's step, whose norm each matrix has (grafting). A leaf that is not
    a linear map takes Adam's steps.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1). It is Adam's.
      b3: β₃, the decay of L and R, above 0 and at most 1.
      eps: ε, added to the denominator, 0 or more. It is Adam's.
      root_eps: The number added to the eigenvalues of L̂ and R̂, 0 or more, in units of their mean.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      every_k: k, an integer, 1 or more. The first update makes the roots, and each k-th update after it.
      method: `"eigh"`, or `"newton"`, which is products alone.
      largest: The largest side that has a root, an integer.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Source: Lin et al. 2025, arXiv 2509.03378.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.kl_shampoo(1.0), jnp.zeros((2, 2))
    >>> u, state = tx.update(jnp.array([[4.0, 0.0], [0.0, 2.0]]), tx.init(params), params)
    >>> u.round(2)
    Array([[-0.63, -0.  ],
           [-0.  , -1.26]], dtype=float32)
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    roots = covariance_roots(
        every_k, decay=b3, root=2, eps=root_eps, whiten=True, method=method, largest=largest, over=over
    )
    matrices = graft(adam, kronecker(momentum(b1), by=roots))
    steps = partition({is_linear: matrices}, default=adam, optional=is_linear)
    return chain(steps, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def psgd_kron(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    rate: ScalarOrSchedule = 0.1,
    max_rms: ScalarOrSchedule = 1.1,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    every_k: int = 1,
    over: MeshAxes = None,
) -> Transformation:
    """PSGD-Kron: momentum whitened by a preconditioner for each side, fitted step by step (Li, 2018).

    w ← w − η·(u·min(1, c/rms(u)) + λ·w), with u = P·m̂·S, P = AᵀA, S = BᵀB, A ← A − μ/ℓ·(h·hᵀ·A − m·A), h = P·g·S

    B follows the same rule with hᵀ. g is n × m, and ℓ is about the largest eigenvalue of h·hᵀ + m. The fit needs
    products alone. A leaf that is not a linear map takes Adam's steps.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1). It is Adam's, for leaves that are not matrices.
      eps: ε, added to the denominator, 0 or more. It is Adam's, for leaves that are not matrices.
      rate: μ, the step size of the fit, above 0.
      max_rms: c, the RMS above which the update of a matrix is scaled down, above 0.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      every_k: k, an integer, 1 or more. The preconditioners are fitted at the first update and at each k-th after it.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Source: Li 2018, arXiv 1512.04202; Li 2024, arXiv 2402.11858; in the form of psgd_torch, dQ = Q^0.5·E·Q^1.5.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.psgd_kron(1.0), jnp.zeros((2, 2))
    >>> state = tx.init(params)
    >>> for _ in range(100):
    ...     u, state = tx.update(jnp.array([[400.0, 0.0], [0.0, 100.0]]), state, params)
    >>> u.round(2)  # all singular values become √2, and the RMS 1
    Array([[-1.41, -0.  ],
           [-0.  , -1.41]], dtype=float32)
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    matrices = chain(kronecker(momentum(b1), by=whitening(every_k, rate=rate, over=over)), clip_by_rms(max_rms))
    steps = partition({is_linear: matrices}, default=adam, optional=is_linear)
    return chain(steps, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))
