"""Optimizers that measure the step of each layer in a norm of its own: orthogonalized updates for matrices."""

from typing import Any, Literal

from gradtx.combinators import chain, graft, partition, precondition, reduced, rms
from gradtx.combinators.averages import average
from gradtx.core import NonNegative, Transformation, scalar
from gradtx.core.arguments import checked, sequence
from gradtx.core.where import is_linear, is_matrix
from gradtx.optimizers.adam import adam
from gradtx.pieces import (
    add_momentum,
    add_weight_decay,
    identity,
    low_rank_momentum,
    nesterov_ema,
    normalize,
    orthogonalize,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    scale_by_shape,
    sign,
    sqrt,
    square,
    unit_rms,
)
from gradtx.typing import DTypeLike, MeshAxes, Patterns, ScalarOrSchedule, TransformationLike, Where


def _each(where: Where, tx: TransformationLike) -> dict[Any, TransformationLike]:
    """Return rules for `partition` that give `tx` to one pattern or function, or to each of several."""
    one = isinstance(where, str) or callable(where)
    return dict.fromkeys((where,) if one else sequence("the patterns of a group", where), tx)


ADAM_RATE = 0.015  # of Muon's rate: 3e-4 of 0.02, as in the author's code


def _for_matrices(
    place: str, direction: Transformation, learning_rate: Any, weight_decay: Any, default: Any, where: Any, exclude: Any
) -> Transformation:
    """Optimize matrices with a direction, and all other parameters with `default`, or else Adam."""
    matrices = chain(direction, add_weight_decay(weight_decay), scale_by_learning_rate(learning_rate))
    rate = scalar(f"{place}: learning_rate", learning_rate, NonNegative)
    default = adam(ADAM_RATE * rate, b2=0.95, eps=1e-10) if default is None else default
    return partition(_each(exclude, default) | {where: matrices}, default, optional=where if callable(where) else ())


