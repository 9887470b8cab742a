"""GaLore, Fira, APOLLO, Conda and Dion, and Muon's kin, matrix by matrix: for the kernel of 3 × 4, and for the bias."""

from collections.abc import Callable, Iterator
from itertools import count, tee
from typing import Any

import jax
import numpy as np
from numpy import ndarray, sqrt
from references import Gradients, Steps, adam, divide

import gradtx as gx
from families.matrix import orthogonal

BIAS, KERNEL = slice(0, 5), slice(5, None)


def singular(g: ndarray, old: ndarray) -> ndarray:
    """The first left singular vectors, of the signs nearer to the old ones."""
    u = np.linalg.svd(g)[0][:, : old.shape[1]]
    return u * np.where(np.sum(u * old, 0) < 0, -1, 1)


def within(
    gradients: Gradients,
    w: ndarray,
    step_of: Callable[[int, ndarray, ndarray, ndarray, ndarray], ndarray],
    basis_of: Callable[[int, ndarray, ndarray], ndarray],
    learning_rate: float,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    where: Any,
    rank: int,
    every_k: int,
    carry=False,
) -> Steps:
    """Adam of the bias, and of the coordinates of the kernel; `step_of(t, g, p, x, a)` makes a step of these."""
    rank = min(rank, 3)
    p, m, s = np.eye(3, rank), np.zeros((rank, 4)), np.zeros((rank, 4))
    mb, sb = np.zeros(5), np.zeros(5)
    for t, both in zip(count(1), gradients):
        b, g = both[BIAS], both[KERNEL].reshape(3, 4)
        old, p = p, basis_of(t, g, p) if (t - 1) % every_k == 0 else p
        m = p.T @ old @ m if carry else m
        x = p.T @ g
        m, s = b1 * m + (1 - b1) * x, b2 * s + (1 - b2) * x**2
        mb, sb = b1 * mb + (1 - b1) * b, b2 * sb + (1 - b2) * b**2
        c1, c2 = 1 - b1**t, 1 - b2**t
        a, of_b = (divide(mean / c1, sqrt(size / c2) + eps) for mean, size in ((m, s), (mb, sb)))
        step = np.concatenate([of_b, step_of(t, g, p, x, a).ravel()])
        yield -learning_rate * (step + weight_decay * where * w)


def galore(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-2,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    alpha=0.25,
    weight_decay=0.0,
    where: Any = True,
    rank=128,
    every_k=200,
) -> Steps:
    """Algorithm 2, for the side of 3."""

    def step(t, g, p, x, a):
        return alpha * p @ a

    def basis(t, g, old):
        return singular(g, old)

    return within(gradients, w, step, basis, learning_rate, b1, b2, eps, weight_decay, where, rank, every_k)


def limiter(growth: float) -> Callable[[ndarray], ndarray]:
    """Shorten to at most `growth` times the norm of the last result."""
    last = 0.0

    def limit(x: ndarray) -> ndarray:
        nonlocal last
        norm = np.linalg.norm(x)
        x = x * growth * last / norm if last and norm > growth * last else x
        last = float(np.linalg.norm(x))
        return x

    return limit


def fira(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-2,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    growth=1.01,
    weight_decay=0.0,
    where: Any = True,
    rank=128,
    every_k=200,
) -> Steps:
    limit = limiter(growth)

    def step(t, g, p, x, a):
        factor = divide(np.linalg.norm(a, axis=0), np.linalg.norm(x, axis=0))
        return p @ a + limit(factor * (g - p @ x))

    def basis(t, g, old):
        return singular(g, old)

    return within(gradients, w, step, basis, learning_rate, b1, b2, eps, weight_decay, where, rank, every_k)


def apollo(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-2,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    alpha=1.0,
    growth=1.01,
    weight_decay=0.0,
    where: Any = True,
    rank=128,
    every_k=200,
    seed=0,
) -> Steps:
    """Algorithm 1; the random numbers are JAX's."""
    limit = limiter(growth)

    def step(t, g, p, x, a):
        return alpha * limit(divide(np.linalg.norm(a, axis=0), np.linalg.norm(x, axis=0)) * g)

    def basis(t, g, old):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), (t - 1) // every_k), 0)
        return np.asarray(jax.random.normal(key, old.shape, "float64")) / sqrt(old.shape[1])

    return within(gradients, w, step, basis, learning_rate, b1, b2, eps, weight_decay, where, rank, every_k)


def apollo_mini(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-2,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    alpha=128**0.5,
    growth=1.01,
    weight_decay=0.0,
    where: Any = True,
    rank=1,
    every_k=200,
    seed=0,
) -> Steps:
    """One factor for the kernel; the random numbers are JAX's."""
    limit = limiter(growth)

    def step(t, g, p, x, a):
        return alpha * limit(g * (np.linalg.norm(a) / np.linalg.norm(x)))

    def basis(t, g, old):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), (t - 1) // every_k), 0)
        return np.asarray(jax.random.normal(key, old.shape, "float64")) / sqrt(old.shape[1])

    return within(gradients, w, step, basis, learning_rate, b1, b2, eps, weight_decay, where, rank, every_k)


