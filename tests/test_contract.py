"""The contract of every transformation of the registry."""

import contextlib
import copy
import dataclasses
import inspect
import io
import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALL, CASES, PARTS
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rounding import assert_within
from streams import FUNCTIONS, assert_near, extra, follow, member, params_of, schedules_of, stream, types

import gradtx as gx
from gradtx.__main__ import RECIPES
from gradtx.core import Record, Transformation, leaves_by_path, walk
from gradtx.core.checks import measuring
from gradtx.serialization.read import _makes


def registered(argument, several):
    """A test of each of these cases, or of their transformations."""
    optax = pytest.mark.promotes("Optax's arithmetic")
    return pytest.mark.parametrize(
        argument,
        [
            pytest.param(getattr(case, argument, case), id=name, marks=[optax] if name.startswith("pair") else [])
            for name, case in several
        ],
    )


each, each_tx = registered("case", ALL), registered("tx", ALL)
each_part, each_part_tx = registered("case", PARTS), registered("tx", PARTS)

# Pieces that keep a number measured over all leaves: over a part of them, it is another.
MEASURING = (
    gx.dadapt_distance,
    gx.prodigy_distance,
    gx.mechanic,
    gx.momo_step,
    gx.dog_distance,
    gx.scale_by_total_norm,
)
# Pieces of real matrices alone.
REAL = (gx.low_rank_momentum, gx.orthogonalize, gx.scale_by_shape)
BASES = (
    gx.eigenbasis,
    gx.random_vectors,
    gx.singular_vectors,
    gx.covariance_roots,
    gx.whitening,
)  # of the rows and columns of the shard
WATCHING = (gx.norm_spike, gx.zclip, gx.skip_if)  # its average too


# Pieces for which a complex matrix is a matrix, and an array of pairs is not: see test_layout.py.
READING_AXES = (
    gx.adaptive_clip,
    gx.centralize,
    gx.factored,
    gx.project_if_orthogonal,
    gx.reduced,
    gx.sm3_sum,
)


class Layer(NamedTuple):
    kernel: Any
    bias: Any


@chex.dataclass
class Model:
    layers: list
    scale: Any


# ---------------------------------------------------------------- the registry
def test_every_public_transformation_is_registered():
    bases = {"Transformation", "PerLeaf"}
    public = set()
    for name, thing in vars(gx).items():
        if name.startswith("_") or inspect.ismodule(thing):
            continue
        if inspect.isclass(thing) and issubclass(thing, Transformation) and name not in bases:
            public.add(name)
        if inspect.isfunction(thing) and _makes(thing):
            public.add(name)
    assert public == set(CASES)


GUIDES = Path(__file__).parents[1] / "notebooks" / "guides"


def test_every_public_name_is_in_an_example_that_runs():
    """In its own docstring; for the core's protocol, in the package's or a guide; for a recipe, in `gradtx show`."""
    examples = (gx.__doc__ or "") + (GUIDES / "extending.md").read_text(encoding="utf-8")
    for module in (gx, gx.schedules):
        for name, thing in vars(module).items():
            own = inspect.getmodule(thing)
            mine = own is module or (module is gx and own and own.__name__.startswith("gradtx"))
            if name.startswith("_") or inspect.ismodule(thing) or not (own and mine):
                continue
            in_core = own.__name__.startswith("gradtx.core") and re.search(rf"\b{name}\b", examples)
            assert ">>>" in (thing.__doc__ or "") or in_core or name in RECIPES, name
    for name in ("Decay", "NonNegative", "Positive", "Scalar"):
        assert f"gx.{name}" in examples


def test_the_registry_has_the_classes_that_it_names():
    for name, several in CASES.items():
        if inspect.isclass(getattr(gx, name)):
            txs = [
                case.tx.inner if isinstance(case.tx, gx.masked) and name != "masked" else case.tx for case in several
            ]
            assert all(type(tx).__name__ == name for tx in txs)


# ---------------------------------------------------------------- records
@each_tx
def test_a_record_prints_as_the_call_that_makes_it(tx):
    if any(isinstance(piece, (gx.pair, gx.apply_if)) for piece in walk(tx)):
        pytest.skip("declared: its functions are local to what made them, and print by their names")
    assert gx.read(repr(tx)) == tx
    assert "object at 0x" not in repr(tx)
    assert max(map(len, repr(tx).splitlines())) <= 100


