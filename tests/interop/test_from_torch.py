"""States of PyTorch's optimizers (record_torch.py): gradtx makes the next 100 updates that PyTorch made."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx

RECORDING = dict(np.load(Path(__file__).with_name("torch_states.npz")))
RECIPES: dict[str, Any] = {
    "adam": gx.adam(0.01),
    "adamw": gx.adamw(0.01, weight_decay=0.1),
    "amsgrad": gx.amsgrad(0.01, correct_first=False),
    "sgd": gx.sgd(0.1, momentum=0.9),
    "sgd, Nesterov": gx.sgd(0.1, momentum=0.9, nesterov=True),
    "sgd, dampening": gx.chain(gx.scale(0.7), gx.heavy_ball(0.1)),
    "sgd, average": gx.averaged_momentum(0.1),
    "rmsprop": gx.rmsprop(0.01, decay=0.99),
    "rmsprop, centered, momentum": gx.rmsprop(0.01, decay=0.99, centered=True, momentum=0.9),
    "adagrad": gx.adagrad(0.1, eps=1e-10),
    "adadelta": gx.adadelta(1.0),
    "adamax": gx.adamax(0.01),
    "nadam": gx.nadam(0.01, warmup=True),
    "radam": gx.radam(0.01, eps=lambda step: 1e-8 / jnp.sqrt(1 - 0.999 ** (step + 1))),
    "adafactor": gx.adafactor(0.01),
    "muon": gx.layout(gx.muon(0.02, weight_decay=0.1), library="torch"),
}
COUNTLESS = {"sgd", "sgd, Nesterov", "sgd, dampening", "sgd, average", "muon"}  # PyTorch keeps no count


def recorded(run: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The state_dict, the parameters and the updates of a run, as numbers of NumPy."""
    state: dict[int, dict[str, Any]] = {}
    parts: dict[str, dict[str, Any]] = {"params": {}, "updates": {}, "group": {}}
    for path, x in RECORDING.items():
        if path.startswith(f"{run}/"):
            _, kind, *rest = path.split("/")
            if kind == "state":
                state.setdefault(int(rest[0]), {})[rest[1]] = x
            else:
                parts[kind]["/".join(rest)] = x
    groups = [{**parts["group"], "params": list(range(len(parts["params"])))}]
    return {"state": state, "param_groups": groups}, parts["params"], parts["updates"]


def updates_of(tx, state, params):
    """The updates from a state on, at the recorded gradients after the state."""

    def step(carry, g):
        params, state = carry
        u, state = tx.update(g, state, params)
        return (jax.tree.map(jnp.add, params, u), state), u

    gradients = {name: jnp.asarray(RECORDING[f"gradients/{name}"])[5:] for name in params}
    return jax.jit(lambda carry, gs: jax.lax.scan(step, carry, gs)[1])((params, state), gradients)


def worst(updates, expected):
    every = len(RECORDING["gradients/bias"][5:]) // len(next(iter(expected.values())))
    errors = []
    for name, x in expected.items():
        got = np.asarray(updates[name])[every - 1 :: every]
        axes = tuple(range(1, x.ndim))
        errors.append(np.max(np.max(np.abs(got - x), axis=axes) / np.max(np.abs(x), axis=axes)))
    return max(errors)


@pytest.mark.parametrize("run", RECIPES)
@pytest.mark.promotes("functions of the step, as users write them")
def test_the_next_updates_are_pytorchs(run, x64):
    saved, start, expected = recorded(run)
    params = {name: jnp.asarray(x) for name, x in start.items()}
    tx = RECIPES[run]
    state, report = gx.from_torch(tx, params, saved, list(params))
    fresh = [path for path in report.fresh if "/default/" not in path]  # Muon's other optimizer has no parameters
    assert fresh == (["step"] if run in COUNTLESS else []) and not report.dropped
    assert worst(updates_of(tx, state, params), expected) < 1e-6
    names = {name: i for i, name in enumerate(params)}
    again, _ = gx.from_torch(tx, params, {**saved, "state": {str(i): x for i, x in saved["state"].items()}}, names)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, again, state))


