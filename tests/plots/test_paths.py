from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import gradtx as gx
from gradtx import plots
from gradtx.lab import SURFACES, descend
from gradtx.plots.paths import STARS, ground
from gradtx.plots.style import styles

# Untyped: matplotlib's annotations leave open much that is known of these pictures.
animate: Any = plots.animate
paths: Any = plots.paths
BOWL, VALLEYS = SURFACES["bowl"], SURFACES["local_minimum"]
TWO = {"sgd": gx.sgd(0.1), "adam": gx.adam(0.1)}


def ways(axes):
    """The line and the end marker of each optimizer."""
    names = [text.get_text().split("  ")[0] for text in axes.get_legend().get_texts()]
    lines = {line.get_label(): line for line in axes.lines}
    heads = [line for line in axes.lines if line.get_markeredgecolor() == "white"]
    return {name: (lines[name], head) for name, head in zip([n for n in names if n not in STARS], heads)}


def test_the_paths_the_start_the_minima_and_the_losses_are_drawn():
    axes = paths(VALLEYS, TWO, 12)
    for name, (line, head) in ways(axes).items():
        expected = descend(VALLEYS, TWO[name], 12)
        np.testing.assert_allclose(np.transpose(line.get_data()), expected)
        np.testing.assert_allclose(np.transpose(head.get_data())[0], expected[-1])
        assert line.get_color() == head.get_color() == styles([name])[name].color
    stars = {line.get_label(): np.transpose(line.get_data())[0] for line in axes.lines if line.get_label() in STARS}
    np.testing.assert_allclose([stars["minimum"], stars["local minimum"]], VALLEYS.minima)
    (start,) = (text for text in axes.texts if text.get_text() == "start")
    np.testing.assert_allclose(start.xy, VALLEYS.start)
    losses = {name: VALLEYS.function(jnp.asarray(descend(VALLEYS, tx, 12)[-1])) for name, tx in TWO.items()}
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [*(f"{name}  {loss:.2g}" for name, loss in losses.items()), "minimum", "local minimum"]
    assert axes.get_xlim() == VALLEYS.xlim and axes.get_ylim() == VALLEYS.ylim
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("parameter w₁", "parameter w₂")


def test_levels_are_logarithmic_and_the_contours_are_of_the_function():
    levels = paths(BOWL, {"sgd": gx.sgd(0.1)}, 3).collections[-1]
    ratios = np.diff(np.log(levels.levels))
    assert len(ratios) >= 12 and np.allclose(ratios, ratios[0])
    for level, path in zip(levels.levels, levels.get_paths()):
        if len(path.vertices):
            np.testing.assert_allclose((path.vertices**2).sum(axis=1) / 2, level, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("name", SURFACES)
def test_levels_are_labelled_with_the_loss_where_they_are(name):
    surface = SURFACES[name]
    axes = paths(surface, {"sgd": gx.sgd(1e-3)}, 3)
    labels = [text for text in axes.texts if text.get_text() != "start"]
    assert labels
    for text in labels:
        there = float(surface.function(jnp.asarray(text.get_position())))
        assert float(text.get_text()) == pytest.approx(there, rel=0.1)


def test_axes_start_key_and_no_legend():
    own, noisy, key = Figure().subplots(), SURFACES["noisy_ravine"], jax.random.key(7)
    axes = paths(noisy, {"sgd": TWO["sgd"]}, 5, own, start=(1.0, 1.0), key=key, legend=False)
    assert axes is own and axes.get_legend() is None
    (drawn,) = (np.transpose(line.get_data()) for line in axes.lines if line.get_label() == "sgd")
    np.testing.assert_allclose(drawn, descend(noisy, TWO["sgd"], 5, (1.0, 1.0), key))


def test_a_path_that_diverges_is_labelled():
    axes = paths(BOWL, {"wild": gx.sgd(1e4)}, 100)
    assert axes.get_legend().get_texts()[0].get_text() == "wild  diverged"
    line, head = ways(axes)["wild"]
    assert np.nanmax(np.abs(line.get_data())) < 1e6 and np.isfinite(head.get_data()).all()
    axes.figure.draw_without_rendering()


def test_frames_grow_from_the_start_to_all_steps():
    moving = animate(BOWL, {"sgd": TWO["sgd"]}, 10, frames=4, seconds=2.0)
    (axes,) = moving._fig.axes
    expected, seen = descend(BOWL, TWO["sgd"], 10), []
    moving._draw_was_started = True
    for frame in moving.new_frame_seq():
        moving._func(frame)
        line, head = ways(axes)["sgd"]
        np.testing.assert_allclose(np.transpose(line.get_data()), expected[: frame + 1])
        np.testing.assert_allclose(np.transpose(head.get_data()), expected[frame : frame + 1])
        assert axes.get_title(loc="left") == f"Quadratic bowl: step {frame} of 10"
        seen.append(frame)
    assert seen == [0, 3, 7, 10] and moving._interval == 500.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: paths(BOWL, gx.sgd()), "paths: optimizers must be a dict from names to optimizers"),
        (lambda: paths(BOWL, {}), "paths needs one optimizer or more, got none"),
        (lambda: paths(BOWL, {"a": 1}), "paths: 'a' must be a transformation or a pair"),
        (lambda: paths("bowl", TWO), "surface must be a Surface"),
        (lambda: animate(BOWL, TWO, frames=1), "animate: frames must be an integer, 2 or more, got 1"),
        (lambda: animate(BOWL, {}), "animate needs one optimizer or more, got none"),
    ],
)
def test_errors(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("factor", [1.0, 2.0, 3.5, 6.0])  # the highest contour is at each fourth of a decade
def test_the_contours_with_labels_are_the_powers_of_ten(factor):
    bowl = BOWL._replace(function=lambda w: factor * jnp.sum(w**2), minima=((0, 0),), xlim=(-5, 5), ylim=(-5, 5))
    ground(axes := Figure().subplots(), bowl)
    powers = np.log10([float(text.get_text()) for text in axes.texts])
    np.testing.assert_allclose(powers, powers.round(), atol=1e-3)
    assert {*powers.round()} >= {0, 1}