@each_tx
def test_equal_records_are_alike(tx):
    leaves, structure = jax.tree.flatten(tx)
    twin = jax.tree.unflatten(structure, leaves)
    assert twin == tx and hash(twin) == hash(tx) and copy.deepcopy(tx) == tx
    assert dataclasses.replace(tx) == tx
    assert tx != gx.chain(tx, gx.scale(3.0)) and tx != 1
    if leaves:
        other = jax.tree.unflatten(structure, [x + 0.001 for x in leaves])
        assert other != tx


@each_tx
def test_pickle(tx):
    if any(isinstance(piece, gx.pair) for piece in walk(tx)):
        pytest.skip("declared: Optax's functions are closures, which pickle refuses")
    assert pickle.loads(pickle.dumps(tx)) == tx


@each_tx
def test_leaves_are_the_hyperparameters_and_have_paths(tx):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tx):
        assert type(leaf) is float
        last = path[-1]
        assert isinstance(last, jax.tree_util.GetAttrKey) and last.name in {
            field.name for record in (*walk(tx), *schedules_of(tx)) for field in dataclasses.fields(record)
        }


@each_tx
def test_unflatten_takes_anything(tx):
    leaves, structure = jax.tree.flatten(tx)
    assert isinstance(jax.tree.unflatten(structure, [object() for _ in leaves]), Record)
    assert jax.tree.structure(jax.tree.map(lambda x: -7.0, tx)) == structure


# ---------------------------------------------------------------- state
PAIRINGS = [(dtype, dtype) for dtype in ("float16", "bfloat16", "float32", "float64", "complex64")]
PAIRINGS += [(low, "float32") for low in ("float16", "bfloat16")] + [("float64", "float32")]
PAIRINGS += [("float32", other) for other in ("float16", "bfloat16", "float64")]


@each_part_tx
def test_the_state_is_a_fixed_point_and_updates_keep_their_dtype(tx, x64):
    """Structure, shapes, dtypes and weak types, by `eval_shape`, for every dtype of parameters and of gradients."""
    promotion = "standard" if any(isinstance(piece, gx.pair) for piece in walk(tx)) else "strict"
    pairs_refused = any(isinstance(piece, (*REAL, gx.pair)) for piece in walk(tx))
    for params_dtype, gradient_dtype in PAIRINGS:
        if params_dtype == "complex64" and pairs_refused:
            continue  # declared: pairs of reals are not a matrix, and another library has its own policy
        like = {"w": (3, 4), "b": (4,)}
        params, g = (
            {k: jax.ShapeDtypeStruct(shape, dtype) for k, shape in like.items()}
            for dtype in (params_dtype, gradient_dtype)
        )
        state = jax.eval_shape(tx.init, params)
        wide = {jnp.dtype("int32"), jnp.dtype("float64" if params_dtype == "float64" else "float32")}
        wide |= (
            {jnp.dtype(params_dtype)} if isinstance(tx, gx.kahan_summation) else set()
        )  # declared: half a number more
        if isinstance(tx, (gx.store, gx.split_weights)):
            wide |= {*map(jnp.dtype, ("int8", "uint8", "uint16", "float32"))}  # declared: codes and scales
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= wide

        def step(params, state, g):
            u, state = tx.update(g, state, params, **extra(tx))
            return u, gx.apply_updates(params, u), state

        with (
            jax.numpy_dtype_promotion(promotion),
            jax.numpy_rank_promotion("raise" if promotion == "strict" else "allow"),
        ):
            u, new, after = jax.eval_shape(step, params, state, g)
        assert (types(u), types(new), types(after)) == (types(g), types(params), types(state))


@each_part_tx
@pytest.mark.usefixtures("eager")
def test_bfloat16_equals_float32_up_to_rounding_of_the_output(tx):
    """Hyperparameters, slots and intermediate sums have more digits than bfloat16."""
    if any("grad_fn" in piece.needs for piece in walk(tx)):
        pytest.skip("declared: the gradient function sees points in the parameters' dtype")
    if isinstance(tx, (gx.kahan_summation, gx.master_weights, gx.split_weights, gx.stochastic_rounding)):
        pytest.skip("declared: it goes by how the parameters' dtype rounds")
    low = params_of("bfloat16")
    gradients = list(stream(low, 3))
    wide, wide_gradients = jax.tree.map(lambda x: x.astype("float32"), (low, gradients))
    expected, expected_state = follow(tx, wide, wide_gradients)
    got, state = follow(tx, low, gradients)
    chex.assert_trees_all_equal(got, jax.tree.map(lambda x: x.astype("bfloat16"), expected))
    chex.assert_trees_all_equal(state, expected_state)


