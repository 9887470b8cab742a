"""Transformations that run on fewer numbers than there are coordinates: updates, state and errors."""
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near, follow, params_of, stream

import gradtx as gx
from gradtx.core import leaves_by_path

SHAPES = {"w": (16, 4), "b": (3,), "stack": (2, 4, 6), "one": (), "empty": (0, 2), "thin": (5, 1)}
PARAMS = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in SHAPES.items()}
x = jnp.arange(24.0).reshape(2, 3, 4)


def emitted(tx, g):
    return tx.update(g, tx.init(g))[0]


# ---------------------------------------------------------------- updates
@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, jnp.full((2, 3, 4), 11.5)),
        ({"how": "sum"}, jnp.full((2, 3, 4), 276.0)),
        ({"over": "rows", "how": "max"}, jnp.broadcast_to(jnp.array([11.0, 23.0])[:, None, None], x.shape)),
        ({"over": "rows", "blocks": 1}, jnp.full((2, 3, 4), 11.5)),
        ({"over": "columns"}, jnp.broadcast_to(jnp.arange(10.0, 14.0), x.shape)),
        ({"over": "columns", "blocks": 2}, jnp.broadcast_to(jnp.array([10.5, 10.5, 12.5, 12.5]), x.shape)),
        ({"over": (0, -1)}, jnp.broadcast_to(jnp.array([7.5, 11.5, 15.5])[:, None], x.shape)),
        ({"over": 1}, x.mean(1, keepdims=True) + 0 * x),
        ({"over": ()}, x),
    ],
)
def test_each_block_has_one_number(options, expected):
    assert_near(emitted(gx.reduced(gx.identity(), **options), x), expected)


@pytest.mark.parametrize("over", ["rows", "columns", "leaf"])
def test_a_vector_is_one_row_and_one_column(over):
    assert_near(emitted(gx.reduced(gx.identity(), over), jnp.array([1.0, 5.0])), jnp.array([3.0, 3.0]))


def test_the_inner_transformation_sees_the_mean_parameters():
    params = params_of()
    u, _ = follow(gx.reduced(gx.emit_params(), "rows"), params, [params])
    assert_near(
        u[0], {"w": params["w"].mean(1, keepdims=True) + 0 * params["w"], "b": 0 * params["b"] + params["b"].mean()}
    )
    u, _ = follow(gx.factored(gx.emit_params()), params, [params])
    assert_near(u[0]["b"], params["b"])


SEEN = {
    "factored": (gx.factored(gx.running_sum()), gx.running_sum()),  # a vector is not factored
    "centralize": (gx.centralize(), gx.identity()),  # nor centralized
    "sm3": (gx.sm3_sum(), gx.running_sum()),
    "linear maps": (gx.partition({gx.is_linear: gx.scale(2.0)}, default=gx.scale(3.0)), gx.scale(2.0)),
}


@pytest.mark.parametrize("over", ["rows", "columns", "leaf", (1,)])
@pytest.mark.parametrize("inner, same", SEEN.values(), ids=SEEN)
def test_numbers_have_no_inputs_and_outputs_but_the_path_of_their_leaf(inner, same, over):
    gradients = [{"w": jnp.arange(1.0, 13).reshape(3, 4)}] * 2
    for params in (None, gradients[0]):
        made, expected = (
            [tx.update(gradients[0], tx.init(gradients[0]), params)[0] for tx in (gx.reduced(one, over) for one in two)]
            for two in ((inner, inner), (same, same))
        )
        assert_near(made, expected)


@pytest.mark.parametrize("inner", [gx.orthogonalize(), gx.scale_by_shape(), gx.low_rank_momentum(2)])
def test_numbers_are_no_linear_map(inner):
    tx, w = gx.reduced(inner, "rows"), {"w": jnp.ones((3, 4))}
    with pytest.raises(ValueError, match=rf"^{type(inner).__name__}: 'w' must be a linear map, .* got shape \(3,\)"):
        tx.update(w, tx.init(w))


@pytest.mark.parametrize("size", [1e-35, 1e-20, 1.0, 1e20, 1e35])
def test_a_matrix_of_rank_one_is_factored_exactly(size):
    rank_one = jnp.stack([size * jnp.outer(jnp.array([1.0, 2.0, 0.0]), jnp.array([3.0, 0.5]))] * 2)
    assert_near(emitted(gx.factored(gx.identity()), rank_one), rank_one, 1e-6)


