"""A user's code, which pyright and `mypy --strict` must accept against the installed wheel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]

import gradtx as gx
from gradtx.typing import ScalarOrSchedule

# Optimizers, of numbers, arrays and schedules.
gx.adam(1e-3)
gx.adam(jnp.array(1e-3), b1=gx.schedules.linear(0.8, 0.9, steps=100), eps=lambda step: 1e-8)
gx.adamw(gx.schedules.warmup_cosine(1e-3, warmup=10, steps=1000))
gx.chain(gx.adamw(), gx.monitor_layers(), gx.monitor_layers("matrices", ["**/kernel"], cosine_to=gx.delay()))
gx.monitor_layers(patterns="**/bias", cosine_to=optax.scale(2.0))
gx.adamw(gx.schedules.cosine(1e-3, steps=1000), weight_decay=0.1, where=gx.is_matrix)
gx.adamw(where="**/kernel")
gx.adamw(where={"w": True, "b": False})
gx.muon(0.02, default=gx.lion(1e-4), exclude=["embed/*", "head/*"])
gx.lookahead(gx.sgd(0.1, momentum=0.9), every_k=5)

# Optax inside gradtx, and gradtx inside Optax.
gx.chain(optax.clip(1.0), gx.sgd(0.1))
gx.accumulate(optax.adam(1e-3), 4)
gx.precondition(gx.identity(), by=optax.scale(2.0))
gx.partition({"bias": optax.sgd(0.1)}, default=gx.adam())
optax.chain(optax.clip(1.0), gx.sgd(0.1))
gx.chain((lambda params: (), lambda updates, state, params: (updates, state)), gx.sgd(0.1))


class halving(gx.Schedule):
    start: gx.NonNegative
    steps: int = 100

    def __call__(self, step: jax.Array) -> jax.Array:
        value: jax.Array = self.start * 0.5 ** (step / self.steps)
        return value


class pull(gx.PerLeaf):
    factor: gx.Scalar = 0.1
    needs = ("params",)

    def init_leaf(self, param: jax.Array) -> dict[str, jax.Array]:
        return {"last": jnp.zeros_like(param)}

    def update_leaf(
        self, g: jax.Array, slots: dict[str, jax.Array], context: gx.Context
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        return g + self.factor * context.params, {"last": g}


def my_adam(learning_rate: ScalarOrSchedule = 1e-3) -> gx.Transformation:
    return gx.chain(gx.precondition(gx.momentum(0.9), by=gx.rms(0.999)), gx.scale_by_learning_rate(learning_rate))


tx = gx.chain(pull(0.5), my_adam(halving(0.1)))


# A loop, a compiled step, a whole training.
class Params(NamedTuple):
    slope: jax.Array
    offset: jax.Array


Batch = tuple[jax.Array, jax.Array]


def loss(params: Params, batch: Batch) -> jax.Array:
    x, y = batch
    return jnp.mean((params.slope * x + params.offset - y) ** 2)


params = Params(jnp.zeros(()), jnp.zeros(()))
batch = jnp.ones(8), jnp.ones(8)
init, update = tx
state = tx.init(params)
updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
params = gx.apply_updates(params, updates)
params, state = tx.apply(params, state, jax.grad(loss)(params, batch))
rate: float = float(gx.hyperparameters(tx, state)["learning_rate"])
slower: gx.Transformation = gx.set_hyperparameters(my_adam(), {"learning_rate": 0.01, "b1": 0.95})

step = gx.train_step(loss, tx)
params, state, metrics = step(params, step.tx.init(params), batch)
print(float(metrics.loss), float(metrics.gradient_norm), metrics.learning_rate, metrics.measurements)
quick = gx.train_step(loss, tx, measure=False)
log = gx.log_jsonl("run.jsonl")
log(1, metrics)


class Writer:
    def add_scalar(self, name: str, number: float, step: int) -> None: ...

    def log(self, numbers: dict[str, float], step: int) -> None: ...


loggers = [log, gx.log_tensorboard(Writer()), gx.log_wandb(Writer()), gx.training.Logger(lambda step, numbers: None)]
gx.fit(params, gx.adam(0.1), loss, batch, steps=3, progress=False, measure=False, callbacks=loggers)
run = gx.fit(params, gx.adam(0.1), loss, batch, steps=3, progress=False)
print(run.history["loss"], run.stopped)
print(gx.summary(tx, params), gx.formula(tx), gx.__version__)
gx.plots.schedule(gx.schedules.cosine(1e-3, steps=100))
gx.plots.table()
gx.plots.response({"mine": tx})
gx.plots.curves({"adam": [1.0, 0.5]})
gx.plots.paths(gx.lab.SURFACES["bowl"], {"sgd": gx.sgd(0.1)})
