import re
from inspect import getdoc
from typing import Any

import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure

import gradtx as gx
from gradtx import plots
from gradtx.plots.table import REGIONS, TEXTBOOK

# Untyped: matplotlib's annotations leave open much that is known of these pictures.
table: Any = plots.table
ADAM = ("momentum", "rms", "Adam", 2015)


def cells(axes):
    """The texts and the colour of each cell."""
    found = []
    for patch in axes.patches:
        (x, y), width, height = patch.get_xy(), patch.get_width(), patch.get_height()
        inside = [t.get_text() for t in axes.texts if x < t.get_position()[0] < x + width]
        inside = [t.get_text() for t in axes.texts if t.get_text() in inside and y < t.get_position()[1] < y + height]
        found.append((patch, "\n".join(inside)))
    return found


def heading_of(axes, text):
    """The direction and the size of the cell of a text, as drawn."""
    (here,) = (t.get_position() for t in axes.texts if text in t.get_text().split("\n"))
    bold = [t for t in axes.texts if t.get_fontweight() == "bold"]
    direction = [t.get_text() for t in bold if t.get_position()[1] == here[1]]
    size = [t.get_text() for t in bold if t.get_position()[0] == here[0]]
    return tuple(" ".join("\n".join(heading).split()) for heading in (direction, size))


def test_each_optimizer_stands_in_its_row_and_column_and_colour():
    axes = table()
    for entry in TEXTBOOK:
        assert heading_of(axes, f"{entry.name} {entry.year}") == (entry.direction, entry.size)
        changed = (entry.direction != TEXTBOOK[0].direction, entry.size != TEXTBOOK[0].size)
        (patch,) = (patch for patch, text in cells(axes) if f"{entry.name} {entry.year}" in text)
        assert same_color(patch.get_facecolor()[:3], REGIONS[changed][0])
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["plain descent", "changes the direction", "changes the size", "changes both"]


@pytest.mark.parametrize("entry", TEXTBOOK, ids=[entry.name for entry in TEXTBOOK])
def test_years_equal_those_of_the_recipes_sources(entry):
    name = "heavy_ball" if entry.name == "momentum" else entry.name.lower()
    source = (getdoc(getattr(gx, name)) or "").partition("Source: ")[2]
    year = re.search(r"\d{4}", source)
    assert year and int(year[0]) == entry.year


def test_rows_can_be_given():
    own = Figure().subplots()
    rows = [["gradient", "1", "SGD"], ADAM, ("momentum", "rms", "LaProp"), ("a very long direction", "1", "other")]
    axes = table(iter(rows), own, title="mine")
    assert axes is own and axes.get_title(loc="left") == "mine"
    assert heading_of(axes, "Adam 2015") == heading_of(axes, "LaProp") == ("momentum", "rms")
    assert heading_of(axes, "other") == ("a very long direction", "1")


def test_texts_fit_their_cells():
    axes = table()
    axes.figure.draw_without_rendering()
    for patch, text in cells(axes):
        for found in (t for t in axes.texts if text and t.get_text() == text):
            assert patch.get_window_extent().width > found.get_window_extent().width
    boxes = [t.get_window_extent() for t in axes.texts if t.get_text()]
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "table needs one row or more, got none"),
        ([("a", "b")], r"a row must be \(direction, size, name\) or with a year, got \('a', 'b'\)"),
    ],
)
def test_errors(rows, message):
    with pytest.raises(ValueError, match=message):
        table(rows)


def test_the_periodic_table_is_drawn_by_name():
    axes = table(gx.periodic_table())
    texts = {text.get_text() for text in axes.texts}
    assert {cell.name for cell in gx.periodic_table() if cell.name} <= texts
    assert not any("chain(" in text for text in texts)