@checked
def muon(
    learning_rate: ScalarOrSchedule = 0.02,
    momentum: ScalarOrSchedule = 0.95,
    weight_decay: ScalarOrSchedule = 0.0,
    default: TransformationLike | None = None,
    where: Where = is_linear,
    exclude: Patterns = (),
    nesterov: bool = True,
    corrected: bool = False,
    rule: Literal["original", "spectral", "adam", "sign"] = "original",
    method: Literal["newton_schulz", "polar_express", "svd"] = "newton_schulz",
    dtype: DTypeLike | None = None,
    balanced: Literal["inputs", "outputs", "both"] | None = None,
    over: MeshAxes = None,
) -> Transformation:
    """Muon: orthogonalized momentum for matrices, another optimizer for the rest (Jordan et al., 2024).

    w ← w − η·(c·U·Vᵀ + λ·w), with U·S·Vᵀ = g + β·v, v ← β·v + g, c = √max(1, outputs/inputs)

    U·S·Vᵀ is the singular value decomposition, so all singular values of the update become c. The parameters that
    `where` chooses take these steps, except those of `exclude`, such as embeddings and heads; `default` optimizes all
    others.

    The name of a parameter determines which axes are inputs and outputs: `kernel` and `w` are (inputs, outputs),
    `weight` is (outputs, inputs). Declare others, such as stacked layers, with `layout`; `explain` lists all axes.

    PyTorch takes an average of gradients for v, which gives the same steps, since only the direction of v counts. Optax
    corrects that average for its start at 0 before Nesterov's step, so its first steps differ (`corrected=True`).

    The iterations start from the update divided by its Frobenius norm, without an ε, so the scale of the gradient does
    not matter. Optax adds ε = 1e-8 to the norm, and PyTorch bounds the norm from below by ε = 1e-7.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It applies to the
        matrices, and sets the rate of the default for all other parameters. PyTorch's default is 1e-3.
      momentum: β, the decay of the momentum, in [0, 1).
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. It applies to the
        matrices only. PyTorch's default is 0.1.
      default: The optimizer of all other parameters, with a learning rate of its own. The default is Adam with the
        learning rate 0.015·η, which is 3e-4 for η = 0.02, β₂ = 0.95 and ε = 1e-10, as in the author's code.
      where: The parameters that Muon optimizes: a path pattern or a function of (path, leaf). The default is every
        linear map: not vectors, nor tables of embeddings, nor leaves whose axes are in doubt.
      exclude: The parameters that `default` optimizes although `where` chooses them: a path pattern or a function of
        (path, leaf), or a sequence of them. Each must choose at least one parameter.
      nesterov: If True, use Nesterov's form of momentum. If False, U·S·Vᵀ = v.
      corrected: If True, correct the average of gradients for its start at 0 before Nesterov's step, as Optax does. It
        has no effect if `nesterov` is False.
      rule: The factor c: `"original"`, √max(1, outputs/inputs), Muon's own; `"adam"`, 0.2·√max(inputs, outputs), which
        makes the RMS of the update 0.2, about that of Adam's updates; `"spectral"`, √(outputs/inputs); or `"sign"`,
        1/inputs.
      method: The algorithm that orthogonalizes: `"newton_schulz"`, Muon's five iterations; `"polar_express"`, five
        iterations that come closer to orthogonal; or `"svd"`, exact but slow on accelerators. For random matrices of
        condition 10, 1000 and 10⁵, the relative distance of the second from U·Vᵀ was 0.08, 0.17 and 0.58, of the first
        0.20, 0.31 and 0.64; at the same rates, its final loss was 0.77 to 0.94 of the first's on the digits at small
        rates, at large rates above or below it, and 0.98 to 1.02 of it on the text of `gradtx race`.
      dtype: The dtype to which the factors of the iterations' products are rounded: `"bfloat16"`, as in Muon's own
        code, `"float32"`, or None for the dtype that they have.
      balanced: MuonEq: divide the weights into each output (`"inputs"`, its form R and the authors' default), out of
        each input (`"outputs"`, C), or each weight by both norms (`"both"`, RC), before U·S·Vᵀ is taken, so that few
        iterations come closer to orthogonal. None for no division. The authors add ε = 1e-8 to squared norms.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Raises:
      ValueError: A pattern chooses no parameter, or a chosen leaf is not a linear map with known axes.
      TypeError: A chosen leaf is complex.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers; weight decay, Liu et al. 2025, arXiv 2502.16982;
    `balanced`, Chang et al. 2026, arXiv 2603.28254.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.muon(0.5, method="svd"), jnp.zeros((2, 2))
    >>> tx.update(jnp.array([[300.0, 0.0], [0.0, 5.0]]), tx.init(params), params)[0].round(3)
    Array([[-0.5, -0. ],
           [-0. , -0.5]], dtype=float32)
    """
    direction = nesterov_ema(momentum) if corrected and nesterov else add_momentum(momentum, nesterov)
    even = (normalize(balanced),) if balanced else ()
    shaped = chain(direction, *even, orthogonalize(method, dtype=dtype, over=over), scale_by_shape(rule))
    return _for_matrices("muon", shaped, learning_rate, weight_decay, default, where, exclude)


@checked
def normuon(
    learning_rate: ScalarOrSchedule = 0.02,
    momentum: ScalarOrSchedule = 0.95,
    b2: ScalarOrSchedule = 0.95,
    eps: ScalarOrSchedule = 1e-10,
    weight_decay: ScalarOrSchedule = 0.0,
    default: TransformationLike | None = None,
    where: Where = is_linear,
    exclude: Patterns = (),
    rule: Literal["original", "spectral", "adam", "sign", "mean"] = "original",
    method: Literal["newton_schulz", "polar_express", "svd"] = "newton_schulz",
    over: MeshAxes = None,
) -> Transformation:
    """NorMuon: Muon with one denominator for each neuron (Li et al., 2025).

    w ← w − η·(c·o·‖u‖/‖o‖ + λ·w), with o = u/(√s + ε), s = ema(mean u²) of each output, u Muon's orthogonal matrix

    s is one number for each output of the linear map. The division leaves the Frobenius norm of u as it was, so the
    rates are Muon's. c is the factor of Muon's `rule`.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It applies to the
        matrices, and sets the rate of the default for all other parameters.
      momentum: β, the decay of the momentum, in [0, 1).
      b2: β₂, the decay of the average s of squared updates, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. It applies to the
        matrices only.
      default: The optimizer of all other parameters, with a learning rate of its own. The default is Adam with the
        learning rate 0.015·η, β₂ = 0.95 and ε = 1e-10, as for `muon`.
      where: The parameters that NorMuon optimizes: a path pattern or a function of (path, leaf). The default is every
        linear map: not vectors, nor tables of embeddings, nor leaves whose axes are in doubt.
      exclude: The parameters that `default` optimizes although `where` chooses them: a path pattern or a function of
        (path, leaf), or a sequence of them. Each must choose at least one parameter.
      rule: The factor c: `"original"`, √max(1, outputs/inputs), or another rule of `scale_by_shape`.
      method: The algorithm that orthogonalizes: `"newton_schulz"`, `"polar_express"` or `"svd"`.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Raises:
      ValueError: A pattern chooses no parameter, or a chosen leaf is not a linear map with known axes.
      TypeError: A chosen leaf is complex.

    Source: Li et al. 2025, arXiv 2510.05491, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.normuon(0.5, method="svd"), jnp.zeros((2, 2))
    >>> tx.update(jnp.array([[300.0, 0.0], [0.0, 5.0]]), tx.init(params), params)[0].round(3)
    Array([[-0.5, -0. ],
           [-0. , -0.5]], dtype=float32)
    """
    of_neurons = chain(square(), reduced(scale_by_ema(b2), "inputs"), sqrt())
    divided = graft(identity(), precondition(identity(), by=of_neurons, eps=eps))
    shaped = chain(
        add_momentum(momentum, nesterov=True), orthogonalize(method, over=over), divided, scale_by_shape(rule)
    )
    return _for_matrices("normuon", shaped, learning_rate, weight_decay, default, where, exclude)


