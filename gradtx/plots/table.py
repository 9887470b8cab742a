"""Plot of optimizers as a table of directions and sizes, the denominators of the steps."""

from collections.abc import Iterable
from itertools import pairwise
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from gradtx.core import Transformation
from gradtx.core.arguments import checked, sequence
from gradtx.core.errors import said
from gradtx.plots.style import GREY, entitle, new_axes


class Entry(NamedTuple):
    """Place of an optimizer in the table."""

    direction: str
    """The direction of the step."""
    size: str
    """The denominator of each coordinate's step."""
    name: str
    """The name of the optimizer."""
    year: int | None = None
    """The year of its paper."""


GRADIENT, MOMENTUM, LOOKING = "gradient", "momentum", "momentum, looking ahead"
ONE, AVERAGE = "1", "root of the average of g²"

TEXTBOOK = (
    Entry(GRADIENT, ONE, "SGD", 1951),
    Entry(MOMENTUM, ONE, "momentum", 1964),
    Entry(LOOKING, ONE, "Nesterov", 1983),
    Entry(GRADIENT, "|g|, with its own step", "Rprop", 1993),
    Entry(GRADIENT, "root of the sum of g²", "AdaGrad", 2011),
    Entry(GRADIENT, AVERAGE, "RMSProp", 2012),
    Entry(GRADIENT, AVERAGE, "AdaDelta", 2012),
    Entry(MOMENTUM, AVERAGE, "Adam", 2015),
    Entry(MOMENTUM, "decaying maximum of |g|", "AdaMax", 2015),
    Entry(LOOKING, AVERAGE, "Nadam", 2016),
    Entry(MOMENTUM, "its largest so far", "AMSGrad", 2018),
)
"""The table in the lecture slides *L07 Optimizers*: each changes the direction, each coordinate's size, or both."""

REGIONS = {  # (changes direction, changes size): (colour, label)
    (False, False): ("#f0f0f0", "plain descent"),
    (True, False): ("#d5ece6", "changes the direction"),
    (False, True): ("#fbdccd", "changes the size"),
    (True, True): ("#dcd9f5", "changes both"),
}


@checked
def table(
    table: Iterable[Any] | None = None,
    axes: Axes | None = None,
    *,
    title: str = "Changes of each method to plain descent",
) -> Axes:
    """Draw optimizers as a table: a row for each direction and a column for each size, the denominator of the step.

    Colours show whether an optimizer changes the direction of plain descent, its size, or both. The first direction and
    the first size in the table belong to plain descent.

    Args:
      table: `gx.periodic_table()`, or a sequence of rows (direction, size, name) or (direction, size, name, year); None
        for the textbook optimizers.
      axes: The Axes to draw on; None for a new figure, which is `axes.figure` of the result.
      title: The title.

    Returns:
      The Axes.

    Raises:
      TypeError: `table` or a row is not a sequence.
      ValueError: The table has no rows, or a row has another number of entries.

    >>> from gradtx import plots
    >>> axes = plots.table([("gradient", "1", "SGD"), ("momentum", "rms", "Adam", 2015)])
    >>> [text.get_text() for text in axes.texts if "Adam" in text.get_text()]
    ['Adam 2015']
    """
    entries = []
    rows = TEXTBOOK if table is None else sequence("table: table", table)
    for row in (tuple(sequence("table: a row", row)) for row in rows):
        row = row[:3] if len(row) == 4 and isinstance(row[3], Transformation) else row  # a cell of the periodic table
        if len(row) not in (3, 4):
            raise ValueError(f"table: a row must be (direction, size, name) or with a year, got {said(row)}")
        entries.append(Entry(*row))
    if not entries:
        raise ValueError("table needs one row or more, got none")
    directions = list(dict.fromkeys(entry.direction for entry in entries))
    sizes = list(dict.fromkeys(entry.size for entry in entries))
    cells: dict[tuple[int, int], list[str]] = {}
    for entry in entries:
        place = (directions.index(entry.direction), sizes.index(entry.size))
        if entry.name:
            cells.setdefault(place, []).append(entry.name + (f" {entry.year}" if entry.year else ""))
    heights = [max(2, *(len(cells.get((i, j), [])) for j in range(len(sizes)))) for i in range(len(directions))]
    tops = np.r_[0, np.cumsum(heights)]
    columns = [
        [*size.split(), *(name for i in range(len(directions)) for name in cells.get((i, j), []))]
        for j, size in enumerate(sizes)
    ]
    lefts = np.r_[0, np.cumsum([4 + max(9, *map(len, column)) for column in columns])]  # in letters
    headings = [fill(size, int(0.8 * width)) for size, width in zip(sizes, np.diff(lefts))]
    lines = max(2, *(heading.count("\n") + 1 for heading in headings))
    axes = new_axes(axes, max(8.5, 0.082 * (lefts[-1] + 16)), 0.9 + 0.2 * lines + 0.26 * tops[-1])
    beside = lefts[-1] / -200
    for i, direction in enumerate(directions):
        middle = (tops[i] + tops[i + 1]) / 2
        axes.text(beside, middle, fill(direction, 16), ha="right", va="center", fontsize=10, fontweight="bold")
        for j, (left, right) in enumerate(pairwise(lefts)):
            names = cells.get((i, j), [])
            colour, _ = REGIONS[i > 0, j > 0]
            corner, width, height = (left + 0.2, tops[i] + 0.06), right - left - 0.4, heights[i] - 0.12
            axes.add_patch(Rectangle(corner, width, height, facecolor=colour, alpha=1.0 if names else 0.35))
            centre = (left + right) / 2
            axes.text(centre, middle, "\n".join(names), ha="center", va="center", fontsize=10, linespacing=1.3)
    for heading, (left, right) in zip(headings, pairwise(lefts)):
        axes.text((left + right) / 2, -0.15, heading, ha="center", va="bottom", fontsize=10, fontweight="bold")
    axes.text(beside, -0.15, "direction ↓\ndivided by →", ha="right", va="bottom", fontsize=10, color=GREY)
    changed = {(i > 0, j > 0) for i, j in cells}
    patches = [
        Patch(facecolor=colour, edgecolor=GREY, linewidth=0.5, label=what)
        for place, (colour, what) in REGIONS.items()
        if place in changed
    ]
    axes.legend(
        handles=patches,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=len(patches),
        frameon=False,
        fontsize=10,
        handlelength=1.2,
    )
    axes.set(xlim=(0, lefts[-1]), ylim=(tops[-1], 0))
    axes.set_axis_off()
    entitle(axes, title, pad=14 * lines + 12)
    return axes
