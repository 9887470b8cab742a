"""The optimizers, states, parameters and masks of Flax NNX, Flax and Equinox in gradtx's functions."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState
from streams import assert_near

import gradtx as gx

X = jax.random.normal(jax.random.key(0), (64, 2))
Y = jnp.sin(X.sum(1, keepdims=True))


# ---------------------------------------------------------------- each framework's own values
def nnx_trained(tx, steps=2):
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for _ in range(steps):
        optimizer.update(model, nnx.grad(lambda model: (model(X) ** 2).sum())(model))
    return model, optimizer


def test_flush_takes_the_state_of_nnx():
    tx = gx.accumulate(gx.sgd(0.1), 4)
    model, optimizer = nnx_trained(tx)
    params, state = nnx.state(model, nnx.Param), optimizer.opt_state
    flushed = gx.flush(tx, params, state)
    assert jax.tree.structure(flushed) == jax.tree.structure((params, state))
    assert_near(nnx.as_pure(flushed), gx.flush(tx, nnx.as_pure(params), nnx.as_pure(state)))


NNX = {
    "schedules": gx.adamw(gx.schedules.cosine(0.1, 10)),
    "a clock": gx.accumulate(gx.adamw(gx.schedules.cosine(0.1, 10)), 2),
    "schedule_free": gx.schedule_free(gx.sgd(0.1)),
    "a monitor": gx.chain(gx.monitor("norm", gx.global_norm), gx.average_params(gx.adam())),
    "adafactor": gx.adafactor(min_size=2),
}


@pytest.mark.parametrize("tx", NNX.values(), ids=NNX)
def test_functions_take_the_state_and_the_parameters_of_nnx(tx):
    """Each as it takes pure ones."""
    model, optimizer = nnx_trained(tx)
    params, state = nnx.state(model, nnx.Param), optimizer.opt_state
    plain, pure = nnx.as_pure(params), nnx.as_pure(state)
    evaluated = gx.eval_params(tx, state, params)
    assert jax.tree.structure(evaluated) == jax.tree.structure(params)
    assert_near(nnx.as_pure(evaluated), gx.eval_params(tx, pure, plain))
    assert gx.measurements(state) == gx.measurements(pure)
    assert gx.hyperparameters(tx, state) == gx.hyperparameters(tx, pure)
    assert str(gx.summary(tx, params)) == str(gx.summary(tx, plain)) == str(gx.summary(tx, model))
    restored, report = gx.restore(tx, params, state)
    assert not report.fresh and not report.dropped
    assert_near(nnx.as_pure(restored), pure)
    updates, new = tx.update(params, state, params)
    assert jax.tree.structure((updates, new)) == jax.tree.structure((params, state))
    assert_near(nnx.as_pure((updates, new)), tx.update(plain, pure, plain))


def test_a_restored_state_goes_on_in_nnx():
    tx = gx.adafactor(min_size=2)
    model, optimizer = nnx_trained(tx)
    other, again = nnx_trained(tx, steps=0)
    nnx.update(other, nnx.state(model))
    restored, _ = gx.restore(tx, nnx.state(model, nnx.Param), nnx.state(optimizer))
    nnx.update(again.opt_state, nnx.state(restored))
    for m, o in ((model, optimizer), (other, again)):
        o.update(m, nnx.grad(lambda model: (model(X) ** 2).sum())(m))
    assert_near(nnx.to_pure_dict(nnx.state(other)), nnx.to_pure_dict(nnx.state(model)))


RATES = {"a number": 0.02, "an array": jnp.array(0.02)}


@pytest.mark.parametrize(
    "wrap", [lambda tx: tx, gx.schedule_free, gx.skip_nonfinite], ids=["", "schedule_free", "guard"]
)
@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
def test_an_nnx_optimizer_with_any_hyperparameter(rate, wrap):
    expected, _ = nnx_trained(wrap(gx.adamw(0.02)))
    model, optimizer = nnx_trained(wrap(gx.adamw(rate)), steps=0)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: (model(X) ** 2).sum())(model))

    for _ in range(2):
        step(model, optimizer)
    assert_near(nnx.to_pure_dict(nnx.state(model)), nnx.to_pure_dict(nnx.state(expected)))


def test_vmapped_nnx_optimizers():
    rates = jnp.array([0.1, 0.01])

    @nnx.vmap
    def make(rate):
        model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        return model, nnx.Optimizer(model, gx.adamw(rate), wrt=nnx.Param)

    @nnx.jit
    @nnx.vmap
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: (model(X) ** 2).sum())(model))

    model, optimizer = make(rates)
    for _ in range(2):
        step(model, optimizer)
    for i, rate in enumerate(rates):
        expected, _ = nnx_trained(gx.adamw(rate))
        assert_near(
            jax.tree.map(lambda x, i=i: x[i], nnx.to_pure_dict(nnx.state(model))), nnx.to_pure_dict(nnx.state(expected))
        )


def compiles_of_five(rates, make, step, set_):
    """How often a step is traced while the learning rate takes five values, each for two steps."""
    state, traces = make(), []
    jitted = jax.jit(lambda state: (traces.append(1), step(state))[1])
    for rate in rates:
        state = set_(state, rate)
        for _ in range(2):
            state = jitted(state)
    return len(traces), state


class TrainStateWithTx(TrainState):
    """The way that the book documents: an optimizer is a pytree, so that its hyperparameters are arguments."""

    tx: Any


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
def test_another_rate_in_a_train_state_compiles_once(rate):
    model: Any = linen.Dense(1)
    params = model.init(jax.random.key(0), X)
    loss = lambda params: jnp.mean((model.apply(params, X) - Y) ** 2)  # noqa: E731
    rates = [0.1, 0.05, 0.02, 0.01, 0.3]
    counts, found = {}, {}
    for kind in (TrainState, TrainStateWithTx):
        counts[kind], state = compiles_of_five(
            rates,
            lambda kind=kind: kind.create(apply_fn=model.apply, params=params, tx=gx.adamw(rate)),
            lambda state: state.apply_gradients(grads=jax.grad(loss)(state.params)),
            lambda state, rate: state.replace(tx=gx.set_hyperparameters(state.tx, {"learning_rate": rate})),
        )
        found[kind] = state.params
    assert counts == {TrainState: 5, TrainStateWithTx: 1}
    assert_near(found[TrainStateWithTx], found[TrainState])


def test_another_rate_in_an_nnx_optimizer_compiles_once():
    model, optimizer = nnx_trained(gx.adamw(jnp.array(0.1)), steps=0)
    traces = []

    @nnx.jit
    def step(model, optimizer):
        traces.append(1)
        optimizer.update(model, nnx.grad(lambda model: (model(X) ** 2).sum())(model))

    for rate in (0.1, 0.05, 0.02, 0.01, 0.3):
        optimizer.tx = gx.set_hyperparameters(optimizer.tx, {"learning_rate": rate})
        step(model, optimizer)
    assert len(traces) == 1


# ---------------------------------------------------------------- Equinox's modules
MLP = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
MLP_PARAMS = eqx.filter(MLP, eqx.is_inexact_array)


def test_a_whole_model_is_refused_with_the_advice_to_filter_it():
    tx = gx.adam()
    state = tx.init(MLP_PARAMS)
    for call in (
        lambda: tx.init(MLP),
        lambda: tx.update(MLP_PARAMS, state, MLP),
        lambda: tx.apply(MLP, state, MLP_PARAMS),
        lambda: jax.jit(lambda s: tx.update(MLP_PARAMS, s, MLP))(state),
    ):
        with pytest.raises(TypeError, match=r"^params\['activation'\] is .*equinox.filter\(model, is_inexact_array\)"):
            call()
    with pytest.raises(TypeError, match=r"^updates\['activation'\] is .*equinox.filter"):
        tx.update(MLP, state, MLP)


class WithState(eqx.Module):
    """A model that keeps the state of its optimizer."""

    layer: eqx.nn.Linear
    index: eqx.nn.StateIndex

    def __init__(self, tx):
        self.layer = eqx.nn.Linear(2, 3, key=jax.random.key(0))
        self.index = eqx.nn.StateIndex(tx.init(eqx.filter(self.layer, eqx.is_inexact_array)))


def test_a_state_kept_in_a_state_index():
    tx = gx.adafactor(min_size=2)
    model, states = eqx.nn.make_with_state(WithState)(tx)

    @eqx.filter_jit
    def step(model, states):
        params = eqx.filter(model.layer, eqx.is_inexact_array)
        updates, state = tx.update(params, states.get(model.index), params)
        layer = eqx.apply_updates(model.layer, updates)
        return eqx.tree_at(lambda model: model.layer, model, layer), states.set(model.index, state)

    params = eqx.filter(model.layer, eqx.is_inexact_array)
    state = tx.init(params)
    for _ in range(2):
        params, state = tx.apply(params, state, params)
        model, states = step(model, states)
    assert_near(states.get(model.index), state)
    assert_near(eqx.filter(model.layer, eqx.is_inexact_array), params)


class OfTwo(eqx.Module):
    """A module that is called with two arguments, as a function of (path, leaf) is."""

    weight: Any
    bias: Any

    def __call__(self, x, y):
        raise AssertionError("called")


@pytest.mark.parametrize("params", [MLP_PARAMS, OfTwo(jnp.ones((2, 2)), jnp.ones(2))], ids=["MLP", "of two"])
def test_a_tree_of_booleans_over_a_callable_module_is_a_mask(params):
    mask = jax.tree.map(lambda x: x.ndim > 1, params)
    masked, chosen = gx.adamw(0.1, where=mask), gx.adamw(0.1, where=gx.is_matrix)
    assert_near(masked.update(params, masked.init(params), params), chosen.update(params, chosen.init(params), params))
    with pytest.raises(ValueError, match="matches no parameter"):
        masked.init({"w": jnp.ones(2)})


def test_a_mask_of_nnx():
    params = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    model, _ = nnx_trained(gx.adamw(0.1, where=jax.tree.map(lambda x: x.ndim > 1, params)))
    expected, _ = nnx_trained(gx.adamw(0.1, where=gx.is_matrix))
    assert_near(nnx.to_pure_dict(nnx.state(model)), nnx.to_pure_dict(nnx.state(expected)))


@pytest.mark.parametrize("empty", [{}, [], (), {"a": None}], ids=str)
def test_an_empty_tree_is_a_mask_of_empty_parameters(empty):
    tx = gx.adamw(0.1, where=empty)
    updates, _ = tx.update(empty, tx.init(empty), empty)
    assert jax.tree.structure(updates) == jax.tree.structure(empty)
    with pytest.raises(ValueError, match="the tree of booleans has no entry for the parameter 'w'"):
        tx.update({"w": jnp.ones(1)}, tx.init({"w": jnp.ones(1)}), {"w": jnp.ones(1)})


class trained_on(gx.Schedule):
    start: gx.NonNegative

    def __call__(self, step):
        return self.start / (1 + step)


def test_records_are_data_in_a_module_of_nnx():
    class Holder(nnx.Module):
        def __init__(self, schedule):
            self.schedule = schedule

    holder = Holder(trained_on(jnp.array(0.5)))
    assert nnx.jit(lambda holder: holder.schedule(1))(holder) == 0.25