@checked
def adamuon(
    learning_rate: ScalarOrSchedule = 0.02,
    momentum: ScalarOrSchedule = 0.95,
    b2: ScalarOrSchedule = 0.95,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.01,
    default: TransformationLike | None = None,
    where: Where = is_linear,
    exclude: Patterns = (),
    method: Literal["newton_schulz", "polar_express", "svd"] = "newton_schulz",
    over: MeshAxes = None,
) -> Transformation:
    """AdaMuon: Muon of signs, with a denominator for each coordinate (Si et al., 2025).

    w ← w − η·(0.2·o/rms(o) + λ·w), with o = u/(√ŝ + ε), ŝ = ema(u²)/(1 − β₂ᵗ), u·S·Vᵀ = sign(g + β·v) orthogonalized

    The signs are of Muon's momentum, v ← β·v + g, and u is the orthogonal matrix of the signs. Each update has the RMS
    0.2, about that of Adam's updates. The published code leaves out the signs.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It applies to the
        matrices, and sets the rate of the default for all other parameters.
      momentum: β, the decay of the momentum, in [0, 1).
      b2: β₂, the decay of the average of squared updates, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. It applies to the
        matrices only.
      default: The optimizer of all other parameters, with a learning rate of its own. The default is Adam with the
        learning rate 0.015·η, β₂ = 0.95 and ε = 1e-10, as for `muon`.
      where: The parameters that AdaMuon optimizes: a path pattern or a function of (path, leaf). The default is every
        linear map: not vectors, nor tables of embeddings, nor leaves whose axes are in doubt.
      exclude: The parameters that `default` optimizes although `where` chooses them: a path pattern or a function of
        (path, leaf), or a sequence of them. Each must choose at least one parameter.
      method: The algorithm that orthogonalizes: `"newton_schulz"`, `"polar_express"` or `"svd"`.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Raises:
      ValueError: A pattern chooses no parameter, or a chosen leaf is not a linear map with known axes.
      TypeError: A chosen leaf is complex.

    Source: Si, Zhang and Shen 2025, arXiv 2507.11005.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.adamuon(0.5, weight_decay=0.0, method="svd"), jnp.zeros((2, 2))
    >>> tx.update(jnp.array([[300.0, 2.0], [-1.0, 5.0]]), tx.init(params), params)[0].round(3)
    Array([[-0.1, -0.1],
           [ 0.1, -0.1]], dtype=float32)
    """
    signs = chain(add_momentum(momentum, nesterov=True), sign(), orthogonalize(method, over=over))
    divided = precondition(identity(), by=rms(b2), eps=eps)
    return _for_matrices(
        "adamuon", chain(signs, divided, unit_rms(), scale(0.2)), learning_rate, weight_decay, default, where, exclude
    )