def test_wider_gradients_do_not_widen_the_state(x64):
    for tx in (gx.adam(), gx.adam(lambda step: 1e-3, b1=lambda step: 0.9)):
        params = params_of("float32")
        gradients = list(stream(params_of("float64"), 2))
        state = tx.init(params)
        for g in gradients:
            u, after = tx.update(g, state, params)
            assert types(after) == types(state)
            chex.assert_trees_all_equal_shapes_and_dtypes(u, g)


def test_five_steps_compile_once_and_five_rates_trace_once():
    traces = 0

    class count(gx.PerLeaf):
        def update_leaf(self, g, slots, context):
            nonlocal traces
            traces += 1
            return g, slots

    for params_dtype in ("float32", "bfloat16", "float16"):
        for gradient_dtype in {"float32", params_dtype}:
            params, before = {"w": jnp.ones(3, params_dtype)}, traces
            tx = gx.chain(count(), gx.adam(1e-3))
            state = tx.init(params)
            for _ in range(5):
                updates, state = tx.update({"w": jnp.ones(3, gradient_dtype)}, state, params)
                params = gx.apply_updates(params, updates)
            assert traces == before + 1
    params, before = {"w": jnp.ones(3)}, traces
    for rate in (1e-1, 1e-2, 1e-3, 1e-4, 1):
        tx = gx.chain(count(), gx.adamw(rate))
        tx.update(params, tx.init(params), params)
    assert traces == before + 1


@each_part_tx
@pytest.mark.usefixtures("eager")
def test_a_constant_schedule_is_the_constant_and_keeps_the_states_structure(tx):
    scheduled = jax.tree.map(lambda x: gx.of_step(lambda step: x), tx)
    params = params_of()
    a, state = follow(tx, params, stream(params, 3))
    b, scheduled_state = follow(scheduled, params, stream(params, 3))
    assert jax.tree.structure(state) == jax.tree.structure(scheduled_state)
    assert_near(b, a, 1e-6)
    assert jax.tree.leaves(scheduled.at(3)) == jax.tree.leaves(tx.at(3))


@each_tx
def test_a_name_that_begins_or_ends_as_another_is_another(tx):
    """Names in one order, of which some begin as `a`, `b` and `w` of the registry's patterns, or do not."""
    if "key" in {name for piece in walk(tx) for name in piece.needs}:
        pytest.skip("declared: its noise is of the names")
    shapes = [(4,), (4,), (4,), (3, 4), (3, 4)]
    random = np.random.default_rng(0)
    several = [[jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in shapes] for _ in range(3)]

    def named(names, leaves):
        inside, *others = leaves
        return {"a": {"b": inside}, **dict(zip(names, others))}

    def made(names):
        params, *gradients = (named(names, leaves) for leaves in several)
        return jax.tree.leaves(follow(tx, params, gradients))

    for one, other in zip(made(["ab", "b", "w", "w2"]), made(["av", "b", "w", "z"])):
        np.testing.assert_array_equal(one, other)


@each_tx
def test_a_stateless_piece_holds_nothing_and_slots_have_names(tx):
    def names_only(slots):
        for name, slot in slots.items():
            assert isinstance(name, str) and name
            if isinstance(slot, dict):
                assert slot
                names_only(slot)

    slots = tx.init(params_of()).slots
    names_only(slots)
    assert gx.chain(gx.clip(1.0), gx.scale(2.0)).init(params_of()).slots == {}


# ---------------------------------------------------------------- ages and clocks
@each_tx
def test_fresh_slots_in_an_old_run_give_the_first_updates_of_a_new_one(tx):
    """Nothing but a schedule, and the random key, depends on the step of the run."""
    if "key" in extra(tx):
        pytest.skip("declared: the key of each update is made with the step of the run")
    tx, params = tx.at(0), params_of()
    new = tx.init(params)
    old = new._replace(step=jnp.array(1000, jnp.int32))
    for g in stream(params, 3):
        (u, new), (v, old) = (tx.update(g, state, params, **extra(tx)) for state in (new, old))
        assert_near(v, u)
    assert_near(old.slots, new.slots)


