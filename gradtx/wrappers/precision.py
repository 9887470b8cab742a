"""Mixed precision: a wrapper that keeps float32 copies of low-precision parameters."""

from typing import Any

import jax

from gradtx.core import Context, Part, Slots, Transformation, trees
from gradtx.core.trees import is_none
from gradtx.pieces.rounding import DTYPES, by_dtype, nearest


class master_weights(Transformation):
    r"""Keep float32 copies, the masters, of low-precision parameters, and run an optimizer on them.

    $$m ← m + \mathrm{inner}(g), \qquad u = \mathrm{round}(m) - θ$$

    The parameters are their masters rounded to float16 or bfloat16; at the start the two are equal. The inner optimizer
    receives the masters as its parameters, and so do weight decay and averages within it. The masters take precedence:
    the next update undoes any other change of the parameters, so put this wrapper outermost, with nothing after it
    except `apply_updates`. For parameters of float32 or wider no master is kept, and u = inner(g). `update` needs
    `params`.

    `apply_updates` then gives round(m) exactly when round(m) − θ is representable in the updates' dtype, which is the
    gradients' dtype. float32 updates suffice unless a parameter shrinks in one step by more than about 2¹²× (float16)
    or 2¹⁵× (bfloat16). Updates in the parameter's own dtype suffice if round(m) has the sign of θ and lies between θ/2
    and 2θ. Otherwise, as where a weight changes its sign, the parameter misses round(m) by at most one unit in the last
    place of that step, and the next update starts from there and corrects it. The increment of the master is never
    rounded to the updates' dtype.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.

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
        """Return the parameters, each replaced by its master if it has one."""
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
    """Return the names of the slots that hold masters."""
    return [name for name in slots if name in DTYPES]