def test_a_factored_matrix_has_the_row_and_column_means():
    squares = jnp.square(x)
    u = emitted(gx.factored(gx.identity()), squares)
    for axis in (-1, -2):
        assert_near(u.mean(axis), squares.mean(axis), 1e-6)


@pytest.mark.parametrize("shape", [(3, 1), (1, 4), (5,), ()])
def test_where_an_axis_is_of_size_one_factoring_changes_nothing(shape):
    g = jnp.square(jnp.arange(1.0, 1.0 + np.prod(shape, dtype=int)).reshape(shape))
    for min_size in (1, 2):
        assert_near(emitted(gx.factored(gx.running_sum(), min_size), g), g, 1e-6)


# ---------------------------------------------------------------- state
@pytest.mark.parametrize(
    "tx, shapes",
    [
        (gx.reduced(gx.scale_by_ema()), [()] * 6),
        (gx.reduced(gx.scale_by_ema(), "rows"), [(16,), (), (2,), (), (0,), (5,)]),
        (gx.reduced(gx.scale_by_ema(), "columns"), [(4,), (), (6,), (), (2,), (1,)]),
        (gx.factored(gx.scale_by_ema()), [(16,), (4,), (3,), (2, 4), (2, 6), (), (0, 2), (5, 1)]),
        (gx.factored(gx.scale_by_ema(), 5), [(16, 4), (3,), (2, 4, 6), (), (0, 2), (5, 1)]),
        (gx.sm3_sum(), [(16,), (4,), (3,), (2,), (4,), (6,), (), (0,), (2,), (5,), (1,)]),
    ],
)
def test_the_slots_have_the_reduced_shapes(tx, shapes):
    slots = jax.tree.leaves(jax.eval_shape(tx.init, PARAMS).slots)
    assert sorted(x.shape for x in slots) == sorted(shapes)


@pytest.mark.parametrize(
    "tx, numbers",
    [
        (gx.adafactor(), 300 + 500 + 500),  # rows and columns of the kernel, the bias
        (gx.adafactor(min_size=400), 300 * 500 + 500),
        (gx.came(), 2 * (300 + 500) + 300 * 500 + 500 + 500),  # twice, and the averages
        (gx.novograd(), 2 + 300 * 500 + 500),
        (gx.sm3(), 300 + 500 + 500 + 300 * 500 + 500),
        (gx.adam_mini(), 500 + 1 + 300 * 500 + 500),
        (gx.adam_mini(over="rows", blocks=10), 10 + 1 + 300 * 500 + 500),
        (gx.adam(), 2 * (300 * 500 + 500)),
    ],
)
def test_the_state_has_the_documented_number_of_bytes(tx, numbers):
    params = {"kernel": jax.ShapeDtypeStruct((300, 500), "bfloat16"), "bias": jax.ShapeDtypeStruct((500,), "bfloat16")}
    slots = leaves_by_path(jax.eval_shape(tx.init, params).slots)
    ages = sum(path.endswith(("/age", "/mean_log_decay")) for path in slots)
    assert gx.summary(tx, params).bytes == 4 * numbers + 4 + 4 * ages  # 4 bytes are the step


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [PartitionSpec("x"), PartitionSpec(None, "x")])
@pytest.mark.parametrize(
    "tx",
    [gx.adafactor(), gx.came(), gx.sm3(), gx.novograd(), gx.adam_mini(), gx.adam_mini(over="rows", blocks=8)],
    ids=["adafactor", "came", "sm3", "novograd", "adam_mini", "adam_mini in blocks"],
)
def test_reduced_slots_on_a_mesh(tx, axis_type, spec):
    """On an explicit mesh, slots with the sharded axis are sharded; the updates equal those of one device."""
    params = {"w": jnp.arange(1024.0).reshape(16, 64) / 64, "b": jnp.ones(3)}
    gradients = list(stream(params, 3))
    single, _ = follow(tx, params, gradients)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        place = {"w": NamedSharding(mesh, spec), "b": NamedSharding(mesh, PartitionSpec())}
        params, gradients = jax.device_put((params, gradients), (place, [place] * 3))
        assert_near(follow(tx, params, gradients)[0], single, 3e-6)
        size = 16 if spec == PartitionSpec("x") else 64
        for init in (tx.init, jax.jit(tx.init)):
            slots = jax.tree.leaves(init(params).slots)
            for slot in slots if axis_type == AxisType.Explicit else ():
                if slot.shape == (size,):
                    assert slot.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("x")), 1)
        state = jax.jit(tx.init)(params)
        _, after = jax.jit(tx.update)(gradients[0], state, params)
        if axis_type == AxisType.Explicit:
            assert [s.sharding.spec for s in jax.tree.leaves(after)] == [
                s.sharding.spec for s in jax.tree.leaves(state)
            ]


