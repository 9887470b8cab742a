"""AdaHessian and Sophia. The Hessian is diagonal here, so z ⊙ (H·z) is its diagonal for every z of ±1."""

from itertools import count
from typing import Any

import numpy as np
from numpy import ndarray, sqrt
from references import Gradients, Steps, divide

import gradtx as gx


def adahessian(
    gradients: Gradients,
    w: ndarray,
    hvp: Any,
    learning_rate=0.15,
    b1=0.9,
    b2=0.999,
    eps=1e-4,
    hessian_power=1.0,
    diagonal: Any = None,
) -> Steps:
    """The paper's algorithm 1, with the ε of its code; k is read from `diagonal` if it is an `every`."""
    m, v, h, every_k = 0.0, 0.0, 0.0, getattr(diagonal, "every_k", 1)
    for t, g in zip(count(1), gradients):
        h = hvp(np.ones_like(w)) if t % every_k == 1 % every_k else h
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * h**2
        yield -learning_rate * divide(m / (1 - b1**t), sqrt(v / (1 - b2**t)) ** hessian_power + eps)


def sophia(
    gradients: Gradients,
    w: ndarray,
    hvp: Any,
    learning_rate=1e-4,
    b1=0.96,
    b2=0.99,
    gamma=0.01,
    eps=1e-12,
    weight_decay=0.2,
    where: Any = 1,
    every_k=10,
    diagonal: Any = None,
) -> Steps:
    """The paper's algorithm 3."""
    m, h = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        if t % every_k == 1 % every_k:
            h = b2 * h + (1 - b2) * hvp(np.ones_like(w))
        step = np.clip(divide(m, np.maximum(gamma * h, eps)), -1, 1)
        yield -learning_rate * (step + weight_decay * where * w)


CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "adahessian": [
        {},
        {"learning_rate": 0.05, "b1": 0.5, "b2": 0.9, "eps": 1e-2, "hessian_power": 0.5},
        {"learning_rate": 0.01, "b2": 0.99, "hessian_power": 0.0, "eps": 0.0},
        {"b2": 0.99, "diagonal": gx.every(gx.hessian_diagonal(), 7)},
    ],
    "sophia": [
        {},
        {"learning_rate": 1e-2, "b1": 0.5, "b2": 0.9, "gamma": 10.0, "eps": 1e-3, "every_k": 1},
        {"gamma": 1.0, "eps": 0.1, "every_k": 3, "weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
    ],
}

CURVED = {"adahessian": True, "sophia": True}

rate = 0.03
LAWS = {  # where functions are given, they are those of the loss ½‖θ‖²
    "adahessian of curvature 1 is momentum": (
        gx.adahessian(rate, eps=0.0),
        gx.chain(gx.momentum(0.9), gx.scale_by_learning_rate(rate)),
    ),
    "adahessian of power 0 is momentum": (
        gx.adahessian(rate, hessian_power=0.0, eps=0.0, diagonal=gx.scale(0.0)),
        gx.chain(gx.momentum(0.9), gx.scale_by_learning_rate(rate)),
    ),
    "adahessian of gradients is adam": (gx.adahessian(rate, eps=1e-8, diagonal=gx.identity()), gx.adam(rate)),
    "sophia without curvature is signum": (gx.sophia(rate, 0.9, gamma=0.0, weight_decay=0.0), gx.signum(rate, 0.9)),
    "sophia that never clips is averaged momentum": (
        gx.sophia(rate, 0.9, gamma=0.0, eps=10.0, weight_decay=0.0),
        gx.averaged_momentum(rate / 10, 0.9),
    ),
    "sophia of curvature 1, known at once, is Newton's step": (
        gx.sophia(rate, 0.0, 0.0, gamma=10.0, weight_decay=0.0),
        gx.sgd(rate / 10),
    ),
    "the bowl's diagonal is 1": (gx.hessian_diagonal(), gx.chain(gx.scale(0.0), gx.add_constant(1.0))),
    "a half power of squares is the absolute": (gx.chain(gx.square(), gx.power(0.5)), gx.abs()),
    "a power of 1 changes nothing": (gx.chain(gx.square(), gx.power(1.0)), gx.square()),
    "every update is the transformation": (gx.every(gx.adam(rate), 1), gx.adam(rate)),
    "every without a memory repeats": (gx.every(gx.emit_params(), 3), gx.emit_params()),
    "sam without a radius sees the gradient at the parameters": (
        gx.sam(gx.adam(rate), radius=0.0),
        gx.chain(gx.emit_params(), gx.adam(rate)),
    ),
    "asam of one width is sam": (gx.asam(gx.adam(rate), radius=3e-7, eps=1e6), gx.sam(gx.adam(rate), radius=0.3)),
}
