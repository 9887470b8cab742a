import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import assert_near

import gradtx as gx
from gradtx.serialization import checkpoint as files

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 3)).astype(np.float32)
DATA = X, (X @ np.array([1.0, -2.0, 0.5]) + 0.3).astype(np.float32), np.arange(8)
PARAMS = {"w": jnp.array([0.1, 0.2, 0.3]), "b": jnp.zeros(())}
LIST = [tuple(x[i : i + 2] for x in DATA) for i in (0, 2, 4, 6)]
MEASURED = ["gradient_norm", "learning_rate", "update_norm"]
quiet = partial(gx.fit, progress=False)


def loss(params, batch):
    x, y, _ = batch
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def telling(params, batch):
    """A loss that shows which rows it saw."""
    return loss(params, batch), {"row": batch[2][0], "several": batch[0]}


def counting(params, batch, count):
    return loss(params, batch), count + len(batch[2])


def at_random(key):
    rows = jax.random.randint(key, (2,), 0, 8)
    return tuple(jnp.asarray(x)[rows] for x in DATA)


def plain(tx, params, batches, loss=loss):
    """The loop of the README."""
    state, losses = tx.init(params), []
    for batch in batches:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = tx.update(gradient, state, params)
        params = gx.apply_updates(params, updates)
        losses.append(value)
    return params, state, np.array(losses)


def of(run):
    return run.params, run.state, run.history["loss"]


