"""The losses of every optimizer on digits, which its page in the book shows: `python notebooks/losses.py` records them.

The record is `losses.json`, one line for each optimizer; `tests/book/test_losses.py` repeats a part of it.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import gradtx as gx
from gradtx import lab, optimizers
from gradtx.optimizers import parameter_free

RECORD = Path(__file__).with_suffix(".json")
RATES = [float(f"{x:.2g}") for x in 10.0 ** np.arange(-4, 2.01, 0.5)]
EPOCHS, EACH = 10, 11  # passes over the images; steps in the mean of a point, of 44 in an epoch
WHOLE = ("lbfgs", "rprop")  # need the gradient of all examples
FITTED: dict[str, tuple[Callable[[float], Any], str]] = {  # for this network, and why
    "acprop": (
        lambda rate: gx.acprop(rate, eps=1e-3),
        "With `eps=1e-3`: at the default, a pixel that was blank until then makes a step of a million times the rate.",
    ),
    "hyperball": (
        lambda rate: gx.partition({gx.is_linear: gx.hyperball(gx.adam(), rate)}, default=gx.adam(0.01)),
        "The two matrices keep their norms, which bounds the loss from below; the biases have `gx.adam(0.01)`.",
    ),
}
UNFIT = {"lora_plus": "The network of the digits has no adapters of low rank, whose rates LoRA+ sets."}


def made(name: str, rate: Any = None) -> Any:
    """The optimizer with its defaults, around Adam if it wraps another, or with another learning rate."""
    function = getattr(gx, name)
    first = next(iter(inspect.signature(function).parameters))
    if first == "inner":
        if name == "hyperball":  # has the rate itself
            return function(gx.adam()) if rate is None else function(gx.adam(), rate)
        return function(gx.adam() if rate is None else gx.adam(rate))
    if name == "rolling_ball" and rate is not None:
        return function(rate, friction=0.1 / rate)  # the momentum, 1 − Δt·η/m, is 0.9 at any rate
    return function(rate) if rate is not None and first == "learning_rate" else function()


def rated(name: str) -> bool:
    """Whether the optimizer is tuned: it has a learning rate, and is not of the family that does without."""
    first = next(iter(inspect.signature(getattr(gx, name)).parameters))
    return first in ("learning_rate", "inner", "time_step") and not hasattr(parameter_free, name)


def whose(name: str) -> str:
    """Whose learning rate it is, where that is not the optimizer itself."""
    first = next(iter(inspect.signature(getattr(gx, name)).parameters))
    return ", of the Adam inside" if first == "inner" and name != "hyperball" else ""


def run(name: str, rates: Iterable[float] = RATES, epochs: int = EPOCHS) -> dict[str, Any]:
    """Train digits with each rate, from the same start, and return the run of the lowest final loss."""
    rates = list(rates) if rated(name) else [1.0]
    make = FITTED[name][0] if name in FITTED else lambda rate: made(name, rate if rated(name) else None)
    entry = lab.Entry(make, rates)
    problem = lab.digits()
    if name in WHOLE:
        steps = epochs * (len(problem.train.targets) // problem.batch_size)
        (result,) = lab.race(problem, {name: entry}, epochs=steps, batch_size="all")
    else:
        (result,) = lab.race(problem, {name: entry}, epochs=epochs)
    means = [float(f"{part.mean():.4g}") for part in result.losses.astype(float).reshape(-1, EACH)]
    return {
        "rate": result.learning_rate if rated(name) else None,
        "loss": means,
        "final_loss": float(f"{result.final_loss:.3g}"),
        "test_accuracy": round(result.test_accuracy, 3),
    }


def recorded() -> dict[str, dict[str, Any]]:
    """The record, by optimizer."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


if __name__ == "__main__":
    found = recorded() if RECORD.exists() else {}
    for name in sys.argv[1:] or optimizers.__all__:
        if name not in UNFIT:
            found[name] = run(name)
            print(name, *(f"{key} {value}" for key, value in found[name].items() if key != "loss"), flush=True)
    lines = [f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found)]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
