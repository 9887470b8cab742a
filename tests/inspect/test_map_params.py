"""The owner and the axes of every slot, and the state of shapes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import ALL
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import types

import gradtx as gx
from gradtx.core import leaves_by_path, walk

SHAPES = {"w": (4, 4), "v": (4, 4), "low": (4, 2), "b": (4,), "scalar": ()}
SPECS = {"w": ("x", "y"), "v": ("y", "x"), "low": ("x", None), "b": ("y",), "scalar": (), "complex": ("y", "x")}
each_tx = pytest.mark.parametrize("tx", [pytest.param(case.tx, id=name) for name, case in ALL])


def of_real_numbers(tx):
    return any(isinstance(piece, (gx.low_rank_momentum, gx.orthogonalize, gx.scale_by_shape)) for piece in walk(tx))


def params_for(tx):
    params = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in SHAPES.items()}
    params["low"] = jax.ShapeDtypeStruct(SHAPES["low"], "bfloat16")
    if not of_real_numbers(tx):
        params["complex"] = jax.ShapeDtypeStruct((4, 4), "complex64")
    return params


def found(tx, params, state):
    """The owner of each array, as its path, and its axes; None for an array without an owner."""
    names = {name: name for name in params}
    out = gx.map_params(lambda slot, p, axes, name: [(name, axes)], tx, state, params, names, other=lambda x: [None])
    return dict(zip(leaves_by_path(state), jax.tree.leaves(out, is_leaf=lambda x: isinstance(x, list))))


@each_tx
def test_the_owner_and_the_axes_are_those_that_change_with_the_parameter(tx):
    """A slot is of a parameter if it is gone where an integer stands in its place; its axes change with the sizes."""
    if any(getattr(piece, "which", "") in ("smaller", "larger") for piece in walk(tx)):
        pytest.skip("declared: the sizes decide which side has a basis")
    if any(isinstance(piece, gx.in_blocks) for piece in walk(tx)):
        pytest.skip("declared: an axis of a parameter is two of its blocks, and neither has its size")
    params = params_for(tx)
    state = jax.eval_shape(tx.init, params)
    got, shapes = found(tx, params, state), {path: x.shape for path, x in leaves_by_path(state).items()}
    expected: dict[str, list[Any]] = {path: [None] for path in shapes}
    for name, p in params.items():
        without = jax.eval_shape(tx.init, params | {name: jax.ShapeDtypeStruct(p.shape, "int32")})
        for path in shapes.keys() - leaves_by_path(without):
            assert expected[path] == [None]
            expected[path] = [(name, [None] * len(shapes[path]))]
        for axis in range(len(p.shape)):
            shape = list(p.shape)
            shape[axis] *= 3
            other = jax.eval_shape(tx.init, params | {name: jax.ShapeDtypeStruct(shape, p.dtype)})
            for path, x in leaves_by_path(other).items():
                for i, (before, after) in enumerate(zip(shapes[path], x.shape)):
                    if before != after:
                        owner, axes = expected[path][0] or ("nothing", [])
                        assert owner == name and axes[i] is None
                        axes[i] = axis
    assert got == {path: [x and (x[0], tuple(x[1]))] for path, [x] in expected.items()}


@each_tx
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
def test_the_state_of_shapes_is_that_of_arrays_with_the_shardings_of_the_parameters(tx, axis_type):
    if any(isinstance(piece, gx.pair) for piece in walk(tx)) and axis_type is AxisType.Auto:
        pytest.skip("declared: XLA lays out another library's state")
    if any(isinstance(piece, gx.in_blocks) for piece in walk(tx)) and axis_type is AxisType.Auto:
        pytest.skip("declared: XLA lays out the blocks")
    if isinstance(tx, gx.shard_state):
        pytest.skip("declared: shapes have the shardings of the parameters, as its docstring says")
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
        params = {
            name: jax.device_put(jnp.ones(p.shape, p.dtype), NamedSharding(mesh, PartitionSpec(*SPECS[name])))
            for name, p in params_for(tx).items()
        }
        shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding), params)
        state, expected = tx.init(shapes), jax.jit(tx.init)(params)
    assert types(state) == types(expected) == types(jax.eval_shape(tx.init, params))
    owners = found(tx, params, state)
    have = leaves_by_path(expected)
    for path, slot in leaves_by_path(state).items():
        assert isinstance(slot, jax.ShapeDtypeStruct) and isinstance(slot.sharding, NamedSharding)
        (owner,) = owners[path]
        whole = owner and slot.ndim >= params[owner[0]].ndim
        if whole or axis_type is AxisType.Explicit:  # XLA chooses where the parameter's axes are reduced
            assert slot.sharding.is_equivalent_to(have[path].sharding, slot.ndim), (path, slot, have[path].sharding)


@each_tx
def test_the_state_of_shapes_has_the_shapes_of_any_tree(tx):
    """Without shardings, and with leaves that have no slots."""
    params = {"list": [params_for(tx), None], "n": jax.ShapeDtypeStruct((3,), "int32")}
    if "'w'" not in repr(tx):
        assert types(tx.init(params)) == types(jax.eval_shape(tx.init, params))


def test_shardings_of_one_device_and_of_none():
    here = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    params = {
        "w": jax.ShapeDtypeStruct((4, 2), "float32", sharding=here),
        "b": jax.ShapeDtypeStruct((4,), "float32", sharding=here),
    }
    assert all(x.sharding == here for x in jax.tree.leaves(gx.adafactor().init(params)))
    params["b"] = jax.ShapeDtypeStruct((4,), "float32")
    state = gx.adam().init(params)
    mean = state.slots["precondition"]["by"]["scale_by_ema"]["mean"]
    assert (mean["w"].sharding, mean["b"].sharding) == (here, None)


def test_a_parameter_and_its_slots_have_one_kind_of_memory():
    mesh = jax.make_mesh((2,), ("x",))
    host = NamedSharding(mesh, PartitionSpec("x"), memory_kind="pinned_host")
    state = gx.factored(gx.scale_by_ema()).init(jax.ShapeDtypeStruct((4, 2), "float32", sharding=host))
    kept = {path: x.sharding for path, x in leaves_by_path(state.slots).items()}
    assert {x.memory_kind for x in kept.values()} == {"pinned_host"}
    assert sorted(str(x.spec) for x in kept.values()) == sorted(str(PartitionSpec(x)) for x in ("x", None))


class grams(gx.PerLeaf):
    """Slots that equal sizes cannot tell apart, and that a piece keeps by the size of the leaf."""

    at_most: int = 8

    def init_leaf(self, param):
        left, right = (jnp.zeros((n, n)) for n in param.shape)
        return {"left": left if param.shape[0] <= self.at_most else jnp.zeros(()), "right": right}


def test_sizes_at_which_a_piece_decides_otherwise():
    params = {name: jnp.zeros((n, n)) for name, n in {"small": 3, "last": 8, "large": 9}.items()}
    for at_most in (8, 9):
        tx = grams(at_most)
        state = tx.init(params)
        out = gx.map_params(lambda slot, p, axes: axes if slot.ndim else (), tx, state, params)
        slots = out.slots["grams"]
        assert slots["right"] == dict.fromkeys(params, (1, 1))
        assert slots["left"] == {name: (0, 0) if p.shape[0] <= at_most else () for name, p in params.items()}
    factored = gx.factored(gx.scale_by_ema(), min_size=8)
    params = {"below": jnp.zeros((7, 7)), "half": jnp.zeros((4, 8)), "square": jnp.zeros((8, 8))}
    out = gx.map_params(lambda slot, p, axes: str(axes), factored, factored.init(params), params).slots["factored"]
    mean = {name: part["scale_by_ema"]["mean"] for name, part in out.items()}
    assert mean == {
        "rows": {"below": None, "half": None, "square": "(0,)"},
        "columns": {"below": None, "half": None, "square": "(1,)"},
        "whole": {"below": "(0, 1)", "half": "(0, 1)", "square": None},
    }


def test_sizes_that_a_piece_knows_exactly():
    """A slot of the whole shape is known; which of two equal axes a smaller one has is not, and is not guessed."""

    class known(gx.PerLeaf):
        refuses: bool = False

        def init_leaf(self, param):
            if self.refuses and param.shape not in ((4, 4), (4, 2)):
                raise ValueError("another size")
            whole = param if param.shape == (4, 4) else jnp.zeros(())
            return {"whole": jnp.zeros_like(whole), "columns": jnp.sum(param, 0) if whole.ndim else param}

    params = {"w": jnp.zeros((4, 4)), "v": jnp.zeros((4, 2))}
    for refuses in (False, True):
        tx = known(refuses)
        axes = gx.map_params(lambda slot, p, axes: axes, tx, tx.init(params), params).slots["known"]
        assert axes["whole"] == {"w": (0, 1), "v": ()}
        assert axes["columns"] == {"w": (None,), "v": (0, 1)}


def test_an_axis_of_the_mesh_is_used_once():
    sharding = NamedSharding(jax.make_mesh((2, 2), ("x", "y")), PartitionSpec("x", "y"))
    slots = grams().init(jax.ShapeDtypeStruct((4, 4), "float32", sharding=sharding)).slots["grams"]
    assert slots["left"].sharding.spec == PartitionSpec("x", None)
    assert slots["right"].sharding.spec == PartitionSpec("y", None)


def test_groups_by_size_see_the_sizes_of_the_parameters():
    def vocabulary(path, leaf):
        return leaf.shape[0] == 6

    tx = gx.partition({vocabulary: gx.factored(gx.scale_by_ema())}, default=gx.scale_by_ema())
    params = {"embedding": jnp.zeros((6, 6)), "kernel": jnp.zeros((5, 6))}
    state = tx.init(params)
    assert found(tx, params, state) == {
        "step": [None],
        "slots/partition/default/scale_by_ema/mean/kernel": [("kernel", (0, 1))],
        "slots/partition/vocabulary/factored/columns/scale_by_ema/mean/embedding": [("embedding", (1,))],
        "slots/partition/vocabulary/factored/rows/scale_by_ema/mean/embedding": [("embedding", (0,))],
    }


def test_blocks_of_rows_are_not_rows():
    tx, params = gx.reduced(gx.running_sum(), "rows", blocks=2), {"w": jnp.zeros((4, 2)), "v": jnp.zeros((2, 2))}
    assert [x[0][1] for x in found(tx, params, tx.init(params)).values() if x[0]] == [(None,), (None,)]


@pytest.mark.promotes("Optax's arithmetic")
def test_optaxs_own_states_and_those_that_hold_gradtxs():
    params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    for tx in (
        optax.chain(optax.clip(1.0), optax.adam(1e-3)),
        optax.chain(optax.clip(1.0), gx.adam(1e-3)),
        optax.chain(gx.as_optax(gx.adam(1e-3))),
        optax.masked(gx.adam(1e-3), {"w": True, "b": True}),
    ):
        state = tx.init(params)
        out = gx.map_params(lambda slot, p, axes: slot + p, tx, state, params)
        assert jax.tree.structure(out) == jax.tree.structure(state)
        assert sum(float(x.sum()) for x in jax.tree.leaves(out)) == 2 * 20
    tx = optax.adafactor(1e-3, min_dim_size_to_factor=2)
    axes = gx.map_params(lambda slot, p, axes: str(axes), tx, tx.init(params), params, other=lambda x: None)
    assert sorted(jax.tree.leaves(axes)) == sorted(["(None,)", "(0,)", "(None,)", "(1,)", "(0,)", "(None,)"])


@pytest.mark.promotes("Optax's arithmetic")
def test_optaxs_map_says_what_to_call():
    params = {"w": jnp.ones((4, 4))}
    for tx in (
        gx.adam(),
        optax.chain(gx.adam(), optax.scale(1.0)),
        gx.partition({"w": gx.sgd(0.1)}),
        gx.as_optax(gx.muon()),
    ):
        with pytest.raises(TypeError, match=r"^optax.tree_map_params expected .*: call gx.map_params\(f, tx, state"):
            optax.tree_map_params(tx, lambda x: x, tx.init(params))
    tx = optax.chain(gx.clip(1.0), optax.adam(1e-3))
    state: Any = optax.tree_map_params(tx, lambda x: x + 1, tx.init(params))
    assert (state[1][0].mu["w"] == 1).all()


def test_what_map_params_refuses():
    tx, params = gx.adam(), {"w": jnp.ones((4, 4))}
    state, axes = tx.init(params), lambda slot, p, axes: axes
    for wrong, words in (
        (
            lambda: gx.map_params(axes, tx, gx.sgd(0.1).init(params), params),
            "^map_params: state must be the state of tx",
        ),
        (lambda: gx.map_params(axes, tx, state, {"w": jnp.ones((2, 2))}), r"of shape \(4, 4\) where .* \(2, 2\)"),
        (
            lambda: gx.map_params(axes, tx, state, params, {"v": 1}),
            r"^map_params: rest\[0\] must be a tree like params",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()
    with pytest.raises(TypeError, match=r"^map_params: tx must be a transformation"):
        gx.map_params(axes, "adam", state, params)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"^params\['w'\] is 'x'"):
        gx.map_params(axes, tx, state, {"w": "x"})
    with pytest.raises(TypeError, match=r"^map_params: other must be a function"):
        gx.map_params(axes, tx, state, params, other=1)  # pyright: ignore[reportArgumentType]


def test_leaves_without_an_update_have_no_slots():
    params = {"w": jnp.ones((3, 2)), "n": jnp.arange(2), "none": None}
    tx = gx.chain(gx.monitor_layers(), gx.leafwise(gx.adam()), gx.adam())
    state = tx.init(params)
    owners = gx.map_params(lambda slot, param, axes: param is params["w"], tx, state, params, other=lambda x: None)
    assert owners.slots["monitor_layers"]["measured"]["layers"].value == {"norm": {"w": True}, "ratio": {"w": True}}
    assert jax.tree.all(owners)
