"""`layout`: the axes of parameters, by rules and by names; orientation, complex leaves, keys and errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near, follow, stream

import gradtx as gx
from gradtx.core import leaves_by_path


def normal(*shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


# ---------------------------------------------------------------- orientation
ORIENTED = {
    "muon": gx.muon(0.1, rule="spectral"),
    "scion": gx.scion(0.1, radius=2.0),
    "centralize": gx.centralize(),
    "adamp": gx.adamp(0.1, threshold=2.0),
    "sgdp": gx.sgdp(0.1, threshold=2.0),
    "adam_mini": gx.adam_mini(0.1),
    "adafactor": gx.adafactor(0.1),
    "sm3": gx.sm3(0.1),
    "reduced": gx.reduced(gx.running_sum(), "inputs"),
}


@pytest.mark.parametrize("tx", ORIENTED.values(), ids=ORIENTED)
def test_a_transposed_matrix_has_the_transposed_update(tx):
    params = {"kernel": normal(3, 5), "bias": normal(5)}
    gradients = list(stream(params, 3))

    def turned(tree):
        return {"weight": tree["kernel"].T, "bias": tree["bias"]}

    expected, _ = follow(tx, params, gradients)
    for other in (tx, gx.layout(tx, {"weight": "out in"}), gx.layout(tx, library="torch")):
        made, _ = follow(other, turned(params), map(turned, gradients))
        assert_near(made, list(map(turned, expected)), 3e-6)


@pytest.mark.parametrize("tx", ORIENTED.values(), ids=ORIENTED)
def test_split_and_several_axes_are_one(tx):
    """A kernel whose inputs or outputs are several axes, as in attention, is the matrix of all of them."""
    if isinstance(tx, gx.Transformation) and any(
        isinstance(x, gx.sm3_sum) for x in jax.tree.leaves(tx, is_leaf=is_sm3)
    ):
        pytest.skip("declared: it keeps one number for each index of each axis")
    params = {"kernel": normal(6, 8)}
    gradients = list(stream(params, 3))

    def split(tree):
        return {"kernel": tree["kernel"].reshape(2, 3, 4, 2)}

    expected, _ = follow(tx, params, gradients)
    made, _ = follow(gx.layout(tx, "in in out out"), split(params), map(split, gradients))
    assert_near(made, list(map(split, expected)), 3e-6)


def is_sm3(x):
    return isinstance(x, gx.sm3_sum)


def test_parts_of_a_fused_kernel_are_layers_of_their_own():
    """The slots of `(3 out)` are those of three matrices, wherever the parts are in the axis."""
    w = normal(4, 6)
    for axes, parts in (
        ("in (3 out)", [w[:, i : i + 2] for i in (0, 2, 4)]),
        ("in (out 3)", [w[:, i::3] for i in range(3)]),
    ):
        tx = gx.layout(gx.lamb(0.1), axes)
        u, state = tx.update(w, tx.init(w), w)
        alone = [gx.lamb(0.1).update(p, gx.lamb(0.1).init(p), p)[0] for p in parts]
        joined = jnp.stack(alone, -1 if axes == "in (out 3)" else 1).reshape(4, 6)
        assert_near(u, joined)
        assert {x.shape for x in jax.tree.leaves(state.slots)} == {(), (4, 6)}


# ---------------------------------------------------------------- layers
class layer_norms(gx.PerLeaf):
    """A user's piece, which knows nothing of layers: the largest norm so far, one number for each leaf."""

    def init_leaf(self, param):
        return {"largest": jnp.zeros(())}

    def update_leaf(self, g, slots, context):
        largest = jnp.maximum(slots["largest"], jnp.sqrt(jnp.sum(g * g)))
        return g / jnp.where(largest > 0, largest, 1), {"largest": largest}


@pytest.mark.parametrize("axes, at", [("batch in out", 0), ("in batch out", 1), ("in out batch", 2)])
def test_a_users_piece_runs_on_each_layer(axes, at):
    params = {"w": normal(2, 2, 2), "head": normal(3)}
    tx = gx.layout(layer_norms(), {"w": axes})
    state, u, v = tx.init(params), params, None
    assert {x.shape for x in jax.tree.leaves(state.slots)} == {(2,), ()}
    assert jax.tree.map(jnp.shape, jax.jit(tx.init)(params)) == jax.tree.map(jnp.shape, state)
    for g in stream(params, 3):
        u, state = tx.update(g, state, params)
    assert_near(jnp.linalg.norm(u["w"], axis=tuple({0, 1, 2} - {at})) <= 1 + 1e-6, jnp.ones(2, bool))
    alone = layer_norms()
    for i in range(2):
        own = alone.init(take(params["w"], i, at))
        for g in stream(params, 3):
            v, own = alone.update(take(g["w"], i, at), own)
        assert_near(take(u["w"], i, at), v)


