"""A default that differs from the same argument's in Optax or PyTorch is in the argument's entry under `Args:`."""

import inspect
import re
from typing import Any

import optax
import pytest
from optax import contrib
from test_docstrings import doc_of, entries

import gradtx as gx

# Optax's names of an argument: the first that its optimizer has.
OPTAX = {
    "alpha": ("alpha",),
    "b1": ("b1",),
    "b2": ("b2",),
    "b3": ("b3",),
    "centered": ("centered",),
    "coefficient": ("trust_coefficient", "estim_lr_coef"),
    "corrected": ("bias_correction", "bias_correction_nu"),
    "correct_first": ("bias_correction_mu",),
    "decay": ("decay", "rho", "beta"),
    "eps": ("eps",),
    "eps_in_sqrt": ("eps_in_sqrt",),
    "every_k": ("update_interval",),
    "gamma": ("gamma",),
    "grow": ("eta_plus",),
    "initial_value": ("initial_accumulator_value", "estim_lr0"),
    "largest": ("max_step_size",),
    "learning_rate": ("learning_rate",),
    "lowest": ("lower_bound", "f_min"),
    "max_rate": ("learning_rate", "max_learning_rate"),
    "max_rms": ("clipping_threshold",),
    "min_size": ("min_dim_size_to_factor",),
    "momentum": ("momentum", "beta"),
    "nesterov": ("nesterov",),
    "optimism": ("optimism",),
    "power": ("decay_rate", "gamma"),
    "shrink": ("eta_minus",),
    "smallest": ("min_step_size",),
    "threshold": ("threshold",),
    "variance": ("eta",),
    "weight_decay": ("weight_decay",),
}
OTHER_NAMES = {"dadapt_adam": "dadapt_adamw"}

# The defaults of PyTorch 2.13, under the names of gradtx's arguments, from inspect.signature of torch.optim's classes.
ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
TORCH: dict[str, dict[str, Any]] = {
    "adadelta": {"learning_rate": 1.0, "decay": 0.9, "eps": 1e-6},
    "adafactor": {"learning_rate": 0.01, "power": 0.8, "floor": 1e-3, "max_rms": 1.0},  # ε₁: the dtype's epsilon
    "adagrad": {"learning_rate": 0.01, "eps": 1e-10, "eps_in_sqrt": False, "initial_value": 0.0},
    "adam": {"learning_rate": 1e-3} | ADAM,
    "adamax": {"learning_rate": 2e-3} | ADAM,
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.01} | ADAM,
    "amsgrad": {"learning_rate": 1e-3} | ADAM,
    "asgd": {"learning_rate": 0.01, "weight_decay": 1e-4, "power": 0.75, "start": 1_000_002},
    "muon": {"learning_rate": 1e-3, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True},
    "nadam": {"learning_rate": 2e-3, "warmup_rate": 4e-3} | ADAM,
    "radam": {"learning_rate": 1e-3} | ADAM,
    "rmsprop": {"learning_rate": 0.01, "decay": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False},
    "rprop": {"learning_rate": 0.01, "shrink": 0.5, "grow": 1.2, "smallest": 1e-6, "largest": 50.0},
    "sgd": {"learning_rate": 1e-3, "momentum": 0.0, "nesterov": False},
}


def defaults(function: Any) -> dict[str, Any]:
    """The defaults that are numbers or booleans."""
    several = inspect.signature(function).parameters.items()
    return {name: one.default for name, one in several if isinstance(one.default, (bool, int, float))}


def theirs(name: str) -> Any:
    """Optax's optimizer of this name."""
    return getattr(optax, OTHER_NAMES.get(name, name), None) or getattr(contrib, OTHER_NAMES.get(name, name), None)


def differences() -> dict[str, tuple[str, str, str, Any]]:
    """The differences, by an id: the recipe, the argument, the library and its default."""
    found = {}
    for name in gx.optimizers.__all__:
        ours = defaults(getattr(gx, name))
        other = {} if theirs(name) is None else defaults(theirs(name))
        optaxs = {argument: next((x for x in OPTAX.get(argument, ()) if x in other), None) for argument in ours}
        libraries = {
            "Optax": {argument: other[x] for argument, x in optaxs.items() if x is not None},
            "PyTorch": TORCH.get(name, {}),
        }
        for library, values in libraries.items():
            assert values.keys() <= ours.keys(), (name, library, values, ours)
            for argument, value in values.items():
                if value != ours[argument]:
                    found[f"{name}.{argument}: {library}"] = (name, argument, library, value)
    return found


DIFFERENCES = differences()


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_entry_of_an_argument_names_the_library_and_its_default(name):
    recipe, argument, library, value = DIFFERENCES[name]
    entry = entries(doc_of(getattr(gx, recipe)))[argument]
    said = [part for part in re.split(r"(?<=[.;])\s", entry) if library in part]
    numbers = [float(x) for part in said for x in re.findall(r"\d[\d_.]*(?:e-?\d+)?", part.rstrip(".;"))]
    assert str(value) in " ".join(said) if isinstance(value, bool) else value in numbers, f"{value} is not in {entry!r}"


def test_the_table_finds_differences_of_both_libraries():
    assert {("rmsprop", "decay", "PyTorch", 0.99), ("adamw", "weight_decay", "Optax", 1e-4)} <= {*DIFFERENCES.values()}
