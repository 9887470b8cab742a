"""Common style of all plots: colours of optimizers, appearance of axes, and labels that do not overlap."""

import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, PathPatch
from matplotlib.path import Path

from gradtx.core import Transformation
from gradtx.core.errors import said

# Black, teal, purple, brown, orchid, vermilion, blue, slate. Contrast to white 3:1 or more; chosen so that the two
# nearest are distinct also without red or green cones (Machado, Oliveira and Fernandes 2009).
COLOURS = ("#1a1a1a", "#009f82", "#690078", "#961e00", "#cb5ff8", "#ff4b0f", "#0000d2", "#6969a5")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")  # one for each colour
DASHES = ("-", (0, (4.5, 1.6)), (0, (6, 1.4, 1.2, 1.4)), (0, (1.3, 1.1)))
GREY = "#767676"  # for secondary elements

# Each has the colour of its column and the dashes of its row; optimizers often seen together differ in the colour.
NAMED = (
    *("sgd", "heavy_ball", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "lion"),
    *("adam_uncorrected", "adamax", "nadam", "averaged_momentum", "rate_inside_momentum", "rolling_ball"),
    *("adadelta", "rprop"),
    *("signum", "muon", "adan", "amsgrad", "radam", "adabelief", "lamb", "qhm"),
    *("sign_sgd", "lars", "shampoo", "soap", "adafactor", "yogi", "sophia", "laprop"),
)
# Each has the colour of its column, and from its row on the first dashes that no other line of the picture has.
OTHERS = (
    *("dog", "ademamix", "scion", "mars", "adopt", "schedule_free_adamw", "prodigy", "madgrad"),
    *("dowg", "simplified_ademamix", "aggmo", "came", "adamp", "stable_adamw", "dadapt_adam", "asgd"),
    *("polyak_sgd", "acprop", "adahessian", "sm3", "sgdp", "nadamw", "adam_mini", "swa"),
    *("momo", "qhadam", "novograd", "ftrl", "padam", "ranger", "momo_adam", "lookahead"),
    *("sgdw", "diffgrad", "pid", "cocob", "adabound", "adamc", "adamaxw", "random_search"),
    *("noisy_sgd", "grokfast", "fromage", "orthograd", "optimistic_sgd", "optimistic_adam", "rmsprop_centered", "sam"),
    *("independent_decay", "lbfgs", "kl_soap", "kl_shampoo", "splus", "psgd_kron", "galore", "fira"),
    *("apollo", "conda", "dion", "normuon", "adamuon", "hyperball", "adam_atan2", "sinkgd"),
    *("scale_sgd", "gpa", "snoo", "lora_plus", "apollo_mini"),
)
ALIASES = {"momentum": "heavy_ball", "gradient_descent": "sgd"}


class Style(NamedTuple):
    """Line style of one optimizer: colour, dashes and marker."""

    color: str
    linestyle: Any
    marker: str


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each name, distinct for up to 32 names.

    An optimizer of gradtx has the same colour in every picture, and one in `NAMED` the same dashes too, regardless of
    the case of its name. Another name starts at a place given by its hash, and moves on to a colour without a line.

    >>> styles(["adam", "mine"])["adam"] == styles(["Adam"])["Adam"]
    True
    """
    places: dict[str, int] = {}
    names = list(dict.fromkeys(names))
    known = {name: re.sub(r"\W+", "_", name.lower()) for name in names}
    known = {name: ALIASES.get(word, word) for name, word in known.items()}
    for name, word in known.items():
        if word in NAMED and NAMED.index(word) not in places.values():
            places[name] = NAMED.index(word)
    for name, word in known.items():
        if word in OTHERS:
            own = [(OTHERS.index(word) + i * len(COLOURS)) % len(NAMED) for i in range(len(DASHES))]
            if own := [place for place in own if place not in places.values()]:
                places[name] = own[0]
    for name in names:
        first, columns = crc32(name.encode()), [place % len(COLOURS) for place in places.values()]
        free = [(first + i) % len(NAMED) for i in range(len(NAMED))]
        free = [place for place in free if place not in places.values()] or free
        row = {place: place // len(COLOURS) for place in free}
        places.setdefault(name, min(free, key=lambda place: (columns.count(place % len(COLOURS)), row[place])))
    return {name: style_at(places[name]) for name in names}


def style_at(place: int) -> Style:
    """Return the style of a place in `NAMED`."""
    row, column = divmod(place, len(COLOURS))
    return Style(COLOURS[column], DASHES[row % len(DASHES)], MARKERS[column])


def coincide(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether two lines, as (x, y), are approximately equal."""
    return np.array_equal(one[0], other[0]) and np.allclose(one[1], other[1], rtol=0.05)


