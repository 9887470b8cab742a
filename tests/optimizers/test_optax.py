"""The recipes against Optax, live, in float64, within 1e-12 of each step's largest coordinate.

DIFFERENT holds those of which Optax has another definition, with the cause: each does differ. Beside them:

| Optax | gradtx | cause |
|---|---|---|
| momo, momo_adam | the same | weight_decay, adapt_lower_bound are not offered; a small ‖m‖² gives no step in Optax |
| rprop | rprop | Optax emits the step of the update before, and on a flip nothing: while no sign flips, one step late |
| adan | adan(gain=1 − b2) | Optax adds 1 − β₂ of the change where the paper and its code add β₂ |
| adagrad | adagrad | only the form with ε in the root |
| nadam | nadam(warmup=True) | Optax does not warm β₁ up |
| yogi | yogi | Optax starts the average of gradients at 1e-6 too, so that it moves where no gradient ever came |
| dowg | dowg | Optax adds an ε to the denominator by default |
| prodigy | prodigy | Optax corrects the averages, by a factor of the rate, and multiplies ε by the new d |
| dadapt_adamw | dadapt_adam | the same factor; Optax estimates d with the previous denominator: the same for signs |
| mechanize | mechanic | Optax finds its way again of θ − θ₀, over the scale plus ε: the same for ε → 0 |
| momo, momo_adam (weight_decay, adapt_lower_bound) | momo, momo_adam | not offered |
| polyak_sgd(variant="sps") | polyak_sgd | Optax steps back where the loss is below its lowest: "sps+" is the same |
| cocob | cocob | Optax starts the largest gradient at 1e-8 |
| fromage | fromage | Optax raises both norms to 1e-6, where the authors' code takes the ratio 1 for a norm of 0 |
| noisy_sgd | noisy_sgd | Optax keeps a key in its state; without noise they are the same |
"""

from typing import Any

import jax
import numpy as np
import optax
import pytest
from families import collected
from references import gradient_stream, steps_of, worst_error

import gradtx as gx

NOISE = gradient_stream(300, seed=3)
WHERE = {"bias": False, "kernel": True}
rmsprop: dict[str, Any] = {"learning_rate": 0.01, "decay": 0.95, "eps": 1e-4}

