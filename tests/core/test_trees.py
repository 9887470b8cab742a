"""Patterns of paths, masks, and apply_updates."""

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import gradtx as gx
from gradtx.combinators.partition import zero
from gradtx.core import leaves_by_path, path_of
from gradtx.core.trees import flatten_with_path, map_with_path, sharded, sharded_along
from gradtx.core.where import choose, chooser

tree = {"layers": [{"attn": {"q": 1.0, "bias": 1.0}}, {"attn": {"q": 1.0}, "bias": 1.0}], "bias": 1.0}
PATTERNS = {
    "bias": {"bias"},
    "*": {"bias"},
    "**": {"bias", "layers/0/attn/q", "layers/0/attn/bias", "layers/1/attn/q", "layers/1/bias"},
    "**/bias": {"bias", "layers/0/attn/bias", "layers/1/bias"},
    "*/*/bias": {"layers/1/bias"},
    "layers/*/attn/**": {"layers/0/attn/q", "layers/0/attn/bias", "layers/1/attn/q"},
    "layers/1/**": {"layers/1/attn/q", "layers/1/bias"},
    "**/attn/*": {"layers/0/attn/q", "layers/0/attn/bias", "layers/1/attn/q"},
    "**/b*": {"bias", "layers/0/attn/bias", "layers/1/bias"},
}


@pytest.mark.parametrize("pattern, paths", PATTERNS.items())
def test_patterns(pattern, paths):
    assert choose("where", pattern, tree) == paths


def test_a_pattern_is_not_a_regular_expression():
    assert choose("where", "a.b", {"a.b": 1.0, "aXb": 1.0}) == {"a.b"}


def expression(pattern):
    """The pattern as a regular expression, the definition of what it matches."""
    words = {"**/": "(?:.*/)?", "/**": "(?:/.*)?", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\*\*/|/\*\*$|\*\*|\*)", pattern)
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts))


def test_a_pattern_matches_as_its_regular_expression():
    random, matches = np.random.default_rng(0), 0
    text = lambda parts, most: "".join(random.choice(parts, random.integers(most + 1)))  # noqa: E731
    for _ in range(400):
        pattern = text(["a", "b", "/", "*", "**", "**/", "/**", "."], 6)
        chooses, paths = chooser(pattern), ["", "a", "a/b", *(text(["a", "b", "ab", "/"], 7) for _ in range(40))]
        expected = [expression(pattern).fullmatch(path) is not None for path in paths]
        assert [chooses(path, None) for path in paths] == expected, pattern
        matches += sum(expected)
    assert matches > 1000


NAMES = ["a", "ab", "b", "w", "w2", "kernel", "mykernel", "1", "10"]  # some begin or end as others do


def random_tree(random, depth=0):
    """A tree of arrays and, by chance, a tree of booleans in which a leaf may stand for a branch, or be missing."""
    if depth == 3 or (depth and random.random() < 0.4):
        return 1.0, bool(random.integers(2))
    if random.random() < 0.2:  # a list, of more than 10 so that the path of an item begins as another's
        both = [random_tree(random, 3) for _ in range(12)]
        tree, chosen = [x for x, _ in both], [y for _, y in both]
    else:
        both = {name: random_tree(random, depth + 1) for name in random.permutation(NAMES)[: random.integers(1, 5)]}
        tree, chosen = ({str(name): pair[i] for name, pair in both.items()} for i in (0, 1))
    return tree, bool(random.integers(2)) if random.random() < 0.3 else chosen


def chosen_leaves(tree, chosen):
    """By definition: whether each leaf is chosen, in the order of JAX."""
    if isinstance(chosen, bool):
        return [chosen] * len(jax.tree.leaves(tree))
    pairs = zip(tree, chosen) if isinstance(tree, list) else ((tree[name], chosen[name]) for name in sorted(tree))
    return [found for pair in pairs for found in chosen_leaves(*pair)]


def test_trees_of_booleans_and_labels_choose_as_their_definition():
    random, shapes = np.random.default_rng(0), set()
    for _ in range(300):
        tree, chosen = random_tree(random)
        expected = chosen_leaves(tree, chosen)
        paths = list(leaves_by_path(tree))
        where = gx.masked(gx.scale(2.0), chosen, otherwise="zero").where
        assert choose("where", where, tree) == {path for path, is_chosen in zip(paths, expected) if is_chosen}
        labels = jax.tree.map(lambda x: "first" if x else "second", chosen)
        rules = {"first": gx.scale(0.0), "second": gx.scale(1.0)}
        groups = {
            row.parameter: row.group
            for row in gx.explain(gx.partition(rules, labels=labels, optional=[*rules]), tree).rows
        }
        assert groups == {
            path: f"partition.{'first' if is_chosen else 'second'}" for path, is_chosen in zip(paths, expected)
        }
        shapes.add(str(jax.tree.structure(chosen)))
    assert len(shapes) > 100


