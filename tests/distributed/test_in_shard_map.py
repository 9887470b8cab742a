"""Within shard_map: the updates of whole parameters from shards, over the registry; and refusals without it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import ALL
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from streams import assert_near, bowl, extra, follow, half_square, stream

import gradtx as gx
from gradtx.core import leaves_by_path, walk
from gradtx.distributed.shards import reshaped

SPECS = {"w": P("x"), "columns": P(None, "x"), "vector": P("x"), "b": P()}
MESH = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
each_check = pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])


def params_of():
    random = np.random.default_rng(3)
    shapes = {"w": (16, 4), "columns": (4, 16), "vector": (16,), "b": (4,)}
    return {name: jnp.asarray(random.standard_normal(shape), float) for name, shape in shapes.items()}


def spec_of(slot, param, axes, spec):
    own = dict(enumerate(spec))
    return P(*[own.pop(axis, None) for axis in axes])  # each axis once


def specs_of(tx, state, params, specs=SPECS):
    """The specs of a state, as the guide makes them."""
    return gx.map_params(spec_of, tx, state, params, specs, other=lambda x: P())


def half_square_of_shards(tree):
    shards = {name: x for name, x in tree.items() if any(SPECS[name])}
    return jax.lax.psum(half_square(shards), "x") + half_square({n: x for n, x in tree.items() if n not in shards})


def mapped(function, into, out, check_vma=True, mesh=MESH):
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=into, out_specs=out, check_vma=check_vma))


@each_check
@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in ALL])
@pytest.mark.usefixtures("x64")  # some divide a difference of nearly equal sums
def test_the_updates_and_the_state_are_those_of_whole_parameters(case, check_vma):
    if isinstance(case.tx, gx.pair):
        pytest.skip("declared: below, because Optax promotes dtypes")
    if isinstance(case.tx, (gx.shard_state, gx.offload, gx.in_shard_map)):
        pytest.skip("declared: they place their state themselves; refused below")
    params, gradients = params_of(), list(stream(params_of(), 3))
    expected, last = follow(case.tx, params, gradients)
    tx = gx.in_shard_map(case.tx, {name: tuple(spec) for name, spec in SPECS.items()})
    more = extra(case.tx)
    if "value_fn" in more:
        more |= {"value_fn": half_square_of_shards} | ({} if check_vma else {"grad_fn": bowl})
    of_state = specs_of(tx, tx.init(params), params)
    state = mapped(tx.init, (SPECS,), of_state, check_vma)(params)
    assert_near(state, tx.init(params))
    update = mapped(partial(tx.update, **more), (SPECS, of_state, SPECS), (SPECS, of_state), check_vma)
    out = []
    for g in gradients:
        u, state = update(g, state, params)
        out.append(u)
    assert_near(out, expected, 1e-9)
    rounding = {name for piece in walk(case.tx) for name in piece.roundoff}

    def exact(slots):
        return {path: x for path, x in leaves_by_path(slots).items() if not rounding & {*path.split("/")}}

    assert_near(exact(state.slots.get("in_shard_map", {}).get("inner", {})), exact(last.slots))


@each_check
def test_two_mesh_axes_and_axes_of_the_others_of_the_mesh(check_vma):
    """Leaves divided by several axes, by both at once, and by one of which `shard_map` knows nothing."""
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    specs = {
        "both": P("x", "y"),
        "merged": P(
            ("y", "x"),
        ),
        "one": P(None, "y"),
        "whole": P(),
    }
    params = {name: jnp.arange(64.0).reshape(8, 8) / 64 for name in specs}
    gradients = list(stream(params, 3))
    inner = gx.chain(gx.clip_by_global_norm(0.5), gx.layout(gx.adafactor(0.1), "in out"), gx.trust_ratio())
    expected, _ = follow(inner, params, gradients)
    tx = gx.in_shard_map(inner, {name: tuple(spec) for name, spec in specs.items()})
    of_state = specs_of(tx, tx.init(params), params, specs)
    state, out = tx.init(params), []
    for g in gradients:
        u, state = mapped(tx.update, (specs, of_state, specs), (specs, of_state), check_vma, mesh)(g, state, params)
        out.append(u)
    assert_near(out, expected)
    if check_vma:  # over x alone: y is left to XLA
        only = {name: P(*["x" if n == "x" else None for n in spec]) for name, spec in specs.items() if name != "merged"}
        some = {name: x for name, x in params.items() if name in only}
        run = jax.shard_map(
            lambda g: tx.update(g, tx.init(g), g)[0], mesh=mesh, in_specs=(only,), out_specs=only, axis_names={"x"}
        )
        with jax.set_mesh(mesh):
            placed = {name: jax.device_put(x, NamedSharding(mesh, specs[name])) for name, x in some.items()}
            assert_near(jax.jit(run)(placed), tx.update(some, tx.init(some), some)[0])


def test_a_training_loop_within_shard_map_with_a_guard():
    """A NaN in one shard skips the step on all devices; the loss and the gradient are reduced by the user."""
    tx = gx.in_shard_map(gx.skip_nonfinite(gx.chain(gx.clip_by_global_norm(1.0), gx.adam(0.1))), {"w": ("x", None)})
    specs, params = {"w": P("x"), "b": P()}, {"w": jnp.ones((16, 4)), "b": jnp.ones(4)}
    of_state = specs_of(tx, tx.init(params), params, specs)
    step = mapped(tx.update, (specs, of_state, specs), (specs, of_state))
    g = {"w": jnp.ones((16, 4)).at[9, 1].set(jnp.nan), "b": jnp.ones(4)}
    updates, state = step(g, tx.init(params), params)
    assert not any(u.any() for u in jax.tree.leaves(updates)) and gx.measurements(state)["skipped"] == 1
    updates, state = step(jax.tree.map(jnp.ones_like, g), state, params)
    assert all(u.all() for u in jax.tree.leaves(updates)) and gx.measurements(state)["skipped in a row"] == 0


def test_parameters_that_are_whole_need_no_specs():
    """Data parallelism: the gradient is reduced, and each device makes the same update."""
    tx, params = gx.chain(gx.clip_by_global_norm(1.0), gx.adam(0.1)), {"w": jnp.arange(8.0)}
    x = jnp.arange(64.0).reshape(16, 4)

    def gradient(params, x):
        return jax.grad(lambda p: jnp.mean(x) * jnp.sum(p["w"] ** 2))(params)

    def step(tx, params, x):
        g = jax.lax.pmean(gradient(jax.tree.map(lambda p: jax.lax.pcast(p, "x", to="varying"), params), x), "x")
        return tx.update(g, tx.init(params), params)[0]

    expected = tx.update(gradient(params, x), tx.init(params), params)[0]
    for own, check_vma in ((tx, True), (gx.in_shard_map(tx), True), (gx.in_shard_map(tx), False)):
        assert_near(mapped(partial(step, own), (P(), P("x")), P(), check_vma)(params, x), expected)


def test_outside_shard_map_it_is_the_inner_optimizer():
    params = params_of()
    made, bare = (follow(tx, params, stream(params, 3))[0] for tx in (gx.in_shard_map(gx.lamb()), gx.lamb()))
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(bare), strict=True))


@pytest.mark.promotes("Optax's arithmetic")
def test_an_optimizer_of_optax():
    params, gradients = params_of(), list(stream(params_of(), 2))
    inner = optax.chain(optax.clip_by_global_norm(0.1), optax.lamb(0.1))
    tx = gx.in_shard_map(inner, {name: tuple(spec) for name, spec in SPECS.items()})
    of_state, state, theirs = specs_of(tx, tx.init(params), params), tx.init(params), inner.init(params)
    for g in gradients:
        u, state = mapped(tx.update, (SPECS, of_state, SPECS), (SPECS, of_state))(g, state, params)
        expected, theirs = inner.update(g, theirs, params)
        assert_near(u, expected)


# ---------------------------------------------------------------- refusals
REFUSED = {
    "an axis that the mesh has not": (gx.lamb(), {"w": ("z",)}, P("x"), "specs has the axis 'z', and the mesh is"),
    "too many axes": (gx.lamb(), {"w": ("x", None, None)}, P("x"), r"specs has \('x', None, None\) for 'w', of 2 axes"),
    "shards without specs": (gx.lamb(), {}, P("x"), r"expected params\['w'\] to be the same on all devices along 'x'"),
    "a collective": (
        gx.monitor("norm", lambda u: jax.lax.psum(gx.global_norm(u), "x")),
        {"w": ("x",)},
        P("x"),
        "expected functions of whole arrays, got one with a collective over 'x': leave it out",
    ),
    "itself": (gx.in_shard_map(gx.lamb(), {"w": ("x",)}), {"w": ("x",)}, P("x"), "got one with a collective over 'x'"),
    "ZeRO": (gx.shard_state(gx.adam(), "x"), {"w": ("x",)}, P("x"), "shard_state: the axis 'x' is manual"),
}


@pytest.mark.parametrize("tx, specs, spec, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_right_is_refused(tx, specs, spec, message):
    def step(g):
        return gx.in_shard_map(tx, specs).update(g, gx.in_shard_map(tx, specs).init(g), g)[0]

    with pytest.raises(ValueError, match=message):
        mapped(step, (spec,), spec)({"w": jnp.ones((16, 4))})


def test_extra_arguments_that_differ_are_refused():
    tx = gx.in_shard_map(gx.skip_nonfinite(gx.adam()), {"w": ("x",)})
    w = {"w": jnp.ones((16, 4))}
    with pytest.raises(
        ValueError, match=r"expected value to be the same on all devices along 'x', got one that differs"
    ):
        mapped(lambda g: tx.update(g, tx.init(g), value=jnp.sum(g["w"]))[0], (P("x"),), P("x"))(w)
    tx = gx.in_shard_map(gx.backtracking(gx.momentum(0.8)), {"w": ("x",)})
    with pytest.raises(ValueError, match=r"expected value_fn\(…\) to be the same on all devices"):
        mapped(
            lambda g: tx.update(g, tx.init(g), g, value=1.0, value_fn=half_square)[0],
            (P("x"),),
            P("x"),
        )(w)


@each_check
@pytest.mark.parametrize("spec", [P("x"), P(None, "x")], ids=["rows", "columns"])
@pytest.mark.parametrize(
    "tx",
    [gx.chain(gx.sgd(2**-10), gx.kahan_summation()), gx.rowwise(gx.adam()), gx.rowwise(gx.adam(), axis=1)],
    ids=["kahan", "rows", "columns"],
)
def test_without_it_pieces_of_coordinates_and_of_their_ages_are_exact(tx, spec, check_vma):
    params = {"w": jnp.arange(128.0).reshape(16, 8).astype(jnp.bfloat16) / 64}
    gradients = list(stream(params, 3))
    expected, last = follow(tx, params, gradients)
    of_state = specs_of(tx, tx.init(params), params, {"w": spec})
    state, out = mapped(tx.init, ({"w": spec},), of_state, check_vma)(params), []
    for g in gradients:
        u, state = mapped(tx.update, ({"w": spec}, of_state, {"w": spec}), ({"w": spec}, of_state), check_vma)(
            g, state, params
        )
        out.append(u)
    assert_near((out, state), (expected, last))


@each_check
@pytest.mark.parametrize(
    "tx",
    [
        gx.clip_by_global_norm(1.0),
        gx.skip_nonfinite(gx.adam()),
        gx.adafactor(),
        gx.muon(),
        gx.rowwise(gx.clip_by_norm(1.0)),
    ],
)
def test_without_it_shards_are_refused(tx, check_vma):
    name = next(type(piece).__name__ for piece in walk(tx) if not piece.elementwise)
    got = r"(params|updates)\['w'\] of a shard_map, which differs along 'x'"
    got = (
        got
        if check_vma
        else r"a shard_map over 'x' that does not check whether they are shards \(check_vma=False, or pmap\)"
    )
    for function in (tx.init, lambda g: tx.update(g, gx.State(jnp.zeros((), int), {}), g)):
        with pytest.raises(ValueError, match=f"{name}: expected whole parameters, got {got}: compute gradients there"):
            mapped(function, (P("x"),), P("x"), check_vma)({"w": jnp.ones((16, 4))})


@pytest.mark.parametrize("option", ["measure", "skip_nonfinite"])
def test_a_training_step_measures_no_shard(option):
    step = gx.train_step(lambda w, x: jnp.mean(w * x), gx.sgd(0.1), **{"measure": False} | {option: True})
    with pytest.raises(ValueError, match=f"train_step: {option} expected whole parameters, got gradient"):
        mapped(lambda w: step(w, step.tx.init(w), w)[0], (P("x"),), P("x"))(jnp.ones(16))


# ---------------------------------------------------------------- shards
RESHAPES = [
    ((16, 4), (("x",), ()), (64,), (("x",),)),
    ((64,), (("x",),), (16, 4), (("x",), ())),
    ((16, 4), ((), ("x",)), (64,), None),
    ((64,), (("x",),), (4, 16), None),
    ((1, 16, 4), ((), ("x",), ()), (16, 1, 4), (("x",), (), ())),
    ((3, 16), ((), ("x",)), (3, 8, 2), ((), ("x",), ())),
    ((0, 16), ((), ("x",)), (16, 0), None),
]


@pytest.mark.parametrize("old, spec, new, expected", RESHAPES)
def test_reshapes_of_shards(old, spec, new, expected):
    found = []
    mapped(lambda x: found.append(reshaped(old, spec, new)) or x, (P(),), P())(jnp.ones(()))
    assert found == [expected]


PROGRAMS = {
    "a loop whose carry becomes divided": lambda w: jax.lax.fori_loop(0, 3, lambda i, c: c + w, jnp.zeros_like(w)),
    "a loop until a norm": lambda w: jax.lax.while_loop(lambda c: jnp.sum(c) > 1, lambda c: c / 2, w),
    "a scan over rows": lambda w: jnp.broadcast_to(jax.lax.scan(lambda c, row: (c + row, row), w[0], w)[0], w.shape),
    "a scan of columns": lambda w: jax.lax.scan(lambda c, r: (c + r, c * r), jnp.zeros(w.shape[0]), w.T)[1].T,
    "loops of rows": lambda w: jax.vmap(lambda r: jax.lax.while_loop(lambda c: jnp.sum(c) > 1, lambda c: c / 2, r))(w),
    "branches": lambda w: jax.lax.cond(jnp.sum(w) > 0, lambda: 2 * w, lambda: jnp.ones_like(w)),
    "sort": lambda w: jnp.sort(w, 0) + jnp.sort(w, 1),
    "cumulative": lambda w: jnp.cumsum(w, 0) + jnp.cumsum(w, 1),
    "pad, slice, concatenate": lambda w: jnp.concatenate([jnp.pad(w, ((0, 0), (1, 1)))[:, 1:3], w[:, 2:]], 1),
    "of rows": lambda w: jnp.concatenate([w[1:], w[:1]], 0) + jnp.pad(w, ((1, 0), (0, 0)))[:-1],
    "update": lambda w: w.at[:, 1].set(3.0).at[2].set(1.0),
    "any and all": lambda w: w * jnp.where((w > 1).any() & ~(w > 9).all(), 2.0, 3.0),
    "a product": lambda w: w * jnp.prod(1 + w / 100) + jnp.argmax(w).astype(w.dtype),
    "matrices": lambda w: w @ (w.T @ w),
    "a reduction of columns": lambda w: w - jnp.mean(w, 0) * jnp.max(w, 1)[:, None],
    "vectorized": lambda w: jax.vmap(lambda row: row / jnp.linalg.norm(row))(w),
    "random": lambda w: w + jax.random.normal(jax.random.key(0), w.shape),
    "its own derivative": lambda w: jax.grad(lambda w: jnp.sum(jax.nn.logsumexp(w, 0)))(w),
    "a custom derivative": lambda w: jax.nn.relu(w - 1) + jax.checkpoint(jnp.sin)(w),
}


@each_check
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.promotes("programs as users write them")
def test_any_program_is_that_of_whole_arrays(name, check_vma):
    function = PROGRAMS[name]
    tx = gx.pair(lambda params: (), lambda updates, state, params: ({"w": function(updates["w"])}, state))
    w = jnp.asarray(np.random.default_rng(0).standard_normal((16, 4)), jnp.float32) + 1
    for spec in ((("x", None)), ((("x",), None))):
        own = gx.in_shard_map(tx, {"w": spec})
        run = mapped(lambda g, own=own: own.update(g, own.init(g))[0]["w"], (P("x"),), P("x"), check_vma)
        np.testing.assert_allclose(run({"w": w}), function(w), rtol=2e-6, atol=1e-6)


def test_it_prints_as_the_call_that_makes_it():
    tx = gx.in_shard_map(gx.sgd(0.1), {"**/kernel": P(("a", "b"), None)})
    assert repr(gx.read(repr(tx))) == repr(tx) and gx.read(repr(tx)) == tx
    assert repr(gx.in_shard_map(gx.sgd(0.1))) == f"in_shard_map({gx.sgd(0.1)!r})"
