"""Hyperparameters by name, and the summary of an optimizer's state."""

import dataclasses
import inspect
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALL, PARTS
from streams import assert_near, extra, follow, params_of, schedules_of, stream

import gradtx as gx
from gradtx.core import Schedule
from gradtx.typing import ScalarOrSchedule

each_tx = pytest.mark.parametrize("tx", [case.tx for _, case in ALL], ids=[name for name, _ in ALL])


@each_tx
def test_every_hyperparameter_can_be_read_and_set_by_its_name(tx):
    if schedules_of(tx):
        pytest.skip("declared: its schedule is structure, which a number cannot replace")
    values = gx.hyperparameters(tx)
    assert gx.set_hyperparameters(tx, values) == tx
    assert len(values) <= len(jax.tree.leaves(tx))
    assert set(values.values()) == set(jax.tree.leaves(tx))
    for name, value in values.items():
        other = gx.set_hyperparameters(tx, {name: value * 0.5 + 0.011})
        assert jax.tree.structure(other) == jax.tree.structure(tx) and other != tx
        assert gx.hyperparameters(other) == {**values, name: value * 0.5 + 0.011}


# Arguments from which a recipe computes numbers: what the fields hold, and are called, is then not the argument.
COMPUTED = {
    "adamc": {"weight_decay", "peak"},
    "asgd": {"learning_rate", "weight_decay", "power"},
    "madgrad": {"momentum"},
    "mars": {"decay", "gain"},
    "rolling_ball": {"mass", "friction", "time_step"},
    "muon": {"learning_rate"},
    "adamuon": {"learning_rate"},
    "dion": {"learning_rate"},
    "normuon": {"learning_rate"},
    "sinkgd": {"learning_rate"},
    "schedule_free_adamw": {"learning_rate"},
}
INNER = {"inner": gx.sign_sgd(0.125)}
# Every recipe as it is, and inside of what changes the paths, but not the words.
AROUND: dict[str, Any] = {
    "alone": lambda tx: tx,
    "read": lambda tx: gx.read(repr(tx)),
    "unflattened": lambda tx: jax.tree.map(lambda x: x, tx),
    "in wrappers": lambda tx: gx.lookahead(gx.skip_nonfinite(gx.accumulate(tx, 2))),
    "in a group": lambda tx: gx.partition({"w": tx}, default=gx.scale(2.0)),
    "in a chain": lambda tx: gx.chain(gx.clip(7.0), tx, gx.scale(3.0)),
}


def arguments_of(name):
    takes = inspect.signature(getattr(gx, name)).parameters.values()
    defaults = {x.name: x.default for x in takes if x.annotation == ScalarOrSchedule}
    return {x: value for x, value in defaults.items() if x not in COMPUTED.get(name, ())}, {
        x.name: INNER[x.name] for x in takes if x.name in INNER
    }


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("name", gx.optimizers.__all__)
def test_hyperparameters_have_the_words_of_the_recipe(name, around):
    """To set an argument by its name is to call the recipe with it, wherever its numbers land."""
    recipe, (arguments, inner) = getattr(gx, name), arguments_of(name)
    if name == "scion":
        inner = {"heads": "*b", "embeddings": "w"}  # without which `outer_radius` is nowhere
    if name == "scale_sgd":
        inner = {"heads": "w"}  # without which `momentum` is nowhere
    if name in ("sgd", "rmsprop"):
        arguments["momentum"] = 0.5  # without which there is none
    made = recipe(**arguments, **inner)
    values = gx.hyperparameters(around(made))
    for argument, value in arguments.items():
        alike = (x for x in values if x.split(".")[-1] == argument and values[x] == value)
        called = next(alike, argument)  # the names of heavy_ball and nesterov, which are an sgd, are sgd's
        new = 0.25 if value != 0.25 else 0.75
        changed = gx.set_hyperparameters(around(made), {called: new})
        assert changed == around(recipe(**arguments | {argument: new}, **inner)), argument
        assert gx.hyperparameters(changed).get(called, new) == new


def test_names_are_as_short_as_they_can_be():
    tx = gx.average_params(gx.accumulate(gx.muon(0.25, default=gx.adamw(0.5)), 2))
    names = gx.hyperparameters(tx)
    assert names["default.learning_rate"] == 0.5 and {"momentum", "is_linear.learning_rate", "decay"} <= names.keys()
    two = gx.chain(gx.adam(0.1), gx.adam(0.1, b1=0.8))
    assert {"adam.b1", "adam_2.b1", "adam_2.learning_rate"} <= gx.hyperparameters(two).keys()
    changed = gx.set_hyperparameters(two, {"adam_2.b1": 0.5})
    assert changed == gx.chain(gx.adam(0.1), gx.adam(0.1, b1=0.5))
    full = {"precondition_2.direction.scale_by_ema.decay": 0.5}  # the whole path goes on working
    assert gx.set_hyperparameters(two, full) == changed
    with pytest.raises(ValueError, match=r"'b1' is ambiguous: adam\.b1, adam_2\.b1$"):
        gx.set_hyperparameters(two, {"b1": 0.5})