def conda(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-3,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    where: Any = True,
    every_k=2000,
) -> Steps:
    mine, theirs = tee(gradients)

    def averages() -> Iterator[ndarray]:
        m = np.zeros((3, 4))
        for g in mine:
            m = b1 * m + (1 - b1) * g[KERNEL].reshape(3, 4)
            yield m

    average = averages()
    now: dict[str, Any] = {}

    def watched() -> Gradients:
        for g in theirs:
            now["m"] = next(average)
            yield g

    def step(t, g, p, x, a):
        return p @ a

    def basis(t, g, old):
        return singular(now["m"], old)

    given = (learning_rate, b1, b2, eps, weight_decay, where, 3, every_k)
    return within(watched(), w, step, basis, *given, carry=True)


# ---------------------------------------------------------------- for matrices, with another optimizer for the rest
def with_default(
    gradients: Gradients, w: ndarray, direction: Callable[[ndarray], ndarray], rate: float, decay: float, default: Any
) -> Steps:
    """`direction` of the kernel's gradients; of the bias, Adam, or plain descent whose rate is read."""
    mine, again = tee(gradients)
    others = (
        adam(again, 0.015 * rate, 0.9, 0.95, 1e-10)
        if default is None
        else (-default.links[-1].learning_rate * g for g in again)
    )
    for g, step in zip(mine, others):
        u = direction(g[KERNEL].reshape(3, 4))
        yield np.concatenate([step[BIAS], -rate * (u.ravel() + decay * w[KERNEL])])


FACTORS = {"original": sqrt(4 / 3), "spectral": sqrt(4 / 3), "adam": 0.4, "mean": 2 / 7}


def normuon(
    gradients: Gradients,
    w: ndarray,
    learning_rate=0.02,
    momentum=0.95,
    b2=0.95,
    eps=1e-10,
    weight_decay=0.0,
    default: Any = None,
    rule="original",
    method="newton_schulz",
) -> Steps:
    v, s = np.zeros((3, 4)), np.zeros(4)

    def direction(g):
        nonlocal v, s
        v = momentum * v + g
        u = orthogonal(g + momentum * v, method)
        s = b2 * s + (1 - b2) * np.mean(u**2, 0)
        o = u / (sqrt(s) + eps)
        return FACTORS[rule] * o * np.linalg.norm(u) / np.linalg.norm(o)

    return with_default(gradients, w, direction, learning_rate, weight_decay, default)


def adamuon(
    gradients: Gradients,
    w: ndarray,
    learning_rate=0.02,
    momentum=0.95,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.01,
    default: Any = None,
    method="newton_schulz",
) -> Steps:
    v, s, t = np.zeros((3, 4)), np.zeros((3, 4)), 0

    def direction(g):
        nonlocal v, s, t
        t += 1
        v = momentum * v + g
        u = orthogonal(np.sign(g + momentum * v), method)
        s = b2 * s + (1 - b2) * u**2
        o = u / (sqrt(s / (1 - b2**t)) + eps)
        return 0.2 * o / sqrt(np.mean(o**2))

    return with_default(gradients, w, direction, learning_rate, weight_decay, default)


def dion(
    gradients: Gradients,
    w: ndarray,
    learning_rate=0.01,
    momentum=0.95,
    weight_decay=0.01,
    default: Any = None,
    rule="spectral",
    rank=64,
    seed=0,
) -> Steps:
    """Algorithm 1; the random numbers of the start are JAX's."""
    rank = min(rank, 3)
    m, q = np.zeros((3, 4)), np.asarray(jax.random.normal(jax.random.key(seed), (4, rank), "float64"))

    def direction(g):
        nonlocal m, q
        m = m + g
        p = np.linalg.qr(m @ q)[0]
        r = m.T @ p
        m = m - (1 - momentum) * p @ r.T
        q = r / np.linalg.norm(r, axis=0)
        return FACTORS[rule] * p @ q.T

    return with_default(gradients, w, direction, learning_rate, weight_decay, default)


DECAY = {"weight_decay": 1.0, "where": {"bias": False, "kernel": True}}
CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "galore": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "alpha": 1.0, "rank": 1, "every_k": 7},
        {"rank": 2, "every_k": 50} | DECAY,
    ],
    "fira": [
        {"rank": 2},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "growth": 1.5, "rank": 1, "every_k": 7},
        {"rank": 2, "every_k": 50} | DECAY,
    ],
    "apollo": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "alpha": 2.0, "growth": 1.5, "rank": 1, "every_k": 7},
        {"rank": 2, "every_k": 50, "seed": 3} | DECAY,
    ],
    "apollo_mini": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "alpha": 2.0, "growth": 1.5, "every_k": 7},
        {"rank": 2, "every_k": 50, "seed": 3} | DECAY,
    ],
    "conda": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "every_k": 7},
        {"every_k": 50} | DECAY,
    ],
    "normuon": [
        {},
        {"learning_rate": 0.1, "momentum": 0.8, "b2": 0.5, "weight_decay": 0.3, "rule": "adam", "method": "svd"},
        {"eps": 0.1, "rule": "mean", "method": "polar_express", "default": gx.sgd(0.1)},
    ],
    "adamuon": [
        {},
        {"learning_rate": 0.1, "momentum": 0.8, "b2": 0.5, "weight_decay": 0.3, "method": "svd"},
        {"eps": 0.1, "method": "polar_express", "default": gx.sgd(0.1)},
    ],
    "dion": [
        {"rank": 2},
        {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.3, "rank": 1, "rule": "adam"},
        {"rank": 2, "seed": 3, "default": gx.sgd(0.1)},
    ],
}
