"""Optimizers that were adopted in 2025 and 2026, each against its formula."""

from collections.abc import Callable
from itertools import count, tee
from typing import Any

import numpy as np
from numpy import ndarray, sqrt
from numpy.linalg import norm
from references import Gradients, Steps, adam, sgd

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


def sinkgd(
    gradients: Gradients, w: ndarray, learning_rate=1e-3, weight_decay=0.0, default: Any = None, steps=5
) -> Steps:
    """Algorithm 3 on Wᵀ, as PyTorch has it: rows of norm √n, then columns of norm √m."""

    def direction(g):
        x = g.T
        for _ in range(steps):
            x = sqrt(x.shape[1]) * x / norm(x, axis=1, keepdims=True)
            x = sqrt(x.shape[0]) * x / norm(x, axis=0, keepdims=True)
        return x.T

    return with_rest(gradients, w, direction, learning_rate, weight_decay, default)


def scale_sgd(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-3,
    momentum=0.9,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    where: Any = 1,
    heads: Any = (),
) -> Steps:
    mine, again = tee(gradients)
    m = np.zeros((3, 4))
    for g, step in zip(mine, adam(again, 1.0, b1, b2, eps)):
        g = g[KERNEL].reshape(3, 4)
        m = momentum * m + (1 - momentum) * g if heads else g
        u = np.concatenate([step[BIAS], -(m / sqrt(np.mean(m**2, axis=0))).ravel()])
        yield learning_rate * (u - weight_decay * where * w)


def with_rest(
    gradients: Gradients, w: ndarray, direction: Callable[[ndarray], ndarray], rate: float, decay: float, default: Any
) -> Steps:
    """`direction` of the kernel's gradients; of the bias Adam at the same rate, or plain descent whose rate is read."""
    mine, again = tee(gradients)
    others = adam(again, rate) if default is None else sgd(again, default.links[-1].learning_rate)
    for g, step in zip(mine, others):
        u = direction(g[KERNEL].reshape(3, 4)).ravel()
        yield np.concatenate([step[BIAS], -rate * (u + decay * w[KERNEL])])


def gpa(gradients: Gradients, w: ndarray, inner: Any, b1=0.7, decay=0.9967) -> Steps:
    """Around plain descent, whose rate is read; the three sequences of the paper, whose differences lose digits."""
    x = y = z = w.astype(np.longdouble)
    for g in gradients:
        z = z - inner.links[-1].learning_rate * g
        x = decay * x + (1 - decay) * z
        before, y = y, b1 * x + (1 - b1) * z
        yield (y - before).astype(float)


def snoo(gradients: Gradients, w: ndarray, inner: Any, learning_rate=0.68, momentum=0.37, every_k=28) -> Steps:
    """Around plain descent, whose rate is read."""
    slow, v = w.copy(), 0.0
    for t, g in zip(count(1), gradients):
        step = -inner.links[-1].learning_rate * g
        if t % every_k == 0:
            pseudo = slow - (w + step)
            v = momentum * v + pseudo
            slow = slow - learning_rate * (pseudo + momentum * v)
            step = slow - w
        yield step


def lora_plus(gradients: Gradients, w: ndarray, inner: Any, ratio=16.0, where: Any = True) -> Steps:
    """Around AdamW of the rate 0.1, with a rate for each parameter."""
    for step in adam(gradients, 0.1, 0.5, 0.9, 1e-3):
        yield np.where(where, ratio, 1.0) * (step - 0.1 * 0.3 * w)


ADAM = gx.adam(0.3, 0.5, 0.9, 1e-3)

