"""Hutchinson's estimate: unbiased, with a vector of signs for each step and leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import assert_near

import gradtx as gx

key = jax.random.key(0)


def estimate(params, hvp, key=key, step=0, spatial=None):
    tx = gx.hessian_diagonal(spatial)
    state = tx.init(params)._replace(step=jnp.asarray(step, jnp.int32))
    return tx.update(params, state, params, hvp=hvp, key=key)[0]


def signs(params, key=key, step=0):
    """The z that hvp is called with."""
    seen = []
    estimate(params, lambda v: seen.append(v) or v, key, step)
    return seen[0]


def test_the_mean_over_steps_is_the_diagonal_with_the_variance_of_the_rest():
    half = np.random.default_rng(0).standard_normal((7, 7))
    hessian = jnp.asarray(half + half.T, jnp.float32)
    steps = 4000
    w = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}

    def flat(tree):
        return jnp.concatenate([tree["a"], tree["b"].ravel()])

    def hvp(v):
        product = hessian @ flat(v)
        return {"a": product[:3], "b": product[3:].reshape(2, 2)}

    every = jax.vmap(lambda step: flat(estimate(w, hvp, step=step)))(jnp.arange(steps))
    variance = jnp.sum(hessian**2, 1) - jnp.diag(hessian) ** 2
    error = jnp.abs(every.mean(0) - jnp.diag(hessian)) / jnp.sqrt(variance / steps)
    assert error.max() < 5 and error.max() > 0
    assert jnp.abs(every.var(0) / variance - 1).max() < 0.15


def test_the_signs_are_of_the_key_the_step_and_the_leaf():
    params = {"a": jnp.zeros(200), "b": jnp.zeros(200)}
    z = signs(params)
    for x in jax.tree.leaves(z):
        assert set(np.asarray(x)) == {-1.0, 1.0} and abs(x.mean()) < 0.4
    others = [z["b"], signs(params, step=1)["a"], signs(params, jax.random.key(1))["a"]]
    for other in others:
        assert abs(float(z["a"] @ other)) < 80  # 200 if alike
    again = signs({"a": params["a"], "c": jnp.zeros(3)})  # whatever other leaves there are
    assert (again["a"] == z["a"]).all()
    old = signs(params, jax.random.PRNGKey(0))
    assert (old["a"] == z["a"]).all()


SHAPES = [  # of a leaf, and the axes over which the kernel's estimate is one
    ((3, 2, 5, 4), (0, 1), (2, 3)),
    ((3, 5, 4), (0,), (2,)),
    ((5, 4), (), ()),
    ((4,), (), ()),
    ((), (), ()),
    ((0, 2, 3, 4), (0, 1), (2, 3)),
]


@pytest.mark.parametrize("shape, first, last", SHAPES)
def test_a_convolutions_kernel_has_one_curvature_over_its_spatial_axes(shape, first, last):
    curvature = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    for spatial, axes in (("first", first), ("last", last)):
        got = estimate(jnp.zeros(shape), lambda v: curvature * v, spatial=spatial)
        expected = jnp.broadcast_to(curvature.mean(axes, keepdims=True), shape) if curvature.size else curvature
        assert_near(got, expected)
    assert_near(estimate(jnp.zeros(shape), lambda v: curvature * v), curvature)


@pytest.mark.parametrize("spatial", ["middle", 0, True, ("first",)])
def test_a_bad_position(spatial):
    with pytest.raises(ValueError, match=r"^hessian_diagonal: spatial must be 'first' or 'last', got"):
        gx.hessian_diagonal(spatial)  # pyright: ignore[reportArgumentType]


POWERS = [(0.5, 4.0, 2.0), (0.0, 4.0, 1.0), (0.0, 0.0, 1.0), (0.5, 0.0, 0.0), (1.0, -1.0, 0.0), (2.0, 3.0, 9.0)]


@pytest.mark.parametrize("exponent, size, expected", POWERS)
def test_powers(exponent, size, expected):
    def value(tx, g):
        return tx.update(g, tx.init(g))[0]

    tx, g = gx.power(exponent), jnp.array(size)
    assert_near(value(tx, g), jnp.array(expected))
    assert all(bool(jnp.isfinite(x)) for x in jax.tree.leaves(jax.grad(value, (0, 1))(tx, g)))
    assert jnp.isnan(value(tx, jnp.array(jnp.nan))) or exponent == 0
