"""The textbook's optimizers in NumPy, one loop each, and the drivers that measure optimizers against them.

A reference takes the gradients, one array a step, and yields the steps w' − w. It has the name, the arguments and the
defaults of the recipe it is for, and shares nothing with it.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy import ndarray, sqrt

Gradients = Iterable[ndarray]
Steps = Iterator[ndarray]


# ---------------------------------------------------------------- rows 5 to 14: descent and momentum
def sgd(gradients: Gradients, learning_rate=1e-2, momentum=0.0, nesterov=False) -> Steps:
    v = 0.0
    for g in gradients:
        v = momentum * v + g
        yield -learning_rate * (g + momentum * v) if nesterov else -learning_rate * v


def averaged_momentum(gradients: Gradients, learning_rate=1e-1, decay=0.9) -> Steps:
    v = 0.0
    for g in gradients:
        v = decay * v + (1 - decay) * g
        yield -learning_rate * v


def heavy_ball(gradients: Gradients, learning_rate=1e-2, decay=0.9) -> Steps:
    v = 0.0
    for g in gradients:
        v = decay * v + g
        yield -learning_rate * v


def rate_inside_momentum(gradients: Gradients, learning_rate=1e-2, decay=0.9) -> Steps:
    v = 0.0
    for g in gradients:
        v = decay * v + learning_rate * g
        yield -v


def rolling_ball(gradients: Gradients, time_step=1e-1, friction=1.0, mass=1.0) -> Steps:
    """x ← x + α·v, v ← β·v − ∇f, with α = Δt and β = 1 − (Δt/m)·η."""
    v = 0.0
    for g in gradients:
        v = (1 - (time_step / mass) * friction) * v - g
        yield time_step * v


def nesterov(gradients: Gradients, learning_rate=1e-2, decay=0.9) -> Steps:
    """Row 14, gradients at the look-ahead point: x̃ ← x̃ + v' + ρ·(v' − v)."""
    v = 0.0
    for g in gradients:
        before, v = v, decay * v - learning_rate * g
        yield v + decay * (v - before)


def nesterov_looking_ahead(
    w: ndarray, gradient: Callable[[ndarray], ndarray], learning_rate: float, decay: float
) -> Iterator[tuple[ndarray, ndarray]]:
    """Row 13, the gradient taken at w − β·v: v ← β·v + η·g, w ← w − v. Yields (w, v)."""
    v = np.zeros_like(w)
    while True:
        v = decay * v + learning_rate * gradient(w - decay * v)
        w = w - v
        yield w, v


# ---------------------------------------------------------------- rows 15 to 20: a size for each coordinate
def divide(a: Any, b: Any) -> ndarray:
    """a / b, where 0/0 is 0."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.zeros_like(a), where=(a != 0) | (b != 0))


def size(s: Any, eps: float, eps_in_sqrt: bool) -> Any:
    return sqrt(s + eps) if eps_in_sqrt else sqrt(s) + eps


def adagrad(gradients: Gradients, learning_rate=1e-2, eps=1e-8, eps_in_sqrt=False, start=0.0) -> Steps:
    s = start
    for g in gradients:
        s = s + g**2
        yield -learning_rate * divide(g, size(s, eps, eps_in_sqrt))


def rmsprop(
    gradients: Gradients,
    learning_rate=1e-3,
    decay=0.9,
    eps=1e-8,
    eps_in_sqrt=False,
    centered=False,
    momentum=0.0,
    nesterov=False,
    corrected=False,
) -> Steps:
    s, m, v = 0.0, 0.0, 0.0
    for t, g in zip(count(1), gradients):
        s = decay * s + (1 - decay) * g**2
        m = decay * m + (1 - decay) * g
        correction = 1 - decay**t if corrected else 1.0
        spread = s / correction - (m / correction) ** 2 if centered else s / correction
        u = divide(g, size(spread, eps, eps_in_sqrt))
        v = momentum * v + u
        yield -learning_rate * (u + momentum * v) if nesterov else -learning_rate * v


def adadelta(gradients: Gradients, learning_rate=1.0, decay=0.9, eps=1e-6) -> Steps:
    s, x = 0.0, 0.0
    for g in gradients:
        s = decay * s + (1 - decay) * g**2
        u = divide(sqrt(x + eps), sqrt(s + eps)) * g
        x = decay * x + (1 - decay) * u**2
        yield -learning_rate * u


def rprop(
    gradients: Gradients,
    learning_rate=1e-2,
    grow=1.2,
    shrink=0.6,
    smallest=1e-6,
    largest=50.0,
    wait_on_flip=False,
) -> Steps:
    s, before = learning_rate, 0.0
    for g in gradients:
        s = np.where(g * before > 0, np.minimum(s * grow, largest), s)
        s = np.where(g * before < 0, np.maximum(s * shrink, smallest), s)
        before = np.where(g * before < 0, 0.0, g) if wait_on_flip else g
        yield -s * np.sign(before)


def adam(
    gradients: Gradients, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, eps_in_sqrt=False, corrected=True
) -> Steps:
    m, s = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        m_hat, s_hat = (m / (1 - b1**t), s / (1 - b2**t)) if corrected else (m, s)
        yield -learning_rate * divide(m_hat, size(s_hat, eps, eps_in_sqrt))


Schedule = Callable[[int], float]