def assert_same(a, b):
    """Bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        if isinstance(x, (jax.Array, np.ndarray)):
            assert (x.dtype, np.asarray(x).tobytes()) == (y.dtype, np.asarray(y).tobytes())


# ---------------------------------------------------------------- the plain loop, and the data
def test_the_readmes_loop():
    def bowl(w, batch=None):
        return w["x"] ** 2 + 100 * w["y"] ** 2

    params = {"x": jnp.ones(()), "y": jnp.ones(())}
    run = quiet(params, gx.adam(0.1), bowl, np.zeros(1), 30)
    assert_near(of(run), plain(gx.adam(0.1), params, [None] * 30, bowl), 1e-4)
    assert run.stopped == "steps" and repr(run).startswith("Fit(step=30, loss=")
    off = quiet(params, gx.adam(0.1), bowl, np.zeros(1), 30, measure=False)
    assert list(off.history) == ["step", "loss"]
    assert_near(of(off), of(run), 1e-4)  # compiled otherwise, so rounded otherwise


@pytest.mark.parametrize("steps_per_call", [None, 3, 50])
def test_batches_of_a_list_equal_a_plain_loop(steps_per_call):
    run = quiet(PARAMS, gx.adam(0.1), loss, LIST, 10, steps_per_call=steps_per_call)
    assert_near(of(run), plain(gx.adam(0.1), PARAMS, [LIST[i % 4] for i in range(10)]), 1e-5)


def test_each_epoch_visits_the_rows_once_in_a_new_order():
    run = quiet(PARAMS, gx.adam(0.1), telling, DATA, 24, batch_size=1, has_aux=True)
    assert list(run.history) == ["step", "loss", "aux/row", *MEASURED] and run.history["step"].tolist() == list(
        range(1, 25)
    )
    rows = run.history["aux/row"].astype(int)
    orders = rows.reshape(3, 8).tolist()
    assert all(sorted(order) == list(range(8)) for order in orders) and len(set(map(tuple, orders))) == 3
    assert_near(of(run), plain(gx.adam(0.1), PARAMS, [tuple(x[[i]] for x in DATA) for i in rows]), 1e-5)


def test_rows_that_fill_no_batch_are_left_out_and_all_stay_in_order():
    run = quiet(PARAMS, gx.sgd(0.1), telling, DATA, 60, batch_size=3, has_aux=True)
    assert set(run.history["aux/row"]) == set(range(8))
    first = (quiet(PARAMS, gx.sgd(0.1), telling, DATA, 2, batch_size=n, has_aux=True) for n in ("all", None, 8))
    assert all(run.history["aux/row"].tolist() == [0, 0] for run in first)


@pytest.mark.parametrize("data, batch_size", [(DATA, 3), (at_random, None)])
def test_the_run_is_a_function_of_the_seed(data, batch_size):
    go = partial(quiet, PARAMS, gx.add_noise(0.1), loss, data, 20, batch_size=batch_size)
    first = go(seed=3)
    assert_same(of(go(seed=3, steps_per_call=7, eval_every=4, evaluate=lambda params: 0.0)), of(first))
    assert len(set(first.history["loss"])) == 20
    assert not np.array_equal(go(seed=4).history["loss"], first.history["loss"])


def test_data_that_ends_ends_the_run():
    run = quiet(PARAMS, gx.sgd(0.1), loss, iter(LIST), 10, steps_per_call=3)
    assert (run.stopped, len(run.history["loss"]), int(run.state.step)) == ("data", 4, 4)


class Again:
    """An iterable that can be iterated again, such as a data loader, with a shorter batch at its end."""

    def __iter__(self):
        return iter([LIST[0], tuple(x[:1] for x in DATA)])


def test_data_that_can_be_iterated_again_is_repeated():
    run = quiet(PARAMS, gx.sgd(0.1), loss, Again(), 4)
    assert run.stopped == "steps"
    assert_near(of(run), plain(gx.sgd(0.1), PARAMS, [*Again(), *Again()]), 1e-5)


# ---------------------------------------------------------------- arguments, options and callbacks
@pytest.mark.promotes("its models, as users write them")
def test_arguments_are_not_donated_and_may_be_numbers():
    for params in (
        PARAMS,
        {"w": np.ones(3), "b": 0.0},
        {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.zeros(()), "n": None},
    ):
        state = jnp.array(0)
        run = quiet(params, gx.schedule_free(gx.sgd(0.1)), counting, DATA, 3, model_state=state)
        assert not any(isinstance(x, jax.Array) and x.is_deleted() for x in (*params.values(), state, *DATA))
        assert jax.tree.map(jnp.result_type, run.params) == jax.tree.map(jnp.result_type, params)
        assert run.model_state == 24 and np.isfinite(run.history["loss"]).all()


def test_options_of_the_step():
    bad = [
        tuple(x * np.float32(np.nan) if i == 1 and j == 0 else x for j, x in enumerate(b)) for i, b in enumerate(LIST)
    ]
    run = quiet(PARAMS, gx.sgd(0.1), telling, bad, 4, has_aux=True, micro_batches=2, skip_nonfinite=True)
    assert run.history["finite"].tolist() == [1, 0, 1, 1] and int(run.state.step) == 3
    assert run.history["aux/row"].tolist() == [0.5, 2.5, 4.5, 6.5]
    noisy = quiet(PARAMS, gx.sgd(0.1), lambda p, b, key: loss(p, b) + jax.random.normal(key), DATA, 4, has_key=True)
    assert len(set(noisy.history["loss"] - quiet(PARAMS, gx.sgd(0.1), loss, DATA, 4).history["loss"])) == 4


def test_no_two_keys_of_a_run_are_alike():
    """The data, the loss and the optimizer draw from keys of their own, others at each step."""

    def drawn(p, b, key):
        return 0.0 * p["w"].sum(), {"data": b, "loss": jax.random.uniform(key)}

    run = quiet(PARAMS, gx.sgd(0.1), drawn, jax.random.uniform, 4, has_aux=True, has_key=True)
    numbers = [*run.history["aux/data"].tolist(), *run.history["aux/loss"].tolist()]
    assert len(numbers) == len(set(numbers)) == 8


def test_the_history_has_the_measurements_of_each_step(tmp_path):
    rate = gx.schedules.linear(0.4, 0.0, steps=8)
    tx = gx.partition({"w": gx.sgd(rate)}, default=gx.sgd(0.1))
    tx = gx.chain(gx.monitor("size", gx.global_norm), gx.skip_nonfinite(tx), gx.monitor_layers())
    bad = [LIST[0], tuple(np.nan * x for x in LIST[1]), LIST[2], LIST[3]]
    path = tmp_path / "run.npz"
    go = partial(quiet, PARAMS, tx, loss, bad)
    run = go(8)
    assert run.history["skipped"].tolist() == [0, 1, 0, 0] * 2
    np.testing.assert_allclose(run.history["learning_rate/w"], [0.4, 0.35, 0.35, 0.3, 0.25, 0.2, 0.2, 0.15], rtol=1e-6)
    assert set(run.history["learning_rate/default"]) == {0.1 + np.float32(0.1) - 0.1}
    np.testing.assert_array_equal(run.history["monitor/size"], run.history["gradient_norm"])
    layers = np.hypot(run.history["monitor/layers/norm/w"], run.history["monitor/layers/norm/b"])
    np.testing.assert_allclose(layers, run.history["update_norm"], rtol=1e-4)
    assert run.history["monitor/skipped"].tolist() == [0, 1, 1, 1, 1, 2, 2, 2]
    assert "monitor" not in repr(run) and "update_norm=" in repr(run)
    go(5, checkpoint=path)
    assert_same(go(8, checkpoint=path, resume=True).history, run.history)


def test_measurements_that_are_not_single_numbers_are_left_out_of_the_history():
    tx = gx.chain(
        gx.partition({"w": gx.rowwise(gx.monitor("size", gx.global_norm))}, default=gx.identity()), gx.sgd(0.1)
    )
    assert list(quiet(PARAMS, tx, loss, DATA, 2).history) == ["step", "loss", *MEASURED]


def test_evaluations_are_of_the_parameters_to_evaluate():
    tx, seen = gx.schedule_free(gx.sgd(0.1)), []

    def evaluate(params):
        seen.append(jax.tree.map(jnp.copy, params))
        return {"loss": loss(params, DATA), "b": params["b"]}

    run = quiet(PARAMS, tx, loss, DATA, 10, evaluate=evaluate, eval_every=4)
    at = np.flatnonzero(~np.isnan(run.history["eval/loss"])) + 1
    assert at.tolist() == [4, 8, 10] and list(run.history) == ["step", "loss", *MEASURED, "eval/loss", "eval/b"]
    assert_near(seen[-1], gx.eval_params(tx, run.state, run.params), 1e-6)
    assert run.best is None


def test_another_learning_rate_or_length_does_not_compile_again():
    traces = []

    def traced(params, batch):
        traces.append(1)
        return loss(params, batch)

    quiet(PARAMS, gx.adam(0.1), traced, DATA, 5, batch_size=2)
    once = len(traces)
    quiet(PARAMS, gx.adam(0.2), traced, DATA, 40, batch_size=2, steps_per_call=7)
    assert len(traces) == once


# ---------------------------------------------------------------- how it ends
def test_patience_ends_the_run_and_the_best_is_kept():
    values = iter([3.0, 1.0, np.nan, 2.0, 0.5])
    seen = []

    def evaluate(params):
        seen.append(jax.tree.map(jnp.copy, params))
        return next(values)

    run = quiet(PARAMS, gx.sgd(0.1), loss, DATA, 50, evaluate=evaluate, eval_every=5, patience=2)
    assert (run.stopped, len(run.history["loss"])) == ("patience", 20)
    assert_same(run.best, seen[1])


def test_callbacks_see_the_run_and_can_stop_it():
    steps = []

    def callback(run):
        steps.append((len(run.history["loss"]), int(run.state.step), run.stopped))
        return len(steps) == 3

    run = quiet(PARAMS, gx.sgd(0.1), loss, DATA, 50, eval_every=7, callbacks=[callback, lambda run: None])
    assert steps == [(7, 7, None), (14, 14, None), (21, 21, None)] and run.stopped == "callback"
    assert len(run.history["loss"]) == 21
    steps.clear()
    quiet(PARAMS, gx.sgd(0.1), loss, DATA, 10, eval_every=7, callbacks=[callback])
    assert steps[-1] == (10, 10, "steps")


@pytest.mark.parametrize("true", [np.bool_, jnp.bool_])
def test_a_callback_may_return_a_numpy_or_jax_boolean(true):
    go = partial(quiet, PARAMS, gx.sgd(0.1), loss, DATA, 21, eval_every=7)
    run = go(callbacks=[lambda run: true(len(run.history["loss"]) > 7)])
    assert (run.stopped, len(run.history["loss"])) == ("callback", 14)
    with pytest.raises(ValueError, match="a callback must return one True or False, got"):
        go(callbacks=[lambda run: np.ones(2, bool)])
    assert go(callbacks=[lambda run: 1.0]).stopped == "steps"


@pytest.fixture
def interruptible():
    """As in a terminal: a background process may ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("how", ["signal", "exception", "signal twice"])
