"""Rescaling of the weights of attention, by the largest logits."""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Positive, Slots, Transformation, leaves_by_path
from gradtx.core.axes import Axes, axes_of, given, leaves_of
from gradtx.core.errors import describe, place, said
from gradtx.core.schedule import Weight
from gradtx.core.trees import is_none, map_with_path, path_of
from gradtx.core.where import Where, choose, chooser, within


class qk_clip(Transformation):
    r"""QK-Clip: rescale the weights of queries and keys whose attention logits exceed a threshold (Kimi Team, 2025).

    $$u = γ^α\,(θ + g) − θ \text{ of queries}, \quad u = γ^{1 − α}\,(θ + g) − θ \text{ of keys}, \qquad
    γ = \min(1, τ/S)$$

    S is the largest logit, scaled and before the softmax, of the forward pass that gave the gradient. Put this piece
    last in a chain: the incoming update is the step, and the outgoing update is the step with the rescaling. After it,
    with small steps, the largest logit is about τ. All other parameters take the step. Needs `params`, and every update
    needs the logits: `update(g, state, params, max_logits=S)`. `train_step` takes them from `aux["max_logits"]`.

    `max_logits` is S of all layers, or a dict from the path of each attention layer to its S, nested or not, as
    `{"layers_0/attention": S}`. Each S is one number, or one for each head: the output axes of the layer's weights, as
    the names of the leaves or `layout` determine them, are then as many equal blocks of neighbouring outputs. With
    grouped queries, give the largest of each group. Of stacked layers it has their axes first. An S that is not finite
    rescales nothing.

    Args:
      threshold: τ, the largest logit that leaves the weights as they are, above 0.
      queries: The weights and biases of queries: a path pattern, a function of (path, leaf), a tree of booleans, or
        None for all. The default is by the names of Flax.
      keys: The weights and biases of keys, in the same form. A parameter that `queries` chooses too is a fused
        projection.
      alpha: α, the fraction of the rescaling that queries take, 0 to 1. In multi-head latent attention, the rotary part
        of the queries takes all of it, `alpha=1.0`, and the shared keys, which no head has alone, none.

    Raises:
      ValueError: `update` lacks `max_logits`; they have no entry for a query or key, or one for a path without
        parameters; the heads do not divide the outputs; a fused projection has no three parts; or, with a number for
        each head, the axes of a leaf are in doubt.
      TypeError: `max_logits` are not real numbers.

    Source: Kimi Team 2025, arXiv 2507.20534, algorithm 1; α and the groups, as in Megatron-LM.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.chain(gx.sgd(0.5), gx.qk_clip(threshold=100.0))
    >>> params = {"attention": {"query": {"kernel": jnp.ones((1, 2))}, "key": {"kernel": jnp.ones((1, 2))}}}
    >>> g = {"attention": {"query": {"kernel": jnp.zeros((1, 2))}, "key": {"kernel": jnp.zeros((1, 2))}}}
    >>> u, _ = tx.update(g, tx.init(params), params, max_logits={"attention": jnp.array([400.0, 99.0])})
    >>> gx.apply_updates(params, u)["attention"]["query"]["kernel"]  # of two heads
    Array([[0.5, 1. ]], dtype=float32)
    """

    threshold: Positive = 100.0
    queries: Where = "**/query/**"
    keys: Where = "**/key/**"
    alpha: Weight = 0.5

    formula = (
        "r = min(1, threshold / max_logits); "
        "u = r ** (alpha * among(queries) + (1 - alpha) * among(keys)) * (θ + g) - θ"
    )
    needs = ("params", "max_logits")

    def init_tree(self, params: Any) -> Slots:
        queries, keys = (choose(f"qk_clip: {name}", getattr(self, name), params) for name in ("queries", "keys"))
        for path, leaf in leaves_of(params).items():
            if path in queries & keys:
                _parts(path, own := axes_of(path, leaf), own.sizes(leaf.shape))
        return {}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        logits = leaves_by_path(context.extra["max_logits"])
        paths = leaves_by_path(updates, is_none)
        for branch, largest in logits.items():
            _check(place("max_logits", branch), largest)
            if branch and not any(within(path, branch) for path in paths):
                raise ValueError(
                    f"qk_clip: {place('max_logits', branch)} is the path of no parameter; there are {', '.join(paths)}"
                )

        def rescaled(keys: Any, g: Array, p: Array) -> Array:
            path = path_of(keys)
            is_query, is_key = (chooser(where)(path, given(path, g)) for where in (self.queries, self.keys))
            if not is_query and not is_key:
                return g
            if (branch := max((b for b in logits if within(path, b)), key=len, default=None)) is None:
                raise ValueError(f"qk_clip: max_logits has nothing for {path!r}: it has {', '.join(map(repr, logits))}")
            largest = jnp.asarray(logits[branch], g.dtype)
            clipped = (largest > self.threshold) & jnp.isfinite(largest)
            ratio = jnp.where(clipped, self.threshold / jnp.where(clipped, largest, 1), 1)
            own, exponent = axes_of(path, g), self.alpha if is_query else 1 - self.alpha
            shape = own.sizes(g.shape)  # with split axes
            parts = _parts(path, own, shape) if is_query and is_key else None
            if ratio.ndim:
                ratio = _spread(path, ratio, own, parts, shape)
            if parts is not None:
                of_parts = jnp.stack([self.alpha, 1 - self.alpha, jnp.zeros_like(self.alpha)])  # queries, keys, values
                exponent = jnp.expand_dims(of_parts, [axis for axis in range(len(shape)) if axis != parts])
            factor = ratio**exponent
            factor = jnp.broadcast_to(factor, shape).reshape(g.shape) if factor.ndim else factor
            return factor * g - (1 - factor) * p

        return map_with_path(rescaled, updates, context.params), slots


