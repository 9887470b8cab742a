"""Muon and Scion, matrix by matrix."""

from itertools import count, tee
from typing import Any

import numpy as np
import optax
from numpy import ndarray, sqrt
from references import Gradients, Steps, adam

import gradtx as gx

BIAS, KERNEL = slice(0, 5), slice(5, None)
# arXiv 2505.16932, with the paper's factor of safety 1.01 in all but the last.
EXPRESS = [
    (8.28721201814563 / 1.01, -23.595886519098837 / 1.01**3, 17.300387312530933 / 1.01**5),
    (4.107059111542203 / 1.01, -2.9478499167379106 / 1.01**3, 0.5448431082926601 / 1.01**5),
    (3.9486908534822946 / 1.01, -2.908902115962949 / 1.01**3, 0.5518191394370137 / 1.01**5),
    (3.3184196573706015 / 1.01, -2.488488024314874 / 1.01**3, 0.51004894012372 / 1.01**5),
    (2.300652019954817 / 1.01, -1.6689039845747493 / 1.01**3, 0.4188073119525673 / 1.01**5),
    (1.891301407787398 / 1.01, -1.2679958271945868 / 1.01**3, 0.37680408948524835 / 1.01**5),
    (1.8750014808534479 / 1.01, -1.2500016453999487 / 1.01**3, 0.3750001645474248 / 1.01**5),
    (1.875, -1.25, 0.375),
]


def orthogonal(x: ndarray, method="newton_schulz", steps=5) -> ndarray:
    """The matrix with the same singular vectors and singular values of 1, or those that the iteration gives."""
    if method == "svd":
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        return u * (s > 1e-12 * s.max()) @ vt
    x = x / (np.linalg.norm(x) or 1.0)
    if method == "newton_schulz":
        for _ in range(steps):
            x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
        return x
    x = x / 1.01
    for a, b, c in (EXPRESS + EXPRESS[-1:] * steps)[:steps]:
        x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
    return x


def muon(
    gradients: Gradients,
    w: ndarray,
    learning_rate=0.02,
    momentum=0.95,
    weight_decay=0.0,
    default: Any = None,
    exclude=(),
    nesterov=True,
    corrected=False,
    rule="original",
    method="newton_schulz",
    balanced=None,
) -> Steps:
    """With PyTorch's average; `default`, if given, is plain descent, whose rate is read."""
    inputs, outputs = 3, 4
    factors = {"original": max(1, outputs / inputs) ** 0.5, "adam": 0.2 * sqrt(4), "spectral": sqrt(outputs / inputs)}
    gradients, again = tee(gradients)
    others = (
        adam(again, 3e-4 * learning_rate / 0.02, 0.9, 0.95, 1e-10)
        if default is None
        else (-default.links[-1].learning_rate * g for g in again)
    )
    m = 0.0
    for t, g, step in zip(count(1), gradients, others):
        g = g[KERNEL].reshape(3, 4)
        m = momentum * m + (1 - momentum) * g
        early, now = (1 - momentum ** (t + 1), 1 - momentum**t) if corrected else (1.0, 1.0)
        direction = momentum * m / early + (1 - momentum) * g / now if nesterov else m
        sides = {None: (), "inputs": (0,), "outputs": (1,), "both": (0, 1)}[balanced]
        norms = [np.linalg.norm(direction, axis=side, keepdims=True) for side in sides]
        direction = direction / np.prod(np.broadcast_arrays(1.0, *norms), axis=0)
        u = factors[rule] * orthogonal(direction, method)
        if exclude != "kernel":
            step = np.concatenate([step[BIAS], -learning_rate * (u.ravel() + weight_decay * w[KERNEL])])
        yield step


def scion(
    gradients: Gradients,
    w: ndarray,
    learning_rate=2.0**-12,
    decay=0.9,
    radius=50.0,
    outer_radius=3000.0,
    heads=(),
    embeddings=(),
    constrained=True,
) -> Steps:
    """x ← (1 − γ)·x + γ·lmo(d), or x + γ·lmo(d)."""
    inputs, outputs = 3, 4
    d = np.zeros(17)
    for g in gradients:
        d = decay * d + (1 - decay) * g
        bias, kernel = d[BIAS], d[KERNEL]
        lmo = {
            "bias": -radius * bias / sqrt(np.mean(bias**2)),
            "kernel": -radius * sqrt(outputs / inputs) * orthogonal(kernel.reshape(3, 4)).ravel(),
        }
        for name, x in (("bias", bias), ("kernel", kernel)):
            lmo[name] = -outer_radius * np.sign(x) if name in embeddings else lmo[name]
            lmo[name] = -outer_radius * np.sign(x) / inputs if name in heads else lmo[name]
        yield learning_rate * (np.concatenate([lmo["bias"], lmo["kernel"]]) - (w if constrained else 0))


