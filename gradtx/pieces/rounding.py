"""Rounding of low-precision parameters, float16 and bfloat16: keep the part of an update that their dtype would lose.

A piece sees the parameters in the working dtype; the keys of its slots give their own dtype. The parameter plus the
emitted update is a number of that dtype, so only `apply_updates` may follow such a piece.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, PerLeaf, Slots
from gradtx.core.trees import sharded

DTYPES = {"of_bfloat16": "bfloat16", "of_float16": "float16"}  # the low-precision dtypes, by the name of their slot


def by_dtype(params: Any) -> dict[str, Any]:
    """Return the parameters of each low-precision dtype present, with None in place of the others."""
    found = {}
    for name, dtype in DTYPES.items():
        theirs = jax.tree.map(lambda p, dtype=dtype: p if jnp.result_type(p) == dtype else None, params)
        found |= {name: theirs} if jax.tree.leaves(theirs) else {}
    return found


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def nearest(x: Array, dtype: str) -> Array:
    """Round `x` to the nearest number of `dtype`, halves to even, in the dtype of x; the derivative is that of x.

    A conversion to the dtype and back gives the same numbers, but compilers may remove it.
    """
    to = jnp.finfo(dtype)
    if x.dtype == dtype:  # no operation here: it would keep the compiler from fusing others
        return x
    near = jax.lax.reduce_precision(x, to.nexp, to.nmant)
    if to.minexp == jnp.finfo(x.dtype).minexp:
        return near
    least = float(to.smallest_subnormal)  # reduce_precision flushes subnormal numbers to 0
    return jnp.where(jnp.abs(x) < float(to.smallest_normal), jnp.round(x / least) * least, near)


@nearest.defjvp
def _(dtype: str, primals: Any, tangents: Any) -> Any:
    return nearest(*primals, dtype), tangents[0]


class kahan_summation(PerLeaf):
    r"""Kahan summation: add to low-precision parameters the rounding errors of earlier updates (Kahan, 1965).

    $$θ' = \mathrm{round}(θ + g + c), \qquad u = θ' - θ, \qquad c ← g + c - u$$

    Put it last in a chain. A parameter and its c hold together about twice the digits of the dtype: 17 bits for
    bfloat16, 23 for float16. An update below the last of these bits is still lost; `master_weights` has 24 bits. c has
    the parameter's dtype. It is stored divided by the dtype's `eps`, so that it does not underflow where the parameter
    does not. u is a number of that dtype too, and c accounts for the parameter that u leads to, so the sum is correct
    with updates of either dtype. For parameters of float32 or wider there is no state, and u = g. Needs `params`.

    Source: Kahan 1965; for parameters Zamirai et al. 2020, arXiv 2010.06192.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> for tx in (gx.sgd(1e-3), gx.chain(gx.sgd(1e-3), gx.kahan_summation())):
    ...     params = jnp.ones(2, jnp.bfloat16)
    ...     state = tx.init(params)
    ...     for _ in range(250):
    ...         updates, state = tx.update(jnp.ones(2, jnp.bfloat16), state, params)
    ...         params = gx.apply_updates(params, updates)
    ...     print(params)
    [1 1]
    [0.75 0.75]
    """

    exact_on_shards = True
    formula = "r = round(θ + c + g); c = c + g - (r - θ); u = r - θ"
    needs = ("params",)

    def init_tree(self, params: Any) -> Slots:
        def zeros(p):
            return sharded(jnp.zeros_like(p), p)

        return {name: jax.tree.map(zeros, theirs) for name, theirs in by_dtype(params).items()}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        for name, lost in slots.items():
            if lost is not None:
                p, dtype = context.params, DTYPES[name]
                eps = float(jnp.finfo(dtype).eps)
                whole = g + eps * lost
                u = nearest(nearest(p + whole, dtype) - p, dtype)
                return u, slots | {name: (whole - (nearest(p + u, dtype) - p)) / eps}
        return g, slots


class stochastic_rounding(PerLeaf):
    r"""Stochastic rounding: round low-precision parameters up or down at random, without bias (Forsythe, 1950).

    $$u = \mathrm{round}(θ + g) - θ, \qquad \mathrm{E}[u] = g$$

    Put it last in a chain. θ + g is rounded to one of its two neighbours in the parameter's dtype, to the nearer one
    with the greater probability: 1 less its distance, in units of the distance between the two. An update of 0 changes
    nothing, and there is no state. The noise of a step has a root mean square of at most half the distance between the
    two. For parameters of float32 or wider, u = g. Needs `params` and `key`: the random numbers depend on the key, the
    step and the leaf's path, so one key may be used at every step.

    With updates of float32, the expectation is accurate to 2⁻²³ of the distance between the neighbours. Updates of the
    parameter's own dtype cannot represent every step that changes a sign or exceeds half the parameter: such a step has
    the rounding error of its update.

    Source: Forsythe 1950; for parameters Gupta et al. 2015, arXiv 1502.02551; Zamirai et al. 2020, arXiv 2010.06192.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, params = gx.chain(gx.sgd(1e-3), gx.stochastic_rounding()), jnp.ones(10_000, jnp.bfloat16)
    >>> updates, _ = tx.update(params, tx.init(params), params, key=jax.random.key(0))
    >>> moved = gx.apply_updates(params, updates)
    >>> jnp.unique(moved), bool(abs(moved.astype(float).mean() - 0.999) < 1e-4)
    (Array([0.996094, 1], dtype=bfloat16), True)
    """

    formula = "u = stochastic_round(θ + g) - θ"
    needs = ("params", "key")

    def init_tree(self, params: Any) -> Slots:  # no arrays: marks the leaves of each dtype
        return {name: jax.tree.map(lambda p: (), theirs) for name, theirs in by_dtype(params).items()}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        for name, mark in slots.items():
            if mark is not None:
                p, dtype = context.params, DTYPES[name]
                near = nearest(p + g, dtype)
                rest, start = jax.lax.stop_gradient((g - (near - p), near))
                towards = jnp.where(rest > 0, jnp.finfo(dtype).max, jnp.finfo(dtype).min)
                away = jax.lax.nextafter(start.astype(dtype), towards).astype(g.dtype) - start
                key = context.key_of(f"stochastic_rounding/{context.path}")
                farther = jax.random.uniform(key, g.shape, g.dtype) < rest / away
                return near + jnp.where(farther, away, 0) - p, slots
        return g, slots
