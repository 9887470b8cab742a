"""Orthonormal bases of matrices, for `in_basis`: vectors that follow the updates, and are renewed at some of them."""

from collections.abc import Callable
from dataclasses import field
from functools import partial
from itertools import accumulate
from math import prod
from operator import itemgetter
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jax.lax import Precision, stop_gradient
from jax.sharding import NamedSharding, PartitionSpec, reshard

from gradtx.core import Context, Decay, NonNegative, Slots, Transformation, path_of
from gradtx.core.axes import Axes, axes_of
from gradtx.core.errors import said
from gradtx.core.kinds import Count
from gradtx.core.root import counted
from gradtx.core.trees import differentiable, flatten_with_path, is_none, sharded_along, widen
from gradtx.pieces.formulas import lerp, safe_divide
from gradtx.pieces.spreading import Over, axes_over, spread

Sides = Literal["both", "smaller", "larger", "inputs", "outputs"]


# ---------------------------------------------------------------- matrices
class Matrix(NamedTuple):
    """A view of a leaf as a matrix, or a stack of matrices, of its inputs and outputs in the order of its axes."""

    split: tuple[int, ...]
    order: tuple[int, ...]  # of the split axes: batch, one side, the other side
    shape: tuple[int, ...]
    axes: str  # of the view, as `layout` writes them
    sides: tuple[int | None, int | None]  # the leaf's axis of each side; None for several

    def of(self, x: Array) -> Array:
        """View a leaf of this shape."""
        if x.shape == self.shape and self.order == tuple(range(x.ndim)):
            return x
        return gathered(x).reshape(self.split).transpose(self.order).reshape(self.shape)

    def back(self, x: Array, shape: tuple[int, ...]) -> Array:
        """Undo `of`, for a leaf of this shape."""
        if shape == self.shape and self.order == tuple(range(x.ndim)):
            return x
        x = x.reshape([self.split[axis] for axis in self.order])
        return x.transpose(sorted(range(x.ndim), key=self.order.__getitem__)).reshape(shape)


def matrix_of(axes: Axes, shape: tuple[int, ...]) -> Matrix | None:
    """The view of a leaf that is a linear map with known axes; None for any other, an empty or a complex one."""
    split, (inputs, outputs, batch) = axes.sizes(shape), (axes.of(role) for role in ("in", "out", "batch"))
    order = (*batch, *sorted(inputs + outputs))
    if not axes.is_linear or len(order) != len(split) or not prod(shape):
        return None
    first, second = sorted((inputs, outputs))
    sides = (prod(split[axis] for axis in side) for side in (first, second))
    sizes = (*(split[axis] for axis in batch), *sides)
    words = ("in", "out") if first == inputs else ("out", "in")
    plain = split == shape
    sides = (side[0] if plain and len(side) == 1 else None for side in (first, second))
    return Matrix(split, (*batch, *first, *second), sizes, " ".join(("batch",) * len(batch) + words), (*sides,))  # pyright: ignore[reportArgumentType]


def times(a: Array, b: Array) -> Array:
    """The product of matrices, in the precision of their dtype: in TF32 an orthonormal basis is not orthonormal."""
    return jnp.matmul(a, b, precision=Precision.HIGHEST)


def gathered(x: Array) -> Array:
    """The array whole on each device of an explicit mesh, where a product of sharded sides would be ambiguous."""
    sharding = jax.typeof(x).sharding
    return reshard(x, NamedSharding(sharding.mesh, PartitionSpec())) if any(sharding.spec) else x


def placed(x: Array, like: Array) -> Array:
    """The array sharded as another of its shape on an explicit mesh."""
    sharding = jax.typeof(like).sharding
    return reshard(x, sharding) if any(sharding.spec) and x.shape == like.shape else x


