"""Encoded slots: codecs against their definitions in NumPy, and every optimizer of the registry in fewer bits."""

import io
import re
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import ALL, CASES
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near, extra, follow, params_of, stream

import gradtx as gx
from gradtx import codecs
from gradtx.core import Context, leaves_by_path
from gradtx.wrappers import storage

each_codec = pytest.mark.parametrize("codec", codecs.CODECS.values(), ids=lambda codec: type(codec).__name__)
RECIPES = [name for name in gx.optimizers.__all__ if name in CASES]


def numbers(codec, shape=(32, 256), seed=0):
    """Of many orders of magnitude, and of the signs that the codec has."""
    random = np.random.default_rng(seed)
    x = random.standard_normal(shape) * np.exp(2 * random.standard_normal(shape))
    return (x if codec.signed else x * x).astype(np.float32)


# ---------------------------------------------------------------- codecs, by definition, in float64
def grid(codec):
    """All numbers that a codec has for a block with the scale 1, rising."""
    name = type(codec).__name__
    if name == "int8":
        c = np.arange(-127, 128)
        return c * np.abs(c) / 127**2
    if name == "ufloat8":
        e, f = np.divmod(np.arange(1, 249), 8)
        return np.concatenate([[0.0], 2.0 ** (e - 31) * (1 + f / 8)])
    if name == "bfloat16":
        with np.errstate(invalid="ignore"):  # NaN among them
            every = np.arange(2**16, dtype=np.uint16).view(jnp.bfloat16).astype(np.float64)
    else:
        dtype = {"float16": np.float16, "float8_e4m3": jnp.float8_e4m3fn, "float8_e5m2": jnp.float8_e5m2}[name]
        codes = np.arange(2 ** (8 * np.dtype(dtype).itemsize), dtype=f"uint{8 * np.dtype(dtype).itemsize}")
        every = codes.view(dtype).astype(np.float64)
        every = every[np.abs(every) <= codec.most] / codec.most
    return np.unique(every[np.isfinite(every)])


def neighbours(codec, x):
    """The numbers of the codec below and above each number of some blocks."""
    levels = grid(codec)
    scale = 1.0 if isinstance(codec, codecs.bfloat16) else np.abs(x).max(-1, keepdims=True)
    share = x / scale
    low = np.clip(np.searchsorted(levels, share * (1 + 1e-6 * np.sign(share)), side="right") - 1, 0, len(levels) - 2)
    return levels[low] * scale, levels[low + 1] * scale, share


@each_codec
def test_to_the_nearest_it_is_the_nearest_number_of_the_codec(codec):
    x = numbers(codec).astype(np.float64)
    low, high, _ = neighbours(codec, x)
    got = np.asarray(codec.decode(codec.encode(jnp.asarray(x, jnp.float32), None)), np.float64)
    right = np.where(x - low < high - x, low, high)
    tie = np.abs((x - low) - (high - x)) < 1e-4 * (high - low)
    smallest = (right == 0) & (x > 0) & (not codec.signed)  # a positive number stays one
    np.testing.assert_allclose(got[~tie & ~smallest], right[~tie & ~smallest], rtol=3e-6)
    assert (got[smallest] > 0).all()


@each_codec
def test_at_random_it_is_a_neighbour_and_its_mean_is_the_number(codec):
    x, several = numbers(codec, (4, 256)), 2000
    low, high, share = neighbours(codec, x.astype(np.float64))

    def one(key):
        return codec.decode(codec.encode(jnp.asarray(x), jax.random.bits(key, x.shape, jnp.uint32)))

    got = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), several)), np.float64)
    assert (np.abs(got - x) <= 1.001 * (high - low) + 2e-6 * np.abs(x)).all()
    *_, last = (codec.decode(codec.encode(jnp.asarray(y, jnp.float32), None)) for y in got[:3])
    np.testing.assert_allclose(last, got[2], rtol=3e-6)  # it is a number of the codec
    above = share > (0 if codec.signed else 2.0**-30)
    if isinstance(codec, codecs.ufloat8):  # the mean of the fourth root
        x, low, high, got = (np.abs(y) ** 0.25 for y in (x.astype(np.float64), low, high, got))
    gap = high - low
    error = (got.mean(0) - x) / np.where(gap > 0, gap, 1)
    assert np.abs(error[above | codec.signed]).max() < 6 * 0.5 / np.sqrt(several)
    assert np.abs(error[above | codec.signed].mean()) < 6 * 0.5 / np.sqrt(several * x.size)


