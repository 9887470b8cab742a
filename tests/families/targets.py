"""References of MARS, dual averaging (MadGrad, FTRL), noisy SGD and variants of Adam."""

from itertools import count
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy import cbrt, ndarray, sqrt
from references import Gradients, Steps, divide

import gradtx as gx

LEAVES = {"bias": slice(0, 5), "kernel": slice(5, None)}  # of `as_tree`
SHAPES = {"bias": (5,), "kernel": (3, 4)}


def mars(gradients: Gradients, inner: Any, decay=0.95, gain=0.025) -> Steps:
    """Around plain descent, whose rate is read."""
    last, learning_rate = None, inner.links[-1].learning_rate
    for g in gradients:
        c = g + gain * decay / (1 - decay) * (g - (g if last is None else last))
        last = g
        for leaf in LEAVES.values():
            norm = sqrt(np.sum(c[leaf] ** 2))
            c[leaf] = c[leaf] / norm if norm > 1 else c[leaf]
        yield -learning_rate * c


def madgrad(gradients: Gradients, w: ndarray, learning_rate=1e-2, momentum=0.9, eps=1e-6) -> Steps:
    """The paper's algorithm 1; `w` are the parameters, which the caller moves by each step."""
    first, s, v = w.copy(), 0.0, 0.0
    for k, g in enumerate(gradients):
        weight = learning_rate * sqrt(k + 1)
        s = s + weight * g
        v = v + weight * g**2
        z = first - divide(s, cbrt(v) + eps)
        yield momentum * w + (1 - momentum) * z - w


def ftrl(gradients: Gradients, w: ndarray, learning_rate=1e-3, l1=0.0, l2=0.0, power=0.5, initial_value=0.1) -> Steps:
    """The paper's algorithm 1, coordinate by coordinate, with Keras's power, initial_value and 2·λ₂.

    z is a sum of large numbers, of which each step is a small difference: it, and the point, are kept in longer floats.
    """
    point = w.astype(np.longdouble)
    z, n = np.zeros_like(point), np.full_like(point, initial_value)
    for g in gradients:
        before = point.copy()
        for i, g_i in enumerate(g.astype(np.longdouble)):
            sigma = ((n[i] + g_i**2) ** power - n[i] ** power) / learning_rate
            z[i] += g_i - sigma * point[i]
            n[i] += g_i**2
            shrunk = max(abs(z[i]) - l1, 0)
            point[i] = shrunk and -np.sign(z[i]) * shrunk / (n[i] ** power / learning_rate + 2 * l2)
        yield (point - before).astype(float)


def noisy_sgd(gradients: Gradients, learning_rate=1e-3, variance=1e-2, power=0.55) -> Steps:
    """The paper's formula; the normal numbers are drawn as gradtx documents."""
    for t, g in zip(count(1), gradients):
        keys = (jax.random.fold_in(jax.random.fold_in(jax.random.key(0), t), crc32(p.encode())) for p in LEAVES)
        noise = [jax.random.normal(key, SHAPES[p], jnp.float64) for key, p in zip(keys, LEAVES)]
        normal = np.concatenate([np.ravel(x) for x in noise])
        yield -learning_rate * (g + sqrt(variance * t**-power) * normal)


def padam(gradients: Gradients, learning_rate=1e-1, b1=0.9, b2=0.999, eps=1e-8, exponent=0.125) -> Steps:
    m, v, largest = 0.0, 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        largest = np.maximum(largest, v / (1 - b2**t))
        yield -learning_rate * divide(m / (1 - b1**t), largest**exponent + eps)


def diffgrad(gradients: Gradients, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8) -> Steps:
    m, v, last = 0.0, 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        friction = 1 / (1 + np.exp(-abs(last - g)))
        last = g
        yield -learning_rate * friction * divide(m / (1 - b1**t), sqrt(v / (1 - b2**t)) + eps)


def adabound(
    gradients: Gradients, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, final_size=1e-2, speed=1e-3
) -> Steps:
    """In terms of rates, as in the paper, with the bounds of its published code."""
    m, v, final = 0.0, 0.0, learning_rate / final_size
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        lower, upper = final * (1 - 1 / (speed * t + 1)), final * (1 + 1 / (speed * t))
        with np.errstate(divide="ignore"):
            rates = np.clip(learning_rate / (sqrt(v / (1 - b2**t)) + eps), lower, upper)
        yield -rates * m / (1 - b1**t)


