"""Optimizers that look at each layer's weights.

The leaves of `references.as_tree`, a bias of 5 and a kernel of 3 inputs and 4 outputs, are slices of the vector here.
"""

from itertools import count
from typing import Any

import numpy as np
import optax
from numpy import ndarray, sqrt
from numpy.linalg import norm
from references import Gradients, Steps, divide, real

import gradtx as gx

LEAVES = slice(0, 5), slice(5, None)


def by_leaf(rule: Any, *vectors: ndarray) -> ndarray:
    """The rule on each leaf, with its vectors, joined."""
    return np.concatenate([rule(*(v[leaf] for v in vectors)) for leaf in LEAVES])


def lars(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1.0,
    momentum=0.9,
    nesterov=False,
    weight_decay=5e-4,
    where: Any = 1,
    coefficient=1e-3,
) -> Steps:
    """The paper's algorithm 1, and its Nesterov form; the local rate is 1 where w or g is 0."""
    v, decay = np.zeros_like(w), weight_decay * where * np.ones_like(w)

    def local(g, w, decay):
        rate = coefficient * norm(w) / (norm(g) + norm(decay * w)) if norm(w) > 0 and norm(g) > 0 else 1.0
        return learning_rate * rate * (g + decay * w)

    for g in gradients:
        step = by_leaf(local, g, w, decay)
        v = momentum * v + step
        yield -(step + momentum * v) if nesterov else -v


def lamb(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-3,
    b1=0.9,
    b2=0.999,
    eps=1e-6,
    weight_decay=1e-2,
    where: Any = 1,
) -> Steps:
    """The paper's algorithm 2 with φ(z) = z."""
    m, v = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        u = divide(m / (1 - b1**t), sqrt(v / (1 - b2**t)) + eps) + weight_decay * where * w
        yield -learning_rate * by_leaf(lambda u, w: u * norm(w) / norm(u), u, w)


def fromage(gradients: Gradients, w: ndarray, learning_rate=1e-2) -> Steps:
    for g in gradients:
        moved = by_leaf(lambda g, w: w - learning_rate * g * norm(w) / norm(g), g, w)
        yield moved / sqrt(1 + learning_rate**2) - w


def project_where_orthogonal(step: ndarray, g: ndarray, w: ndarray, delta: float) -> ndarray:
    """The step without its component along w, per channel or as a whole, as in the paper's published code."""
    if w.ndim < 2:
        return step
    step, g, w = (np.moveaxis(x, -1, 0) for x in (step, g, w))
    for rows in (w.shape[0], 1):
        u, of_g, of_w = (x.reshape(rows, -1) for x in (step, g, w))
        products, lengths = (of_g * of_w).sum(1), norm(of_g, axis=1) * norm(of_w, axis=1)
        if np.all(abs(divide(products, lengths)) < delta / sqrt(of_w.shape[1])):
            along = divide((u * of_w).sum(1), (of_w**2).sum(1))[:, None] * of_w
            step = (u - along).reshape(step.shape)
            break
    return np.moveaxis(step, 0, -1)


def projected(step: ndarray, g: ndarray, w: ndarray, threshold: float) -> ndarray:
    of_step, of_g, of_w = (x[5:].reshape(3, 4) for x in (step, g, w))
    kernel = project_where_orthogonal(of_step, of_g, of_w, threshold)
    return np.concatenate([step[:5], kernel.ravel()])


def sgdp(gradients: Gradients, w: ndarray, learning_rate=1e-1, momentum=0.9, nesterov=False, threshold=0.1) -> Steps:
    v = 0.0
    for g in gradients:
        v = momentum * v + g
        yield -learning_rate * projected(g + momentum * v if nesterov else v, g, w, threshold)


def adamp(gradients: Gradients, w: ndarray, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, threshold=0.1) -> Steps:
    m, s = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        p = divide(m / (1 - b1**t), sqrt(s / (1 - b2**t)) + eps)
        yield -learning_rate * projected(p, g, w, threshold)


def orthograd(gradients: Gradients, w: ndarray, inner: Any) -> Steps:
    """Around the heavy ball, whose rate and decay are read."""
    v, decay, learning_rate = 0.0, inner.links[0].decay, inner.links[-1].learning_rate

    def orthogonal(g, w):
        left = g - w * (w @ g) / (w @ w)
        return left * norm(g) / norm(left)

    for g in gradients:
        v = decay * v + by_leaf(orthogonal, g, w)
        yield -learning_rate * v