def test_a_field_that_is_computed_from_an_argument_has_no_word():
    assert list(gx.hyperparameters(gx.rolling_ball())) == ["decay", "scale.factor", "scale_2.factor"]


def test_words_survive_jit_vmap_and_replace():
    txs = jax.vmap(gx.adam)(jnp.array([0.5, 0.25]))
    assert {"b1", "learning_rate"} <= gx.hyperparameters(txs).keys()

    def change(tx, b1):
        return gx.set_hyperparameters(dataclasses.replace(tx), {"b1": b1})

    assert jax.jit(change)(gx.adam(0.5), 0.75) == gx.adam(0.5, jnp.float32(0.75), jnp.float32(0.999), jnp.float32(1e-8))
    many = jax.jit(jax.vmap(change, in_axes=(0, None)))(txs, 0.75)
    assert many == jax.vmap(lambda rate: gx.adam(rate, 0.75))(jnp.array([0.5, 0.25]))


def test_places_of_an_argument_that_differ_are_not_one():
    tx = gx.set_hyperparameters(gx.fromage(0.5), {"learning_rate": 0.25})
    assert tx == gx.fromage(0.25)
    apart = gx.chain(gx.trust_ratio(), gx.scale_by_learning_rate(0.5), gx.fromage_rescale(0.25))
    values = gx.hyperparameters(apart)
    assert values["learning_rate"] == 0.5 and values["relative_step"] == 0.25


def test_an_average_and_its_correction_have_one_decay():
    for name in ("adam", "radam", "yogi", "adabelief"):
        recipe = getattr(gx, name)
        made = gx.set_hyperparameters(recipe(), {"direction.decay": 0.8, "by.decay": 0.99})
        assert made == recipe(b1=0.8, b2=0.99)


@each_tx
def test_the_summary_counts_the_bytes_of_the_state(tx):
    params = params_of("bfloat16")
    summary = gx.summary(tx, params)
    assert summary.bytes == sum(x.nbytes for x in jax.tree.leaves(tx.init(params)))
    assert summary.bytes == sum(row.bytes for row in summary.rows)
    assert summary.parameters == 16


@pytest.mark.parametrize("tx", [case.tx for _, case in PARTS], ids=[name for name, _ in PARTS])
@pytest.mark.promotes("Optax's arithmetic, in a pair")
def test_no_value_between_steps_compiles_again(tx):
    if schedules_of(tx):
        pytest.skip("declared: its schedule is structure, which a number cannot replace")
    params = jax.device_put(params_of(), jax.devices()[0])  # as all results are where some are in the host's memory
    g = next(stream(params))
    step: Any = jax.jit(lambda tx, state: tx.update(g, state, params, **extra(tx)))
    state = jax.jit(tx.init)(params)
    for i, kind in enumerate((float, np.float32, jnp.asarray)):
        values = {name: kind(value * (1 - 0.1 * i)) for name, value in gx.hyperparameters(tx).items()}
        tx = gx.set_hyperparameters(tx, values)
        _, state = step(tx, state)
    assert step._cache_size() == 1
    batch = gx.stack([tx]) if jax.tree.leaves(tx) else tx
    one = jax.tree.map(lambda x: x[0], batch)
    names = list(gx.hyperparameters(one))
    same = gx.set_hyperparameters(one, dict.fromkeys(names, 0.5))
    assert jax.tree.map(lambda x: (x.dtype, x.weak_type), same) == jax.tree.map(lambda x: (x.dtype, x.weak_type), one)


@pytest.mark.promotes("functions of the step, as users write them")
def test_setting_the_rate_between_steps_is_the_schedule():
    params = params_of()
    gradients = list(stream(params, 3))
    expected, _ = follow(gx.adam(lambda step: 0.1 / (step + 1)), params, gradients)
    traces = []

    @jax.jit
    def step(tx, g, state):
        traces.append(tx)
        return tx.update(g, state, params)

    tx, state = gx.adam(0.5), gx.adam().init(params)
    for i, (g, u) in enumerate(zip(gradients, expected)):
        tx = gx.set_hyperparameters(tx, {"learning_rate": 0.1 / (i + 1)})
        got, state = step(tx, g, state)
        assert_near(got, u)
    assert len(traces) == 1


