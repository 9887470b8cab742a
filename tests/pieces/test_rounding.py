"""Parameters of low precision: each method of adding to them, against NumPy in float64."""

import io
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near, bits, extra, follow, member, of_bits, params_of, stream

import gradtx as gx
from gradtx.core import leaves_by_path
from gradtx.pieces.rounding import nearest

low = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
KEY = jax.random.key(5)
INNER = gx.chain(gx.running_sum(0.0), gx.scale(-0.125))  # of which no compiler makes other numbers
WAYS = {
    "master_weights": gx.master_weights(INNER),
    "kahan_summation": gx.chain(INNER, gx.kahan_summation()),
    "stochastic_rounding": gx.chain(INNER, gx.stochastic_rounding()),
}
each_way = pytest.mark.parametrize("tx", WAYS.values(), ids=WAYS)


def rounded(x, dtype):
    """By NumPy, in float64."""
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(jnp.dtype(dtype)).astype(np.float64)


# ---------------------------------------------------------------- to the nearest
@low
def test_nearest_is_numpys_conversion(dtype):
    random = np.random.default_rng(0)
    x = random.standard_normal(20_000) * 2.0 ** random.integers(-40, 20, 20_000)
    halves = (np.arange(4000) + 0.5) * 2.0 ** random.integers(-36, 8, 4000)
    edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.9, 65520, 1e30, -1e30, 2.0**-24, 2.0**-25, 2.0**-14]
    x = np.concatenate([x, halves, -halves, edges]).astype(np.float32)
    for f in (nearest, jax.jit(nearest, static_argnums=1)):
        np.testing.assert_array_equal(np.asarray(f(jnp.asarray(x), dtype), np.float64), rounded(x, dtype))
    slopes = jax.vmap(jax.grad(lambda x: nearest(x, dtype)))(jnp.array([0.3, 1e-6, 0.0]))
    assert (slopes == 1).all()


# ---------------------------------------------------------------- at random
def landed(p, g, dtype, draws):
    """The values to which p + g rounds: a row of draws for each."""
    params = jnp.broadcast_to(jnp.asarray(p, dtype)[:, None], (len(p), draws))
    tx = gx.stochastic_rounding()
    u, _ = tx.update(jnp.broadcast_to(jnp.asarray(g)[:, None], params.shape), tx.init(params), params, key=KEY)
    return np.asarray(gx.apply_updates(params, u), np.float64)


@low
def test_it_rounds_to_the_two_neighbours_and_is_unbiased(dtype):
    """Within 4 standard errors, where rounding to nearest is off by 10 or more; at powers of 2 too."""
    with np.errstate(invalid="ignore"):
        grid = np.arange(1 << 16, dtype=np.uint16).view(jnp.dtype(dtype)).astype(np.float64)
    grid = np.unique(grid[np.isfinite(grid)])
    starts = rounded([1.0, -1.0, 1.5, 3e-3, -0.75, 1e-5], dtype)
    distance = grid[np.searchsorted(grid, starts) + 1] - starts
    shares = np.array([0.01, -0.01, 0.25, 0.4, -0.7, -3.3, 5.5])
    p = np.repeat(starts, len(shares))
    g = np.outer(distance, shares).ravel().astype(np.float32)
    got, exact = landed(p, g, dtype, 20_000), p + g
    at = np.searchsorted(grid, exact)
    below, above = grid[at - 1][:, None], grid[at][:, None]
    assert ((got == below) | (got == above)).all()
    chance = (exact[:, None] - below) / (above - below)
    error = ((above - below) * np.sqrt(chance * (1 - chance) / got.shape[1])).ravel()
    away = np.abs(got.mean(1) - exact)
    assert (away <= 4 * error).all()
    assert (np.abs(rounded(exact, dtype) - exact) > 10 * error).all()


@low
def test_a_zero_update_never_moves_a_parameter_and_a_whole_one_always_does(dtype):
    p = jnp.asarray(np.random.default_rng(0).standard_normal(50_000), dtype)
    tx = gx.stochastic_rounding()
    for q in (p, jnp.nextafter(p, jnp.asarray(9, dtype))):
        g = q.astype(jnp.float32) - p.astype(jnp.float32)
        u, _ = tx.update(g, tx.init(p), p, key=KEY)
        assert (gx.apply_updates(p, u) == q).all()


def test_an_update_below_the_precision_of_float32_still_counts():
    """1 + 2⁻²⁵ is 1 in float32; of 2²² parameters of float16 about 128 move to 1 + 2⁻¹⁰."""
    got = landed([1.0], [2.0**-25], "float16", 2**22)
    assert abs(np.sum(got == 1 + 2.0**-10) - 128) < 4 * 128**0.5
    assert np.sum(got == 1) == got.size - np.sum(got > 1)