def adamc(
    gradients: Gradients,
    w: ndarray,
    learning_rate: Any = 1e-3,
    peak=1e-3,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=1e-2,
    where: Any = 1,
) -> Steps:
    """The rate may be a function of the step, from 0."""
    m, v = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        rate: Any = learning_rate(t - 1) if callable(learning_rate) else learning_rate
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        step = rate * divide(m / (1 - b1**t), sqrt(v / (1 - b2**t)) + eps)
        yield -step - rate**2 / peak * weight_decay * where * w


WHERE = {"bias": False, "kernel": True}

CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "lars": [
        {},
        {"learning_rate": 5.0, "momentum": 0.5, "nesterov": True, "weight_decay": 0.3, "coefficient": 0.01},
        {"learning_rate": 0.1, "weight_decay": 1.0, "where": WHERE},
        {"weight_decay": 0.0},
    ],
    "lamb": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.3},
        {"weight_decay": 1.0, "where": WHERE},
        {"eps": 0.0, "weight_decay": 0.0},
    ],
    "fromage": [{}, {"learning_rate": 0.5}, {"learning_rate": 1e-3}],
    "sgdp": [
        {},
        {"learning_rate": 1e-3, "momentum": 0.5, "nesterov": True, "threshold": 1.0},
        {"learning_rate": 1e-2, "threshold": 0.5},
        {"learning_rate": 1e-3, "threshold": 10.0},
    ],
    "adamp": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "threshold": 1.0},
        {"b1": 0.8, "threshold": 0.5},
        {"threshold": 10.0},
    ],
    "orthograd": [
        {"inner": gx.heavy_ball(1e-3, 0.0)},
        {"inner": gx.heavy_ball(1e-3, 0.9)},
        {"inner": gx.heavy_ball(1e-5, 0.99)},
    ],
    "adamc": [
        {},
        {"learning_rate": 0.03, "peak": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.3},
        {"learning_rate": lambda step: 0.1 / (1 + 0.01 * real(step)), "peak": 0.1, "weight_decay": 0.3},
        {"weight_decay": 1.0, "where": WHERE},
    ],
}
CURVED = dict.fromkeys(("lars", "lamb", "fromage", "sgdp", "adamp", "adamc"), True)

decayed = gx.add_weight_decay(0.1, WHERE)
OPTAX: dict[str, tuple[Any, Any]] = {
    "lars without decay": (gx.lars(0.5, 0.8, weight_decay=0.0), optax.lars(0.5, momentum=0.8)),
    "lars with Nesterov's momentum": (
        gx.lars(0.5, 0.8, True, weight_decay=0.0, coefficient=0.01),
        optax.lars(0.5, momentum=0.8, nesterov=True, trust_coefficient=0.01),
    ),
    "lars with ‖g + λw‖": (
        gx.chain(decayed, gx.lars(0.5, 0.8, weight_decay=0.0)),
        optax.lars(0.5, weight_decay=0.1, weight_decay_mask=WHERE, momentum=0.8),
    ),
    "lamb": (
        gx.lamb(0.01, 0.8, 0.99, 1e-4, 0.1, WHERE),
        optax.lamb(0.01, 0.8, 0.99, 1e-4, weight_decay=0.1, mask=WHERE),
    ),
    "fromage": (gx.fromage(0.1), optax.fromage(0.1)),
    "trust_ratio": (
        gx.chain(gx.trust_ratio(0.1, eps=0.5), gx.scale(-1.0)),
        optax.chain(optax.scale_by_trust_ratio(trust_coefficient=0.1, eps=0.5), optax.scale(-1.0)),
    ),
    "centralize": (
        gx.chain(gx.layout(gx.centralize(), library="torch"), gx.sgd(0.1)),
        optax.chain(optax.centralize(), optax.sgd(0.1)),
    ),
    "projected onto the nonnegative numbers": (
        gx.projected(gx.sgd(0.1), gx.lower_bound(0.0)),
        optax.chain(optax.sgd(0.1), optax.keep_params_nonnegative()),
    ),
}

