"""Training loops, and the problems to try them on."""

from gradtx.training.problems import PROBLEMS, Batch, Problem, digits, line, xor
from gradtx.training.race import ENTRIES, Entry, Result, check_options, race
from gradtx.training.sweeps import Sweep, grid, stack, sweep

__all__ = [
    "ENTRIES",
    "PROBLEMS",
    "Batch",
    "Entry",
    "Problem",
    "Result",
    "Sweep",
    "check_options",
    "digits",
    "grid",
    "line",
    "race",
    "stack",
    "sweep",
    "xor",
]