def test_draws_of_leaves_steps_and_keys_are_independent_and_differ_from_add_noise():
    tx = gx.stochastic_rounding()
    params = {"a": jnp.ones(20_000, "bfloat16"), "b": jnp.ones(20_000, "bfloat16")}
    g = jax.tree.map(lambda p: jnp.full(p.shape, 2.0**-8), params)  # half the distance
    state = tx.init(params)
    first, later = tx.update(g, state, params, key=KEY)
    second, _ = tx.update(g, later, params, key=KEY)
    other, _ = tx.update(g, state, params, key=jax.random.key(6))
    noisy = gx.add_noise(1.0)
    noise, _ = noisy.update(g, noisy.init(g), key=KEY)
    for x in (first["b"], second["a"], other["a"], noise["a"]):
        assert abs(jnp.corrcoef(first["a"], x)[0, 1]) < 0.03
    chex.assert_trees_all_equal(tx.update(g, state, params, key=KEY)[0], first)


def test_it_needs_a_key_and_the_parameters():
    tx, p = gx.stochastic_rounding(), jnp.ones(2, "bfloat16")
    with pytest.raises(ValueError, match="stochastic_rounding needs the argument 'key'"):
        tx.update(p, tx.init(p), p)
    with pytest.raises(TypeError, match="stochastic_rounding: key must be one random key"):
        tx.update(p, tx.init(p), p, key=jnp.ones(3))
    for tx in (gx.kahan_summation(), gx.master_weights(gx.sgd())):
        with pytest.raises(ValueError, match=f"{type(tx).__name__} needs the parameters"):
            tx.update(p, tx.init(p))


# ---------------------------------------------------------------- Kahan summation
@low
@pytest.mark.parametrize("same", [True, False])
def test_a_parameter_and_its_compensation_are_the_sum_of_all_updates(dtype, same):
    """Through zero too, where an update in the parameter's dtype cannot hold each step: c holds the rest."""
    random, steps, size = np.random.default_rng(0), 2000, 64
    start = np.asarray(rounded(random.standard_normal(size), dtype))
    gradients = rounded(random.standard_normal((steps, size)) * 0.02 - 0.003 * np.sign(start), dtype)
    tx, eps = gx.kahan_summation(), float(jnp.finfo(dtype).eps)
    updates_dtype = dtype if same else "float32"

    def step(carry, g):
        params, state = carry
        u, state = tx.update(g, state, params)
        params = gx.apply_updates(params, u)
        return (params, state), (bits(params), bits(state.slots["kahan_summation"][f"of_{dtype}"]))

    params = jnp.asarray(start, dtype)
    _, (params, lost) = jax.lax.scan(step, (params, tx.init(params)), jnp.asarray(gradients, updates_dtype))
    params, lost = of_bits(params, dtype), eps * of_bits(lost, dtype)
    away = np.diff(params + lost, axis=0, prepend=start[None]) - gradients
    assert (np.abs(away) <= eps / 2 * np.abs(lost) + 2.0**-24 * np.abs(params) + 1e-10).all()  # c is rounded, once
    moved = np.abs(np.diff(params, axis=0, prepend=start[None]))
    assert (np.abs(lost) <= eps * (np.abs(params) / 2 + moved)).all()
    assert np.sum(params[1:] * params[:-1] < 0) > 100


# ---------------------------------------------------------------- all three
@each_way
def test_only_low_precision_parameters_have_a_state(tx):
    """0 bytes for float32; otherwise 4 with master weights, 2 with Kahan summation, 0 with stochastic rounding."""
    params = {"f": jnp.ones(8), "b": jnp.ones(8, "bfloat16"), "h": jnp.ones(8, "float16"), "n": None}
    params |= {"i": jnp.arange(8), "e": jnp.ones((0, 2), "bfloat16")}
    held = gx.summary(tx, params).bytes - gx.summary(INNER, params).bytes
    each = {"master_weights": 4, "kahan_summation": 2}.get(next(n for n, x in WAYS.items() if x is tx), 0)
    assert held == 16 * each
    wide = {"f": params["f"], "n": None}
    assert gx.summary(tx, wide).bytes == gx.summary(INNER, wide).bytes


@each_way
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float32_and_float64_parameters_are_unaffected(tx, dtype, x64):
    params = params_of(dtype)
    gradients = list(stream(params))
    got, state = follow(tx, params, gradients)
    expected, plain = follow(INNER, params, gradients)
    chex.assert_trees_all_equal(got, expected)
    slots = state.slots.get("master_weights", {"inner": state.slots})["inner"]
    chex.assert_trees_all_equal(slots, plain.slots)


def walk_through(tx, params, gradients, update=None):
    """The parameters after each step, and the last state."""
    state, out = tx.init(params), []
    for g in gradients:
        u, state = (update or tx.update)(g, state, params, **extra(tx))
        params = gx.apply_updates(params, u)
        out.append(params)
    return out, state


