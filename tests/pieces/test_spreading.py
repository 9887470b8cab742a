"""`over`: matrices of equal shape are spread over the devices of a mesh, and are what one device makes of them."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import traffic
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near

import gradtx as gx

SPECS = {  # of square and of other matrices, some turned, one kernel of a convolution, and stacked layers
    **{f"{i}/up/kernel": ((8, 16), ("data", "model")) for i in range(3)},
    **{f"{i}/down/kernel": ((16, 8), ("model", "data")) for i in range(3)},
    "0/query/kernel": ((8, 8), ("data", None)),
    "1/query/kernel": ((8, 8), (None, ("data", "model"))),
    "whole/kernel": ((8, 8), ()),
    "conv/kernel": ((1, 2, 4, 8), (None, None, "model", "data")),
    "layers": ((4, 8, 16), (None, "data", "model")),
    "stages": ((3, 8, 16), (None, None, "data")),
    "divided": ((4, 8, 16), ("data", None, "model")),
}
RULES = {"layers": "batch in out", "stages": "batch in out", "divided": "batch in out"}
PIECES = {
    "orthogonalize": lambda over: gx.orthogonalize(over=over),
    "svd": lambda over: gx.orthogonalize("svd", over=over),
    "eigenbasis": lambda over: gx.in_basis(gx.scale_by_ema(0.5), gx.eigenbasis(1, "smaller", over=over)),
    "singular_vectors": lambda over: gx.in_basis(gx.scale_by_ema(), gx.singular_vectors(1, rank=2, over=over)),
    "covariance_roots": lambda over: gx.kronecker(gx.identity(), gx.covariance_roots(1, eps=0.1, over=over)),
    "newton": lambda over: gx.kronecker(gx.identity(), gx.covariance_roots(1, eps=0.1, method="newton", over=over)),
    "whitening": lambda over: gx.kronecker(gx.identity(), gx.whitening(over=over)),
}
KINDS = [AxisType.Auto, AxisType.Explicit]


def tree_of(shapes, seed=0):
    random = np.random.default_rng(seed)
    return {name: jnp.asarray(random.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}


def two_updates(tx, gradients):
    state, out = jax.jit(tx.init)(gradients[0]), []
    for g in gradients:
        u, state = jax.jit(tx.update)(g, state)
        out.append(u)
    return out


@pytest.mark.parametrize("over", [None, "model", ("model", "data"), ()], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", PIECES)
def test_spread_matrices_are_those_of_one_device(name, kind, over):
    gradients = [tree_of({path: shape for path, (shape, _) in SPECS.items()}, seed) for seed in range(2)]
    expected = two_updates(gx.layout(PIECES[name](()), RULES), gradients)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)
    place = {path: NamedSharding(mesh, PartitionSpec(*spec)) for path, (_, spec) in SPECS.items()}
    with jax.set_mesh(mesh):
        got = two_updates(gx.layout(PIECES[name](over), RULES), jax.device_put(gradients, [place] * 2))
    # XLA's products of batches of other sizes may add in another order, and the iteration amplifies that.
    assert_near(jax.device_get(got), expected, 1e-5)
    if kind is AxisType.Explicit:
        assert all(x.sharding.is_equivalent_to(place[path], x.ndim) for u in got for path, x in u.items())


@pytest.mark.parametrize("name", ["shampoo", "lamb"])
def test_layers_may_be_divided_otherwise_than_their_gradient(name):
    """An explicit mesh divides the rows of parameters and slots over the axis over which it divides the layers of g."""
    tx = gx.layout({"shampoo": gx.shampoo(0.1), "lamb": gx.lamb(0.1)}[name], {"w": "batch in out"})
    params, g = (tree_of({"w": (4, 8, 16)}, seed) for seed in range(2))
    expected = tx.update(g, tx.init(params), params)[0]
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec(None, "data", "model")))
        g = jax.device_put(g, NamedSharding(mesh, PartitionSpec("data", None, "model")))
        got = jax.jit(tx.update)(g, jax.jit(tx.init)(params), params)[0]
    assert_near(jax.device_get(got), expected, 1e-5)
    assert got["w"].sharding.is_equivalent_to(g["w"].sharding, 3)


@pytest.mark.parametrize("name", ["orthogonalize", "covariance_roots"])
def test_spread_matrices_under_vmap(name):
    gradients = [tree_of({"a/kernel": (3, 4, 8), "b/kernel": (3, 4, 8)}, seed) for seed in range(2)]

    def all_updates(over):
        tx = PIECES[name](over)
        update = jax.jit(jax.vmap(lambda g, state: tx.update(g, state)))
        state, out = jax.vmap(tx.init)(gradients[0]), []
        for g in gradients:
            u, state = update(g, state)
            out.append(u)
        return out

    expected = all_updates(())
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))):
        assert_near(jax.device_get(all_updates(None)), expected, 1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_by_default_each_device_does_its_part(kind):
    """Of eight matrices, divided along their rows as by FSDP: an eighth of the work, and less traffic than without."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    found = {}
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        g = jax.device_put(tree_of({f"{i}/kernel": (64, 64) for i in range(8)}), rows)
        for over in ((), None):
            tx = gx.orthogonalize(over=over)
            program = jax.jit(tx.update, out_shardings=(rows, None)).lower(g, tx.init(g)).compile()
            cost = program.cost_analysis()
            assert cost
            found[over] = cost["flops"], traffic(program)
    (flops, _), (before, old) = found[None], found[()]
    assert flops < 1.2 * 5 * 3 * 2 * 64**3  # the three products of the five iterations of one matrix
    assert kind is AxisType.Auto or flops < before / 6  # on an automatic mesh XLA divides the products, at more traffic
    size = 8 * 64 * 64 * 4
    assert found[None][1].received <= 2.5 * size / 8 < size / 2 < old.received
    assert not found[None][1].always["all-gather"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_products_of_a_low_rank_momentum_are_divided(kind):
    """It has no `over`: XLA divides the products along the matrices, and sends factors of 2·64·rank numbers."""
    rank, specs = 8, {path: SPECS[path] for path in ("0/down/kernel", "conv/kernel", "layers", "divided")}
    gradients = [tree_of({path: shape for path, (shape, _) in specs.items()}, seed) for seed in range(2)]
    stacked = gx.layout(gx.low_rank_momentum(rank), {path: RULES[path] for path in ("layers", "divided")})
    expected, tx = two_updates(stacked, gradients), gx.low_rank_momentum(rank)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)
    place = {path: NamedSharding(mesh, PartitionSpec(*spec)) for path, (_, spec) in specs.items()}
    with jax.set_mesh(mesh):
        got = two_updates(stacked, jax.device_put(gradients, [place] * 2))
        large = jax.device_put({"w": jnp.ones((64, 64))}, NamedSharding(mesh, PartitionSpec("data", "model")))
        state = jax.jit(tx.init)(large)
        out = jax.tree.map(lambda x: x.sharding, (large, state))
        program = jax.jit(tx.update, out_shardings=out).lower(large, state).compile()
    assert_near(jax.device_get(got), expected, 1e-5)
    cost = program.cost_analysis()
    assert cost and cost["flops"] < 8 * rank * 64**2 / 4  # of four products of 2·rank·64², an eighth, and the rest
    assert traffic(program).received < 4 * 64**2  # the matrix itself


