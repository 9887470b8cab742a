"""Less memory: Adafactor, CAME, NovoGrad, SM3, Adam-mini, each over the two tensors of `as_tree`."""

from itertools import count
from typing import Any

import numpy as np
import optax
from numpy import ndarray, sqrt
from references import Gradients, Steps, divide, real

import gradtx as gx

BIAS, KERNEL = slice(0, 5), slice(5, None)
WHERE = {"bias": False, "kernel": True}


def outer(r: ndarray, c: ndarray) -> ndarray:
    """Equation 4 of Adafactor, of means: r·cᵀ / mean(r), flat."""
    return np.outer(r, c).ravel() / np.mean(r) if np.any(r) else np.zeros(len(r) * len(c))


def root_mean_square(x: ndarray) -> float:
    return float(sqrt(np.mean(x * x)))


class Squares:
    """The average squares of a bias, and those of a kernel's rows and columns; `emas` gives them for a new g²."""

    def __init__(self):
        self.bias, self.rows, self.columns = np.zeros(5), np.zeros(3), np.zeros(4)

    def emas(self, squares: ndarray, decay: float, factor: bool = True) -> ndarray:
        kernel = squares[KERNEL].reshape(3, 4)
        self.bias = decay * self.bias + (1 - decay) * squares[BIAS]
        self.rows = decay * self.rows + (1 - decay) * kernel.mean(1)
        self.columns = decay * self.columns + (1 - decay) * kernel.mean(0)
        return np.concatenate([self.bias, outer(self.rows, self.columns)])


def adafactor(
    gradients: Gradients,
    w: ndarray,
    learning_rate: Any = 1e-2,
    power=0.8,
    eps=1e-30,
    max_rms=1.0,
    floor=1e-3,
    min_size=2,
) -> Steps:
    """Algorithms 4 and 5; `learning_rate` may be a function of the step. Unfactored at a `min_size` above 3."""
    squares, whole = Squares(), np.zeros_like(w)
    rate_at: Any = learning_rate if callable(learning_rate) else lambda step: learning_rate
    for t, g in zip(count(1), gradients):
        decay = 1 - t**-power
        whole = decay * whole + (1 - decay) * (g**2 + eps)
        u = divide(g, sqrt(squares.emas(g**2 + eps, decay) if min_size <= 3 else whole))
        rate = float(rate_at(t - 1))
        for leaf in (BIAS, KERNEL):
            u[leaf] /= max(1, root_mean_square(u[leaf]) / max_rms)
            u[leaf] *= max(floor, root_mean_square(w[leaf]))
        yield -rate * u


def came(
    gradients: Gradients,
    w: ndarray,
    learning_rate=2e-4,
    b1=0.9,
    b2=0.999,
    b3=0.9999,
    eps=1e-30,
    eps_confidence=1e-16,
    max_rms=1.0,
    weight_decay=0.0,
    where: Any = 1,
) -> Steps:
    """Algorithm 2; the bias, as in the authors' code, without confidence."""
    squares, doubts, m = Squares(), Squares(), np.zeros_like(w)
    for g in gradients:
        u = divide(g, sqrt(squares.emas(g**2 + eps, b2)))
        for leaf in (BIAS, KERNEL):
            u[leaf] /= max(1, root_mean_square(u[leaf]) / max_rms)
        m = b1 * m + (1 - b1) * u
        s = doubts.emas((u - m) ** 2 + eps_confidence, b3)
        s[BIAS] = 1
        yield -learning_rate * (divide(m, sqrt(s)) + weight_decay * where * w)


def novograd(
    gradients: Gradients, w: ndarray, learning_rate=1e-2, b1=0.95, b2=0.98, eps=1e-8, weight_decay=0.0, where: Any = 1
) -> Steps:
    """Algorithm 1: v₁ = ‖g₁‖², m₁ = g₁/√v₁ + λ·w₁; ε as in Optax."""
    v, m = {}, np.zeros_like(w)
    for t, g in zip(count(1), gradients):
        u = np.zeros_like(w)
        for name, leaf in (("bias", BIAS), ("kernel", KERNEL)):
            norm = np.sum(g[leaf] ** 2)
            v[name] = norm if t == 1 else b2 * v[name] + (1 - b2) * norm
            u[leaf] = divide(g[leaf], sqrt(v[name]) + eps)
        m = b1 * m + u + weight_decay * where * w
        yield -learning_rate * m


