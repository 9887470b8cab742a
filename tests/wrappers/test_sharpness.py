"""SAM and ASAM against their formulas, and their invariances."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from references import SIZE, START, as_tree, as_vector, gradient_stream, reference_steps, steps_of, worst_error
from streams import assert_near

import gradtx as gx

NOISE = gradient_stream(1000, seed=4)
CURVATURE = np.logspace(-2, 1, SIZE)


def sam(gradients, grad_fn, w, optimizer, radius=0.05, **arguments):
    def perturbed():
        for g in gradients:
            yield grad_fn(w + radius * g / np.linalg.norm(g))

    return optimizer(perturbed(), **arguments)


def asam(gradients, grad_fn, w, optimizer, radius=0.5, eps=0.01, **arguments):
    def perturbed():
        for g in gradients:
            t = abs(w) + eps
            yield grad_fn(w + radius * t**2 * g / np.linalg.norm(t * g))

    return optimizer(perturbed(), **arguments)


RUNS: list[tuple[Any, Any, Any, Any, dict[str, float], dict[str, float]]] = [
    (gx.sam, sam, gx.sgd, references.sgd, {}, {}),
    (gx.sam, sam, gx.adam, references.adam, {"radius": 2.0}, {"learning_rate": 0.1}),
    (gx.sam, sam, gx.heavy_ball, references.heavy_ball, {"radius": 0.0}, {"decay": 0.5}),
    (gx.asam, asam, gx.sgd, references.sgd, {}, {}),
    (gx.asam, asam, gx.adam, references.adam, {"radius": 2.0, "eps": 0.0}, {"b1": 0.5}),
    (gx.asam, asam, gx.rmsprop, references.rmsprop, {"radius": 0.1, "eps": 1.0}, {"learning_rate": 0.1}),
]


@pytest.mark.parametrize("wrapper, reference, optimizer, inner, own, arguments", RUNS)
def test_wrapper_is_its_formula(x64, wrapper, reference, optimizer, inner, own, arguments):
    steps = jax.jit(steps_of)(wrapper(optimizer(**arguments), **own), NOISE, CURVATURE)
    expected = reference_steps(reference, NOISE, CURVATURE, optimizer=inner, **own, **arguments)
    assert worst_error(steps, expected) <= 1e-12


@pytest.mark.promotes("Optax's arithmetic")
def test_sam_is_optaxs(x64):
    """Optax's opaque mode, whose perturbation is an optimizer's step, and whose grad_fn takes the step number too."""
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.3))
    theirs = optax.contrib.sam(optax.adam(0.1), adversary, opaque_mode=True)

    def steps(tx, call):
        def step(carry, row):
            w, state = carry
            grad_fn = lambda point: as_tree(CURVATURE * as_vector(point) + row)  # noqa: E731
            given = {"grad_fn": grad_fn if call else lambda point, turn: grad_fn(point)}
            u, state = tx.update(as_tree(CURVATURE * w + row), state, as_tree(w), **given)
            return (w + as_vector(u), state), as_vector(u)

        w = jnp.asarray(START)
        return jax.jit(lambda: jax.lax.scan(step, (w, tx.init(as_tree(w))), NOISE[:300])[1])()

    ours = steps(gx.sam(gx.adam(0.1), radius=0.3), True)
    assert worst_error(ours, steps(theirs, False)) <= 1e-12
    # and Optax's as a piece, within a chain
    assert worst_error(ours, steps(gx.chain(theirs), False)) <= 1e-12


def quadratic(w):
    return {"w": jnp.array([1.0, 4.0]) * w["w"]}


both = pytest.mark.parametrize("wrapper", [gx.sam, gx.asam])


@both
def test_a_gradient_of_zero_is_not_perturbed(wrapper):
    w = {"w": jnp.array([3.0, -1.0])}

    def update(tx, g):
        return tx.update({"w": g}, tx.init(w), w, grad_fn=quadratic)[0]["w"]

    tx = wrapper(gx.scale(1.0))
    assert_near(update(tx, jnp.zeros(2)), quadratic(w)["w"])
    slopes = jax.jacobian(update, argnums=(0, 1))(tx, jnp.zeros(2))
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(slopes))
    assert bool(jnp.isnan(update(tx, jnp.array([jnp.nan, 1.0]))).all())


@both
@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e20, 1e37])
def test_a_gradient_of_any_scale_has_its_direction_alone(wrapper, size):
    w, g = {"w": jnp.array([3.0, -1.0])}, jnp.array([0.6, -0.8])
    tx = wrapper(gx.scale(1.0), radius=1.0)
    expected, got = (tx.update({"w": c * g}, tx.init(w), w, grad_fn=quadratic)[0] for c in (1, size))
    assert_near(got, expected, 1e-5)


def test_the_radius_has_its_derivative():
    w, g = {"w": jnp.array([3.0, -1.0])}, {"w": jnp.array([0.6, -0.8])}
    tx = gx.sam(gx.scale(1.0), radius=0.5)
    slope = jax.jacobian(lambda tx: tx.update(g, tx.init(w), w, grad_fn=quadratic)[0]["w"])(tx).radius
    assert_near(slope, jnp.array([0.6, -3.2]))


def test_asam_does_not_see_scales_and_sam_does():
    """For one function of w/s, the gradient is divided by s."""
    scales = jnp.array([1e-2, 10.0])

    def update(tx, s):
        w = {"w": s * jnp.array([3.0, -1.0])}
        gradient = jax.grad(lambda w: jnp.sum(jnp.cosh(w["w"] / s)))
        return s * tx.update(gradient(w), tx.init(w), w, grad_fn=gradient)[0]["w"]

    asam, sam = gx.asam(gx.scale(1.0), eps=0.0), gx.sam(gx.scale(1.0))
    assert_near(update(asam, scales), update(asam, jnp.ones(2)), 1e-5)
    assert jnp.abs(update(sam, scales) - update(sam, jnp.ones(2))).max() > 0.1


def test_the_norm_is_over_all_leaves_that_have_a_gradient():
    w = {"a": jnp.array([1.0]), "b": jnp.array([[2.0]]), "c": jnp.array([5.0])}
    g = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]]), "c": None}
    seen = []

    def grad_fn(params):
        seen.append(params)
        return params

    gx.sam(gx.scale(1.0), radius=1.0).update(g, gx.scale(1.0).init(w), w, grad_fn=grad_fn)
    assert_near(seen[0], {"a": jnp.array([1.6]), "b": jnp.array([[2.8]]), "c": jnp.array([5.0])})


def test_clipping_or_scaling_before_does_not_matter():
    w = {"w": jnp.array([3.0, -1.0])}
    plain, tx = gx.sam(gx.adam()), gx.chain(gx.clip_by_global_norm(1e-3), gx.scale(7.0), gx.sam(gx.adam()))
    expected, got = (x.update(quadratic(w), x.init(w), w, grad_fn=quadratic)[0] for x in (plain, tx))
    assert_near(got, expected, 1e-5)


@pytest.mark.parametrize("wrapper, name", [(gx.sam, "radius"), (gx.asam, "radius"), (gx.asam, "eps")])
@pytest.mark.parametrize("value", [-0.1, float("nan"), "wide", None])
def test_bad_hyperparameters(wrapper, name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{wrapper.__name__}: {name} must be"):
        wrapper(gx.sgd(), **{name: value})
    with pytest.raises(TypeError, match=f"^{wrapper.__name__}: inner must be a transformation"):
        wrapper(0.1)
