"""SOAP and its kin, matrix by matrix: written from the papers, for the kernel of 3 × 4, and for the bias."""

from itertools import count
from typing import Any

import numpy as np
from numpy import ndarray, sqrt
from references import Gradients, Steps, divide

BIAS, KERNEL = slice(0, 5), slice(5, None)


def of_both(bias: ndarray, kernel: ndarray) -> ndarray:
    return np.concatenate([bias, kernel.ravel()])


def followed(a: ndarray, q: ndarray, shift=0.01) -> ndarray:
    """The paper's algorithm 4, with a multiple of the identity added; columns keep their places and directions."""
    if not (mean := np.trace(a) / len(a)):
        return q
    product = (a / mean + shift * np.eye(len(a))) @ q
    order = np.argsort(-np.einsum("ij,ij->j", q, product), kind="stable")
    new = np.empty_like(q)
    made, r = np.linalg.qr(product[:, order])
    new[:, order] = made * np.sign(np.diag(r))
    return new


def exact(a: ndarray, shift=0.01) -> ndarray:
    """Eigenvectors, the largest eigenvalue first."""
    mean = np.trace(a) / len(a) or 1.0
    return np.linalg.eigh(a / mean + shift * np.diag(np.linspace(1, 0, len(a))))[1][:, ::-1]


def inverse(a: ndarray, q: ndarray, shift=0.01) -> ndarray:
    values = np.diag(q.T @ a @ q)
    return q @ np.diag(1 / (values + shift * values.mean())) @ q.T


def soap(
    gradients: Gradients,
    w: ndarray,
    learning_rate=3e-3,
    b1=0.95,
    b2=0.95,
    b3=0.95,
    eps=1e-8,
    weight_decay=1e-2,
    where: Any = True,
    every_k=10,
    which="both",
    method="qr",
    kl=False,
) -> Steps:
    """Algorithm 3, with m kept in the original coordinates; the first update only makes a basis."""
    left, right, q, p = np.zeros((3, 3)), np.zeros((4, 4)), np.eye(3), np.eye(4)
    m, s, mb, sb = np.zeros((3, 4)), np.zeros((3, 4)), np.zeros(5), np.zeros(5)
    for t, both in zip(count(0), gradients):
        b, g = both[BIAS], both[KERNEL].reshape(3, 4)
        step = np.zeros(17)
        if t > 0:
            m, mb = b1 * m + (1 - b1) * g, b1 * mb + (1 - b1) * b
            x = q.T @ g @ p
            s, sb = b2 * s + (1 - b2) * x**2, b2 * sb + (1 - b2) * b**2
            c1, c2 = 1 - b1**t, 1 - b2**t
            u = q @ divide(q.T @ m @ p / c1, sqrt(s / c2) + eps) @ p.T
            step = of_both(divide(mb / c1, sqrt(sb / c2) + eps), u)
        yield -learning_rate * (step + weight_decay * where * w)
        of_left, of_right = g @ g.T, g.T @ g
        if kl and t > 0:
            of_left, of_right = g @ inverse(right, p) @ g.T / 4, g.T @ inverse(left, q) @ g / 3
        left, right = b3 * left + (1 - b3) * of_left, b3 * right + (1 - b3) * of_right
        if t % every_k == 0:
            if which in ("both", "smaller", "inputs"):
                q = exact(left) if method == "eigh" else followed(left, q)
            if which in ("both", "larger", "outputs"):
                p = exact(right) if method == "eigh" else followed(right, p)


def kl_soap(gradients: Gradients, w: ndarray, **arguments: Any) -> Steps:
    return soap(gradients, w, kl=True, **arguments)


def splus(
    gradients: Gradients,
    w: ndarray,
    learning_rate=0.1,
    b1=0.9,
    b2=0.999,
    decay=0.999,
    weight_decay=1e-2,
    where: Any = True,
    every_k=100,
) -> Steps:
    left, right, q, p, m = np.zeros((3, 3)), np.zeros((4, 4)), np.eye(3), np.eye(4), np.zeros(17)
    scale = of_both(np.full(5, 1e-3), np.full((3, 4), 2 / 7))
    for t, both in zip(count(0), gradients):
        g = both[KERNEL].reshape(3, 4)
        m = b1 * m + (1 - b1) * both
        u = q @ np.sign(q.T @ m[KERNEL].reshape(3, 4) @ p) @ p.T
        yield -learning_rate * scale * (of_both(np.sign(m[BIAS]), u) + weight_decay * where * w)
        left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
        if t % every_k == 0:
            q, p = exact(left), exact(right)


CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "soap": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "b3": 0.8, "eps": 1e-3, "weight_decay": 0.3, "every_k": 1},
        {"method": "eigh", "every_k": 3, "weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
        {"which": "smaller", "b3": 0.99},
        {"which": "outputs"},
    ],
    "kl_soap": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "b3": 0.8, "eps": 1e-3, "weight_decay": 0.3, "every_k": 1},
        {"every_k": 3, "weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
    ],
    "splus": [
        {},
        {"learning_rate": 1.0, "b1": 0.5, "b2": 0.9, "weight_decay": 0.3, "every_k": 10},
        {"b1": 0.0, "every_k": 1, "weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
    ],
}