def take(x, i, axis):
    return jnp.take(x, i, axis)


def test_a_random_key_differs_for_each_leaf_layer_and_step():
    params = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((2, 3))}
    tx = gx.layout(gx.add_noise(1.0, power=0.0), "batch ...")
    several, _ = follow(tx, params, [params] * 2)
    rows = np.concatenate([x for u in several for x in u.values()])
    assert len(np.unique(rows)) == rows.size

    class shaken(gx.PerLeaf):
        needs = ("key",)

        def update_leaf(self, g, slots, context):
            return g + jax.random.normal(context.key, g.shape, g.dtype), slots

    several, _ = follow(gx.layout(shaken(), "batch ..."), params, [params] * 2)
    rows = np.concatenate([x for u in several for x in u.values()])
    assert len(np.unique(rows)) == rows.size


def test_global_pieces_measure_all_layers():
    params = {"layers": normal(4, 3, 3), "head": normal(3)}
    tx = gx.layout(gx.chain(gx.clip_by_global_norm(0.5), gx.normalize()), {"layers": "batch ..."})
    clipped = gx.layout(gx.clip_by_global_norm(0.5), {"layers": "batch ..."})
    u, _ = clipped.update(params, clipped.init(params))
    assert abs(float(gx.global_norm(u)) - 0.5) < 1e-6
    u, _ = tx.update(params, tx.init(params))
    assert_near(jnp.linalg.norm(u["layers"], axis=(1, 2)), jnp.ones(4))


def test_the_biases_of_stacked_layers_do_not_decay():
    params = {"layers": {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones((2, 3)), "shift": jnp.ones((2, 3))}}
    zero = jax.tree.map(jnp.zeros_like, params)
    tx = gx.layout(gx.adamw(0.1, where=gx.is_matrix), {"layers/**": "batch ..."})
    u, _ = tx.update(zero, tx.init(params), params)
    assert u["layers"]["kernel"].all() and not u["layers"]["bias"].any() and not u["layers"]["shift"].any()


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [("x",), (None, "x"), (None, None, "x")])
def test_slots_of_stacked_layers_are_sharded_as_the_parameter(axis_type, spec):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        specs = {"w": PartitionSpec(*spec), "whole": PartitionSpec()}  # as many layers
        params = {name: jax.device_put(normal(4, 8, 8), NamedSharding(mesh, spec)) for name, spec in specs.items()}
        tx = gx.layout(gx.lamb(0.1), "batch in out")
        state = jax.jit(tx.init)(params)
        u, state = jax.jit(tx.update)(params, state, params)
        for path, x in leaves_by_path((u, state.slots)).items():
            name = path.rpartition("/")[2]
            assert x.ndim < 3 or name == "whole" or x.sharding.is_equivalent_to(params[name].sharding, 3)
    one = tx.init(jax.device_get(params))
    assert_near(jax.device_get(u), tx.update(jax.device_get(params), one, jax.device_get(params))[0])


# ---------------------------------------------------------------- complex leaves
def test_complex_leaves_have_their_own_shape():
    params = {"w": jnp.ones((30, 20), jnp.complex64), "v": jnp.ones(3, jnp.complex64)}
    slots = gx.adafactor().init(params).slots
    assert sum(x.size for x in jax.tree.leaves(slots)) <= 30 + 20 + 6 + 6
    assert sum(x.size for x in jax.tree.leaves(gx.sm3().init(params).slots)) == 2 * (600 + 3) + 30 + 20 + 2 * 3
    tx = gx.adamw(0.1, where=gx.is_matrix)
    zero = jax.tree.map(jnp.zeros_like, params)
    u, _ = tx.update(zero, tx.init(params), params)
    assert u["w"].all() and not u["v"].any()
    assert [row.axes for row in gx.explain(tx, params).rows] == ["out", "in out"]


