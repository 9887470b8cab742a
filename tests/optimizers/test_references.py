"""Every recipe against its formula in NumPy: 1,000 float64 steps, within 1e-12 of each one's largest coordinate."""

import inspect
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references
from families import collected, reference_of
from references import SIZE, START, gradient_stream, reference_steps, worst_error

import gradtx as gx
from gradtx import optimizers

NOISE = gradient_stream(1000, seed=1)
run = jax.jit(references.steps_of)  # one compilation for all hyperparameters of one composition

CONFIGURATIONS: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {},
        {"learning_rate": 0.5, "momentum": 0.9},
        {"learning_rate": 3e-3, "momentum": 0.99, "nesterov": True},
        {"momentum": 0.5, "nesterov": True},
    ],
    "averaged_momentum": [{}, {"learning_rate": 1.0, "decay": 0.5}, {"learning_rate": 1e-3, "decay": 0.99}],
    "heavy_ball": [{}, {"learning_rate": 1.0, "decay": 0.5}, {"learning_rate": 1e-3, "decay": 0.99}],
    "rate_inside_momentum": [{}, {"learning_rate": 1.0, "decay": 0.5}, {"learning_rate": 1e-3, "decay": 0.99}],
    "rolling_ball": [
        {},
        {"time_step": 1e-2, "friction": 5.0, "mass": 2.0},
        {"time_step": 0.5, "friction": 0.1, "mass": 0.3},
    ],
    "nesterov": [{}, {"learning_rate": 1.0, "decay": 0.5}, {"learning_rate": 1e-3, "decay": 0.99}],
    "adagrad": [
        {},
        {"learning_rate": 1.0, "eps": 1e-3, "eps_in_sqrt": True},
        {"learning_rate": 0.1, "eps": 1e-7, "eps_in_sqrt": True, "initial_value": 0.1},
        {"eps": 0.0},
    ],
    "rmsprop": [
        {},
        {"learning_rate": 1e-2, "decay": 0.95, "eps": 1e-3, "eps_in_sqrt": True},
        {"decay": 0.99, "centered": True},
        {"decay": 0.99, "centered": True, "momentum": 0.9, "eps_in_sqrt": True, "eps": 1e-4},
        {"decay": 0.999, "momentum": 0.9, "nesterov": True, "corrected": True},
        {"eps": 0.0, "corrected": True},
    ],
    "adam": [
        {},
        {"learning_rate": 3e-4, "b1": 0.8, "b2": 0.99, "eps": 1e-7},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "eps_in_sqrt": True},
        {"corrected": False},
        {"corrected": False, "b1": 0.95, "b2": 0.95, "eps": 1e-4, "eps_in_sqrt": True},
        {"b1": 0.0, "eps": 0.0},
    ],
    "adamw": [
        {},
        {"learning_rate": 1e-2, "b1": 0.8, "b2": 0.99, "eps": 1e-6, "weight_decay": 0.5},
        {"weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
        {"weight_decay": 0.0},
    ],
    "sgdw": [
        {},
        {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.3},
        {"weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
    ],
    "sign_sgd": [{}, {"learning_rate": 1.0}, {"learning_rate": 1e-5}],
    "signum": [{}, {"learning_rate": 1.0, "decay": 0.5}, {"learning_rate": 1e-5, "decay": 0.99}],
    "lion": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "weight_decay": 0.3},
        {"weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
    ],
    "qhm": [
        {},
        {"learning_rate": 0.1, "decay": 0.9, "weight": 1.0},
        {"learning_rate": 3e-3, "decay": 0.5, "weight": 0.2},
    ],
    "qhadam": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "weight1": 0.3, "weight2": 0.8, "eps": 1e-3},
        {"weight1": 1.0, "weight2": 0.5, "eps": 0.0},
    ],
    "aggmo": [{}, {"learning_rate": 1.0, "decays": (0.5,)}, {"learning_rate": 1e-3, "decays": (0.0, 0.5, 0.9, 0.999)}],
    "optimistic_sgd": [{}, {"learning_rate": 1.0, "optimism": 0.5}, {"learning_rate": 1e-3, "optimism": 2.0}],
    "optimistic_adam": [
        {},
        {"learning_rate": 0.1, "optimism": 0.5, "b1": 0.5, "b2": 0.9, "eps": 1e-3},
        {"optimism": 2.0, "b2": 0.99, "eps": 0.0},
    ],
    "ademamix": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "b3": 0.99, "alpha": 2.0, "eps": 1e-3, "weight_decay": 0.3},
        {"b1": 0.8, "b3": 0.999, "weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
    ],
    "adan": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.8, "b3": 0.9, "gain": 0.2, "eps": 1e-3, "weight_decay": 0.3},
        {"b3": 0.999, "eps": 0.0, "weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
    ],
    "grokfast": [
        {"inner": gx.sgd(0.1)},
        {"inner": gx.sgd(1e-3), "decay": 0.5, "gain": 5.0},
        {"inner": gx.sgd(1.0), "decay": 0.999, "gain": 0.1},
    ],
    "rprop": [
        {},
        {"wait_on_flip": True},
        {"learning_rate": 0.1, "grow": 1.1, "shrink": 0.5, "smallest": 1e-3, "largest": 1.0},
        {"learning_rate": 1e-3, "grow": 1.5, "shrink": 0.5, "largest": 0.2, "wait_on_flip": True},
    ],
    "adadelta": [{}, {"learning_rate": 0.5, "decay": 0.95, "eps": 1e-8}, {"decay": 0.5, "eps": 1e-3}],
    "adamax": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3},
        {"b1": 0.99, "b2": 0.99, "eps": 0.0},
    ],
    "nadam": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3},
        {"warmup": True},
        {"b1": 0.99, "b2": 0.99, "warmup": True, "warmup_rate": 0.1},
    ],
    "amsgrad": [
        {},
        {"correct_first": False},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3},
        {"b1": 0.8, "b2": 0.99, "eps": 1e-6, "correct_first": False},
    ],
    "laprop": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3},
        {"b1": 0.99, "b2": 0.99, "eps": 0.0},
    ],
    "nadamw": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "eps": 1e-3, "weight_decay": 0.3, "warmup": True},
        {"weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
    ],
    "adamaxw": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.3},
        {"weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
    ],
    "adabelief": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "eps_in_average": 1e-4},
        {"b1": 0.99, "b2": 0.99, "eps": 1e-8, "eps_in_average": 0.0},
    ],
    "yogi": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-6, "initial_value": 0.1},
        {"initial_value": 0.0, "corrected": False},
    ],
    "radam": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "threshold": 4.0},
        {"b1": 0.99, "b2": 0.99, "eps": 0.0},
        {"b2": 0.5},
    ],
    "stable_adamw": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.999, "eps": 1e-3, "weight_decay": 0.3},
        {"b2": 0.9, "eps": 0.0, "weight_decay": 1.0, "where": {"bias": False, "kernel": True}},
    ],
    "adopt": [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "clip_power": 0.5},
        {"b1": 0.99, "b2": 0.99, "eps": 1e-12},
    ],
}
CONFIGURATIONS |= collected("CONFIGURATIONS")
CASES = [
    pytest.param(name, configuration, id=f"{name}-{i}")
    for name, configurations in CONFIGURATIONS.items()
    for i, configuration in enumerate(configurations)
]