def pid(gradients: Gradients, learning_rate=1e-3, decay=0.9, integral=5.0, derivative=10.0) -> Steps:
    i, d, last = 0.0, 0.0, None
    for g in gradients:
        i = decay * i + g
        d = decay * d + (1 - decay) * (0 * g if last is None else g - last)
        last = g
        yield -learning_rate * (g + integral * i + derivative * d)


def acprop(gradients: Gradients, learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-16, eps_in_average=1e-13) -> Steps:
    """The paper's ε is (1 − β₂)·`eps_in_average`."""
    m, s, size = 0.0, 0.0, None
    for t, g in zip(count(1), gradients):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + (1 - b2) * eps_in_average
        now = sqrt(s / (1 - b2**t))
        yield -learning_rate * divide(g, (now if size is None else size) + eps)
        size = now


def independent_decay(gradients: Gradients, w: ndarray, inner: Any, weight_decay=1e-4, where: Any = 1) -> Steps:
    """Around plain descent, whose rate is read; `w` and `where` as for `adamw`."""
    for g in gradients:
        yield -inner.links[-1].learning_rate * g - where * weight_decay * w


def simplified_ademamix(gradients: Gradients, learning_rate=1e-5, b1=0.99, b2=0.95, alpha=0.0, eps=1e-8) -> Steps:
    m, v = 0.0, 0.0
    for t, g in zip(count(1), gradients):
        m = b1 * m + g
        v = b2 * v + (1 - b2) * g**2
        yield -learning_rate * divide(m + alpha * g, sqrt(v / (1 - b2**t)) + eps)


CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "mars": [
        {"inner": gx.sgd(0.1)},
        {"inner": gx.sgd(1.0), "decay": 0.5, "gain": 2.0},
        {"inner": gx.sgd(1e-3), "decay": 0.99, "gain": 0.1},
    ],
    "madgrad": [
        {},
        {"learning_rate": 1.0, "momentum": 0.0, "eps": 1e-3},
        {"learning_rate": 1e-3, "momentum": 0.99, "eps": 0.0},
    ],
    "ftrl": [
        {},
        {"learning_rate": 0.1, "l1": 3.0, "l2": 0.5, "initial_value": 0.0},
        {"learning_rate": 1.0, "l1": 0.1, "power": 0.3},
        {"learning_rate": 1e-3, "l2": 10.0, "power": 0.0, "initial_value": 1.0},
    ],
    "noisy_sgd": [{}, {"learning_rate": 0.1, "variance": 3.0, "power": 0.0}, {"variance": 1.0, "power": 2.0}],
    "padam": [
        {},
        {"learning_rate": 1e-3, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "exponent": 0.5},
        {"b2": 0.99, "eps": 0.0, "exponent": 0.25},
    ],
    "diffgrad": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3},
        {"b1": 0.99, "b2": 0.99, "eps": 0.0},
    ],
    "adabound": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "final_size": 1.0, "speed": 0.1},
        {"b1": 0.99, "b2": 0.99, "eps": 0.0, "speed": 1e-5},
    ],
    "pid": [
        {},
        {"learning_rate": 0.1, "decay": 0.5, "integral": 1.0, "derivative": 100.0},
        {"decay": 0.99, "derivative": 0.1},
    ],
    "acprop": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "eps_in_average": 1e-4},
        {"b1": 0.99, "b2": 0.99, "eps": 1e-8, "eps_in_average": 0.0},
    ],
    "independent_decay": [
        {"inner": gx.sgd(0.1)},
        {"inner": gx.sgd(1e-3), "weight_decay": 0.3},
        {"inner": gx.sgd(1.0), "weight_decay": 0.1, "where": {"bias": False, "kernel": True}},
    ],
    "simplified_ademamix": [
        {},
        {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.99, "alpha": 10.0, "eps": 1e-3},
        {"b1": 0.5, "b2": 0.5, "alpha": 1.0, "eps": 0.0},
    ],
}
CURVED = {"madgrad": True, "ftrl": True}


def exact_rate(count: Any) -> Any:
    """0.1 for Optax's madgrad, which adds ε to the rate and takes the root of an int32, so in float32."""
    return 0.1 * jnp.sqrt(jnp.asarray(count + 1, float)) / jnp.sqrt(count + 1) - 1e-6


OPTAX: dict[str, tuple[gx.Transformation, Any]] = {
    "adam with an independent decay": (
        gx.independent_decay(gx.adam(0.01), 0.1),
        optax.chain(optax.adam(0.01), optax.add_decayed_weights(-0.1)),
    ),
    "madgrad": (gx.madgrad(0.1), optax.contrib.madgrad(exact_rate)),
    "simplified_ademamix": (
        gx.simplified_ademamix(0.01, alpha=2.0),
        optax.contrib.simplified_ademamix(0.01, alpha=2.0),
    ),
    "noisy_sgd without noise": (gx.noisy_sgd(0.1, variance=0.0), optax.noisy_sgd(0.1, eta=0.0, key=0)),
}
TORCH = {"radam": gx.radam(0.01, eps=lambda step: 1e-8 / jnp.sqrt(1 - 0.999 ** (step + 1)))}

