"""Clipping: no limit, by unit, and by the running average of the norm."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx as gx

CLIPS = {c.__name__: c for c in (gx.clip, gx.clip_by_norm, gx.clip_by_global_norm, gx.clip_by_rms)}


# ---------------------------------------------------------------- no limit
@pytest.mark.parametrize("unlimited", [None, math.inf, np.float32(np.inf)])
@pytest.mark.parametrize("name", CLIPS)
def test_without_a_limit_nothing_is_clipped(name, unlimited):
    tx, g = CLIPS[name](unlimited), {"w": jnp.array([1e30, -1e38]), "b": jnp.array([jnp.nan, jnp.inf])}
    assert tx == CLIPS[name](None) and repr(tx) == f"{name}(None)" and gx.read(f"{name}(inf)") == tx
    assert jax.tree.leaves(tx) == [] and gx.hyperparameters(tx) == {}
    u, _ = tx.update(g, tx.init(g))
    for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(g)):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", CLIPS)
def test_a_limit_that_is_a_schedule_may_end(name):
    tx, g = CLIPS[name](lambda step: jnp.where(step < 1, 0.5, jnp.inf)), jnp.array([3.0])
    state = tx.init(g)
    first, state = tx.update(g, state)
    assert (float(first[0]), float(tx.update(g, state)[0][0])) == (0.5, 3.0)


def test_hyperparameters_beside_a_clip_without_a_limit_can_be_set():
    tx = gx.chain(gx.clip_by_global_norm(None), gx.sgd(0.1))
    assert gx.set_hyperparameters(tx, {"learning_rate": 0.2}) == gx.chain(gx.clip_by_global_norm(None), gx.sgd(0.2))


# ---------------------------------------------------------------- by unit
SHAPES = {"scalar": (), "bias": (7,), "dense": (5, 7), "heads": (5, 3, 7), "kernel": (3, 3, 5, 7)}
AXES = {"heads": "in in out", "kernel": "in in in out"}


def leaves_of(seed, size=1.0):
    random = np.random.default_rng(seed)
    return {name: size * random.standard_normal(shape) for name, shape in SHAPES.items()}


def clipped_by_unit(g, w, ratio, floor):
    """Equation 3 of the paper, one unit at a time."""
    if g.ndim < 2:
        return g * min(1, ratio * max(np.linalg.norm(w), floor) / np.linalg.norm(g))
    out = np.empty_like(g)
    for j in range(g.shape[-1]):
        most = ratio * max(np.linalg.norm(w[..., j]), floor)
        out[..., j] = g[..., j] * min(1, most / np.linalg.norm(g[..., j]))
    return out


@pytest.mark.parametrize(("ratio", "floor", "size"), [(0.01, 1e-3, 1.0), (0.5, 3.0, 0.1), (1.0, 1e-3, 1e-30)])
def test_units_are_clipped_by_the_norm_of_their_weights(ratio, floor, size, x64):
    g, w = leaves_of(0, size), leaves_of(1, size)
    tx = gx.layout(gx.adaptive_clip(ratio, floor), AXES)
    u, _ = tx.update(jax.tree.map(jnp.asarray, g), tx.init(w), jax.tree.map(jnp.asarray, w))
    for name in SHAPES:
        np.testing.assert_allclose(u[name], clipped_by_unit(g[name], w[name], ratio, floor), rtol=1e-13)


@pytest.mark.promotes("Optax's arithmetic")
def test_adaptive_clip_is_optax_s_except_for_three_axes():
    g, w = (jax.tree.map(jnp.float32, leaves_of(seed)) for seed in (0, 1))
    theirs: Any = optax.adaptive_grad_clip(0.3)
    tx = gx.layout(gx.adaptive_clip(0.3), AXES)
    ours, expected = tx.update(g, tx.init(w), w)[0], theirs.update(g, theirs.init(w), w)[0]
    for name in SHAPES:
        assert np.allclose(ours[name], expected[name], rtol=1e-6) == (name != "heads")


def test_the_units_of_pytorch_s_layout_are_rows():
    g, w = (jnp.float32(leaves_of(seed)["dense"]) for seed in (0, 1))
    one, other = gx.adaptive_clip(0.3), gx.layout(gx.adaptive_clip(0.3), "out in")
    np.testing.assert_allclose(one.update(g, one.init(w), w)[0].T, other.update(g.T, other.init(w.T), w.T)[0], 1e-6)


def test_units_without_weights_move_and_a_nan_stays_in_its_unit():
    tx, w = gx.adaptive_clip(0.01, floor=1.0), jnp.zeros((2, 3))
    g = jnp.array([[3.0, 0.0, jnp.nan], [4.0, 0.0, 1.0]])
    u, _ = tx.update(g, tx.init(w), w)
    np.testing.assert_allclose(u, [[0.006, 0.0, np.nan], [0.008, 0.0, np.nan]], rtol=1e-6)
    with pytest.raises(ValueError, match="adaptive_clip: the axes of 'heads' are in doubt"):
        tx.init({"heads": jnp.zeros((2, 3, 4))})


# ---------------------------------------------------------------- by the running average
def zclip(gradients, threshold=2.5, decay=0.97, warmup=25):
    """Algorithm 1 of the paper: the mean and the variance of a warmup, then exponential averages of clipped norms."""
    norms, mean, variance = [], 0.0, 0.0
    for t, g in enumerate(gradients):
        norm = np.linalg.norm(g)
        if t < warmup:
            norms.append(norm)
            yield g
            continue
        if t == warmup:
            mean, variance = np.mean(norms), np.var(norms)
        clipped = norm
        z = (norm - mean) / np.sqrt(variance)
        if z > threshold:
            clipped = mean + threshold * np.sqrt(variance) / (z / threshold)
        mean = decay * mean + (1 - decay) * clipped
        variance = decay * variance + (1 - decay) * (clipped - mean) ** 2
        yield g * clipped / norm


@pytest.mark.parametrize("arguments", [{}, {"threshold": 1.0, "decay": 0.9, "warmup": 2}, {"decay": 0.5}])
def test_zclip_is_its_algorithm(arguments, x64):
    random = np.random.default_rng(0)
    gradients = random.standard_normal((300, 12)) * np.exp(random.standard_normal((300, 1)))
    gradients[[40, 41, 200]] *= 1e3
    tx = gx.zclip(**arguments)
    start = tx.init({"a": jnp.zeros(5), "b": jnp.zeros(7)})

    def step(state, g):
        u, state = tx.update({"a": g[:5], "b": g[5:]}, state)
        return state, jnp.concatenate([u["a"], u["b"]])

    got = jax.lax.scan(step, start, jnp.asarray(gradients))[1]
    expected = np.array([*zclip(gradients, **arguments)])
    np.testing.assert_allclose(got, expected, rtol=1e-11)
    assert np.linalg.norm(expected[40]) < 1e-2 * np.linalg.norm(gradients[40])


def test_a_norm_that_is_not_finite_is_left_to_a_guard():
    tx: Any = gx.skip_nonfinite(gx.chain(gx.zclip(warmup=1), gx.sgd(1.0)))
    bare = gx.zclip(warmup=1)
    state, after = bare.init(jnp.zeros(2)), None
    _, state = bare.update(jnp.ones(2), state)
    for bad in (jnp.nan, jnp.inf):
        u, after = bare.update(jnp.array([1.0, bad]), state)
        assert not jnp.isfinite(u[1]) and u[0] == 1
        assert after.slots == state.slots
    state = tx.init(jnp.zeros(2))
    for g, expected in ((1.0, -1.0), (jnp.nan, 0.0), (1.0, -1.0)):
        u, state = tx.update(jnp.full(2, g), state)
        assert u.tolist() == [expected] * 2


# ---------------------------------------------------------------- coordinates that are not finite
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_exactly_the_coordinates_that_are_not_finite_become_0(dtype):
    bad = [np.nan, np.inf, -np.inf, 1.0, -2.0, 0.0]
    g = jnp.asarray(bad, dtype)
    u, _ = gx.zero_nonfinite().update({"w": g, "n": None}, gx.zero_nonfinite().init({"w": g, "n": jnp.arange(2)}))
    assert u["w"].tolist() == [0, 0, 0, 1, -2, 0] and u["w"].dtype == dtype and u["n"] is None
    if dtype == "complex64":
        u, _ = gx.zero_nonfinite().update(g + 1j, gx.zero_nonfinite().init(g))
        assert u.tolist() == [1j, 1j, 1j, 1 + 1j, -2 + 1j, 1j]
