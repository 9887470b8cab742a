"""Training loops, and the problems to try them on."""

from gradtx.training.fit import Fit, fit
from gradtx.training.problems import PROBLEMS, Batch, Problem, digits, line, xor
from gradtx.training.race import ENTRIES, Entry, Result, check_options, race
from gradtx.training.step import Metrics, train_step
from gradtx.training.surfaces import SURFACES, Surface, descend

__all__ = [
    "ENTRIES",
    "PROBLEMS",
    "SURFACES",
    "Batch",
    "Entry",
    "Fit",
    "Metrics",
    "Problem",
    "Result",
    "Surface",
    "check_options",
    "descend",
    "digits",
    "fit",
    "line",
    "race",
    "train_step",
    "xor",
]


def __dir__() -> list[str]:
    return __all__