@each_codec
def test_the_errors_are_within_their_bounds(codec):
    x = numbers(codec)
    name, largest = type(codec).__name__, np.abs(x).max(-1, keepdims=True)
    random = jax.random.bits(jax.random.key(0), x.shape, jnp.uint32)
    relative = {"ufloat8": 1 / 8, "bfloat16": 2**-7, "float16": 2**-10, "float8_e4m3": 1 / 8, "float8_e5m2": 1 / 4}
    for bits, part in ((random, 1), (None, 0.5)):
        error = np.abs(np.asarray(codec.decode(codec.encode(jnp.asarray(x), bits))) - x)
        if name == "int8":
            spacing = (2 * np.sqrt(np.abs(x) / largest) + 1 / 127) / 127
            assert (error <= part * spacing * 1.0001 * largest).all()
        else:
            within = np.abs(x) > largest * {"float8_e4m3": 2**-14, "float8_e5m2": 2**-29}.get(name, 2**-29)
            assert (error <= part * relative[name] * 1.0001 * np.abs(x))[within].all()


@each_codec
def test_edges(codec):
    """Zeros, numbers below those of float32, large ones, and those that are not finite, which stay so."""
    assert not np.asarray(codec.decode(codec.encode(jnp.zeros((2, 8)), None))).any()
    tiny = np.asarray(codec.decode(codec.encode(jnp.full((1, 8), 1e-39), None)))
    assert np.isfinite(tiny).all()
    large = jnp.full((1, 8), 3e38)
    np.testing.assert_allclose(
        codec.decode(codec.encode(large, jnp.full((1, 8), 2**32 - 1, jnp.uint32))), large, rtol=0.01
    )
    for bad in (jnp.nan, jnp.inf):
        got = np.asarray(codec.decode(codec.encode(jnp.ones((1, 8)).at[0, 3].set(bad), None)))
        assert not np.isfinite(got[0, 3])


@each_codec
@pytest.mark.parametrize("shape", [(1,), (7,), (784,), (64, 10), (3, 5, 512), (3, 50257), (2, 1, 1)], ids=str)
def test_any_shape(codec, shape):
    x = numbers(codec, shape)
    kept = codecs.encoded(codec, jnp.asarray(x))
    assert kept.codes.shape == shape and kept.codes.dtype == codec.dtype
    view = codecs.view_of(kept)
    assert view == codecs.blocks_of(shape, 256) and view[-1] <= 256
    assert np.prod(view) - x.size < view[-1]
    got = codecs.decoded(kept)
    assert got.shape == shape
    np.testing.assert_allclose(got, x, atol=np.abs(x).max() / 8 * 1.001)


def test_random_bits_are_uniform_and_differ_by_place_and_start():
    view = (64, 4, 256)
    x = np.asarray(codecs.random_bits(codecs.block_hashes(view, jnp.uint32(5)), 256))
    y = np.asarray(codecs.random_bits(codecs.block_hashes(view, jnp.uint32(6)), 256))
    several = [np.asarray(codecs.bits_for(jnp.asarray(x), i)) for i in range(6)]
    for bits in (*several, y):
        u = bits.ravel() / 2**32
        assert abs(u.mean() - 0.5) < 0.005 and abs(12 * u.var() - 1) < 0.02
        for shift in (1, 256, 1024):
            assert abs(np.corrcoef(u[shift:], u[:-shift])[0, 1]) < 0.02
    for i, a in enumerate((*several, y)):
        for b in several[:i]:
            assert abs(np.corrcoef(a.ravel() / 2**32, b.ravel() / 2**32)[0, 1]) < 0.02


