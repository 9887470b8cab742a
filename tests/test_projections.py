"""Projections: the nearest point of the set, against another method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx


def project(tx, x, dtype: type = np.float64):
    with jax.enable_x64(dtype == np.float64):
        x = jnp.asarray(x, dtype)
        return np.asarray(tx.update(x, tx.init(x))[0])


def by_bisection(x, total):
    """The simplex's nearest point, with its threshold between the two that are surely too low and too high."""
    x = x - x.max()
    low, high = -total, 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(x - middle, 0).sum() > total else (low, middle)
    return np.maximum(x - high, 0)


points = [
    *(np.random.default_rng(0).standard_normal((3, 4)) * 10.0**power for power in range(-3, 4)),
    np.random.default_rng(9).standard_cauchy(1000),
    np.ones(7),
    -np.arange(50.0),
    np.repeat([1.0, 0.5], 20),
    np.array(3.0),
    2.0 ** -np.arange(60.0),
]


@pytest.mark.parametrize("x", points)
@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
def test_the_nearest_point(x, size):
    onto_simplex = project(gx.projections.simplex(size), x)
    assert np.allclose(onto_simplex, by_bisection(x, size), rtol=0, atol=1e-11 * size)
    onto_ball = project(gx.projections.l1_ball(size), x)
    inside = np.abs(x).sum() <= size
    expected = x if inside else np.sign(x) * by_bisection(np.abs(x), size)
    assert np.allclose(onto_ball, expected, rtol=0, atol=1e-11 * size)
    assert np.allclose(project(gx.clip_by_norm(size), x), x * min(1, size / np.linalg.norm(x)), rtol=1e-14)
    assert (project(gx.projections.box(-size, 2 * size), x) == np.clip(x, -size, 2 * size)).all()


SETS = [gx.projections.simplex(0.7), gx.projections.l1_ball(0.7), gx.clip_by_norm(0.7), gx.projections.box(-0.25, 0.7)]


@pytest.mark.parametrize("tx", SETS)
def test_projecting_is_idempotent_and_not_expansive(tx):
    x, y = np.random.default_rng(0).standard_normal((2, 30))
    once = project(tx, x)
    assert np.allclose(project(tx, once), once, atol=1e-15)
    assert np.linalg.norm(once - project(tx, y)) <= np.linalg.norm(x - y)


@pytest.mark.parametrize("tx", SETS)
@pytest.mark.parametrize("x", [np.zeros((0, 3)), np.zeros(4), np.full(3, np.nan), np.array([1.0, np.nan, 2.0])])
def test_nothing_zeros_and_nan(tx, x):
    out = project(tx, x)
    assert out.shape == x.shape and (np.isnan(out) >= np.isnan(x)).all()
    assert np.isfinite(out).all() == np.isfinite(x).all()


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e6, 1e30])
def test_the_simplex_in_float32_beside_large_coordinates(size):
    x = np.array([size, size * 0.9, -size, size], np.float32)
    got = project(gx.projections.simplex(1.0), x, np.float32)
    assert abs(got.sum(dtype=np.float64) - 1) < 1e-6
    assert np.allclose(got, by_bisection(x.astype(np.float64), 1.0), atol=1e-6)


@pytest.mark.parametrize("tx", [gx.projections.simplex(0.7), gx.projections.l1_ball(0.7)])
def test_derivatives_equal_finite_differences(tx, x64):
    x, v = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9)))
    f = lambda x, total: type(tx)(total).update(x, tx.init(x))[0]  # noqa: E731
    _, got = jax.jvp(f, (x, 0.7), (v, 0.3))
    differences = (f(x + 1e-6 * v, 0.7 + 0.3e-6) - f(x - 1e-6 * v, 0.7 - 0.3e-6)) / 2e-6
    assert np.allclose(got, differences, atol=1e-8)
    assert np.allclose(jax.vjp(f, x, 0.7)[1](v)[0], jax.jacobian(f)(x, 0.7).T @ v)


@pytest.mark.parametrize("tx", SETS[:2])
def test_many_at_once(tx):
    many = jnp.asarray(np.random.default_rng(0).standard_cauchy((5, 40)), jnp.float32)
    of_one = lambda x: tx.update(x, tx.init(x))[0]  # noqa: E731
    assert np.allclose(jax.vmap(of_one)(many), jnp.stack([of_one(x) for x in many]), atol=1e-6)


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda: gx.projections.box(1.0, 0.0), "box: low must be at most high, got 1.0 and 0.0"),
        (lambda: gx.projections.simplex(0.0), "simplex: total must be a finite number above 0"),
        (lambda: gx.projections.l1_ball(-1.0), "l1_ball: radius must be a finite number above 0"),
        (lambda: gx.clip_by_norm(-1.0), "clip_by_norm: max_norm must be a finite number above 0"),
    ],
)
def test_bad_input(act, words):
    with pytest.raises(ValueError, match=words):
        act()


def test_each_layer_keeps_its_norm_and_zeros_stay():
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.standard_normal((2, 3, 4)) * [[[1.0]], [[50.0]]]), "bias": jnp.zeros(4)}
    tx = gx.layout(gx.hyperball(gx.adam(), 0.5), {"kernel": "batch in out"})
    state, norms = tx.init(params), np.linalg.norm(params["kernel"], axis=(1, 2))
    for _ in range(3):
        g = {"kernel": jnp.asarray(rng.standard_normal((2, 3, 4)), "float32"), "bias": jnp.ones(4)}
        params, state = tx.apply(params, state, g)
        np.testing.assert_allclose(np.linalg.norm(params["kernel"], axis=(1, 2)), norms, rtol=1e-6)
    assert not np.any(params["bias"])
