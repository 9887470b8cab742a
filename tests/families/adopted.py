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


ADAM = gx.adam(0.3, 0.5, 0.9, 1e-3)

CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "hyperball": [
        {"inner": gx.sgd()},
        {"inner": ADAM, "learning_rate": 0.1},
        {"inner": gx.sgd(7.0), "learning_rate": 1.0},
    ],
}
LAWS = {
    "hyperball sees no constant rate of its inner optimizer": (
        gx.hyperball(gx.momentum(0.8), 0.1),
        gx.hyperball(gx.chain(gx.momentum(0.8), gx.scale(7.0)), 0.1),
    ),
}
