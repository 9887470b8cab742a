"""`reduce_on_plateau` against PyTorch (recorded) and Optax, and with NaN, missing and bad values.

| theirs | gradtx | difference |
|---|---|---|
| torch's ReduceLROnPlateau(mode="max") | give −value | |
| torch's threshold | threshold·abs(best) | theirs, best·(1 − threshold), is above a best below 0 |
| torch's eps | none | theirs leaves a rate that would fall by less than 1e-8 |
| torch's step(value) | value of an update | theirs holds from the next update on, ours (as Optax's) for this one |
| optax.contrib.reduce_on_plateau(patience=p) | patience=p − 1 | theirs: how many reduce; ours: how many may be |
| optax's rtol and atol | threshold, absolute | theirs are both at once; and its rtol is as torch's |
| NaN | ignored | theirs: a value that is no better |
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx as gx
from gradtx.pieces.plateau import reduce_on_plateau

TORCH = np.load(Path(__file__).with_name("torch_schedules.npz"))
LOSSES = TORCH["losses"]

AGAINST_TORCH = {
    "plateau": reduce_on_plateau(0.5, patience=3),
    "plateau, cooldown": reduce_on_plateau(0.5, patience=2, threshold=0.01, cooldown=4, floor=0.05),
    "plateau, absolute": reduce_on_plateau(0.7, patience=0, threshold=0.02, absolute=True),
}
AGAINST_OPTAX = {
    "relative": (reduce_on_plateau(0.5, patience=3), {"factor": 0.5, "patience": 4}),
    "cooldown and floor": (
        reduce_on_plateau(0.5, 2, 0.01, cooldown=4, floor=0.05),
        {"factor": 0.5, "patience": 3, "rtol": 0.01, "cooldown": 4, "min_scale": 0.05},
    ),
    "abs": (
        reduce_on_plateau(0.7, 1, 0.02, absolute=True),
        {"factor": 0.7, "patience": 2, "rtol": 0.0, "atol": 0.02},
    ),
    "the mean of several": (
        reduce_on_plateau(0.5, 1, every_k=4),
        {"factor": 0.5, "patience": 2, "accumulation_size": 4},
    ),
}


def scales(tx: Any, losses: Any) -> jax.Array:
    """The factors of the updates, in one compiled loop."""

    def step(state, loss):
        u, state = tx.update(jnp.ones(()), state, value=loss)
        return state, u

    return jax.jit(lambda tx, losses: jax.lax.scan(step, tx.init(jnp.ones(())), losses)[1], static_argnums=0)(
        tx, jnp.asarray(losses, float)
    )


def test_every_recording_is_compared():
    assert set(AGAINST_TORCH) == {name for name in TORCH if "plateau" in name}


@pytest.mark.parametrize("name", AGAINST_TORCH)
def test_it_is_pytorchs(name: str):
    expected = TORCH[name]
    assert len(np.unique(expected)) > 3
    assert np.max(np.abs(scales(AGAINST_TORCH[name], LOSSES) - expected)) <= 1e-6


@pytest.mark.parametrize("tx, arguments", AGAINST_OPTAX.values(), ids=AGAINST_OPTAX)
@pytest.mark.promotes("Optax's arithmetic")
def test_it_is_optaxs(tx: Any, arguments: dict[str, Any]):
    theirs = scales(optax.contrib.reduce_on_plateau(**arguments), LOSSES)
    assert len(np.unique(theirs)) > 2
    assert np.max(np.abs(scales(tx, LOSSES) - theirs)) <= 1e-6


@pytest.mark.parametrize("every", [1, 3])
def test_nan_is_ignored(every: int):
    tx = reduce_on_plateau(0.5, patience=2, cooldown=3, every_k=every)
    holes = np.random.default_rng(0).random(len(LOSSES)) < 0.3
    with_nan = np.insert(LOSSES, np.flatnonzero(holes), np.nan)
    assert np.all(scales(tx, with_nan)[~np.isnan(with_nan)] == scales(tx, LOSSES))
    assert np.all(scales(tx, np.full(30, np.nan)) == 1)


def test_an_infinite_loss_is_not_an_improvement():
    assert list(scales(reduce_on_plateau(0.5, patience=1), [np.inf, np.inf, 3.0, 2.0])) == [1, 0.5, 0.5, 0.5]
    assert list(scales(reduce_on_plateau(0.5, patience=0, every_k=2), [np.inf, 1.0, 3.0, 2.0])) == [1, 0.5, 0.5, 0.5]


def test_below_0_lower_is_better():
    falling, rising = -np.arange(1.0, 9.0), np.arange(-8.0, 0.0)
    tx = reduce_on_plateau(0.5, patience=0, threshold=0.01)
    assert np.all(scales(tx, falling) == 1) and np.all(scales(tx, rising) == 0.5 ** np.arange(8))
    assert np.all(scales(reduce_on_plateau(0.5, patience=0, threshold=0.0), falling) == 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_slots_are_scalars_of_fixed_types(dtype: str):
    with jax.enable_x64(dtype == "float64"):
        tx = gx.chain(gx.adam(0.1), reduce_on_plateau())
        params = {"w": jnp.ones(3, dtype), "none": None}
        state = tx.init(params)
        u, after = tx.update(params, state, params, value=3)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
        assert u["w"].dtype == dtype and u["none"] is None
        slots = after.slots["reduce_on_plateau"]
        wide = "float64" if dtype == "float64" else "float32"
        assert {name: str(x.dtype) for name, x in slots.items()} == {
            **dict.fromkeys(("scale", "best", "mean"), wide),
            **dict.fromkeys(("seen", "worse", "wait"), "int32"),
        }


def test_it_prints_as_the_call_that_makes_it():
    tx = reduce_on_plateau(0.5, patience=3, absolute=True)
    assert gx.read(repr(tx)) == tx


PARAMS = jnp.ones(2)
TX = reduce_on_plateau()
BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: reduce_on_plateau(1.0), ValueError, "reduce_on_plateau: factor must be at least 0 and below 1, got 1.0"),
    (lambda: reduce_on_plateau(-0.1), ValueError, "reduce_on_plateau: factor must be at least 0"),
    (lambda: reduce_on_plateau(patience=-1), ValueError, "reduce_on_plateau: patience must be an integer, 0 or more"),
    (lambda: reduce_on_plateau(patience=1.5), TypeError, "reduce_on_plateau: patience must be an integer, 0 or more"),  # pyright: ignore[reportArgumentType]
    (lambda: reduce_on_plateau(threshold=-1.0), ValueError, "reduce_on_plateau: threshold must be a finite number, 0"),
    (lambda: reduce_on_plateau(threshold=np.nan), ValueError, "reduce_on_plateau: threshold must be a finite number"),
    (lambda: reduce_on_plateau(cooldown=-1), ValueError, "reduce_on_plateau: cooldown must be an integer, 0 or more"),
    (lambda: reduce_on_plateau(floor=1.0), ValueError, "reduce_on_plateau: floor must be at least 0 and below 1"),
    (
        lambda: reduce_on_plateau(every_k=0),
        ValueError,
        "reduce_on_plateau: every_k must be an integer, 1 or more, got 0",
    ),
    (lambda: reduce_on_plateau(absolute="abs"), TypeError, "reduce_on_plateau: absolute must be True or False"),  # pyright: ignore[reportArgumentType]
    (
        lambda: TX.update(PARAMS, TX.init(PARAMS)),
        ValueError,
        "reduce_on_plateau needs the argument 'value': call update(updates, state, params, value=…)",
    ),
    (
        lambda: TX.update(PARAMS, TX.init(PARAMS), value=None),
        ValueError,
        "reduce_on_plateau needs the argument 'value'",
    ),
    (
        lambda: TX.update(PARAMS, TX.init(PARAMS), value=PARAMS),
        ValueError,
        "reduce_on_plateau: value must be one real number, got float32[2]",
    ),
    (lambda: TX.update(PARAMS, TX.init(PARAMS), value=1j), ValueError, "reduce_on_plateau: value must be one real"),
    (lambda: TX.update(PARAMS, TX.init(PARAMS), loss=1.0), TypeError, "unexpected argument 'loss'"),
]


@pytest.mark.parametrize("act, error, words", BAD)
def test_bad_input(act: Any, error: type[Exception], words: str):
    with pytest.raises(error) as raised:
        act()
    assert str(raised.value).startswith(words)