PAIRS: dict[str, tuple[gx.Transformation, Any]] = {
    "sgd": (gx.sgd(0.1), optax.sgd(0.1)),
    "sgd with momentum": (gx.sgd(0.1, 0.9), optax.sgd(0.1, 0.9)),
    "sgd with Nesterov's momentum": (gx.sgd(0.1, 0.9, True), optax.sgd(0.1, 0.9, True)),
    "averaged momentum": (
        gx.averaged_momentum(0.1, 0.9),
        optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1)),
    ),
    "adagrad": (gx.adagrad(0.1, eps=1e-7, eps_in_sqrt=True, initial_value=0.1), optax.adagrad(0.1)),
    "rmsprop": (gx.rmsprop(**rmsprop), optax.rmsprop(**rmsprop, eps_in_sqrt=False)),
    "rmsprop, ε in the root": (gx.rmsprop(**rmsprop, eps_in_sqrt=True), optax.rmsprop(**rmsprop)),
    "rmsprop, corrected": (
        gx.rmsprop(**rmsprop, corrected=True),
        optax.rmsprop(**rmsprop, eps_in_sqrt=False, bias_correction=True),
    ),
    "rmsprop, centered": (
        gx.rmsprop(**rmsprop, eps_in_sqrt=True, centered=True),
        optax.rmsprop(**rmsprop, centered=True),
    ),
    "rmsprop with momentum": (
        gx.rmsprop(**rmsprop, eps_in_sqrt=True, momentum=0.9),
        optax.rmsprop(**rmsprop, momentum=0.9),
    ),
    "rmsprop with Nesterov's momentum": (
        gx.rmsprop(**rmsprop, eps_in_sqrt=True, momentum=0.9, nesterov=True),
        optax.rmsprop(**rmsprop, momentum=0.9, nesterov=True),
    ),
    "adadelta": (gx.adadelta(0.5, 0.95, 1e-5), optax.adadelta(0.5, 0.95, 1e-5)),
    "adam": (gx.adam(0.01, 0.8, 0.99, 1e-6), optax.adam(0.01, 0.8, 0.99, 1e-6)),
    "adam, ε in the root": (gx.adam(0.01, eps=1e-4, eps_in_sqrt=True), optax.adam(0.01, eps=0, eps_root=1e-4)),
    "adamw": (gx.adamw(0.01, weight_decay=0.1, where=WHERE), optax.adamw(0.01, weight_decay=0.1, mask=WHERE)),
    "sgdw": (
        gx.sgdw(0.1, 0.8, 0.1, WHERE),
        optax.chain(optax.trace(0.8), optax.add_decayed_weights(0.1, WHERE), optax.scale(-0.1)),
    ),
    "sign_sgd": (gx.sign_sgd(0.1), optax.sign_sgd(0.1)),
    "signum": (gx.signum(0.1, 0.8), optax.signum(0.1, 0.8)),
    "lion": (gx.lion(0.1, 0.8, 0.9, 0.1, WHERE), optax.lion(0.1, 0.8, 0.9, weight_decay=0.1, mask=WHERE)),
    "optimistic_sgd": (gx.optimistic_sgd(0.1, 0.5), optax.optimistic_gradient_descent(0.1, 1.0, 0.5)),
    "optimistic_adam": (
        gx.optimistic_adam(0.1, 0.5, eps=1e-6),
        optax.optimistic_adam_v2(0.1, alpha=1.0, beta=0.5, eps=1e-6, nesterov=False),
    ),
    "ademamix": (
        gx.ademamix(0.1, b3=0.99, alpha=2.0, eps=1e-6, weight_decay=0.1, where=WHERE),
        optax.contrib.ademamix(0.1, b3=0.99, alpha=2.0, eps=1e-6, weight_decay=0.1, mask=WHERE),
    ),
    "adan": (gx.adan(0.1, gain=1 - 0.92, eps=1e-6), optax.adan(0.1, eps=1e-6, eps_root=0.0)),
    "adamax": (gx.adamax(0.01, 0.8, 0.99), optax.adamax(0.01, 0.8, 0.99)),
    "nadam": (gx.nadam(0.01, 0.8, 0.99), optax.nadam(0.01, 0.8, 0.99)),
    "amsgrad": (gx.amsgrad(0.01, 0.8, 0.9), optax.amsgrad(0.01, 0.8, 0.9)),
    "adabelief": (
        gx.adabelief(0.01, 0.8, 0.99, 1e-6, eps_in_average=1e-4),
        optax.adabelief(0.01, 0.8, 0.99, 1e-6, eps_root=1e-6),
    ),
    "yogi": (
        gx.yogi(0.01, 0.8, 0.99, initial_value=0.0),
        optax.chain(optax.scale_by_yogi(0.8, 0.99, initial_accumulator_value=0.0), optax.scale(-0.01)),
    ),
    "radam": (gx.radam(0.01, 0.8, 0.99, 1e-6), optax.radam(0.01, 0.8, 0.99, 1e-6)),
    "adopt": (gx.adopt(0.01, 0.8, 0.99, 1e-4), optax.contrib.adopt(0.01, 0.8, 0.99, 1e-4)),
    "nadamw": (gx.nadamw(0.01, weight_decay=0.1, where=WHERE), optax.nadamw(0.01, weight_decay=0.1, mask=WHERE)),
    "adamaxw": (gx.adamaxw(0.01, weight_decay=0.1, where=WHERE), optax.adamaxw(0.01, weight_decay=0.1, mask=WHERE)),
}


def run(tx: Any, noise: np.ndarray) -> jax.Array:
    with jax.enable_x64(True):
        return jax.jit(lambda rows: steps_of(tx, rows))(noise)