@checked
def dion(
    learning_rate: ScalarOrSchedule = 0.01,
    momentum: ScalarOrSchedule = 0.95,
    weight_decay: ScalarOrSchedule = 0.01,
    default: TransformationLike | None = None,
    where: Where = is_linear,
    exclude: Patterns = (),
    rule: Literal["original", "spectral", "adam", "sign", "mean"] = "spectral",
    rank: int = 64,
    seed: int = 0,
) -> Transformation:
    """Dion: orthonormal updates of rank r, whose momentum keeps the rest (Ahn et al., 2025).

    w ← w − η·(c·P·Qᵀ + λ·w), with m ← m + g, P = qr(m·Q), R = mᵀ·P, m ← m − (1 − β)·P·Rᵀ, Q ← R/‖R‖ of each column

    Q starts at random, and follows m by one step of power iteration for each update. c is √(outputs/inputs).

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It applies to the
        matrices, and sets the rate of the default for all other parameters.
      momentum: β, the decay of the momentum, in [0, 1). It applies to the part of m that is emitted.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. It applies to the
        matrices only.
      default: The optimizer of all other parameters, with a learning rate of its own. The default is Adam with the
        learning rate 0.015·η, β₂ = 0.95 and ε = 1e-10, as for `muon`.
      where: The parameters that Dion optimizes: a path pattern or a function of (path, leaf). The default is every
        linear map: not vectors, nor tables of embeddings, nor leaves whose axes are in doubt.
      exclude: The parameters that `default` optimizes although `where` chooses them: a path pattern or a function of
        (path, leaf), or a sequence of them. Each must choose at least one parameter.
      rule: The factor c: `"spectral"`, √(outputs/inputs), or another rule of `scale_by_shape`.
      rank: r, the number of columns of P and Q, an integer; at most the smaller side.
      seed: The seed of the random Q of the start, an integer.

    Raises:
      ValueError: A pattern chooses no parameter, or a chosen leaf is not a linear map with known axes.
      TypeError: A chosen leaf is complex.

    Source: Ahn et al. 2025, arXiv 2504.05295, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.dion(0.5, weight_decay=0.0, rank=1), jnp.zeros((2, 2))
    >>> updates, state = tx.update(jnp.array([[300.0, 400.0], [0.0, 0.0]]), tx.init(params), params)
    >>> [[round(float(x), 3) + 0.0 for x in row] for row in updates]
    [[-0.3, -0.4], [0.0, 0.0]]
    """
    shaped = chain(low_rank_momentum(rank, momentum, seed), scale_by_shape(rule))
    return _for_matrices("dion", shaped, learning_rate, weight_decay, default, where, exclude)


@checked
def scion(
    learning_rate: ScalarOrSchedule = 2.0**-12,
    decay: ScalarOrSchedule = 0.9,
    radius: ScalarOrSchedule = 50.0,
    outer_radius: ScalarOrSchedule = 3000.0,
    heads: Patterns = (),
    embeddings: Patterns = (),
    constrained: bool = True,
    over: MeshAxes = None,
) -> Transformation:
    """Scion: steps to the boundary of a norm ball that fits each kind of layer (Pethick et al., 2025).

    w ← w − η·(ρ·o + w), with o = √(outputs/inputs)·U·Vᵀ, U·S·Vᵀ = m, m = ema(g)

    o is the point of the unit ball of the layer's norm that reaches farthest along m. For matrices it is as above, with
    the singular value decomposition U·S·Vᵀ; for the parameters of `heads` it is sign(m)/inputs, for those of
    `embeddings` sign(m), both with `outer_radius` as ρ; for vectors it is m/rms(m). If `constrained`, the parameters
    stay in balls of radius ρ; if not, the term w is left out.

    The defaults are the paper's for nanoGPT; a small network needs a radius of about 1. For convolutions the paper's o
    is smaller by a factor of the kernel's width.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. If `constrained`, the
        weight of the new point against the parameters, at most 1.
      decay: β, the decay of the average m of gradients, in [0, 1).
      radius: ρ, the radius of the ball for hidden matrices and for vectors.
      outer_radius: ρ for the parameters of `heads` and `embeddings`.
      heads: The output layers: a path pattern or a function of (path, leaf), or a sequence of them. Each must choose at
        least one parameter.
      embeddings: The tables of embeddings, in the same form as `heads`.
      constrained: If True, pull the parameters towards 0 by η·w, so that they stay in the balls. If False, leave out
        this term.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Raises:
      ValueError: A pattern chooses no parameter, or a head is not a linear map with known axes.
      TypeError: A matrix or head is complex.

    Source: Pethick et al. 2025, arXiv 2502.07529 (SCG, and uSCG if not `constrained`), without its ε.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.scion(0.5, outer_radius=2.0, embeddings="table"), {"table": jnp.ones((1, 2))}
    >>> tx.update({"table": jnp.array([[0.1, -3.0]])}, tx.init(params), params)[0]
    {'table': Array([[-1.5,  0.5]], dtype=float32)}
    """
    signs, outer = (sign(), scale_by_shape("sign")), scale(outer_radius)
    spectral = chain(orthogonalize(over=over), scale_by_shape("spectral"), scale(radius))
    rules = _each(heads, chain(*signs, outer)) | _each(embeddings, chain(sign(), outer)) | {is_linear: spectral}
    oracle = partition(rules, default=chain(unit_rms(), scale(radius)), optional=is_linear)
    inward = (add_weight_decay(1.0),) if constrained else ()
    return chain(scale_by_ema(decay), oracle, *inward, scale_by_learning_rate(learning_rate))


