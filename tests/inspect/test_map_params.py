"""The owner and the axes of every slot, and the state of shapes."""

import jax
import jax.numpy as jnp
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
    return any(isinstance(piece, (gx.orthogonalize, gx.scale_by_shape)) for piece in walk(tx))


def of_few_axes(tx):
    """A leaf without the axes of a part of `reduced` is refused."""
    return "over='rows', blocks" in repr(tx)


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
    params = params_for(tx)
    state = jax.eval_shape(tx.init, params)
    got, shapes = found(tx, params, state), {path: x.shape for path, x in leaves_by_path(state).items()}
    expected = {path: [None] for path in shapes}
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
