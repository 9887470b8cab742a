"""Small trees, streams of gradients, and comparisons of updates."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import zero_from_primal

import gradtx as gx
from gradtx.core import walk


def params_of(dtype=jnp.float32, seed=0):
    random = np.random.default_rng(seed)
    return {name: jnp.asarray(random.standard_normal(shape), dtype) for name, shape in (("w", (3, 4)), ("b", (4,)))}


def stream(tree, steps=5, seed=1):
    """Gradients like `tree`, with signs that change, zeros among them."""
    random = np.random.default_rng(seed)

    def gradient(x):
        g = random.standard_normal(jnp.shape(x))
        return jnp.asarray(np.where(np.abs(g) < 0.3, 0, g), jnp.result_type(x))

    for _ in range(steps):
        yield jax.tree.map(gradient, tree)


def bowl(tree):
    """The gradient of ½‖θ‖², and its Hessian's product, as `jax.grad` gives them: float0 for integers."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else zero_from_primal(x), tree)


def half_square(tree):
    """½‖θ‖², of which `bowl` is the gradient."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return sum((jnp.sum(jnp.real(x * jnp.conj(x))).astype(float) for x in leaves), jnp.zeros(())) / 2


FUNCTIONS = {"grad_fn": bowl, "hvp": bowl, "value_fn": half_square}


def extra(tx):
    """The extra arguments that an update of `tx` needs."""
    given = {"value": 1.0, "max_logits": 2.0, "key": jax.random.key(0), **FUNCTIONS}
    needs = {name for piece in walk(tx) for name in piece.needs}
    return {name: x for name, x in given.items() if name in needs}


def schedules_of(tx):
    """The schedules that stand for hyperparameters of `tx`."""
    leaves = jax.tree.leaves(tx, is_leaf=lambda x: isinstance(x, gx.Schedule))
    return [leaf for leaf in leaves if isinstance(leaf, gx.Schedule)]


def follow(tx, params, gradients, update=None):
    """The updates and the last state of successive updates."""
    state, out = tx.init(params), []
    for g in gradients:
        u, state = (update or tx.update)(g, state, params, **extra(tx))
        out.append(u)
    return out, state


def member(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def bits(x):
    """Numbers of 16 bits as integers, which a scan on a CPU stacks in a fraction of the time."""
    return jax.lax.bitcast_convert_type(x, jnp.uint16)


def of_bits(x, dtype):
    """The numbers, in float64."""
    return np.asarray(x).view(jnp.dtype(dtype)).astype(np.float64)


def types(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), x.dtype, x.weak_type), tree)


def assert_near(a, b, bound=1e-6):
    """Leaves within `bound` of the largest finite coordinate; infinities are equal."""
    chex.assert_trees_all_equal_structs(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        away = np.abs(np.subtract(x, y, where=x != y, out=np.zeros_like(x)))
        assert np.max(away, initial=0) <= bound * max(np.max(np.abs(y[np.isfinite(y)]), initial=0), 1e-30)
