"""A map over the arrays of a state that belong to a parameter."""

from collections.abc import Callable
from typing import Any

import jax

from gradtx.core import State, Transformation
from gradtx.core.arguments import checked, function_of
from gradtx.core.errors import said
from gradtx.core.owners import slots_of
from gradtx.core.transformation import TransformationLike


@checked
def map_params(
    f: Callable[..., Any],
    tx: TransformationLike,
    state: Any,
    params: Any,
    *rest: Any,
    other: Callable[[Any], Any] | None = None,
) -> Any:
    """Map a function over the arrays of a state, each with the parameter that it belongs to and the axes that it has.

    Use it for sharding specs, tables of memory, offload to the host, or merges of parameters: for all that is known for
    each parameter and wanted for each slot. The owners and axes are found from `tx.init` on shapes, without computing
    anything, and not from names or equal sizes.

    `axes` is a tuple with one entry for each axis of the slot: the parameter's axis that it is, or None. A slot of the
    parameter's shape has `(0, 1)` for a matrix; the row means of `factored` have `(0,)` and the column means `(1,)`; a
    sum over the whole parameter has `()`; the means over several `blocks` have `(None,)`. The slots of a complex
    parameter have one more axis, the last, for real and imaginary parts: None.

    Args:
      f: The function, `f(slot, param, axes, *rest)`, with the leaf of the parameters and those of the other trees.
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's, which may hold gradtx's.
      state: The state of `tx`, or a tree of the same structure, such as shapes or an earlier result.
      params: The parameters, or `jax.ShapeDtypeStruct`s.
      *rest: Trees like the parameters, such as one of sharding specs.
      other: The function of all other arrays, which belong to no one parameter: the step, the age of an average, a norm
        over all parameters. None to keep them.

    Returns:
      A tree with the structure of the state.

    Raises:
      ValueError: The state is not of this optimizer and these parameters, or a tree in `rest` is not like `params`.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, params = gx.factored(gx.scale_by_ema()), {"w": jnp.zeros((4, 2))}
    >>> specs = {"w": jax.P("data", "model")}
    >>> def spec(slot, param, axes, of_param):
    ...     return [None if axis is None else of_param[axis] for axis in axes]
    >>> gx.map_params(spec, tx, tx.init(params), params, specs).slots["factored"]["columns"]
    {'scale_by_ema': {'mean': {'w': ['model']}}}
    """
    own = Transformation.coerce("map_params: tx", tx)
    if other is not None:
        function_of("map_params: other", other, "the array")
    init = own.init if tx is own or isinstance(state, State) else tx[0]  # Optax's own state, which may hold gradtx's
    slots, structure = slots_of(init, params)
    values = _leaves("state", state, structure, "the state of tx and params, made by tx.init(params)")
    for value, slot in zip(values, slots):
        if getattr(value, "shape", slot.struct.shape) != slot.struct.shape:
            raise ValueError(
                f"map_params: state must be of these parameters, got an array of shape {value.shape} where init makes "
                f"one of {slot.struct.shape}: make the state with init of this optimizer and these parameters"
            )
    tree = jax.tree.structure(params)
    trees = [_leaves(f"rest[{i}]", x, tree, "a tree like params") for i, x in enumerate(rest)]
    leaves = [*zip(jax.tree.leaves(params), *trees)]

    def mapped(value: Any, owner: int | None, axes: tuple[int | None, ...]) -> Any:
        if owner is None:
            return value if other is None else other(value)
        param, *more = leaves[owner]
        return f(value, param, axes, *more)

    return structure.unflatten(mapped(value, slot.owner, slot.axes) for value, slot in zip(values, slots))


def _leaves(name: str, tree: Any, structure: Any, expected: str) -> list[Any]:
    try:
        return structure.flatten_up_to(tree)
    except (ValueError, TypeError):
        raise ValueError(f"map_params: {name} must be {expected}, got {said(tree)}") from None
