"""Wrappers that keep a second point beside the parameters: an average, slow weights or the inner optimizer's iterate.

Each runs its inner optimizer at every update, so the schedules inside count all updates. The point is held in the
working dtype, float32 for bfloat16 parameters, and follows θ + u as the optimizer computes it: without the rounding of
the parameters, and without changes to u by later pieces. `eval_params` returns the parameters to evaluate.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.combinators.combinator import PartOrNone
from gradtx.core import Context, Decay, Fraction, NonNegative, Part, Slots, Transformation, trees, working_dtype
from gradtx.core.kinds import Count
from gradtx.core.trees import sharded
from gradtx.pieces.formulas import lerp, safe_divide, two_sum


def _copy(params: Any) -> Any:
    """Return a slot that starts at the parameters; a copy, so that both can be donated."""
    return jax.tree.map(lambda p: jnp.copy(trees.widen(p)) if trees.differentiable("params", p) else None, params)


def _zeros(params: Any) -> Any:
    """Return a slot of zeros for the parameters."""

    def zeros(p: Any) -> Any:
        wide = trees.widen(p)
        return sharded(jnp.zeros_like(wide), wide) if trees.differentiable("params", p) else None

    return jax.tree.map(zeros, params)


def _among(updates: Any, tree: Any) -> Any:
    """Return the tree with None where the updates are None."""
    return jax.tree.map(lambda u, x: None if u is None else x, updates, tree, is_leaf=trees.is_none)


def _kept(new: Any, old: Any) -> Any:
    """Return the new slot, and the old one where the new one is None."""
    return jax.tree.map(lambda x, y: y if x is None else x, new, old, is_leaf=trees.is_none)


class average_params(Transformation):
    r"""Average the parameters for evaluation; emit the updates of the inner optimizer.

    $$u = \mathrm{inner}(g), \qquad n ← b\,n + 1, \qquad \bar θ ← \barθ + \frac{θ + u - \bar θ}{n}$$

    θ̄ is a weighted mean of the parameters after updates start, start + every_k, …: the weight of each is b to the
    power of the number of later ones, normalised to sum to 1. With b < 1 it is the exponential average of the
    parameters with the correction of `bias_correction`; with b = 1 all weights are equal (Polyak and Ruppert). Until
    `start`, θ̄ is θ + u.

    θ̄ is held in the working dtype, float32 for bfloat16 parameters, in two slots: the average, and what its roundings
    lost (compensated summation). So an average over millions of updates is as accurate as its dtype. `gx.eval_params`
    returns it. Put this wrapper last in a chain: it tracks θ + u for the update it emits.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      decay: b, above 0 and at most 1. The effective window is the last 1/(1 − b) averaged points.
      start: The first update after which the parameters are averaged, an integer, counted from 1.
      every_k: k, an integer, 1 or more. The parameters are averaged every k updates.

    Source: Polyak and Juditsky 1992; Ruppert 1988; for b < 1, Kingma and Ba 2015, arXiv 1412.6980, section 7.2.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.average_params(gx.sgd(1.0), decay=1.0), jnp.array([0.0])
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.array([-1.0]), state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> params, gx.eval_params(tx, state, params)
    (Array([3.], dtype=float32), Array([2.], dtype=float32))
    """

    inner: Part
    decay: Fraction = 0.999
    start: Count = 1
    every_k: Count = 1

    elementwise = True
    formula = (
        "φ = 1 if start == every_k == 1 else (t >= start) * (mod(t - start, every_k) <= 0); "
        "n = φ * (decay * n + 1) + (1 - φ) * n; a0 = θ; "
        "a = a + (θ + inner(g) - a) / n if start == every_k == 1 else "
        "a + max(φ, (n <= 0)) * (θ + inner(g) - a) / max(n, 1); u = inner(g)"
    )
    needs = ("params",)
    counts = True
    roundoff = ("average_lost", "total_lost")

    def init_tree(self, params: Any) -> Slots:
        dtype = working_dtype(params)
        own = {"average": _copy(params), "average_lost": _zeros(params)}
        own |= {"total": jnp.zeros((), dtype), "total_lost": jnp.zeros((), dtype)}
        return super().init_tree(params) | own

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})
        taken = (context.age >= self.start) & ((context.age - self.start) % self.every_k == 0)
        more = 1 - (1 - self.decay) * (slots["total"] + slots["total_lost"])  # b·n + 1 − n
        total, total_lost = two_sum(slots["total"], slots["total_lost"] + jnp.where(taken, more, 0))
        follows, share = taken | (total == 0), 1 / jnp.maximum(total, 1)

        # θ̄ moves by a fraction 1/n, soon less than it resolves: what an addition loses is added at the next one.
        def moved(u, p, a, lost):
            sums = two_sum(a, lost + share * (p + u - a - lost))
            return tuple(jnp.where(follows, new, old) for new, old in zip(sums, (a, lost)))

        old = slots["average"], slots["average_lost"]
        both = jax.tree.map(moved, made, context.params, *(_among(made, slot) for slot in old))
        average, lost = (jax.tree.map(lambda u, pair, i=i: pair[i], made, both) for i in range(2))
        new |= {"average": _kept(average, old[0]), "average_lost": _kept(lost, old[1])}
        return made, new | {"total": total, "total_lost": total_lost}

    def evaluate(self, params: Any, slots: Slots) -> Any:
        return slots["average"]


class lookahead(Transformation):
    r"""Lookahead: pull the fast weights towards slow weights every k updates (Zhang et al., 2019).

    $$θ' = θ + \mathrm{inner}(g), \qquad \text{every k updates: } s ← s + c\,(θ' - s), \; θ' = s, \qquad u = θ' - θ$$

    The parameters θ are the fast weights. Evaluate at the slow weights s, which `gx.eval_params` returns. The inner
    optimizer's state is not reset at synchronisation. Ranger is Lookahead with `radam` inside. Put this wrapper last in
    a chain: it tracks θ + u for the update it emits.

    With `outer`, an optimizer of the slow weights takes the place of c: at synchronisation s ← s + outer(s − θ'), where
    s − θ' stands for a gradient. Lookahead's is `sgd(c)`; with Nesterov momentum it is SNOO, or DiLoCo on one worker.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
        It runs at every update, and its schedules count all updates.
      every_k: k, an integer, 1 or more. The fast weights are synchronised every k updates.
      weight: c, above 0 and at most 1: the fraction of the displacement θ' − s by which s moves. It has no effect with
        `outer`.
      outer: The optimizer of the slow weights, which receives s − θ' as their gradient and s as the parameters, every k
        updates; its averages count these, and its schedules count all updates. None for `sgd(weight)`.

    Source: Zhang et al. 2019, arXiv 1907.08610, algorithm 1; `outer`, Douillard et al. 2023, arXiv 2311.08105, and
    Kallusky et al. 2025, arXiv 2510.15830.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.lookahead(gx.sgd(1.0), every_k=2), jnp.array([4.0])
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.array([1.0]), state, params)
    ...     params = gx.apply_updates(params, updates)
    ...     print(params, gx.eval_params(tx, state, params))
    [3.] [4.]
    [3.] [3.]
    [2.] [3.]
    """

    inner: Part
    every_k: Count = 6
    weight: Fraction = 0.5
    outer: PartOrNone = None

    elementwise = True
    formula = (
        "φ = (mod(t, every_k) <= 0); s0 = θ; "
        "s = s + φ * (weight * (θ + inner(g) - s) if outer is None else outer(s - θ - inner(g))); "
        "u = (1 - φ) * inner(g) + φ * (s - θ)"
    )
    needs = ("params",)
    counts = True

    def init_tree(self, params: Any) -> Slots:
        return super().init_tree(params) | {"slow": _copy(params)}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})
        pull = context.age % self.every_k == 0

        slow = _among(made, slots["slow"])
        if self.outer is not None:
            return self._outer_step(made, slow, slots, new, context, pull)

        def pulled(u, p, s):
            return jnp.where(pull, lerp(u, s - p, self.weight), u)

        def moved(u, p, s):
            return jnp.where(pull, s + self.weight * (p + u - s), s)

        out = jax.tree.map(pulled, made, context.params, slow)
        return out, new | {"slow": _kept(jax.tree.map(moved, made, context.params, slow), slots["slow"])}

    def _outer_step(
        self, made: Any, slow: Any, slots: Slots, new: Slots, context: Context, pull: Array
    ) -> tuple[Any, Slots]:
        """Synchronise by a step of `outer` where `pull` holds."""

        def synchronised() -> tuple[Any, Any, Slots]:
            displaced = jax.tree.map(lambda u, p, s: s - p - u, made, context.params, slow)
            own = context._replace(params=slow)
            step = self.part("outer", displaced, slots, own, kept := {})
            out = jax.tree.map(lambda p, s, d: s - p + d, context.params, slow, step)
            return out, jax.tree.map(jnp.add, slow, step), kept

        def waiting() -> tuple[Any, Any, Slots]:
            return made, slow, {"outer": slots["outer"]} if "outer" in slots else {}

        out, slow, kept = jax.lax.cond(pull, synchronised, waiting)
        return out, new | kept | {"slow": _kept(slow, slots["slow"])}

    def evaluate(self, params: Any, slots: Slots) -> Any:
        return slots["slow"]


class schedule_free(Transformation):
    r"""Schedule-free learning: iterate averaging in place of a decaying learning rate (Defazio et al., 2024).

    $$z ← z + \mathrm{inner}(g), \quad x ← x + c\,(z - x), \quad y = z + b\,(x - z), \quad c = w_t / (w_1 + ⋯ + w_t)$$

    The gradient is taken at y, between the average x and the last iterate z. The parameters are y, and the inner
    optimizer's weight decay acts at y. Evaluate at x, which `gx.eval_params` returns. Only z is stored: x is computed
    from y and z. Put this wrapper last in a chain: it tracks θ + u for the update it emits.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. Give one
        without momentum, such as `sgd(0.1)` or `adam(b1=0.0)`. Its learning rate may warm up and need not decay.
      b1: b, above 0 and at most 1: the weight of the average x in the point y, where the gradient is taken.
      weight: w, 0 or more: the weight of the iterate after this update in the average. For a learning rate that warms
        up, the authors use its square: `schedule_free(sgd(rate), weight=rate * rate)`. Their code uses the square of
        the largest rate so far, and Optax the square of the next step's rate. With a constant rate, every constant
        weight gives the same result.
      decay: μ, at least 0 and below 1: x is then the exponential average of the iterates from the start on, c = 1 − μ,
        and `weight` has no effect (generalized primal averaging). None for c by the weights.

    Source: Defazio et al. 2024, arXiv 2405.15682, equations 2 to 4; the weights are those of its published code.
    `decay`, Defazio et al. 2025, arXiv 2512.17131.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.schedule_free(gx.sgd(1.0), b1=0.5), jnp.array([0.0])
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.array([-1.0]), state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> params, gx.eval_params(tx, state, params)
    (Array([2.5], dtype=float32), Array([2.], dtype=float32))
    """

    inner: Part
    b1: Fraction = 0.9
    weight: NonNegative = 1.0
    decay: Decay | None = None

    elementwise = True

    @property
    def formula(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        rest = "z0 = θ; z = z + inner(g); x = (θ - (1 - b1) * (z - inner(g))) / b1; u = z + b1 * "  # for a constant b1
        if self.decay is None:
            return f"w = w + weight; {rest}(1 - weight / w) * (x - z) - θ"
        return f"{rest}decay * (x - z) - θ"

    needs = ("params",)
    counts = True

    def init_tree(self, params: Any) -> Slots:
        dtype = working_dtype(params)
        own = {"base": _copy(params), "mean_weight": jnp.zeros((), dtype), "last_b1": jnp.ones((), dtype)}
        return super().init_tree(params) | own

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})
        t = context.age.astype(self.weight.dtype)
        mean = slots["mean_weight"] + (self.weight - slots["mean_weight"]) / t
        share = safe_divide(self.weight, t * mean) if self.decay is None else 1 - self.decay
        same = self.b1 / slots["last_b1"]  # 1 unless b1 is a schedule
        base = _among(made, slots["base"])
        after = jax.tree.map(jnp.add, base, made)

        def moved(y, z, z_after):  # z' + b·(1 − c)·(x − z') − y, where x − z = (y − z)/b, without cancellation
            return (1 - self.b1 * (1 - share)) * (z_after - z) - (same * share + (1 - same)) * (y - z)

        out = jax.tree.map(moved, context.params, base, after)
        return out, new | {"base": _kept(after, slots["base"]), "mean_weight": mean, "last_b1": self.b1}

    def evaluate(self, params: Any, slots: Slots) -> Any:
        return jax.tree.map(lambda y, z: z + (y - z) / slots["last_b1"], params, slots["base"])