# ---------------------------------------------------------------- layouts
@each_tx
def test_stacked_layers_are_updated_as_the_layers_alone(tx):
    if tx.outermost:
        pytest.skip("declared: it goes outermost, and here it would be inside")
    if any(isinstance(piece, (gx.leafwise, gx.lazy)) for piece in walk(tx)):
        pytest.skip("declared: it runs on each leaf as a whole, or on its rows x[i]")
    if "key" in extra(tx):
        pytest.skip("declared: the key of a layer is made of its number, not of a path")
    if "where='w'" in repr(tx):
        pytest.skip("declared: the pattern does not match the paths of separate layers")
    if isinstance(tx, gx.store):
        pytest.skip("declared: a block of small layers spans several")
    if any(isinstance(piece, gx.reduced) and piece.over == "rows" for piece in walk(tx)):
        tx = gx.reduced(gx.scale_by_ema(0.8), "columns", how="sum")
    several = [params_of(seed=i) for i in range(2)]
    alone = {name: [layer[name] for layer in several] for name in several[0]}
    stacked = gx.layout(tx, "batch ...")

    def stack(tree):
        return {name: jnp.stack(layers) for name, layers in tree.items()}

    gradients = list(stream(alone, 3))
    expected, _ = follow(tx, alone, gradients)
    made, state = follow(stacked, stack(alone), map(stack, gradients))
    assert_near(made, list(map(stack, expected)), 2e-6)
    assert types(jax.jit(stacked.init)(stack(alone))) == types(state)


# ---------------------------------------------------------------- jax's transformations
@each_part_tx
def test_scan_equals_a_loop(tx):
    params = params_of()
    gradients = list(stream(params))
    expected, state = follow(tx, params, gradients)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
    last, scanned = jax.lax.scan(lambda s, g: tx.update(g, s, params, **extra(tx))[::-1], tx.init(params), stacked)
    assert_near(scanned, jax.tree.map(lambda *x: jnp.stack(x), *expected))
    assert_near(last, state)


@each_tx
def test_compiled_and_donated_equals_operation_by_operation(tx):
    """Within 4 ulp at each of three steps, or what other roundings of every operation change: of points as large as
    the parameters, and of singular values that an iteration moves apart."""
    if isinstance(tx, gx.offload):
        pytest.skip("declared: jaxlib ends the process if a donated array of the host makes room for one of the device")
    functions = {name: x for name, x in extra(tx).items() if name in FUNCTIONS}
    given = {name: x for name, x in extra(tx).items() if name not in FUNCTIONS}

    def step(params, state, g):
        u, state = tx.update(g, state, params, **given, **functions)
        return gx.apply_updates(params, u), u, state

    donating = jax.jit(step, donate_argnums=(0, 1))
    params = params_of()
    state = tx.init(params)
    for g in stream(params, 3):
        before = jax.tree.map(jnp.copy, (params, state))
        params, u, state = donating(params, state, g)
        assert_within((params, u, state), step, (*before, g), bound=4 * float(jnp.finfo(jnp.float32).eps))


@each_tx
def test_outside_of_jit_equals_inside(tx):
    functions = {name: x for name, x in extra(tx).items() if name in FUNCTIONS}
    given = {name: x for name, x in extra(tx).items() if name not in FUNCTIONS}

    @jax.jit
    def update(g, state, params, **given):
        return tx.update(g, state, params, **given, **functions)

    params = params_of()
    gradients = list(stream(params, 3))
    compiled, _ = follow(tx, params, gradients, lambda g, s, p, **_: update(g, s, p, **given))
    assert_near(follow(tx, params, gradients)[0], compiled, 4 * float(jnp.finfo(jnp.float32).eps))


@each_tx
@pytest.mark.usefixtures("eager")
def test_apply_is_update_and_apply_updates(tx):
    params = params_of()
    state = tx.init(params)
    for g in stream(params, 2):
        updates, after = tx.update(g, state, params, **extra(tx))
        as_one = tx.apply(params, state, g, **extra(tx))
        params, state = gx.apply_updates(params, updates), after
        chex.assert_trees_all_equal(as_one, (params, state))