@pytest.mark.parametrize(
    "tx, context, message",
    [
        (gx.orthogonalize(over="batch"), "Auto", r"orthogonalize: over='batch' is not an axis of the mesh \{'data': 8"),
        (gx.whitening(over="data"), "none", r"whitening: over='data': the parameters are on a mesh, .* jax.set_mesh"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(tx, context, message):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    g = {"w": jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, PartitionSpec()))}
    with jax.set_mesh(mesh) if context == "Auto" else nullcontext(), pytest.raises(ValueError, match=message):
        tx.init(g)


def test_within_shard_map_an_axis_is_refused():
    mesh, whole = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec()
    init = jax.shard_map(gx.orthogonalize(over="data").init, mesh=mesh, in_specs=(whole,), out_specs=whole)
    with pytest.raises(ValueError, match="over='data': the axis is manual, within shard_map: leave it out"):
        init({"w": jnp.ones((8, 4))})


@pytest.mark.parametrize("over", [1, ("data", 1), {"data"}], ids=str)
def test_mesh_axes_are_names(over):
    with pytest.raises(TypeError, match=r"orthogonalize: over must be the names of mesh axes, such as \('data', 'mod"):
        gx.orthogonalize(over=over)


def test_it_prints_as_the_call_that_makes_it():
    tx = gx.chain(gx.orthogonalize(over="data"), gx.in_basis(gx.sign(), gx.eigenbasis(over=("data", "model"))))
    assert gx.read(repr(tx)) == tx
    assert tx == gx.chain(
        gx.orthogonalize(over=("data",)), gx.in_basis(gx.sign(), gx.eigenbasis(over=["data", "model"]))
    )