@each_way
@low
@pytest.mark.parametrize("same", [True, False])
def test_all_ways_to_run_agree_in_low_precision(tx, dtype, same):
    """Bit by bit: eager, jitted, scanned, donated, resumed, and one of many in vmap."""
    params = params_of(dtype)
    gradients = list(stream(params if same else params_of()))
    expected, state = walk_through(tx, params, gradients)
    with jax.disable_jit():
        chex.assert_trees_all_equal(walk_through(tx, params, gradients), (expected, state))

    def step(carry, g):
        params, state = carry
        u, state = tx.update(g, state, params, **extra(tx))
        params = gx.apply_updates(params, u)
        return (params, state), params

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
    (_, last), scanned = jax.lax.scan(step, (params, tx.init(params)), stacked)
    chex.assert_trees_all_equal((scanned, last), (jax.tree.map(lambda *x: jnp.stack(x), *expected), state))

    donating: Any = jax.jit(step, donate_argnums=0)
    carry = params_of(dtype), tx.init(params)
    for i, g in enumerate(gradients):
        carry, _ = donating(carry, g)
        if i == 2:  # saved and loaded
            leaves, structure = jax.tree.flatten(carry)
            np.savez(file := io.BytesIO(), *[np.asarray(x).view(f"u{x.dtype.itemsize}") for x in leaves])
            with np.load(io.BytesIO(file.getvalue())) as saved:
                saved = [jnp.asarray(saved[name].view(x.dtype)) for name, x in zip(saved, leaves)]
            carry = jax.tree.unflatten(structure, saved)
    chex.assert_trees_all_equal(carry, (expected[-1], state))

    many = jax.tree.map(lambda x: jnp.stack([x, -2 * x]), (params, gradients))
    got = jax.vmap(lambda params, gradients: walk_through(tx, params, gradients))(*many)
    for i in range(2):
        chex.assert_trees_all_equal(member(got, i), walk_through(tx, *member(many, i)))


@each_way
@pytest.mark.usefixtures("eager")
def test_a_leaf_without_a_gradient_and_its_slots_do_not_change(tx):
    params = params_of("bfloat16")
    first, second = stream(params, 2)
    (moved,), state = walk_through(tx, params, [first])
    u, after = tx.update({**second, "b": None}, state, moved, **extra(tx))
    assert u["b"] is None

    def of_b(state):
        return {path: x for path, x in leaves_by_path(state.slots).items() if path.endswith("/b")}

    chex.assert_trees_all_equal(of_b(after), of_b(state))
    chex.assert_trees_all_equal_structs(after, state)
    for empty in ({}, {"a": None}, {"e": jnp.zeros((0, 3), "bfloat16")}):
        chex.assert_trees_all_equal(tx.update(empty, tx.init(empty), empty, **extra(tx))[0], empty)


@each_way
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_is_single_device_and_slots_are_sharded_as_their_parameter(tx, axis_type):
    params = {"w": jnp.arange(64.0, dtype="bfloat16").reshape(16, 4) / 64, "b": jnp.ones(3)}
    (g,) = stream(params, 1)
    single, _ = walk_through(tx, params, [g])
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        spec = {"w": NamedSharding(mesh, PartitionSpec("x")), "b": NamedSharding(mesh, PartitionSpec())}
        params, g = jax.device_put((params, g), (spec, spec))
        for init in (tx.init, jax.jit(tx.init)):
            for slot in jax.tree.leaves(init(params).slots):
                if slot.shape == (16, 4):
                    assert slot.sharding.is_equivalent_to(spec["w"], 2)
        chex.assert_trees_all_equal(walk_through(tx, params, [g])[0], single)


@each_way
def test_groups_each_see_their_own_parameters(tx):
    params = params_of("bfloat16")
    gradients = list(stream(params))
    got, _ = walk_through(gx.partition({"w": tx}, default=gx.sgd(0.1)), params, gradients)
    alone, _ = walk_through(tx, {"w": params["w"]}, [{"w": g["w"]} for g in gradients])
    assert_near([p["w"] for p in got], [p["w"] for p in alone], 0)


def test_the_derivative_of_training_ignores_the_rounding():
    params = params_of("bfloat16")
    gradients = list(stream(params_of()))

    def moved(rate, put):
        tx = put(gx.sgd(rate, 0.9))
        out, _ = follow(tx, params, gradients)
        return sum(jnp.sum(x) for x in jax.tree.leaves(out))

    for put in (
        gx.master_weights,
        lambda tx: gx.chain(tx, gx.kahan_summation()),
        lambda tx: gx.chain(tx, gx.stochastic_rounding()),
    ):
        assert jnp.isfinite(jax.grad(moved)(0.1, put)) and jax.grad(moved)(0.1, put) != 0
    one = jax.grad(moved)(0.1, lambda tx: gx.chain(tx, gx.stochastic_rounding()))
    assert_near(one, jax.grad(moved)(0.1, lambda tx: tx))