@each_part_tx
@pytest.mark.usefixtures("eager")
def test_vmap_over_params_and_over_optimizers_equals_a_loop(tx):
    params = params_of()
    gradients = list(stream(params, 2))

    def last_update(tx, params, gradients):
        return follow(tx, params, gradients)[0][-1]

    many = jax.tree.map(lambda x: jnp.stack([x, -2 * x]), (params, gradients))
    got = jax.vmap(partial(last_update, tx))(*many)
    for i in range(2):
        assert_near(member(got, i), last_update(tx, *member(many, i)))

    factors = jnp.array([1.0, 0.8])
    batch = jax.vmap(lambda f: jax.tree.map(lambda h: h * f, tx))(factors)
    if jax.tree.leaves(tx):
        got = jax.vmap(lambda tx: last_update(tx, params, gradients))(batch)
        for i in range(2):
            assert_near(member(got, i), last_update(member(batch, i), params, gradients), 3e-6)


@each
@pytest.mark.usefixtures("eager")
def test_every_hyperparameter_has_a_finite_gradient_at_zero_gradients_too(case):
    tx, params = case.tx, params_of()
    if isinstance(tx, gx.offload):
        pytest.skip("declared: JAX has no derivative of a move to the memory of the host")
    if case.elementwise:
        params = {"w": params["w"]}  # one leaf for all

    @partial(jax.grad, argnums=(0, 1))
    def gradient(tx, gradients):
        u, _ = follow(tx, params, gradients)
        return sum(jnp.sum(x) for x in jax.tree.leaves(u))

    if isinstance(tx, gx.pair):
        pytest.skip("declared: Optax's Adam has a NaN here")
    gradients = jax.tree.map(lambda g: jnp.stack([g, jnp.zeros_like(g)]), list(stream(params, 2)))
    for path, x in jax.tree_util.tree_leaves_with_path(jax.vmap(gradient, (None, 0))(tx, gradients)):
        assert jnp.isfinite(x).all(), path


@pytest.mark.parametrize(
    "tx, axis_type",
    [
        pytest.param(case.tx, axis_type, id=f"{name}-{axis_type.name}")
        for name, case in PARTS
        for axis_type in ((AxisType.Explicit,) if case.elementwise else (AxisType.Auto, AxisType.Explicit))
    ]
    + [pytest.param(gx.adamw(), AxisType.Auto, id="adamw-Auto")],
)
def test_sharded_is_single_device_and_slots_are_sharded_as_their_parameter(tx, axis_type):
    if isinstance(tx, (gx.shard_state, gx.offload)):
        pytest.skip("declared: it places its state itself; tests/distributed")
    if isinstance(tx, gx.pair):
        pytest.skip("declared: Optax lays out its own state")
    w = jnp.arange(64.0) / 64
    params = {"w": w.reshape(16, 4), "columns": w.reshape(2, 32) - 0.5, "vector": 1 - w, "b": jnp.ones(3)}
    gradients = list(stream(params, 1))
    with jax.disable_jit():
        single, _ = follow(tx, params, gradients)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        axes = {"w": ("x",), "columns": (None, "x"), "vector": ("x",), "b": ()}
        spec = {name: NamedSharding(mesh, PartitionSpec(*several)) for name, several in axes.items()}
        put = partial(jax.device_put, device=spec)
        params = put(params)
        for init in (tx.init, jax.jit(tx.init)):
            state = init(params)
            for slot in jax.tree.leaves(state.slots):
                for name in [name for name in ("w", "columns", "vector") if slot.shape == params[name].shape]:
                    assert slot.sharding.is_equivalent_to(spec[name], slot.ndim)
        assert_near(follow(tx, params, map(put, gradients))[0], single, 3e-6)


