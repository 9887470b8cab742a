"""Evaluation parameters: averaged or slow weights kept by a wrapper.

A wrapper that keeps evaluation parameters defines `evaluate(params, slots)`, which computes them from the parameters in
the working dtype and from its own slots.
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import jax

from gradtx.combinators.leafwise import Separate
from gradtx.core import Slots, State, Transformation, axes, init_slots, trees, walk
from gradtx.core.arguments import checked
from gradtx.core.checks import check_slots
from gradtx.core.root import keys_of, names_of
from gradtx.core.transformation import TransformationLike


@checked
def eval_params(tx: TransformationLike, state: State, params: Any) -> Any:
    """Return the parameters to evaluate a model with: the averaged or slow weights kept by a wrapper in `tx`.

    Such wrappers are `schedule_free`, `lookahead`, `average_params`, and optimizers built from them. The outermost one
    applies; in a chain, the last; in `partition`, `masked` and `freeze`, each group's own, to its parameters. All other
    parameters are returned as the same objects. The wrapper tracks θ + u for the update it emits, so it must be last in
    a chain.

    Args:
      tx: The optimizer.
      state: The state of `tx`, before the first update or after any.
      params: The parameters that are trained.

    Returns:
      Parameters with the structure, shapes and dtypes of `params`.

    Raises:
      TypeError: `tx` is not a transformation, or `state` is not a `State`.
      ValueError: The state belongs to another optimizer or to other parameters.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.lookahead(gx.sgd(1.0), every_k=2), jnp.array([4.0])
    >>> updates, state = tx.update(jnp.array([1.0]), tx.init(params), params)
    >>> gx.apply_updates(params, updates), gx.eval_params(tx, state, gx.apply_updates(params, updates))
    (Array([3.], dtype=float32), Array([4.], dtype=float32))
    """
    tx = Transformation.coerce("eval_params: tx", tx)
    evaluated = _evaluated(tx, state, params)
    if not any(map(_has_own, walk(tx))):
        return params
    out = jax.tree.map(lambda p, e: p if e is None else e, trees.opened(params), evaluated, is_leaf=trees.is_none)
    return trees.arranged(out, params)


@trees.compiled
def _evaluated(tx: Transformation, state: Any, params: Any) -> Any:
    """Compute the evaluation parameters, in opened nodes; None where they equal the trained parameters."""
    if not isinstance(state, State):
        raise TypeError(f"eval_params(tx, state, params) needs the State of tx.init, got {type(state).__name__}")
    params = trees.opened(params)
    floating = {path: trees.differentiable(f"params[{path!r}]", p) for path, p in trees.leaves_by_path(params).items()}
    with axes.within(leaves=axes.leaves_of(params)):
        expected = jax.eval_shape(lambda p: init_slots(tx.at(0), p), params)
    slots = trees.boxed_like(state.slots, expected)
    check_slots(slots, expected, exact=True)
    slots = trees.moved(slots, jax.memory.Space.Device) if tx.outermost else slots
    dtype = trees.working_dtype(params, slots)
    leaves, tree = jax.tree.flatten(params)
    wide = tree.unflatten([trees.widen(p, dtype) if floats else None for p, floats in zip(leaves, floating.values())])
    with axes.within(leaves=axes.leaves_of(params)):
        out = of_slots(tx, slots, wide)
    return jax.tree.map(
        lambda p, w, o: None if o is w else trees.narrow(o, p), params, wide, out, is_leaf=trees.is_none
    )


def _has_own(tx: Transformation) -> bool:
    return hasattr(tx, "evaluate")


def of_slots(tx: Any, slots: Slots, params: Any) -> Any:
    """Compute the evaluation parameters of `tx` from slots under its name."""
    return _of(tx, _within(slots, names_of(tx)), params)


def _of(tx: Any, slots: Slots, params: Any) -> Any:
    """Compute the evaluation parameters of `tx` from its own slots; without any, return the same objects."""
    if _has_own(tx):
        return tx.evaluate(params, slots)
    if isinstance(tx, Separate):
        return tx.evaluate_each(params, slots, lambda own, p: of_slots(tx.inner, own, p))
    out = params
    with tx.scope():
        for name, part in tx.parts().items():
            if any(map(_has_own, walk(part))):
                theirs = tx.params_of(name, params, slots)
                made = _of(part, _within(slots, keys_of(tx, name, part)), theirs)
                out = jax.tree.map(
                    lambda p, o, m, t: o if m is t else m, params, out, made, theirs, is_leaf=trees.is_none
                )
    return out


def _within(slots: Slots, keys: Iterable[str]) -> Slots:
    return reduce(lambda kept, key: kept.get(key, {}), keys, slots)