def expected_steps(name: str, configuration: dict[str, Any], curvature: Any = 0.0) -> np.ndarray:
    if "where" in configuration:
        mask = jax.tree.map(np.full_like, references.as_tree(START), configuration["where"])
        configuration = configuration | {"where": np.asarray(references.as_vector(mask))}
    return reference_steps(getattr(references, name, None) or reference_of(name), NOISE, curvature, **configuration)


@pytest.mark.parametrize(("name", "configuration"), CASES)
def test_recipe_is_its_formula(x64, name: str, configuration: dict[str, Any]):
    steps = run(getattr(optimizers, name)(**configuration), NOISE)
    assert worst_error(steps, expected_steps(name, configuration)) <= 1e-12


@pytest.mark.parametrize("arguments", [{}, {"learning_rate": 1.0, "decay": 0.5, "floor": 0.5}, {"decay": 0.99}])
def test_cautious_is_its_formula(x64, arguments: dict[str, Any]):
    floor = {name: x for name, x in arguments.items() if name == "floor"}
    inner = gx.averaged_momentum(**{name: x for name, x in arguments.items() if name != "floor"})
    expected = reference_steps(references.cautious, NOISE, **arguments)
    steps = np.asarray(run(gx.cautious(inner, **floor), NOISE))
    assert np.max(np.abs(steps - expected)) <= 1e-12 * np.max(np.abs(expected))


def test_every_recipe_has_three_configurations():
    recipes = {
        name
        for name in optimizers.__all__
        if inspect.signature(getattr(optimizers, name)).return_annotation is gx.Transformation
    } - {"lbfgs"}  # without a curvature the loss has no minimum along a line: see pieces/test_lbfgs.py
    assert recipes == {name for name, configurations in CONFIGURATIONS.items() if len(configurations) >= 3}


