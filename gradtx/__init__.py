"""Composable gradient transformations for JAX: an optimizer is a composition of small pure pieces, and it is data.

>>> import gradtx as gx
>>> def adam(learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8):
...     return gx.chain(
...         gx.precondition(gx.momentum(b1), by=gx.rms(b2), eps=eps),  # a direction, divided by a size
...         gx.scale_by_learning_rate(learning_rate),
...     )
>>> adam() == gx.adam()
True

A piece of your own is a class, and so is a schedule; the annotations of its fields say what may stand there. A pair of
functions is a transformation too.

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

from gradtx import combinators, interop, optimizers, pieces, schedules, wrappers
from gradtx.apply import apply_updates
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
)
from gradtx.display import formula
from gradtx.inspection import hyperparameters, set_hyperparameters, summary
from gradtx.interop import *  # noqa: F403
from gradtx.laws import check_laws
from gradtx.optimizers import *  # noqa: F403
from gradtx.pieces import *  # noqa: F403
from gradtx.reading import read
from gradtx.restoring import restore
from gradtx.sweeps import Sweep, grid, stack, sweep
from gradtx.wrappers import *  # noqa: F403

if TYPE_CHECKING:  # imported at their first use
    from gradtx import plots as plots
    from gradtx import training
    from gradtx.training.fit import fit
    from gradtx.training.step import train_step

__version__ = "0.2.0.dev0"

# What a transformation, a hyperparameter and a schedule are.
__all__ = ["Context", "Decay", "NonNegative", "PerLeaf", "Positive", "Scalar", "Schedule", "State", "Transformation"]
__all__ += ["of_step", "schedules"]
# Optimizers, and the pieces, combinators and wrappers they are composed of.
__all__ += optimizers.__all__
__all__ += pieces.__all__
__all__ += combinators.__all__
__all__ += wrappers.__all__
# Use, inspection, sweeps, saving, other libraries, training.
__all__ += ["apply_updates"]
__all__ += ["check_laws", "formula", "hyperparameters", "set_hyperparameters", "summary"]
__all__ += ["Sweep", "grid", "stack", "sweep"]
__all__ += ["read", "restore"]
__all__ += interop.__all__
__all__ += ["fit", "train_step", "training"]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "plots"])  # plots is not in __all__: `import *` works without matplotlib


if not TYPE_CHECKING:  # a type checker would take any name for one of gradtx

    def __getattr__(name):
        if name == "plots" and not find_spec("matplotlib"):
            raise AttributeError('gradtx.plots needs matplotlib: pip install "gradtx[race]"')
        if name in ("plots", "training"):
            return import_module(f"gradtx.{name}")
        if name in ("fit", "train_step"):
            return getattr(import_module("gradtx.training"), name)
        raise AttributeError(f"module 'gradtx' has no attribute {name!r}")
