"""Mechanic against its algorithm in NumPy, and with several inner optimizers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import SIZE, gradient_stream, reference_steps, steps_of, worst_error

import gradtx as gx
from gradtx.pieces.formulas import hypot

CURVATURE = np.logspace(-2, 1, SIZE)
NOISE = gradient_stream(1000, seed=1)
run = jax.jit(steps_of)


def reference(gradients, w, learning_rate, tuners=6, initial_value=1e-6, weight_decay=1e-2, eps=1e-8):
    """With SGD inside; w = w₀ + s·displacement, which w itself would round."""
    betas = 1 - 0.1 ** np.arange(1, tuners + 1)
    way, old = np.zeros_like(w), np.zeros_like(w)
    s, r, m, v = (np.zeros(tuners) for _ in range(4))
    for g in gradients:
        pulled = g + weight_decay * s.sum() * np.linalg.norm(g) / (np.linalg.norm(w) + eps) * w
        h = -way @ pulled
        r = betas * r + np.clip(h, -m, m) * s
        m = np.maximum(betas * m, abs(h) + eps)
        v = betas**2 * v + h**2
        s = (initial_value / tuners * m + np.maximum(r, 0)) / (np.sqrt(v) + eps)
        way = way - learning_rate * g
        yield s.sum() * way - old
        old = s.sum() * way


@pytest.mark.parametrize(
    "arguments",
    [
        {"learning_rate": 1.0},
        {"learning_rate": 0.01, "tuners": 2, "initial_value": 1e-3, "weight_decay": 0.0},
        {"learning_rate": 0.1, "tuners": 3, "initial_value": 1e-4, "weight_decay": 0.1, "eps": 1e-3},
    ],
)
def test_mechanic_is_its_algorithm(x64, arguments):
    own = {name: x for name, x in arguments.items() if name != "learning_rate"}
    steps = run(gx.mechanic(gx.sgd(arguments["learning_rate"]), **own), NOISE, CURVATURE)
    assert worst_error(steps, reference_steps(reference, NOISE, CURVATURE, **arguments)) <= 1e-12


def test_a_scale_of_the_rate_is_undone(x64):
    """From the same first step, both find the same rate."""
    own: dict[str, Any] = {"initial_value": 1e-3, "weight_decay": 0.0, "eps": 1e-8}
    larger: dict[str, Any] = {"initial_value": 1e-3 / 4, "weight_decay": 0.0, "eps": 4e-8}
    steps = run(gx.mechanic(gx.sgd(1.0), **own), NOISE[:100], CURVATURE)
    assert worst_error(run(gx.mechanic(gx.sgd(4.0), **larger), NOISE[:100], CURVATURE), steps) <= 1e-9


def test_tuners():
    for tuners in (0, -1, 2.0, True, None):
        with pytest.raises((TypeError, ValueError), match="mechanic: tuners must be an integer, 1 or more, got"):
            gx.mechanic(gx.sgd(), tuners=tuners)  # pyright: ignore[reportArgumentType]
    slots = gx.mechanic(gx.sgd(), tuners=2).init(jnp.ones(3)).slots["mechanic"]
    assert sorted(slots) == ["running_sum", "tuner_1", "tuner_2"]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_hypotenuse_of_any_sign_and_scale(scale):
    a, b = np.meshgrid([-4.0, -3.0, 0.0, 3.0], [-4.0, 0.0, 1.0, 4.0])
    of_numpy = np.hypot(scale * a, scale * b)
    np.testing.assert_allclose(hypot(jnp.float32(scale * a), jnp.float32(scale * b)), of_numpy, rtol=1e-6)