CURVED: dict[str, Any] = dict.fromkeys(["nesterov", "adamw", "sgd", "adam"], True) | collected("CURVED")


@pytest.mark.parametrize(
    ("name", "configuration"),
    [(name, c) for name, several in CURVED.items() for c in ([{}] if several is True else several)],
)
def test_recipe_is_its_formula_where_gradients_depend_on_parameters(x64, name: str, configuration: dict[str, Any]):
    curvature = np.logspace(-2, 1, SIZE)
    steps = run(getattr(optimizers, name)(**configuration), NOISE, curvature)
    assert worst_error(steps, expected_steps(name, configuration, curvature)) <= 1e-12


@pytest.mark.parametrize(("learning_rate", "decay"), [(0.01, 0.9), (0.1, 0.5), (0.001, 0.99)])
def test_nesterov_is_the_look_ahead_form_at_the_look_ahead_point(x64, learning_rate: float, decay: float):
    curvature = np.logspace(-2, 1, SIZE)
    rows = references.nesterov_looking_ahead(START, lambda w: curvature * w, learning_rate, decay)
    look_ahead = [START] + [w - decay * v for w, v in islice(rows, 1000)]
    steps = run(gx.nesterov(learning_rate, decay), np.zeros_like(NOISE), curvature)
    assert worst_error(steps, np.diff(look_ahead, axis=0)) <= 1e-12


@pytest.mark.promotes("functions of the step, as users write them")
def test_any_hyperparameter_is_a_schedule(x64):
    schedules: dict[str, Any] = {
        "learning_rate": lambda step: 0.1 / (1 + 0.01 * step),
        "b1": lambda step: 0.95 - 0.5 / (2 + step),
        "b2": lambda step: 1 - 1 / (step + 2) ** 0.8,
        "eps": lambda step: 1e-3 * 0.99**step,
    }
    expected = reference_steps(references.scheduled_adam, NOISE, **schedules)
    assert worst_error(run(gx.adam(**schedules), NOISE), expected) <= 1e-12


@pytest.mark.parametrize("b2", [0.9, 0.99, 0.999])
@pytest.mark.promotes("functions of the step, as users write them")
def test_keras_place_of_eps_is_a_schedule(x64, b2: float):
    tx = gx.adam(1e-3, 0.9, b2, eps=lambda step: 1e-4 / jnp.sqrt(1 - b2 ** (step + 1)))
    expected = reference_steps(references.keras_adam, NOISE, learning_rate=1e-3, b1=0.9, b2=b2, eps=1e-4)
    assert worst_error(run(tx, NOISE), expected) <= 1e-12


def error_in_float32(tx: Any, b2: float, reference: Any = references.adam) -> float:
    """Over 10,000 steps with rate 0.01 and b1 = 0.9, against float64 with the same, rounded, hyperparameters."""
    gradients = np.random.default_rng(1).standard_normal((10_000, 32)).astype(np.float32)
    learning_rate, b1, rounded_b2, eps = (float(np.float32(x)) for x in (0.01, 0.9, b2, 1e-8))
    step = lambda state, g: tx.update(g, state)[::-1]  # noqa: E731
    as_users_do = {"xla_backend_optimization_level": 3}
    scan = jax.jit(lambda state: jax.lax.scan(step, state, gradients)[1], compiler_options=as_users_do)
    steps = scan(tx.init(jnp.zeros(32)))
    assert steps.dtype == jnp.float32
    return worst_error(steps, list(reference(gradients.astype(np.float64), learning_rate, b1, rounded_b2, eps)))


@pytest.mark.parametrize("b2", [0.99, 0.999, 0.9999, 0.99999])
def test_adam_in_float32(b2: float):
    assert error_in_float32(gx.adam(0.01, b2=b2), b2) <= 2e-6


@pytest.mark.parametrize("b2", [0.999, 0.9999, 0.99999])
@pytest.mark.promotes("Optax's arithmetic")
def test_optaxs_adam_in_float32_is_less_exact(b2: float):
    assert error_in_float32(optax.adam(0.01, b2=b2), b2) > 5e-6


@pytest.mark.promotes("Optax's arithmetic")
def test_radam_in_float32():
    assert error_in_float32(gx.radam(0.01), 0.999, references.radam) <= 4e-6
    assert error_in_float32(optax.radam(0.01), 0.999, references.radam) > 1e-3
