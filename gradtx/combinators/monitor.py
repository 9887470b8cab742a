"""Measurements of the updates that pass through an optimizer, kept in its state."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.tree_util import tree_flatten_with_path

from gradtx.combinators.chain import Links
from gradtx.core import Context, Slots, Transformation, working_dtype
from gradtx.core.arguments import checked, function_of
from gradtx.core.errors import said
from gradtx.core.trees import unboxed


class Measurement(NamedTuple):
    """The number that a `monitor` measured, as the state holds it."""

    value: Array


class monitor(Links, init=False):
    """Measure the updates, and pass them on unchanged.

    u = g;  measured ← measure(a(g), b(g), …), or measure(g) without streams

    The state holds the number, which is 0 before the first update; `measurements` reads it.

    Args:
      name: The name of the number, a string.
      measure: A function of as many trees as there are streams, which returns one real number: `global_norm`,
        `norm_ratio`, `cosine_similarity`, or another. A leaf without a gradient is None in the trees.
      *streams: The transformations a, b, … that make these trees of the updates, such as `emit_params()` and `delay()`.
        Without any, the tree is the updates themselves.

    Raises:
      ValueError: The measure does not return one real number.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.chain(
    ...     gx.monitor("gradient", gx.global_norm),
    ...     gx.sgd(0.5),
    ...     gx.monitor("step / parameter", gx.norm_ratio, gx.identity(), gx.emit_params()),
    ...     gx.monitor("turn", gx.cosine_similarity, gx.identity(), gx.delay()),
    ... )
    >>> params = jnp.array([3.0, 4.0])
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> {name: float(value) for name, value in gx.measurements(state).items()}
    {'gradient': 5.0, 'step / parameter': 0.5, 'turn': 0.0}
    """

    name: str
    measure: Any
    flat = False
    formula = "u = g"

    def __init__(self, name: str, measure: Any, *streams: Any, links: tuple[Any, ...] = ()) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "measure", measure)
        super().__init__(*streams, links=links)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.name, str):
            raise TypeError(f"monitor: name must be a string, got {said(self.name)}")
        takes = [type(link).__name__ for link in self.links] or ["trees"]
        function_of(f"monitor {self.name!r}: measure", self.measure, *takes)

    def _arguments(self) -> list[str]:
        return [repr(self.name), getattr(self.measure, "__name__", repr(self.measure)), *super()._arguments()]

    def evaluate(self, params: Any, slots: Slots) -> Any:
        """Return the parameters unchanged: the streams are only measured."""
        return params

    def init_tree(self, params: Any) -> Slots:
        nothing = Measurement(jnp.zeros((), working_dtype(params)))
        return {"measured": {self.name: nothing}, **super().init_tree(params)}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        streams, new = self.side_by_side(updates, slots, context)
        value = self.measure(*(streams or [updates]))
        if not isinstance(value, (int, float, Array)) or jnp.shape(value) or jnp.iscomplexobj(value):
            raise ValueError(f"monitor {self.name!r}: the measure must return one real number, got {said(value)}")
        measured = Measurement(jnp.asarray(value, slots["measured"][self.name].value.dtype))
        return updates, {"measured": {self.name: measured}, **new}


@checked
def measurements(state: Any) -> dict[str, Array]:
    """Return the last number of every `monitor` by name, or by the whole path where two have the same name.

    Args:
      state: The state of the optimizer, or any tree that holds it, such as an Optax state; inside or outside a trace.

    Returns:
      A dict of arrays of shape ().

    Raises:
      TypeError: `state` is a transformation.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.chain(gx.monitor("before", gx.global_norm), gx.clip(1.0), gx.monitor("after", gx.global_norm))
    >>> _, state = tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))
    >>> gx.measurements(state)
    {'before': Array(3., dtype=float32), 'after': Array(1., dtype=float32)}
    """
    if isinstance(state, Transformation):
        raise TypeError(f"measurements: state must be the optimizer's state, got {said(state)}")
    leaves, _ = tree_flatten_with_path(unboxed(state), is_leaf=_is)
    found = [([str(key.key) for key in path if hasattr(key, "key")], x.value) for path, x in leaves if _is(x)]
    names = [keys[-1] for keys, _ in found]
    return {
        keys[-1] if names.count(keys[-1]) == 1 else ".".join(key for key in keys if key != "measured"): value
        for keys, value in found
    }


def _is(x: Any) -> bool:
    return isinstance(x, Measurement)