@pytest.mark.parametrize(
    "tx, axis_type",
    [
        pytest.param(tx, axis_type, id=f"{name}-{axis_type.name}")
        for name, tx in [*((name, case.tx) for name, case in PARTS), ("adamw", gx.adamw())]
        for axis_type in (AxisType.Auto, AxisType.Explicit)
    ],
)
def test_slots_of_one_shape_are_each_sharded_as_their_own_parameter(tx, axis_type):
    """Under `jit`, with and without a mesh in the context, for parameters of NaN, complex and vmapped ones."""
    if isinstance(tx, (gx.shard_state, gx.offload)):
        pytest.skip("declared: it places its state itself; tests/distributed")
    if isinstance(tx, gx.pair):
        pytest.skip("declared: Optax lays out its own state")
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    specs = {"w": ("x", "y"), "u": ("y", "x"), "c": (None, "x"), "whole": (None, None)}

    def check(init, *batch):
        def put(*spec, dtype=jnp.float32):
            shape, sharding = (*batch, 8, 8), NamedSharding(mesh, PartitionSpec(*[None] * len(batch), *spec))
            return jax.device_put(jnp.full(shape, jnp.nan, dtype), sharding)

        params = {name: put(*spec) for name, spec in specs.items()}
        if not any(isinstance(piece, REAL) for piece in walk(tx)):  # of real matrices
            params["complex"] = put("x", "y", dtype=jnp.complex64)
        for path, slot in leaves_by_path(jax.jit(init)(params).slots).items():
            p = params.get(path.rpartition("/")[2])
            of_a_side = {base.__name__ for base in BASES} & {*path.split("/")}  # square, with one axis of the parameter
            if p is not None and slot.shape in (p.shape, (*p.shape, 2)) and not of_a_side:
                shards = [x.addressable_shards[0].data.shape[: p.ndim] for x in (slot, p)]
                assert shards[0] == shards[1], path

    for context in (jax.set_mesh(mesh), contextlib.nullcontext()):
        with context:
            check(tx.init)
            if not isinstance(tx, MEASURING):  # JAX: no batched `cond` on an explicit mesh, and a norm needs one
                check(jax.vmap(tx.init), 3)


@pytest.mark.parametrize("name", [name for name in gx.optimizers.__all__ if name in CASES])
def test_gradients_of_any_scale_have_finite_updates(name):
    needs = [x for x in inspect.signature(getattr(gx, name)).parameters.values() if x.default is x.empty]
    tx, params = CASES[name][0].tx if needs else getattr(gx, name)(), params_of()
    for size in (1e-38, 1e-30, 1e-24, 1e-15, 1e10, 1e18):
        sized = partial(jax.tree.map, lambda g, size=size: jnp.where(jnp.abs(g) > 1, g, size * jnp.sign(g)))
        out, _ = follow(tx, params, map(sized, stream(params, 3)))
        assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(out)), size


@pytest.mark.parametrize("name", [name for name in gx.optimizers.__all__ if name in CASES])
def test_a_gradient_of_very_different_coordinates_has_finite_updates(name):
    needs = [x for x in inspect.signature(getattr(gx, name)).parameters.values() if x.default is x.empty]
    tx, params = CASES[name][0].tx if needs else getattr(gx, name)(), {"w": jnp.ones((2, 2))}
    out, _ = follow(tx, params, [{"w": jnp.array([[1e18, 1.0], [0.0, 1e-6]])}] * 3)
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(out))


@each_part
@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
def test_within_shard_map_a_piece_is_exact_or_refuses_shards(case, check_vma):
    tx = case.tx
    if isinstance(tx, (gx.shard_state, gx.offload, gx.in_shard_map)):
        pytest.skip("declared: it places its state itself; tests/distributed")
    params = {"w": jnp.arange(64.0).reshape(16, 4) / 64}
    g = next(stream(params))
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("x"), PartitionSpec()

    def run(function, *into):
        specs = jax.tree.map(lambda x: rows if x.ndim else whole, into)
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs[:2], check_vma=check_vma))(
            *into
        )

    if measuring(tx) is None:
        assert case.elementwise
        state, update = tx.init(params), partial(tx.update, **extra(tx))
        assert_near(run(update, g, state, params), update(g, state, params))
    else:
        with pytest.raises(ValueError, match="expected whole parameters, got"):
            run(tx.init, params)


# ---------------------------------------------------------------- trees
@each_part
@pytest.mark.usefixtures("eager")
def test_any_tree(case):
    """Lists, tuples, named tuples, dataclasses, None, scalars, Python floats and empty leaves, as a dict of arrays."""
    tx = case.tx
    if any("key" in piece.needs for piece in walk(tx)):
        pytest.skip("declared: a leaf's random numbers depend on its path")
    flat = {"w": jnp.ones((3, 4)), "b": jnp.array(0.5), "e": jnp.zeros((0, 2)), "f": jnp.array(2.0)}

    def nest(t):
        layer = Layer(kernel=t["w"], bias=None)
        return Model(layers=[layer, (t["b"], ())], scale={"f": t["f"], "e": t["e"]})

    def flatten(m):
        return {"w": m.layers[0].kernel, "b": m.layers[1][0], "e": m.scale["e"], "f": m.scale["f"]}

    expected, _ = follow(tx, flat, stream(flat))
    nested = nest({**flat, "f": 2.0})
    if "where='w'" in repr(tx):
        tx = gx.read(repr(tx).replace("where='w'", "where='**/kernel'"))
    got, _ = follow(tx, nested, map(nest, stream(flat)))
    assert_near([flatten(u) for u in got], expected)
    assert all(u.layers[0].bias is None for u in got)


