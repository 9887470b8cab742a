"""Matrix-valued pieces: orthogonalise the updates of a layer, and scale them by the layer's shape."""

from itertools import accumulate
from math import prod, sqrt
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import Precision, stop_gradient
from jax.sharding import NamedSharding, PartitionSpec, reshard

from gradtx.core import Context, Decay, Kind, PerLeaf, Slots, Transformation, path_of
from gradtx.core.axes import Axes, axes_of, leaves_of
from gradtx.core.errors import said
from gradtx.core.kinds import Count
from gradtx.core.trees import differentiable, flatten_with_path, sharded, sharded_along, widen, working_dtype
from gradtx.pieces.bases import matrix_of, qr, times
from gradtx.pieces.formulas import norm, unit
from gradtx.pieces.spreading import Over, axes_over, spread

QUINTIC = (3.4445, -4.7750, 2.0315)  # Muon's, the same at every step
POLAR_EXPRESS = (  # optimal for singular values from 1e-3 to 1, one step after another; the last one repeats
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
SAFETY = 1.01  # the paper divides the input of each step except the last by this, against rounding errors


class _View(NamedTuple):
    """A view of an array as a stack of matrices: its axes split and in the order batch, inputs, outputs."""

    split: tuple[int, ...]
    order: tuple[int, ...]
    batch: int
    inputs: int
    outputs: int


def _view(axes: Axes, shape: tuple[int, ...]) -> _View:
    split = axes.sizes(shape)
    batch, inputs, outputs = (axes.of(role) for role in ("batch", "in", "out"))
    several = (prod(split[axis] for axis in side) for side in (inputs, outputs))
    return _View(split, (*batch, *inputs, *outputs), len(batch), *several)


def _refuse_what_is_not_linear(tx: Any, params: Any) -> Slots:
    for path, p in leaves_of(params).items():
        axes, name = axes_of(path, p), f"{type(tx).__name__}: {path!r}"
        if jnp.issubdtype(p.dtype, jnp.complexfloating):
            what = "keep the real and the imaginary part as two leaves"
            raise TypeError(f"{name} must be a real matrix, got complex numbers: {what}")
        axes.refuse_doubt(type(tx).__name__, path)
        if jnp.issubdtype(p.dtype, jnp.floating) and not axes.is_linear:
            raise ValueError(
                f"{name} must be a linear map, with inputs and outputs, got shape {p.shape}, axes '{axes}': "
                f"give it another transformation with partition({{is_linear: {type(tx).__name__}(…)}}, default=…)"
            )
    return {}


def _iterate(x: Array, coefficients: Any, dtype: Any) -> Array:
    """Iterate x ← a·x + b·(x·xᵀ)·x + c·(x·xᵀ)²·x, with the factors of products, but not sums, in `dtype`."""
    exact = Precision.DEFAULT if dtype == jnp.bfloat16 else Precision.HIGHEST  # not the fewer bits of a fast unit

    def times(a, b):
        return jnp.matmul(a.astype(dtype), b.astype(dtype), precision=exact, preferred_element_type=wide)

    wide = working_dtype(jax.ShapeDtypeStruct((), dtype))
    x, given = x.astype(wide), x.dtype
    for a, b, c in coefficients:
        gram = times(x, x.mT)
        x = a * x + times(b * gram + c * times(gram, gram), x)
    return x.astype(given)


def _coefficients(method: str, steps: int) -> list[tuple[float, float, float]]:
    if method == "newton_schulz":
        return [QUINTIC] * steps
    safe = [(a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in POLAR_EXPRESS[:-1]]
    return [*safe, *[POLAR_EXPRESS[-1]] * steps][:steps]


@jax.custom_jvp
def _exact(x: Array) -> Array:
    """Return U·Vᵀ of x = U·S·Vᵀ, without the singular vectors whose singular value is 0 to rounding."""
    return _polar_and_factors(x)[0]


def _polar_and_factors(x: Array) -> tuple[Array, Array, Array, Array]:
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    vanishes = s <= s[..., :1] * max(x.shape[-2:]) * jnp.finfo(x.dtype).eps
    inverse = jnp.where(vanishes, 0, 1 / jnp.where(vanishes, 1, s))
    return jnp.where(vanishes, 0, 1).astype(x.dtype)[..., None, :] * u @ vt, u, inverse, vt


@_exact.defjvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:  # the SVD's own rule has 1/(s − s'), infinite for equal s
    polar, u, inverse, vt = _polar_and_factors(*primals)
    inside = u.mT @ tangents[0] @ vt.mT
    across = u.mT @ tangents[0] - inside @ vt
    left, right = inverse[..., :, None], inverse[..., None, :]
    both = (left > 0) & (right > 0)
    sums = jnp.where(both, left * right / jnp.where(both, left + right, 1), 0)  # 1/(s + s')
    turned = jnp.where(both, (inside - inside.mT) * sums, inside * jnp.maximum(left, right))
    return polar, u @ (turned @ vt + left * across)


def _dtype(place: str, value: Any) -> Any:
    names = {None: None} | {x: x.name for x in (jnp.dtype("bfloat16"), jnp.dtype("float32"))}
    try:
        return names[value and jnp.dtype(value)]
    except (TypeError, KeyError):
        raise ValueError(f"{place} must be 'bfloat16', 'float32' or None, got {said(value)}") from None


class orthogonalize(Transformation):
    r"""Orthogonalise each leaf: replace a matrix by the nearest orthogonal one, Muon's direction (Jordan et al., 2024).

    $$u = U V^⊤ \quad\text{of}\quad g = U S V^⊤$$

    All singular values become 1. A matrix with more rows than columns gets orthonormal columns, and one with fewer
    gets orthonormal rows. Zeros stay 0, both a matrix of zeros and the zero singular values of a matrix of lower rank.
    Nothing else depends on the scale of g, so there is no ε. Matrices of equal shape, from any leaves, are computed in
    one batch, with the longer side as columns. On a mesh the batch is spread over the devices; if its axes are
    automatic, run `update` under `jax.set_mesh(mesh)`.

    Both iterations apply $x ← a\,x + b\,x x^⊤ x + c\,(x x^⊤)^2 x$ to g / ‖g‖, in the Frobenius norm. Muon's,
    `"newton_schulz"`, uses the same a, b, c at each step. `"polar_express"` uses at each step the coefficients that are
    best after the steps before, on g / 1.01‖g‖. In five steps, `"newton_schulz"` brings singular values of g / ‖g‖
    above 1/500 to 0.68 … 1.21 and multiplies singular values near 0 by 485; `"polar_express"` brings singular values
    above 1/900 to 0.87 … 1.13 and multiplies singular values near 0 by 967. More steps of `"newton_schulz"` come no
    closer; eight of `"polar_express"` are exact, from 1/900.

    Args:
      method: `"newton_schulz"`, `"polar_express"`, or `"svd"`, which is exact but slow on accelerators.
      steps: The number of steps of an iteration, an integer, 1 or more.
      dtype: The dtype to which the factors of the iteration's products are rounded: `"bfloat16"` as in Muon's own code,
        `"float32"`, or None for no rounding. Sums are in float32 at least. Products of float32 are exact to float32 on
        every device and do not use a faster, rougher format. `"svd"` ignores it.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    The names of the leaves, or `layout`, determine which axes are inputs and outputs. Several inputs, as in the kernel
    of a convolution, act as one axis, and so do several outputs; all other axes count matrices.

    Raises:
      ValueError: A leaf is not a linear map, or its axes are in doubt: exclude it with `partition` or `masked`, or
        declare its axes with `layout`.
      TypeError: A leaf is complex.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers; Amsel et al. 2025, arXiv 2505.16932 (Polar
    Express, of degree 5, with the factor of its published code).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.orthogonalize("polar_express", steps=8)
    >>> g = jnp.array([[300.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    >>> tx.update(g, tx.init(g))[0].round(4)
    Array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """

    method: Literal["newton_schulz", "polar_express", "svd"] = "newton_schulz"
    steps: Count = 5
    dtype: Annotated[Any, Kind(_dtype)] = None
    over: Over = None

    formula = (
        "u = polar(g) if method == 'svd' else newton_schulz(g, steps) if method == 'newton_schulz' else "
        "polar_express(g, steps)"
    )

    def init_tree(self, params: Any) -> Slots:
        axes_over(self, jax.tree.leaves(params))
        return _refuse_what_is_not_linear(self, params)

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        leaves, tree = flatten_with_path(updates)
        out, views = [g for _, g in leaves], [_view(axes_of(path_of(path), g), g.shape) for path, g in leaves]
        mesh, names = axes_over(self, out)
        alike: dict[Any, list[int]] = {}
        for i, (view, g) in enumerate(zip(views, out)):
            if g.size:
                spec = _spec(g, view)  # the axis that counts matrices is not concatenated where it is divided
                alike.setdefault((*sorted((view.inputs, view.outputs)), spec, i if spec[0] else None), []).append(i)
        for (*_, spec, _), members in alike.items():
            stacks = [_stack(out[i], views[i]) for i in members]
            x = jnp.concatenate(stacks) if len(stacks) > 1 else stacks[0]
            made = spread(type(self)._orthogonal, mesh, names, self, x, like=PartitionSpec(*spec))
            ends = list(accumulate(len(stack) for stack in stacks))
            for i, start, end in zip(members, [0, *ends], ends):
                out[i] = _unstack(made[start:end], out[i], views[i])
        return tree.unflatten(out), slots

    def _orthogonal(self, x: Array) -> Array:
        """Orthogonalise a stack of matrices, each with no more rows than columns."""
        x = unit(x, (-2, -1))
        if self.method == "svd":
            return _exact(x)
        x = x / SAFETY if self.method == "polar_express" else x
        return _iterate(x, _coefficients(self.method, self.steps), jnp.dtype(self.dtype or x.dtype))


def _spec(g: Array, view: _View) -> tuple[Any, Any, Any]:
    """How an explicit mesh divides the stack of the matrices of a leaf, along axes that are not merged."""
    spec = jax.typeof(g).sharding.spec
    if view.batch > 1 or view.split != g.shape:
        return None, None, None
    batch, *sides = (*(None,) * (1 - view.batch), *(spec[axis] for axis in view.order))
    inputs, outputs = sides if len(sides) == 2 else (None, None)
    return (batch, outputs, inputs) if view.inputs > view.outputs else (batch, inputs, outputs)


def _stack(g: Array, view: _View) -> Array:
    """Return the matrices (n, rows, columns) with no more rows than columns, divided as `_spec` says."""
    sharding = jax.typeof(g).sharding
    if any(sharding.spec):
        spec = [None] * g.ndim
        batch, rows, columns = _spec(g, view)
        sides = (columns, rows) if view.inputs > view.outputs else (rows, columns)
        for axis, name in zip(reversed(view.order), (*reversed(sides), batch)):
            spec[axis] = name
        g = reshard(g, NamedSharding(sharding.mesh, PartitionSpec(*spec)))
    x = g.reshape(view.split).transpose(view.order).reshape(-1, view.inputs, view.outputs)
    return x.mT if view.inputs > view.outputs else x


def _unstack(x: Array, like: Array, view: _View) -> Array:
    """Undo `_stack`."""
    x = x.mT if view.inputs > view.outputs else x
    x = x.reshape([view.split[axis] for axis in view.order])
    x = x.transpose(sorted(range(x.ndim), key=view.order.__getitem__)).reshape(like.shape)
    sharding = jax.typeof(like).sharding
    return reshard(x, sharding) if any(sharding.spec) else x


class low_rank_momentum(PerLeaf):
    r"""Emit orthonormal factors of the largest part of a momentum, and forget only this part (Dion; Ahn et al., 2025).

    $$m ← m + g, \quad P = \mathrm{qr}(m\, Q), \quad R = m^⊤ P, \quad m ← m − (1 − β) P R^⊤, \quad
    Q ← R / ‖R‖; \qquad u = P Q^⊤$$

    The columns of R are divided by their norms. At most r singular values of u are not 0, and these are about 1: one
    step of power iteration for each update makes P and Q. The part that they do not span stays in m, for later updates.
    Columns of R that are 0 to rounding give 0, so a matrix of lower rank has a momentum of lower rank.

    On a mesh XLA divides the products along the sides of the matrices, and devices exchange factors of rank r rather
    than matrices. So matrices are not spread over devices as those of `orthogonalize` are.

    Args:
      rank: r, the number of columns of P and Q, an integer; at most the smaller side.
      decay: β, the decay of the part of m that is emitted, in [0, 1).
      seed: The seed of the random Q of the start, an integer.

    The names of the leaves, or `layout`, determine which axes are inputs and outputs, as for `orthogonalize`.

    Raises:
      ValueError: A leaf is not a linear map, or its axes are in doubt: exclude it with `partition` or `masked`, or
        declare its axes with `layout`.
      TypeError: A leaf is complex.

    Source: Ahn et al. 2025, arXiv 2504.05295, algorithm 1, without its scaling: see `scale_by_shape("spectral")`.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, g = gx.low_rank_momentum(rank=1), jnp.array([[300.0, 400.0], [0.0, 0.0]])
    >>> [[round(float(x), 3) + 0.0 for x in row] for row in tx.update(g, tx.init(g))[0]]
    [[0.6, 0.8], [0.0, 0.0]]
    """

    rank: Count = 64
    decay: Decay = 0.95
    seed: int = 0

    formula = "v = v + g; u = orthonormal(v)"

    def init_tree(self, params: Any) -> Slots:
        _refuse_what_is_not_linear(self, params)
        leaves, tree = flatten_with_path(params)
        rows: list[Slots] = []
        for keys, p in leaves:
            p = widen(p) if differentiable("params", p) else None
            view = None if p is None else matrix_of(axes_of(path_of(keys), p), p.shape)
            if p is None or view is None:
                rows.append({})
            else:
                *_, n, m = view.shape  # Q is the same for all matrices of one shape
                right = jax.random.normal(jax.random.key(self.seed), (m, min(self.rank, n, m)), p.dtype)
                rows.append(
                    {"momentum": sharded(jnp.zeros_like(p), p), "right": sharded_along(right, p, (view.sides[1], None))}
                )
        return {name: tree.unflatten([row.get(name) for row in rows]) for name in ("momentum", "right")}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        view = context.answer(lambda path, _: matrix_of(axes_of(path, g), g.shape))
        if view is None:
            return g, slots

        def factors(g: Array, momentum: Array, right: Array, decay: Array) -> tuple[Array, Array, Array]:
            m = view.of(momentum + g)
            p = stop_gradient(qr(stop_gradient(times(m, right)))[0])
            r = times(m.mT, p)
            rest = m - (1 - decay) * times(p, r.mT)
            size = norm(r, (0,))
            vanishes = size <= jnp.max(size) * max(m.shape) * jnp.finfo(m.dtype).eps
            q = jnp.where(vanishes, 0, r / jnp.where(vanishes, 1, size))
            return view.back(times(p, q.mT), g.shape), view.back(rest, g.shape), q

        # On an explicit mesh too, XLA divides the products: it sends the factors, which are smaller than the matrices.
        own = g, slots["momentum"], slots["right"]
        shardings = tuple(jax.typeof(x).sharding for x in own)
        divided = any(any(sharding.spec) for sharding in shardings)
        of_all: Any = jax.sharding.auto_axes(factors, out_sharding=shardings) if divided else factors
        u, rest, q = of_all(*own, self.decay)
        return u, {"momentum": rest, "right": q}


FACTORS = {
    "original": lambda inputs, outputs: sqrt(max(1, outputs / inputs)),
    "adam": lambda inputs, outputs: 0.2 * sqrt(max(inputs, outputs)),
    "spectral": lambda inputs, outputs: sqrt(outputs / inputs),
    "sign": lambda inputs, outputs: 1 / inputs,
    "mean": lambda inputs, outputs: 2 / (inputs + outputs),
}


class scale_by_shape(PerLeaf):
    """Multiply the update of a matrix by a factor of its shape (Jordan et al., 2024).

    u = c·g

    | rule | c | for |
    |---|---|---|
    | `"original"` | √max(1, outputs/inputs) | orthogonal updates: Muon's own |
    | `"adam"` | 0.2·√max(inputs, outputs) | orthogonal updates: their RMS becomes 0.2, about the RMS of Adam's |
    | `"spectral"` | √(outputs/inputs) | orthogonal updates: the norm from RMS to RMS becomes 1 |
    | `"sign"` | 1/inputs | signs: the norm from RMS to the largest coordinate becomes 1 |
    | `"mean"` | 2/(inputs + outputs) | signs in an eigenbasis (SPlus) |

    Args:
      rule: `"original"`, `"adam"`, `"spectral"`, `"sign"` or `"mean"`.

    The names of the leaves, or `layout`, determine which axes are inputs and outputs.

    Raises:
      ValueError: A leaf is not a linear map, or its axes are in doubt: declare them with `layout`.
      TypeError: A leaf is complex.

    Source: Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982 ("adam"); Bernstein and Newhouse 2024, arXiv
    2409.20325 ("spectral"); Pethick et al. 2025, arXiv 2502.07529 ("sign"); Frans et al. 2025, arXiv
    2506.07254 ("mean").

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.scale_by_shape("spectral")
    >>> tx.update(jnp.ones((1, 4)), tx.init(jnp.ones((1, 4))))[0]
    Array([[2., 2., 2., 2.]], dtype=float32)
    """

    rule: Literal["original", "spectral", "adam", "sign", "mean"] = "original"

    formula = (
        "u = sqrt(max(1, outputs(g) / inputs(g))) * g if rule == 'original' else "
        "0.2 * sqrt(max(inputs(g), outputs(g))) * g if rule == 'adam' else "
        "sqrt(outputs(g) / inputs(g)) * g if rule == 'spectral' else g / inputs(g) if rule == 'sign' else "
        "2 / (inputs(g) + outputs(g)) * g"
    )

    def init_tree(self, params: Any) -> Slots:
        return _refuse_what_is_not_linear(self, params)

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        view = _view(context.axes, g.shape)
        return FACTORS[self.rule](view.inputs, view.outputs) * g if g.size else g, slots
