"""A wrapper that keeps parameters in more precision than they have."""

from typing import Any

import jax

from gradtx.core import Context, Part, Slots, Transformation, trees
from gradtx.core.trees import is_none
from gradtx.pieces.rounding import DTYPES, by_dtype, nearest


class master_weights(Transformation):
    r"""Keeps float32 copies, the masters, of parameters of low precision, and runs an optimizer on them.

    $$m ← m + \mathrm{inner}(g), \qquad u = \mathrm{round}(m) - θ$$

    The parameters are their masters, rounded to float16 or bfloat16; where they start they are equal. The inner
    optimizer is given the masters for parameters, and so are weight decay and averages within. The masters decide:
    parameters changed by anything else are set back by the next update, so put this wrapper outermost, and nothing but
    `apply_updates` after it. Of parameters of float32 or more nothing is kept, and u = inner(g). Needs `params`.

    `apply_updates` then gives round(m) exactly, as long as the dtype of the updates, which is that of the gradients,
    can say round(m) − θ. One of float32 can, but where a parameter falls in one step to less than about its 2¹²th part
    (float16) or 2¹⁵th (bfloat16). One of the parameter's own dtype can where round(m) is of θ's sign and between its
    half and its double; else, as where a weight changes its sign, the parameter lands beside round(m) by at most one
    unit in the last place of that step, and the next update, which begins where it landed, makes up for it. What the
    master adds is never rounded to the updates' dtype.

    Args:
      inner: The optimizer.

    Source: Micikevicius et al. 2018, arXiv 1710.03740, section 3.1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.master_weights(gx.sgd(1e-3)), jnp.ones(2, jnp.bfloat16)
    >>> state = tx.init(params)
    >>> for _ in range(250):
    ...     updates, state = tx.update(jnp.ones(2, jnp.bfloat16), state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> params, state.slots["master_weights"]["of_bfloat16"].round(4)
    (Array([0.75, 0.75], dtype=bfloat16), Array([0.75, 0.75], dtype=float32))
    """

    inner: Part

    formula = "u = inner(g)"
    needs = ("params",)

    def init_tree(self, params: Any) -> Slots:
        masters = {name: jax.tree.map(trees.widen, theirs) for name, theirs in by_dtype(params).items()}
        return super().init_tree(self.masters(params, masters)) | masters

    def params_of(self, name: str, params: Any, slots: Slots) -> Any:
        return self.masters(params, slots)

    def masters(self, params: Any, slots: Slots) -> Any:
        """The parameters, with its master in place of each that has one."""
        for name in _kept(slots):
            params = jax.tree.map(lambda p, m: p if p is None or m is None else m, params, slots[name], is_leaf=is_none)
        return params

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        masters = self.masters(context.params, slots)
        out = self.part("inner", updates, slots, context._replace(params=masters), new := {})
        for name in _kept(slots):

            def moved(m, u):
                return m if m is None or u is None else nearest(m + u, "float32")

            def landing(u, p, m, dtype=DTYPES[name]):
                return u if m is None or u is None else nearest(m, dtype) - p

            new[name] = jax.tree.map(moved, slots[name], out, is_leaf=is_none)
            out = jax.tree.map(landing, out, context.params, new[name], is_leaf=is_none)
        return out, new


def _kept(slots: Slots) -> list[str]:
    """The slots that hold masters."""
    return [name for name in slots if name in DTYPES]