def test_ctrl_c_returns_the_run_so_far(interruptible, how, tmp_path):
    def callback(run):
        if len(run.history["loss"]) == 12:
            if how == "exception":
                raise KeyboardInterrupt
            for _ in range(1 + (how == "signal twice")):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)

    handler, path = signal.getsignal(signal.SIGINT), tmp_path / "run.npz"
    go = partial(quiet, PARAMS, gx.adam(0.1), loss, DATA, batch_size=3, eval_every=4)
    run = go(40, callbacks=[callback], checkpoint=path)
    assert (run.stopped, len(run.history["loss"])) == ("interrupt", 12)
    assert signal.getsignal(signal.SIGINT) is handler
    assert_same(of(run), of(go(12)))
    assert_same(of(go(20, checkpoint=path, resume=True)), of(go(20)))


# ---------------------------------------------------------------- checkpoints
MODEL = {"count": jnp.array(0), "key": jax.random.key(7)}


def of_all(params, batch, model, key):
    """With everything that a run carries."""
    w = {"w": params["w"].astype(jnp.float32) + 0.1 * jax.random.normal(key), "b": params["b"]}
    own, after = jax.random.split(model["key"])
    return loss(w, batch) + jax.random.normal(own) * params["b"], {"count": model["count"] + 1, "key": after}


