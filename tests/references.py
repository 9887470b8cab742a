"""The textbook's optimizers in NumPy, one loop each, and the drivers that measure optimizers against them.

A reference takes the gradients, one array a step, and yields the steps w' − w. It has the name, the arguments and the
defaults of the recipe it is for, and shares nothing with it.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import count, tee
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy import ndarray, sqrt

import gradtx as gx
from gradtx.core import walk

Gradients = Iterable[ndarray]
Steps = Iterator[ndarray]


# ---------------------------------------------------------------- rows 5 to 14: descent and momentum
def real(step: Any) -> Any:
    """The step as a floating number, for JAX without implicit promotion."""
    return step.astype(float) if isinstance(step, jax.Array) else step


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


# ---------------------------------------------------------------- rows 15 to 20: a denominator for each coordinate
def divide(a: Any, b: Any) -> ndarray:
    """a / b, where 0/0 is 0."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.zeros_like(a), where=(a != 0) | (b != 0))


def denominator(s: Any, eps: float, eps_in_sqrt: bool) -> Any:
    return sqrt(s + eps) if eps_in_sqrt else sqrt(s) + eps


def adagrad(gradients: Gradients, learning_rate=1e-2, eps=1e-8, eps_in_sqrt=False, initial_value=0.0) -> Steps:
    s = initial_value
    for g in gradients:
        s = s + g**2
        yield -learning_rate * divide(g, denominator(s, eps, eps_in_sqrt))


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
        u = divide(g, denominator(spread, eps, eps_in_sqrt))
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
        yield -learning_rate * divide(m_hat, denominator(s_hat, eps, eps_in_sqrt))


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
    gradients: Gradients, learning_rate=2e-3, b1=0.9, b2=0.999, eps=1e-8, warmup=False, warmup_rate=0.004
) -> Steps:
    """Dozat's algorithm 2, but as in PyTorch and Keras m decays by β₁, not by μ, and ŝ is not multiplied by β₂."""

    def mu(t: int) -> float:
        return b1 * (1 - 0.5 * 0.96 ** (warmup_rate * t)) if warmup else b1

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


# ---------------------------------------------------------------- other denominators
def laprop(gradients: Gradients, learning_rate=4e-4, b1=0.9, b2=0.999, eps=1e-15) -> Steps:
    n, m = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        n = b2 * n + (1 - b2) * g**2
        m = b1 * m + (1 - b1) * divide(g, sqrt(n / (1 - b2**t)) + eps)
        yield -learning_rate * m / (1 - b1**t)


def nadamw(
    gradients: Gradients, w: ndarray, learning_rate=2e-3, weight_decay=1e-2, where: Any = 1, **of_nadam
) -> Steps:
    """`w` and `where` as for `adamw`."""
    for step in nadam(gradients, 1.0, **of_nadam):
        yield learning_rate * (step - where * weight_decay * w)


def adamaxw(
    gradients: Gradients, w: ndarray, learning_rate=2e-3, weight_decay=1e-2, where: Any = 1, **of_adamax
) -> Steps:
    for step in adamax(gradients, 1.0, **of_adamax):
        yield learning_rate * (step - where * weight_decay * w)


def adabelief(gradients: Gradients, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-16, eps_in_average=1e-13) -> Steps:
    """The paper's algorithm 2, whose first ε is (1 − β₂)·`eps_in_average`."""
    m, s = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + (1 - b2) * eps_in_average
        yield -learning_rate * divide(m / (1 - b1**t), sqrt(s / (1 - b2**t)) + eps)


def yogi(
    gradients: Gradients, learning_rate=1e-2, b1=0.9, b2=0.999, eps=1e-3, initial_value=1e-6, corrected=True
) -> Steps:
    m, v = 0.0, initial_value
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * np.sign(v - g**2) * g**2
        m_hat, v_hat = (m / (1 - b1**t), v / (1 - b2**t)) if corrected else (m, v)
        yield -learning_rate * divide(m_hat, sqrt(v_hat) + eps)


def radam(gradients: Gradients, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, threshold=5.0) -> Steps:
    """The paper's algorithm 2. ρ from what it is derived from, (ρ + 1)/2 = Σ i·β₂ⁱ⁻¹ / Σ β₂ⁱ⁻¹ over i = 1 … t."""
    m, s, total, weighted, limit = 0.0, 0.0, 0.0, 0.0, 2 / (1 - b2) - 1
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        total, weighted = total + b2 ** (t - 1), weighted + t * b2 ** (t - 1)
        rho, u = 2 * weighted / total - 1, m / (1 - b1**t)
        if rho > threshold:
            r = sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            u = r * divide(u, sqrt(s / (1 - b2**t)) + eps)
        yield -learning_rate * u


