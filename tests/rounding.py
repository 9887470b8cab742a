"""How much a result depends on rounding: the same computation with each operation rounded otherwise.

Monte Carlo arithmetic (Parker 1997): every result that is rounded is moved by up to an ulp, at random.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from gradtx.core import leaves_by_path

EXACT = {  # they move, choose or compare, and round nothing
    *("neg", "abs", "sign", "max", "min", "clamp", "select_n", "reduce_max", "reduce_min", "cummax", "cummin", "sort"),
    *("reshape", "broadcast_in_dim", "squeeze", "expand_dims", "transpose", "rev", "concatenate", "pad", "copy"),
    *("slice", "dynamic_slice", "dynamic_update_slice", "gather", "split", "real", "imag", "complex", "conj", "iota"),
    *(
        "stop_gradient",
        "copy_p",
        "convert_element_type",
        "random_bits",
        "random_wrap",
        "random_unwrap",
        "random_fold_in",
    ),
    *("optimization_barrier", "shard_alike", "sharding_constraint", "floor", "ceil", "round", "is_finite"),
}


def rounded_otherwise(function: Any, arguments: Any, times: int) -> list[Any]:
    """The results of the function with every operation in it rounded otherwise."""
    with jax.disable_jit(False):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    leaves = jax.tree.leaves(arguments)
    made = (evaluated(closed.jaxpr, closed.consts, leaves, np.random.default_rng(seed)) for seed in range(times))
    return [jax.tree.unflatten(jax.tree.structure(shape), out) for out in made]


def evaluated(jaxpr: Any, consts: Any, arguments: Any, random: Any) -> list[Any]:
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments)))

    def read(x):
        return x.val if isinstance(x, Literal) else known[x]

    for equation in jaxpr.eqns:
        name, options, given = equation.primitive.name, equation.params, [read(x) for x in equation.invars]
        inner = options.get("jaxpr") or options.get("call_jaxpr")
        if name == "cond":
            branches, (which, *given) = options["branches"], given
            inner = branches[int(np.clip(which, 0, len(branches) - 1))]
        if name == "while":
            made = looped(options, given, random)
        elif inner is not None and name != "scan":
            made = evaluated(inner.jaxpr, inner.consts, given, random)
        else:
            made = equation.primitive.bind(*given, **options)
            made = list(made) if equation.primitive.multiple_results else [made]
            if name not in EXACT:
                made = [moved(x, random) for x in made]
        known |= dict(zip(equation.outvars, made))
    return [read(x) for x in jaxpr.outvars]


def looped(options: Any, given: Any, random: Any) -> list[Any]:
    a, b = options["cond_nconsts"], options["cond_nconsts"] + options["body_nconsts"]
    condition, body, carry = options["cond_jaxpr"], options["body_jaxpr"], given[b:]
    while evaluated(condition.jaxpr, condition.consts, [*given[:a], *carry], random)[0]:
        carry = evaluated(body.jaxpr, body.consts, [*given[a:b], *carry], random)
    return carry


def moved(x: Any, random: Any) -> Any:
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    ulp = float(jnp.finfo(x.dtype).eps)
    return x * jnp.asarray(1 + ulp * random.uniform(-1, 1, x.shape), x.dtype)


def assert_within(got: Any, run: Any, arguments: Any, bound: float, expected: Any = None) -> str:
    """As expected, or as `run` does operation by operation, within `bound` of each leaf's largest number.

    Where a composition hangs on the rounding of what is within, as a sign does of a difference that is almost 0, no
    bound is right but its own: it is wider by four times as much as other roundings of every operation change it, and
    what these make not finite is not compared.
    """
    with jax.disable_jit():
        expected = run(*arguments) if expected is None else expected
        chex.assert_trees_all_equal_structs(got, expected)
        if not apart(got, expected, [expected], bound):
            return "within the bound"
        assert not (found := apart(got, expected, rounded_otherwise(run, arguments, times=3), bound)), found
    return "within what rounding changes"


def apart(got: Any, expected: Any, others: list[Any], bound: float) -> str:
    """The first leaf that is not within `bound`, widened by the spread of the other roundings."""
    for (path, x), y, *several in zip(leaves_by_path(got).items(), *map(jax.tree.leaves, (expected, *others))):
        x, y, *several = (np.asarray(z, np.complex128) for z in (x, y, *several))
        regular = np.isfinite(y) & np.all([np.isfinite(z) for z in several], 0)
        irregular = ~np.isfinite(y) & ~np.any([np.isfinite(z) for z in several], 0)
        pairs = ((x, y), (y, np.zeros_like(y)), *((z, y) for z in several))
        away, size, *spread = (np.max(np.abs(u[regular] - v[regular]), initial=0) for u, v in pairs)
        if not away <= bound * max(size, 1e-30) + 4 * max(spread) or np.isfinite(x[irregular]).any():
            return f"{path}: {x} is not {y}, with a spread of {spread}"
    return ""
