"""The laws that every transformation satisfies, as a test for new pieces."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradtx.core import State, Transformation, leaves_by_path
from gradtx.core.arguments import checked
from gradtx.core.checks import check_params
from gradtx.core.errors import place, said
from gradtx.core.transformation import TransformationLike

Params = Any
KEY = "draw them with context.key in update_leaf, or context.key_of(path) in update_tree, not with the key itself"


@checked
def check_laws(tx: TransformationLike, params: Params = None, *, bound: float = 1e-5, **extra: Any) -> None:
    """Check that a transformation, such as a piece that you wrote, satisfies the laws of every piece of gradtx.

    - Compiled in a scan, and under `vmap`, it computes the same from three gradients as operation by operation.
    - It runs if the gradient of one leaf is None.
    - Its state keeps its shapes and dtypes, and its leaves differ in their paths, so that `restore` can read it.
    - At zero gradients, the updates are finite.
    - Its random numbers, if it draws any, differ for each leaf and each step, although the key is the same.
    - At zero and at other gradients, the derivatives of the updates in every hyperparameter are finite, in forward and
      in reverse mode.

    The structures, shapes and dtypes of updates need no check: gradtx refuses others, whenever it runs.

    Args:
      tx: The transformation, or a pair (init, update) of another library.
      params: The parameters to test with; None for a matrix and a vector.
      bound: The largest difference between two computations, relative to the largest coordinate of a leaf, 0 or more.
      **extra: The extra arguments that `update` needs: the loss as `value`, a `key`, or a function.

    Raises:
      ValueError: A law does not hold; the message names the law and the leaf.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> gx.check_laws(gx.adam(0.1))
    >>> class half_sign(gx.PerLeaf):
    ...     def update_leaf(self, g, slots, context):
    ...         return g / jnp.abs(g) / 2, slots
    >>> gx.check_laws(half_sign())
    Traceback (most recent call last):
    ValueError: half_sign: law not satisfied: at zero gradients, the updates are finite: updates['b'] in...
    """
    tx = Transformation.coerce("check_laws: tx", tx)
    if params is None:
        w, b = jnp.linspace(-1, 1, 12).reshape(3, 4), jnp.linspace(0.5, 2, 4)
        params = {"w": w, "b": b} | ({"v": w} if "key" in extra else {})
    random = np.random.default_rng(0)

    def gradient(p: Any) -> Any:
        return jnp.asarray(random.normal(size=p.shape), p.dtype) if jnp.issubdtype(p.dtype, jnp.inexact) else None

    check_params(params)
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not 0 <= bound < np.inf:
        raise ValueError(f"check_laws: bound must be a finite number, 0 or more, got {said(bound)}")
    if any(isinstance(x, Tracer) for x in jax.tree.leaves((params, tx, extra))):
        raise ValueError(
            "check_laws: expected concrete arrays, got tracers: call it outside of jax.jit, jax.vmap and jax.grad"
        )
    params = jax.tree.map(jnp.asarray, params)
    several = [jax.tree.map(gradient, params) for _ in range(3)]
    zeros = jax.tree.map(jnp.zeros_like, several)
    if not jax.tree.leaves(zeros):
        raise ValueError("check_laws: params must hold a floating point array, and holds none")
    update = partial(tx.update, **extra)

    def loop(params: Params, several: Any, tx: Any = tx) -> Any:
        state, out = tx.init(params), []
        for g in several:
            u, state = tx.update(g, state, params, **extra)
            out.append(u)
        return {"updates": out, "state": state}

    with jax.disable_jit():
        plain = loop(params, several)

    def one(state: State, g: Any) -> tuple[State, Any]:
        u, state = update(g, state, params)
        return state, u

    def scanned() -> None:
        rows = jax.tree.map(lambda *x: jnp.stack(x), *several)
        state, out = jax.lax.scan(one, tx.init(params), rows)
        out = [jax.tree.map(lambda x, i=i: x[i], out) for i in range(3)]
        _near({"updates": out, "state": state}, plain, bound)

    def vmapped() -> None:
        both = jax.vmap(loop)(*jax.tree.map(lambda x: jnp.stack([x, -2 * x]), (params, several)))
        _near(jax.tree.map(lambda x: x[0], both), plain, bound)

    def without() -> None:
        gradients, tree = jax.tree.flatten(several[0])
        update(tree.unflatten([None, *gradients[1:]]), tx.init(params), params)

    def same() -> None:
        state = tx.init(params)
        old = leaves_by_path(state)
        for path, x in leaves_by_path(update(several[0], state, params)[1]).items():
            if jax.typeof(x) != jax.typeof(old[path]):
                raise ValueError(f"{path!r} is {jax.typeof(x)} after an update, and was {jax.typeof(old[path])}")

    def zero() -> None:
        for i, u in enumerate(loop(params, zeros)["updates"]):
            for path, x in leaves_by_path(u).items():
                _finite(f"{place('updates', path)} in step {i}", x)

    def random_numbers() -> None:
        ones = jax.tree.map(jnp.ones_like, zeros[0])

        def made(key: Any, step: int = 0) -> Any:
            state = tx.init(params)._replace(step=jnp.asarray(step, jnp.int32))
            return leaves_by_path(tx.update(ones, state, params, **extra | {"key": key})[0])

        one, other, later = made(extra["key"]), made(jax.random.fold_in(extra["key"], 1)), made(extra["key"], 1)
        random = {path: u for path, u in one.items() if u.size and not jnp.array_equal(u, other[path])}
        for path, u in random.items():
            if jnp.array_equal(u, later[path]):
                raise ValueError(f"{place('updates', path)} has the same noise at two steps: {KEY}")
            for also, v in random.items():
                if also != path and v.shape == u.shape and jnp.array_equal(u, v):
                    raise ValueError(f"{place('updates', path)} and {place('updates', also)} have one noise: {KEY}")

    def slopes(slope: Any, several: Any) -> None:
        def parts(tx: Any) -> Any:
            out = loop(params, several, tx)["updates"]
            return jax.tree.map(lambda u: jnp.stack([u.real, u.imag]) if jnp.iscomplexobj(u) else u, out)

        for i, tree in enumerate(slope(parts)(tx)):
            for path, derivatives in leaves_by_path(tree, lambda x: isinstance(x, Transformation)).items():
                for name, x in leaves_by_path(derivatives).items():
                    _finite(f"the derivative of {place('updates', path)} with respect to {name!r} in step {i}", x)

    laws = {
        "compiled in a scan, it computes the same as operation by operation": scanned,
        "under vmap, it computes the same as alone": vmapped,
        "it runs if the gradient of one leaf is None": without,
        "its state keeps its types": same,
        "at zero gradients, the updates are finite": zero,
    }
    if "key" in extra:
        laws["random numbers differ for each leaf and step"] = random_numbers
    if jax.tree.leaves(tx):
        for way, slope in (("forward-mode", jax.jacfwd), ("reverse-mode", jax.jacrev)):
            laws[f"at zero gradients, the {way} derivatives are finite"] = partial(slopes, slope, zeros)
            laws[f"the {way} derivatives are finite"] = partial(slopes, slope, several)
    for law, holds in laws.items():
        try:
            holds()
        except Exception as error:  # of any type: the piece or JAX raises it
            raise ValueError(f"{type(tx).__name__}: law not satisfied: {law}: {error}") from error


def _finite(what: str, x: Any) -> None:
    if not np.isfinite(x).all():
        how = "jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)"
        raise ValueError(f"{what} is not finite: guard square roots and divisions with jnp.where, as in {how}")


def _near(have: Any, need: Any, bound: float) -> None:
    for (path, x), y in zip(leaves_by_path(have).items(), leaves_by_path(need).values()):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = map(jax.random.key_data, (x, y))
        x, y = (np.asarray(a, np.result_type(a.dtype, float)) for a in (x, y))
        apart = np.max(np.abs(np.subtract(x, y, where=x != y, out=np.zeros_like(y))), initial=0)
        most = bound * np.max(np.abs(y[np.isfinite(y)]), initial=0)
        if not apart <= most:
            raise ValueError(f"{path!r} is {apart:.2e} off, more than {most:.2e}")
