"""Every schedule against independent values at every step, boundaries included; and the laws of all schedules.

Optax and PyTorch (what PyTorch 2.13 did in float64, record_torch.py) where they define the same curve, else NumPy.
Where they count or parametrise otherwise:

| theirs | gradtx | difference |
|---|---|---|
| optax.cosine_decay_schedule(alpha, exponent) | cosine(floor) | alpha is a fraction of the peak; no exponent |
| optax.warmup_cosine_decay_schedule(decay_steps) | warmup_cosine(steps) | |
| the same | warmup(then=cosine) | theirs includes the warm-up |
| optax.piecewise_…(boundaries_and_scales) | piecewise_…(values, boundaries) | their scales multiply up |
| optax.…_onecycle_schedule(pct_start) | one_cycle(rise) | a count of steps, not a share of them |
| optax.exponential_decay(end_value) | exponential(floor) | of a rate above 1, theirs is an upper bound |
| torch's CosineAnnealingLR, PolynomialLR, … | cosine, polynomial, … | at the end ours hold |
| torch's OneCycleLR(total_steps=T) | one_cycle(steps=T − 1) | its rise ends at pct_start·T − 1 |
| torch's CyclicLR("triangular2", "exp_range") | cyclic · exponential | a product of schedules |
"""

import functools
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy import pi, sqrt

import gradtx as gx
from gradtx import schedules
from gradtx.schedules.compose import cycle, join, piecewise_constant, piecewise_interpolated
from gradtx.schedules.cyclic import cosine_restarts, cyclic, linear_restarts
from gradtx.schedules.decay import (
    constant,
    cosine,
    exponential,
    inverse_sqrt,
    inverse_time,
    linear,
    polynomial,
    relative_step,
    rex,
)
from gradtx.schedules.phases import one_cycle, warmup, warmup_cosine, wsd

STEPS = 120
T = np.arange(STEPS)
TORCH = np.load(Path(__file__).with_name("torch_schedules.npz"))


class Row(NamedTuple):
    ours: Any
    theirs: Any
    """An Optax schedule, the name of a recording of PyTorch, or the values in NumPy."""


def falling(t: Any, steps: int, a: float, b: float, shape: Callable[[Any], Any]) -> Any:
    """From a to b; `shape` is from 1 to 0 as its argument goes from 0 to 1."""
    return b + (a - b) * shape(np.clip(t / steps, 0, 1))


def half_cosine(x: Any) -> Any:
    return (1 + np.cos(pi * x)) / 2


def straight(x: Any) -> Any:
    return 1 - x


def rex_shape(x: Any) -> Any:
    return (1 - x) / (0.5 + 0.5 * (1 - x))


SCALES = {20: 0.5, 50: 3.0, 70: 0.1}
VALUES = (0.4, 0.2, 0.6, 0.06)
restarts_by_hand = np.select([T < 10, T < 40], [T / 10, (T - 10) / 30], (T - 40) / 90)
rsqrt = 0.3 * np.where(T < 16, T / 16, sqrt(16 / np.maximum(T, 1)))

