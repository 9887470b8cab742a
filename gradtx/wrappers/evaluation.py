"""The parameters to evaluate, where they are others than those that are trained.

A transformation that has such defines `evaluate(params, slots)`: of the parameters in the working dtype, and of its own
slots, it makes them.
"""

from typing import Any

import jax

from gradtx.arguments import checked
from gradtx.checks import check_slots
from gradtx.combinators.chain import Links
from gradtx.combinators.monitor import monitor
from gradtx.combinators.partition import Groups
from gradtx.core import Slots, State, Transformation, init_slots, trees, walk
from gradtx.core.transformation import TransformationLike
from gradtx.wrappers.precision import master_weights


@checked
def eval_params(tx: TransformationLike, state: State, params: Any) -> Any:
    """The parameters to evaluate a model with: the average or the slow weights that a wrapper in `tx` keeps.

    Of `schedule_free`, `lookahead`, `average_params` and what is made of them. The outermost decides; in a chain the
    last; in `partition`, `masked` and `freeze` each group for its own parameters. All other parameters come back as
    the objects that they are. What a wrapper knows of is θ + u with the update that it emits: put it last.

    Args:
      tx: The optimizer.
      state: Its state, before the first update or after any.
      params: The parameters that are trained.

    Returns:
      Parameters of the structure, shapes and dtypes of `params`.

    Raises:
      TypeError: `tx` is no transformation, or `state` no `State`.
      ValueError: The state is another optimizer's, or that of other parameters.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.lookahead(gx.sgd(1.0), every=2), jnp.array([4.0])
    >>> updates, state = tx.update(jnp.array([1.0]), tx.init(params), params)
    >>> gx.apply_updates(params, updates), gx.eval_params(tx, state, gx.apply_updates(params, updates))
    (Array([3.], dtype=float32), Array([4.], dtype=float32))
    """
    tx = Transformation.coerce("eval_params: tx", tx)
    evaluated = _evaluated(tx, state, params)
    if not any(map(_has_own, walk(tx))):
        return params
    return jax.tree.map(lambda p, e: p if e is None else e, params, evaluated, is_leaf=trees.is_none)


@trees.compiled
def _evaluated(tx: Transformation, state: Any, params: Any) -> Any:
    """The evaluation parameters; None where they are those that are trained."""
    if not isinstance(state, State):
        raise TypeError(f"eval_params(tx, state, params) needs the State of tx.init, got {type(state).__name__}")
    floating = {path: trees.differentiable(f"params[{path!r}]", p) for path, p in trees.leaves_by_path(params).items()}
    check_slots(state.slots, jax.eval_shape(lambda p: init_slots(tx.at(0), p), params), exact=True)
    dtype = trees.working_dtype(params, state.slots)
    leaves, tree = jax.tree.flatten(params)
    wide = tree.unflatten([trees.widen(p, dtype) if own else None for p, own in zip(leaves, floating.values())])
    out = _of(tx, _own(tx, state.slots), wide)
    return jax.tree.map(
        lambda p, w, o: None if o is w else trees.narrow(o, p), params, wide, out, is_leaf=trees.is_none
    )


def _has_own(tx: Transformation) -> bool:
    return hasattr(tx, "evaluate")


def _own(tx: Transformation, slots: Slots) -> Slots:
    """The slots of `tx` itself, of those that `init_slots` gives."""
    return slots if tx.flat else slots.get(type(tx).__name__, {})


def _of(tx: Any, slots: Slots, params: Any) -> Any:
    """The evaluation parameters of `tx`; where it has none, the same objects."""
    if _has_own(tx):
        return tx.evaluate(params, slots)
    out = params
    for part, kept, theirs in _parts(tx, slots, params):
        if any(map(_has_own, walk(part))):
            made = _of(part, kept, theirs)
            out = jax.tree.map(lambda p, o, m, t: o if m is t else m, params, out, made, theirs, is_leaf=trees.is_none)
    return out


def _parts(tx: Transformation, slots: Slots, params: Any) -> list[tuple[Transformation, Slots, Any]]:
    """What `tx` is made of, each part with its own slots and with its parameters: None for another group's."""
    if isinstance(tx, monitor):  # its streams are measured, and nothing more
        return []
    if isinstance(tx, master_weights):
        params = tx.masters(params, slots)
    if isinstance(tx, Links):
        return [(link, slots.get(name, {}), params) for name, link in tx.named_links()]
    if isinstance(tx, Groups):
        cut = tx.cut(params, check=False)
        rules = [(rule.name, rule.tx) for rule in tx.groups()]
        return [(inner, _own(inner, slots.get(name, {})), cut.to(name, params)) for name, inner in rules]
    fields = {name: getattr(tx, name) for name, kind in tx._kinds.items() if kind.data}
    parts = {name: part for name, part in fields.items() if isinstance(part, Transformation)}
    return [(part, _own(part, slots.get(name, {})), params) for name, part in parts.items()]
