"""Parameters in the nodes of other libraries: boxes of Flax with axis names, and classes that check their fields."""

import dataclasses
import pickle
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from cases import ALL
from flax import nnx
from jax.sharding import AxisType
from jaxtyping import Array, Float
from streams import bowl, extra, params_of

import gradtx as gx
from gradtx.core import leaves_by_path, walk
from gradtx.core.trees import is_box

Matrix: Any = Float[Array, "rows columns"]
Vector: Any = Float[Array, "columns"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Checked:
    """A dataclass that is checked by jaxtyping whenever it is made, also when JAX unflattens it."""

    w: Any
    b: Any

    def __post_init__(self):
        for value, kind in ((self.w, Matrix), (self.b, Vector)):
            if not isinstance(value, kind):
                raise TypeError(f"expected {kind}, got {value!r}")


@jax.tree_util.register_pytree_node_class
class CheckedRank:
    """A class that lets anything pass except an array of another rank, and that has no keys."""

    def __init__(self, w, b):
        for x, rank in ((w, 2), (b, 1)):
            if hasattr(x, "ndim") and x.ndim != rank:
                raise TypeError(f"the rank of {x!r} must be {rank}")
        self.w, self.b = w, b

    def tree_flatten(self):
        return (self.w, self.b), None

    @classmethod
    def tree_unflatten(cls, structure, children):
        return cls(*children)


class CheckedModule(eqx.Module):
    w: Any
    b: Any

    def __check_init__(self):
        Checked(self.w, self.b)


NODES = {
    "dataclass": Checked,
    "rank": CheckedRank,
    "equinox": CheckedModule,
    "partitioned": lambda w, b: {"a": nn.Partitioned(w, ("rows", "columns")), "b": nn.Partitioned(b, ("columns",))},
    "logically": lambda w, b: {"a": nn.LogicallyPartitioned(w, ("rows", "columns")), "b": b},
    "nnx": lambda w, b: nnx.State(
        {"a": nnx.Param(w, out_sharding=("rows", "columns"), eager_sharding=False), "b": nnx.Param(b)}
    ),
}


def both(kind):
    """Parameters in a dict, and the same ones in nodes of that kind in a dict. The leaves have one order."""
    w, b = params_of()["w"], params_of()["b"]
    return {"l": {"a": w, "b": b}}, {"l": NODES[kind](w, b)}


ROOTS = {
    "dataclass": Checked,
    "partitioned": lambda w, b: {"w": nn.Partitioned(w, ("rows", "columns")), "b": nn.Partitioned(b, ("columns",))},
}


@pytest.mark.parametrize("kind", ROOTS)
@pytest.mark.parametrize("name, case", ALL, ids=[name for name, _ in ALL])
@pytest.mark.usefixtures("eager")
def test_every_transformation_takes_them(name, case, kind):
    plain = params_of()
    params = ROOTS[kind](**plain)
    state, expected = case.tx.init(params), case.tx.init(plain)
    if not any(isinstance(piece, gx.pair) for piece in walk(case.tx)):  # Optax drops no boxes
        have, need = ({path: x.shape for path, x in leaves_by_path(s).items()} for s in (state, expected))
        assert have == need
    u, new = case.tx.update(params, state, params, **extra(case.tx))
    assert jax.tree.structure(u) == jax.tree.structure(params)
    assert jax.tree.structure(new) == jax.tree.structure(state)


MINE = {
    "partition": gx.partition({"**": gx.sgd(0.1, momentum=0.9)}),
    "muon": gx.muon(),
    "adafactor": gx.adafactor(min_size=2),
    "came": gx.came(),
    "sm3": gx.sm3(),
    "novograd": gx.novograd(),
    "adam_mini": gx.adam_mini(),
    "frozen": gx.partition({gx.is_matrix: gx.freeze()}, default=gx.adam()),
    "master_weights": gx.master_weights(gx.adam()),
    "accumulate": gx.accumulate(gx.adam(), 2),
    "sam": gx.sam(gx.adam(), radius=0.1),
    "schedule_free": gx.schedule_free(gx.adam()),
    "adahessian": gx.adahessian(),
}


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("tx", MINE.values(), ids=MINE)
def test_updates_are_those_of_a_dict(tx, kind):
    plain, params = both(kind)
    expected, state, ours = tx.init(plain), tx.init(params), params
    for _ in range(2):
        plain, expected = tx.apply(plain, expected, bowl(plain), **extra(tx))
        ours, state = jax.jit(lambda p, s: tx.apply(p, s, bowl(p), **extra(tx)))(ours, state)
    assert type(ours["l"]) is type(params["l"])
    for x, y in zip(jax.tree.leaves((ours, state)), jax.tree.leaves((plain, expected)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    evaluated = gx.eval_params(tx, state, ours)
    assert jax.tree.structure(evaluated) == jax.tree.structure(ours)
    restored, report = gx.restore(tx, params, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state) and not report.fresh
    assert gx.summary(tx, params).bytes == gx.summary(tx, plain).bytes
    shapes = jax.eval_shape(tx.init, params)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("kind", ["dataclass", "rank"])
def test_their_state_can_be_saved(kind, tmp_path):
    _, params = both(kind)
    tx = gx.adafactor(min_size=2)
    state = tx.init(params)
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        for saved in (checkpointer.restore(tmp_path / "state"), pickle.loads(pickle.dumps(state))):
            again, _ = gx.restore(tx, params, saved)
            assert jax.tree.structure(again) == jax.tree.structure(state)
    assert repr(gx.adam().init(params).slots["precondition"]["by"]["scale_by_ema"]["mean"]).startswith("{'l': {")


def boxes(tree):
    return {path: x for path, x in leaves_by_path(tree, is_leaf=is_box).items() if is_box(x)}


@pytest.mark.parametrize("name", ["adam", "adafactor", "came", "sm3", "novograd", "adam_mini", "muon"])
def test_axis_names_stand_on_slots_with_these_axes_alone(name):
    """So that `nn.get_partition_spec` gives a sharding for each slot."""
    tx = getattr(gx, name)()
    params = {"w": nn.Partitioned(jnp.ones((4, 6)), ("x", "y")), "b": nn.Partitioned(jnp.ones(3), ("x",))}
    found = boxes(tx.init(params).slots)
    assert all(len(x.names) == x.value.ndim for x in found.values())
    if name == "adam":
        assert {x.names for x in found.values()} == {("x", "y"), ("x",)}
    specs = nn.get_partition_spec(tx.init(params))
    mesh = jax.make_mesh((2, 2), ("x", "y"), devices=jax.devices()[:4], axis_types=(AxisType.Auto,) * 2)
    shardings = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), specs)
    shapes = nn.unbox(jax.eval_shape(tx.init, params))
    for shape, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True):
        sharding.check_compatible_aval(shape.shape)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", ["adam", "adafactor", "came", "sm3", "novograd", "adam_mini", "muon"])