rate = 0.03
adam = gx.chain(gx.precondition(gx.momentum(), by=gx.rms()))
LAWS: dict[str, tuple[Any, Any]] = {
    "lars without momentum is a trust ratio": (
        gx.lars(rate, momentum=0.0, weight_decay=0.0, coefficient=1.0),
        gx.chain(gx.trust_ratio(), gx.sgd(rate)),
    ),
    "the trust ratio is a graft of the parameters' length": (
        gx.chain(gx.trust_ratio(), gx.sgd(rate)),
        gx.chain(gx.graft(gx.emit_params(), gx.identity()), gx.sgd(rate)),
    ),
    "a trust ratio that reckons with one length is normalize": (
        gx.chain(gx.trust_ratio(bounds=(1.0, 1.0)), gx.sgd(rate)),
        gx.chain(gx.normalize(), gx.sgd(rate)),
    ),
    "lamb without decay is adam's direction with the parameters' length": (
        gx.lamb(rate, eps=1e-8, weight_decay=0.0),
        gx.chain(gx.graft(gx.emit_params(), adam), gx.sgd(rate)),
    ),
    "fromage is lars, shrunk": (
        gx.fromage(rate),
        gx.chain(gx.lars(rate, momentum=0.0, weight_decay=0.0, coefficient=1.0), gx.fromage_rescale(rate)),
    ),
    "shrink is a retraction": (
        gx.chain(gx.sgd(rate), gx.fromage_rescale(0.75)),
        gx.projected(gx.sgd(rate), gx.scale(0.8)),
    ),
    "shrink by nothing is nothing": (gx.chain(gx.sgd(rate), gx.fromage_rescale(0.0)), gx.sgd(rate)),
    "sgdp that never projects is the heavy ball": (gx.sgdp(rate, threshold=1e-9), gx.heavy_ball(rate)),
    "adamp that never projects is adam": (gx.adamp(rate, threshold=1e-9), gx.adam(rate)),
    "adamp leaves a bias to adam": (
        gx.masked(gx.adamp(rate, threshold=1e9), "b", otherwise="zero"),
        gx.masked(gx.adam(rate), "b", otherwise="zero"),
    ),
    "orthograd is a graft before its inner": (
        gx.orthograd(gx.adam(rate)),
        gx.chain(gx.graft(gx.identity(), gx.project_out()), gx.adam(rate)),
    ),
    "to project twice is to project once": (
        gx.chain(gx.project_out(), gx.project_out(), gx.sgd(rate)),
        gx.chain(gx.project_out(), gx.sgd(rate)),
    ),
    "to centralize twice is to centralize once": (
        gx.chain(gx.centralize(), gx.centralize(), gx.sgd(rate)),
        gx.chain(gx.centralize(), gx.sgd(rate)),
    ),
    "adamc at its peak is adamw": (gx.adamc(rate, rate, weight_decay=0.3), gx.adamw(rate, weight_decay=0.3)),
    "adamc at half its peak has half of adamw's decay": (
        gx.adamc(rate, 2 * rate, weight_decay=0.3),
        gx.adamw(rate, weight_decay=0.15),
    ),
    "adamc under a schedule": (
        gx.adamc(lambda step: rate / (1 + real(step)), rate, weight_decay=0.3),
        gx.adamw(lambda step: rate / (1 + real(step)), weight_decay=lambda step: 0.3 / (1 + real(step))),
    ),
    "a graft on itself is itself": (gx.graft(gx.adam(rate), gx.adam(rate)), gx.adam(rate)),
    "to projected onto everything is nothing": (gx.projected(gx.sgd(1.0), gx.identity()), gx.sgd(1.0)),
    "a box around 0 is clip": (
        gx.chain(gx.projections.box(-0.5, 0.5), gx.sgd(rate)),
        gx.chain(gx.clip(0.5), gx.sgd(rate)),
    ),
    "a large ball is nothing": (
        gx.chain(gx.projections.l1_ball(1e9), gx.clip_by_norm(1e9), gx.sgd(rate)),
        gx.sgd(rate),
    ),
    "the simplex is the ball's face where nothing is negative": (
        gx.chain(gx.abs(), gx.add_constant(1.0), gx.projections.l1_ball(0.5)),
        gx.chain(gx.abs(), gx.add_constant(1.0), gx.projections.simplex(0.5)),
    ),
}