@pytest.mark.parametrize(
    "tx, pairs",
    [
        (gx.centralize(), "in out batch"),
        (gx.adaptive_clip(0.1), "in out in"),
        (gx.adamp(0.1, threshold=2.0), "in out in"),
        (gx.sgdp(0.1, threshold=2.0), "in out in"),
    ],
)
def test_a_complex_matrix_is_one_whose_entries_are_pairs(tx, pairs):
    """By a layout in which the axis of the pairs has the role that it has in the piece's formula."""
    z = {"w": jax.lax.complex(normal(3, 4), normal(3, 4, seed=1))}

    def apart(tree):
        return {"w": jnp.stack([tree["w"].real, tree["w"].imag], -1)}

    gradients = [{"w": z["w"] * (1 + i)} for i in range(3)]
    got, _ = follow(tx, z, gradients)
    expected, _ = follow(gx.layout(tx, pairs), apart(z), map(apart, gradients))
    assert_near(list(map(apart, got)), expected)


def test_reductions_of_a_complex_matrix_take_both_numbers_of_an_entry():
    z = jax.lax.complex(normal(3, 4), normal(3, 4, seed=1))
    pairs = np.stack([z.real, z.imag], -1).astype(np.float64)
    for over, axes in (("leaf", (0, 1, 2)), ("rows", (1, 2)), ("columns", (0, 2)), ("inputs", (0, 2))):
        tx = gx.chain(gx.square(), gx.reduced(gx.identity(), over, how="sum"))
        u, _ = tx.update(z, tx.init(z))
        expected = np.broadcast_to(np.sum(pairs**2, axes, keepdims=True), pairs.shape)
        assert np.allclose(np.stack([u.real, u.imag], -1), expected, rtol=1e-6)
    tx = gx.chain(gx.square(), gx.factored(gx.identity()))
    u, _ = tx.update(z, tx.init(z))
    r, c = np.mean(pairs**2, (1, 2)), np.mean(pairs**2, (0, 2))
    expected = np.broadcast_to((r[:, None] * c / r.mean())[..., None], pairs.shape)
    assert np.allclose(np.stack([u.real, u.imag], -1), expected, rtol=1e-6)
    tx = gx.chain(gx.square(), gx.sm3_sum())
    u, state = tx.update(z, tx.init(z))
    u, state = tx.update(z, state)
    least = np.minimum(np.max(pairs**2, (1, 2))[:, None], np.max(pairs**2, (0, 2)))[..., None]
    assert np.allclose(np.stack([u.real, u.imag], -1), least + pairs**2, rtol=1e-6)


# ---------------------------------------------------------------- names
def shapes(**several: Any) -> Any:
    return {path.replace("__", "/"): jax.ShapeDtypeStruct(shape, "float32") for path, shape in several.items()}


NAMED = [  # path, shape, library, axes
    ("Dense_0/kernel", (3, 4), None, "in out"),
    ("linear/weight", (4, 3), None, "out in"),
    ("mlp/~/linear_0/w", (3, 4), None, "in out"),
    ("cell/weight_ih", (12, 3), None, "out in"),
    ("attention/in_proj_weight", (12, 4), None, "out in"),
    ("anything", (3, 4), None, "in out"),
    ("anything", (3, 4), "equinox", "out in"),
    ("layer/kernel", (3, 4), "torch", "out in"),
    ("layer/weight", (3, 4), "flax", "in out"),
    ("Conv_0/kernel", (3, 3, 4, 8), None, "in in in out"),
    ("conv2_d/w", (3, 3, 4, 8), None, "in in in out"),
    ("conv1/weight", (8, 4, 3, 3), None, "out in in in"),
    ("attention/query/kernel", (8, 2, 4), None, "in out out"),
    ("attention/out/kernel", (2, 4, 8), None, "in in out"),
    ("attention/query/bias", (2, 4), None, "out out"),
    ("layers/bias", (6, 4), None, "out out"),
    ("layers/norm1/weight", (6, 4), None, "out out"),
    ("layers/ln_1/w", (6, 4), None, "out out"),
    ("layer_norm/scale", (6, 4), None, "out out"),
    ("embed/embedding", (100, 4), None, "row out"),
    ("embed/embeddings", (100, 4), None, "row out"),
    ("token_embedding/weight", (100, 4), None, "row out"),
    ("wte", (100, 4), None, "row out"),
    ("scale", (), None, ""),
    ("bias", (3,), None, "out"),
    ("patch_embed/kernel", (16, 8), None, "in out"),
    ("patch_embed/kernel", (16, 16, 3, 8), None, "? ? ? ? (4 axes: a convolution, heads or stacked layers?)"),
    ("conv_transpose/weight", (8, 4, 3, 3), None, "? ? ? ? (4 axes: a convolution, heads or stacked layers?)"),
    ("layers/kernel", (6, 3, 4), None, "? ? ? (3 axes: a convolution, heads or stacked layers?)"),
    ("layers/b", (6, 4), None, "? ? (b: a matrix, or biases of stacked layers?)"),
    ("layers/b", (6, 4), "haiku", "out out"),
]