# ---------------------------------------------------------------- one optimizer, by hand
def test_adamw_in_8_bits_is_its_formula_with_rounded_averages():
    tx, shape = gx.store(gx.adamw(1e-2), stochastic=False), (4, 256)
    params = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    state, p = tx.init(params), np.asarray(params, np.float64)
    m = v = np.zeros(shape)
    for t in range(1, 31):
        g = np.random.default_rng(t).standard_normal(shape) * (1 + np.arange(256))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - 1e-2 * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + 1e-2 * p)
        for codec in (codecs.int8(), codecs.ufloat8()):
            x = m if codec.signed else v
            low, high, _ = neighbours(codec, x)
            x = np.where(x - low < high - x, low, high)
            m, v = (x, v) if codec.signed else (m, x)
        params, state = tx.apply(params, state, jnp.asarray(g, jnp.float32))
    off = np.abs(np.asarray(params) - p)
    assert np.quantile(off, 0.98) < 1e-5 and off.max() < 0.02  # a tie rounds to the other side now and then


def test_a_slow_average_moves_although_its_steps_are_less_than_a_level():
    outliers = jnp.arange(0, 4096, 256)  # one in each block, of which the average stays at 1 and so the scale too
    first, then = jnp.zeros(4096).at[outliers].set(1000.0), jnp.ones(4096)
    reached = {}
    for stochastic in (True, False):
        tx = gx.store(gx.scale_by_ema(0.999), stochastic=stochastic)
        _, state = tx.update(first, tx.init(first))
        state, _ = jax.lax.scan(lambda state, _, tx=tx: (tx.update(then, state)[1], None), state, length=1000)
        mean = tx.decoded(state.slots["store"]["inner"], jnp.float32)["scale_by_ema"]["mean"]
        reached[stochastic] = float(jnp.delete(mean, outliers).mean())
    assert abs(reached[True] - (1 - 0.999**1000)) < 0.02
    assert reached[False] < 0.05


def test_the_mean_inverse_root_of_an_average_of_squares_is_right():
    """As large as the step of Adam, over 3,000 updates with b = 0.999 of 16,384 coordinates."""
    tx = gx.store(gx.chain(gx.square(), gx.scale_by_ema(0.999)))
    params = jnp.ones((64, 256))

    def step(carry, key):
        state, exact = carry
        g = jax.random.normal(key, params.shape)
        return (tx.update(g, state)[1], 0.999 * exact + 0.001 * g * g), None

    start = tx.init(params), jnp.zeros(params.shape)
    (state, exact), _ = jax.lax.scan(step, start, jax.random.split(jax.random.key(0), 3000))
    mean = tx.decoded(state.slots["store"]["inner"], jnp.float32)["scale_by_ema"]["mean"]
    assert abs(float((mean**-0.5).mean() / (exact**-0.5).mean()) - 1) < 0.006


# ---------------------------------------------------------------- every optimizer
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("codec", ["8bit", "bfloat16"])
def test_every_optimizer_trains_restores_and_takes_its_bytes(codec, name):
    inner = CASES[name][0].tx
    tx, params = gx.store(inner, codec), params_of()
    gradients = list(stream(params, 3))
    plain, _ = follow(inner, params, gradients)
    update = jax.jit(lambda g, state, params: tx.update(g, state, params, **extra(tx)))
    update = partial(lambda update, *args, **given: update(*args), update)  # functions cannot be passed into it
    out, state = follow(tx, params, gradients, update)
    assert_near(out[0], plain[0], 1e-5)  # rounding shows at the second update
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(out))
    file = io.BytesIO()
    np.savez(file, **leaves_by_path(state))  # pyright: ignore[reportArgumentType]
    file.seek(0)
    restored, report = gx.restore(tx, params, np.load(file))
    chex.assert_trees_all_equal(restored, state)
    assert not report.fresh and not report.dropped
    bare, report = gx.restore(inner, params, state, cast=True)
    assert not report.fresh and not report.dropped
    again, _ = gx.restore(tx, params, bare, cast=True)
    chex.assert_trees_all_equal_shapes_and_dtypes(again, state)
    encoded = [x for x in jax.tree.leaves(state.slots, is_leaf=codecs.is_encoded) if codecs.is_encoded(x)]
    shown = "(int8)" in str(gx.summary(tx, params)) or "(ufloat8)" in str(gx.summary(tx, params))
    assert shown == (bool(encoded) and codec == "8bit")
    assert bool(encoded) == any(True for _ in storage.ranges(inner))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("name, codec", [("adamw", "8bit"), ("lion", "bfloat16"), ("muon", "8bit")])
