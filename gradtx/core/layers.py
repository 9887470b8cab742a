"""Stacked layers: a leaf that `layout` declares to be several is updated one layer at a time."""

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from gradtx.core import axes
from gradtx.core.axes import Axes
from gradtx.core.trees import differentiable, flatten_with_path, is_none, map_with_path, path_of, sharded, widen


def update_layers(
    update: Any, layers: Axes, whole: list[bool], g: Array, p: Any, row: list[Any], key: Any
) -> tuple[Array, list[Any]]:
    """Run the update of a leaf on each of its layers; slots that are not `whole` are the same for all."""

    def cut(x: Array) -> Array:
        return axes.cut(x, layers) if x.shape == g.shape else x

    def joined(x: Array, like: Array) -> Array:
        return axes.joined(x, layers, g.shape) if like.shape == g.shape else x

    of_g = cut(g)
    sizes = of_g.shape[: len(layers.of("batch"))]
    if key is not None:  # another one for each layer
        key = along(sizes, partial(jax.random.fold_in, key))(jnp.arange(math.prod(sizes)).reshape(sizes))
    along_batch = tuple(jax.typeof(of_g).sharding.spec)[: len(sizes)]
    old = [jax.tree.map(lambda x: _divided(cut(x), along_batch), x) if w else x for w, x in zip(whole, row)]
    by_layer = [0 if w else None for w in whole]
    of_p, of_key = (None if x is None else 0 for x in (p, key))
    mapped = along(sizes, update, (0, of_p, by_layer, of_key), (0, by_layer))
    u, new = mapped(of_g, p if p is None else _divided(cut(p), along_batch), old, key)

    def back(x: Array, like: Array) -> Array:
        x = joined(x, like)
        own = jax.typeof(like).sharding
        return x if own.mesh.empty or jax.typeof(x).sharding.spec == own.spec else jax.reshard(x, own)

    return joined(u, g), [jax.tree.map(back, x, o) if w else x for w, x, o in zip(whole, new, row)]


def _divided(x: Array, batch: tuple[Any, ...]) -> Array:
    """The array divided along its first axes as others that are mapped with it, which an explicit mesh needs."""
    spec = tuple(jax.typeof(x).sharding.spec)
    if spec[: len(batch)] == batch:
        return x
    used = {name for names in batch for name in (names if isinstance(names, tuple) else (names,))}
    rest = [None if used & {*(names if isinstance(names, tuple) else (names,))} - {None} else names for names in spec]
    return jax.reshard(x, PartitionSpec(*batch, *rest[len(batch) :]))


def along(sizes: tuple[int, ...], function: Any, into: Any = 0, out: Any = 0) -> Any:
    """Map a function over as many leading axes as there are sizes."""
    for _ in sizes:
        function = jax.vmap(function, into, out)
    return function


def map_layers(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """As `jax.tree.map` of `function(axes, x, …)`, but one layer at a time where a leaf is several by `layout`."""

    def one(keys: Any, x: Any, *others: Any) -> Any:
        own = axes.axes_of(path_of(keys), x).of_one()
        if (layers := axes.layers_of(path_of(keys), x)) is None:
            return function(own, x, *others)
        cut = [axes.cut(y, layers) for y in (x, *others)]
        out = along(cut[0].shape[: len(layers.of("batch"))], partial(function, own))(*cut)
        return axes.joined(out, layers, x.shape)

    return map_with_path(one, tree, *rest)


def has_layers(params: Any) -> bool:
    """Whether a leaf of the parameters is several layers, to be updated one at a time."""
    return any(axes.layers_of(path_of(keys), p) for keys, p in flatten_with_path(params)[0])


def init_layers(init: Callable[[Any], Any], params: Any, per_leaf: Callable[[Any], Any]) -> Any:
    """The slots `init(params)`, made for each layer; `per_leaf(slots)` marks those that are like the parameters."""
    leaves, tree = flatten_with_path(params, is_leaf=is_none)
    wide = [widen(p) if p is not None and differentiable("params", p) else None for _, p in leaves]
    several = [None if p is None else axes.layers_of(path_of(keys), p) for (keys, _), p in zip(leaves, wide)]
    cut = [p if a is None or p is None else axes.cut(p, a) for a, p in zip(several, wide)]
    groups: dict[Any, list[int]] = {}  # leaves of as many layers, which an explicit mesh divides alike
    for i, (a, p) in enumerate(zip(several, cut)):
        if p is not None:
            count = 0 if a is None else len(a.of("batch"))
            groups.setdefault((p.shape[:count], tuple(jax.typeof(p).sharding.spec)[:count]), []).append(i)
    made = {}
    with axes.within(one=True):
        for group, members in groups.items():
            mine = tree.unflatten(p if i in members else None for i, p in enumerate(cut))
            made[group] = along(group[0], init)(mine)

    def placed(i: int, slot: Any) -> Any:
        """The slot of a leaf, with the axes in the order of the parameter's if it has them all."""
        a, p, layers = several[i], wide[i], cut[i]
        if a is None or p is None or layers is None:
            return slot
        return jax.tree.map(lambda x: sharded(axes.joined(x, a, p.shape), p) if x.shape == layers.shape else x, slot)

    whole, form = jax.tree.flatten(per_leaf(next(iter(made.values()))))
    flat = {group: form.flatten_up_to(slots) for group, slots in made.items()}
    out = []
    for j, of_leaf in enumerate(whole):
        if of_leaf:
            row: list[Any] = [None] * len(leaves)
            for group, members in groups.items():
                column = tree.flatten_up_to(flat[group][j])
                for i in members:
                    row[i] = placed(i, column[i])
            out.append(tree.unflatten(row))
        else:  # the same for all layers
            (sizes, _), slots = next(iter(flat.items()))
            out.append(jax.tree.map(operator.itemgetter((0,) * len(sizes)), slots[j]))
    return form.unflatten(out)
