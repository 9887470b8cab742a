"""The display of records in a notebook: transformations as their formula, schedules as their curve."""

import math
from importlib.util import find_spec

import jax

from gradtx.core import Schedule, Transformation
from gradtx.core.record import mimebundle
from gradtx.inspect.formula import formula, number_of


@mimebundle.register(Transformation)
def _(tx: Transformation) -> dict[str, str]:
    return {"text/latex": formula(tx)}


@mimebundle.register(Schedule)
def _(schedule: Schedule) -> dict[str, str]:
    if not find_spec("matplotlib") or any(math.isnan(number_of(leaf)) for leaf in jax.tree.leaves(schedule)):
        return {}
    from gradtx.plots.schedules import svg  # matplotlib takes long to import

    return {"image/svg+xml": svg(schedule)}