@checked
def sinkgd(
    learning_rate: ScalarOrSchedule = 1e-3,
    weight_decay: ScalarOrSchedule = 0.0,
    default: TransformationLike | None = None,
    where: Where = is_linear,
    exclude: Patterns = (),
    steps: int = 5,
) -> Transformation:
    """SinkGD: stateless descent along gradients with even rows and columns (Scetbon et al., 2025).

    w ← w − η·(u + λ·w), with u ← u/rms(u) of the weights into each output, then out of each input, k times from u = g

    The norms of rows and columns approach √n and √m together, as those of a matrix of signs. Matrices have no state.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. The default uses it too.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. It applies to the
        matrices only.
      default: The optimizer of all other parameters, with a learning rate of its own. The default is Adam with the
        learning rate η.
      where: The parameters that SinkGD optimizes: a path pattern or a function of (path, leaf). The default is every
        linear map: not vectors, nor tables of embeddings, nor leaves whose axes are in doubt.
      exclude: The parameters that `default` optimizes although `where` chooses them: a path pattern or a function of
        (path, leaf), or a sequence of them. Each must choose at least one parameter.
      steps: k, the number of times that both norms are evened out, an integer.

    Raises:
      ValueError: A pattern chooses no parameter, or the axes of a chosen leaf are in doubt.

    Source: Scetbon et al. 2025, arXiv 2502.06742, algorithms 3 (SR-Sinkhorn) and 4, without its ε.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.sinkgd(0.5), jnp.zeros((2, 2))
    >>> tx.update(jnp.array([[300.0, 0.0], [0.0, -5.0]]), tx.init(params), params)[0].round(3) + 0.0
    Array([[-0.707,  0.   ],
           [ 0.   ,  0.707]], dtype=float32)
    """
    even = chain(*[unit_rms("inputs"), unit_rms("outputs")] * steps)
    rest = adam(learning_rate) if default is None else default
    return _for_matrices("sinkgd", even, learning_rate, weight_decay, rest, where, exclude)


@checked
def scale_sgd(
    learning_rate: ScalarOrSchedule = 1e-3,
    momentum: ScalarOrSchedule = 0.9,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    heads: Patterns = (),
) -> Transformation:
    """SCALE: descent with column-normalized gradients, and momentum for the last layer alone (Glentis et al., 2025).

    w ← w − η·(m/rms(m) + λ·w), with m = ema(g) of the parameters of `heads` and m = g of all other matrices

    The root mean square is of the weights into each output; in a table of embeddings, whose rows are the inputs, of
    each column. Only the heads have a state. Vectors take Adam's steps. As in the authors' code, the vectors of weights
    get a root mean square of 1; in the paper, a norm of 1.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      momentum: β, the decay of the momentum, in [0, 1). The momentum is the average m of the gradients of the heads.
      b1: β₁, the decay of the average of gradients, in [0, 1). It applies to vectors, as β₂ and ε.
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      heads: The output layers: a path pattern or a function of (path, leaf), or a sequence of them. Each must choose at
        least one parameter.

    Raises:
      ValueError: A pattern chooses no parameter, or the axes of a matrix are in doubt: declare them with `layout`.

    Source: Glentis et al. 2025, arXiv 2506.16659, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.scale_sgd(0.5), jnp.zeros((2, 2))
    >>> tx.update(jnp.array([[3.0, 0.1], [3.0, -0.1]]), tx.init(params), params)[0].round(3)
    Array([[-0.5, -0.5],
           [-0.5,  0.5]], dtype=float32)
    """
    columns = unit_rms("inputs")
    rules = _each(heads, chain(scale_by_ema(momentum), columns))
    for of_kind, tx in {is_linear: columns, is_matrix: unit_rms("outputs")}.items():
        rules.setdefault(of_kind, tx)
    vectors = precondition(average(b1), by=rms(b2), eps=eps)
    direction = partition(rules, vectors, optional=(is_linear, is_matrix))
    return chain(direction, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))