DIFFERENT: dict[str, tuple[gx.Transformation, Any, str]] = {
    "rprop": (
        gx.rprop(0.01, shrink=0.5, wait_on_flip=True),
        optax.rprop(0.01),
        "Optax emits the step of the update before, and on a flip nothing: while no sign flips, one step late (below)",
    ),
    "adan": (
        gx.adan(0.1, eps=1e-6),
        optax.adan(0.1, eps=1e-6, eps_root=0.0),
        "Optax adds 1 − β₂ of the change where the paper and its code add β₂; `gain` says which (above)",
    ),
    "adagrad": (gx.adagrad(0.1), optax.adagrad(0.1), "Optax has ε in the root, and starts the sum at 0.1 (above)"),
    "nadam": (gx.nadam(0.01, warmup=True), optax.nadam(0.01), "Optax does not warm β₁ up"),
    "yogi": (
        gx.yogi(0.01, initial_value=1e-6),
        optax.yogi(0.01),
        "Optax starts the average of gradients at 1e-6 too, so that it moves where no gradient ever came",
    ),
    "amsgrad": (
        gx.amsgrad(0.01, 0.8, 0.9, correct_first=False),
        optax.chain(optax.scale_by_amsgrad(0.8, 0.9, bias_correction_nu=False), optax.scale(-0.01)),
        "Optax can leave the largest uncorrected; here it is corrected before or after",
    ),
    "muon": (
        gx.muon(0.1, weight_decay=0.0, default=gx.freeze()),
        optax.contrib.muon(0.1, eps=1e-3),
        "Optax adds ε to the norm before it orthogonalizes, here 0 stays 0 without one; and its other defaults",
    ),
    "dowg": (gx.dowg(), optax.contrib.dowg(), "Optax adds an ε to the denominator by default"),
    "prodigy": (
        gx.prodigy(),
        optax.contrib.prodigy(),
        "Optax corrects the averages, by a factor of the rate; with ε, it has the new d where the paper has d",
    ),
    "dadapt_adam": (
        gx.dadapt_adam(),
        optax.contrib.dadapt_adamw(),
        "Optax corrects the averages, by a factor of the rate, and estimates d with the previous denominator",
    ),
    "mechanic": (
        gx.mechanic(gx.sgd(0.1)),
        optax.contrib.mechanize(optax.sgd(0.1)),
        "Optax finds its way again of θ − θ₀, over the scale plus ε: the same for ε → 0",
    ),
    "lars": (
        gx.lars(0.1, weight_decay=0.1),
        optax.lars(0.1, weight_decay=0.1),
        "Optax divides by ‖g + λw‖, the paper by ‖g‖ + λ‖w‖; `add_weight_decay` before gives Optax's (above)",
    ),
    "centralize": (gx.centralize(), optax.centralize(), "Optax takes the first axis for that of the outputs"),
    "acprop": (
        gx.acprop(0.01),
        optax.contrib.acprop(0.01),
        "Optax measures the distance from the average before this gradient, and divides the first step by 1",
    ),
    "madgrad": (
        gx.madgrad(0.01),
        optax.contrib.madgrad(0.01),
        "Optax adds ε to the rate, and takes √t in float32 (above, with a rate that undoes both)",
    ),
}
PAIRS |= collected("OPTAX")
DIFFERENT |= collected("DIFFERENT")


@pytest.mark.parametrize(("tx", "theirs"), PAIRS.values(), ids=PAIRS)
@pytest.mark.promotes("Optax's arithmetic")
def test_recipe_is_optaxs(tx: gx.Transformation, theirs: Any):
    assert worst_error(run(tx, NOISE), run(theirs, NOISE)) <= 1e-12


@pytest.mark.parametrize(("tx", "theirs", "cause"), DIFFERENT.values(), ids=DIFFERENT)
@pytest.mark.promotes("Optax's arithmetic")
def test_optax_has_another_definition(tx: gx.Transformation, theirs: Any, cause: str):
    ours, other = np.asarray(run(tx, NOISE)), np.asarray(run(theirs, NOISE))
    assert cause and np.max(np.abs(ours - other)) > 1e-6 * np.max(np.abs(other))


def test_rprop_without_flips_is_optaxs_one_step_late():
    ours = run(gx.rprop(0.01, shrink=0.5, wait_on_flip=True), abs(NOISE))
    theirs = run(optax.rprop(0.01), abs(NOISE))
    assert worst_error(ours[:-1], theirs[1:]) <= 1e-12
