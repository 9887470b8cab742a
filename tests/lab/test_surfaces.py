import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx
from gradtx.lab import SURFACES, Surface, descend


def slopes(function, w, h=1e-4):
    """The gradient and the Hessian's eigenvalues by central differences, in NumPy."""
    e = h * np.eye(2)
    gradient = [(function(w + d) - function(w - d)) / (2 * h) for d in e]
    hessian = [
        [(function(w + a + b) - function(w + a - b) - function(w - a + b) + function(w - a - b)) for a in e] for b in e
    ]
    return np.array(gradient), np.linalg.eigvalsh(np.array(hessian) / (4 * h * h))


@pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)
def test_minima_are_minima_in_the_picture_the_lowest_first(surface):
    heights = [surface.function(np.array(w, float)) for w in surface.minima]
    assert heights[0] == pytest.approx(min(heights), abs=1e-9)
    for w in surface.minima:
        gradient, curvatures = slopes(surface.function, np.array(w, float))
        assert np.abs(gradient).max() < 1e-4 and curvatures.min() > 1e-3
    for x, y in (surface.start, *surface.minima):
        assert surface.xlim[0] < x < surface.xlim[1] and surface.ylim[0] < y < surface.ylim[1]
    assert surface.function(np.array(surface.start)) > heights[0]


def test_saddle_has_a_saddle_and_the_shallow_minimum_is_one():
    gradient, curvatures = slopes(SURFACES["saddle"].function, np.zeros(2))
    assert np.abs(gradient).max() < 1e-6 and curvatures == pytest.approx([-1, 1], abs=1e-4)
    valley, (deep, shallow) = SURFACES["local_minimum"].function, SURFACES["local_minimum"].minima
    assert valley(np.array(deep)) < 1e-6 and 1 < valley(np.array(shallow)) < valley(np.zeros(2))


@pytest.mark.parametrize("tx", [gx.sgd(0.02), gx.adam(0.1)], ids=["sgd", "adam"])
def test_the_path_equals_a_plain_loop(tx):
    surface = SURFACES["saddle"]
    w = jnp.asarray(surface.start)
    state, way = tx.init(w), [w]
    gradient = jax.jit(jax.grad(surface.function))
    for _ in range(20):
        updates, state = tx.update(gradient(w), state, w)
        way.append(w := w + updates)
    np.testing.assert_allclose(descend(surface, tx, 20), np.stack(way), rtol=1e-5, atol=1e-7)


class told(gx.Transformation):
    """Newton's step if all extra arguments are right; else NaN."""

    needs = ("params", "value", "key", "grad_fn", "hvp")

    def update_tree(self, updates, slots, context):
        w, extra = context.params, context.extra
        hessian = jax.vmap(extra["hvp"])(jnp.eye(2))
        right = jnp.allclose(extra["grad_fn"](w), updates) & jnp.allclose(
            extra["grad_fn"](w + 1), updates + hessian.sum(0)
        )
        jax.random.normal(extra["key"])
        return jnp.where(right, -jnp.linalg.solve(hessian, updates), jnp.nan), slots


def quadratic(w):
    return (w[0] ** 2 + 3 * w[1] ** 2) / 2


def test_a_piece_receives_the_functions_of_the_noisy_loss():
    surface = Surface(quadratic, ((0, 0),), (1.0, 1.0), (-2, 2), (-2, 2), "own", noise=0.0)
    np.testing.assert_allclose(descend(surface, told(), 1)[1], 0, atol=1e-6)
    way = descend(surface._replace(noise=1.0), told(), 50)
    assert np.isfinite(way).all() and np.abs(way[1:]).mean() > 0.1


class value_times(gx.PerLeaf):
    needs = ("value",)

    def update_leaf(self, g, slots, context):
        return -g * context.extra["value"], slots


def test_the_value_is_the_loss_before_the_step_and_a_pair_receives_its_arguments():
    surface = Surface(quadratic, ((0, 0),), (1.0, 0.0), (-2, 2), (-2, 2), "own")
    assert descend(surface, value_times(), 1)[1].tolist() == [0.5, 0.0]
    other = (lambda params: (), lambda g, state, params, value: (-g * value, state))
    assert descend(surface, other, 1)[1].tolist() == [0.5, 0.0]


def test_noise_has_its_scale_and_depends_on_its_key():
    flat = Surface(lambda w: 0.0 * w.sum(), (), (0.0, 0.0), (-1, 1), (-1, 1), "flat", noise=2.0)
    steps = np.diff(descend(flat, gx.sgd(1.0), 2000), axis=0)
    assert steps.std(axis=0) == pytest.approx([2, 2], rel=0.1) and abs(steps.mean()) < 0.2
    assert abs(np.corrcoef(steps.T)[0, 1]) < 0.1
    ways = [descend(flat, gx.sgd(1.0), 5, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(ways[0], ways[1]) and not np.allclose(ways[0], ways[2])


class asks(gx.PerLeaf):
    needs = ("labels",)


BOWL = SURFACES["bowl"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: descend("bowl", gx.sgd()), r"surface must be a Surface, such as SURFACES\['bowl'\], got 'bowl'"),  # pyright: ignore
        (lambda: descend(BOWL, 0.1), "tx must be a transformation or a pair"),  # pyright: ignore
        (lambda: descend(BOWL, gx.sgd(), 0), "steps must be an integer, 1 or more, got 0"),
        (lambda: descend(BOWL, gx.sgd(), 2.0), "steps must be an integer, 1 or more, got 2.0"),  # pyright: ignore
        (lambda: descend(BOWL, gx.sgd(), start=(1, 2, 3)), r"start must be two numbers, got an array of shape \(3,\)"),
        (lambda: descend(BOWL, asks()), "asks needs the argument 'labels', which a surface does not give"),
    ],
)
def test_errors(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