@pytest.mark.parametrize("kind", ["rows", "key", "batches"])
def test_resuming_is_exact_to_the_bit(kind, tmp_path):
    data, more = {"rows": (DATA, {"batch_size": 3}), "key": (at_random, {}), "batches": (LIST, {})}[kind]
    tx, path = gx.chain(gx.add_noise(0.1), gx.adam(gx.schedules.linear(0.1, 0.0, 40))), tmp_path / "new" / "run.npz"
    options = {"model_state": MODEL, "has_key": True, "eval_every": 10, "patience": 100, "checkpoint_every": 7}
    params = PARAMS | {"w": PARAMS["w"].astype(jnp.bfloat16), "none": None}
    evaluate = {"evaluate": lambda params, model: {"second": params["b"], "first": -params["b"]}}
    go = partial(quiet, params, tx, of_all, data, seed=5, **more, **options, **evaluate)
    whole = go(40)
    go(23, checkpoint=path)
    resumed = go(40, checkpoint=path, resume=True)
    for have, need in (
        (getattr(run, name) for run in (resumed, whole)) for name in ("params", "state", "history", "best")
    ):
        assert_same(have, need)
    assert [*resumed.history] == [*whole.history] == ["step", "loss", *MEASURED, "eval/second", "eval/first"]
    assert resumed.model_state["count"] == 40
    again = go(40, checkpoint=path, resume=True)  # nothing is left to do
    assert_same(again.history, whole.history)


KILLED = """
import sys, time
import numpy as np, jax.numpy as jnp, gradtx as gx
def loss(w, x):
    return jnp.mean((w - x) ** 2)
def go(steps, **more):
    return gx.fit(jnp.zeros(3), gx.adam(0.01), loss, np.arange(30.0).reshape(10, 3), steps, batch_size=3,
                  eval_every=5, checkpoint_every=5, progress=False, **more)
if __name__ == "__main__":
    go(100_000, checkpoint=sys.argv[1], callbacks=[lambda run: time.sleep(0.002)])
"""


@pytest.mark.promotes("its models, as users write them")
def test_a_killed_run_resumes(tmp_path):
    path = tmp_path / "run.npz"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)])
    until = time.monotonic() + 120
    while not (path.exists() and files.load(path)[1]["step"] > 20):
        assert child.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done, names = files.load(path)[1]["step"], {"__name__": "again"}
    assert 20 < done < 100_000
    exec(KILLED, names)
    go: Any = names["go"]
    assert_same(of(go(done + 33, checkpoint=path, resume=True)), of(go(done + 33)))


