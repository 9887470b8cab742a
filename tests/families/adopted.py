"""Optimizers that were adopted in 2025 and 2026, each against its formula."""

from collections.abc import Callable
from itertools import count, tee
from typing import Any

import numpy as np
from numpy import ndarray, sqrt
from numpy.linalg import norm
from references import Gradients, Steps, adam, divide, sgd

import gradtx as gx

BIAS, KERNEL = slice(0, 5), slice(5, None)


def hyperball(gradients: Gradients, w: ndarray, inner: Any, learning_rate=1e-2) -> Steps:
    """Around plain descent or ADAM, leaf by leaf."""
    leaves, radii = (BIAS, KERNEL), [norm(w[BIAS]), norm(w[KERNEL])]
    directions = adam(gradients, 1.0, 0.5, 0.9, 1e-3) if inner == ADAM else (-g for g in gradients)
    for a in directions:
        step = np.zeros_like(w)
        for leaf, radius in zip(leaves, radii):
            moved = w[leaf] + learning_rate * radius * a[leaf] / norm(a[leaf])
            step[leaf] = radius * moved / norm(moved) - w[leaf]
        yield step


def adam_atan2(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-3,
    b1=0.9,
    b2=0.999,
    weight_decay=0.0,
    where: Any = 1,
    scale=1.27,
    width=1.0,
) -> Steps:
    m, v = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        angle = np.arctan2(m / (1 - b1**t), width * sqrt(v / (1 - b2**t)))
        yield -learning_rate * (scale * angle + weight_decay * where * w)


ADAM = gx.adam(0.3, 0.5, 0.9, 1e-3)

DECAY = {"weight_decay": 0.3, "where": {"bias": False, "kernel": True}}
CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "adam_atan2": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "scale": 2.0, "width": 3.0},
        {"b2": 0.99, "width": 0.5} | DECAY,
    ],
    "hyperball": [
        {"inner": gx.sgd()},
        {"inner": ADAM, "learning_rate": 0.1},
        {"inner": gx.sgd(7.0), "learning_rate": 1.0},
    ],
}
rate = 0.03
CURVED = {"adam_atan2": True}
LAWS = {
    "adam_atan2 sees no scale": (gx.chain(gx.scale(1e-12), gx.adam_atan2(rate)), gx.adam_atan2(rate)),
    "adam_atan2 without averages is a sign": (
        gx.adam_atan2(rate, b1=0.0, b2=0.0, scale=4.0),
        gx.sign_sgd(rate * np.pi),
    ),
    "adam_atan2 of a large width is Adam without ε": (
        gx.adam_atan2(rate, scale=1e6, width=1e6),
        gx.adam(rate, eps=0.0),
    ),
    "hyperball sees no constant rate of its inner optimizer": (
        gx.hyperball(gx.momentum(0.8), 0.1),
        gx.hyperball(gx.chain(gx.momentum(0.8), gx.scale(7.0)), 0.1),
    ),
}
