"""The recipes against PyTorch 2.13 in float64 (record_torch.py), within 1e-12 of each step's largest coordinate.

Where PyTorch has no recipe of the same definition:

| PyTorch | gradtx | cause |
|---|---|---|
| SGD(dampening=d) | averaged_momentum | its v starts at g, not at (1−d)·g, so no choice of d agrees at the first step |
| Adagrad(lr_decay=c) | adagrad | its rate falls by 1 + c·(step); in gradtx a schedule of the rate |
| Adam(weight_decay=λ) | adam | adds λ·w to the gradient: in gradtx `chain(add_weight_decay(λ), adam())`, below |
| Rprop | rprop | shrinks by 0.5 and waits on a flip; by default gradtx shrinks by 0.6 and steps back |
| Muon | muon | rounds to bfloat16 first (`dtype="bfloat16"`); recorded without, on the kernel alone |
| NAdam, AMSGrad | nadam, amsgrad | `warmup=True` and `correct_first=False`, not gradtx's defaults |
"""

from pathlib import Path

import jax
import numpy as np
import pytest
from families import collected
from references import steps_of, worst_error

import gradtx as gx

RECIPES = {
    "sgd": gx.sgd(0.1),
    "sgd with momentum": gx.sgd(0.01, momentum=0.9),
    "sgd with Nesterov's momentum": gx.sgd(0.01, momentum=0.9, nesterov=True),
    "adagrad": gx.adagrad(0.01, eps=1e-10),
    "adagrad with a start": gx.adagrad(0.01, eps=1e-10, initial_value=0.1),
    "rmsprop": gx.rmsprop(0.01, decay=0.99),
    "rmsprop with momentum": gx.rmsprop(0.01, decay=0.95, momentum=0.9),
    "rmsprop, centered": gx.rmsprop(0.01, decay=0.99, centered=True),
    "adadelta": gx.adadelta(1.0),
    "adam": gx.adam(1e-3),
    "adam with L2": gx.chain(gx.add_weight_decay(0.1), gx.adam(1e-3)),
    "adamw": gx.adamw(1e-3, weight_decay=0.1),
    "amsgrad": gx.amsgrad(1e-3, b2=0.9, correct_first=False),
    "adamax": gx.adamax(2e-3),
    "nadam": gx.nadam(2e-3, warmup=True),
    "rprop": gx.rprop(0.01, shrink=0.5, wait_on_flip=True),
}
RECIPES |= collected("TORCH")
RECORDING = np.load(Path(__file__).with_name("torch_vectors.npz"))


def test_every_recording_is_compared():
    assert {*RECIPES, "start", "gradients"} == set(RECORDING)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.promotes("functions of the step, as users write them")
def test_recipe_is_pytorchs(name: str):
    expected = RECORDING[name]
    with jax.enable_x64(True):
        steps = jax.jit(steps_of)(RECIPES[name], RECORDING["gradients"], start=RECORDING["start"])
    every = len(steps) // len(expected)
    assert worst_error(steps[every - 1 :: every], expected) <= 1e-12
