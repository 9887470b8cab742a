"""The axes that `explain` lists for transformers of Flax, Equinox and Haiku: with attention, a fused query, key and
value, norms, a convolution, embeddings, and the same block alone and stacked by a scan."""

import inspect
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gradtx as gx

KEY = jax.random.key(0)
TOKENS, IMAGE = jnp.zeros((2, 5), int), jnp.zeros((2, 6, 6, 3))


def need(module: str) -> Any:
    return pytest.importorskip(module, reason="declared: the extra `networks` is not installed")


def linen() -> Any:
    nn = need("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(nn.LayerNorm(name="norm")(x))
            nn.DenseGeneral((3, 2, 4), name="fused")(x)
            return x + nn.Dense(8, name="down")(nn.Dense(16, name="up")(x)), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, tokens, image):
            x = nn.Embed(11, 8, name="embed")(tokens)
            x = x + nn.Conv(8, (3, 3), name="Conv_0")(image).mean((1, 2))[:, None]
            x, _ = Block(name="block")(x)
            stacked = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            x, _ = stacked(name="layers")(x, None)
            return nn.Dense(11, name="head")(nn.LayerNorm(name="norm")(x))

    return jax.eval_shape(Model().init, KEY, TOKENS, IMAGE)["params"]


def nnx() -> Any:
    nnx = need("flax.nnx")

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.qkv = nnx.LinearGeneral(8, (3, 2, 4), rngs=rngs)
            self.up = nnx.Linear(8, 16, rngs=rngs)

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(11, 8, rngs=rngs)
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.block = Block(rngs)
            self.layers = nnx.vmap(Block)(rngs.split(3))
            self.head = nnx.Linear(8, 11, rngs=rngs)

    return nnx.state(Model(nnx.Rngs(0)), nnx.Param)


def equinox() -> Any:
    eqx = need("equinox")

    class Block(eqx.Module):
        attention: Any
        norm: Any
        qkv: Any
        up: Any

        def __init__(self, key):
            self.attention = eqx.nn.MultiheadAttention(2, 8, use_query_bias=True, key=key)
            self.norm = eqx.nn.LayerNorm(8)
            self.qkv = eqx.nn.Linear(8, 24, key=key)
            self.up = eqx.nn.Linear(8, 16, key=key)

    class Model(eqx.Module):
        embed: Any
        conv: Any
        block: Any
        layers: Any
        head: Any

        def __init__(self, key):
            self.embed = eqx.nn.Embedding(11, 8, key=key)
            self.conv = eqx.nn.Conv2d(3, 8, 3, key=key)
            self.block = Block(key)
            self.layers = eqx.filter_vmap(Block)(jax.random.split(key, 3))
            self.head = eqx.nn.Linear(8, 11, key=key)

    return eqx.filter(Model(KEY), eqx.is_inexact_array)


def haiku() -> Any:
    hk = need("haiku")

    def block(x):
        h = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling())(h, h, h)
        hk.Linear(24, name="qkv")(x)
        return x + hk.Linear(8)(hk.Linear(16)(x))

    def model(tokens, image):
        x = hk.Embed(11, 8, name="embed")(tokens) + hk.Conv2D(8, 3)(image).mean((1, 2))[:, None]
        x = hk.experimental.layer_stack(3)(block)(block(x))
        return hk.Linear(11, name="head")(x)

    return jax.eval_shape(hk.transform(model).init, KEY, TOKENS, IMAGE)