def one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Map a decomposition under `vmap` in one batch, but one matrix at a time on a CPU.

    There a batched decomposition divides its batch among the threads that run it, and waits for them: two at the same
    time wait for each other (QR of jaxlib 0.10.2 on two cores).
    """

    @custom_vmap
    def call(*several: Array) -> Any:
        return function(*several)

    @call.def_vmap
    def _(size: int, batched: list[bool], *several: Array) -> Any:
        stacks = [x if b else jnp.broadcast_to(x, (size, *x.shape)) for x, b in zip(several, batched)]

        def mapped(*stacks: Array) -> Any:
            divided = jax.typeof(stacks[0]).sharding  # JAX does not loop over an axis that an explicit mesh divides
            if not any(divided.spec[:1]):
                return jax.lax.map(lambda xs: call(*xs), stacks)
            out = jax.lax.map(lambda xs: call(*xs), jax.tree.map(gathered, stacks))
            return jax.tree.map(lambda x: reshard(x, PartitionSpec(divided.spec[0])), out)

        out = jax.lax.platform_dependent(*stacks, cpu=mapped, default=jax.vmap(function))
        return out, jax.tree.map(lambda x: True, out)

    return call


qr = one_by_one(jnp.linalg.qr)
eigh = one_by_one(lambda a: tuple(jnp.linalg.eigh(a)))
svd = one_by_one(lambda a: tuple(jnp.linalg.svd(a, full_matrices=False)))


@custom_vmap
def _any(due: Array) -> Array:
    return due


@_any.def_vmap
def _(size: int, batched: list[bool], due: Array) -> Any:
    return jnp.any(due, axis=0), False


def where_due(due: Array, work: Callable[[], Any], idle: Any) -> Any:
    """`work()` where `due`, else `idle`, as a real branch also under `vmap`: it runs where any member is due."""
    new, form = jax.tree.flatten(idle)

    def working() -> list[Any]:
        return [jnp.where(due, jnp.asarray(x, old.dtype), old) for x, old in zip(form.flatten_up_to(work()), new)]

    return form.unflatten(jax.lax.cond(_any(due), working, lambda: new))


# ---------------------------------------------------------------- bases
class Fitted(Transformation):
    """Base of pieces that fit a matrix to each side of a matrix of updates, in the slots `left` and `right`.

    A subclass defines `renewed`, these slots made anew, and `measured` if it has others. The slots of a leaf or of a
    side without a fit are None. They start as the first columns of the identity. Where new ones are not finite, the old
    ones stay, and `refused` counts it. The two methods see one matrix; matrices of one shape, from any leaves, are
    renewed in one batch.
    """

    every_k: Count = 10
    which: Sides = "both"
    over: Over = field(default=None, kw_only=True)

    renews: ClassVar[tuple[str, ...]] = ("left", "right")  # the slots that `renewed` makes
    counts = True
    formula = "u = g"

    def sides(self, view: Matrix) -> dict[str, int]:
        """The sides that have a fit, each with its number of columns."""
        *_, n, m = view.shape
        sizes = {"left": n, "right": m}
        inputs, outputs = sizes if view.axes.endswith("in out") else reversed(sizes)
        smaller, larger = sizes if n <= m else reversed(sizes)
        named = {"inputs": inputs, "outputs": outputs, "smaller": smaller, "larger": larger}
        return sizes if self.which == "both" else {named[self.which]: sizes[named[self.which]]}

    def start(self, view: Matrix, dtype: Any) -> Slots:
        """The initial slots of one matrix."""
        sides, (*_, n, m) = self.sides(view), view.shape
        vectors: Slots = {
            side: jnp.eye(size, sides[side], dtype=dtype) if side in sides else None
            for side, size in (("left", n), ("right", m))
        }
        return vectors | {"refused": jnp.zeros((), jnp.int32)}

    def measured(self, x: Array, slots: Slots, context: Context) -> Slots:
        """The slots after this update of a matrix, before the others are renewed."""
        return slots

    def renewed(self, x: Array, slots: Slots, context: Context) -> Slots:
        """The slots of `renews` made anew, of the sides that have them."""
        raise NotImplementedError(f"{type(self).__name__} must define renewed")

    def is_due(self, age: Array) -> Array:
        """Whether the slots of `renews` are renewed at the update of this age."""
        return (age - 1) % self.every_k == 0

    def init_tree(self, params: Any) -> Slots:
        axes_over(self, jax.tree.leaves(params))
        leaves, tree = flatten_with_path(params)

        def row_of(p: Array, view: Matrix) -> Slots:
            row, batch = self.start(view, p.dtype), view.shape[:-2]
            for name, x in row.items():
                if x is not None:
                    own = (view.sides[name.startswith("right")], None) if x.ndim == 2 else (None,) * x.ndim
                    of_batch = view.order[: len(batch)] if view.split == p.shape else (None,) * len(batch)
                    row[name] = sharded_along(jnp.broadcast_to(x, (*batch, *x.shape)), p, (*of_batch, *own))
            return row

        if any(isinstance(p, Tracer) for _, p in leaves):
            row_of = jax.jit(row_of, static_argnums=1)  # traced once for all leaves of a type
        rows: list[Slots] = []
        for keys, p in leaves:
            p = widen(p) if differentiable("params", p) else None
            view = None if p is None else matrix_of(axes_of(path_of(keys), p), p.shape)
            rows.append({} if p is None or view is None else row_of(p, view))
        names = self.start(Matrix((1, 1), (0, 1), (1, 1), "in out", (0, 1)), jnp.float32)
        return {name: tree.unflatten([row.get(name) for row in rows]) for name in names}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        # Without a derivative: the derivative of eigenvectors is infinite where two eigenvalues are equal.
        fixed, given, kept = stop_gradient((self, updates, slots))
        leaves, tree = flatten_with_path(given, is_leaf=is_none)
        mesh, names = axes_over(self, jax.tree.leaves(given))
        columns = {name: tree.flatten_up_to(slot) for name, slot in kept.items()}
        alike: dict[str, list[int]] = {}  # leaves whose matrices and slots have the same shapes
        stacks: dict[int, tuple[Array, Slots]] = {}  # of each leaf, its matrices and their slots
        for i, (keys, g) in enumerate(leaves):
            view = None if g is None else matrix_of(axes_of(path_of(keys), g), g.shape)
            row = {name: column[i] for name, column in columns.items()}
            if view and g is not None and any(row[name] is not None for name in self.renews):
                stacks[i] = _stack(len(view.shape) - 2, (view.of(gathered(g)), jax.tree.map(gathered, row)))
                alike.setdefault(str(jax.tree.map(lambda x: (x.dtype, x.shape[1:]), stacks[i])), []).append(i)

        @jax.jit  # traced once for all leaves of a shape
        @jax.vmap
        def measure(x: Array, row: Slots) -> Slots:
            return fixed.measured(x, row, context)

        @jax.jit
        @partial(jax.vmap, in_axes=(None, 0, 0))
        def renew(of: tuple[Fitted, Array], x: Array, row: Slots) -> Slots:
            fitted, age = of
            made = fitted.renewed(x, row, context._replace(params=None, extra={}, seen=age))
            names = [name for name in self.renews if row[name] is not None]
            fine = jnp.stack([jnp.isfinite(made[name]).all() for name in names]).all() & made.get("converged", True)
            new = {name: jnp.where(fine, made[name], row[name]) for name in names}
            return new | {"refused": jnp.where(fine, row["refused"], counted(row["refused"]))}

        def each(stacks: Any) -> dict[int, Slots]:
            return {i: where_due(due, lambda: renew(whole, *stack), kept_of(stack)) for i, stack in stacks.items()}  # noqa: B023

        def batches(stacks: Any) -> dict[int, Slots]:
            def work() -> dict[int, Slots]:
                made = {}
                for members in alike.values():
                    several = jax.tree.map(lambda *parts: jnp.concatenate(parts), *(stacks[i] for i in members))
                    together = spread(renew, mesh, names, whole, *several)
                    ends = list(accumulate(len(stacks[i][0]) for i in members))
                    for i, *of in zip(members, [0, *ends], ends):
                        made[i] = jax.tree.map(itemgetter(slice(*of)), together)
                return made

            return where_due(due, work, {i: kept_of(stack) for i, stack in stacks.items()})

        def kept_of(stack: Any) -> Slots:
            return {name: stack[1][name] for name in (*self.renews, "refused") if stack[1][name] is not None}

        due, whole = self.is_due(context.age), (fixed, context.age)
        stacks = {i: (x, measure(x, row)) for i, (x, row) in stacks.items()}
        if names:
            renewed = batches(stacks)
        else:  # a batch takes memory, and a CPU has nothing to gain from it
            renewed = jax.lax.platform_dependent(stacks, cpu=each, default=batches) if stacks else {}
        for i, new in renewed.items():
            for name, x in (stacks[i][1] | new).items():
                if (old := columns[name][i]) is not None:
                    columns[name][i] = placed(x.reshape(old.shape), old)
        return updates, {name: tree.unflatten(column) for name, column in columns.items()}


def _stack(batch: int, tree: Any) -> Any:
    """The arrays with their first `batch` axes as one."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[batch:]), tree)