def test_a_correction_is_right_for_a_decay_set_between_updates():
    params, decays = params_of(), (0.5, 0.9, 0.7)
    tx = gx.chain(gx.scale_by_ema(), gx.bias_correction())
    state, weight = tx.init(params), 1.0
    ones = jax.tree.map(jnp.ones_like, params)
    for decay in decays:
        tx = gx.set_hyperparameters(tx, {"decay": decay})
        got, state = tx.update(ones, state)
        assert_near(got, ones)  # the average of ones is one, whatever its decays were
        weight *= decay
        chex.assert_trees_all_close(state.slots["scale_by_ema"]["mean"]["b"], jnp.full(4, 1 - weight), rtol=1e-6)


@pytest.mark.promotes("functions of the step, as users write them")
def test_hyperparameters_are_the_values_of_the_next_update():
    tx, params = gx.adam(lambda step: 0.5**step), params_of()
    _, state = follow(tx, params, stream(params, 2))
    assert gx.hyperparameters(tx)["learning_rate"] == 1.0
    assert gx.hyperparameters(tx, state)["learning_rate"] == 0.25
    assert isinstance(tx, gx.Transformation) and any(
        isinstance(x, Schedule) for x in jax.tree.leaves(tx, is_leaf=lambda x: isinstance(x, Schedule))
    )


def test_a_correction_with_another_decay_is_a_separate_hyperparameter():
    tx = gx.chain(gx.scale_by_ema(0.9), gx.bias_correction(0.5))
    assert gx.hyperparameters(tx) == {"scale_by_ema.decay": 0.9, "bias_correction.decay": 0.5}
    changed = gx.set_hyperparameters(tx, {"scale_by_ema.decay": 0.8})
    assert changed == gx.chain(gx.scale_by_ema(0.8), gx.bias_correction(0.5))


def test_a_hyperparameter_made_a_schedule_keeps_the_structure_of_the_state():
    params, structure = params_of(), jax.tree.structure
    constant = gx.adamw().init(params)
    scheduled = gx.adamw(*(lambda step, x=x: x for x in (1e-3, 0.9, 0.999, 1e-8)), weight_decay=lambda step: 0.1)
    assert structure(scheduled.init(params)) == structure(constant)


BAD = {
    "unknown": (
        {"rate": 1.0},
        "^there is no hyperparameter 'rate': did you mean 'learning_rate'. There are b1, b2, eps, learning_rate$",
    ),
    "ambiguous": ({"decay": 0.5}, "'decay' is ambiguous: b1, b2$"),
    "out of range": (
        {"by.decay": 1.5},
        r"^set_hyperparameters: by.decay \(decay of scale_by_ema\) must be at least 0 and below 1, got 1.5",
    ),
    "a schedule": (
        {"learning_rate": lambda step: 0.1},
        "learning_rate cannot change from 0.001 to .*schedules are structure",
    ),
    "a vector": ({"eps": jnp.ones(2)}, r"^set_hyperparameters: eps \(eps of precondition\) must be one number"),
}


@pytest.mark.parametrize("values, words", BAD.values(), ids=BAD)
def test_bad_names_and_values(values, words):
    with pytest.raises(ValueError, match=words):
        gx.set_hyperparameters(gx.adam(), values)


def test_a_schedule_is_not_set_to_a_number():
    words = (
        "learning_rate cannot change from .*: schedules are structure. Make a new optimizer .*: the state carries over$"
    )
    with pytest.raises(ValueError, match=words):
        gx.set_hyperparameters(gx.adam(lambda step: 0.1), {"learning_rate": 0.1})
    params = {"w": jnp.ones(2)}
    scheduled = gx.adam(lambda step: 0.1)
    _, state = scheduled.update(params, scheduled.init(params), params)
    expected, _ = scheduled.update(params, state, params)
    chex.assert_trees_all_close(gx.adam(0.1).update(params, state, params)[0], expected)
    with pytest.raises(
        ValueError, match=r"decay cannot change from .*: gx.restore\(tx, params, state, strict=False\) carries"
    ):
        gx.set_hyperparameters(gx.adam(b1=lambda step: 0.9), {"direction.decay": 0.9})
    scheduled = gx.adam(b1=lambda step: 0.9)
    kept, _ = gx.restore(gx.adam(), params, scheduled.init(params), strict=False)
    chex.assert_trees_all_equal(kept, gx.adam().init(params))


def test_the_summary_of_seventy_billion_parameters():
    params = {f"layer_{i}": jax.ShapeDtypeStruct((8192, 8192), "bfloat16") for i in range(1050)}
    text = str(gx.summary(gx.adamw(), params))
    assert "70,464,307,200 parameters" in text and "563,714,457,620" in text
