"""Cautious weight decay against its formula in NumPy."""

from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import SIZE, gradient_stream, reference_steps, steps_of, worst_error

import gradtx as gx

NOISE = gradient_stream(1000, seed=5)


def cautious_adamw(gradients, w, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, where: Any = 1):
    """Algorithm 1 of the paper, around Adam: no decay where it pulls against the step."""
    m, v = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        u = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        yield -learning_rate * (u + weight_decay * where * w * (u * w >= 0))


@pytest.mark.parametrize("curvature", [0.0, np.logspace(-2, 1, SIZE)], ids=["flat", "curved"])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"learning_rate": 0.01, "b1": 0.5, "weight_decay": 0.5}, {"b2": 0.9, "eps": 1e-3, "weight_decay": 1.0}],
)
def test_cautious_decay_is_its_formula(x64, arguments, curvature):
    rest = {"learning_rate": 1e-3, "weight_decay": 0.01} | arguments
    rate, decay = (rest.pop(name) for name in ("learning_rate", "weight_decay"))
    direction = gx.precondition(
        gx.momentum(rest.pop("b1", 0.9)), by=gx.rms(rest.pop("b2", 0.999)), **{"eps": 1e-8} | rest
    )
    tx = gx.chain(direction, gx.add_weight_decay(decay, cautious=True), gx.scale_by_learning_rate(rate))
    expected = reference_steps(cautious_adamw, NOISE, curvature, **arguments)
    assert worst_error(jax.jit(steps_of)(tx, NOISE, curvature), expected) <= 1e-12
    plain = gx.chain(direction, gx.add_weight_decay(decay), gx.scale_by_learning_rate(rate))
    assert worst_error(jax.jit(steps_of)(plain, NOISE, curvature), expected) > 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_cautious_decay_compares_signs_at_any_scale(scale):
    g, w = scale * jnp.array([1.0, -1.0, 1.0, 0.0]), scale * jnp.array([1.0, 1.0, -1.0, 1.0])
    tx = gx.add_weight_decay(0.5, cautious=True)
    assert jnp.allclose(tx.update(g, tx.init(w), w)[0] / scale, jnp.array([1.5, -1.0, 1.0, 0.5]))
