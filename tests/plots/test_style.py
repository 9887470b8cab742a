import inspect
import sys
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import same_color, to_rgb
from matplotlib.patches import ConnectionPatch, PathPatch

import gradtx as gx
from gradtx import plots
from gradtx.lab import ENTRIES, SURFACES
from gradtx.plots.style import ALIASES, COLOURS, NAMED, OTHERS, spread, styles

# What is seen without red, green or blue cones, of linear RGB (Machado, Oliveira and Fernandes 2009).
EYES = {
    "all cones": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
OKABE_ITO = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")


def linear(colours):
    rgb = np.array([to_rgb(colour) for colour in colours])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def nearest(colours, eye):
    """The least distance between two of the colours, in Oklab (Ottosson 2020)."""
    to_lms = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
    to_lab = np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]])
    lab = np.cbrt(np.clip(linear(colours) @ np.transpose(eye), 0, 1) @ to_lms.T) @ to_lab.T
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return distances[np.triu_indices(len(colours), 1)].min()


@pytest.mark.parametrize("eye", EYES)
def test_colours_differ_under_every_colour_vision_more_than_common_palettes(eye):
    assert nearest(COLOURS, EYES[eye]) > max(0.11, nearest(OKABE_ITO, EYES[eye]))


def test_colours_are_dark_enough_on_white():
    contrast = 1.05 / (linear(COLOURS) @ [0.2126, 0.7152, 0.0722] + 0.05)
    assert contrast.min() >= 3


def test_every_named_optimizer_has_its_own_style_everywhere():
    together = styles(NAMED)
    assert len(set(together.values())) == len(NAMED) == 32
    assert {name: styles(["a", "b", "c", name])[name] for name in NAMED} == together
    assert styles(["Adam", "Heavy Ball"]) == {"Adam": together["adam"], "Heavy Ball": together["heavy_ball"]}
    for alias, name in ALIASES.items():
        assert styles([alias])[alias] == together[name] and len(set(styles([alias, name]).values())) == 2


def test_every_other_optimizer_has_its_own_colour_everywhere():
    recipes = {name: x for name, x in vars(gx.optimizers).items() if inspect.isfunction(x)}
    returned = {name: inspect.signature(x).return_annotation for name, x in recipes.items()}
    optimizers = {name for name, annotation in returned.items() if annotation is gx.Transformation}
    assert len(optimizers) > 60
    assert optimizers - {*NAMED, *OTHERS} == set() and not {*NAMED} & {*OTHERS}
    assert len(OTHERS) == len(set(OTHERS))
    for name in OTHERS:
        alone = styles([name])[name]
        for others in (["sgd", "adam", "mine"], NAMED[::4], OTHERS[OTHERS.index(name) % 8 :: 8]):
            together = styles([*others, name])
            assert together[name].color == alone.color or len({*others, name}) > 4
            assert len(set(together.values())) == len(together)
    assert styles(["RMSprop, centered"])["RMSprop, centered"] == styles(["rmsprop_centered"])["rmsprop_centered"]


def test_the_textbooks_families_differ_in_colour():
    for family in {entry.family for entry in ENTRIES.values()}:
        names = [name for name, entry in ENTRIES.items() if entry.family == family]
        assert len({style.color for style in styles(names).values()}) == len(names)


def test_other_names_have_a_stable_distinct_style():
    assert styles(["mine"]) == styles(["mine"]) and styles(["adam", "mine"])["adam"] == styles(["adam"])["adam"]
    for names in (["adam", "mine", "yours", "theirs"], [str(i) for i in range(8)]):
        assert len({style.color for style in styles(names).values()}) == len(names)
    assert len(set(styles([str(i) for i in range(32)]).values())) == 32
    assert len(styles([str(i) for i in range(100)])) == 100


@pytest.mark.parametrize("heights", [[0.5], [0.0, 0.0, 0.0], [1.0, 1.0, 0.9], [0.2, 0.9, 0.21, 0.5, 0.49], [-3.0, 7.0]])
def test_spread_keeps_the_gap_the_order_and_the_range(heights):
    moved = spread(heights, gap=0.2)
    in_order = np.sort(moved)
    assert np.all(np.diff(in_order) >= 0.2 - 1e-12) and in_order[0] >= -1e-12 and in_order[-1] <= 1 + 1e-12
    for low, mine in zip(heights, moved):
        for high, other in zip(heights, moved):
            assert not (low < high and mine >= other)


def test_spread_keeps_labels_that_do_not_overlap():
    np.testing.assert_allclose(spread([0.9, 0.1, 0.5], gap=0.3), [0.9, 0.1, 0.5])


def looks(artists):
    """Colour and dashes, in widths of the line, of lines or of samples of them."""
    return {(x.get_label(), x.get_color(), str(x._unscaled_dash_pattern)) for x in artists}