def test_sharded_is_single_device(name, axis_type, codec, monkeypatch):
    monkeypatch.setattr(storage, "PART", 2**11)  # two parts of a leaf, and of each device's piece
    tx = gx.store(CASES[name][0].tx, codec)
    shapes = {"rows": (32, 256), "columns": (4, 2048), "b": (8,)}
    params = {n: jnp.asarray(np.random.default_rng(0).standard_normal(s), jnp.float32) for n, s in shapes.items()}
    gradients = list(stream(params, 3))
    single, alone = follow(tx, params, gradients, jax.jit(tx.update))
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        spec = {"rows": PartitionSpec("x"), "columns": PartitionSpec(None, "x"), "b": PartitionSpec()}
        put = partial(jax.device_put, device={n: NamedSharding(mesh, s) for n, s in spec.items()})
        params = put(params)
        for init in (tx.init, jax.jit(tx.init)):
            for path, x in leaves_by_path(init(params).slots).items():
                names = path.split("/")
                if len(names) > 1 and names[-2] in params and x.shape == params[names[-2]].shape:
                    assert x.sharding.is_equivalent_to(params[names[-2]].sharding, x.ndim), path
        out, state = follow(tx, params, map(put, gradients), jax.jit(tx.update))
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(single)):  # sums differ in their last digits, and codes then
        assert np.mean(np.abs(np.asarray(a) - np.asarray(b)) > 1e-4 * np.abs(b).max()) < 0.002
    chex.assert_trees_all_equal_shapes_and_dtypes(state, alone)


def nonnegative(tx):
    return any(kind == "nonnegative" for _, kind in storage.ranges(tx))


@pytest.mark.usefixtures("eager")
@pytest.mark.promotes("Optax's arithmetic")
@pytest.mark.parametrize("case", [pytest.param(case, id=name[:-2]) for name, case in ALL if nonnegative(case.tx)])
def test_slots_that_are_declared_to_be_never_negative_never_are(case):
    params = params_of()
    _, state = follow(case.tx, params, stream(params, 3))
    for keys, kind in storage.ranges(case.tx):
        slot = state.slots
        for key in keys:
            slot = slot.get(key, {})
        assert kind in ("signed", "nonnegative")
        assert kind == "signed" or all((x >= 0).all() for x in jax.tree.leaves(slot)), keys


def test_averages_of_squares_are_declared_to_be_never_negative():
    for tx in (gx.adamw(), gx.amsgrad(), gx.rmsprop(), gx.adagrad(), gx.adamax(), gx.adabelief(), gx.soap(), gx.yogi()):
        kinds = {kind for keys, kind in storage.ranges(tx) if "by" in keys}
        assert kinds == {"nonnegative"}, tx


def test_what_is_declared_elementwise_is():
    for name, case in ALL:
        assert case.elementwise or not storage.is_elementwise(case.tx), name