def over(style: Style, above: int) -> dict[str, Any]:
    """Plot settings of a line below `above` others: wider than they are, so that each is visible."""
    width = 1.8 + 1.8 * above
    return {"linestyle": style.linestyle, "color": style.color, "linewidth": width, "solid_capstyle": "round"}


def new_axes(axes: Axes | None, width: float, height: float) -> Axes:
    """Return the given Axes, or the Axes of a new figure, with its size in inches."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained").subplots() if axes is None else axes


def new_row(function: str, axes: Any, count: int, width: float, height: float, columns: int | None = None) -> Any:
    """Return the `count` given Axes, or the Axes of a new figure, as an array of shape (count,)."""
    if axes is None:
        columns = columns or count
        rows = -(-count // columns)
        grid = Figure(figsize=(width, height * rows), dpi=120, layout="constrained").subplots(rows, columns)
        several = np.ravel(np.asarray(grid, object))
        for unused in several[count:]:
            unused.remove()
        return several[:count]
    several = np.ravel(np.asarray(axes, object))
    if len(several) != count or not all(isinstance(one, Axes) for one in several):
        raise ValueError(f"{function}: axes must be {count} matplotlib Axes, got {len(several)}: {axes!r}")
    return several


def dress(axes: Axes, title: str = "", xlabel: str = "", ylabel: str = "", **settings: Any) -> None:
    """Set the title, the labels and the appearance that all plots have in common."""
    axes.set(**settings)
    if title:
        entitle(axes, title)
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel(ylabel, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def entitle(axes: Axes, title: str, fontsize: float = 12, **settings: Any) -> None:
    """Set the title, in as many lines as fit above the axes: the layout does not make room for a long one."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    inches = figure.get_size_inches()[0] if figure else 6.0
    width = inches / place.get_gridspec().ncols if place else inches * axes.get_position().width
    axes.set_title(wrapped(title, width - 0.9, fontsize), loc="left", fontsize=fontsize, **settings)


def wrapped(text: str, inches: float, fontsize: float) -> str:
    """Break a string into lines of a width: a letter is about 0.6 times as wide as its font size, 1/72 inch a point."""
    return "\n".join(fill(line, max(10, int(72 * inches / (0.6 * fontsize)))) for line in text.split("\n"))


def named(function: str, optimizers: Any) -> dict[str, Transformation]:
    """Check a dict of optimizers, and coerce each to a transformation."""
    if not isinstance(optimizers, Mapping):
        raise TypeError(f"{function}: optimizers must be a dict from names to optimizers, got {said(optimizers)}")
    if not optimizers:
        raise ValueError(f"{function} needs one optimizer or more, got none")
    return {str(name): Transformation.coerce(f"{function}: {name!r}", tx) for name, tx in optimizers.items()}


def spread(heights: Sequence[float], gap: float) -> np.ndarray:
    """Move heights from 0 to 1 in their order until neighbours are at least `gap` from each other.

    >>> spread([0.5, 0.5, 1.0], gap=0.25)
    array([0.375, 0.625, 1.   ])
    """
    order = np.argsort(heights, kind="stable")
    room = gap * np.arange(len(order))
    # After subtracting each height's room, a gap is an order: rising from below, or falling from above.
    free = np.clip(np.asarray(heights, float)[order], 0, 1) - room
    middle = (np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]) / 2
    spaced = np.clip(middle, 0, 1 - room[-1:]) + room
    return spaced[np.argsort(order, kind="stable")]


def label_ends(axes: Axes, ends: Sequence[tuple[float, float]], texts: Sequence[str], look: Sequence[Style]) -> None:
    """Label the end of each line to the right of the axes, with a sample of the line. Set the limits before.

    The distance between labels follows from the height of the figure in inches, before its layout.
    """
    transform = axes.transData + axes.transAxes.inverted()
    heights = [transform.transform(end)[1] for end in ends]
    figure = axes.get_figure(root=True)
    inches = axes.get_position().height * (figure.get_size_inches()[1] if figure else 4.0)
    for end, text, style, height in zip(ends, texts, look, spread(heights, min(0.21 / inches, 1 / len(ends)))):
        start, stop = (1.03, height), (1.08, height)
        line = {"edgecolor": style.color, "clip_on": False}
        axes.add_patch(
            PathPatch(Path([start, stop]), transform=axes.transAxes, linestyle=style.linestyle, lw=2, **line)
        )
        axes.add_patch(ConnectionPatch(end, start, "data", "axes fraction", lw=0.8, linestyle=":", **line))
        axes.annotate(
            text,
            (1.09, height),
            xycoords="axes fraction",
            color=style.color,
            fontsize=11,
            fontweight="bold",
            verticalalignment="center",
            annotation_clip=False,
        )