def test_every_recording_is_compared():
    runs = {path.split("/")[0] for path in RECORDING}
    assert runs == {*RECIPES, "start", "gradients"}


@pytest.mark.parametrize("run", ["adam", "adafactor"])
@pytest.mark.parametrize("form", ["a dict", "a function"])
@pytest.mark.promotes("functions of the step, as users write them")
def test_transposed_kernels(run, form, x64):
    saved, start, expected = recorded(run)
    params = {"kernel": jnp.asarray(start["kernel"]).T, "bias": jnp.asarray(start["bias"])}
    convert: Any = {"kernel": np.transpose}
    if form == "a function":
        convert = lambda path, x: x.T if path.endswith("kernel") else x  # noqa: E731
    state, _ = gx.from_torch(RECIPES[run], params, saved, {"kernel": 1, "bias": 0}, convert=convert)
    tx = RECIPES[run]

    def step(carry, g):
        u, new = tx.update(g, carry[1], carry[0])
        return (jax.tree.map(jnp.add, carry[0], u), new), u

    gradients = {"bias": RECORDING["gradients/bias"][5:], "kernel": RECORDING["gradients/kernel"][5:].swapaxes(1, 2)}
    updates = jax.lax.scan(step, (params, state), gradients)[1]
    assert worst({"bias": updates["bias"], "kernel": updates["kernel"].swapaxes(1, 2)}, expected) < 1e-6


def test_it_reports_each_leaf(x64):
    saved, start, _ = recorded("nadam")
    params = {name: jnp.asarray(x) for name, x in start.items()}
    state, report = gx.from_torch(RECIPES["nadam"], params, saved, ["bias", "kernel"])
    direction = "slots/precondition/direction/nesterov_ema"
    assert report.kept[f"{direction}/mean_log_decay"] == "state/0/mu_product"
    assert report.kept[f"{direction}/scale_by_ema/mean/kernel"] == "state/1/exp_avg"
    assert report.kept[f"{direction}/age"] == report.kept["step"] == "state/0/step"
    assert state.step == 5 and state.step.dtype == jnp.int32


def test_the_step_that_sgd_does_not_keep(x64):
    saved, start, _ = recorded("sgd")
    params = {name: jnp.asarray(x) for name, x in start.items()}
    tx = gx.sgd(gx.schedules.cosine(0.1, 1000), momentum=0.9)
    with pytest.raises(ValueError, match=r"expected a value for 'step'.*\n(.*\n)*.*step=… sets the number of updates"):
        gx.from_torch(tx, params, saved, ["bias", "kernel"])
    state, _ = gx.from_torch(tx, params, saved, ["bias", "kernel"], step=5)
    assert state.step == 5


SAVED, START, _ = recorded("adam")
PARAMS = {name: jnp.asarray(x, jnp.float32) for name, x in START.items()}
NAMES = ["bias", "kernel"]


def changed(i, **fields):
    return {**SAVED, "state": {**SAVED["state"], i: {**SAVED["state"][i], **fields}}}