@each_part_tx
@pytest.mark.usefixtures("eager")
def test_trees_without_leaves(tx):
    for empty in ({}, {"a": None}):
        u, state = tx.update(empty, tx.init(empty), empty, **extra(tx))
        assert u == empty and gx.apply_updates(empty, u) == empty
        assert state.step == 1


@each_tx
@pytest.mark.usefixtures("eager")
def test_none_for_a_gradient_leaves_the_leaf_and_its_slots_alone(tx):
    if isinstance(tx, gx.pair):
        pytest.skip("declared: Optax maps over trees of one structure")
    params = {"b": jnp.ones(4), "w": jnp.ones((3, 4))}
    first, second = stream(params, 2)
    _, state = follow(tx, params, [first])
    u, after = tx.update({**second, "b": None}, state, params, **extra(tx))
    assert u["b"] is None and (gx.apply_updates(params, u)["b"] == params["b"]).all()

    def of(state, name):
        return {k: x for k, x in leaves_by_path(state.slots).items() if k.endswith("/" + name)}

    chex.assert_trees_all_equal(of(after, "b"), of(state, "b"))
    chex.assert_trees_all_equal_structs(after, state)
    alone, _ = follow(tx, {"w": params["w"]}, [{"w": first["w"]}, {"w": second["w"]}])
    if not any(isinstance(piece, (gx.clip_by_global_norm, gx.sam, *MEASURING)) for piece in walk(tx)):
        assert_near(u["w"], alone[-1]["w"])


@each_part_tx
@pytest.mark.usefixtures("eager")
def test_float0_gradients_of_integers_pass_through(tx):
    params = {"w": jnp.ones((3, 4)), "n": jnp.arange(3)}
    g = jax.grad(lambda p: jnp.sum(p["w"] ** 2 * p["n"][2].astype(float)), allow_int=True)(params)
    state = tx.init(params)
    u, _ = tx.update(g, state, params, **extra(tx))
    assert u["n"].dtype == jax.dtypes.float0
    alone = {"w": params["w"]}
    assert_near(u["w"], tx.update({"w": g["w"]}, tx.init(alone), alone, **extra(tx))[0]["w"])
    assert (gx.apply_updates(params, u)["n"] == params["n"]).all()


@each_part
@pytest.mark.usefixtures("eager")
def test_complex_numbers_are_pairs_of_reals(case):
    if case.tx.outermost:
        pytest.skip("declared: it goes outermost, and here it would be inside")
    if isinstance(case.tx, gx.pair):
        pytest.skip("declared: another library's transformation sees the pairs and may have a policy of its own")
    if any(isinstance(piece, REAL) for piece in walk(case.tx)):
        pytest.skip("declared: pairs are no matrix, and it refuses them")
    if any(isinstance(piece, READING_AXES) or getattr(piece, "over", "leaf") != "leaf" for piece in walk(case.tx)):
        pytest.skip("declared: it depends on the axes of the leaf, of which pairs have one more")
    tx = gx.chain(gx.identity(), case.tx)
    z = {"w": jnp.array([[1 + 2j, -3 + 0.5j]], jnp.complex64)}
    pairs = {"w": jnp.array([[[1.0, 2.0], [-3.0, 0.5]]])}
    a, state = follow(tx, z, [z, z])
    b, _ = follow(tx, pairs, [pairs, pairs])
    for u, v in zip(a, b):
        assert u["w"].dtype == jnp.complex64
        assert_near(jnp.stack([u["w"].real, u["w"].imag], -1), v["w"])
    assert all(not jnp.iscomplexobj(x) for x in jax.tree.leaves(state))
    assert gx.apply_updates(z, a[0])["w"].dtype == jnp.complex64