ROWS: dict[str, list[Row]] = {
    "constant": [Row(constant(0.3), optax.constant_schedule(0.3))],
    "linear": [
        Row(linear(0.1, 0.7, 50), optax.linear_schedule(0.1, 0.7, 50)),
        Row(linear(0.125, 0.375, 40), "linear"),
        Row(linear(constant(0.1), lambda t: 0.7 + 0 * t, 50), optax.linear_schedule(0.1, 0.7, 50)),
        Row(linear(linear(0.0, 1.0, 100), 0.5, 200), T.clip(0, 100) / 100 * (1 - T / 200) + 0.5 * T / 200),
    ],
    "polynomial": [
        Row(polynomial(0.9, 0.1, 61, 3.0), optax.polynomial_schedule(0.9, 0.1, 3, 61)),
        Row(polynomial(0.1, 0.9, 61, 0.5), optax.polynomial_schedule(0.1, 0.9, 0.5, 61)),
        Row(polynomial(0.5, 0.0, 60, 2.5), "polynomial"),
    ],
    "exponential": [
        Row(exponential(0.5, 0.3, 20, floor=0.01), optax.exponential_decay(0.5, 20, 0.3, end_value=0.01)),
        Row(exponential(0.5, 0.3, 7, staircase=True), optax.exponential_decay(0.5, 7, 0.3, staircase=True)),
        Row(exponential(0.5, 1.5, 20), optax.exponential_decay(0.5, 20, 1.5)),
        Row(exponential(0.5, 0.95), "exponential"),
        Row(exponential(0.5, 0.3, 30, staircase=True), "staircase"),
    ],
    "cosine": [
        Row(cosine(0.5, 77), optax.cosine_decay_schedule(0.5, 77)),
        Row(cosine(0.5, 77, floor=0.1), optax.cosine_decay_schedule(0.5, 77, alpha=0.2)),
        Row(cosine(0.5, STEPS - 1, floor=0.05), "cosine"),
    ],
    "cosine_restarts": [
        Row(cosine_restarts(0.5, 30, floor=0.05), "cosine restarts"),
        Row(cosine_restarts(0.5, 10, growth=2), "growing cosine restarts"),
        Row(cosine_restarts(0.5, 10, 0.1, growth=3), 0.1 + 0.4 * half_cosine(restarts_by_hand)),
    ],
    "linear_restarts": [
        Row(linear_restarts(0.5, 25, 0.1), 0.5 - 0.4 * (T % 25) / 25),
        Row(linear_restarts(0.5, 10, 0.1, growth=3), 0.5 - 0.4 * restarts_by_hand),
    ],
    "one_cycle": [
        Row(one_cycle(0.5, 100), optax.cosine_onecycle_schedule(100, 0.5)),
        Row(one_cycle(0.5, 60, rise=20, start=0.1, end=0.01), optax.cosine_onecycle_schedule(60, 0.5, 1 / 3, 10, 10)),
        Row(one_cycle(0.5, 100, back=85, shape="linear"), optax.linear_onecycle_schedule(100, 0.5)),
        Row(one_cycle(0.5, STEPS - 1, rise=29), "one cycle"),
        Row(one_cycle(0.5, STEPS - 1, rise=29, back=58, shape="linear"), "linear one cycle"),
    ],
    "piecewise_constant": [
        Row(piecewise_constant(VALUES, tuple(SCALES)), optax.piecewise_constant_schedule(0.4, SCALES)),
        Row(piecewise_constant((0.5, 0.05, 0.005), (20, 70)), "boundaries"),
        Row(piecewise_constant((0.125, 0.5), (10,)), "constant"),
        Row(piecewise_constant((0.5,), ()), 0.5 + 0 * T),
    ],
    "piecewise_interpolated": [
        Row(
            piecewise_interpolated(VALUES, tuple(SCALES), shape),
            optax.piecewise_interpolate_schedule(shape, 0.4, SCALES),  # pyright: ignore[reportArgumentType]
        )
        for shape in ("linear", "cosine")
    ]
    + [Row(piecewise_interpolated((0.5,), ()), 0.5 + 0 * T)],
    "wsd": [
        Row(
            wsd(0.5, 10, 60, 40, 0.1, shape),
            np.where(T < 10, 0.5 * T / 10, falling(T - 70, 40, 0.5, 0.1, formula)),
        )
        for shape, formula in {
            "linear": straight,
            "cosine": half_cosine,
            "1-sqrt": lambda x: 1 - sqrt(x),
            "rex": rex_shape,
        }.items()
    ]
    + [Row(wsd(0.5, 0, 0, 40), falling(T, 40, 0.5, 0, straight))],
    "warmup_cosine": [
        Row(
            warmup_cosine(0.5, 20, 100, 0.1, start=0.05),
            optax.warmup_cosine_decay_schedule(0.05, 0.5, 20, 100, 0.1),
        ),
        Row(warmup_cosine(0.5, 20, 21), optax.warmup_cosine_decay_schedule(0.0, 0.5, 20, 21)),
        Row(warmup_cosine(0.5, 0, 77), optax.cosine_decay_schedule(0.5, 77)),
    ],
    "inverse_sqrt": [
        Row(inverse_sqrt(0.3, 16), rsqrt),
        Row(inverse_sqrt(0.3, 16, steps=64), rsqrt[T.clip(0, 64)]),
        Row(
            inverse_sqrt(0.3, 16, steps=100, cooldown=36, floor=0.01),
            np.where(T < 64, rsqrt, falling(T - 64, 36, 0.15, 0.01, straight)),
        ),
    ],
    "inverse_time": [
        Row(inverse_time(0.5, 0.1), 0.5 / (1 + 0.1 * T)),
        Row(inverse_time(0.5, 0.7, 30), 0.5 / (1 + 0.7 * T / 30)),
        Row(inverse_time(0.5, 0.7, power=0.75), 0.5 / (1 + 0.7 * T) ** 0.75),
        Row(inverse_time(0.5, 0.7, 30, staircase=True), 0.5 / (1 + 0.7 * (T // 30))),
    ],
    "relative_step": [
        Row(relative_step(0.3), np.minimum(0.3, 1 / sqrt(T + 1))),
        Row(relative_step(0.05), 0.05 + 0 * T),
    ],
    "rex": [Row(rex(0.5, 90, 0.1), falling(T, 90, 0.5, 0.1, rex_shape))],
    "cyclic": [
        Row(cyclic(0.1, 0.5, 8, 24), "cyclic"),
        Row(cyclic(0.1, 0.5, 7), 0.1 + 0.4 * (1 - abs(T % 14 - 7) / 7)),
        Row(0.1 + cyclic(0.0, 0.4, 10) * exponential(1.0, 0.5, 20, staircase=True), "cyclic, halved"),
        Row(0.1 + cyclic(0.0, 0.4, 10) * exponential(1.0, 0.98), "cyclic, shrinking"),
    ],
    "join": [
        Row(
            join((linear(0.0, 1.0, 20), 0.7, cosine(0.5, 40)), (30, 60)),
            optax.join_schedules(
                [optax.linear_schedule(0, 1, 20), lambda t: 0.7, optax.cosine_decay_schedule(0.5, 40)], [30, 60]
            ),
        ),
        Row(join((lambda t: 0.5**t, lambda t: 1 / (1.0 + t)), (5,)), np.where(T < 5, 0.5**T, 1 / (1 + abs(T - 5)))),
        Row(join((constant(0.1),), ()), 0.1 + 0 * T),
    ],
    "cycle": [
        Row(cycle(linear(1.0, 0.0, 50), 30), 1 - (T % 30) / 50),
        Row(cycle(cosine(0.5, 30, 0.05), 30), "cosine restarts"),
        Row(cycle(0.5, 3), 0.5 + 0 * T),
    ],
    "warmup": [
        Row(warmup(0.5, 20), optax.warmup_constant_schedule(0.0, 0.5, 20)),
        Row(
            warmup(0.5, 20, cosine(0.5, 80, 0.1), start=0.05),
            optax.warmup_cosine_decay_schedule(0.05, 0.5, 20, 100, 0.1),
        ),
        Row(
            warmup(0.5, 20, exponential(0.5, 0.5, 30)),
            optax.warmup_exponential_decay_schedule(0.0, 0.5, 20, 30, 0.5),
        ),
        Row(warmup(0.5, 0, linear(0.3, 0.1, 10)), optax.linear_schedule(0.3, 0.1, 10)),
        Row(warmup(0.5, 5, lambda t: 1 / (1.0 + t)), np.where(T < 5, 0.5 * T / 5, 1 / (1 + abs(T - 5)))),
    ],
}
ALL = {f"{name}-{i}": row for name, rows in ROWS.items() for i, row in enumerate(rows)}
RECORDS = {name: row.ours for name, row in ALL.items() if "<lambda>" not in repr(row.ours)}


class halving(gx.Schedule):
    """A user's own, written for the arrays that an update passes."""

    def __call__(self, step: Any) -> Any:
        return 0.5 ** step.astype(float)


each = pytest.mark.parametrize("row", ALL.values(), ids=ALL)
each_record = pytest.mark.parametrize("schedule", RECORDS.values(), ids=RECORDS)


def values(row: Row) -> np.ndarray:
    """The other's values, in float64."""
    if isinstance(row.theirs, str):
        return TORCH[row.theirs]
    if isinstance(row.theirs, np.ndarray):
        return row.theirs
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(lambda t: jnp.asarray(row.theirs(t), float))(jnp.arange(STEPS)), np.float64)


def worst_error(ours: Any, theirs: Any) -> float:
    """The largest difference, as a fraction of the largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def at_each(schedule: Any, steps: Any) -> jax.Array:
    return jax.vmap(lambda step: jnp.asarray(schedule(step), float))(steps)


# ---------------------------------------------------------------- the registry
def test_every_public_schedule_has_a_row_and_a_doctest():
    public = {name: getattr(schedules, name) for name in schedules.__all__}
    assert set(public) == set(ROWS) == {cls.__name__ for cls in public.values()}
    for name, rows in ROWS.items():
        assert f"{name}(" in inspect.cleandoc(public[name].__doc__ or "").partition(">>>")[2], f"{name} has no doctest"
        assert any(type(row.ours) is public[name] for row in rows)


def test_every_recording_is_compared():
    plateaus = {name for name in TORCH if "plateau" in name}
    assert {row.theirs for row in ALL.values() if isinstance(row.theirs, str)} == set(TORCH) - plateaus - {"losses"}


# ---------------------------------------------------------------- values
@functools.cache
def all_at_each(x64: bool) -> dict[str, jax.Array]:
    """Every row's values at every step, compiled together."""
    with jax.enable_x64(x64):
        rows = {name: row.ours for name, row in ALL.items()}
        return jax.jit(lambda rows, steps: {name: at_each(s, steps) for name, s in rows.items()})(
            rows, jnp.arange(STEPS)
        )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.promotes("functions of the step, as users write them")
def test_values(name: str):
    expected, single, double = values(ALL[name]), all_at_each(False)[name], all_at_each(True)[name]
    assert single.dtype == jnp.float32 and double.dtype == jnp.float64
    assert worst_error(single, expected) <= 1e-6
    assert worst_error(double, expected) <= 1e-12


@each
@pytest.mark.promotes("functions of the step, as users write them")
def test_values_at_python_integers_and_traced_steps(row: Row):
    expected, jitted = values(row), jax.jit(lambda schedule, step: schedule(step))
    for step in (0, 1, 9, 10, 11, 19, 20, 21, 30, 60, 70, 100, STEPS - 1):
        for value in (row.ours(step), jitted(row.ours, step)):
            assert jnp.shape(value) == () and abs(value - expected[step]) <= 1e-6 * np.max(np.abs(expected))


ENDLESS = ("exponential", "inverse_", "relative_step", "cyclic", "cycle", "restarts", "warmup-2")
ENDED = {n: s for n, s in RECORDS.items() if not any(word in n for word in ENDLESS)}


@pytest.mark.parametrize("schedule", ENDED.values(), ids=ENDED)
def test_after_the_end_it_holds_its_last_value(schedule: Any):
    at_once = jax.jit(at_each)(schedule, jnp.array([200, 201, 2**24 + 1, 2**31 - 1], jnp.int32))
    assert jnp.all(at_once == at_once[0])


EXACT_ENDS = {
    "linear": (linear(0.3, 0.7, 41), {0: 0.3, 41: 0.7}),
    "cosine": (cosine(0.3, 47, 0.1), {0: 0.3, 47: 0.1}),
    "rex": (rex(0.3, 55, 0.1), {0: 0.3, 55: 0.1}),
    "wsd": (wsd(0.3, 41, 5, 61, 0.1, "1-sqrt"), {0: 0, 41: 0.3, 46: 0.3, 107: 0.1}),
    "warmup": (warmup(0.3, 41), {0: 0, 41: 0.3}),
    "warmup_cosine": (warmup_cosine(0.3, 41, 88, 0.1, 0.05), {0: 0.05, 41: 0.3, 88: 0.1}),
    "cyclic": (cyclic(0.1, 0.3, 41), {0: 0.1, 41: 0.3, 82: 0.1}),
    "inverse_sqrt": (inverse_sqrt(0.3, 41), {0: 0, 41: 0.3}),
    "piecewise_interpolated": (piecewise_interpolated((0.1, 0.3, 0.2), (41, 82)), {0: 0.1, 41: 0.3, 82: 0.2}),
}


@pytest.mark.parametrize("row", [row for rows in ROWS.values() for row in rows])
@pytest.mark.promotes
def test_no_value_is_below_0(row: Row):
    """A rate below 0 would go uphill, and inside a compiled update nothing sees it."""
    steps = np.array([*range(3 * STEPS), 10**4, 10**6 + 1, 2**31 - 2, 2**31 - 1], np.int32)
    assert np.all(np.asarray(jax.jit(jax.vmap(row.ours))(steps)) >= 0)


@pytest.mark.parametrize("schedule", [gx.of_step(lambda step: 0.5 ** step.astype(float)), halving()])
def test_a_schedule_written_for_arrays_takes_integers(schedule: Any):
    tx = gx.scale(schedule)
    tx.init(jnp.ones(2))
    assert tx.at(3) == tx.at(jnp.int32(3)) == gx.scale(0.125)
    assert gx.hyperparameters(tx) == {"factor": 1}
    assert (schedule * 2.0)(jnp.int32(3)) == gx.of_step(lambda step: 0.5 ** step.astype(float))(3) * 2 == 0.25


def test_a_step_beyond_int32_is_the_last_one(x64):
    at = jax.jit(schedules.cosine(1.0, 10, floor=0.25))
    assert [float(at(np.int64(step))) for step in (2**31 + 3, 2**32, 2**32 + 3, -(2**32))] == [0.25, 0.25, 0.25, 1.0]


@pytest.mark.parametrize("schedule, ends", EXACT_ENDS.values(), ids=EXACT_ENDS)
def test_peaks_and_floors_are_met_to_the_last_bit(schedule: Any, ends: dict[int, float]):
    jitted = jax.jit(lambda schedule, step: schedule(step))
    for step, value in ends.items():
        assert schedule(step) == jnp.float32(value) == jitted(schedule, step)


# ---------------------------------------------------------------- integers
LAST, ODD = 2**31 - 1, 2**24 + 1


def fraction(t: int, steps: int) -> float:
    return min(t, steps) / steps


FAR = (0, 1, 2, 3, ODD - 2, ODD - 1, ODD, ODD + 1, ODD + 2, 2 * ODD - 1, 2 * ODD, LAST - 3, LAST - 2, LAST - 1, LAST)
BIG: dict[str, tuple[Any, Callable[[int], float]]] = {
    "linear, up": (linear(0.0, 1.0, LAST), lambda t: t / LAST),
    "linear, down": (linear(1.0, 0.0, LAST), lambda t: (LAST - t) / LAST),
    "cosine": (cosine(1.0, LAST), lambda t: np.sin(pi / 2 * (LAST - t) / LAST) ** 2),
    "polynomial": (polynomial(1.0, 0.0, LAST, 2.0), lambda t: ((LAST - t) / LAST) ** 2),
    "rex": (rex(1.0, LAST), lambda t: 2 * (LAST - t) / (2 * LAST - t)),
    "warmup": (warmup(1.0, ODD, then=linear(1.0, 0.0, LAST - ODD)), lambda t: min(t / ODD, (LAST - t) / (LAST - ODD))),
    "warmup, long": (warmup(1.0, LAST, 5.0), lambda t: t / LAST if t < LAST else 5.0),
    "warmup_cosine": (
        warmup_cosine(1.0, ODD, LAST),
        lambda t: t / ODD if t < ODD else np.sin(pi / 2 * (LAST - t) / (LAST - ODD)) ** 2,
    ),
    "wsd": (wsd(1.0, ODD, LAST - 2 * ODD, ODD), lambda t: min(t / ODD, 1.0, (LAST - t) / ODD)),
    "one_cycle": (
        one_cycle(1.0, LAST, rise=ODD, start=0.0, end=0.0, shape="linear"),
        lambda t: min(t / ODD, (LAST - t) / (LAST - ODD)),
    ),
    "cosine_restarts": (cosine_restarts(1.0, ODD), lambda t: np.sin(pi / 2 * (ODD - t % ODD) / ODD) ** 2),
    "linear_restarts": (linear_restarts(1.0, ODD), lambda t: (ODD - t % ODD) / ODD),
    "linear_restarts, growing": (
        linear_restarts(1.0, ODD, growth=1000),
        lambda t: (ODD - t) / ODD if t < ODD else 1 - (t - ODD) / (1000 * ODD),
    ),
    "cyclic": (cyclic(0.0, 1.0, ODD, 1), lambda t: t % (ODD + 1) / ODD),
    "cycle": (cycle(linear(0.0, 1.0, ODD), ODD), lambda t: t % ODD / ODD),
    "join": (join((0.0, linear(1.0, 0.0, 2)), (ODD,)), lambda t: 0.0 if t < ODD else 1 - fraction(t - ODD, 2)),
    "piecewise_constant": (piecewise_constant((0.0, 1.0, 2.0), (ODD, LAST)), lambda t: (t >= ODD) + (t >= LAST)),
    "piecewise_interpolated": (
        piecewise_interpolated((0.0, 1.0, 0.0), (ODD - 1, ODD + 1)),
        lambda t: t / (ODD - 1) if t < ODD else (0.5 if t == ODD else 0.0),
    ),
    "exponential": (exponential(1.0, 0.75, ODD, staircase=True), lambda t: 0.75 ** (t // ODD)),
    "inverse_time": (inverse_time(1.0, 1.0, ODD, staircase=True), lambda t: 1 / (1 + t // ODD)),
    "inverse_sqrt": (inverse_sqrt(1.0, ODD), lambda t: t / ODD if t < ODD else sqrt(ODD / t)),
    "relative_step": (relative_step(1e-4), lambda t: min(1e-4, 1 / sqrt(t + 1))),
    "inverse_sqrt, cooled": (
        inverse_sqrt(1.0, 1, LAST, ODD),
        lambda t: min(t, 1) * sqrt(1 / max(1, min(t, LAST - ODD))) * min(1, (LAST - t) / ODD),
    ),
}


@pytest.mark.parametrize("schedule, formula", BIG.values(), ids=BIG)
def test_large_steps_are_exact(schedule: Any, formula: Callable[[int], float]):
    """Relative to each value, so that neighbouring steps near the start, a boundary or the end differ."""
    expected = np.array([formula(t) for t in FAR])
    for got in (
        np.array([schedule(t) for t in FAR]),
        np.asarray(jax.jit(at_each)(schedule, jnp.array(FAR, jnp.int32))),
    ):
        assert np.all(np.abs(got - expected) <= 1e-6 * np.abs(expected))


def test_neighbouring_steps_have_different_values():
    end = jnp.array([LAST - 3, LAST - 2, LAST - 1, LAST], jnp.int32)
    for schedule in (cosine(1.0, LAST), linear(1.0, 0.0, LAST), rex(1.0, LAST), wsd(1.0, 0, 0, LAST, shape="1-sqrt")):
        assert jnp.all(jnp.diff(at_each(schedule, end)) < 0)
    begin = jnp.array([0, 1, 2], jnp.int32)
    assert jnp.all(jnp.diff(at_each(warmup(1.0, LAST), begin)) > 0)


# ---------------------------------------------------------------- records
@each_record
def test_it_prints_as_the_call_that_makes_it(schedule: Any):
    assert gx.read(repr(schedule)) == schedule
    twin = pickle.loads(pickle.dumps(schedule))
    assert twin == schedule and hash(twin) == hash(schedule) and repr(twin) == repr(schedule)


def test_numbers_are_leaves_and_counts_are_structure():
    assert jax.tree.leaves(cosine(0.5, 10, floor=0.1)) == [0.5, 0.1]
    assert jax.tree.structure(cosine(0.5, 10)) == jax.tree.structure(cosine(0.7, 10))
    assert jax.tree.structure(cosine(0.5, 10)) != jax.tree.structure(cosine(0.5, 11))
    assert jax.tree.leaves(join((0.1, linear(0.2, 0.3, 5)), (7,))) == [0.1, 0.2, 0.3]
    assert cosine(0.5, np.int64(10)) == cosine(0.5, 10) == cosine(np.float32(0.5), jnp.int32(10))  # pyright: ignore[reportArgumentType]
    assert piecewise_constant(np.array([0.5, 0.25]), [3]) == piecewise_constant((0.5, 0.25), (3,))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("schedule", {n: s for n, s in RECORDS.items() if n[-1] in "02"}.values())
def test_gradients_of_the_numbers_are_finite_and_right(schedule: Any, x64):
    """At the boundaries too; against central differences."""
    leaves, structure = jax.tree.flatten(schedule)
    steps = jnp.array([0, 1, 19, 20, 21, 30, 60, 77, 100, 119, 150])

    def of(leaves):
        return at_each(jax.tree.unflatten(structure, leaves), steps)

    both = jax.jit(lambda leaves: (jax.jacrev(of)(leaves), of(leaves)))
    for i, gradient in enumerate(both(leaves)[0]):
        assert jnp.all(jnp.isfinite(gradient))
        ahead, behind = ([x + h * (j == i) for j, x in enumerate(leaves)] for h in (1e-6, -1e-6))
        slope = (both(ahead)[1] - both(behind)[1]) / 2e-6
        if leaves[i] != 0 or not isinstance(schedule, exponential):  # whose maximum with a floor of 0 has a corner
            assert jnp.all(jnp.abs(gradient - slope) <= 1e-5 * (1 + jnp.abs(slope)))


def test_a_sweep_over_the_peak_of_a_warm_up():
    peaks = jnp.array([0.1, 0.2, 0.4])
    sweep = jax.vmap(lambda peak: at_each(warmup(peak, 10, cosine(peak, 20)), jnp.arange(31)))(peaks)
    for peak, row in zip(peaks, sweep):
        assert worst_error(row, at_each(warmup(float(peak), 10, cosine(float(peak), 20)), jnp.arange(31))) <= 1e-6


# ---------------------------------------------------------------- laws
def test_laws():
    steps = jnp.arange(STEPS)

    def same(a, b):
        assert worst_error(at_each(a, steps), at_each(b, steps)) <= 1e-6

    same(cosine_restarts(0.5, 30, 0.1), cycle(cosine(0.5, 30, 0.1), 30))
    same(linear(0.5, 0.1, 50), polynomial(0.5, 0.1, 50))
    same(wsd(0.5, 10, 60, 40), piecewise_interpolated((0.0, 0.5, 0.5, 0.0), (10, 70, 110)))
    same(wsd(0.5, 10, 0, 40, 0.1, "cosine"), warmup(0.5, 10, cosine(0.5, 40, 0.1)))
    same(warmup_cosine(0.5, 10, 50, 0.1), warmup(0.5, 10, cosine(0.5, 40, 0.1)))
    same(join((0.1, 0.2, 0.3), (7, 50)), piecewise_constant((0.1, 0.2, 0.3), (7, 50)))
    same(warmup(0.5, 20, rex(0.5, 50)), join((linear(0.0, 0.5, 20), rex(0.5, 50)), (20,)))
    same(cyclic(0.1, 0.5, 10), cycle(piecewise_interpolated((0.1, 0.5, 0.1), (10, 20)), 20))
    same(exponential(0.5, 0.9), exponential(0.5, 0.9**10, 10))
    same(1 - linear(0.0, 1.0, 50), linear(1.0, 0.0, 50))


# ---------------------------------------------------------------- in an optimizer
@pytest.mark.parametrize("row", [rows[-1] for rows in ROWS.values()], ids=ROWS)
@pytest.mark.promotes("functions of the step, as users write them")
def test_a_schedule_in_place_of_a_constant_rate(row: Row):
    """The state keeps its structure, step 0 is the first, and another value of a leaf compiles nothing."""
    params, traces = jnp.ones(3), []

    def at_step(tx, state, g):
        traces.append(1)
        return tx.update(g, state, params)

    tx, step = gx.adam(row.ours), jax.jit(at_step)
    state = tx.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(gx.adam(1e-3).init(params))
    for t in range(3):
        u, state = step(tx, state, params)
        assert jnp.allclose(u, -row.ours(t), rtol=1e-4, atol=1e-7)
    step(jax.tree.map(lambda x: x * 1.01, tx), state, params)
    assert len(traces) == 1


# ---------------------------------------------------------------- bad values
INTEGER, NUMBER = "must be an integer, ", "must be a number, an array, a schedule or a function of the step, got "
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: cosine(0.1, 0), ValueError, "cosine: steps must be an integer, 1 or more, got 0"),
    (lambda: cosine(0.1, -5), ValueError, f"cosine: steps {INTEGER}1 or more, got -5"),
    (lambda: cosine(0.1, 2**31), ValueError, "cosine: steps must be at most 2³¹ − 1, got 2147483648"),
    (lambda: cosine(0.1, 10.0), TypeError, f"cosine: steps {INTEGER}1 or more, got 10.0"),  # pyright: ignore[reportArgumentType]
    (lambda: cosine(0.1, True), TypeError, f"cosine: steps {INTEGER}1 or more, got True"),
    (lambda: cosine(0.1, float("nan")), TypeError, f"cosine: steps {INTEGER}1 or more, got nan"),  # pyright: ignore[reportArgumentType]
    (lambda: cosine(0.1, None), TypeError, f"cosine: steps {INTEGER}1 or more, got None"),  # pyright: ignore[reportArgumentType]
    (lambda: cosine(float("nan"), 10), ValueError, "cosine: peak must be a finite number, got nan"),
    (lambda: cosine(0.1, 10, floor=float("inf")), ValueError, "cosine: floor must be a finite number, got inf"),
    (lambda: cosine("high", 10), TypeError, f"cosine: peak {NUMBER}'high'"),
    (lambda: cosine(np.ones(3), 10), ValueError, "cosine: peak must be one number, got float64[3]"),
    (lambda: jax.jit(lambda n: cosine(0.1, n)(0))(3), TypeError, f"cosine: steps {INTEGER}1 or more, got "),
    (lambda: constant(None), TypeError, f"constant: value {NUMBER}None"),
    (lambda: linear(1.0, float("nan"), 10), ValueError, "linear: end must be a finite number, got nan"),
    (lambda: linear(1.0, 0.0, -1), ValueError, f"linear: steps {INTEGER}1 or more, got -1"),
    (lambda: polynomial(1.0, 0.0, 10, 0.0), ValueError, "polynomial: power must be a finite number above 0, got 0.0"),
    (lambda: exponential(1.0, 0.0), ValueError, "exponential: rate must be a finite number above 0, got 0.0"),
    (lambda: exponential(-1.0, 0.5), ValueError, "exponential: start must be a finite number, 0 or more, got -1.0"),
    (lambda: exponential(1.0, 0.5, 0), ValueError, f"exponential: steps {INTEGER}1 or more, got 0"),
    (lambda: exponential(1.0, 0.5, staircase=3), TypeError, "exponential: staircase must be True or False, got 3"),  # pyright: ignore[reportArgumentType]
    (lambda: inverse_time(1.0, 1.0, power=-1.0), ValueError, "inverse_time: power must be a finite number, 0 or more"),
    (lambda: relative_step(0.0), ValueError, "relative_step: most must be a finite number above 0, got 0.0"),
    (lambda: inverse_time(1.0, -1.0), ValueError, "inverse_time: rate must be a finite number, 0 or more, got -1.0"),
    (lambda: inverse_sqrt(1.0, 0), ValueError, f"inverse_sqrt: warmup {INTEGER}1 or more, got 0"),
    (
        lambda: inverse_sqrt(1.0, 5, cooldown=3),
        ValueError,
        "inverse_sqrt: steps must have room for warmup and cooldown",
    ),
    (
        lambda: inverse_sqrt(1.0, 5, 7, 3),
        ValueError,
        "inverse_sqrt: steps must have room for warmup and cooldown, got st",
    ),
    (lambda: inverse_sqrt(1.0, 5, 0), ValueError, f"inverse_sqrt: steps {INTEGER}1 or more, got 0"),
    (lambda: rex(1.0, 0), ValueError, f"rex: steps {INTEGER}1 or more, got 0"),
    (lambda: cosine_restarts(1.0, 0), ValueError, f"cosine_restarts: steps {INTEGER}1 or more, got 0"),
    (lambda: cosine_restarts(1.0, 5, growth=0), ValueError, f"cosine_restarts: growth {INTEGER}1 or more, got 0"),
    (lambda: linear_restarts(1.0, 5, growth=1.5), TypeError, f"linear_restarts: growth {INTEGER}1 or more, got 1.5"),  # pyright: ignore[reportArgumentType]
    (lambda: one_cycle(1.0, 10, rise=10), ValueError, "one_cycle: rise, back, steps must increase, got (10, 10)"),
    (lambda: one_cycle(1.0, 10, rise=5, back=3), ValueError, "one_cycle: rise, back, steps must increase, got (5, 3, "),
    (lambda: one_cycle(1.0, 1), ValueError, "one_cycle: rise, back, steps must increase, got (1, 1)"),
    (
        lambda: one_cycle(1.0, 10, shape="round"),
        ValueError,
        "one_cycle: shape must be one of 'linear', 'cosine', '1-sqr",
    ),
    (lambda: one_cycle(1.0, 10, shape=["linear"]), ValueError, "one_cycle: shape must be one of"),  # pyright: ignore[reportArgumentType]
    (
        lambda: piecewise_constant((0.1, 0.2), (5, 9)),
        ValueError,
        "piecewise_constant: values must have one more item than boundaries, got 2 and 2",
    ),
    (
        lambda: piecewise_constant((0.1, 0.2, 0.3), (9, 5)),
        ValueError,
        "piecewise_constant: boundaries must increase, got (9, 5)",
    ),
    (
        lambda: piecewise_constant((0.1, float("nan")), (5,)),
        ValueError,
        "piecewise_constant: values[1] must be a finite number, got nan",
    ),
    (lambda: piecewise_constant(0.1, ()), TypeError, "piecewise_constant: values must be a sequence, got 0.1"),  # pyright: ignore[reportArgumentType]
    (lambda: piecewise_constant((), ()), ValueError, "piecewise_constant: values must have one more item than"),
    (
        lambda: piecewise_interpolated((0.1, 0.2, 0.3), (5, 5)),
        ValueError,
        "piecewise_interpolated: boundaries must increase, got (5, 5)",
    ),
    (
        lambda: piecewise_interpolated((0.1, 0.2), (0,)),
        ValueError,
        f"piecewise_interpolated: boundaries[0] {INTEGER}1 or more, got 0",
    ),
    (
        lambda: piecewise_interpolated((0.1, 0.2), (5.5,)),  # pyright: ignore[reportArgumentType]
        TypeError,
        f"piecewise_interpolated: boundaries[0] {INTEGER}1 or more, got 5.5",
    ),
    *(
        (
            lambda steps=steps: warmup_cosine(1.0, 5, steps),
            ValueError,
            f"warmup_cosine: steps must be above warmup, got steps={steps}, warmup=5: steps counts all steps",
        )
        for steps in (3, 5)
    ),
    (lambda: warmup_cosine(1.0, -1, 5), ValueError, f"warmup_cosine: warmup {INTEGER}0 or more, got -1"),
    (lambda: wsd(1.0, -1, 5, 5), ValueError, f"wsd: warmup {INTEGER}0 or more, got -1"),
    (lambda: wsd(1.0, 1, 5, 0), ValueError, f"wsd: decay {INTEGER}1 or more, got 0"),
    (
        lambda: wsd(1.0, 1, 2**31 - 1, 1),
        ValueError,
        "wsd: warmup + stable + decay must be at most 2³¹ − 1, got 21474836",
    ),
    (
        lambda: wsd(1.0, 1, 5, 5, shape="sqrt"),
        ValueError,
        "wsd: shape must be one of 'linear', 'cosine', '1-sqrt', 'rex'",
    ),
    (lambda: cyclic(0.0, 1.0, 0), ValueError, f"cyclic: rise {INTEGER}1 or more, got 0"),
    (lambda: cyclic(0.0, 1.0, 5, 0), ValueError, f"cyclic: fall {INTEGER}1 or more, got 0"),
    (lambda: cyclic(0.0, 1.0, 2**30), ValueError, "cyclic: rise + fall must be at most 2³¹ − 1, got 2147483648"),
    (lambda: join((0.1, 0.2), ()), ValueError, "join: schedules must have one more item than boundaries, got 2 and 0"),
    (lambda: join((0.1, 0.2, 0.3), (9, 5)), ValueError, "join: boundaries must increase, got (9, 5)"),
    (lambda: join((0.1, "late"), (5,)), TypeError, f"join: schedules[1] {NUMBER}'late'"),
    (lambda: join((0.1, 0.2), 5), TypeError, "join: boundaries must be a sequence, got 5"),  # pyright: ignore[reportArgumentType]
    (lambda: join((0.1, 0.2), (-5,)), ValueError, f"join: boundaries[0] {INTEGER}1 or more, got -5"),
    (lambda: cycle(linear(1.0, 0.0, 5), 0), ValueError, f"cycle: steps {INTEGER}1 or more, got 0"),
    (lambda: cycle("again", 5), TypeError, f"cycle: schedule {NUMBER}'again'"),
    (lambda: warmup(1.0, -1), ValueError, f"warmup: steps {INTEGER}0 or more, got -1"),
    (lambda: warmup(1.0, 5, then="more"), TypeError, f"warmup: then {NUMBER}'more'"),
    (lambda: warmup(1.0, 5, start=float("nan")), ValueError, "warmup: start must be a finite number, got nan"),
    (lambda: cosine(0.1, 10)(-1), ValueError, "the step must be 0 or more and at most 2³¹ − 1, got -1"),
    (lambda: cosine(0.1, 10)(2**31), ValueError, "the step must be 0 or more and at most 2³¹ − 1, got 2147483648"),
    (lambda: cosine(0.1, 10)(1.5), TypeError, "the step must be an integer, got 1.5"),
    (lambda: cosine(0.1, 10)("one"), TypeError, "the step must be an integer, got 'one'"),
    (lambda: cosine(0.1, 10)(True), TypeError, "the step must be an integer, got True"),
    (lambda: cycle(0.1, 10)(jnp.float32(3)), TypeError, "the step must be an integer, got Array(3."),
    (lambda: join((0.1, 0.2), (5,))(-1), ValueError, "the step must be 0 or more"),
    (lambda: warmup(0.1, 10)(None), TypeError, "the step must be an integer, got None"),
]


@pytest.mark.parametrize("act, error, words", BAD)
def test_bad_input(act: Callable[[], Any], error: type[Exception], words: str):
    with pytest.raises(error) as raised:
        act()
    assert str(raised.value).startswith(words) and type(raised.value) is error


def test_every_schedule_has_an_entry_of_bad_input():
    assert {words.split(":")[0] for _, _, words in BAD if ":" in words} == set(ROWS)


def test_a_traced_step_below_0_is_taken_as_0():
    for name, rows in ROWS.items():
        first, before = jax.jit(at_each)(rows[0].ours, jnp.array([0, -7], jnp.int32))
        assert first == before, name