# ---------------------------------------------------------------- directions
def sgdw(
    gradients: Gradients, w: ndarray, learning_rate=1e-2, momentum=0.9, weight_decay=1e-2, where: Any = 1
) -> Steps:
    v = 0.0
    for g in gradients:
        v = momentum * v + g
        yield -learning_rate * v - learning_rate * weight_decay * where * w


def sign_sgd(gradients: Gradients, learning_rate=1e-3) -> Steps:
    for g in gradients:
        yield -learning_rate * np.sign(g)


def signum(gradients: Gradients, learning_rate=1e-3, decay=0.9) -> Steps:
    m = 0.0
    for g in gradients:
        m = decay * m + (1 - decay) * g
        yield -learning_rate * np.sign(m)


def lion(
    gradients: Gradients, w: ndarray, learning_rate=1e-4, b1=0.9, b2=0.99, weight_decay=1e-3, where: Any = 1
) -> Steps:
    m = 0.0
    for g in gradients:
        c = b1 * m + (1 - b1) * g
        m = b2 * m + (1 - b2) * g
        yield -learning_rate * (np.sign(c) + weight_decay * where * w)


def qhm(gradients: Gradients, learning_rate=1.0, decay=0.999, weight=0.7) -> Steps:
    m = 0.0
    for g in gradients:
        m = decay * m + (1 - decay) * g
        yield -learning_rate * ((1 - weight) * g + weight * m)


def qhadam(gradients: Gradients, learning_rate=1e-3, b1=0.995, b2=0.999, weight1=0.7, weight2=1.0, eps=1e-8) -> Steps:
    m, s = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * g**2
        above = (1 - weight1) * g + weight1 * m / (1 - b1**t)
        below = (1 - weight2) * g**2 + weight2 * s / (1 - b2**t)
        yield -learning_rate * divide(above, sqrt(below) + eps)


def aggmo(gradients: Gradients, learning_rate=1e-1, decays=(0.0, 0.9, 0.99)) -> Steps:
    velocities = [0.0 for _ in decays]
    for g in gradients:
        velocities = [decay * v - g for decay, v in zip(decays, velocities)]
        yield learning_rate / len(decays) * np.sum(velocities, axis=0)


def optimistic_sgd(gradients: Gradients, learning_rate=1e-2, optimism=1.0) -> Steps:
    last = None
    for g in gradients:
        last = g if last is None else last
        yield -learning_rate * (1 + optimism) * g + learning_rate * optimism * last
        last = g


def optimistic_adam(gradients: Gradients, learning_rate=1e-3, optimism=1.0, b1=0.9, b2=0.999, eps=1e-8) -> Steps:
    last = None
    for u in adam(gradients, learning_rate, b1, b2, eps):
        last = u if last is None else last
        yield (1 + optimism) * u - optimism * last
        last = u


def ademamix(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-3,
    b1=0.9,
    b2=0.999,
    b3=0.9999,
    alpha=6.0,
    eps=1e-8,
    weight_decay=0.0,
    where: Any = 1,
) -> Steps:
    fast, slow, s = 0.0, 0.0, 0.0
    for t, g in zip(count(1), gradients):
        fast = b1 * fast + (1 - b1) * g
        slow = b3 * slow + (1 - b3) * g
        s = b2 * s + (1 - b2) * g**2
        step = divide(fast / (1 - b1**t) + alpha * slow, sqrt(s / (1 - b2**t)) + eps)
        yield -learning_rate * (step + weight_decay * where * w)


def adan(
    gradients: Gradients,
    w: ndarray,
    learning_rate=1e-3,
    b1=0.98,
    b2=0.92,
    b3=0.99,
    gain=0.92,
    eps=1e-8,
    weight_decay=0.0,
    where: Any = 1,
) -> Steps:
    m, d, s, last = 0.0, 0.0, 0.0, None
    for t, g in zip(count(1), gradients):
        change = 0 * g if last is None else g - last
        last = g
        m = b1 * m + (1 - b1) * g
        d = b2 * d + (1 - b2) * change
        s = b3 * s + (1 - b3) * (g + gain * change) ** 2
        step = divide(m / (1 - b1**t) + gain * d / (1 - b2**t), sqrt(s / (1 - b3**t)) + eps)
        yield -learning_rate * (step + weight_decay * where * w)


