"""Every recipe trains: a noisy quadratic, Rosenbrock's valley and a logistic regression on real data, side by side.

One run for a row of learning rates, vmapped; each problem counts by its best rate. The losses begin at 2.3, 4 and 0.69.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

import gradtx as gx
from gradtx.__main__ import RECIPES
from gradtx.core import walk

CURVATURE = jnp.logspace(-2, 0, 10)
STEPS, RATES = 1000, 10.0 ** jnp.arange(-2, 3.5, 0.5)


@cache
def patients():
    """The 569 patients of the Wisconsin breast cancer data: 30 standardised measures, and whether benign."""
    measures, benign = load_breast_cancer(return_X_y=True)
    return (measures - measures.mean(0)) / measures.std(0), benign * 2.0 - 1


def quadratic(w):
    return jnp.sum(CURVATURE * w**2) / 2


def rosenbrock(point):
    x, y = point
    return (1 - x) ** 2 + 100 * (y - x * x) ** 2


def logistic(params):
    measures, labels = patients()
    return jnp.mean(jax.nn.softplus(-labels * (measures @ params["w"][:, 0] + params["b"])))


def angle(w):
    return 1 - jnp.mean(w) * 10**0.5 / jnp.linalg.norm(w)


LOSSES = {"quadratic": quadratic, "rosenbrock": rosenbrock, "logistic": logistic, "angle": angle}
START = {
    "quadratic": jnp.ones(10),
    "rosenbrock": jnp.array([-1.0, 1.0]),  # on the valley's floor, at its other end
    "logistic": {"w": jnp.zeros((30, 1)), "b": jnp.zeros(())},
    "angle": jnp.arange(10.0) - 4,
}
BOUNDS = {"quadratic": 1e-3, "rosenbrock": 1.0, "logistic": 0.1, "angle": 1e-3}
# What measures all leaves as one would mix the problems: each has a run of its own.
MEASURES_ALL = {*"asam dadapt_adam dog dowg mechanic momo momo_adam polyak_sgd prodigy sam skip_nonfinite".split()}
ARGUMENTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "acprop": lambda factor: {"eps": 1e-2},  # its last denominator is small
    "asgd": lambda factor: {"start": 900},
    "average_params": lambda factor: {"decay": 0.9},
    "hyperball": lambda factor: {"learning_rate": 1e-3 * factor},
    "lora_plus": lambda factor: {"where": None},
    "mechanic": lambda factor: {"initial_value": 1e-2},
    "muon": lambda factor: {"default": gx.adam(1e-3 * factor)},
    "ranger": lambda factor: {"weight": 0.8},
    "rolling_ball": lambda factor: {"friction": 1 / factor},
    "simplified_ademamix": lambda factor: {"b1": 0.9},
    "swa": lambda factor: {"start": 900},
}


def optimizer(name, factor):
    """The recipe with its rate times the factor; around plain descent, if it is for any optimizer."""
    recipe, more = RECIPES[name], ARGUMENTS.get(name, lambda factor: {})(factor)
    arguments = inspect.signature(recipe).parameters
    if "inner" in arguments:
        return recipe(gx.sgd(0.01 * factor), **more)
    rates = {x: factor * arguments[x].default for x in ("learning_rate", "time_step") if x in arguments}
    return recipe(**rates, **more)


def train(tx, start):
    needs = {name for piece in walk(tx) for name in piece.needs}

    def step(carry, noise):
        params, state = carry

        def loss(params):
            pushed = jnp.sum(noise * params["quadratic"]) if "quadratic" in params else 0
            return sum(LOSSES[problem](params[problem]) for problem in params) + pushed

        grad_fn = jax.grad(loss)
        given = {
            "value": loss(params),
            "key": jax.random.key(0),
            "grad_fn": grad_fn,
            "value_fn": loss,
            "hvp": lambda v: jax.jvp(grad_fn, (params,), (v,))[1],
        }
        extra = {name: x for name, x in given.items() if name in needs}
        updates, state = tx.update(grad_fn(params), state, params, **extra)
        return (gx.apply_updates(params, updates), state), None

    noise = 0.01 * jax.random.normal(jax.random.key(1), (STEPS, 10))
    (params, state), _ = jax.lax.scan(step, (start, tx.init(start)), noise)
    params = gx.eval_params(tx, state, params)
    return {problem: LOSSES[problem](params[problem]) for problem in params}


@pytest.mark.parametrize("name", RECIPES)
def test_it_trains(name):
    # OrthoGrad and Hyperball never shorten the parameters: they are for losses that do not see their norm.
    problems = ["angle"] if name in ("orthograd", "hyperball") else ["quadratic", "rosenbrock", "logistic"]
    groups = [[problem] for problem in problems] if name in MEASURES_ALL else [problems]
    for group in groups:
        start = {problem: START[problem] for problem in group}
        final = jax.jit(jax.vmap(lambda factor, start=start: train(optimizer(name, factor), start)))(RATES)
        for problem, loss in final.items():
            best = np.min(loss, where=np.isfinite(loss), initial=np.inf)
            assert best <= BOUNDS[problem], (problem, final)
