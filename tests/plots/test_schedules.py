from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradtx import schedules as s
from gradtx.plots import schedule as draw
from gradtx.plots.schedules import horizon, svg

SHOWN = {
    s.constant(0.1): 0,
    s.linear(1.0, 0.0, steps=50): 50,
    s.polynomial(1.0, 0.0, steps=50, power=2.0): 50,
    s.cosine(1.0, steps=50): 50,
    s.rex(1.0, steps=50): 50,
    s.exponential(1.0, 0.5, steps=40): 200,
    s.inverse_time(1.0, 1.0): 100,
    s.relative_step(0.5): 0,
    s.inverse_sqrt(1.0, warmup=20): 200,
    s.inverse_sqrt(1.0, warmup=20, steps=90, cooldown=10): 90,
    s.piecewise_constant((1.0, 0.5, 0.1), boundaries=(10, 30)): 30,
    s.piecewise_interpolated((0.0, 1.0), boundaries=(30,)): 30,
    s.one_cycle(1.0, steps=100, rise=20, back=60): 100,
    s.wsd(1.0, warmup=10, stable=20, decay=30): 60,
    s.warmup_cosine(1.0, warmup=10, steps=90): 90,
    s.cosine_restarts(1.0, steps=10, growth=2): 70,
    s.linear_restarts(1.0, steps=10): 30,
    s.cyclic(0.0, 1.0, rise=10): 60,
    s.cyclic(0.0, 1.0, rise=10, fall=5): 45,
    s.warmup(1.0, steps=10): 10,
    s.warmup(1.0, steps=10, then=s.cosine(1.0, steps=90)): 100,
    s.join((0.5, s.linear(1.0, 0.0, steps=4)), boundaries=(10,)): 14,
    s.join((s.linear(1.0, 0.0, steps=4),), boundaries=()): 4,
    s.cycle(s.linear(1.0, 0.0, steps=40), steps=10): 40,
    s.linear(1.0, 0.0, steps=50) * s.cosine(1.0, steps=70) + 0.1: 70,
    s.cosine(s.linear(1.0, 0.5, steps=500), steps=50): 500,
}
each = pytest.mark.parametrize("schedule, steps", SHOWN.items(), ids=[str(schedule)[:40] for schedule in SHOWN])


def test_every_kind_of_schedule_is_here():
    kinds = {getattr(s, name) for name in s.__all__}
    assert kinds - {type(schedule) for schedule in SHOWN} == set()


@each
def test_the_curve_covers_the_whole_schedule(schedule, steps):
    assert horizon(schedule) == steps
    axes = draw(schedule)
    (line,) = axes.lines
    at, values = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert at[0] == 0 and at[-1] == axes.get_xlim()[1] == (-(-11 * steps // 10) or 100)
    assert np.array_equal(at, np.arange(len(at)))  # every step
    for i in (0, len(at) // 3, len(at) // 2, len(at) - 1):
        assert values[i] == pytest.approx(float(schedule(int(at[i]))), rel=1e-6)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "value")


@pytest.mark.promotes("functions of the step, as users write them")
def test_steps_axes_and_titles():
    axes = Figure().subplots()
    assert draw(s.cosine(0.1, steps=10), steps=25, axes=axes) is axes
    assert axes.get_xlim() == (0, 25) and axes.get_title(loc="left") == "cosine(0.1, steps=10, floor=0.0)"
    long = s.warmup(3e-4, steps=100, then=s.cosine(s.cosine(s.constant(3e-4), steps=900), steps=900))
    title = draw(long).get_title(loc="left").replace("\n", " ")
    assert title == "warmup(…, cosine(…, cosine(constant(0.0003), steps=900, floor=0.0)))"
    assert draw(long, title="mine").get_title(loc="left") == "mine"
    (line,) = draw(lambda step: 0.5**step, steps=3).lines
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [1, 0.5, 0.25, 0.125])
    with pytest.raises(ValueError, match="steps must be 1 or more, got 0"):
        draw(s.constant(1.0), steps=0)


def test_long_schedules_are_sampled_to_their_end():
    (line,) = draw(s.wsd(1.0, warmup=1, stable=2**31 - 3, decay=1)).lines
    assert len(np.asarray(line.get_xdata())) == 2001 and np.asarray(line.get_ydata())[-1] == 0


def test_the_svg_is_a_picture():
    schedule = s.piecewise_constant((1.0, 0.5), boundaries=(10,)) * s.cosine(1.0, steps=100)
    picture = svg(schedule)
    root = ElementTree.fromstring(picture)
    assert root.tag.endswith("}svg") and len([x for x in root.iter() if x.get("id", "").startswith("line2d")]) > 2
    assert len(picture) < 100_000