def test_what_must_stay_exact_stays():
    class keeps(gx.PerLeaf):
        def init_leaf(self, param):
            return {"mine": jnp.zeros_like(param)}

        def update_leaf(self, g, slots, context):
            return g, {"mine": slots["mine"] + g}

    few = gx.reduced(gx.scale_by_ema(0.8), "rows")
    for tx in (keeps(), few, gx.rprop(), gx.cocob(), gx.adafactor(), gx.emit_displacement()):
        params = params_of()
        state = gx.store(tx).init(params)
        assert gx.summary(gx.store(tx), params).bytes == gx.summary(tx, params).bytes
        assert not any(map(codecs.is_encoded, jax.tree.leaves(state, is_leaf=codecs.is_encoded)))
    state = gx.store(gx.schedule_free_adamw()).init(params_of())
    assert {"base", "by"} <= set(re.split("[/ ]", " ".join(leaves_by_path(state))))
    assert state.slots["store"]["inner"]["schedule_free"]["base"]["w"].dtype == jnp.float32


# ---------------------------------------------------------------- parts of a leaf
@pytest.mark.parametrize(
    "name, codec", [("adamw", codec) for codec in storage.NAMED] + [("ademamix", "8bit"), ("acprop", "8bit")]
)
def test_part_by_part_is_the_whole_leaf(name, codec, monkeypatch):
    tx = gx.store(CASES[name][0].tx, codec)
    assert storage.is_elementwise(tx.inner)
    shapes = {"w": (48, 512), "flat": (200, 10), "odd": (3, 1009), "b": (4096,), "stack": (3, 16, 256)}
    params = {n: jnp.asarray(np.random.default_rng(0).standard_normal(s), jnp.float32) for n, s in shapes.items()}
    gradients = list(stream(params, 3))
    made = {}
    for part in (2**10, 2**30):
        monkeypatch.setattr(storage, "PART", part)
        jax.clear_caches()
        made[part] = follow(tx, params, gradients, jax.jit(tx.update))
    monkeypatch.setattr(storage, "is_elementwise", lambda tx: False)
    jax.clear_caches()
    made[0] = follow(tx, params, gradients, jax.jit(tx.update))
    for part in (2**30, 0):  # compiled otherwise, so the last digits differ, and a code now and then
        for a, b in zip(jax.tree.leaves(made[part][0]), jax.tree.leaves(made[2**10][0])):
            assert np.mean(np.abs(a - b) > 1e-4 * np.abs(b).max()) < 0.01
        for a, b in zip(jax.tree.leaves(made[part][1]), jax.tree.leaves(made[2**10][1])):
            assert np.mean(np.asarray(a) != np.asarray(b)) < (0.01 if a.dtype != jnp.float32 else 1.1)


@pytest.mark.parametrize("codec, bound", [("8bit", 0.3), ("bfloat16", 0.3)])
def test_a_step_makes_no_copy_of_the_slots_in_float32(codec, bound):
    params = {f"w{i}": jax.ShapeDtypeStruct((1024, 512), jnp.float32) for i in range(8)}
    tx = gx.store(gx.adamw(1e-3), codec)
    state = jax.eval_shape(tx.init, params)
    step = jax.jit(tx.apply, donate_argnums=(0, 1)).lower(params, state, params).compile()
    memory: Any = step.memory_analysis()
    assert memory.temp_size_in_bytes <= bound * 4 * 8 * 1024 * 512


# ---------------------------------------------------------------- transformations of jax, wrappers
def _swapped(pair):
    return pair[1], pair[0]