def scheduled_adam(gradients: Gradients, learning_rate: Schedule, b1: Schedule, b2: Schedule, eps: Schedule) -> Steps:
    """Every hyperparameter a function of the step, from 0: the averages' weights sum to 1 − b(0)·b(1)·…"""
    m, s, product1, product2 = 0.0, 0.0, 1.0, 1.0
    for step, g in enumerate(gradients):
        m = b1(step) * m + (1 - b1(step)) * g
        s = b2(step) * s + (1 - b2(step)) * g**2
        product1, product2 = product1 * b1(step), product2 * b2(step)
        yield -learning_rate(step) * (m / (1 - product1)) / (sqrt(s / (1 - product2)) + eps(step))


def keras_adam(gradients: Gradients, learning_rate: float, b1: float, b2: float, eps: float) -> Steps:
    """Adam with ε added before the bias correction: the efficient form of Kingma and Ba, section 2, and Keras'."""
    m, s = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        yield -learning_rate * sqrt(1 - b2**t) / (1 - b1**t) * m / (sqrt(s) + eps)


def adamw(
    gradients: Gradients, w: ndarray, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2, where: Any = 1
) -> Steps:
    """`w` are the parameters, which the caller moves by each step; `where` is 1 where they decay, 0 elsewhere."""
    m, s = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        m_hat, s_hat = m / (1 - b1**t), s / (1 - b2**t)
        yield -learning_rate * (divide(m_hat, sqrt(s_hat) + eps) + where * weight_decay * w)


def adamax(gradients: Gradients, learning_rate=2e-3, b1=0.9, b2=0.999, eps=1e-8) -> Steps:
    """With ε = 0 the paper's; the libraries add ε to |g|."""
    m, s = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        s = np.maximum(b2 * s, abs(g) + eps)
        yield -learning_rate / (1 - b1**t) * divide(m, s)


def nadam(
    gradients: Gradients, learning_rate=2e-3, b1=0.9, b2=0.999, eps=1e-8, warm_up=False, warm_up_rate=0.004
) -> Steps:
    """Dozat's algorithm 2, but as in PyTorch and Keras m decays by β₁, not by μ, and ŝ is not multiplied by β₂."""

    def mu(t: int) -> float:
        return b1 * (1 - 0.5 * 0.96 ** (warm_up_rate * t)) if warm_up else b1

    m, s, product = 0.0, 0.0, 1.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        product = product * mu(t)
        n = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        yield -learning_rate * divide(n, sqrt(s / (1 - b2**t)) + eps)


def amsgrad(gradients: Gradients, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, correct_first=True) -> Steps:
    m, s, largest = 0.0, 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        largest = np.maximum(largest, s / (1 - b2**t) if correct_first else s)
        s_hat = largest if correct_first else largest / (1 - b2**t)
        yield -learning_rate * divide(m / (1 - b1**t), sqrt(s_hat) + eps)


# ---------------------------------------------------------------- what they are run on
SIZE = 17  # coordinates: a bias of 5 and a kernel of 3 × 4
START = np.random.default_rng(0).standard_normal(SIZE)


def as_tree(vector: Any) -> dict[str, Any]:
    return {"bias": vector[:5], "kernel": vector[5:].reshape(3, 4)}


def as_vector(tree: Any) -> jax.Array:
    return jnp.concatenate([tree["bias"], tree["kernel"].ravel()])


def gradient_stream(steps: int, seed: int) -> ndarray:
    """Normal gradients of scales 1e-3 to 1e2, (steps, SIZE), some with a mean; the last four columns as said here."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((steps, SIZE)) + np.linspace(-2, 2, SIZE)
    noise *= np.logspace(-3, 2, SIZE)
    signs = (-1.0) ** np.arange(steps)
    noise[:, -4] = 0  # never anything
    noise[:, -3] = rng.standard_normal(steps) * (rng.random(steps) < 0.3)  # sparse
    noise[:, -2] = signs * rng.random(steps)  # flips every step
    noise[:, -1] = np.sin(np.arange(steps) / 20)  # flips seldom; exactly 0 at first
    return noise


def reference_steps(reference: Callable[..., Steps], noise: ndarray, curvature: Any = 0.0, **arguments: Any) -> ndarray:
    """The steps of a reference from START, with the gradients curvature·w + noise; (steps, SIZE)."""
    w = START.copy()
    if reference is adamw:
        arguments["w"] = w
    steps = []
    for step in reference((curvature * w + row for row in noise), **arguments):
        w += step  # in place: the gradients above and adamw read the moved w
        steps.append(step)
    return np.array(steps)


def steps_of(tx: Any, noise: Any, curvature: Any = 0.0, start: Any = START) -> jax.Array:
    """The same of a pair (init, update), as one compiled loop."""
    init, update = tx

    def step(carry, row):
        w, state = carry
        u, state = update(as_tree(curvature * w + row), state, as_tree(w))
        return (w + as_vector(u), state), as_vector(u)

    w = jnp.asarray(start, jnp.result_type(float))
    return jax.lax.scan(step, (w, init(as_tree(w))), noise)[1]


def worst_error(steps: Any, expected: Any) -> float:
    """The largest over the run of max|difference| / max|expected step|."""
    steps, expected = np.asarray(steps, np.float64), np.asarray(expected)
    assert steps.shape == expected.shape
    return float(np.max(np.abs(steps - expected).max(1) / np.abs(expected).max(1)))
