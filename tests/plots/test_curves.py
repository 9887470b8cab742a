import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from gradtx.plots import Curve, plot_losses
from gradtx.plots.curves import COLOURS, smooth, spread


@pytest.mark.parametrize("steps", [1, 2, 39, 1760, 100_000])
def test_smooth_means_cover_every_step_once(steps):
    losses = np.random.default_rng(0).exponential(size=steps)
    ends, means = smooth(losses)
    assert ends[-1] == steps and len(ends) <= 40 and np.all(np.diff(ends) > 0)
    for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends)):
        assert means[i] == pytest.approx(losses[start:end].mean())


@pytest.mark.parametrize("heights", [[0.5], [0.0, 0.0, 0.0], [1.0, 1.0, 0.9], [0.2, 0.9, 0.21, 0.5, 0.49], [-3.0, 7.0]])
def test_spread_keeps_the_gap_the_order_and_the_range(heights):
    moved = spread(heights, gap=0.2)
    in_order = np.sort(moved)
    assert np.all(np.diff(in_order) >= 0.2 - 1e-12) and in_order[0] >= -1e-12 and in_order[-1] <= 1 + 1e-12
    for low, mine in zip(heights, moved):
        for high, other in zip(heights, moved):
            assert not (low < high and mine >= other)


def test_spread_leaves_alone_what_is_apart():
    np.testing.assert_allclose(spread([0.9, 0.1, 0.5], gap=0.3), [0.9, 0.1, 0.5])


def pixels(path, colour):
    picture = imread(path)[..., :3]
    return int(np.all(np.abs(picture - to_rgb(colour)) < 0.01, axis=-1).sum())


def test_every_curve_shows_also_where_curves_coincide(tmp_path):
    losses = np.geomspace(2.0, 1e-3, 500)
    curves = [Curve(str(i), "a panel", losses) for i in range(3)] + [Curve("other", "another", losses / 2)]
    plot_losses(curves, tmp_path / "curves.png", "a title")
    assert imread(tmp_path / "curves.png").shape[0] > 700
    for colour in COLOURS[:4]:
        assert pixels(tmp_path / "curves.png", colour) > 200
    assert pixels(tmp_path / "curves.png", COLOURS[4]) == 0


@pytest.mark.parametrize(
    "losses",
    [
        np.full(50, np.nan),
        np.zeros(50),
        np.r_[2.0, np.full(49, np.inf)],
        np.r_[np.geomspace(2, 1e30, 25), np.full(25, np.nan)],
        np.array([2.0]),
    ],
)
def test_a_run_that_diverged_is_drawn_with_the_others(tmp_path, losses):
    curves = [Curve("bad", "a panel", losses), Curve("good", "a panel", np.geomspace(2, 0.1, 50))]
    plot_losses(curves, tmp_path / "both.png")
    assert pixels(tmp_path / "both.png", COLOURS[1]) > 200
    plot_losses(curves[:1], tmp_path / "alone.png")
    assert (tmp_path / "alone.png").read_bytes().startswith(b"\x89PNG")


def test_a_wild_run_does_not_squeeze_the_others(tmp_path):
    good = Curve("good", "a panel", np.geomspace(2, 0.1, 50))
    plot_losses([good], tmp_path / "alone.png")
    plot_losses([good, Curve("wild", "a panel", np.geomspace(2, 1e30, 50))], tmp_path / "both.png")

    def height(path):
        rows = np.all(np.abs(imread(path)[:, :400, :3] - to_rgb(COLOURS[0])) < 0.01, axis=-1).any(axis=1)
        return np.ptp(np.flatnonzero(rows))

    assert height(tmp_path / "both.png") > 0.5 * height(tmp_path / "alone.png")


def test_matplotlib_is_left_as_it_was(tmp_path):
    before, pyplot = dict(matplotlib.rcParams), "matplotlib.pyplot" in sys.modules
    plot_losses([Curve("one", "a panel", np.ones(3))], tmp_path / "one.png")
    assert dict(matplotlib.rcParams) == before and ("matplotlib.pyplot" in sys.modules) == pyplot
