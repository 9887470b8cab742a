"""Hyperparameters by name, and the summary of an optimizer's state."""

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
    params = params_of()
    g = next(stream(params))
    step: Any = jax.jit(lambda tx, state: tx.update(g, state, params, **extra(tx)))
    state = tx.init(params)
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
    "unknown": ({"rate": 1.0}, "^there is no hyperparameter 'rate': did you mean 'learning_rate'. There are precond"),
    "ambiguous": ({"decay": 0.5}, r"'decay' is ambiguous: precondition.direction.*, precondition.by"),
    "out of range": ({"by.decay": 1.5}, "scale_by_ema: decay must be at least 0 and below 1, got 1.5"),
    "a schedule": (
        {"learning_rate": lambda step: 0.1},
        "learning_rate cannot change from 0.001 to .*schedules are structure",
    ),
    "a vector": ({"eps": jnp.ones(2)}, "precondition: eps must be one number"),
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
