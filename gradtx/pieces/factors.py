"""Preconditioners of the two sides of a matrix, for `kronecker`."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Fraction, NonNegative, Positive, Slots
from gradtx.core.errors import said
from gradtx.core.kinds import Count
from gradtx.pieces.bases import Fitted, Matrix, eigh, times
from gradtx.pieces.formulas import safe_sqrt


class Factors(Fitted):
    """Base of preconditioners: `applied(x, slots)` is a matrix preconditioned on the sides that have a factor."""

    @staticmethod
    def applied(x: Array, slots: Slots) -> Array:
        """left·x·right."""
        x = x if slots["left"] is None else times(slots["left"], x)
        return x if slots["right"] is None else times(x, slots["right"])

    @classmethod
    def coerce(cls, place: str, value: Any) -> Any:
        if cls is Factors and not isinstance(value, Factors):
            raise TypeError(f"{place} must be covariance_roots() or whitening(), got {said(value)}")
        return super().coerce(place, value)


class covariance_roots(Factors):
    r"""Keep the inverse roots of the averages of $g g^⊤$ and $g^⊤ g$ of each matrix (Shampoo; Gupta et al., 2018).

    $$L ← β L + (1 − β)\, g g^⊤, \qquad P ← (\hat L + ε \bar λ I)^{−1/p}; \qquad u = g$$

    P changes at each k-th update. $\hat L = L/(1 − β^t)$ is corrected for its start at 0, and $\bar λ$ is its mean
    eigenvalue. The right side has the same formulas with $g^⊤$. The updates pass unchanged: `kronecker` multiplies a
    direction by the roots.

    Args:
      every_k: k, an integer, 1 or more. The first update makes the roots, and each k-th update after it.
      which: The sides that have a root: `"both"`, the `"smaller"` or the `"larger"`, the `"inputs"` or the `"outputs"`.
      decay: β, the decay of both averages, above 0 and at most 1. With 1 they are sums, as in the paper.
      root: p, an integer. 4 is the paper's, for two sides; 2 is common, and fits one side.
      eps: ε, added to the eigenvalues, 0 or more, in units of their mean.
      whiten: If True, measure each side after whitening the other, $L ← β L + (1 − β)\, g R^{-1} g^⊤ / m$, with the
        last root of R, which minimizes a Kullback-Leibler divergence (KL-Shampoo). It needs `root=2`.
      method: `"eigh"`, an eigenvalue decomposition, or `"newton"`, the coupled Newton iteration, which is products
        alone. Where it does not converge, the old root stays.
      largest: The largest side that has a root, an integer.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Raises:
      ValueError: `whiten` without `root=2`.

    Source: Gupta, Koren and Singer 2018, arXiv 1802.09568, algorithm 1; Anil et al. 2020, arXiv 2002.09018 (averages,
    and Newton's iteration); with `whiten` Lin et al. 2025, arXiv 2509.03378.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, g = gx.covariance_roots(root=2, eps=0.0), jnp.array([[4.0, 0.0], [0.0, 2.0]])
    >>> u, state = tx.update(g, tx.init(g))
    >>> state.slots["covariance_roots"]["left"].round(3)
    Array([[0.25, 0.  ],
           [0.  , 0.5 ]], dtype=float32)
    """

    decay: Fraction = 0.99
    root: Count = 4
    eps: NonNegative = 1e-6
    whiten: bool = False
    method: Literal["eigh", "newton"] = "eigh"
    largest: Count = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.whiten and self.root != 2:
            raise ValueError(f"covariance_roots: whiten needs root=2, got root={self.root}")

    def sides(self, view: Matrix) -> dict[str, int]:
        return {side: size for side, size in super().sides(view).items() if size <= self.largest}

    def start(self, view: Matrix, dtype: Any) -> Slots:
        slots = super().start(view, dtype)
        zeros = {side: None if slots[side] is None else jnp.zeros_like(slots[side]) for side in ("left", "right")}
        return slots | {f"{side}_covariance": x for side, x in zeros.items()}

    def measured(self, x: Array, slots: Slots, context: Context) -> Slots:
        new, share = {}, jnp.where(self.decay < 1, 1 - self.decay, 1)
        for side, other, y in (("left", "right", x), ("right", "left", x.mT)):
            if (covariance := slots[f"{side}_covariance"]) is not None:
                outer = times(y, y.mT)
                if self.whiten and slots[other] is not None:
                    whitened = times(y, slots[other])
                    outer = jnp.where(context.age > 1, times(whitened, whitened.mT) / y.shape[-1], outer)
                new[f"{side}_covariance"] = self.decay * covariance + share * outer
        return slots | new

    def renewed(self, x: Array, slots: Slots, context: Context) -> Slots:
        t = context.age.astype(x.dtype)
        corrected, out = jnp.where(self.decay < 1, -jnp.expm1(t * jnp.log(self.decay)), 1), {}
        corrected = jnp.where(corrected > 0, corrected, 1)
        for side in ("left", "right"):
            if (covariance := slots[f"{side}_covariance"]) is not None:
                mean = jnp.trace(covariance) / len(covariance)
                unit = jnp.where(mean > 0, mean, 1)
                damped = covariance / unit + self.eps * jnp.eye(len(covariance), dtype=x.dtype)
                inverse = _root_by_eigh if self.method == "eigh" else _root_by_newton
                made, fine = inverse(damped, self.root)
                made = made * (unit / corrected) ** (-1 / self.root)
                out[side] = jnp.where(mean == 0, slots[side], made)
                out["converged"] = (fine | (mean == 0)) & out.get("converged", True)
        return out


def _root_by_eigh(a: Array, root: int) -> tuple[Array, Array]:
    """A^(−1/root), and that it is; eigenvalues that are 0 to rounding are as large as rounding."""
    values, vectors = eigh(a)
    least = len(a) * jnp.finfo(a.dtype).eps * values[-1]
    return times(vectors * jnp.maximum(values, least)[None] ** (-1 / root), vectors.mT), jnp.array(True)


def _root_by_newton(a: Array, root: int, steps: int = 100) -> tuple[Array, Array]:
    """A^(−1/root) by the coupled Newton iteration, and whether A·Xʳᵒᵒᵗ is the identity in the end."""
    eye, eps = jnp.eye(len(a), dtype=a.dtype), jnp.finfo(a.dtype).eps
    z = (root + 1) / (2 * jnp.sqrt(jnp.sum(a * a)))

    def off(m: Array) -> Array:
        return jnp.max(jnp.abs(m - eye))

    def body(carry: Any) -> Any:
        i, x, m, error, _ = carry
        t = (1 + 1 / root) * eye - m / root
        power = t
        for _ in range(root - 1):
            power = times(power, t)
        new = times(power, m)
        better = off(new) < error  # rounding errors end it
        keep = lambda after, before: jnp.where(better, after, before)  # noqa: E731
        return i + 1, keep(times(x, t), x), keep(new, m), keep(off(new), error), better

    def going(carry: Any) -> Array:
        i, _, _, error, better = carry
        return (i < steps) & better & (error > eps)

    start = (0, z ** (1 / root) * eye, z * a, off(z * a), jnp.array(True))
    _, x, _, error, _ = jax.lax.while_loop(going, body, start)
    return x, error < 0.1


class whitening(Factors):
    r"""Keep preconditioners of both sides that are fitted to whiten each matrix (PSGD-Kron; Li, 2018).

    $$Q ← Q − \frac{μ}{ℓ}(h h^⊤ Q − m Q), \qquad h = P_L\, g\, P_R, \quad P = Q^⊤ Q; \qquad u = g$$

    g is n × m. At the minimum, $h h^⊤$ is m times the identity on average: h is white. The fit needs products alone, no
    decomposition and no solve. ℓ is about the largest eigenvalue of $h h^⊤ + m$, or a decaying maximum of it. Each Q is
    then turned a little towards a symmetric matrix, and the two are balanced. They start as multiples of the identity
    that give the first h the RMS 1. The right side has the same formula with $h^⊤$ and n. The updates pass unchanged:
    `kronecker` multiplies a direction by $P_L$ and $P_R$.

    Args:
      every_k: k, an integer, 1 or more. Q is fitted at the first update and at each k-th after it.
      which: The sides that have a Q: `"both"`, the `"smaller"` or the `"larger"`, the `"inputs"` or the `"outputs"`.
      rate: μ, the step size of the fit, above 0.
      smooth: How slowly ℓ falls, in [0, 1): 0 for the newest alone.
      over: The mesh axes over which matrices of equal shape are spread: each device computes its part of them and sends
        the results. A name, or a tuple such as `("data", "model")`; () for none. The default is all axes.

    Source: Li 2018, arXiv 1512.04202; Li 2024, arXiv 2402.11858; in the form of psgd_torch, dQ = Q^0.5·E·Q^1.5.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, g = gx.whitening(), jnp.array([[4.0, 0.0], [0.0, 1.0]])
    >>> state = tx.init(g)
    >>> for _ in range(100):
    ...     u, state = tx.update(g, state)
    >>> q = state.slots["whitening"]["left"]
    >>> [round(float(x), 2) for x in jnp.diag(q.T @ q)]  # with the other side, √2/4 and √2
    [0.59, 1.19]
    """

    every_k: Count = 1
    rate: Positive = 0.1
    smooth: NonNegative = 0.9

    renews = ("left", "right", "left_bound", "right_bound")

    def start(self, view: Matrix, dtype: Any) -> Slots:
        slots = super().start(view, dtype)
        zeros = {side: None if slots[side] is None else jnp.zeros((), dtype) for side in ("left", "right")}
        return slots | {f"{side}_bound": x for side, x in zeros.items()}

    @staticmethod
    def applied(x: Array, slots: Slots) -> Array:
        left, right = slots["left"], slots["right"]
        x = x if left is None else times(times(left.mT, left), x)
        return x if right is None else times(x, times(right.mT, right))

    def renewed(self, x: Array, slots: Slots, context: Context) -> Slots:
        sides = [side for side in ("left", "right") if slots[side] is not None]
        largest = jnp.max(jnp.abs(x))
        unit = jnp.where(largest > 0, largest, 1)
        rms = unit * safe_sqrt(jnp.mean(jnp.square(x / unit)))
        first = jnp.where(rms > 0, rms, 1) ** (-1 / (2 * len(sides)))
        old = slots | {side: jnp.where(context.age == 1, first * slots[side], slots[side]) for side in sides}
        h, new = self.applied(x, old), {}
        for side, y in (("left", h), ("right", h.mT)):
            if side in sides:
                other, q = y.shape[-1], old[side]
                outer = times(y, y.mT)
                bound = _largest_eigenvalue(outer) + other
                bound = jnp.maximum(self.smooth * slots[f"{side}_bound"] + (1 - self.smooth) * bound, bound)
                q = q - self.rate / bound * (times(outer, q) - other * q)
                new |= {side: _towards_symmetric(q), f"{side}_bound": bound}
        if len(sides) == 2:  # only their product counts
            ratio = (jnp.max(jnp.abs(new["right"])) / jnp.max(jnp.abs(new["left"]))) ** 0.25
            new |= {"left": new["left"] * ratio, "right": new["right"] / ratio}
        return new


def _largest_eigenvalue(a: Array, steps: int = 4) -> Array:
    """The largest eigenvalue of a positive symmetric matrix, estimated from below by power iteration."""
    largest = jnp.max(jnp.abs(a))
    scale = jnp.where(largest > 0, largest, 1)
    b = a / scale
    x = b[jnp.argmax(jnp.sum(b * b, -1))]
    for _ in range(steps):
        size = safe_sqrt(jnp.sum(x * x))
        x = times(b, (x / jnp.where(size > 0, size, 1))[:, None])[:, 0]
    return scale * safe_sqrt(jnp.sum(x * x))


def _towards_symmetric(q: Array, most: float = 0.125) -> Array:
    """Q turned towards the symmetric matrix of the same QᵀQ, by a step of at most `most`."""
    r = q.mT - q
    size = safe_sqrt(jnp.sum(r * r))
    r = r / jnp.where(size > 0, size, 1)
    rq = times(r, q)
    rrq = times(r, rq)
    slope, curvature = jnp.trace(rq), jnp.trace(rrq)
    step = jnp.where(curvature < 0, jnp.minimum(-slope / jnp.where(curvature < 0, curvature, -1), most), most)
    return q + step * (rq + 0.5 * step * rrq)