def grokfast(gradients: Gradients, inner: Any, decay=0.98, gain=2.0) -> Steps:
    """Before plain descent, of which the rate is read."""
    m, learning_rate = None, inner.links[-1].learning_rate
    for g in gradients:
        m = g if m is None else decay * m + (1 - decay) * g
        yield -learning_rate * (g + gain * m)


def cautious(gradients: Gradients, learning_rate=1e-1, decay=0.9, floor=1e-3) -> Steps:
    """With averaged momentum; the means are over the leaves of `as_tree`."""
    gradients, again = tee(gradients)
    for g, u in zip(gradients, averaged_momentum(again, learning_rate, decay)):
        step = np.where(-u * g > 0, u, 0.0)
        for leaf in (slice(0, 5), slice(5, None)):
            step[leaf] /= max(np.mean(-u[leaf] * g[leaf] > 0), floor)
        yield step


def stable_adamw(
    gradients: Gradients, w: ndarray, learning_rate=1e-3, b1=0.9, b2=0.99, eps=1e-6, weight_decay=1e-2, where: Any = 1
) -> Steps:
    """The paper's algorithm 2, with its corrected decays β̂; `w` and `where` as for `adamw`, in two tensors."""
    tensors = slice(0, 5), slice(5, None)
    v, u, rate = 0.0, 0.0, np.zeros_like(w)
    for t, g in zip(count(1), gradients):
        hat1, hat2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (b1, b2))
        v = hat1 * v + (1 - hat1) * g
        u = hat2 * u + (1 - hat2) * g**2
        squares = divide(g**2, np.maximum(u, eps**2))
        for tensor in tensors:
            rate[tensor] = learning_rate / max(1, sqrt(squares[tensor].mean()))
        yield -rate * where * weight_decay * w - rate * divide(v, sqrt(u) + eps)


def adopt(gradients: Gradients, learning_rate=1e-3, b1=0.9, b2=0.9999, eps=1e-6, clip_power=0.25) -> Steps:
    """The paper's algorithm 2, whose g₀ only starts v."""
    gradients = iter(gradients)
    v, m = next(gradients) ** 2, 0.0
    yield 0 * v
    for t, g in zip(count(1), gradients):
        limit = t**clip_power
        m = b1 * m + (1 - b1) * np.clip(divide(g, np.maximum(sqrt(v), eps)), -limit, limit)
        v = b2 * v + (1 - b2) * g**2
        yield -learning_rate * m


# ---------------------------------------------------------------- gradients
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
    """The steps of a reference from START, with the gradients curvature·w + noise; (steps, SIZE).

    A reference is given what it has a parameter for: `w`, the loss `value()`, `grad_fn(point)`, `hvp(v)`.
    """
    w, now = START.copy(), {}

    def gradients():
        for now["row"] in noise:
            yield curvature * w + now["row"]

    given = {
        "w": w,
        "value": lambda: np.sum(curvature * w * w / 2 + now["row"] * w),
        "grad_fn": lambda point: curvature * point + now["row"],
        "hvp": lambda v: curvature * v,
    }
    arguments |= {name: x for name, x in given.items() if name in inspect.signature(reference).parameters}
    steps = []
    for step in reference(gradients(), **arguments):
        w += step  # in place: all of the above and the reference read the moved w
        steps.append(step)
    return np.array(steps)


def steps_of(tx: Any, noise: Any, curvature: Any = 0.0, start: Any = START) -> jax.Array:
    """The same of a pair (init, update), as one compiled loop."""
    init, update = tx

    needs = {name for piece in walk(tx) for name in piece.needs} if isinstance(tx, gx.Transformation) else ()

    def step(carry, row):
        w, state = carry
        given = {
            "value": jnp.sum(curvature * w * w / 2 + row * w),
            "grad_fn": lambda point: as_tree(curvature * as_vector(point) + row),
            "hvp": lambda v: as_tree(curvature * as_vector(v)),
            "key": jax.random.key(0),
        }
        extra = {name: x for name, x in given.items() if name in needs}
        u, state = update(as_tree(curvature * w + row), state, as_tree(w), **extra)
        return (w + as_vector(u), state), as_vector(u)

    w = jnp.asarray(start, jnp.result_type(float))
    return jax.lax.scan(step, (w, init(as_tree(w))), noise)[1]


def worst_error(steps: Any, expected: Any) -> float:
    """The largest over the run of max|difference| / max|expected step|, and 0 where both are 0."""
    steps, expected = np.asarray(steps, np.float64), np.asarray(expected)
    assert steps.shape == expected.shape
    return float(np.max(divide(np.abs(steps - expected).max(1), np.abs(expected).max(1))))
