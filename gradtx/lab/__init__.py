"""Test problems, test surfaces and races for optimizers."""

from gradtx.lab.problems import PROBLEMS, Batch, Entry, Problem, digits, line, text, xor
from gradtx.lab.race import ENTRIES, Result, check_options, race
from gradtx.lab.surfaces import SURFACES, Surface, descend

__all__ = [
    "ENTRIES",
    "PROBLEMS",
    "SURFACES",
    "Batch",
    "Entry",
    "Problem",
    "Result",
    "Surface",
    "check_options",
    "descend",
    "digits",
    "line",
    "race",
    "text",
    "xor",
]


def __dir__() -> list[str]:
    return __all__