KERNELS = {"bias": False, "kernel": True}
DECAY = {"weight_decay": 0.3, "where": KERNELS}
CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "adam_atan2": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "scale": 2.0, "width": 3.0},
        {"b2": 0.99, "width": 0.5} | DECAY,
    ],
    "sinkgd": [
        {},
        {"learning_rate": 0.1, "weight_decay": 0.3, "steps": 1},
        {"steps": 30, "default": gx.sgd(0.1)},
    ],
    "scale_sgd": [
        {},
        {"learning_rate": 0.1, "momentum": 0.5, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "heads": "kernel"},
        {"heads": ("**/kernel",)} | DECAY,
    ],
    "gpa": [
        {"inner": gx.sgd(0.1)},
        {"inner": gx.sgd(1.0), "b1": 0.9, "decay": 0.5},
        {"inner": gx.sgd(0.01), "b1": 1.0, "decay": 0.99},
    ],
    "snoo": [
        {"inner": gx.sgd(0.1)},
        {"inner": gx.sgd(1.0), "learning_rate": 0.3, "momentum": 0.9, "every_k": 3},
        {"inner": gx.sgd(1.0), "learning_rate": 1.5, "momentum": 0.0, "every_k": 2},
    ],
    "lora_plus": [
        {"inner": gx.adamw(0.1, 0.5, 0.9, 1e-3, 0.3), "where": KERNELS},
        {"inner": gx.adamw(0.1, 0.5, 0.9, 1e-3, 0.3), "where": KERNELS, "ratio": 0.5},
        {"inner": gx.adamw(0.1, 0.5, 0.9, 1e-3, 0.3), "where": {"bias": True, "kernel": False}, "ratio": 4.0},
    ],
    "hyperball": [
        {"inner": gx.sgd()},
        {"inner": ADAM, "learning_rate": 0.1},
        {"inner": gx.sgd(7.0), "learning_rate": 1.0},
    ],
}
rate = 0.03


def matrices(direction: Any) -> Any:
    """Descent along a direction of matrices, and along the gradients of vectors."""
    return gx.chain(matrices_first(direction), gx.scale_by_learning_rate(rate))


def matrices_first(piece: Any) -> Any:
    return gx.masked(piece, gx.is_matrix, otherwise="identity")


CURVED = {
    "adam_atan2": True,
    "gpa": [{"inner": gx.sgd(0.05)}],
    "snoo": [{"inner": gx.sgd(0.05), "every_k": 5}],
}
LAWS = {
    "lora_plus is a group with another rate": (
        gx.lora_plus(gx.adamw(rate), 4.0, where="w"),
        gx.partition({"w": gx.adamw(4 * rate)}, default=gx.adamw(rate)),
    ),
    "lora_plus of the ratio 1 is its inner": (gx.lora_plus(gx.adam(rate), 1.0, where="w"), gx.adam(rate)),
    "snoo without momentum is lookahead": (
        gx.snoo(gx.adam(rate), 0.5, momentum=0.0, every_k=2),
        gx.lookahead(gx.adam(rate), every_k=2, weight=0.5),
    ),
    "an outer optimizer counts its own updates": (
        gx.lookahead(gx.freeze(), every_k=2, outer=gx.chain(gx.ones(), gx.momentum(0.9))),
        gx.lookahead(gx.freeze(), every_k=2, outer=gx.ones()),
    ),
    "scale_sgd normalizes as reduced denominators do": (
        gx.masked(gx.scale_sgd(rate), gx.is_matrix, otherwise="zero"),
        gx.masked(
            matrices(
                gx.precondition(
                    gx.identity(), by=gx.chain(gx.square(), gx.reduced(gx.identity(), "inputs"), gx.sqrt()), eps=0.0
                )
            ),
            gx.is_matrix,
            otherwise="zero",
        ),
    ),
    "normalize over outputs is a denominator of outputs": (
        gx.chain(gx.normalize("outputs"), gx.sgd(rate)),
        gx.chain(
            gx.precondition(
                gx.identity(),
                by=gx.chain(gx.square(), gx.reduced(gx.identity(), "outputs", how="sum"), gx.sqrt()),
                eps=0.0,
            ),
            gx.sgd(rate),
        ),
    ),
    "sinkgd of one step evens out the columns, then the rows": (
        gx.sinkgd(rate, default=gx.sgd(rate), steps=1),
        matrices(gx.chain(gx.unit_rms("columns"), gx.unit_rms("rows"))),
    ),
    "muon sees no norms of columns where they are balanced": (
        gx.muon(rate, 0.0, balanced="inputs", default=gx.sgd(rate)),
        gx.chain(matrices_first(gx.unit_rms("inputs")), gx.muon(rate, 0.0, default=gx.sgd(rate))),
    ),
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