class counted(str):
    """A path that counts how often it is read."""

    reads = 0

    def __getitem__(self, i):
        counted.reads += 1
        return str.__getitem__(self, i)

    def startswith(self, *where):
        counted.reads += 1
        return str.startswith(self, *where)


@pytest.mark.parametrize(
    "pattern", ["**/" * 12 + "a", "**/b" * 12 + "a", "*b" * 12 + "a", "b/**/" * 8 + "a", "**" * 12 + "a"]
)
def test_the_steps_of_a_match_are_linear(pattern):
    path, counted.reads = counted("/".join(["b"] * 24)), 0
    assert not chooser(pattern)(path, None)
    assert counted.reads <= len(pattern) * (len(path) + 1)


def test_trees_of_booleans_may_stand_for_branches():
    where = {"layers": [True, {"attn": False, "bias": True}], "bias": False}
    piece = gx.add_weight_decay(0.1, where=where)
    assert choose("where", piece.where, tree) == {"layers/0/attn/q", "layers/0/attn/bias", "layers/1/bias"}
    assert piece == gx.add_weight_decay(0.1, where=where) and hash(piece) == hash(gx.read(repr(piece)))
    assert gx.read(repr(piece)) == piece


@pytest.mark.parametrize("where", ["**/w", lambda path, leaf: leaf.ndim == 2, gx.is_matrix, {"w": True, "b": False}])
def test_decay_where(where):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    tx = gx.adamw(0.1, weight_decay=0.5, where=where)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for update in (tx.update, jax.jit(tx.update)):
        u, _ = update(zeros, tx.init(params), params)
        assert (u["w"] == jnp.float32(-0.1) * 0.5).all() and (u["b"] == 0).all()


def test_apply_updates_adds_in_the_wider_precision():
    p, u = jnp.array([1.0], jnp.bfloat16), jnp.array([0.005], jnp.float32)
    new = gx.apply_updates(p, u)
    assert new.dtype == jnp.bfloat16 and new[0] == jnp.bfloat16(1.005)
    assert gx.apply_updates(1.0, jnp.array(2.0)).dtype == jnp.float32
    kept = gx.apply_updates({"i": jnp.arange(2), "z": jnp.zeros((0, 1))}, {"i": None, "z": jnp.zeros((0, 1))})
    assert (kept["i"] == jnp.arange(2)).all() and kept["z"].shape == (0, 1)


# ---------------------------------------------------------------- paths
class Pair(NamedTuple):
    key: Any
    value: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Attention:
    query: Any
    key: Any
    value: Any


@jax.tree_util.register_pytree_with_keys_class
class Checked(Attention):
    """Refuses anything other than numbers and arrays of at most two axes as its children."""

    def __init__(self, *children):
        if any(not hasattr(x, "ndim") or x.ndim > 2 for x in children):
            raise TypeError("expected arrays")
        self.query, self.key, self.value = children

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey(name), x) for name, x in vars(self).items()], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def three():
    return jnp.ones(2), jnp.ones(3), jnp.ones(4)


CONTAINERS = {  # each with leaves that end with the name `value`, or with boxes, and the paths
    "dict": (lambda: {"a": {"key": 1.0, "value": 2.0}, "value": 3.0}, ["a/key", "a/value", "value"]),
    "named tuple": (lambda: {"a": Pair(1.0, 2.0)}, ["a/key", "a/value"]),
    "named tuple alone": (lambda: Pair(1.0, Pair(1.0, 2.0)), ["key", "value/key", "value/value"]),
    "list": (lambda: [Pair(1.0, {"value": 2.0})], ["0/key", "0/value/value"]),
    "dataclass": (lambda: {"attn": Attention(*three())}, ["attn/query", "attn/key", "attn/value"]),
    "checked class": (lambda: {"attn": Checked(*three())}, ["attn/query", "attn/key", "attn/value"]),
    "record": (lambda: {"value": gx.scale(2.0)}, ["value/factor"]),
    "NNX": (lambda: {"a": nnx.Param(jnp.ones(2)), "b": [nnx.Param(jnp.ones(3))]}, ["a", "b/0"]),
    "NNX named value": (lambda: {"value": nnx.Param(jnp.ones(2))}, ["value"]),
    "NNX state": (lambda: nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param), ["bias", "kernel"]),
    "NNX module": (lambda: nnx.split(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)[1], ["bias", "kernel"]),
    "Linen": (lambda: {"a": linen.Partitioned(jnp.ones(2), names=("x",))}, ["a"]),
    "Linen in a dataclass": (
        lambda: Attention(*(linen.LogicallyPartitioned(x, names=("x",)) for x in three())),
        ["query", "key", "value"],
    ),
    "both": (lambda: {"b": nnx.Param(jnp.ones(2)), "c": Pair(jnp.ones(3), jnp.ones(4))}, ["b", "c/key", "c/value"]),
    "one box": (lambda: nnx.Param(jnp.ones(2)), [""]),
    "one array": (lambda: jnp.ones(2), [""]),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_paths_are_exact(name):
    make, paths = CONTAINERS[name]
    tree = make()
    assert list(leaves_by_path(tree)) == paths
    flat, structure = flatten_with_path(tree)
    assert [path_of(keys) for keys, _ in flat] == paths and structure == jax.tree.structure(tree)
    assert all(x is y for (_, x), y in zip(flat, jax.tree.leaves(tree)))
    seen = []
    made = map_with_path(lambda keys, x, y: seen.append((path_of(keys), x is y)) or x, tree, tree)
    assert seen == [(path, True) for path in paths] and jax.tree.structure(made) == structure


