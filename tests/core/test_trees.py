"""Patterns of paths, masks, and apply_updates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import gradtx as gx
from gradtx.core import leaves_by_path
from gradtx.core.where import choose

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


class Box(NamedTuple):
    value: Any


@pytest.mark.parametrize(
    "tree, paths",
    [
        ({"a": {"kernel": Box(1.0)}, "b": [Box(2.0)]}, {"a/kernel", "b/0/value"}),  # as Flax boxes the leaves of a dict
        (Box(1.0), {"value"}),
        ({"value": 1.0}, {"value"}),
        ({"a": {"value": 1.0}}, {"a/value"}),
        (Box({"a": Box(1.0)}), {"value/a"}),
        (1.0, {""}),
    ],
)
def test_a_boxed_leaf_of_a_dict_has_the_name_of_its_box(tree, paths):
    assert leaves_by_path(tree).keys() == paths


def test_a_leaf_without_an_update_need_not_be_an_array():
    params = {"w": jnp.ones(2), "activation": jnp.tanh}
    new = gx.apply_updates(params, {"w": jnp.ones(2), "activation": None})
    assert (new["w"] == 2).all() and new["activation"] is jnp.tanh


def test_parameters_keep_digits_that_updates_lack(x64):
    params = {"w": jnp.array([1 + 1e-12]), "low": jnp.ones(1, jnp.float32)}
    new = gx.apply_updates(params, {"w": jnp.zeros(1, jnp.float32), "low": jnp.full(1, 1e-3)})
    assert new["w"] == params["w"] and new["w"].dtype == jnp.float64
    assert new["low"] == jnp.float32(1.001) and new["low"].dtype == jnp.float32
