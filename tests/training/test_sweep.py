"""Many optimizers as one record: each computes the same as alone, in one compilation."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PARTS
from streams import assert_near, follow, member, params_of, stream

import gradtx as gx
from gradtx.training.sweep import _run

RATES = [0.3, 0.1, 0.01]


def train(tx, steps=20):
    """The loss after some steps on a long bowl, and the losses on the way."""
    curvature = jnp.array([1.0, 10.0])

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(curvature * w, state, w)
        return (w + updates, state), curvature @ (w * w)

    w = jnp.ones(2)
    (w, _), losses = jax.lax.scan(step, (w, tx.init(w)), length=steps)
    return {"loss": curvature @ (w * w), "losses": losses}


# ---------------------------------------------------------------- batches
WITH_NUMBERS = {name: case.tx for name, case in PARTS if jax.tree.leaves(case.tx)}


@pytest.mark.parametrize("tx", WITH_NUMBERS.values(), ids=WITH_NUMBERS)
def test_a_batch_holds_its_members(tx):
    other = jax.tree.map(lambda x: 0.9 * x, tx)
    batch = gx.stack([tx, other])
    for leaf in jax.tree.leaves(batch):
        assert leaf.shape == (2,)
    for i, alone in enumerate((tx, other)):
        assert_near(jax.tree.leaves(member(batch, i)), jax.tree.leaves(alone), 1e-7)
    params = params_of()
    g = next(stream(params))
    assert_near(follow(member(batch, 0), params, [g])[0], follow(tx, params, [g])[0], 1e-6)


def test_a_batch_of_vmap_is_the_same():
    assert gx.stack([gx.adam(rate) for rate in RATES]) == jax.vmap(gx.adam)(jnp.array(RATES))


def test_a_grid_is_every_combination_and_the_last_varies_fastest():
    batch = gx.grid(gx.adam, learning_rate=RATES, b1=(0.5, 0.9), eps=np.array([1e-8, 1e-4]))
    expected = [gx.adam(rate, b1, eps=eps) for rate, b1, eps in itertools.product(RATES, (0.5, 0.9), (1e-8, 1e-4))]
    assert batch == gx.stack(expected)
    assert gx.grid(functools.partial(gx.adam, b2=0.5), learning_rate=[0.1]) == gx.stack([gx.adam(0.1, b2=0.5)])


# ---------------------------------------------------------------- sweeps
@pytest.mark.parametrize("at_once", [None, 1, 2, 100])
def test_a_sweep_is_a_loop(at_once):
    txs = [gx.adam(rate, b1) for rate in RATES for b1 in (0.5, 0.9)]
    found = gx.sweep(train, txs, at_once=at_once)
    assert found.results["losses"].shape == (6, 20)
    for i, tx in enumerate(txs):
        assert_near(member(found.results, i), jax.jit(train)(tx), 2e-6)


@pytest.mark.parametrize("at_once, turns", [(None, None), (1, 6), (2, 3)])
def test_at_once_sets_the_batches(at_once, turns):
    txs = gx.grid(gx.scale, factor=np.arange(1.0, 7.0))
    program = str(jax.make_jaxpr(lambda txs: _run(lambda tx: tx.factor**2, at_once, txs))(txs))
    assert f"length={turns}" in program if turns else "scan" not in program


def test_a_sweep_compiles_once_and_not_again_for_other_values():
    traces = []

    def counting(tx):
        traces.append(tx)
        return train(tx)

    for factor in (1.0, 0.5):
        gx.sweep(counting, gx.grid(gx.adam, learning_rate=[factor * rate for rate in np.geomspace(1e-3, 1, 64)]))
    assert len(traces) == 1


def test_a_number_inside_a_schedule_can_be_swept():
    schedules = [gx.schedules.warmup(peak, steps=5, then=gx.schedules.cosine(peak, 10)) for peak in RATES]
    found = gx.sweep(train, [gx.adamw(schedule) for schedule in schedules])
    assert list(found.hyperparameters) == ["learning_rate.peak", "then.peak"]
    for i, schedule in enumerate(schedules):
        assert_near(found.results["loss"][i], train(gx.adamw(schedule))["loss"], 2e-6)


def test_the_table_has_a_column_for_each_number_that_varies():
    txs = gx.grid(gx.adam, learning_rate=[0.5, 0.25], b2=[0.5, 0.75])
    found = gx.sweep(lambda tx: {"loss": tx.links[1].learning_rate, "path": jnp.zeros((3, 2))}, txs)
    assert str(found) == (
        "learning_rate    b2  loss          path\n"
        "          0.5   0.5   0.5  float32[3,2]\n"
        "          0.5  0.75   0.5  float32[3,2]\n"
        "         0.25   0.5  0.25  float32[3,2]\n"
        "         0.25  0.75  0.25  float32[3,2]"
    )
    many = gx.sweep(lambda tx: tx.links[1].learning_rate > 0.5, gx.grid(gx.sgd, learning_rate=np.linspace(0, 1, 103)))
    lines = repr(many).splitlines()
    assert lines[0].split() == ["learning_rate", "result"] and lines[-1] == "… and 3 more" and len(lines) == 102


def test_the_columns_have_the_words_of_the_caller_and_the_numbers_as_written():
    def make(rate, fraction):
        return gx.chain(gx.scale(fraction), gx.adam(rate / 2, b2=fraction))

    txs = gx.grid(make, rate=[0.1, 0.3], fraction=[0.7])
    found = gx.sweep(train, txs)
    assert {name: values.tolist() for name, values in found.hyperparameters.items()} == {"rate": [0.1, 0.3]}
    assert found.best(lambda result: result["loss"]) in (make(0.1, 0.7), make(0.3, 0.7))
    rebuilt = gx.sweep(train, jax.tree.map(lambda x: x, txs))  # and the recipe's words where JAX has rebuilt the batch
    assert {name: values.tolist() for name, values in rebuilt.hyperparameters.items()} == {
        "learning_rate": [0.05, 0.15]
    }
    listed = gx.sweep(train, [gx.adam(0.1, b1) for b1 in (0.8, 0.9)])
    assert {name: values.tolist() for name, values in listed.hyperparameters.items()} == {"b1": [0.8, 0.9]}
    falling = [gx.schedules.cosine(peak, steps=20) for peak in RATES]
    scheduled = gx.sweep(train, gx.grid(gx.sgd, learning_rate=falling))  # which are not numbers
    assert {name: values.tolist() for name, values in scheduled.hyperparameters.items()} == {"peak": RATES}


def test_the_best_is_the_lowest_that_is_a_number():
    txs = gx.grid(gx.sgd, learning_rate=[1e30, 0.1, 0.01])
    found = gx.sweep(train, txs)
    assert not np.isfinite(found.results["loss"][0])
    assert_near(found.best(lambda result: result["loss"]).links[-1].learning_rate, 0.1)
    assert gx.sweep(lambda tx: tx.links[-1].learning_rate, txs).best() == gx.sgd(0.01)
    with pytest.raises(ValueError, match="best needs one number for each of 3 optimizers, got an array of shape"):
        found.best(lambda result: result["losses"])
    with pytest.raises(ValueError, match="best needs one number for each of 3 optimizers, got only NaN"):
        found.best(lambda result: result["loss"] * jnp.nan)


# ---------------------------------------------------------------- errors
DIFFERENT = {
    "a piece": ([gx.sgd(0.1), gx.sgd(0.1, momentum=0.9)], r"txs\[1\] .*: links\[0\] is add_momentum, not identity"),
    "how many pieces": ([gx.chain(gx.sign()), gx.chain()], r"txs\[1\] .*: links are 0, not 1"),
    "a choice": (
        [gx.adam(), gx.adam(), gx.adam(eps_in_sqrt=True)],
        r"txs\[2\] .*: links\[0\].eps_in_sqrt is True, not False",
    ),
    "a schedule": (
        [gx.sgd(0.1), gx.sgd(gx.schedules.cosine(0.1, 5))],
        r"links\[1\].learning_rate is cosine, not a number",
    ),
    "its steps": (
        [gx.sgd(gx.schedules.cosine(0.1, 4)), gx.sgd(gx.schedules.cosine(0.1, 5))],
        r"links\[1\].learning_rate.steps is 5, not 4",
    ),
    "an absent part": (
        [gx.sgd(gx.schedules.warmup(0.1, 4)), gx.sgd(gx.schedules.warmup(0.1, 4, then=0.1))],
        r"links\[1\].learning_rate.then is a number, not None",
    ),
    "the whole": ([gx.sign(), gx.square()], r"txs\[1\] .*: it is square, not sign"),
    "a batch": ([gx.scale(0.1), gx.stack([gx.scale(0.1)])], r"factor is an array of shape \(1,\), not a number"),
    "none": ([], "stack needs one optimizer or more"),
}


@pytest.mark.parametrize("txs, words", DIFFERENT.values(), ids=DIFFERENT)
def test_optimizers_that_differ_in_structure_are_refused_with_the_first_difference(txs, words):
    with pytest.raises(ValueError, match=words):
        gx.stack(txs)


BAD = {
    "no optimizer": (lambda: gx.stack([gx.adam(), 1]), TypeError, r"stack: txs\[1\] must be a transformation"),
    "no sequence": (lambda: gx.grid(gx.adam, b1=0.9), TypeError, "grid: b1 must be a sequence, got 0.9"),  # pyright: ignore
    "no values": (lambda: gx.grid(gx.adam, b1=[]), ValueError, "grid: b1 has no values"),
    "unknown name": (
        lambda: gx.grid(gx.adam, b3=[0.9]),
        TypeError,
        "grid: adam has no argument 'b3': did you mean 'b2'",
    ),
    "missing name": (lambda: gx.grid(gx.clip), TypeError, "grid: clip.* 'limit'"),
    "a value out of range": (
        lambda: gx.grid(gx.adam, b1=[0.9, 1.5]),
        ValueError,
        "adam: b1 must be at least 0 and below",
    ),
    "one optimizer": (lambda: gx.sweep(train, gx.adam()), ValueError, "must be a batch of optimizers"),
    "two sizes": (
        lambda: gx.sweep(train, gx.chain(gx.stack([gx.scale(0.1)] * 2), gx.stack([gx.scale(0.1)] * 3))),
        ValueError,
        "must be a batch of optimizers",
    ),
    "no optimizers": (lambda: gx.sweep(train, {"a": jnp.ones(3)}), ValueError, "must be a batch of optimizers"),
    "no function": (lambda: gx.sweep(None, [gx.adam()]), TypeError, "train must be a function"),  # pyright: ignore
    "at once": (lambda: gx.sweep(train, [gx.adam()], at_once=0), ValueError, "at_once must be None or an integer"),
    "within jit": (
        lambda: jax.jit(lambda txs: gx.sweep(train, txs).results)(gx.stack([gx.adam()])),
        TypeError,
        r"txs are traced, .* within jit, use jax.vmap\(train\)\(txs\)",
    ),
    "a rate below 0": (
        lambda: gx.sweep(train, jax.vmap(gx.adam)(jnp.array([0.1, -0.1, 0.2]))),
        ValueError,
        "learning_rate must be a finite number, 0 or more, got -0.1",
    ),
    "a decay above 1": (
        lambda: gx.sweep(train, jax.tree.map(lambda h: jnp.array([h, 1.5, 0.2]), gx.sgd(0.1, momentum=0.9))),
        ValueError,
        "add_momentum: decay must be at least 0 and .*, got 1.5",
    ),
    "no array": (lambda: gx.sweep(lambda tx: {"name": "adam"}, [gx.adam()]), TypeError, "returned 'adam' at 'name'"),
}


@pytest.mark.parametrize("call, error, words", BAD.values(), ids=BAD)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