class Basis(Fitted):
    """Base of bases: orthonormal columns for each side of a matrix that has a basis."""

    ahead: ClassVar[bool] = False  # whether an update is rotated into a basis that was made of it

    @classmethod
    def coerce(cls, place: str, value: Any) -> Any:
        if cls is Basis and not isinstance(value, Basis):
            raise TypeError(f"{place} must be a basis, such as eigenbasis(), got {said(value)}")
        return super().coerce(place, value)


class eigenbasis(Basis):
    r"""Keep the eigenvectors of the averages of $g g^⊤$ and $g^⊤ g$ of each matrix (SOAP; Vyas et al., 2024).

    $$L ← β L + (1 − β)\, g g^⊤, \qquad Q ← \mathrm{qr}(L Q / \bar λ + δ Q); \qquad u = g$$

    In these coordinates the entries of g are uncorrelated. Q changes at each k-th update, by a step of orthogonal
    iteration; $\bar λ$ is the mean eigenvalue of L. The right side has the same formulas with $g^⊤$. The updates pass
    unchanged: `in_basis` runs another transformation on their coordinates.

    An average of few gradients has a null space, in which rounding errors would choose the eigenvectors. Hence Q starts
    as the identity and follows L by these steps, without an eigenvalue decomposition, and δ keeps vectors of the null
    space where they are. With `"eigh"` the vectors are exact, but rounding errors choose among those whose eigenvalues
    are equal, as far as δ does not tell them apart.

    Args:
      every_k: k, an integer, 1 or more. The first update makes a basis, and each k-th update after it.
      which: The sides that have a basis: `"both"`, the `"smaller"` or the `"larger"`, the `"inputs"` or the
        `"outputs"`. On the smaller side alone, a basis costs the least.
      decay: β, the decay of both averages, in [0, 1).
      whiten: If True, measure each side after whitening the other, $L ← β L + (1 − β)\, g R^{-1} g^⊤ / m$, with the
        shifted eigenvalues of R, from the second update on, which minimizes a Kullback-Leibler divergence (KL-SOAP).
      method: `"qr"`, a step of orthogonal iteration, or `"eigh"`, the exact eigenvectors.
      shift: δ, added to the eigenvalues, 0 or more, in units of their mean. With `"eigh"` it falls from δ for the first
        coordinate to 0 for the last.
      largest: The largest side that has a basis, an integer.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Source: Vyas et al. 2024, arXiv 2409.11321, algorithms 3 and 4; with `whiten` Lin et al. 2025, arXiv 2509.03378.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, g = gx.eigenbasis(shift=0.0), jnp.array([[3.0, 0.0], [4.0, 0.0]])
    >>> u, state = tx.update(g, tx.init(g))
    >>> [round(float(x), 3) for x in state.slots["eigenbasis"]["left"][:, 1]]
    [0.6, 0.8]
    """

    decay: Decay = 0.95
    whiten: bool = False
    method: Literal["qr", "eigh"] = "qr"
    shift: NonNegative = 1e-2
    largest: Count = 8192

    def sides(self, view: Matrix) -> dict[str, int]:
        return {side: size for side, size in super().sides(view).items() if size <= self.largest}

    def start(self, view: Matrix, dtype: Any) -> Slots:
        slots = super().start(view, dtype)
        zeros = {side: None if slots[side] is None else jnp.zeros_like(slots[side]) for side in ("left", "right")}
        return slots | {f"{side}_covariance": x for side, x in zeros.items()}

    def measured(self, x: Array, slots: Slots, context: Context) -> Slots:
        new = {}
        for side, other, y in (("left", "right", x), ("right", "left", x.mT)):
            if (covariance := slots[f"{side}_covariance"]) is not None:
                outer = times(y, y.mT)
                if self.whiten and slots[other] is not None:
                    whitened = self._whitened(y, slots[other], slots[f"{other}_covariance"])
                    outer = jnp.where(context.age > 1, times(whitened, y.mT) / y.shape[-1], outer)
                new[f"{side}_covariance"] = lerp(covariance, outer, self.decay)
        return slots | new

    def renewed(self, x: Array, slots: Slots, context: Context) -> Slots:
        out = {}
        for side in ("left", "right"):
            if (covariance := slots[f"{side}_covariance"]) is not None:
                mean = jnp.trace(covariance) / len(covariance)
                relative = covariance / jnp.where(mean > 0, mean, 1)
                vectors = slots[side]
                new = self._exact(relative) if self.method == "eigh" else self._followed(relative, vectors)
                out[side] = jnp.where(mean == 0, vectors, new)
        return out

    def _exact(self, covariance: Array) -> Array:
        grades = jnp.linspace(1, 0, len(covariance), dtype=covariance.dtype)
        return eigh(covariance + self.shift * jnp.diag(grades))[1][:, ::-1]

    def _followed(self, covariance: Array, vectors: Array) -> Array:
        """A step of orthogonal iteration, from the largest eigenvalue to the smallest; each vector keeps its place."""
        product = times(covariance, vectors) + self.shift * vectors
        order = jnp.argsort(-jnp.sum(vectors * product, axis=0))
        q, r = qr(product[:, order])
        q = jnp.where(jnp.diag(r) < 0, -q, q)  # the one factorisation whose R has a positive diagonal
        return q[:, jnp.argsort(order)]

    def _whitened(self, x: Array, vectors: Array, covariance: Array) -> Array:
        """x·R⁻¹, with the eigenvalues of R along its vectors, shifted."""
        values = jnp.sum(vectors * times(covariance, vectors), axis=0)
        values = values + self.shift * jnp.mean(values)
        values = jnp.where(values > 0, values, 1)  # before the first update, which is measured without it
        return times(safe_divide(times(x, vectors), values[None]), vectors.mT)


