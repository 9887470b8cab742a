"""Optimizers that keep their state in few coordinates of each matrix, and those of adapters of low rank."""

from gradtx.combinators import chain, in_basis, masked, momentum, precondition, rms
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.core.where import is_linear
from gradtx.pieces import (
    add_weight_decay,
    limit_growth,
    random_vectors,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    singular_vectors,
)
from gradtx.typing import ScalarOrSchedule, TransformationLike, Where


@checked
def galore(
    learning_rate: ScalarOrSchedule = 1e-2,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    alpha: ScalarOrSchedule = 0.25,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    rank: int = 128,
    every_k: int = 200,
) -> Transformation:
    """GaLore: Adam on the coordinates of each matrix in its first singular vectors (Zhao et al., 2024).

    w ← w − η·(α·P·(m̂/(√ŝ + ε)) + λ·w), with m̂ = corrected ema(x), ŝ = corrected ema(x²), x = Pᵀ·g

    P are the first r left singular vectors of g, taken at the first update and at each k-th after it, for a matrix of
    n × m with n ≤ m; for others P are right singular vectors, on the other side. The state has r·m numbers twice, and
    P. The part of g that P does not span is dropped. As in the authors' code, m and s stay as they are when P changes;
    of the two signs of a vector, the one nearer to the old vector is taken, where the code leaves it to the SVD.

    A leaf that is not a linear map, such as a bias or a table of embeddings, takes Adam's steps, without α.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. The authors' code has 1e-6.
      alpha: α, the factor of the updates of matrices.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      rank: r, the number of vectors, an integer; at most the smaller side.
      every_k: k, an integer, 1 or more. The vectors are taken anew at every k-th update.

    Source: Zhao et al. 2024, arXiv 2403.03507, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> state = gx.galore(rank=4).init(jnp.ones((100, 200)))  # two averages of 4 × 200, and 4 vectors of 100
    >>> sum(x.size for x in jax.tree.leaves(state.slots) if x.ndim == 2)
    2000
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    inside = in_basis(adam, singular_vectors(every_k, rank=rank), carry=False)
    scaled = masked(scale(alpha), is_linear, otherwise="identity")
    return chain(inside, scaled, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def fira(
    learning_rate: ScalarOrSchedule = 1e-2,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    growth: ScalarOrSchedule = 1.01,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    rank: int = 128,
    every_k: int = 200,
) -> Transformation:
    """Fira: GaLore that adds the rest of the gradient, scaled as Adam scales the coordinates (Chen et al., 2024).

    w ← w − η·(P·a + c·φ·(g − P·x) + λ·w), with a = m̂/(√ŝ + ε) of x = Pᵀ·g, φ = ‖a‖/‖x‖ of each column

    P are the first r singular vectors on the smaller side, as in GaLore. c ≤ 1 limits the growth of the norm of the
    second term from one update to the next. As in the paper; the authors' code also multiplies products with P by a
    factor, and applies the bias corrections after the limit.

    A leaf that is not a linear map takes Adam's steps.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. The authors' code has 1e-6.
      growth: The largest ratio of the norm of the second term to its norm before, above 0.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      rank: r, the number of vectors, an integer; at most the smaller side.
      every_k: k, an integer, 1 or more. The vectors are taken anew at every k-th update.

    Source: Chen et al. 2024, arXiv 2410.01623, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.fira(1.0, rank=1), jnp.zeros((2, 2))
    >>> tx.update(jnp.array([[4.0, 0.0], [0.0, 2.0]]), tx.init(params), params)[0]
    Array([[-1., -0.],
           [-0., -0.]], dtype=float32)
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    both = in_basis(adam, singular_vectors(every_k, rank=rank), residual=limit_growth(growth), carry=False)
    return chain(both, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def apollo(
    learning_rate: ScalarOrSchedule = 1e-2,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    alpha: ScalarOrSchedule = 1.0,
    growth: ScalarOrSchedule = 1.01,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    rank: int = 128,
    every_k: int = 200,
    seed: int = 0,
) -> Transformation:
    """APOLLO: gradients scaled, column by column, as Adam scales random combinations of their rows (Zhu et al., 2024).

    w ← w − η·(α·c·φ·g + λ·w), with φ = ‖m̂/(√ŝ + ε)‖/‖x‖ of each column, m̂ and ŝ of x = Pᵀ·g

    P are r random vectors of N(0, 1/r), drawn anew at every k-th update, on the smaller side of the matrix: where that
    is the columns, φ is of each row. c ≤ 1 limits the growth of the norm of c·φ·g from one update to the next. The
    vectors depend on the seed and their shape alone: matrices of one shape share them, and no random `key` is needed.

    A leaf that is not a linear map takes Adam's steps. The authors' code applies the bias corrections after the limit.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. The authors' code has 1e-6.
      alpha: α, the factor of the updates of matrices, the root of the code's `scale`.
      growth: The largest ratio of the norm of an update to the norm before it, above 0.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      rank: r, the number of vectors, an integer; at most the smaller side.
      every_k: k, an integer, 1 or more. The vectors are drawn anew at every k-th update.
      seed: The seed of the vectors, an integer.

    Source: Zhu et al. 2024, arXiv 2412.05270, algorithm 1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> state = gx.apollo(rank=4).init(jnp.ones((100, 200)))  # two averages of 4 × 200, and 4 vectors of 100
    >>> sum(x.size for x in jax.tree.leaves(state.slots) if x.ndim == 2)
    2000
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    basis = random_vectors(every_k, rank=rank, orthonormal=False, seed=seed)
    limited = masked(chain(limit_growth(growth), scale(alpha)), is_linear, otherwise="identity")
    scaled = chain(in_basis(adam, basis, emit="scaled", carry=False), limited)
    return chain(scaled, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def apollo_mini(
    learning_rate: ScalarOrSchedule = 1e-2,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    alpha: ScalarOrSchedule = 128**0.5,
    growth: ScalarOrSchedule = 1.01,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    rank: int = 1,
    every_k: int = 200,
    seed: int = 0,
) -> Transformation:
    """APOLLO-Mini: gradients scaled, matrix by matrix, as Adam scales one random projection (Zhu et al., 2024).

    w ← w − η·(α·c·φ·g + λ·w), with φ = ‖m̂/(√ŝ + ε)‖/‖x‖ of the whole matrix, m̂ and ŝ of x = Pᵀ·g

    P is one random vector of N(0, 1), drawn anew at every k-th update, on the smaller side of the matrix: the state has
    two numbers for each weight of the larger side. c ≤ 1 limits the growth of the norm of c·φ·g from one update to the
    next. α makes up for what the projection loses of Adam's factors. The vectors depend on the seed and their shape
    alone, and no random `key` is needed.

    A leaf that is not a linear map takes Adam's steps. The authors' code applies the bias corrections after the limit.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more. The authors' code has 1e-6.
      alpha: α, the factor of the updates of matrices, the root of the code's `scale`, 128.
      growth: The largest ratio of the norm of an update to the norm before it, above 0.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      rank: The number of vectors, an integer; at most the smaller side. For r vectors they are of N(0, 1/r).
      every_k: k, an integer, 1 or more. The vectors are drawn anew at every k-th update.
      seed: The seed of the vectors, an integer.

    Source: Zhu et al. 2024, arXiv 2412.05270, section 4.2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> state = gx.apollo_mini().init(jnp.ones((100, 200)))  # two averages of 200, and a vector of 100
    >>> sum(x.size for x in jax.tree.leaves(state.slots) if x.ndim == 2)
    500
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    basis = random_vectors(every_k, rank=rank, orthonormal=False, seed=seed)
    limited = masked(chain(limit_growth(growth), scale(alpha)), is_linear, otherwise="identity")
    scaled = chain(in_basis(adam, basis, emit="scaled_whole", carry=False), limited)
    return chain(scaled, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def conda(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    every_k: int = 2000,
) -> Transformation:
    """Conda: Adam on the coordinates of each matrix in the singular vectors of its momentum (Wang et al., 2025).

    w ← w − η·(P·(m̂/(√ŝ + ε)) + λ·w), with m̂ = corrected ema(x), ŝ = corrected ema(x²), x = Pᵀ·g

    P are all singular vectors, on the smaller side, of the average of gradients, taken at the first update and at each
    k-th after it. When they change, m turns with them and s stays. A leaf that is not a linear map takes Adam's steps.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      every_k: k, an integer, 1 or more. The vectors are taken anew at every k-th update.

    Source: Wang et al. 2025, arXiv 2509.24218.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.conda(1.0), jnp.zeros((2, 2))
    >>> tx.update(jnp.array([[4.0, 0.0], [0.0, 2.0]]), tx.init(params), params)[0]
    Array([[-1., -0.],
           [-0., -1.]], dtype=float32)
    """
    adam = precondition(momentum(b1), by=rms(b2), eps=eps)
    inside = in_basis(adam, singular_vectors(every_k), of=scale_by_ema(b1))
    return chain(inside, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def lora_plus(inner: TransformationLike, ratio: ScalarOrSchedule = 16.0, where: Where = "**/*lora_b") -> Transformation:
    """LoRA+: a larger learning rate for the second factors of adapters of low rank (Hayou et al., 2024).

    B ← B + r·a(g) for the second factors B of adapters x·A·B, w ← w + a(g) for all other parameters

    a(g) is the update of the inner optimizer. The second factor is the one that starts at 0. As its learning rate is r
    times the others', so is its decoupled weight decay.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It has the
        learning rate of the first factors.
      ratio: r, the ratio of the learning rates, 0 or more: above 1, for most models and tasks.
      where: The second factors: a path pattern, a function of (path, leaf), a tree of booleans, or None for all. The
        default is by the names of Flax NNX, `lora_b`, and Qwix, `kernel_lora_b`; in PEFT they are `"**/lora_B/**"`.

    Raises:
      ValueError: A pattern chooses no parameter.

    Source: Hayou, Ghosh and Yu 2024, arXiv 2402.12354.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> params = {"dense": {"lora_a": jnp.ones((3, 1)), "lora_b": jnp.zeros((1, 2))}}
    >>> tx = gx.lora_plus(gx.adam(0.5), ratio=4.0)
    >>> tx.update(params, tx.init(params))[0]["dense"]["lora_a"].ravel()
    Array([-0.5, -0.5, -0.5], dtype=float32)
    >>> tx.update({"dense": {"lora_a": None, "lora_b": jnp.ones((1, 2))}}, tx.init(params))[0]["dense"]["lora_b"]
    Array([[-2., -2.]], dtype=float32)
    """
    return chain(inner, masked(scale(ratio), where, otherwise="identity"))
