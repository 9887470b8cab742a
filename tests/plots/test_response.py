import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

import gradtx as gx
from gradtx.plots import response
from gradtx.plots.style import styles


def drawn(axes):
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines if line.get_label()[0] != "_"}


def ema(signal, decay):
    mean, out = 0.0, []
    for t, g in enumerate(signal, 1):
        mean = decay * mean + (1 - decay) * g
        out.append((mean, mean / (1 - decay**t)))
    return np.r_[[[0.0, 0.0]], out].T


@pytest.mark.parametrize("at", [1, 7])
def test_the_drawn_lines_are_the_input_and_the_updates(at):
    key = jax.random.key(3)
    own = Figure().subplots(3)
    several = response(
        {"plain": gx.scale_by_ema(0.9), "corrected": gx.momentum(0.9)}, 20, own, at=at, period=10.0, noise=0.2, key=key
    )
    assert list(several) == list(own)
    time = np.arange(1, 21)
    sine = np.sin(2 * np.pi * time / 10) + 0.2 * np.asarray(jax.random.normal(key, (20,)))
    for axes, signal in zip(several, (1.0 * (time == at), 1.0 * (time >= at), sine)):
        plain, corrected = ema(signal, 0.9)
        lines = drawn(axes)
        np.testing.assert_allclose(lines["input"], np.r_[0, signal], atol=1e-6)
        np.testing.assert_allclose(lines["plain"], plain, atol=1e-6)
        np.testing.assert_allclose(lines["corrected"], corrected, atol=1e-6)
        assert list(np.asarray(axes.lines[1].get_xdata())) == list(range(21)) and axes.get_ylabel() == "update"
    assert several[2].get_xlabel() == "step"
    titles = [f"Impulse at step {at}", f"Step from step {at} on", "Sine of period 10 steps, with noise"]
    assert [axes.get_title(loc="left") for axes in several] == titles
    assert [text.get_text() for text in several[0].get_legend().get_texts()] == ["input", "plain", "corrected"]


class by_key(gx.PerLeaf):
    needs = ("key", "params")

    def update_leaf(self, g, slots, context):
        return g + context.params + jax.random.uniform(context.extra["key"]), slots


def test_optimizers_and_pieces_that_need_a_key_or_parameters():
    several = response({"sgd": gx.sgd(0.5), "by key": by_key(), "decay": gx.add_weight_decay(0.1)}, 3)
    lines = drawn(several[1])
    np.testing.assert_allclose(lines["sgd"], [0, -0.5, -0.5, -0.5])
    np.testing.assert_allclose(lines["decay"], [0, 1, 1, 1])
    np.testing.assert_allclose(lines["by key"][1:], 1 + float(jax.random.uniform(jax.random.key(0))))
    assert several[1].lines[1].get_color() == styles(["sgd"])["sgd"].color


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: response({}), "response needs one optimizer or more, got none"),
        (lambda: response({"a": gx.sgd()}, 0), "steps must be an integer, 1 or more, got 0"),
        (lambda: response({"a": gx.sgd()}, 5, at=6), "at must be from 1 to the 5 steps, got 6"),
        (lambda: response({"a": gx.reduce_on_plateau()}, 5), "reduce_on_plateau, of 'a', needs 'value', and a signal"),
        (lambda: response({"a": gx.sgd()}, 5, Figure().subplots(2)), "response: axes must be 3 matplotlib Axes, got 2"),
        (lambda: response({"a": gx.sgd()}, 5, [1, 2, 3]), "response: axes must be 3 matplotlib Axes"),
    ],
)
def test_errors(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