CONFIGURATIONS = {
    "muon": [
        {},
        {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.3, "nesterov": False, "rule": "adam"},
        {"corrected": True, "rule": "spectral", "default": gx.sgd(0.1)},
        {"method": "polar_express", "momentum": 0.5},
        {"method": "svd", "momentum": 0.99, "weight_decay": 1.0},
        {"exclude": "kernel"},
        {"balanced": "inputs", "rule": "adam", "momentum": 0.5},
        {"balanced": "outputs", "nesterov": False, "method": "svd"},
        {"balanced": "both"},
        {"balanced": "both", "nesterov": False, "momentum": 0.5, "method": "svd"},
        {"balanced": "both", "rule": "spectral", "momentum": 0.8, "method": "polar_express"},
    ],
    "scion": [
        {},
        {"learning_rate": 0.1, "decay": 0.5, "radius": 2.0, "constrained": False},
        {"learning_rate": 0.01, "heads": ("kernel",), "embeddings": ("bias",), "outer_radius": 7.0},
    ],
}
CURVED = {"scion": True}  # muon is chaotic there: where it is near 0, the gradient's direction is its rounding

OPTAX = {
    "muon": (
        gx.muon(0.02, weight_decay=0.1, corrected=True, default=gx.nadam(0.003, eps=0.0)),
        optax.contrib.muon(0.02, weight_decay=0.1, eps=0.0, adam_learning_rate=0.003),
    ),
    "muon with the rule of adam, without Nesterov's step": (
        gx.muon(0.02, 0.8, nesterov=False, rule="adam", default=gx.adam(0.02, eps=0.0)),
        optax.contrib.muon(0.02, beta=0.8, nesterov=False, consistent_rms=0.2, eps=0.0),
    ),
}
TORCH = {  # which moves no bias
    "muon": gx.layout(gx.muon(0.01, weight_decay=0.1, default=gx.freeze()), library="torch"),
    "muon by the size of adam": gx.muon(0.01, weight_decay=0.1, default=gx.freeze(), rule="adam"),
}

rate = 0.03


def matrices(*several: Any) -> gx.Transformation:
    return gx.masked(gx.chain(*several), gx.is_matrix, otherwise="identity")


LAWS = {
    "muon without momentum orthogonalizes": (
        gx.muon(rate, 0.0, default=gx.sgd(rate)),
        gx.chain(matrices(gx.orthogonalize(), gx.scale_by_shape()), gx.scale_by_learning_rate(rate)),
    ),
    "a schedule of muon sets the rate of its rest": (
        gx.muon(gx.schedules.linear(0.02, 0.0, 5)),
        gx.muon(
            gx.schedules.linear(0.02, 0.0, 5),
            default=gx.adam(gx.schedules.linear(3e-4, 0.0, 5), b2=0.95, eps=1e-10),
        ),
    ),
    "muon without any matrices is its rest": (gx.muon(exclude=("w", "b"), default=gx.adam(rate)), gx.adam(rate)),
    "muon of a sum is muon of an average": (
        gx.muon(rate, 0.9, default=gx.sgd(rate)),
        gx.chain(
            matrices(gx.blend(gx.scale_by_ema(0.9), 0.9), gx.orthogonalize(), gx.scale_by_shape()),
            gx.scale_by_learning_rate(rate),
        ),
    ),
    "scion that is not constrained is muon without Nesterov's step": (
        gx.scion(rate, 0.9, radius=1.0, constrained=False),
        gx.muon(
            rate,
            0.9,
            nesterov=False,
            rule="spectral",
            default=gx.chain(gx.scale_by_ema(0.9), gx.unit_rms(), gx.scale_by_learning_rate(rate)),
        ),
    ),
    "scion of embeddings alone is signum": (
        gx.scion(rate, 0.9, outer_radius=1.0, embeddings=("w", "b"), constrained=False),
        gx.signum(rate, 0.9),
    ),
    "polar express arrives at the orthogonal matrix": (
        matrices(gx.orthogonalize("polar_express", steps=9)),
        matrices(gx.orthogonalize("svd")),
    ),
    "an orthogonal matrix does not change": (
        matrices(gx.orthogonalize("svd"), gx.scale(3.0), gx.orthogonalize("svd")),
        matrices(gx.orthogonalize("svd")),
    ),
    "the rule of adam is an rms of 0.2": (
        matrices(gx.orthogonalize("svd"), gx.scale_by_shape("adam")),
        matrices(gx.orthogonalize("svd"), gx.unit_rms(), gx.scale(0.2)),
    ),
    "unit_rms does not see the scale": (gx.chain(gx.scale(1e-30), gx.unit_rms()), gx.unit_rms()),
}
