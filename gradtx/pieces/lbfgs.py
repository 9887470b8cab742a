"""L-BFGS: the inverse Hessian from the last steps and the changes of the gradient along them."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, NonNegative, Slots, Transformation, working_dtype
from gradtx.core.checks import refuse_local
from gradtx.core.kinds import Count
from gradtx.core.trees import differentiable, is_none, sharded, widen
from gradtx.pieces.formulas import safe_sqrt
from gradtx.pieces.measures import inner_product


class scale_by_lbfgs(Transformation):
    r"""Multiply the updates by the L-BFGS estimate of the inverse Hessian (Liu and Nocedal, 1989).

    $$u = H g, \qquad H ← (I − ρ\, s y^⊤)\, H\, (I − ρ\, y s^⊤) + ρ\, s s^⊤ \text{ for each pair, oldest first}$$

    A pair is a step s = θ − θ′ and the change of the gradient along it, y = g − g′, with ρ = 1/⟨s, y⟩. H starts at
    γ·I, with γ = ⟨s, y⟩/⟨y, y⟩ of the newest pair; without a pair, γ = min(1, 1/‖g‖). The product is computed by the
    two-loop recursion, with all leaves as one vector. The updates must be gradients of one function at the parameters:
    with minibatches, y also holds the difference of the batches.

    A pair whose curvature ⟨s, y⟩ is not above a small fraction of ‖s‖·‖y‖ is left out, so H stays positive definite and
    −u is a descent direction. All pairs are discarded where the parameters have not moved since the last update, as
    after a failed line search: u is then along the gradient.

    Choose the step size by a line search, as in `zoom(scale_by_lbfgs(10))`. Gauss-Newton and Levenberg-Marquardt
    methods need the residuals of the loss, and K-FAC the inputs of its layers: see Optimistix and kfac-jax.

    Args:
      memory: The number of pairs that are kept, an integer, 1 or more. The state has 2·memory + 2 numbers for each
        parameter.
      min_cosine: A pair is left out unless ⟨s, y⟩ is above this times ‖s‖·‖y‖, 0 or more.

    Raises:
      ValueError: `update` is called without `params`; or, within `jax.shard_map`, on arrays that differ from device to
        device.

    Source: Liu and Nocedal 1989; Nocedal 1980; Nocedal and Wright 2006, algorithm 7.4 and equation 7.20. The first γ is
    the one of Optax and SciPy.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, curvature = gx.scale_by_lbfgs(2), jnp.array([1.0, 10.0])
    >>> state = tx.init(jnp.zeros(2))
    >>> for params in (jnp.array([0.0, 2.0]), jnp.array([0.0, 1.0])):
    ...     direction, state = tx.update(curvature * params, state, params)
    >>> params - direction  # Newton's step, where the pairs span the gradient
    Array([0., 0.], dtype=float32)
    """

    memory: Count = 10
    min_cosine: NonNegative = 1e-10

    needs = ("params",)
    counts = True
    formula = "u = inverse_hessian(g)"

    def init_tree(self, params: Any) -> Slots:
        def zeros(p: Any, *stacked: int) -> Array | None:
            if not differentiable("params", p):
                return None
            p = widen(p)
            return jnp.broadcast_to(sharded(jnp.zeros_like(p), p), (*stacked, *p.shape))

        return {
            "last_params": jax.tree.map(zeros, params),
            "last_gradient": jax.tree.map(zeros, params),
            "steps": jax.tree.map(lambda p: zeros(p, self.memory), params),
            "changes": jax.tree.map(lambda p: zeros(p, self.memory), params),
            "inverse_curvatures": jnp.zeros(self.memory, working_dtype(params)),  # ρ; 0 where there is no pair
            "scale": jnp.zeros((), working_dtype(params)),  # γ; 0 without a pair
            "next": jnp.zeros((), jnp.int32),  # where the next pair is written
        }

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        def live(tree: Any) -> Any:  # without the leaves that have no gradient
            return jax.tree.map(lambda g, x: None if g is None else x, updates, tree, is_leaf=is_none)

        params, old = live(context.params), {name: live(slots[name]) for name in _TREES}
        s = jax.tree.map(operator.sub, params, old["last_params"])
        y = jax.tree.map(operator.sub, updates, old["last_gradient"])
        curvature, ss, yy = inner_product(s, y), inner_product(s, s), inner_product(y, y)
        refuse_local("scale_by_lbfgs", "an inner product", curvature)
        norms = jnp.sqrt(jnp.stack([ss, yy]))
        enough = jnp.maximum(self.min_cosine * norms[0] * norms[1], jnp.finfo(ss.dtype).tiny)
        good, moved = (curvature > enough) & (context.age > 1), ss > 0
        curvature, yy = (jnp.where(good, x, 1) for x in (curvature, yy))

        place, rho = slots["next"], jnp.where(moved, slots["inverse_curvatures"], 0)

        def written(new: Any, stacks: Any) -> Any:
            return jax.tree.map(lambda x, stack: _put(stack, jnp.where(good, x, _at(place, stack)), place), new, stacks)

        steps, changes, rho = (
            written(*both) for both in ((s, old["steps"]), (y, old["changes"]), (1 / curvature, rho))
        )
        gamma = jnp.where(good, curvature / yy, jnp.where(moved, slots["scale"], 0))
        after = jnp.where(good, jnp.where(place < self.memory - 1, place + 1, 0), place)
        first = 1 / jnp.maximum(1, safe_sqrt(inner_product(updates, updates)))
        u = self.product(updates, steps, changes, rho, jnp.where(gamma > 0, gamma, first), after)

        def kept(new: Any, held: Any) -> Any:
            return jax.tree.map(lambda x, o: o if x is None else x, new, held, is_leaf=is_none)

        new = {"last_params": params, "last_gradient": updates, "steps": steps, "changes": changes}
        new = {name: kept(tree, slots[name]) for name, tree in new.items()}
        return u, new | {"inverse_curvatures": rho, "scale": gamma, "next": after}

    def product(self, g: Any, steps: Any, changes: Any, rho: Array, gamma: Array, place: Array) -> Any:
        """Return H·g by the two loops: from the newest pair to the oldest, and back."""

        def plus(x: Any, factor: Array, direction: Any) -> Any:
            return jax.tree.map(lambda x, d: x + factor * d, x, direction)

        def down(q: Any, i: Array) -> Any:
            alpha = _at(i, rho) * inner_product(_at(i, steps), q)
            return plus(q, -alpha, _at(i, changes)), alpha

        def up(q: Any, pair: Any) -> Any:
            i, alpha = pair
            beta = _at(i, rho) * inner_product(_at(i, changes), q)
            return plus(q, alpha - beta, _at(i, steps)), None

        back = place - 1 - jnp.arange(self.memory, dtype=jnp.int32)
        newest_first = jnp.where(back < 0, back + self.memory, back)
        q, alphas = jax.lax.scan(down, g, newest_first)
        q = jax.tree.map(lambda x: gamma * x, q)
        return jax.lax.scan(up, q, (newest_first, alphas), reverse=True)[0]


_TREES = "last_params", "last_gradient", "steps", "changes"


def _at(place: Array, stacks: Any) -> Any:
    """The arrays at a place of their stacks, which is known to be inside."""
    return jax.tree.map(lambda stack: jax.lax.dynamic_index_in_dim(stack, place, keepdims=False), stacks)


def _put(stack: Array, x: Array, place: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(stack, x, place, 0)
