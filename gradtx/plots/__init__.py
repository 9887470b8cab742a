"""Plots with matplotlib (`pip install "gradtx[race]"`).

Each function draws on the Axes passed to it, or on a new figure, and returns the Axes. Matplotlib's global state is not
changed: show `axes.figure`, or save it with `axes.figure.savefig("picture.png")`.
"""

from gradtx.plots.curves import curves, panels
from gradtx.plots.paths import animate, paths
from gradtx.plots.response import response
from gradtx.plots.schedules import schedule
from gradtx.plots.state import ratios, state
from gradtx.plots.sweep import sweep
from gradtx.plots.table import table

__all__ = ["animate", "curves", "panels", "paths", "ratios", "response", "schedule", "state", "sweep", "table"]


def __dir__() -> list[str]:
    return __all__
