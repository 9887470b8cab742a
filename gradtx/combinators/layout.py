"""Declare the axes of parameters that are inputs, outputs and batch, for all pieces that depend on them."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any

from gradtx.core import Context, Kind, Part, Slots, Transformation, run
from gradtx.core.arguments import function_of
from gradtx.core.axes import Layout, Library, axes_of, leaves_of, parsed, scope, within
from gradtx.core.errors import said
from gradtx.core.where import chooser


def _rules(place: str, value: Any) -> tuple[tuple[Any, str], ...]:
    if isinstance(value, str):
        value = {"**": value}
    if not isinstance(value, (Mapping, tuple)):
        raise TypeError(f"{place} must be a dict of axes by path pattern, or the axes of all, got {said(value)}")
    for where, text in dict(value).items():
        if not isinstance(where, str):
            function_of(f"{place}: the key {said(where)}", where, "path", "leaf")
        parsed(f"{place}[{getattr(where, '__name__', repr(where))}]", text)
    return tuple(dict(value).items())


class layout(Transformation):
    """Declare which axes of the parameters are inputs, outputs and batch, for all pieces of an optimizer.

    A rule has a word for each axis: `in`, an axis that the layer sums over; `out`, an axis of its result; `row`, the
    rows of a table of embeddings; `batch`, an axis that counts parameters, such as stacked layers, heads or experts.
    `...` stands for all further axes, by the name of the parameter. Parentheses split an axis: `(3 out)` is the three
    parts of a fused query, key and value, each with its outputs.

    | parameter | axes |
    |---|---|
    | a dense kernel of Flax or Haiku; of Equinox or PyTorch | `in out`; `out in` |
    | a convolution of Flax or Haiku; of Equinox or PyTorch | `in in in out`; `out in in in` |
    | the query of Flax's attention (features, heads, head_dim) | `in out out`, or `in batch out` for each head alone |
    | fused query, key and value of PyTorch (3·features, features) | `(3 out) in` |
    | dense kernels of layers stacked by a scan | `batch in out`, or `batch ...` |

    Matrix pieces (`orthogonalize`, `scale_by_shape`, `in_basis`, `kronecker`) act on the matrix of all inputs and all
    outputs; `factored`, `reduced`, `centralize` and `project_if_orthogonal` on means over these axes. Where a parameter
    has batch axes, whatever acts on each parameter alone, such as a norm, a trust ratio or a piece that you wrote, acts
    on each layer alone: LAMB on stacked layers is LAMB on the layers. A random `key` then differs for each layer.
    Pieces that measure all parameters together, such as `clip_by_global_norm`, still do.

    For parameters without a rule, and in optimizers without a `layout`, names determine the axes: `kernel` and `w` are
    (inputs, outputs), `weight` is (outputs, inputs), `bias` and `scale` are vectors of any shape, and `embedding` is a
    table. An array of three axes or more whose layer is not called a convolution is in doubt: it is refused by pieces
    that must know, and left to its `default` by `muon`. `explain` lists the axes of each parameter, with doubts.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      rules: A dict of axes, `{"layers/**": "batch ..."}`, by path pattern or function of (path, leaf); the first that
        chooses a parameter has it. A single string is for all parameters.
      library: The library whose names the parameters without a rule have: `"flax"`, `"nnx"`, `"haiku"`, `"equinox"` or
        `"torch"`. With the last two every matrix is (outputs, inputs), with the others (inputs, outputs), whatever its
        name. None to let each name decide.

    Raises:
      ValueError: A rule matches no parameter, or does not fit the shape of one.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> layers = {"layers/kernel": jnp.ones((2, 4, 4)) * jnp.array([1.0, 100.0])[:, None, None]}
    >>> tx = gx.layout(gx.lamb(0.01, weight_decay=0.0), {"layers/**": "batch ..."})
    >>> tx.update(layers, tx.init(layers), layers)[0]["layers/kernel"][:, 0, 0]
    Array([-0.01, -1.  ], dtype=float32)
    """

    inner: Part
    rules: Annotated[Any, Kind(_rules)] = ()
    library: Library | None = None

    elementwise = True
    fed = ("inner",)
    formula = "u = inner(g)"

    @property
    def linear(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.linear

    def _arguments(self) -> list[str]:
        several = ", ".join(f"{getattr(where, '__name__', repr(where))}: {text!r}" for where, text in self.rules)
        one = repr(self.rules[0][1]) if [where for where, _ in self.rules] == ["**"] else f"{{{several}}}"
        library = [f"library={self.library!r}"] if self.library else []
        return [repr(self.inner), *([one] if self.rules else []), *library]

    def scope(self) -> AbstractContextManager[None]:
        outer = scope().layout
        rules = tuple((chooser(where), text) for where, text in self.rules)
        return within(layout=Layout((*rules, *outer.rules), self.library or outer.library))

    def init_tree(self, params: Any) -> Slots:
        leaves = leaves_of(params)
        for where, text in self.rules:
            if leaves and not any(chooser(where)(path, leaf) for path, leaf in leaves.items()):
                raise ValueError(f"layout: {where!r} chooses no parameter for {text!r}; there are {', '.join(leaves)}")
        with self.scope():
            for path, leaf in leaves.items():
                axes_of(path, leaf)  # raises where a rule does not fit
            return super().init_tree(params)

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        with self.scope():
            return self.part("inner", updates, slots, context, new := {}), new

    def finish_tree(self, updates: Any, slots: Slots, context: Context, then: Any) -> Any:
        with self.scope():
            return run(
                self.inner,
                updates,
                slots.get("inner", {}),
                context,
                lambda made, kept: then(made, {"inner": kept} if kept else {}),
            )
