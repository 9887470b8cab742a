from typing import Any

import numpy as np
import pytest
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from gradtx import plots
from gradtx.plots.curves import smooth
from gradtx.plots.style import styles

# Untyped: matplotlib's annotations leave open much that is known of these pictures.
curves: Any = plots.curves
panels: Any = plots.panels
GOOD = np.geomspace(2, 0.1, 50)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 39, 1760, 100_000])
def test_smoothing_covers_every_step_once(steps, log):
    losses = np.random.default_rng(0).exponential(size=(2, steps))
    ends, means = smooth(losses, 40, log)
    assert ends[-1] == steps and len(ends) <= 40 and np.all(np.diff(ends) > 0)
    for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends)):
        np.testing.assert_allclose(means[:, i], losses[:, start:end].mean(axis=1))
    if not log and steps > 40:
        assert np.ptp(np.diff(ends)) <= 1


def lines(axes):
    return {line.get_label(): line for line in axes.lines if line.get_label()[0] != "_"}


def data(axes, name):
    return tuple(np.asarray(part) for part in lines(axes)[name].get_data())


def bands(axes):
    """The x, low and high of each band."""
    for band in axes.collections:
        x, y = band.get_paths()[0].vertices.T
        at = np.unique(x)
        yield at, *([f(y[x == one]) for one in at] for f in (np.min, np.max))


def test_the_median_and_the_quartiles_are_drawn():
    rng = np.random.default_rng(0)
    seeds = rng.exponential(size=(5, 30)) + 0.1
    axes = curves({"adam": seeds, "sgd": GOOD[:30]}, log="")
    for name, expected in (("adam", np.median(seeds, axis=0)), ("sgd", GOOD[:30])):
        at, drawn = data(axes, name)
        np.testing.assert_array_equal(at, np.arange(1, 31))
        np.testing.assert_allclose(drawn, expected)
    ((at, low, high),) = bands(axes)  # one seed has none
    np.testing.assert_array_equal(at, np.arange(1, 31))
    np.testing.assert_allclose(low, np.quantile(seeds, 0.25, axis=0))
    np.testing.assert_allclose(high, np.quantile(seeds, 0.75, axis=0))
    assert same_color(axes.collections[0].get_facecolor()[0, :3], styles(["adam"])["adam"].color)
    note = "step  (median of 5 seeds; band: quartiles)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == (note, "training loss")
    assert {text.get_text() for text in axes.texts} == {"adam", "sgd"}


def test_points_are_means_of_stretches_and_x_is_their_end():
    axes = curves({"sgd": np.arange(1.0, 9.0)}, np.arange(8) / 10, points=4, log="", xlabel="time (s)")
    at, drawn = data(axes, "sgd")
    np.testing.assert_allclose(at, [0.1, 0.3, 0.5, 0.7])
    np.testing.assert_allclose(drawn, [1.5, 3.5, 5.5, 7.5])
    assert axes.get_xlabel() == "time (s)"


def test_each_curve_has_its_own_times_and_the_axes_follow_the_arguments():
    times = {"adam": np.arange(1, 51) * 0.1, "sgd": np.arange(1, 31) * 0.05}
    own = Figure().subplots()
    axes = curves({"adam": GOOD, "sgd": GOOD[:30]}, times, own, log="xy", labels={"adam": "Adam 0.1"}, title="mine")
    assert axes is own and (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    for name, at in times.items():
        np.testing.assert_array_equal(data(axes, name)[0], at)
    assert axes.get_xlim() == (0.05, 5.0) and axes.get_title(loc="left") == "mine"
    assert {text.get_text() for text in axes.texts} == {"Adam 0.1", "sgd"}
    for log, scales in {"": ("linear", "linear"), "x": ("log", "linear"), "y": ("linear", "log")}.items():
        axes = curves({"adam": GOOD}, log=log)
        assert (axes.get_xscale(), axes.get_yscale()) == scales


def test_a_seed_that_diverged_counts_as_an_infinite_loss():
    seeds = np.stack([GOOD, 2 * GOOD, 3 * GOOD])
    seeds[2, 10:] = np.nan
    axes = curves({"sgd": seeds})
    np.testing.assert_allclose(data(axes, "sgd")[1], 2 * GOOD)
    seeds[1, 20:] = np.inf
    axes = curves({"sgd": seeds})
    np.testing.assert_allclose(data(axes, "sgd")[1], 2 * GOOD[:20])
    axes.figure.draw_without_rendering()


def pixels(path, colour):
    picture = imread(path)[..., :3]
    return int(np.all(np.abs(picture - to_rgb(colour)) < 0.01, axis=-1).sum())


def test_coinciding_curves_are_all_visible(tmp_path):
    losses = np.geomspace(2.0, 1e-3, 500)
    names = ("sgd", "heavy_ball", "nesterov")
    axes = panels({"a panel": dict.fromkeys(names, losses), "another": {"adam": losses / 2}}, title="a title")
    assert axes[0].figure.get_suptitle() == "a title"
    axes[0].figure.savefig(tmp_path / "curves.png")
    assert imread(tmp_path / "curves.png").shape[0] > 700
    for style in styles([*names, "adam"]).values():
        assert pixels(tmp_path / "curves.png", style.color) > 200
    assert pixels(tmp_path / "curves.png", styles(["lion"])["lion"].color) == 0


def test_panels_show_their_own_curves_and_the_others_in_grey():
    first, second = panels({"one": {"sgd": GOOD}, "two": {"adam": GOOD / 2}}, points=10, labels={"sgd": "sgd  0.1"})
    assert set(lines(first)) == {"sgd"} and set(lines(second)) == {"adam"}
    (grey,) = (line for line in first.lines if line.get_color() == "0.85")
    np.testing.assert_array_equal(np.asarray(grey.get_ydata()), data(second, "adam")[1])
    assert first.get_ylim() == second.get_ylim() and first.get_title(loc="left") == "one"
    assert [text.get_text() for text in first.texts] == ["sgd  0.1"]
    assert (second.get_xlabel(), first.get_ylabel()) == ("step", "training loss")


@pytest.mark.parametrize("log", ["y", ""])
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
def test_a_run_that_diverged_is_drawn_with_the_others(tmp_path, losses, log):
    both = curves({"bad": losses, "good": GOOD}, log=log)
    both.figure.savefig(tmp_path / "both.png", dpi=60)
    assert pixels(tmp_path / "both.png", lines(both)["good"].get_color()) > 200
    curves({"bad": losses}, log=log).figure.savefig(tmp_path / "alone.png", dpi=60)
    low, high = both.get_ylim()
    assert low <= 0.1 and 2 <= high < 10


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: curves(GOOD), "losses must be a dict from names to arrays, got ndarray"),
        (lambda: curves({}), "needs the losses of one optimizer or more"),
        (lambda: panels({}), "panels needs one group or more"),
        (lambda: curves({"sgd": np.ones((2, 2, 2))}), r"losses of 'sgd' must be of shape .* got \(2, 2, 2\)"),
        (lambda: curves({"sgd": np.ones(0)}), r"losses of 'sgd' must be of shape .* got \(0,\)"),
        (lambda: curves({"sgd": np.ones(3)}, x=np.ones(2)), r"x of 'sgd' must be of shape \(3,\).* got \(2,\)"),
        (lambda: curves({"sgd": np.ones(3)}, points=0), "points must be 1 or more, got 0"),
        (lambda: curves({"sgd": np.ones(3)}, log="z"), "log must be '', 'x', 'y' or 'xy', got 'z'"),
    ],
)
def test_errors(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