class singular_vectors(Basis):
    r"""Keep the first singular vectors of each matrix, taken at each k-th update (GaLore; Zhao et al., 2024).

    $$g ≈ U S V^⊤, \qquad Q_L = U, \qquad Q_R = V; \qquad u = g$$

    The updates pass unchanged: `in_basis` runs another transformation on their coordinates, of which a matrix (n, m)
    has r·m with `rank=r` on the smaller side n. Of the two signs of a vector, the one nearer to the old vector is
    taken.

    Args:
      every_k: k, an integer, 1 or more. The first update makes a basis, and each k-th update after it.
      which: The sides that have a basis: `"both"`, the `"smaller"` or the `"larger"`, the `"inputs"` or the
        `"outputs"`.
      rank: r, the number of vectors, an integer; at most the smaller side. None for all.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Source: Zhao et al. 2024, arXiv 2403.03507, algorithm 2.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, g = gx.singular_vectors(rank=1), jnp.array([[3.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    >>> u, state = tx.update(g, tx.init(g))
    >>> [round(float(x), 3) for x in state.slots["singular_vectors"]["left"][:, 0]]
    [0.6, 0.8]
    """

    every_k: Count = 200
    which: Sides = "smaller"
    rank: Count | None = None

    ahead = True

    def sides(self, view: Matrix) -> dict[str, int]:
        most = min(view.shape[-2:])
        return {side: min(self.rank or most, most) for side in super().sides(view)}

    def renewed(self, x: Array, slots: Slots, context: Context) -> Slots:
        u, _, vt = svd(x)
        out = {}
        for side, vectors in (("left", u), ("right", vt.mT)):
            if (old := slots[side]) is not None:
                new = vectors[:, : old.shape[-1]]
                out[side] = jnp.where(jnp.sum(new * old, axis=0) < 0, -new, new)
        return out


