"""Inspection of optimizers: hyperparameters, state, formula, groups, laws."""

from gradtx.inspect.explain import explain
from gradtx.inspect.formula import formula
from gradtx.inspect.hyperparameters import hyperparameters, set_hyperparameters
from gradtx.inspect.laws import check_laws
from gradtx.inspect.map_params import map_params
from gradtx.inspect.periodic_table import periodic_table
from gradtx.inspect.summary import summary

__all__ = [
    "check_laws",
    "explain",
    "formula",
    "hyperparameters",
    "map_params",
    "periodic_table",
    "set_hyperparameters",
    "summary",
]


def __dir__() -> list[str]:
    return __all__