@pytest.mark.promotes("Optax's arithmetic")
@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "record"])
def test_a_pattern_and_a_state_and_a_table_have_the_same_paths(name):
    """`init`, `update`, `explain`, `restore`, `from_optax` and trees of slots, whatever holds the leaves."""
    make, paths = CONTAINERS[name]
    params = jax.tree.map(jnp.asarray, make())
    g = jax.tree.map(jnp.ones_like, params)
    for last in paths:
        for tx in (
            gx.partition({last: gx.freeze()}, default=gx.identity()),
            gx.freeze(last),
            gx.masked(zero(), last, otherwise="identity"),
        ):
            for run in (tx.update, jax.jit(tx.update)):
                moved = {path: bool(x.any()) for path, x in leaves_by_path(run(g, tx.init(params), params)[0]).items()}
                assert moved == {path: path != last for path in paths}
    assert [row.parameter for row in gx.explain(gx.adam(0.1), params).rows] == paths
    tx = gx.adam(0.1)
    _, state = tx.update(g, tx.init(params), params)
    restored, report = gx.restore(tx, params, state)
    assert report.parameters == paths and not report.fresh
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), restored, state))
    saved = dict(jax.tree_util.tree_flatten_with_path(state)[0])  # as a file has it, without classes
    plain = {jax.tree_util.keystr(keys, simple=True, separator="/"): np.asarray(x) for keys, x in saved.items()}
    assert not gx.restore(tx, params, plain)[1].fresh
    theirs = optax.adam(0.1)
    _, saved = theirs.update(g, theirs.init(params), params)
    converted, _ = gx.from_optax(tx, params, saved)
    mean = leaves_by_path(converted.slots["precondition"]["direction"]["scale_by_ema"]["mean"])
    assert list(mean) == paths and all(np.allclose(x, 0.1) for x in mean.values())
    back, _ = gx.to_optax(tx, params, converted, theirs)
    assert jax.tree.structure(back) == jax.tree.structure(saved)


def test_a_leaf_without_an_update_need_not_be_an_array():
    params = {"w": jnp.ones(2), "activation": jnp.tanh}
    new = gx.apply_updates(params, {"w": jnp.ones(2), "activation": None})
    assert (new["w"] == 2).all() and new["activation"] is jnp.tanh


def test_parameters_keep_digits_that_updates_lack(x64):
    params = {"w": jnp.array([1 + 1e-12]), "low": jnp.ones(1, jnp.float32)}
    new = gx.apply_updates(params, {"w": jnp.zeros(1, jnp.float32), "low": jnp.full(1, 1e-3)})
    assert new["w"] == params["w"] and new["w"].dtype == jnp.float64
    assert new["low"] == jnp.float32(1.001) and new["low"].dtype == jnp.float32


@pytest.mark.parametrize(
    "again", [lambda x: jnp.nextafter(x, -jnp.inf), lambda x: jnp.where(x < 0.1, 0, x)], ids=["down", "cancelled"]
)
def test_placing_a_slot_never_changes_it(again, monkeypatch):
    """XLA may compute the parameter twice, for the comparison too, and round it otherwise: here, down or to 0."""
    monkeypatch.setattr(jax.lax, "optimization_barrier", again)
    values = [-jnp.inf, -3e38, -1.0, -1e-40, 0.0, 1e-40, 1e-3, 1.0, 1e10, 3e38, jnp.inf, jnp.nan]
    param, slot = jnp.array(values, jnp.float32), jnp.arange(12, dtype=jnp.uint8)
    assert (jax.jit(sharded)(slot, param) == slot).all()
    assert (jax.jit(lambda slot, param: sharded_along(slot, param, (0,)))(slot, param[:, None]) == slot).all()