rate = 0.03
LAWS = {
    "mars without gain is its inner, clipped": (
        gx.mars(gx.adam(rate), gain=0.0),
        gx.chain(gx.clip_by_norm(1.0), gx.adam(rate)),
    ),
    "madgrad with momentum goes a fraction of the way": (
        gx.madgrad(rate, 0.9),
        gx.chain(gx.madgrad(rate, 0.0), gx.scale(1 - 0.9)),
    ),
    "ftrl without penalties is adagrad": (
        gx.chain(gx.add_constant(3.0), gx.ftrl(rate, initial_value=0.0)),
        gx.chain(gx.add_constant(3.0), gx.adagrad(rate, eps=0.0)),
    ),
    "ftrl with large penalties is 0": (
        gx.ftrl(rate, l1=1e6),
        gx.chain(gx.emit_params(), gx.scale(-1.0)),
    ),
    "noisy_sgd without noise is SGD": (gx.noisy_sgd(rate, variance=0.0), gx.sgd(rate)),
    "padam with the root is amsgrad": (gx.padam(rate, exponent=0.5), gx.amsgrad(rate)),
    "padam without a denominator is momentum": (
        gx.padam(rate, eps=0.0, exponent=0.0),
        gx.chain(gx.momentum(), gx.scale_by_learning_rate(rate)),
    ),
    "diffgrad of gradients that jump is adam": (
        gx.chain(gx.scale(1e6), gx.diffgrad(rate, b1=0.0)),
        gx.chain(gx.scale(1e6), gx.adam(rate, b1=0.0)),
    ),
    "adabound with wide bounds is adam": (gx.adabound(rate, speed=1e-12), gx.adam(rate)),
    "adabound with narrow bounds is momentum": (
        gx.adabound(rate, final_size=0.5, speed=1e9),
        gx.chain(gx.momentum(), gx.scale_by_learning_rate(2 * rate)),
    ),
    "pid of the gradient alone is SGD": (gx.pid(rate, integral=0.0, derivative=0.0), gx.sgd(rate)),
    "pid without memory is optimistic_sgd": (
        gx.pid(rate, 0.0, integral=0.0, derivative=0.5),
        gx.optimistic_sgd(rate, 0.5),
    ),
    "an independent decay is adamw's, over the rate": (
        gx.independent_decay(gx.adam(rate), 0.1 * rate),
        gx.adamw(rate, weight_decay=0.1),
    ),
    "acprop with an exact average has only ε for a denominator": (
        gx.acprop(rate, b1=0.0, eps=1.0, eps_in_average=1.0),
        gx.sgd(rate / 2),
    ),
    "simplified_ademamix without α is adam": (
        gx.simplified_ademamix(rate * (1 - 0.9), 0.9, 0.999),
        gx.chain(gx.precondition(gx.scale_by_ema(0.9), by=gx.rms(0.999)), gx.scale_by_learning_rate(rate)),
    ),
    "a start that was not left is here": (gx.from_start(), gx.identity()),
    "a power of ½ is the root": (gx.power(0.5), gx.sqrt()),
    "a power of 0 is 1": (gx.power(0.0), gx.chain(gx.scale(0.0), gx.add_constant(1.0))),
    "steps to the power 0 are not counted": (gx.scale_by_step(0.0), gx.identity()),
    "clip_by_norm of one leaf is clip_by_global_norm": (
        gx.partition({"w": gx.clip_by_norm(0.5)}, default=gx.sgd(rate)),
        gx.partition({"w": gx.clip_by_global_norm(0.5)}, default=gx.sgd(rate)),
    ),
    "a product with itself is the square": (gx.multiply(gx.identity(), gx.identity()), gx.square()),
    "a product of one is the one": (gx.multiply(gx.scale_by_ema(0.9)), gx.scale_by_ema(0.9)),
    "a sigmoid far from 0 is a step": (
        gx.chain(gx.scale(1e9), gx.sigmoid()),
        gx.chain(gx.sign(), gx.add_constant(1.0), gx.scale(0.5)),
    ),
    "a delayed sum begins where it says": (
        gx.chain(gx.running_sum(0.5), gx.delay(0.5)),
        gx.chain(gx.delay(), gx.running_sum(0.5)),
    ),
}
