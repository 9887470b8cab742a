"""Averages of the parameters, lookahead, schedule-free."""

from itertools import count
from typing import Any

import jax
import numpy as np
import optax
from numpy import ndarray, sqrt
from references import Gradients, Steps, divide, radam, real

import gradtx as gx


# ---------------------------------------------------------------- references
def asgd(
    gradients: Gradients, w: ndarray, learning_rate=1e-2, weight_decay=1e-4, power=0.75, start=1, where: Any = 1
) -> Steps:
    """As PyTorch computes: the rate of a step is made at the end of the step before."""
    eta = learning_rate
    for t, g in zip(count(1), gradients):
        yield -eta * where * weight_decay * w - eta * g
        eta = learning_rate / (1 + weight_decay * learning_rate * t) ** power


def schedule_free_adamw(
    gradients: Gradients,
    w: ndarray,
    learning_rate: Any = 2.5e-3,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    where: Any = 1,
) -> Steps:
    """The form of the authors' code, which moves y and z and never computes x."""
    v, z, total, largest = 0.0, w.copy(), 0.0, 0.0
    for t, g in zip(count(1), gradients):
        rate: Any = learning_rate(t - 1) if callable(learning_rate) else learning_rate
        v = b2 * v + (1 - b2) * g**2
        d = divide(g, sqrt(v / (1 - b2**t)) + eps) + weight_decay * where * w
        largest = max(largest, rate)
        total += largest**2
        c = largest**2 / total
        step = c * (z - w) + rate * (b1 * (1 - c) - 1) * d
        z = z - rate * d
        yield step


def swa(gradients: Gradients, inner: Any, start=1, every_k=1) -> Steps:
    """Around plain descent, whose rate is read: the average does not move the parameters."""
    for g in gradients:
        yield -inner.links[-1].learning_rate * g


def rising(step: Any) -> Any:
    return 0.02 * real(step + 1) / real(step + 50)


WHERE = {"bias": False, "kernel": True}


def ranger(
    gradients: Gradients, w: ndarray, learning_rate=1e-3, b1=0.95, b2=0.999, eps=1e-5, every_k=6, weight=0.5
) -> Steps:
    """The kernel, the last 12 coordinates, has 3 inputs and 4 outputs."""

    def centralized(g):
        kernel = g[5:].reshape(3, 4)
        return np.concatenate([g[:5], (kernel - kernel.mean(0)).ravel()])

    slow = w.copy()
    for t, step in zip(count(1), radam(map(centralized, gradients), learning_rate, b1, b2, eps)):
        if t % every_k == 0:
            slow = slow + weight * (w + step - slow)
            step = slow - w
        yield step


CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "asgd": [
        {},
        {"learning_rate": 0.1, "weight_decay": 0.3, "power": 0.5, "start": 100},
        {"learning_rate": 0.01, "weight_decay": 1.0, "power": 1.0, "where": WHERE},
    ],
    "ranger": [  # at small rates a pull is a difference of near parameters, in the reference
        {"learning_rate": 0.1},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "every_k": 2, "weight": 0.8},
        {"learning_rate": 1.0, "b1": 0.9, "b2": 0.99, "every_k": 5, "weight": 1.0},
    ],
    "schedule_free_adamw": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.1},
        {"learning_rate": rising, "b1": 0.98, "weight_decay": 0.3, "where": WHERE},
        {"b1": 1.0, "eps": 0.0},
    ],
    "swa": [
        {"inner": gx.sgd(0.1)},
        {"inner": gx.sgd(0.01), "start": 100, "every_k": 10},
        {"inner": gx.sgd(1.0), "every_k": 3},
    ],
}
CURVED = {"asgd": True, "schedule_free_adamw": True}


# ---------------------------------------------------------------- other libraries
def of_fast(tx: Any) -> tuple[Any, Any]:
    """Optax's lookahead, whose parameters are a pair, applied to the fast ones alone."""

    def init(params):
        both = optax.LookaheadParams.init_synced(params)
        return tx.init(both), both.slow

    def update(updates, state, params):
        state, slow = state
        both, state = tx.update(updates, state, optax.LookaheadParams(fast=params, slow=slow))
        return both.fast, (state, jax.tree.map(lambda a, b: a + b, slow, both.slow))

    return init, update


def warm(step: Any) -> Any:
    return 0.1 * (step + 1) / (step + 20)


OPTAX = {
    "lookahead": (
        gx.lookahead(gx.adam(0.1, eps=1e-6), every_k=5, weight=0.3),
        of_fast(optax.lookahead(optax.adam(0.1, eps=1e-6), 5, 0.3)),
    ),
    "schedule_free": (gx.schedule_free(gx.sgd(0.1), 0.8), optax.contrib.schedule_free(optax.sgd(0.1), 0.1, 0.8)),
    "schedule_free, warmed up": (  # Optax weights by the rate of the step after
        gx.schedule_free(gx.sgd(warm), weight=lambda step: warm(step + 1) ** 2),
        optax.contrib.schedule_free(optax.sgd(warm), warm),
    ),
    "schedule_free_adamw": (
        gx.schedule_free_adamw(0.1, 0.8, 0.9, 1e-4, 0.1),
        optax.contrib.schedule_free_adamw(0.1, None, 0.8, 0.9, 1e-4, 0.1),
    ),
}
TORCH = {"asgd": gx.asgd(0.01, start=102)}


# ---------------------------------------------------------------- laws
rate = 0.03
LAWS = {
    "ranger without lookahead is RAdam of centralized gradients": (
        gx.ranger(rate, eps=1e-8, weight=1.0),
        gx.chain(gx.centralize(), gx.radam(rate, b1=0.95)),
    ),
    "average_params moves nothing": (gx.average_params(gx.adam(rate), 0.9), gx.adam(rate)),
    "swa moves nothing": (gx.swa(gx.adam(rate), every_k=2), gx.adam(rate)),
    "swa is an average without decay": (gx.swa(gx.sgd(rate)), gx.average_params(gx.sgd(rate), decay=1.0)),
    "asgd without decay is SGD": (gx.asgd(rate, weight_decay=0.0), gx.sgd(rate)),
    "asgd at a constant rate is SGD with L2": (
        gx.asgd(rate, weight_decay=0.1, power=0.0),
        gx.chain(gx.add_weight_decay(0.1), gx.sgd(rate)),
    ),
    "lookahead of weight 1 is its inner": (gx.lookahead(gx.adam(rate), every_k=2, weight=1.0), gx.adam(rate)),
    "lookahead that never pulls is its inner": (gx.lookahead(gx.adam(rate), every_k=100), gx.adam(rate)),
    "schedule_free of zero steps makes none": (gx.schedule_free(gx.scale(0.0)), gx.scale(0.0)),
    "schedule_free_adamw is schedule_free of adamw without momentum": (
        gx.schedule_free_adamw(rate, weight_decay=0.1),
        gx.schedule_free(gx.adamw(rate, b1=0.0, weight_decay=0.1)),
    ),
}