def _check(name: str, largest: Any) -> None:
    """Raise unless the largest logits are real numbers."""
    kind = "f" if isinstance(largest, (int, float)) else getattr(getattr(largest, "dtype", None), "kind", "O")
    if kind not in "fiuV" or isinstance(largest, bool):  # V: bfloat16 and other small floats
        got = said(largest) if kind == "O" else describe(jnp.asarray(largest))
        raise TypeError(f"qk_clip: {name} must be real numbers, the largest logit of each head, got {got}")


def _parts(path: str, own: Axes, shape: tuple[int, ...]) -> int:
    """The axis of a fused projection, after splitting, that counts queries, keys and values."""
    split, whole, start = [], [], 0
    for sizes in own.splits:
        here = range(start, start := start + len(sizes))
        if "in" not in own.roles[here.start : here.stop]:
            split += [i for i, size in zip(here, sizes) if size == 3]
            whole += [i for i in here if own.roles[i] == "batch" and shape[i] == 3]
    found = split or whole
    if len(found) != 1:
        raise ValueError(
            f"qk_clip: {path!r}, which queries and keys choose, must have an axis of 3 parts, got axes '{own}': write "
            f"layout(tx, {{{path!r}: axes}}) with axes such as '(3 out) in', or choose it by one of them"
        )
    return found[0]


def _spread(path: str, ratio: Array, own: Axes, parts: int | None, shape: tuple[int, ...]) -> Array:
    """The ratio of each stacked layer and each head along the axes of a leaf."""
    own.refuse_doubt("qk_clip", path)
    batch, out = tuple(axis for axis in own.of("batch") if axis != parts), own.of("out")
    layers, outputs = tuple(shape[axis] for axis in batch), tuple(shape[axis] for axis in out)
    size, of_head = math.prod(outputs), ratio.shape[len(layers) :]
    if ratio.shape[: len(layers)] != layers or len(of_head) > 1 or (of_head and size % of_head[0]):
        heads = f"{(*layers, 'heads')}".replace("'", "")
        raise ValueError(
            f"qk_clip: the max_logits of {path!r} must have shape (), {f'{layers} or ' if layers else 'or '}{heads}, "
            f"where heads divides its {size} outputs, got shape {ratio.shape}"
        )
    each = of_head[0] if of_head else 1
    ratio = jnp.repeat(ratio.reshape(*layers, each), size // each, axis=-1).reshape(*layers, *outputs)
    axes = (*batch, *out)
    ratio = ratio.transpose(sorted(range(len(axes)), key=axes.__getitem__))
    return jnp.expand_dims(ratio, tuple(axis for axis in range(len(shape)) if axis not in axes))
