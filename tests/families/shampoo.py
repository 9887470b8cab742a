"""Shampoo, KL-Shampoo and PSGD-Kron, matrix by matrix: for the kernel of 3 × 4, and for the bias."""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
from numpy import ndarray, sqrt
from references import Gradients, Steps, divide

BIAS, KERNEL = slice(0, 5), slice(5, None)


def with_adam(
    gradients: Gradients,
    w: ndarray,
    step_of: Callable[[int, ndarray, ndarray, ndarray], ndarray],
    learning_rate: float,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    where: Any,
) -> Steps:
    """Adam of the bias; `step_of(t, g, m, a)` makes the kernel's step of its gradient, average and Adam's step."""
    m = s = np.zeros(17)
    for t, g in zip(count(1), gradients):
        m, s = b1 * m + (1 - b1) * g, b2 * s + (1 - b2) * g**2
        a = divide(m / (1 - b1**t), sqrt(s / (1 - b2**t)) + eps)
        of_g, of_m, of_a = (x[KERNEL].reshape(3, 4) for x in (g, m / (1 - b1**t), a))
        step = np.concatenate([a[BIAS], step_of(t, of_g, of_m, of_a).ravel()])
        yield -learning_rate * (step + weight_decay * where * w)


def inverse_root(a: ndarray, root: int, eps: float) -> ndarray:
    values, vectors = np.linalg.eigh(a)
    return vectors @ np.diag((values + eps * values.mean()) ** (-1 / root)) @ vectors.T


def shampoo(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-3,
    b1=0.9,
    b2=0.999,
    b3=0.99,
    eps=1e-8,
    root_eps=1e-6,
    weight_decay=0.0,
    where: Any = True,
    root=4,
    every_k=10,
    which="both",
    method="eigh",
    kl=False,
) -> Steps:
    """Algorithm 1 with averages, Adam's norm (Anil et al.) and corrections of the averages (Shi et al.)."""
    left, right, of_left, of_right = np.zeros((3, 3)), np.zeros((4, 4)), np.eye(3), np.eye(4)

    def step(t, g, m, a):
        nonlocal left, right, of_left, of_right
        new = 1.0 if b3 == 1 else 1 - b3
        whole = 1.0 if b3 == 1 else 1 - b3**t
        x, y = (g @ of_right / sqrt(4), of_left @ g / sqrt(3)) if kl and t > 1 else (g, g)
        left, right = b3 * left + new * x @ x.T, b3 * right + new * y.T @ y
        if (t - 1) % every_k == 0:
            if which in ("both", "smaller", "inputs"):
                of_left = inverse_root(left / whole, root, root_eps)
            if which in ("both", "larger", "outputs"):
                of_right = inverse_root(right / whole, root, root_eps)
        u = of_left @ m @ of_right
        return u * np.linalg.norm(a) / np.linalg.norm(u)

    return with_adam(gradients, w, step, learning_rate, b1, b2, eps, weight_decay, where)


def kl_shampoo(gradients: Gradients, w: ndarray, b1=0.95, b3=0.95, **arguments: Any) -> Steps:
    return shampoo(gradients, w, b1=b1, b3=b3, root=2, kl=True, **arguments)


def psgd_kron(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-3,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    rate=0.1,
    max_rms=1.1,
    weight_decay=0.0,
    where: Any = True,
    every_k=1,
) -> Steps:
    """dQ = Q^0.5·E·Q^1.5 of psgd_torch, with the norm by four power steps."""
    q, bound = [np.eye(3), np.eye(4)], np.zeros(2)

    def top(a):
        x = a[np.argmax(np.linalg.norm(a, axis=1))]
        for _ in range(4):
            x = a @ (x / np.linalg.norm(x))
        return np.linalg.norm(x)

    def turned(x):
        r = x.T - x
        if np.linalg.norm(r) > 0:
            r = r / np.linalg.norm(r)
        rx, rrx = r @ x, r @ r @ x
        a = min(-np.trace(rx) / np.trace(rrx), 0.125) if np.trace(rrx) < 0 else 0.125
        return x + a * (rx + a / 2 * rrx)

    def step(t, g, m, a):
        nonlocal q
        if t == 1:
            q = [np.mean(g**2) ** (-1 / 8) * x for x in q]
        if (t - 1) % every_k == 0:
            h = q[0].T @ q[0] @ g @ q[1].T @ q[1]
            for i, (x, other) in enumerate(((h, 4), (h.T, 3))):
                ell = top(x @ x.T) + other
                bound[i] = max(0.9 * bound[i] + 0.1 * ell, ell)
                q[i] = turned(q[i] - rate / bound[i] * (x @ x.T @ q[i] - other * q[i]))
            ratio = (np.abs(q[1]).max() / np.abs(q[0]).max()) ** 0.25
            q = [q[0] * ratio, q[1] / ratio]
        u = q[0].T @ q[0] @ m @ q[1].T @ q[1]
        return u * min(1, max_rms / sqrt(np.mean(u**2)))

    return with_adam(gradients, w, step, learning_rate, b1, b2, eps, weight_decay, where)


DECAY = {"weight_decay": 1.0, "where": {"bias": False, "kernel": True}}
CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "shampoo": [
        {"root_eps": 1e-3},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "b3": 0.8, "eps": 1e-3, "root": 2, "every_k": 1, "root_eps": 0.1},
        {"which": "smaller", "root": 2, "b3": 1.0} | DECAY,
        {"method": "newton", "root_eps": 0.01, "every_k": 7},
    ],
    "kl_shampoo": [
        {"root_eps": 1e-3},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "b3": 0.8, "eps": 1e-3, "every_k": 1, "root_eps": 0.1},
        {"root_eps": 0.01, "every_k": 7} | DECAY,
    ],
    "psgd_kron": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "rate": 0.3, "max_rms": 0.5},
        {"every_k": 7} | DECAY,
    ],
}