def test_a_run_continues_from_a_state():
    first = quiet(PARAMS, gx.adam(0.1), loss, DATA, 4)
    again = quiet(first.params, gx.adam(0.1), loss, DATA, 3, state=first.state)
    whole = quiet(PARAMS, gx.adam(0.1), loss, DATA, 7)
    assert_same((again.params, again.state), (whole.params, whole.state))
    assert again.state.step == 7 and first.state.step == 4  # which was not taken
    with pytest.raises(ValueError, match="slots/add_momentum"):
        quiet(PARAMS, gx.sgd(0.1, momentum=0.9), loss, DATA, 3, state=first.state)


def test_a_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    go = partial(quiet, PARAMS, gx.adam(0.1), loss, DATA, checkpoint=path)
    go(5)

    def broken(file, **entries):
        file.write(b"PK half")
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(np, "savez", broken)
        go(10, resume=True)
    assert files.load(path)[1]["step"] == 5 and [*tmp_path.iterdir()] == [path]
    assert len(go(10, resume=True).history["loss"]) == 10


def test_writers_of_one_checkpoint_do_not_tear_it(tmp_path):
    """Each writes a file of its own and renames it: every reading finds one of them, whole."""
    path, errors = tmp_path / "run.npz", []
    trees = [{"w": {"x": np.full(200_000, i)}} for i in range(4)]

    def write(i):
        try:
            for _ in range(20):
                files.save(path, trees[i], {"run": "one"}, over=["one"])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert len(np.unique(files.load(path)[0]["w/x"])) == 1
    assert not errors and [*tmp_path.iterdir()] == [path]


def test_two_runs_do_not_write_one_checkpoint(tmp_path):
    """The run that finds the file of another is refused, in this process or another one; the file stays whole."""
    path = tmp_path / "run.npz"
    go = partial(quiet, PARAMS, gx.adam(0.1), loss, DATA, checkpoint=path, eval_every=5, checkpoint_every=5)

    def another(run):
        if len(run.history["loss"]) == 10:
            path.unlink()
            script = KILLED.replace("100_000", "5").replace(", callbacks=[lambda run: time.sleep(0.002)]", "")
            subprocess.run([sys.executable, "-c", script, str(path)], check=True)

    with pytest.raises(FileExistsError, match=r"another run has written the checkpoint .*: pass each run a file"):
        go(20, callbacks=[another])
    assert files.load(path)[1]["step"] == 5 and [*tmp_path.iterdir()] == [path]
    path.unlink()
    go(5)
    assert len(go(15, resume=True).history["loss"]) == 15  # which writes over the file that it loaded, and its own


def test_a_checkpoint_is_a_file_with_the_usual_permissions(tmp_path):
    quiet(PARAMS, gx.sgd(0.1), loss, DATA, 2, checkpoint=tmp_path / "run.npz")
    (tmp_path / "other").touch()
    assert (tmp_path / "run.npz").stat().st_mode == (tmp_path / "other").stat().st_mode