STACK = "__layer_stack_no_per_layer"
RULES = {
    "linen": {
        "layers/fused/kernel": "batch in batch out out",
        "block/fused/kernel": "in batch out out",
        "layers/**": "batch ...",
    },
    "nnx": {
        "layers/qkv/kernel": "batch in batch out out",
        "block/qkv/kernel": "in batch out out",
        "layers/**": "batch ...",
    },
    "equinox": {"layers/qkv/weight": "batch (3 out) in", "block/qkv/weight": "(3 out) in", "layers/**": "batch ..."},
    "haiku": {f"{STACK}/qkv/w": "batch in (3 out)", "qkv/w": "in (3 out)", f"{STACK}/**": "batch ..."},
}
EXPECTED = {  # the axes of each parameter; with a star, those that Muon orthogonalizes
    "linen": """
        Conv_0/bias: out
        Conv_0/kernel: in in in out *
        block/attention/key/bias: out out
        block/attention/key/kernel: in out out *
        block/attention/out/bias: out
        block/attention/out/kernel: in in out *
        block/attention/query/bias: out out
        block/attention/query/kernel: in out out *
        block/attention/value/bias: out out
        block/attention/value/kernel: in out out *
        block/down/bias: out
        block/down/kernel: in out *
        block/fused/bias: out out out
        block/fused/kernel: in batch out out *
        block/norm/bias: out
        block/norm/scale: out
        block/up/bias: out
        block/up/kernel: in out *
        embed/embedding: row out
        head/bias: out
        head/kernel: in out *
        layers/attention/key/bias: batch out out
        layers/attention/key/kernel: batch in out out *
        layers/attention/out/bias: batch out
        layers/attention/out/kernel: batch in in out *
        layers/attention/query/bias: batch out out
        layers/attention/query/kernel: batch in out out *
        layers/attention/value/bias: batch out out
        layers/attention/value/kernel: batch in out out *
        layers/down/bias: batch out
        layers/down/kernel: batch in out *
        layers/fused/bias: batch out out out
        layers/fused/kernel: batch in batch out out *
        layers/norm/bias: batch out
        layers/norm/scale: batch out
        layers/up/bias: batch out
        layers/up/kernel: batch in out *
        norm/bias: out
        norm/scale: out
    """,
    "nnx": """
        block/attention/key/bias: out out
        block/attention/key/kernel: in out out *
        block/attention/out/bias: out
        block/attention/out/kernel: in in out *
        block/attention/query/bias: out out
        block/attention/query/kernel: in out out *
        block/attention/value/bias: out out
        block/attention/value/kernel: in out out *
        block/norm/bias: out
        block/norm/scale: out
        block/qkv/bias: out out out
        block/qkv/kernel: in batch out out *
        block/up/bias: out
        block/up/kernel: in out *
        conv/bias: out
        conv/kernel: in in in out *
        embed/embedding: row out
        head/bias: out
        head/kernel: in out *
        layers/attention/key/bias: batch out out
        layers/attention/key/kernel: batch in out out *
        layers/attention/out/bias: batch out
        layers/attention/out/kernel: batch in in out *
        layers/attention/query/bias: batch out out
        layers/attention/query/kernel: batch in out out *
        layers/attention/value/bias: batch out out
        layers/attention/value/kernel: batch in out out *
        layers/norm/bias: batch out
        layers/norm/scale: batch out
        layers/qkv/bias: batch out out out
        layers/qkv/kernel: batch in batch out out *
        layers/up/bias: batch out
        layers/up/kernel: batch in out *
    """,
    "equinox": """
        embed/weight: row out
        conv/weight: out in in in *
        conv/bias: out out out
        block/attention/query_proj/weight: out in *
        block/attention/query_proj/bias: out
        block/attention/key_proj/weight: out in *
        block/attention/value_proj/weight: out in *
        block/attention/output_proj/weight: out in *
        block/norm/weight: out
        block/norm/bias: out
        block/qkv/weight: batch out in *
        block/qkv/bias: out
        block/up/weight: out in *
        block/up/bias: out
        layers/attention/query_proj/weight: batch out in *
        layers/attention/query_proj/bias: batch out
        layers/attention/key_proj/weight: batch out in *
        layers/attention/value_proj/weight: batch out in *
        layers/attention/output_proj/weight: batch out in *
        layers/norm/weight: batch out
        layers/norm/bias: batch out
        layers/qkv/weight: batch batch out in *
        layers/qkv/bias: batch out
        layers/up/weight: batch out in *
        layers/up/bias: batch out
        head/weight: out in *
        head/bias: out
    """,
    "haiku": """
        __layer_stack_no_per_layer/layer_norm/offset: batch out
        __layer_stack_no_per_layer/layer_norm/scale: batch out
        __layer_stack_no_per_layer/linear/b: batch out
        __layer_stack_no_per_layer/linear/w: batch in out *
        __layer_stack_no_per_layer/linear_1/b: batch out
        __layer_stack_no_per_layer/linear_1/w: batch in out *
        __layer_stack_no_per_layer/multi_head_attention/key/b: batch out
        __layer_stack_no_per_layer/multi_head_attention/key/w: batch in out *
        __layer_stack_no_per_layer/multi_head_attention/linear/b: batch out
        __layer_stack_no_per_layer/multi_head_attention/linear/w: batch in out *
        __layer_stack_no_per_layer/multi_head_attention/query/b: batch out
        __layer_stack_no_per_layer/multi_head_attention/query/w: batch in out *
        __layer_stack_no_per_layer/multi_head_attention/value/b: batch out
        __layer_stack_no_per_layer/multi_head_attention/value/w: batch in out *
        __layer_stack_no_per_layer/qkv/b: batch out
        __layer_stack_no_per_layer/qkv/w: batch in batch out *
        conv2_d/b: out
        conv2_d/w: in in in out *
        embed/embeddings: row out
        head/b: out
        head/w: in out *
        layer_norm/offset: out
        layer_norm/scale: out
        linear/b: out
        linear/w: in out *
        linear_1/b: out
        linear_1/w: in out *
        multi_head_attention/key/b: out
        multi_head_attention/key/w: in out *
        multi_head_attention/linear/b: out
        multi_head_attention/linear/w: in out *
        multi_head_attention/query/b: out
        multi_head_attention/query/w: in out *
        multi_head_attention/value/b: out
        multi_head_attention/value/w: in out *
        qkv/b: out
        qkv/w: in batch out *
    """,
}
MODELS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}


@pytest.mark.parametrize("library", MODELS)
def test_muon_knows_every_parameter_of_a_transformer(library):
    params = MODELS[library]()
    tx = gx.layout(gx.muon(), RULES[library], library="haiku" if library == "haiku" else None)
    rows = gx.explain(tx, params).rows
    got = [f"{row.parameter}: {row.axes}{' *' * ('is_linear' in row.group)}" for row in rows]
    assert "\n".join(got) == inspect.cleandoc(EXPECTED[library])
    real = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), params)
    tx.update(real, tx.init(real), real)


@pytest.mark.parametrize("library", MODELS)
def test_without_rules_stacked_and_fused_parameters_are_left_to_the_default(library):
    rows = gx.explain(gx.muon(), MODELS[library]()).rows
    known = dict(line.rsplit(": ", 1) for line in textwrap.dedent(EXPECTED[library]).strip().splitlines())
    for row in rows:
        axes = known[row.parameter].removesuffix(" *")
        if "?" in row.axes:
            assert "batch" in axes and row.axes.endswith("?)") and row.group == "partition.default"
        else:
            assert ("in" in axes.split()) == ("in" in row.axes.split()), row
