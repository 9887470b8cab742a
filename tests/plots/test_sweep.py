from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import gradtx as gx
from gradtx import plots
from gradtx.training.sweep import Sweep

# Untyped: matplotlib's annotations leave open much that is known of these pictures.
sweep: Any = plots.sweep


def found_of(results, **hyperparameters):
    columns = {name: np.asarray(values, float) for name, values in hyperparameters.items()}
    return Sweep(jnp.asarray(results), columns, gx.scale(1.0))


def lowest(axes):
    (star,) = (line for line in axes.lines if line.get_label() == "lowest")
    return [float(part[0]) for part in star.get_data()]


def test_one_hyperparameter_is_a_line_in_its_order():
    axes = sweep(found_of([0.2, 10.0, 3.0], learning_rate=[0.01, 1e-3, 0.1]), ylabel="test loss")
    x, y = axes.lines[0].get_data()
    np.testing.assert_allclose(x, [1e-3, 0.01, 0.1])
    np.testing.assert_allclose(y, [10, 0.2, 3])
    assert lowest(axes) == pytest.approx([0.01, 0.2])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning_rate", "test loss")
    assert axes.get_title(loc="left") == "lowest: 0.2 at learning_rate = 0.01"


def test_axes_are_linear_where_nothing_spans_a_decade():
    axes = sweep(found_of([-1.0, 20.0], decay=[0.5, 0.9]), Figure().subplots(), title="mine")
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_title(loc="left")) == ("linear", "linear", "mine")


def test_diverged_results_are_drawn_at_the_top_and_outliers_are_cut_off():
    axes = sweep(found_of([1.0, 0.1, 2.0, 1e20, np.nan, np.inf], rate=np.geomspace(0.01, 1000, 6)))
    crosses = next(line for line in axes.lines if line.get_marker() == "x")
    np.testing.assert_allclose(crosses.get_xdata(), [100, 1000])
    assert [text.get_text() for text in axes.texts] == ["diverged"] and axes.get_ylim()[1] < 1e6
    axes = sweep(found_of([np.nan, np.nan], rate=[0.1, 1.0]))
    assert not [line for line in axes.lines if line.get_label() == "lowest"] and axes.get_title(loc="left") == ""


def test_a_result_of_0_stands_at_the_lower_edge_of_a_logarithmic_axis():
    axes = sweep(found_of([1.0, 0.0, 1e-6], rate=[0.01, 0.1, 1.0]))
    low, high = axes.get_ylim()
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [1, low, 1e-6])
    assert axes.get_yscale() == "log" and 1e-8 < low < 1e-6 and 1 < high < 1e3
    assert lowest(axes) == pytest.approx([0.1, low]) and axes.get_title(loc="left") == "lowest: 0 at rate = 0.1"
    decay, rate = np.meshgrid([0.0, 0.9], [0.01, 0.1, 1.0])
    axes = sweep(found_of([1.0, 1e-3, 0.0, 1e-2, 0.1, 1e-4], decay=decay.ravel(), rate=rate.ravel()))
    (image,) = axes.images
    assert not np.ma.getmaskarray(image.get_array()).any() and image.norm.vmin == pytest.approx(1e-4)
    assert "0" in {text.get_text() for text in axes.texts}


def test_two_hyperparameters_are_a_map_with_decades_along_the_longer_axis():
    decay, rate = np.meshgrid([0.0, 0.9], [0.01, 0.1, 1.0])
    results = np.arange(6.0)[::-1].reshape(3, 2).copy()
    results[0, 1] = np.nan
    axes = sweep(found_of(results.ravel(), decay=decay.ravel(), learning_rate=rate.ravel()))
    (image,) = axes.images
    np.testing.assert_allclose(np.asarray(image.get_array().filled(np.nan)), results.T)
    assert (image.norm.vmin, image.norm.vmax) == (0.0, 5.0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning_rate", "decay")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.01", "0.1", "1"]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "5", (0, 1): "diverged", (1, 0): "3", (1, 1): "2", (2, 0): "1", (2, 1): "0"}
    (frame,) = axes.patches
    assert frame.get_xy() == (1.5, 0.5) and axes.get_title(loc="left") == "lowest: 0 at learning_rate = 1, decay = 0.9"
    assert axes.figure.axes[1].get_ylabel() == "final loss"  # of the colours


def test_two_hyperparameters_off_a_grid_are_points():
    axes = sweep(found_of([3.0, 1.0, 2.0, np.nan], b1=[0.9, 0.5, 0.1, 0.2], b2=[0.1, 0.2, 0.3, 0.4]))
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0.9, 0.1], [0.5, 0.2], [0.1, 0.3]])
    np.testing.assert_allclose(axes.collections[1].get_offsets(), [[0.2, 0.4]])
    assert lowest(axes) == [0.5, 0.2] and not axes.images
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
    axes = sweep(found_of([3.0, 1.0, 2.0], rate=[0.001, 0.01, 1.0], eps=[1e-8, 1e-6, 1e-2]))
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_by_chooses_of_several_results():
    found = found_of([1.0, 2.0], rate=[1.0, 2.0])._replace(results={"loss": np.ones(2), "error": np.array([2.0, 1.0])})
    assert lowest(sweep(found, by=lambda result: result["error"])) == [2.0, 1.0]
    with pytest.raises(ValueError, match="one number for each of 2 optimizers, got a tree; choose one with by="):
        sweep(found)


@pytest.mark.parametrize(
    "found, message",
    [
        ([1.0], "found must be what gx.sweep returns, got list"),
        (found_of([1.0]), "one hyperparameter or two, this sweep has 0"),
        (found_of(1.0, a=1, b=1, c=1), "one hyperparameter or two, this sweep has 3: a, b, c"),
        (found_of(np.ones((2, 3)), a=[1, 2]), r"for each of 2 optimizers, got an array of shape \(2, 3\)"),
    ],
)
def test_errors(found, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sweep(found)