class random_vectors(Basis):
    r"""Keep random vectors for each matrix, drawn anew at each k-th update (APOLLO; Zhu et al., 2024).

    $$Q ← \mathrm{qr}(N), \; N_{ij} \sim \mathcal{N}(0, 1); \qquad u = g$$

    The updates pass unchanged: `in_basis` runs another transformation on their coordinates. The vectors depend on the
    seed, the number of draws and their shape alone, so matrices of one shape share them, and no `key` is needed.

    Args:
      every_k: k, an integer, 1 or more. The first update makes a basis, and each k-th update after it.
      which: The sides that have a basis: `"both"`, the `"smaller"` or the `"larger"`, the `"inputs"` or the
        `"outputs"`.
      rank: r, the number of vectors, an integer; at most the side.
      orthonormal: If True, the vectors are orthonormal. If False, they are N/√r, as APOLLO's.
      seed: The seed of the vectors, an integer.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Source: Zhu et al. 2024, arXiv 2412.05270, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, g = gx.random_vectors(rank=1), jnp.ones((2, 3))
    >>> u, state = tx.update(g, tx.init(g))
    >>> round(float(jnp.linalg.norm(state.slots["random_vectors"]["left"])), 3)
    1.0
    """

    every_k: Count = 200
    which: Sides = "smaller"
    rank: Count = 1
    orthonormal: bool = True
    seed: int = 0

    ahead = True

    def sides(self, view: Matrix) -> dict[str, int]:
        return {side: min(self.rank, size) for side, size in super().sides(view).items()}

    def renewed(self, x: Array, slots: Slots, context: Context) -> Slots:
        draw = jax.random.fold_in(jax.random.key(self.seed), (context.age - 1) // self.every_k)
        out = {}
        for i, side in enumerate(("left", "right")):
            if (old := slots[side]) is not None:
                normal = jax.random.normal(jax.random.fold_in(draw, i), old.shape, old.dtype)
                out[side] = qr(normal)[0] if self.orthonormal else normal / old.shape[-1] ** 0.5
        return out
