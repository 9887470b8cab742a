"""No object of a user outlives its last use: losses, data and the arrays that they close over."""

import gc
import weakref
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx
from gradtx.core.programs import KEPT
from gradtx.lab import SURFACES, descend

MIB = 2**20
STATM = Path("/proc/self/statm")


def resident() -> int:
    """The resident memory of this process, in bytes."""
    if not STATM.exists():
        pytest.skip("declared: this system does not tell a process's memory in /proc")
    return int(STATM.read_text().split()[1]) * 4096


def loss_of(held):
    """A loss that closes over an array."""

    def loss(w, batch):
        return jnp.mean((w * batch - held[0]) ** 2)

    return loss


class Model:
    traced = 0

    def loss(self, w, batch):
        self.traced += 1
        return jnp.mean((w * batch - 1) ** 2)


def a_step(loss):
    step = gx.train_step(loss, gx.sgd(0.1), donate=False)
    w = jnp.zeros(())
    step(w, step.tx.init(w), jnp.ones(4))


def a_fit(loss):
    gx.fit(jnp.zeros(()), gx.sgd(0.1), loss, jnp.ones(4), steps=1, progress=False)


def a_sweep(loss):
    gx.sweep(lambda tx: loss(tx.links[-1].learning_rate, jnp.ones(4)), [gx.sgd(0.1), gx.sgd(0.2)])


def a_descent(loss):
    descend(SURFACES["bowl"]._replace(function=lambda w: loss(w, jnp.ones(2))), gx.sgd(0.1), steps=2)


@pytest.mark.parametrize("use", [a_step, a_fit, a_sweep, a_descent])
def test_no_loss_outlives_its_last_use(use):
    used = []

    def once():
        loss = loss_of(np.ones(2))
        use(loss)
        used.append(weakref.ref(loss))

    for _ in range(5):
        once()
    gc.collect()
    assert not any(loss() for loss in used)


def test_no_schedule_of_a_sweep_outlives_its_training():
    used = []

    def once():
        held = np.ones(MIB // 8)

        def schedule(step):
            return 0.1 * held[0]

        def train(tx):
            return tx.links[-1].learning_rate(0) * jnp.ones(())

        gx.sweep(train, gx.grid(gx.adamw, learning_rate=[schedule], b1=[0.8, 0.9]))
        used.append(weakref.ref(schedule))

    for _ in range(5):
        once()
    gc.collect()
    assert not any(schedule() for schedule in used)


def test_no_object_outlives_its_method_and_no_function_its_data():
    used = []

    def once():
        model = Model()
        a_step(model.loss)
        a_fit(model.loss)

        def data(key):
            return jnp.ones(4)

        gx.fit(jnp.zeros(()), gx.sgd(0.1), a_loss, data, steps=1, progress=False)
        used.extend([weakref.ref(model), weakref.ref(data)])

    for _ in range(5):
        once()
    gc.collect()
    assert not any(thing() for thing in used)


def updated(tx):
    w = jnp.ones(3)
    tx.update(w, tx.init(w), w)


def applied(tx):
    w = jnp.ones(3)
    tx.apply(w, tx.init(w), w)


def evaluated(tx):
    w = jnp.ones(3)
    gx.eval_params(tx, tx.init(w), w)


def trained(tx):
    step = gx.train_step(a_loss, tx, donate=False)
    w = jnp.zeros(())
    step(w, step.tx.init(w), jnp.ones(4))


def fitted(tx):
    gx.fit(jnp.zeros(()), tx, a_loss, jnp.ones(4), steps=1, progress=False)


@pytest.mark.parametrize("use", [updated, applied, evaluated, trained, fitted])
@pytest.mark.parametrize(
    "make",
    [
        lambda function: gx.schedule_free(gx.sgd(lambda step: 0.1 * function(step))),
        lambda function: gx.adamw(0.1, where=lambda path, leaf: function(0) > 0),
        lambda function: gx.chain(gx.monitor("zero", measure=lambda u: 0.0 * function(0)), gx.sgd(0.1)),
    ],
    ids=["schedule", "where", "measure"],
)
def test_of_the_functions_of_optimizers_the_last_few_are_kept(use, make):
    used = []

    def once():
        def function(step):
            return 1.0

        use(make(function))
        used.append(weakref.ref(function))

    for _ in range(KEPT + 10):
        once()
    gc.collect()
    assert sum(function() is not None for function in used) <= KEPT


a_loss = loss_of(np.ones(2))


def test_the_same_loss_is_traced_once():
    """A function, and a method, which is a new object at each access."""
    model, other = Model(), Model()
    whole = partial(model.loss)
    for use in (lambda: a_step(model.loss), lambda: a_fit(model.loss), lambda: a_step(whole), lambda: a_fit(whole)):
        use()
        traced = model.traced
        use()
        assert model.traced == traced
    a_step(other.loss)
    assert other.traced


def test_hundreds_of_losses_and_fits_and_thousands_of_records_keep_no_memory():
    def use(times):
        for _ in range(times):
            loss = loss_of(np.ones(5 * MIB // 8))
            a_step(loss)
            a_fit(loss)
        w = jnp.ones(3)
        for i in range(25 * times):
            tx = gx.adamw(0.1 / (i + 1), b1=gx.schedules.linear(0.8, 0.9, steps=1000))
            tx.init(w)
        gc.collect()

    use(20)  # fills caches that JAX keeps
    before = resident()
    use(100)
    assert resident() - before < 100 * MIB  # the losses held 500 MiB