def test_nnx_with_axis_names_under_a_mesh(name, kind):
    mesh = jax.make_mesh((2, 2), ("x", "y"), devices=jax.devices()[:4], axis_types=(kind,) * 2)
    with jax.set_mesh(mesh):
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("x", "y"))
        model = nnx.Linear(4, 6, kernel_init=init, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, getattr(gx, name)(), wrt=nnx.Param)
        before = model.kernel[...]
        for _ in range(2):
            optimizer.update(model, nnx.grad(lambda model: (model.kernel[...] ** 2).sum())(model))
        assert (model.kernel[...] != before).any() and model.kernel[...].sharding == before.sharding


def test_a_function_of_the_parameters_receives_the_users_class():
    seen: list[Any] = []

    def grad_fn(params):
        seen.append(type(params["l"]))
        return params

    _, params = both("dataclass")
    tx = gx.sam(gx.sgd(0.1), radius=0.1)
    tx.update(params, tx.init(params), params, grad_fn=grad_fn)
    assert set(seen) == {Checked}


def test_shapes_of_parameters_made_outside_the_mesh():
    params = params_of()
    with jax.set_mesh(jax.make_mesh((2,), ("x",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))):
        shapes = jax.eval_shape(gx.adam().init, params)
    assert jax.tree.structure(shapes) == jax.tree.structure(gx.adam().init(params))