def sm3(gradients: Gradients, learning_rate=1e-1, momentum=0.9, eps=1e-30) -> Steps:
    """SM3-II, coordinate by coordinate: the cover is of the bias' coordinates, the kernel's rows and its columns."""
    sets = [[i] for i in range(5)]
    sets += [[5 + 4 * i + j for j in range(4)] for i in range(3)] + [
        [5 + 4 * i + j for i in range(3)] for j in range(4)
    ]
    of = [[r for r, members in enumerate(sets) if i in members] for i in range(17)]
    mu, m = np.zeros(len(sets)), np.zeros(17)
    for g in gradients:
        nu = np.array([min(mu[r] for r in of[i]) + g[i] ** 2 for i in range(17)])
        mu = np.array([max(nu[i] for i in members) for members in sets])
        m = momentum * m + (1 - momentum) * divide(g, sqrt(nu + eps))
        yield -learning_rate * m


def adam_mini(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-3,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    where: Any = 1,
    over: Any = "columns",
    blocks=None,
) -> Steps:
    """Algorithm 1; every coordinate by the number of its block."""
    i, j = np.divmod(np.arange(12), 4)
    block = {
        "leaf": 0 * i,
        "rows": i,
        "columns": j if blocks is None else j // (4 // blocks),
        (0, 1): 0 * i,
        (): 4 * i + j,
    }
    kernel = block[over]
    number = np.concatenate([np.arange(5) if over == () else np.zeros(5, int), 5 + kernel])
    members = [number == n for n in number]
    m, v = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.array([np.mean(g[same] ** 2) for same in members])
        step = divide(m / (1 - b1**t), sqrt(v / (1 - b2**t)) + eps)
        yield -learning_rate * (step + weight_decay * where * w)


CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "adafactor": [
        {},
        {"learning_rate": 1.0, "power": 0.5, "eps": 1e-3, "max_rms": 0.3, "floor": 0.5},
        {"min_size": 4, "max_rms": 10.0},
        {"learning_rate": gx.schedules.relative_step(0.1), "power": 1.0},
    ],
    "came": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "b3": 0.8, "eps": 1e-3, "eps_confidence": 1e-4, "max_rms": 0.3},
        {"b3": 0.99, "weight_decay": 0.3, "where": WHERE},
    ],
    "novograd": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.5, "eps": 1e-3, "weight_decay": 0.3},
        {"b2": 0.25, "eps": 0.0, "weight_decay": 1.0, "where": WHERE},
    ],
    "sm3": [{}, {"learning_rate": 1e-3, "momentum": 0.0, "eps": 1e-8}, {"momentum": 0.99, "eps": 1e-3}],
    "adam_mini": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.3, "over": "rows"},
        {"over": "leaf", "eps": 0.0, "weight_decay": 1.0, "where": WHERE},
        {"blocks": 2, "b2": 0.99},
    ],
}

CURVED = {"adafactor": True, "came": True}


def precise_decay(step: Any, power: Any) -> Any:
    """Optax's decay, which it computes in float32, in the parameters' dtype."""
    return 1 - (step + 1.0) ** -power


factored_rms = optax.scale_by_factored_rms(min_dim_size_to_factor=1, decay_rate_fn=precise_decay)
OPTAX = {
    "adafactor": (
        gx.adafactor(0.1),
        optax.chain(factored_rms, optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms(), optax.scale(-0.1)),
    ),
    "novograd": (gx.novograd(0.1, 0.9, 0.25, 1e-6, 0.3), optax.novograd(0.1, 0.9, 0.25, 1e-6, weight_decay=0.3)),
    "sm3": (gx.sm3(0.1, 0.8, eps=1e-8), optax.sm3(0.1, 0.8)),
}
DIFFERENT = {
    "adafactor": (
        gx.adafactor(0.1),
        optax.adafactor(0.1),
        "Optax factors from 128 rows and columns on, as does `min_size=128`; and computes the decay in float32",
    ),
}