@pytest.mark.parametrize("path, shape, library, axes", NAMED)
def test_the_axes_that_names_say(path, shape, library, axes):
    params = {path: jax.ShapeDtypeStruct(shape, "float32")}
    tx = gx.layout(gx.muon(), library=library)
    (row,) = gx.explain(tx, params).rows
    assert row.axes == axes
    linear = "in" in axes.split() and "out" in axes.split()
    assert row.group == ("partition.is_linear" if linear else "partition.default")
    if library is None:
        assert gx.is_linear(path, params[path]) is linear


def test_the_first_rule_that_chooses_a_parameter_has_it():
    params = shapes(layers__kernel=(6, 3, 4), layers__qkv=(6, 3, 12), head__kernel=(4, 9), norm__scale=(4,))
    rules = {"layers/qkv": "batch in (3 out)", "layers/**": "batch ...", gx.is_matrix: "out in"}
    tx = gx.layout(gx.muon(), rules)
    got = {row.parameter: row.axes for row in gx.explain(tx, params).rows}
    assert got == {
        "layers/kernel": "batch in out",
        "layers/qkv": "batch in batch out",
        "head/kernel": "out in",
        "norm/scale": "out",
    }
    assert gx.read(repr(tx)) == tx and hash(tx) == hash(gx.layout(gx.muon(), dict(rules)))
    inner = gx.layout(gx.layout(gx.muon(), {"head/*": "in out"}), rules)  # the nearest one has it
    assert {row.parameter: row.axes for row in gx.explain(inner, params).rows}["head/kernel"] == "in out"


# ---------------------------------------------------------------- errors
W = jnp.ones((4, 6))


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: gx.layout(gx.muon(), {"w": "in outs"}),
            r"^layout: rules\['w'\] has 'outs', got 'in outs': write a word for",
        ),
        (lambda: gx.layout(gx.muon(), {"w": ""}), "must be the axes of a parameter, got ''"),
        (lambda: gx.layout(gx.muon(), {"w": 3}), "must be the axes of a parameter, got 3"),
        (lambda: gx.layout(gx.muon(), "in ... ..."), r"has '\.\.\.'"),
        (lambda: gx.layout(gx.muon(), "in (out)"), r"has '\(out\)'"),
        (lambda: gx.layout(gx.muon(), "in (0 out)"), r"has '\(0 out\)'"),
        (lambda: gx.layout(gx.muon(), "in (3 out"), "must be the axes of a parameter"),
        (lambda: gx.layout(gx.muon(), "in (3 out in)"), r"has '\(3 out in\)'"),
        (
            lambda: gx.layout(gx.muon(), ["in"]),
            "^layout: rules must be a dict of axes by path pattern, or the axes of all",
        ),
        (lambda: gx.layout(gx.muon(), {3: "in out"}), "layout: rules"),
        (lambda: gx.layout(gx.muon(), library="jax"), "^layout: library must be"),  # pyright: ignore
        (
            lambda: gx.layout(gx.muon(), {"v": "in out"}).init({"w": W}),
            "^layout: 'v' chooses no parameter for 'in out'; th",
        ),
        (
            lambda: gx.layout(gx.muon(), {"w": "batch in out"}).init({"w": W}),
            r"^layout: 'batch in out' does not fit the parameter 'w' of shape \(4, 6\): it has 3 axes$",
        ),
        (lambda: gx.layout(gx.muon(), "batch batch in ...").init({"w": W}), "it has 3 axes or more$"),
        (lambda: gx.layout(gx.muon(), "in (4 out)").init({"w": W}), "does not fit .*: 4 does not divide 6$"),
    ],
)
def test_errors(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()
