"""Smooth functions to minimize: in JAX, and in NumPy with the gradient by hand, from the same start."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy import ndarray


class Problem(NamedTuple):
    """A function in JAX, its value and gradient in NumPy, a start and the lowest value."""

    function: Callable[[Any], Any]
    by_hand: Callable[[ndarray], tuple[Any, ndarray]]
    start: ndarray
    lowest: float = 0.0


def rosenbrock(x: Any) -> Any:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_by_hand(x: ndarray) -> tuple[Any, ndarray]:
    away, g = x[1:] - x[:-1] ** 2, np.zeros_like(x)
    g[:-1] += -400 * x[:-1] * away - 2 * (1 - x[:-1])
    g[1:] += 200 * away
    return np.sum(100 * away**2 + (1 - x[:-1]) ** 2), g


def beale(x: Any) -> Any:
    a, b = x
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def beale_by_hand(x: ndarray) -> tuple[Any, ndarray]:
    a, b = x
    rest = np.array([1.5 - a + a * b, 2.25 - a + a * b**2, 2.625 - a + a * b**3])
    slopes = np.array([[b - 1, a], [b**2 - 1, 2 * a * b], [b**3 - 1, 3 * a * b**2]])
    return rest @ rest, 2 * slopes.T @ rest


def himmelblau(x: Any) -> Any:
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def himmelblau_by_hand(x: ndarray) -> tuple[Any, ndarray]:
    u, v = x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7
    return u**2 + v**2, np.array([4 * u * x[0] + 2 * v, 2 * u + 4 * v * x[1]])


CURVATURES = np.geomspace(1, 1e4, 100)


def bowl(x: Any) -> Any:
    return jnp.sum(jnp.asarray(CURVATURES, x.dtype) * x**2) / 2


def bowl_by_hand(x: ndarray) -> tuple[Any, ndarray]:
    return CURVATURES @ x**2 / 2, CURVATURES * x


@cache
def digits() -> tuple[ndarray, ndarray]:
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    return np.hstack([pixels / 16, np.ones((len(pixels), 1))]), np.eye(10)[classes]


def logistic(w: Any) -> Any:
    pixels, classes = map(jnp.asarray, digits())
    scores = pixels @ w.reshape(65, 10)
    return jnp.mean(jax.nn.logsumexp(scores, 1) - jnp.sum(classes * scores, 1)) + 5e-4 * jnp.sum(w**2)


def logistic_by_hand(w: ndarray) -> tuple[Any, ndarray]:
    pixels, classes = digits()
    scores = pixels @ w.reshape(65, 10)
    most = scores.max(1, keepdims=True)
    odds = np.exp(scores - most)
    total = odds.sum(1, keepdims=True)
    value = np.mean((most + np.log(total))[:, 0] - (classes * scores).sum(1)) + 5e-4 * w @ w
    return value, (pixels.T @ (odds / total - classes) / len(pixels)).ravel() + 1e-3 * w


PROBLEMS = {
    "Rosenbrock of 2": Problem(rosenbrock, rosenbrock_by_hand, np.array([-1.2, 1.0])),
    "Rosenbrock of 100": Problem(rosenbrock, rosenbrock_by_hand, np.tile([-1.2, 1.0], 50)),
    "Beale": Problem(beale, beale_by_hand, np.ones(2)),
    "Himmelblau": Problem(himmelblau, himmelblau_by_hand, np.zeros(2)),
    "bowl of condition 1e4": Problem(bowl, bowl_by_hand, np.ones(100)),
    "logistic regression": Problem(logistic, logistic_by_hand, np.zeros(650), lowest=0.26392582),
}
