"""Training steps and loops, minimization, sweeps, random search, gradient checks and target networks."""

from gradtx.training.fit import Fit, fit
from gradtx.training.gradient_check import check_gradient, numeric_gradient
from gradtx.training.loggers import Logger, log_jsonl, log_tensorboard, log_wandb
from gradtx.training.minimize import Minimum, minimize
from gradtx.training.privacy import private_gradient
from gradtx.training.random_search import random_search
from gradtx.training.seeds import Fits, fit_seeds
from gradtx.training.step import Metrics, train_step
from gradtx.training.sweep import Sweep, grid, stack, sweep
from gradtx.training.targets import incremental_update, periodic_update

__all__ = [
    "Fit",
    "Fits",
    "Logger",
    "Metrics",
    "Minimum",
    "Sweep",
    "check_gradient",
    "fit",
    "fit_seeds",
    "grid",
    "incremental_update",
    "log_jsonl",
    "log_tensorboard",
    "log_wandb",
    "minimize",
    "numeric_gradient",
    "periodic_update",
    "private_gradient",
    "random_search",
    "stack",
    "sweep",
    "train_step",
]


def __dir__() -> list[str]:
    return __all__