@each
@pytest.mark.usefixtures("eager")
def test_permuting_renaming_and_splitting_leaves(case):
    """Bit for bit, except for norms; elementwise pieces do not depend on the split into leaves."""
    tx = case.tx
    if "where='w'" in repr(tx):
        pytest.skip("declared: it names a leaf")
    if any("key" in piece.needs for piece in walk(tx)):
        pytest.skip("declared: a leaf's random numbers depend on its path")
    params = params_of()
    expected, _ = follow(tx, params, stream(params, 2))

    def arranged(arrange):
        return follow(tx, arrange(params), map(arrange, stream(params, 2)))[0], list(map(arrange, expected))

    assert_near(*arranged(lambda t: {"z": t["b"], "a": t["w"]}), 0 if case.elementwise else 5e-7)
    if case.elementwise:
        assert_near(*arranged(lambda t: {"first": t["w"][:1], "rest": t["w"][1:], "b": t["b"]}), 0)


@each
@pytest.mark.usefixtures("eager")
def test_zero_gradients_give_zero_updates(case):
    params = params_of("float16")
    zeros = jax.tree.map(jnp.zeros_like, params)
    u, _ = follow(case.tx, params, [zeros, zeros])
    assert all(bool((x == 0).all()) for x in jax.tree.leaves(u)) != case.moves_at_rest
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(u))


@each
@pytest.mark.usefixtures("eager")
def test_a_non_finite_gradient_propagates(case):
    """Nothing is hidden without a guard: a NaN in a coordinate is a NaN in its update."""
    if not case.reads_updates:
        pytest.skip("declared: it emits what it is not given")
    if isinstance(case.tx, (gx.skip_nonfinite, gx.skip_if, gx.norm_spike, gx.zero_nonfinite)):
        pytest.skip("declared: it is the guard")
    params = {"w": jnp.ones(3)}
    u, _ = follow(case.tx, params, [{"w": jnp.array([1.0, jnp.nan, 2.0])}])
    assert bool(jnp.isnan(u[0]["w"][1]))
    if case.elementwise:
        assert bool(jnp.isfinite(u[0]["w"][jnp.array([0, 2])]).all())


@each_part_tx
@pytest.mark.usefixtures("eager")
def test_a_saved_state_resumes_bit_exactly(tx):
    params = params_of()
    gradients = list(stream(params))
    straight, _ = follow(tx, params, gradients)
    _, state = follow(tx, params, gradients[:2])
    file = io.BytesIO()
    np.savez(file, **leaves_by_path(state))
    file.seek(0)
    with np.load(file) as saved:
        state, _ = gx.restore(tx, params, saved)
    for g, expected in zip(gradients[2:], straight[2:]):
        u, state = tx.update(g, state, params, **extra(tx))
        chex.assert_trees_all_equal(u, expected)


@each_tx
def test_every_counter_saturates(tx):
    """At 2³¹ − 1 updates, skips and ages, updates are finite and no counter overflows."""
    if isinstance(tx, gx.pair):
        pytest.skip("declared: another library's counts are its own")
    params = params_of()
    last = jnp.int32(2**31 - 1)
    state = jax.tree.map(lambda x: jnp.full_like(x, last) if x.dtype == jnp.int32 else x, tx.init(params))
    for g in stream(params, 2):
        updates, state = tx.update(g, state, params, **extra(tx))
        assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))
        assert all((x >= 0).all() for x in jax.tree.leaves(state) if x.dtype == jnp.int32)


@pytest.mark.parametrize("tx", [gx.accumulate(gx.identity(), 2), gx.every(gx.identity(), 2)])
def test_a_wrapper_with_a_clock_goes_on_at_the_last_step(tx):
    params = params_of()
    state = jax.tree.map(lambda x: jnp.full_like(x, 2**31 - 1) if x.dtype == jnp.int32 else x, tx.init(params))
    emitted = []
    for g in stream(params, 6):
        u, state = tx.update(g, state, params)
        emitted.append(any(bool(x.any()) for x in jax.tree.leaves(u)))
    assert sum(emitted[1:]) >= 2


def test_the_step_saturates():
    tx = gx.chain(gx.adam())
    params = params_of()
    state = tx.init(params)._replace(step=jnp.array(2**31 - 1, jnp.int32))
    assert tx.update(params, state, params)[1].step == 2**31 - 1