def test_jit_scan_vmap_and_donation():
    tx, params = gx.store(gx.adamw(1e-2)), params_of()
    gradients = list(stream(params, 4))
    expected, state = follow(tx, params, gradients)
    rows = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
    last, out = jax.lax.scan(lambda s, g: _swapped(tx.update(g, s, params)), tx.init(params), rows)
    assert_near(jax.tree.map(lambda x: x[3], out), expected[3], 1e-5)
    both = jax.tree.map(lambda x: jnp.stack([x, -x]), params)
    states, made = jax.vmap(tx.init)(both), None
    for g in gradients:
        made, states = jax.vmap(tx.update)(jax.tree.map(lambda x: jnp.stack([x, -x]), g), states, both)
    assert_near(jax.tree.map(lambda x: x[0], made), expected[3], 1e-5)
    donated = jax.jit(tx.update, donate_argnums=(1,))
    assert_near(follow(tx, params, gradients, donated)[0], expected, 1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(last, state)


def test_random_bits_are_of_the_step_the_path_the_seed_and_the_key():
    params = {"a": jnp.linspace(-1, 1, 512), "b": jnp.linspace(-1, 1, 512)}

    def codes(tx, step=0, **key):
        state = tx.init(params)._replace(step=jnp.asarray(step, jnp.int32))
        mean = tx.update(params, state, **key)[1].slots["store"]["inner"]["scale_by_ema"]["mean"]
        return np.asarray(mean["a"].codes), np.asarray(mean["b"].codes)

    tx = gx.store(gx.scale_by_ema(0.9))
    first = codes(tx)
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(first, codes(tx))
    others = [codes(tx, 1), codes(gx.store(gx.scale_by_ema(0.9), seed=1))]
    others += [codes(tx, key=jax.random.key(i)) for i in range(2)]
    for i, other in enumerate(others):
        assert all((other[0] != x[0]).any() for x in (first, *others[:i]))


@pytest.mark.parametrize("codec", ["8bit", "bfloat16", "float16", "float8"])
def test_laws(codec):
    params = {"w": jnp.linspace(-1, 1, 512).reshape(2, 256), "b": jnp.linspace(0.5, 2, 4)}
    for tx in (gx.adamw(0.1), gx.lamb(0.1))[: 2 if codec == "8bit" else 1]:
        gx.check_laws(gx.store(tx, codec), params, bound=0.02)


def test_evaluation_parameters_are_those_of_the_inner_wrapper():
    params = params_of()
    for inner in (gx.schedule_free(gx.adam(b1=0.0)), gx.lookahead(gx.adam(), 2), gx.average_params(gx.adam(), 0.8)):
        tx = gx.store(inner)
        state, plain = tx.init(params), inner.init(params)
        (u, state), (_, plain) = tx.update(params, state, params), inner.update(params, plain, params)
        new = gx.apply_updates(params, u)
        assert_near(gx.eval_params(tx, state, new), gx.eval_params(inner, plain, new))
    assert gx.eval_params(gx.store(gx.adam()), gx.store(gx.adam()).init(params), params) is not None


def test_inside_a_basis_averages_turn():
    params = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((6, 4)), jnp.float32)}
    adam, basis = gx.precondition(gx.momentum(0.8), by=gx.rms(0.8)), gx.eigenbasis(every_k=1)
    gradients = list(stream(params, 5))
    plain, _ = follow(gx.in_basis(adam, basis), params, gradients)
    inside, _ = follow(gx.in_basis(gx.store(adam, "bfloat16"), basis), params, gradients)
    outside, _ = follow(gx.store(gx.in_basis(adam, basis), "bfloat16"), params, gradients)
    assert_near(inside, plain, 0.03)
    assert_near(outside, plain, 0.03)


def test_a_leaf_without_a_gradient_keeps_its_codes():
    tx, params = gx.store(gx.adamw()), params_of()
    _, state = tx.update(params, tx.init(params), params)
    u, after = tx.update({"w": params["w"], "b": None}, state, params)
    assert u["b"] is None
    means = [s.slots["store"]["inner"]["precondition"]["by"]["scale_by_ema"]["mean"] for s in (state, after)]
    for name in params:
        before, new = (np.asarray(mean[name].scale) for mean in means)
        assert (before == new).all() == (name == "b")


