"""Measurements of the updates that pass through an optimizer, kept in its state."""

from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import tree_flatten_with_path

from gradtx.combinators.chain import Links
from gradtx.core import Context, Kind, Slots, Transformation, TransformationLike, leaves_by_path, working_dtype
from gradtx.core.arguments import checked, function_of, sequence
from gradtx.core.errors import said
from gradtx.core.trees import Measurement, differentiable, is_leaf, unboxed
from gradtx.core.where import choose
from gradtx.pieces.formulas import norm, safe_divide


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
    own = ("measured",)
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


def _patterns(place: str, value: Any) -> tuple[str, ...]:
    several = (value,) if isinstance(value, str) else tuple(sequence(place, value))
    if wrong := [x for x in several if not isinstance(x, str)]:
        raise TypeError(f"{place} must be path patterns such as '**/kernel', got {said(wrong[0])}")
    return several


class monitor_layers(Transformation, init=False):
    """Measure the updates of each layer, and pass them on unchanged.

    u = g;  norm ← ‖gᵢ‖;  ratio ← ‖gᵢ‖/‖θᵢ‖, and 0 where θᵢ is 0;  cosine ← ⟨gᵢ, aᵢ⟩/(‖gᵢ‖·‖aᵢ‖)

    Here i is a leaf, or all leaves that a pattern matches as one vector. `gx.measurements(state)` holds one dict under
    the name: `"norm"`, `"ratio"` and, if measured, `"cosine"`, each a dict from the paths or the patterns to numbers. A
    number is 0 before the first update, and stays as it was where there is no gradient. Put the piece last in a chain
    to measure steps: a ratio of about 1e-3 is usual for the weights of a network.

    Args:
      name: The name of the dict, a string.
      patterns: Path patterns, a string or a sequence of strings (`*` any name, `**` any number of names), for a number
        of each pattern; () for a number of each leaf. Each must match a parameter; a leaf may be in several.
      cosine_to: The transformation a of the updates for the cosine: `delay()` for the update before, at the cost of
        keeping it, or `emit_params()` for the parameters. None for no cosine.

    Raises:
      ValueError: A pattern matches no parameter.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.chain(gx.sgd(0.5), gx.monitor_layers(cosine_to=gx.emit_params()))
    >>> params = {"bias": jnp.array([2.0]), "kernel": jnp.array([3.0, 4.0])}
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> for measure, layers in gx.measurements(state)["layers"].items():
    ...     print(measure, {path: round(float(value), 3) for path, value in layers.items()})
    cosine {'bias': -1.0, 'kernel': -1.0}
    norm {'bias': 1.0, 'kernel': 2.5}
    ratio {'bias': 0.5, 'kernel': 0.5}
    """

    name: str = "layers"
    patterns: Annotated[tuple[str, ...], Kind(_patterns)] = ()
    cosine_to: Transformation | None = None

    needs = ("params",)
    formula = "u = g"

    def __init__(
        self,
        name: str = "layers",
        patterns: str | Sequence[str] = (),
        cosine_to: TransformationLike | None = None,
    ) -> None:
        for field, value in (("name", name), ("patterns", patterns), ("cosine_to", cosine_to)):
            object.__setattr__(self, field, value)
        self.__post_init__()

    def layers(self, tree: Any) -> dict[str, dict[str, Any]]:
        """The leaves of each layer by path, without those that are None."""
        leaves = {path: x for path, x in leaves_by_path(tree, is_leaf).items() if getattr(x, "content", x) is not None}
        if not self.patterns:  # a tree that is one leaf has no path
            return {path or "params": {path: x} for path, x in leaves.items()}
        chosen = {pattern: choose("monitor_layers: patterns", pattern, tree) for pattern in self.patterns}
        return {pattern: {p: leaves[p] for p in sorted(paths & leaves.keys())} for pattern, paths in chosen.items()}

    def evaluate(self, params: Any, slots: Slots) -> Any:
        """Return the parameters unchanged: `cosine_to` is only measured."""
        return params

    def init_tree(self, params: Any) -> Slots:
        dtype = working_dtype(params)
        real = jax.tree.map(lambda p: p if differentiable("params", p) else None, params)

        def nothing(leaves: dict[str, Any]) -> Any:  # each an array of its own, so that a step can reuse its memory
            if self.patterns:
                return jnp.zeros((), dtype)
            return jax.tree.map(lambda p: jnp.zeros((), dtype), *leaves.values())  # the leaf's: see `core.owners`

        measures = ("norm", "ratio", *(() if self.cosine_to is None else ("cosine",)))
        layers = self.layers(real)
        none = {measure: {layer: nothing(leaves) for layer, leaves in layers.items()} for measure in measures}
        return {"measured": {self.name: Measurement(none)}, **super().init_tree(params)}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        new: Slots = {}
        streams = [updates, context.params]
        if self.cosine_to is not None:
            streams.append(self.part("cosine_to", updates, slots, context, new))
        own, _, *others = streams = [leaves_by_path(tree) for tree in streams]
        norms = [{path: norm(x) for path, x in leaves.items()} for leaves in streams]
        measured = jax.tree.map(lambda x: x, slots["measured"][self.name].value)  # kept where there is no gradient
        for layer, leaves in self.layers(updates).items():
            if not leaves:
                continue
            of_own, of_params, *of_others = (norm(jnp.stack([several[path] for path in leaves])) for several in norms)
            # 0 for weights of 0, as biases start: `skip_nonfinite` would skip a step whose state has an infinity.
            measured["ratio"][layer] = safe_divide(jnp.where(of_params == 0, 0, of_own), of_params)
            measured["norm"][layer] = of_own
            for other, of_other in zip(others, of_others):
                products = (safe_divide(own[path], of_own) * safe_divide(other[path], of_other) for path in leaves)
                measured["cosine"][layer] = sum(map(jnp.sum, products))
        return updates, {"measured": {self.name: Measurement(measured)}, **new}


@checked
def measurements(state: Any) -> dict[str, Any]:
    """Return the last number of every `monitor` by name, or by the whole path where two have the same name.

    For `monitor_layers` it is a dict of numbers.

    Args:
      state: The state of the optimizer, or any tree that holds it, such as an Optax state; inside or outside a trace.

    Returns:
      A dict from names to arrays of shape (), or to dicts of them.

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
