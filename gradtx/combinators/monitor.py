"""What passes through an optimizer, measured: a number of the stream, kept in the state."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.tree_util import tree_flatten_with_path

from gradtx.combinators.chain import Links
from gradtx.core import Context, Slots, Transformation, working_dtype
from gradtx.core.arguments import checked, function_of
from gradtx.core.errors import said


class Measurement(NamedTuple):
    """A number that a `monitor` has measured, as the state keeps it."""

    value: Array


class monitor(Links, init=False):
    """Measures the updates and passes them on.   u = g;  measured ← measure(a(g), b(g), …), or measure(g) without any

    The state keeps the number, 0 before the first update; `measurements` reads it.

    Args:
      name: That of the number.
      measure: A function of trees, as many as there are streams, to one real number: `global_norm`, `norm_ratio`,
        `cosine_similarity`, or your own. A leaf without a gradient is None in them.
      streams: The transformations that make these trees of the updates, `emit_params()` and `delay()` among them;
        none for the updates themselves.

    Raises `ValueError` for a measure that gives anything else than one real number.

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
            raise TypeError(f"monitor: name must be a text, got {said(self.name)}")
        takes = [type(link).__name__ for link in self.links] or ["trees"]
        function_of(f"monitor {self.name!r}: measure", self.measure, *takes)

    def _arguments(self) -> list[str]:
        return [repr(self.name), getattr(self.measure, "__name__", repr(self.measure)), *super()._arguments()]

    def evaluate(self, params: Any, slots: Slots) -> Any:
        """The parameters as they are: the streams are measured, and nothing more."""
        return params

    def init_tree(self, params: Any) -> Slots:
        nothing = Measurement(jnp.zeros((), working_dtype(params)))
        return {"measured": {self.name: nothing}, **super().init_tree(params)}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        streams, new = self.side_by_side(updates, slots, context)
        value = self.measure(*(streams or [updates]))
        if not isinstance(value, (int, float, Array)) or jnp.shape(value) or jnp.iscomplexobj(value):
            raise ValueError(f"monitor {self.name!r}: the measure must give one real number, got {said(value)}")
        measured = Measurement(jnp.asarray(value, slots["measured"][self.name].value.dtype))
        return updates, {"measured": {self.name: measured}, **new}


@checked
def measurements(state: Any) -> dict[str, Array]:
    """What every `monitor` measured at the last update, by name; by the whole path where two have one name.

    Args:
      state: The optimizer's, or any tree that holds it, such as Optax's; inside or outside a trace.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.chain(gx.monitor("before", gx.global_norm), gx.clip(1.0), gx.monitor("after", gx.global_norm))
    >>> _, state = tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))
    >>> gx.measurements(state)
    {'before': Array(3., dtype=float32), 'after': Array(1., dtype=float32)}
    """
    if isinstance(state, Transformation):
        raise TypeError(f"measurements: state must be the optimizer's state, got {said(state)}")
    leaves, _ = tree_flatten_with_path(state, is_leaf=_is)
    found = [([str(key.key) for key in path if hasattr(key, "key")], x.value) for path, x in leaves if _is(x)]
    names = [keys[-1] for keys, _ in found]
    return {
        keys[-1] if names.count(keys[-1]) == 1 else ".".join(key for key in keys if key != "measured"): value
        for keys, value in found
    }


def _is(x: Any) -> bool:
    return isinstance(x, Measurement)