class Tensor:
    """A tensor that NumPy cannot read."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __repr__(self):
        return "tensor(1.)"


WRONG: dict[str, Any] = {  # tx, state_dict, names, arguments, error, message
    "another optimizer": (
        *(gx.sgd(0.1, momentum=0.9), SAVED, NAMES, {}, ValueError),
        "expected a value for 'slots/add_momentum/velocity/bias', .*, got 'state/0/exp_avg'",
    ),
    "an optimizer with less state": (
        *(gx.rmsprop(), SAVED, NAMES, {}, ValueError),
        "expected only values that have a slot, got 'state/0/exp_avg', 'state/1/exp_avg'",
    ),
    "a shape": (
        *(gx.adam(), changed(1, exp_avg=np.ones((3, 4))), NAMES, {}, ValueError),
        r"'state/1/exp_avg' for 'slots/.*/mean/kernel': expected float32\[4,3\], got float.*\[3,4\]: convert=",
    ),
    "different ages": (
        *(gx.adam(), changed(1, step=np.array(2.0)), NAMES, {}, ValueError),
        "age': expected one number of updates for all its parameters, got 'state/0/step': 5, 'state/1/step': 2: give",
    ),
    "a parameter without state": (
        *(gx.adam(), {**SAVED, "state": {0: SAVED["state"][0]}}, NAMES, {}, ValueError),
        "expected a value for 'slots/precondition/by/scale_by_ema/mean/kernel'",
    ),
    "a sum for an average": (
        *(gx.averaged_momentum(), recorded("sgd")[0], NAMES, {}, ValueError),
        "expected a value for 'slots/scale_by_ema/mean/bias', .*, got 'state/0/momentum_buffer'",
    ),
    "an unknown field": (gx.adam(), changed(0, more=np.ones(4)), NAMES, {}, ValueError, "got 'state/0/more'"),
    "an unknown path": (
        gx.adam(),
        SAVED,
        ["bias", "weight"],
        {},
        ValueError,
        r"path of params \(bias, kernel\), got 'w",
    ),
    "an unknown index": (
        *(gx.adam(), SAVED, {"bias": 0, "kernel": 7}, {}, ValueError),
        r"names\['kernel'\]: expected an index in param_groups \(0, 1\), got 7",
    ),
    "too few names": (gx.adam(), SAVED, ["bias"], {}, ValueError, "a path for each of the 2 parameters .*, got 1"),
    "names of another kind": (
        gx.adam(),
        SAVED,
        "bias",
        {},
        TypeError,
        "names must be a dict of paths to indices or a ",
    ),
    "no state_dict": (gx.adam(), SAVED["state"], NAMES, {}, TypeError, "with 'state' and 'param_groups', .*, got"),
    "a tensor elsewhere": (
        *(gx.adam(), changed(0, exp_avg=Tensor()), NAMES, {}, TypeError),
        r"'state/0/exp_avg': expected an array of NumPy, got tensor\(1.\): tensor.detach",
    ),
    "objects": (gx.adam(), changed(0, exp_avg="a"), NAMES, {}, TypeError, "expected an array of numbers, got 'a'"),
    "a step below 0": (
        *(gx.adam(), SAVED, NAMES, {"step": -1}, ValueError),
        "step must be an integer, 0 or more, got -1",
    ),
    "convert": (
        gx.adam(),
        SAVED,
        NAMES,
        {"convert": 3},
        TypeError,
        "convert must be a function of .path, array., .*got 3",
    ),
}


@pytest.mark.parametrize("tx, saved, names, arguments, kind, message", WRONG.values(), ids=WRONG)
def test_an_error_names_what_does_not_fit(tx, saved, names, arguments, kind, message):
    with pytest.raises(kind, match=r"^from_torch: ") as error:
        gx.from_torch(tx, PARAMS, saved, names, **arguments)
    assert re.search(message, str(error.value)), str(error.value)


def test_without_strict_it_keeps_what_fits():
    some = {**SAVED, "state": {0: SAVED["state"][0]}}
    state, report = gx.from_torch(gx.sgd(0.1, momentum=0.9), PARAMS, some, NAMES, strict=False)
    assert report.fresh == ["slots/add_momentum/velocity/bias", "slots/add_momentum/velocity/kernel"]
    assert report.dropped == ["state/0/exp_avg", "state/0/exp_avg_sq"] and state.step == 5
    state, report = gx.from_torch(gx.adam(), PARAMS, changed(1, step=np.array(2.0)), NAMES, strict=False)
    assert state.slots["precondition"]["by"]["bias_correction"]["age"] == 5