PLACES = {
    "a directory": ("", "it is a directory"),
    "a file as directory": ("file/run.npz", ""),
    "a name too long": ("x" * 300, "too long"),
    "no name of a file": ("a\0b", "null"),
    "where nobody may write": ("/proc/run.npz", ""),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_cannot_be_written_is_found_before_the_first_step(name, tmp_path):
    place, why = PLACES[name]
    (tmp_path / "file").touch()

    def never(params, batch):
        raise AssertionError("a step was traced")

    with pytest.raises(OSError, match=rf"fit: checkpoint must be a file that can be written, got .*{why}"):
        quiet(PARAMS, gx.sgd(0.1), never, DATA, 2, checkpoint=tmp_path / place)
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


CHECKPOINTS = {
    "there": ({"resume": False}, FileExistsError, "resume=True"),
    "other parameters": (
        {"params": PARAMS | {"w": jnp.ones(4)}},
        ValueError,
        r"'params/w' is float32\[3\], not float32\[4\]",
    ),
    "other dtype": (
        {"params": PARAMS | {"b": jnp.zeros((), jnp.bfloat16)}},
        ValueError,
        r"float32\[\], not bfloat16\[\]",
    ),
    "another leaf": ({"params": PARAMS | {"c": jnp.ones(4)}}, ValueError, "it has no 'params/c'"),
    "a leaf less": ({"params": {"w": PARAMS["w"]}}, ValueError, "it has an unknown 'params/b'"),
    "another optimizer": ({"tx": gx.sgd(0.1)}, ValueError, "it has an unknown 'state/slots/"),
    "another seed": ({"seed": 1}, ValueError, "made with seed 0, not 1"),
    "another batch size": ({"batch_size": 2}, ValueError, "made with batch_size 8, not 2"),
    "beyond": ({"steps": 3}, ValueError, "is at step 5, beyond the 3"),
    "a model state": ({"model_state": 0, "loss": counting}, ValueError, "it has no 'model_state/'"),
    "no checkpoint": ({"checkpoint": b"no"}, ValueError, "is not a checkpoint of gx.fit"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "run.npz"
    quiet(PARAMS, gx.adam(0.1), loss, DATA, 5, checkpoint=path)
    return path


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_does_not_fit_is_refused(name, saved, tmp_path):
    given, kind, message = CHECKPOINTS[name]
    path = saved
    if "checkpoint" in given:
        path = tmp_path / "other.npz"
        path.write_bytes(given["checkpoint"])
    arguments = {"params": PARAMS, "tx": gx.adam(0.1), "loss": loss, "data": DATA, "steps": 10, "resume": True} | given
    with pytest.raises(kind, match=message):
        quiet(**arguments | {"checkpoint": path})


def changed(path, new, arrays, notes):
    """Write a checkpoint with other arrays (None: without the array) and notes."""
    entries, own = files.load(path)
    entries |= arrays
    own |= notes
    np.savez(new, notes=np.array(json.dumps(own)), **{name: x for name, x in entries.items() if x is not None})


CHANGES = {
    "a negative step": ({}, {"step": -1}, "expected a checkpoint at step 0 or more, got .* at step -1"),
    "no history": ({"history/loss": None}, {}, "expected a checkpoint with the history"),
    "negative updates": ({"state/step": np.int32(-3)}, {}, "expected a state of 0 updates or more, got -3"),
    "no run": ({}, {"run": None}, "is not a checkpoint of gx.fit"),
    "no dtypes": ({}, {"dtypes": None}, "is not a checkpoint of gx.fit"),
    "no dtype of an array": ({}, {"dtypes": {}}, "is not a checkpoint of gx.fit"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_that_no_run_writes_is_refused(name, saved, tmp_path):
    arrays, notes, message = CHANGES[name]
    changed(saved, tmp_path / "run.npz", arrays, notes)
    with pytest.raises(ValueError, match=message):
        quiet(PARAMS, gx.adam(0.1), loss, DATA, 10, checkpoint=tmp_path / "run.npz", resume=True)


@pytest.mark.parametrize("how", ["compressed", "a header that lies"])
def test_a_small_file_takes_little_memory(how, saved, tmp_path):
    path, large, array = tmp_path / "run.npz", np.zeros(2**26, np.float32), io.BytesIO()
    np.save(array, large)
    data = array.getvalue() if how == "compressed" else array.getvalue()[:1000]
    kind = zipfile.ZIP_DEFLATED if how == "compressed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", kind) as new:
        for name in old.namelist():
            new.writestr(name, data if name == "params/w.npy" else old.read(name))
    assert path.stat().st_size < 2**20
    del large, array, data
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"is not a checkpoint of gx\.fit"):
            files.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- progress
def test_progress_is_shown_by_tqdm_or_by_lines(capsys, monkeypatch):
    go = partial(gx.fit, PARAMS, gx.sgd(gx.schedules.linear(0.1, 0.0, steps=8)), loss, DATA, 5)
    go()
    assert "5/5" in (shown := capsys.readouterr()).err and not shown.out
    assert re.search(r"step/s, loss [0-9.e+]+, rate 0\.05\b", shown.err)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    go()
    norms = r", gradient norm [0-9.e+-]+, update norm [0-9.e+-]+"
    line = rf"fit: 5 of 5 steps, loss [0-9.e+]+, rate 0\.05{norms}, [0-9.e+]+ steps/s\n"
    assert re.fullmatch(line, capsys.readouterr().err)
    gx.fit(PARAMS, gx.scale(-0.1), loss, DATA, 5)
    assert re.fullmatch(line.replace(r", rate 0\.05", ""), capsys.readouterr().err)
    go(measure=False)
    assert re.fullmatch(line.replace(rf", rate 0\.05{norms}", ""), capsys.readouterr().err)
    tx = gx.partition({"w": gx.sgd(0.5)}, default=gx.chain(gx.monitor("size", gx.global_norm), gx.sgd(0.25)))
    tx = gx.chain(gx.skip_nonfinite(tx), gx.monitor_layers())
    gx.fit(PARAMS, tx, loss, [LIST[0], tuple(np.nan * x for x in LIST[0])], 5)
    found = re.fullmatch(
        rf"fit: 5 .*, rate default 0\.25 w 0\.5{norms}, skipped 2, size [0-9.e-]+, [0-9.e+]+ steps/s\n",
        capsys.readouterr().err,
    )
    assert found
    go(progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_history_as_a_frame(monkeypatch):
    run = quiet(PARAMS, gx.sgd(0.1), loss, DATA, 3)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        run.frame()
    made = types.SimpleNamespace(set_index=lambda name: (name, run.history))
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda columns: made))
    assert run.frame() == ("step", run.history)


def test_in_another_thread():
    with ThreadPoolExecutor(1) as elsewhere:  # where Python sets no handlers of signals
        run = elsewhere.submit(quiet, PARAMS, gx.sgd(0.1), loss, DATA, 3).result()
    assert_same(run.params, quiet(PARAMS, gx.sgd(0.1), loss, DATA, 3).params)


# ---------------------------------------------------------------- errors
ERRORS = {
    "an option": ({"has_aus": True}, TypeError, "fit has no argument 'has_aus'"),
    "an argument of its own": ({"eval_evry": 1}, TypeError, "has no argument 'eval_evry': did you mean 'eval_every'"),
    "steps": ({"steps": -1}, ValueError, "steps must be an integer from 0"),
    "seed": ({"seed": 2**32}, ValueError, "seed must be"),
    "eval_every": ({"eval_every": 0}, ValueError, "eval_every must be an integer, 1 or more, got 0"),
    "steps_per_call": ({"steps_per_call": 1.5}, ValueError, "steps_per_call must be"),
    "patience": ({"patience": 3}, ValueError, "patience needs evaluate"),
    "resume": ({"resume": True}, ValueError, "resume needs checkpoint"),
    "batch size": ({"batch_size": 9}, ValueError, "'all' or from 1 to 8, the rows of the data; got 9"),
    "batch size of batches": ({"data": LIST, "batch_size": 2}, ValueError, "batch_size is for data of arrays"),
    "unequal rows": ({"data": (X, X[:3])}, ValueError, r"data\['1'\] has 3 rows, data\['0'\] has 8"),
    "no rows": ({"data": (X, jnp.ones(()))}, ValueError, r"data\['1'\] must be an array with an axis of rows"),
    "no data": ({"data": None}, TypeError, "data must be a tree of arrays"),
    "batches unlike": ({"data": [DATA, *LIST], "steps_per_call": 2}, ValueError, "batches of one call must be alike"),
    "the loss": ({"loss": lambda p, b: p["w"]}, ValueError, "the loss must be one real number"),
    "the model state": (
        {"loss": lambda p, b, m: (loss(p, b), m[None]), "model_state": X},
        ValueError,
        "model state whose",
    ),
    "the evaluation": ({"evaluate": lambda p: p["w"]}, ValueError, "evaluate must return a number or a dict"),
    "a complex evaluation": ({"evaluate": lambda p: 1j}, ValueError, "evaluate must return a number .*, returned 1j"),
    "a nested evaluation": ({"evaluate": lambda p: {"a": {"b": 1.0}}}, ValueError, "evaluate must return a number"),
    "batches of strings": ({"data": ["a", "b"]}, TypeError, "data must be an array in each batch, got .*'a'"),
    "the parameters": ({"params": {"w": "no"}}, TypeError, "keep arrays and None only"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    given, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        quiet(**{"params": PARAMS, "tx": gx.sgd(0.1), "loss": loss, "data": DATA, "steps": 10} | given)
