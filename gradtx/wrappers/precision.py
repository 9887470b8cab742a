"""Mixed precision: wrappers that keep float32 copies of low-precision parameters, or what their rounding loses."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gradtx.codecs import mixed, random_of, rounded
from gradtx.core import Context, Part, Slots, Transformation, path_of, trees
from gradtx.core.trees import is_none, map_with_path, sharded
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

    elementwise = True
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
    """Return the names of the slots of low-precision parameters."""
    return [name for name in slots if name in DTYPES]


class split_weights(Transformation):
    r"""Keep what low-precision parameters lose to rounding in 8 or 16 bits, and run an optimizer on the exact weights.

    $$m = θ + c\,\mathrm{ulp}(θ)/2, \qquad m ← m + \mathrm{inner}(g), \qquad u = \mathrm{round}(m) - θ, \qquad
    c ← \mathrm{round}\!\left(\frac{m - θ - u}{\mathrm{ulp}(θ + u)/2}\right)$$

    Here c, in [−1, 1], is rounded stochastically to multiples of 1/127 or 1/32767, by a hash of the step, the path and
    the coordinate: steps below its resolution add up in expectation. A parameter and its c are together a number of 16
    bits of precision (bfloat16) or 19 bits (float16), and of 24 bits with `bits=16`, in 3 or 4 bytes: `master_weights`
    needs 6. With `store` inside, AdamW takes 7 bytes for each parameter, of which 2 are the parameter, 2 its gradient,
    1 is c and 2.03 are slots: `split_weights(store(adamw(1e-3), "8bit"))`.

    The inner optimizer receives m as its parameters, and so do weight decay and averages within it. c is counted from
    the parameter to which the emitted update leads, in the gradients' dtype. Parameters that anything else changes are
    taken as they are. Put this wrapper outermost, with nothing after it except `apply_updates`. For parameters of
    float32 or wider there is no slot, and u = inner(g). `update` needs `params`.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      bits: The bits of c, 8 or 16.

    Source: Gonzalez Ortiz et al. 2026, arXiv 2602.23349, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.split_weights(gx.sgd(1e-3)), jnp.ones(2, jnp.bfloat16)
    >>> state = tx.init(params)
    >>> for _ in range(250):
    ...     updates, state = tx.update(jnp.ones(2, jnp.bfloat16), state, params)
    ...     params = gx.apply_updates(params, updates)
    >>> params, state.slots["split_weights"]["of_bfloat16"].dtype
    (Array([0.75, 0.75], dtype=bfloat16), dtype('int8'))
    """

    inner: Part
    bits: Literal[8, 16] = 8

    elementwise = True
    formula = "u = inner(g)"
    needs = ("params",)

    def init_tree(self, params: Any) -> Slots:
        def zeros(p: Any) -> Any:
            return sharded(jnp.zeros(p.shape, f"int{self.bits}"), trees.widen(p))

        lost = {name: jax.tree.map(zeros, theirs) for name, theirs in by_dtype(params).items()}
        return super().init_tree(params) | lost

    def params_of(self, name: str, params: Any, slots: Slots) -> Any:
        for kind in _kept(slots):

            def whole(p: Any, c: Any, kind: str = kind) -> Any:
                most = jnp.asarray(2 ** (self.bits - 1) - 1, p.dtype) if p is not None else None
                return p if p is None or c is None else p + c.astype(p.dtype) / most * half_unit(p, DTYPES[kind])

            params = jax.tree.map(whole, params, slots[kind], is_leaf=is_none)
        return params

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        masters = self.params_of("inner", context.params, slots)
        made = self.part("inner", updates, slots, context._replace(params=masters), new := {})
        out, most, start = made, 2 ** (self.bits - 1) - 1, mixed(context.step.astype(jnp.uint32))

        def again(c: Any, u: Any) -> Any:  # c, known after u: m is computed anew, not kept in memory meanwhile
            return c if c is None or u is None else jnp.where(jnp.isnan(u), jnp.zeros_like(c), c)

        later = {kind: jax.tree.map(again, slots[kind], made, is_leaf=is_none) for kind in _kept(slots)}
        masters = self.params_of("inner", context.params, later)
        for kind in _kept(slots):

            def emitted(u: Any, m: Any, p: Any, c: Any, dtype: str = DTYPES[kind]) -> Any:
                return u if u is None or c is None else nearest(nearest(m + u, dtype) - p, dtype)

            def lost(keys: Any, u: Any, a: Any, m: Any, p: Any, c: Any, dtype: str = DTYPES[kind]) -> Any:
                if u is None or c is None:
                    return c
                landed = nearest(p + u, dtype)
                share = jax.lax.stop_gradient((m - landed + a) / half_unit(landed, dtype))
                random = random_of(start, path_of(keys), c.shape)
                return jnp.clip(rounded(most * share, random), -most, most).astype(c.dtype)

            out = jax.tree.map(emitted, out, masters, context.params, slots[kind], is_leaf=is_none)
            each = made, masters, context.params, slots[kind]
            new[kind] = map_with_path(lost, out, *each, is_leaf=is_none)
        return out, new


def half_unit(p: Any, dtype: str) -> Any:
    """Half the distance from a number of `dtype` to the next larger one in magnitude: the most that rounding loses."""
    to, own = jnp.finfo(dtype), jnp.finfo(p.dtype)
    integer, bias = jnp.dtype(f"uint{own.bits}"), own.maxexp - 1
    # By its bits, since `frexp` and `ldexp` are many times slower. Below the least normal half unit: that one.
    least = max(bias + to.minexp, to.nmant + 2) << own.nmant
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(p), integer)
    exponent = jnp.maximum(bits & np.asarray((2 * bias + 1) << own.nmant, integer), np.asarray(least, integer))
    return jax.lax.bitcast_convert_type(exponent - np.asarray((to.nmant + 1) << own.nmant, integer), p.dtype)