TORCH = {"adafactor": gx.adafactor(0.01)}

rate = 0.03
by_own_norm = gx.precondition(gx.identity(), by=gx.chain(gx.square(), gx.reduced(gx.identity(), how="sum"), gx.sqrt()))
LAWS = {
    "adafactor that factors nothing is RMSProp with a decay that grows": (
        gx.adafactor(rate, 0.8, max_rms=1e9, min_size=99),
        gx.chain(
            gx.precondition(
                gx.identity(),
                by=gx.chain(gx.square(), gx.scale_by_ema(lambda step: 1 - real(step + 1) ** -0.8), gx.sqrt()),
                eps=1e-15,
            ),
            gx.scale_by_param_rms(1e-3),
            gx.scale_by_learning_rate(rate),
        ),
    ),
    "adafactor that forgets, of vectors, is the sign, as large as the parameters": (
        gx.masked(gx.adafactor(rate, power=0.0), "b", otherwise="zero"),
        gx.masked(gx.chain(gx.sign(), gx.scale_by_param_rms(), gx.scale_by_learning_rate(rate)), "b", otherwise="zero"),
    ),
    "came that is sure of all is adafactor's direction, averaged": (
        gx.masked(gx.came(1e6 * rate, b3=0.0, eps_confidence=1e12), "w", otherwise="zero"),
        gx.masked(
            gx.chain(
                gx.precondition(
                    gx.identity(), by=gx.chain(gx.square(), gx.factored(gx.scale_by_ema(0.999)), gx.sqrt()), eps=1e-15
                ),
                gx.clip_by_rms(1.0),
                gx.scale_by_ema(0.9),
                gx.scale_by_learning_rate(rate),
            ),
            "w",
            otherwise="zero",
        ),
    ),
    "novograd that forgets is the gradient over its norm, leaf by leaf": (
        gx.novograd(rate, b1=0.0, b2=0.0),
        gx.chain(by_own_norm, gx.scale_by_learning_rate(rate)),
    ),
    "sm3 of vectors is adagrad": (
        gx.masked(gx.sm3(rate, momentum=0.0), "b", otherwise="zero"),
        gx.masked(gx.adagrad(rate, eps=0.0), "b", otherwise="zero"),
    ),
    "adam_mini of blocks of one is adam": (gx.adam_mini(rate, over=()), gx.adam(rate)),
    "adam_mini of one block of rows is that of the leaf": (
        gx.adam_mini(rate, over="rows", blocks=1),
        gx.adam_mini(rate, over="leaf"),
    ),
    "as many blocks as columns are the columns": (
        gx.masked(gx.adam_mini(rate, blocks=4), "w", otherwise="zero"),
        gx.masked(gx.adam_mini(rate, over=(0,)), "w", otherwise="zero"),
    ),
    "a running mean at power 1 is the mean": (
        gx.chain(gx.scale(0.0), gx.add_constant(3.0), gx.running_mean(1.0)),
        gx.chain(gx.scale(0.0), gx.add_constant(3.0)),
    ),
    "a running mean at power 0 is the last": (gx.running_mean(0.0), gx.identity()),
    "a factored average that forgets is a factored nothing": (
        gx.chain(gx.square(), gx.factored(gx.scale_by_ema(0.0))),
        gx.chain(gx.square(), gx.factored(gx.identity())),
    ),
    "clip_by_rms of a large bound changes nothing": (gx.clip_by_rms(1e9), gx.identity()),
    "clip_by_rms of a small one makes all as large": (
        gx.chain(gx.clip_by_rms(1e-3), gx.scale(1e3)),
        gx.chain(gx.scale(1e3), gx.clip_by_rms(1.0)),
    ),
    "scale_by_param_rms with a large floor is a scale": (gx.scale_by_param_rms(1e3), gx.scale(1e3)),
    "sm3_sum of constant matrices is the sum": (
        gx.chain(gx.square(), gx.reduced(gx.identity()), gx.sm3_sum()),
        gx.chain(gx.square(), gx.reduced(gx.running_sum())),
    ),
}
