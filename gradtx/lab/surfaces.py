"""Test surfaces: losses of two parameters that show how optimizers move."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradtx.core import Transformation, walk
from gradtx.core.apply import apply_updates
from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.core.programs import program_of
from gradtx.core.transformation import TransformationLike


class Surface(NamedTuple):
    """Loss of two parameters, with its minima, a start and the ranges of a picture."""

    function: Callable[[Any], Any]
    """The loss: a function from parameters of shape (2,) to one number. Programs are cached by its identity."""
    minima: tuple[tuple[float, float], ...]
    """All minima, the lowest first."""
    start: tuple[float, float]
    """The initial parameters."""
    xlim: tuple[float, float]
    """The range of the first parameter to draw."""
    ylim: tuple[float, float]
    """The range of the second parameter to draw."""
    title: str
    """The title of its pictures."""
    noise: float = 0.0
    """The standard deviation of the Gaussian noise added to each coordinate of each gradient."""


def _bowl(w):
    return (w[0] ** 2 + w[1] ** 2) / 2


def _elongated_bowl(w):
    return (w[0] ** 2 + 25 * w[1] ** 2) / 2


def _rosenbrock(w):
    return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2


def _beale(w):
    x, y = w
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _himmelblau(w):
    return (w[0] ** 2 + w[1] - 11) ** 2 + (w[0] + w[1] ** 2 - 7) ** 2


def _saddle(w):
    return w[0] ** 2 / 2 + (w[1] ** 2 - 1) ** 2 / 4


def _local_minimum(w):  # along the valley the slope is (x + 1)·x·(x − 2)
    x, y = w
    return x**4 / 4 - x**3 / 3 - x**2 + 8 / 3 + (y - 0.3 * x) ** 2


def _ravine(w):  # an elongated bowl, rotated by 30°
    along, across = (3**0.5 * w[0] + w[1]) / 2, (3**0.5 * w[1] - w[0]) / 2
    return (along**2 + 30 * across**2) / 2


SURFACES: dict[str, Surface] = {
    "bowl": Surface(_bowl, ((0, 0),), (-4, 3), (-5, 5), (-4, 4), "Quadratic bowl"),
    "elongated_bowl": Surface(_elongated_bowl, ((0, 0),), (-4.5, 1.0), (-5, 1.5), (-1.5, 1.5), "Elongated bowl"),
    "rosenbrock": Surface(_rosenbrock, ((1, 1),), (-1.3, 1.5), (-2, 2), (-0.75, 2.25), "Rosenbrock's valley"),
    "beale": Surface(_beale, ((3, 0.5),), (0.6, 1.6), (-0.5, 4), (-1.5, 2), "Beale's function"),
    "himmelblau": Surface(
        _himmelblau,
        ((3, 2), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127)),
        (-0.5, -0.5),
        (-5.5, 5.5),
        (-5, 5),
        "Himmelblau's function: four minima",
    ),
    "saddle": Surface(
        _saddle, ((0, -1), (0, 1)), (-1.8, 1e-3), (-2.1, 1.3), (-1.6, 1.6), "Saddle point between two minima"
    ),
    "local_minimum": Surface(
        _local_minimum,
        ((2, 0.6), (-1, -0.3)),
        (-2.2, -1.4),
        (-2.6, 3.2),
        (-1.9, 2.1),
        "A shallow minimum before the deep one",
    ),
    "noisy_ravine": Surface(_ravine, ((0, 0),), (-4, -1), (-5, 2), (-3, 2), "Ravine with gradient noise", noise=3.0),
}
"""Test surfaces, by name."""


@checked
def descend(
    surface: Surface, tx: TransformationLike, steps: int = 100, start: Any = None, key: Array | None = None
) -> np.ndarray:
    """Run an optimizer on a surface and return its path.

    Pieces of the optimizer receive the extra arguments that they need: the loss as `value`, a `key`, and, of the step's
    noisy loss, the gradient function `grad_fn` and the Hessian-vector product `hvp`.

    Args:
      surface: One of `SURFACES`, or a custom `Surface`.
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.
      steps: The number of updates, 1 or more.
      start: The initial parameters, two numbers; None for the start of the surface.
      key: The random key of the gradient noise and of the pieces that draw; None for `jax.random.key(0)`.

    Returns:
      The parameters before the first and after each update, an array of shape (steps + 1, 2).

    Raises:
      ValueError: A piece of the optimizer needs another extra argument, `start` is not two numbers, or `steps` is below
        1.
      TypeError: `surface` is not a `Surface`, or `tx` is not a transformation.

    >>> import gradtx as gx
    >>> from gradtx.lab import SURFACES, descend
    >>> descend(SURFACES["bowl"], gx.sgd(0.5), steps=2)
    array([[-4.  ,  3.  ],
           [-2.  ,  1.5 ],
           [-1.  ,  0.75]], dtype=float32)
    """
    if not isinstance(surface, Surface):
        raise TypeError(f"descend: surface must be a Surface, such as SURFACES['bowl'], got {said(surface)}")
    tx = Transformation.coerce("descend: tx", tx)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"descend: steps must be an integer, 1 or more, got {said(steps)}")
    start = np.asarray(surface.start if start is None else start, float)
    if start.shape != (2,):
        raise ValueError(f"descend: start must be two numbers, got an array of shape {start.shape}")
    for piece in walk(tx):
        if unknown := [name for name in piece.needs if name not in (*_EXTRA, "params", "**")]:
            raise ValueError(
                f"descend: {type(piece).__name__} needs the argument {unknown[0]!r}, which a surface does not give"
            )
    key = jax.random.key(0) if key is None else key
    program = program_of(surface.function, steps, lambda of: jax.jit(lambda *rest: _descend(of(), steps, *rest)))
    path = program(tx, jnp.asarray(start, float), surface.noise, key)
    return np.concatenate([start[None].astype(path.dtype), path])


_EXTRA = ("value", "key", "grad_fn", "hvp")


def _descend(function: Any, steps: int, tx: Transformation, start: Array, noise: Any, key: Array) -> Array:
    needs = {name for piece in walk(tx) for name in piece.needs}

    def step(carry, key):
        w, state = carry
        noise_key, own_key = jax.random.split(key)
        tilt = noise * jax.random.normal(noise_key, w.shape, w.dtype)

        def loss(w):  # of this step: the noise shifts its gradient everywhere, as a mini-batch does
            return function(w) + tilt @ (w - jax.lax.stop_gradient(w))

        grad_fn = jax.grad(loss)
        given = (function(w), own_key, grad_fn, lambda v: jax.jvp(grad_fn, (w,), (v,))[1])
        extra = {name: x for name, x in zip(_EXTRA, given) if {name, "**"} & needs}
        updates, state = tx.update(grad_fn(w), state, w, **extra)
        w = apply_updates(w, updates)
        return (w, state), w

    return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, steps))[1]