# ---------------------------------------------------------------- errors
class asks(gx.PerLeaf):
    needs = ("hvp",)


params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: gx.reduced(gx.identity(), "row"),
            "reduced: over must be 'leaf', 'rows', 'columns', 'inputs', 'outputs', or the axes to red",
        ),
        (lambda: gx.reduced(gx.identity(), (0.5,)), "or the axes to reduce, got (0.5,)"),
        (lambda: gx.reduced(gx.identity(), how="min"), "reduced: how must be 'mean', 'sum' or 'max', got 'min'"),
        (lambda: gx.reduced(gx.identity(), how=["mean"]), "reduced: how must be 'mean', 'sum' or 'max', got ['mean']"),
        (lambda: gx.reduced(gx.identity(), {"w": "rows"}), "or the axes to reduce, got {'w': 'rows'}"),
        (
            lambda: gx.reduced(gx.identity(), "rows", blocks=0),
            "reduced: blocks must be an integer, 1 or more, got 0",
        ),
        (
            lambda: gx.reduced(gx.identity(), blocks=2),
            "reduced: blocks needs over='rows', 'columns', 'inputs' or 'outputs', got over='leaf'",
        ),
        (lambda: gx.factored(gx.identity(), 2.5), "factored: min_size must be an integer, 1 or more, got 2.5"),
        (lambda: gx.factored(gx.identity(), None), "factored: min_size must be an integer, 1 or more, got None"),
        (lambda: gx.factored(gx.chain(asks())), "factored: asks needs 'hvp', a function of all parameters"),
        (
            lambda: gx.reduced(gx.momentum(), "columns", blocks=3).init(params),
            "blocks=3 must divide the number of columns, but the leaf 'w' of shape (3, 4) has 4",
        ),
        (
            lambda: gx.reduced(gx.momentum(), (0, 1)).init(params),
            "reduced: over=(0, 1), but the leaf 'b' of shape (4,) has no axis 1",
        ),
        (
            lambda: gx.reduced(gx.sign(), -2).update(params, gx.sign().init(params)),
            "reduced: over=(-2,), but the leaf 'b' of shape (4,) has no axis -2",
        ),
        (
            lambda: gx.reduced(gx.momentum(), "inputs").init({"w": jnp.ones((2, 3, 4))}),
            "reduced: the axes of 'w' are in doubt (3 axes: a convolution, heads or stacked layers?): write",
        ),
        (
            lambda: gx.adam_mini(over="rows").update(params, gx.adam_mini().init(params), params),
            "state.slots['precondition/by/reduced/inner/scale_by_ema/mean/w'] must have shape (3,), got (4,)",
        ),
        (
            lambda: gx.scale_by_param_rms().update(params, gx.sign().init(params)),
            "scale_by_param_rms needs the parameters",
        ),
        (lambda: gx.clip_by_rms(0.0), "clip_by_rms: max_rms must be a finite number above 0, got 0.0"),
        (lambda: gx.scale_by_param_rms(-1.0), "scale_by_param_rms: floor must be a finite number, 0 or more, got -1.0"),
        (lambda: gx.running_mean(-0.5), "running_mean: power must be a finite number, 0 or more, got -0.5"),
    ],
)
def test_errors(make, words):
    with pytest.raises((TypeError, ValueError)) as error:
        make()
    assert words in str(error.value)


def test_axes_in_a_list_are_those_in_a_tuple():
    listed, tx = gx.reduced(gx.momentum(), [0, 1]), gx.reduced(gx.momentum(), (0, 1))
    assert listed == tx and hash(listed) == hash(tx)