def test_no_two_lines_of_a_picture_look_alike_and_labels_show_the_line():
    """Of 25 optimizers, six of which coincide."""
    names = [*NAMED[::3], *OTHERS[:50:5], "mine", "yours", "theirs", "a sixth"]
    losses = {name: np.geomspace(2, 0.1, 40) * (1 + 0.2 * max(0, i - 5)) for i, name in enumerate(names)}
    assert len(names) == 25
    plots_: Any = plots
    both = [plots_.curves(losses), *plots_.panels({"one": losses}), plots_.ratios(losses, healthy=None)]
    for axes in both:
        lines = [line for line in axes.lines if line.get_label()[0] != "_"]
        assert len({look[1:] for look in looks(lines)}) == len(lines) == len(names)
        samples: Any = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
        labels = {text.get_text(): text for text in axes.texts}
        assert len(samples) == len(names) == len(labels)
        for line, sample in zip(lines, samples):
            label = labels[line.get_label()]
            assert same_color(line.get_color(), sample.get_edgecolor()) and label.get_color() == line.get_color()
            assert sample._unscaled_dash_pattern == line._unscaled_dash_pattern
            assert sample.get_path().vertices[0, 1] == label.xy[1]
        starts = [patch.xy1 for patch in axes.patches if isinstance(patch, ConnectionPatch)]
        assert starts == [(line.get_xdata()[-1], line.get_ydata()[-1]) for line in lines]
    response: Any = plots.response({name: gx.scale(0.1) for name in names[:14]}, 5)[0]
    paths: Any = plots.paths(SURFACES["bowl"], {name: gx.sgd(0.1) for name in names[:14]}, 5)
    for axes in (response, paths):
        handles = [x for x in axes.get_legend().legend_handles if x.get_label().split("  ")[0] in names]
        assert len({look[1:] for look in looks(handles)}) == len(handles) == 14


def long_titles() -> Any:
    title, losses = "a title of many words, " * 8, np.geomspace(2, 0.1, 20)
    found = gx.sweep(lambda tx: tx.factor**2, gx.grid(gx.scale, factor=[0.5, 1.0]))
    pieces: Any = gx.schedules.piecewise_constant
    yield plots.curves({"sgd": np.stack([losses, losses])}, title=title)
    yield plots.panels({title: {"sgd": losses}, "two": {"adam": losses}}, title=title)[0]
    yield plots.sweep(found, title=title)
    yield plots.schedule(gx.schedules.cosine(0.1, steps=10), title=title)
    yield plots.schedule(pieces([1.23456 / i for i in range(1, 7)], range(10, 60, 10)))
    yield plots.ratios(losses, title=title)
    yield plots.table(title=title)
    yield plots.paths(SURFACES["bowl"]._replace(title=title), {"sgd": gx.sgd(0.1)}, 3)
    deep: Any = {"embedding": np.ones(3, np.float32)}
    for name in ("attention", "transformer", "decoder_of_the_model", "parameters"):
        deep = {name: deep}
    yield plots.state(gx.chain(gx.adam(), gx.momentum(0.9)).init(deep))[0]


def test_no_title_is_cut():
    for axes in long_titles():
        figure = axes.figure
        figure.draw_without_rendering()
        for text in (axes._left_title, axes.xaxis.label, *([figure._suptitle] if figure._suptitle else [])):
            box = text.get_window_extent()
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
        for other in figure.axes:
            if other is not axes:
                assert not axes._left_title.get_window_extent().overlaps(other._left_title.get_window_extent())


def pictures() -> Any:
    tx, params = {"sgd": gx.sgd(0.1)}, {"w": np.ones(3, np.float32)}
    losses = np.geomspace(2, 0.1, 20)
    found = gx.sweep(lambda tx: tx.factor**2, gx.grid(gx.scale, factor=[0.5, 1.0]))
    yield plots.paths(SURFACES["bowl"], tx, 3)
    yield plots.curves({"sgd": losses})
    yield plots.panels({"one": {"sgd": losses}})[0]
    yield plots.sweep(found)
    yield plots.schedule(gx.schedules.cosine(0.1, steps=10))
    yield plots.response(tx, 4)[0]
    yield plots.state(gx.adam().init(params), params)[0]
    yield plots.ratios(losses)
    yield plots.table()


def test_every_plot_leaves_matplotlibs_settings_unchanged():
    before, pyplot = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    for axes in pictures():
        axes.figure.draw_without_rendering()
        assert axes.get_title(loc="left")
        if axes.axison:
            assert axes.get_ylabel()
            sizes = [text.get_fontsize() for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels())]
            assert min(sizes) >= 9
            assert min([line.get_linewidth() for line in axes.lines if line.get_label()[0] != "_"], default=2) >= 1.5
    assert dict(matplotlib.rcParams) == before and ("matplotlib.pyplot" in sys.modules) == pyplot
