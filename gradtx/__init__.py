"""Composable gradient transformations for JAX: an optimizer is a composition of small pure pieces, and it is data.

>>> import gradtx as gx
>>> def adam(learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8):
...     return gx.chain(
...         gx.precondition(gx.momentum(b1), by=gx.rms(b2), eps=eps),  # a direction, divided by a size
...         gx.scale_by_learning_rate(learning_rate),
...     )
>>> adam() == gx.adam()
True

To add a piece or a schedule, write a class; the annotations of its fields say which values they hold. A pair of
functions is a transformation as well.

>>> import jax.numpy as jnp
>>> class halving(gx.Schedule):  # start · 2^(−t/steps)
...     start: gx.NonNegative
...     steps: gx.Positive
...     def __call__(self, step):
...         return self.start * 0.5 ** (step / self.steps)
>>> gx.sgd(halving(0.1, steps=100)).at(200)
chain(identity(), scale_by_learning_rate(0.025))

>>> class pull(gx.PerLeaf):  # u = g + c·θ/t
...     factor: gx.Scalar
...     needs = ("params",)
...     def update_leaf(self, g, slots, context: gx.Context):
...         return g + self.factor * context.params / context.step, slots
>>> halved = gx.pair(lambda params: (), lambda updates, state, params: (updates / 2, state))
>>> tx, params = gx.chain(pull(0.5), halved), jnp.array([4.0])
>>> tx.update(jnp.array([1.0]), tx.init(params), params)
(Array([1.5], dtype=float32), State(step=Array(1, dtype=int32), slots={'pair': {'state': ()}}))
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gradtx import (
    codecs,
    combinators,
    display,
    distributed,
    inspect,
    optimizers,
    pieces,
    projections,
    schedules,
    wrappers,
)
from gradtx.combinators import *  # noqa: F403
from gradtx.core import (
    Context,
    Decay,
    NonNegative,
    PerLeaf,
    Positive,
    Scalar,
    Schedule,
    State,
    Transformation,
    of_step,
    pair,
)
from gradtx.core.apply import apply_updates
from gradtx.core.where import is_linear, is_matrix
from gradtx.distributed import *  # noqa: F403
from gradtx.inspect import *  # noqa: F403
from gradtx.optimizers import *  # noqa: F403
from gradtx.pieces import *  # noqa: F403
from gradtx.projections import *  # noqa: F403
from gradtx.serialization import *  # noqa: F403
from gradtx.wrappers import *  # noqa: F403

if TYPE_CHECKING:  # imported at their first use
    from gradtx import interop, serialization, training
    from gradtx import lab as lab
    from gradtx import plots as plots
    from gradtx.interop import as_optax, from_optax, from_torch, to_optax
    from gradtx.training.fit import fit
    from gradtx.training.gradient_check import check_gradient, numeric_gradient
    from gradtx.training.loggers import log_jsonl, log_tensorboard, log_wandb
    from gradtx.training.minimize import minimize
    from gradtx.training.privacy import private_gradient
    from gradtx.training.random_search import random_search
    from gradtx.training.seeds import fit_seeds
    from gradtx.training.step import train_step
    from gradtx.training.sweep import Sweep, grid, stack, sweep
    from gradtx.training.targets import incremental_update, periodic_update
else:
    from gradtx import serialization

__version__ = "0.2.0.dev0"

# The protocol: transformations, hyperparameters, schedules.
__all__ = ["Context", "Decay", "NonNegative", "PerLeaf", "Positive", "Scalar", "Schedule", "State", "Transformation"]
__all__ += ["apply_updates", "is_linear", "is_matrix", "of_step", "pair", "schedules"]
# Optimizers, and the pieces, combinators and wrappers they are composed of.
__all__ += optimizers.__all__
__all__ += pieces.__all__
__all__ += projections.__all__
__all__ += combinators.__all__
__all__ += wrappers.__all__
__all__ += distributed.__all__
# Inspection, saving, other libraries.
__all__ += inspect.__all__
__all__ += serialization.__all__
__all__ += ["as_optax", "from_optax", "from_torch", "to_optax"]  # imported at the first use
# Training; imported at the first use.
__all__ += ["Sweep", "fit", "fit_seeds", "grid", "stack", "sweep", "train_step"]
__all__ += [
    "check_gradient",
    "log_jsonl",
    "log_tensorboard",
    "log_wandb",
    "minimize",
    "numeric_gradient",
    "random_search",
]
__all__ += ["incremental_update", "periodic_update", "private_gradient"]
__all__ += ["lab", "training"]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "plots"])  # plots is not in __all__: `import *` works without matplotlib


if not TYPE_CHECKING:  # a type checker would take any name for one of gradtx

    def __getattr__(name):
        if name == "plots" and not find_spec("matplotlib"):
            raise AttributeError('gradtx.plots needs matplotlib: pip install "gradtx[race]"')
        if name in ("interop", "lab", "plots", "training"):
            return import_module(f"gradtx.{name}")
        if name in __all__:
            return getattr(
                import_module("gradtx.interop" if "optax" in name or "torch" in name else "gradtx.training"), name
            )
        from gradtx.core.errors import public

        raise AttributeError(public("gradtx", name, __dir__()))
