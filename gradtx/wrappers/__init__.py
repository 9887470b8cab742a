"""Wrappers: transformations that change when, where or on what an inner one runs; and the evaluation parameters."""

from gradtx.wrappers.accumulate import accumulate, flush
from gradtx.wrappers.evaluation import eval_params
from gradtx.wrappers.every import apply_if, every
from gradtx.wrappers.guard import skip_if, skip_nonfinite
from gradtx.wrappers.iterates import average_params, lookahead, schedule_free
from gradtx.wrappers.line_search import backtracking, value_and_grad_from_state, zoom
from gradtx.wrappers.mechanic import mechanic
from gradtx.wrappers.precision import master_weights, split_weights
from gradtx.wrappers.projected import projected
from gradtx.wrappers.sharpness import asam, sam
from gradtx.wrappers.storage import store

__all__ = [
    "accumulate",
    "apply_if",
    "asam",
    "average_params",
    "backtracking",
    "eval_params",
    "every",
    "flush",
    "lookahead",
    "master_weights",
    "mechanic",
    "projected",
    "sam",
    "schedule_free",
    "skip_if",
    "skip_nonfinite",
    "split_weights",
    "store",
    "value_and_grad_from_state",
    "zoom",
]


def __dir__() -> list[str]:
    return __all__