@pytest.mark.parametrize("part", [2**10, 2**30])
def test_the_optimizer_inside_sees_its_own_paths_and_float32(part, monkeypatch):
    monkeypatch.setattr(storage, "PART", part)
    tx = gx.store(gx.adamw(1e-2, weight_decay=0.5, where="decays"))
    params = {"decays": jnp.ones((16, 256), jnp.bfloat16), "not": jnp.ones((16, 256), jnp.bfloat16)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    u, _ = tx.update(zeros, tx.init(params), params)
    assert (u["decays"] == jnp.bfloat16(-0.005)).all() and not u["not"].any()


# ---------------------------------------------------------------- choices
@pytest.mark.promotes("Optax's arithmetic")
def test_codecs_by_patterns_and_parameters_by_where():
    params = params_of()
    tx = gx.store(gx.adamw(), {"**/by/**": "bfloat16", "**/w": codecs.int8(64), "**": None})
    state = tx.init(params)
    kept = {path.rpartition("/")[2] for path in leaves_by_path(state)}
    assert {"bfloat16", "int8", "scale", "b"} <= kept and "ufloat8" not in kept
    state = gx.store(gx.adamw(), where="w").init(params)
    means = state.slots["store"]["inner"]["precondition"]["by"]["scale_by_ema"]["mean"]
    assert codecs.is_encoded(means["w"]) and means["b"].dtype == jnp.float32
    tx = gx.store(optax.adam(1e-3), {"**/mu/**": codecs.int8(), "**/nu/**": codecs.ufloat8()})
    state = tx.init(params)
    assert gx.summary(tx, params).bytes < 80
    _, state = tx.update(params, state, params)


class int4(codecs.int8):
    """A codec whose encoded arrays would be decoded by another."""


def test_errors():
    params = params_of()
    with pytest.raises(TypeError, match=r"codec must be a codec of gx.codecs, got int4\(\), a subclass of one"):
        gx.store(gx.adam(), int4())
    with pytest.raises(
        ValueError, match="codec must be '8bit', 'bfloat16', 'float16', 'float8' or a codec, got '4bit'"
    ):
        gx.store(gx.adam(), "4bit")
    with pytest.raises(TypeError, match="a name, a codec, or a dict of these by patterns of slots, got 8"):
        gx.store(gx.adam(), 8)
    with pytest.raises(ValueError, match=r"numbers of any sign for the slot 'precondition/direction/.*got ufloat8"):
        gx.store(gx.adam(), codecs.ufloat8()).init(params)
    with pytest.raises(ValueError, match=r"the pattern '\*\*/nowhere', which is the first for no slot of"):
        gx.store(gx.adam(), {"**/nowhere": "8bit"}).init(params)
    with pytest.raises(ValueError, match="where='v' chooses no parameter"):
        gx.store(gx.adam(), where="v").init(params)


def test_restore_converts_and_reports():
    params = params_of()
    txs = {"plain": gx.adamw()} | {codec: gx.store(gx.adamw(), codec) for codec in storage.NAMED}
    for name, tx in txs.items():
        _, state = follow(tx, params, stream(params, 3))
        for other, new in txs.items():
            if other == name:
                continue
            with pytest.raises(ValueError, match="pass cast=True to convert it"):
                gx.restore(new, params, state)
            got, report = gx.restore(new, params, state, cast=True)
            several = 2 if {name, other} == {"8bit", "float8"} else 4  # both have ufloat8
            assert len(report.converted) == several and not report.fresh and not report.dropped
            near = gx.restore(gx.adamw(), params, got, cast=other != "plain")[0]
            exact = gx.restore(gx.adamw(), params, state, cast=name != "plain")[0]
            assert_near(near, exact, 0.13)
    grown = {"w": jnp.ones((5, 4)), "b": jnp.ones(4)}
    _, state = follow(txs["8bit"], params, stream(params, 3))
    got, report = gx.restore(txs["8bit"], grown, state, grow=True)
    assert report.converted and not report.fresh


def test_the_random_bits_of_each_step_and_seed_differ():
    def start(step, seed):
        context = Context(jnp.asarray(step, jnp.int32), None, {})
        made = gx.store(gx.adam(), seed=seed)._start(context)
        assert made is not None
        return int(made)

    assert len({start(step, seed) for step in range(8) for seed in range(8)}) == 64
