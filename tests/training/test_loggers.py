"""Loggers: files of JSON lines, and what fakes of TensorBoard and Weights & Biases receive."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx

DATA = np.linspace(-1, 1, 8, dtype=np.float32)
TX = gx.chain(gx.monitor("size", gx.global_norm), gx.sgd(0.1), gx.monitor_layers())


def loss(w, x):
    return jnp.mean((w["a"] * x - 3 * x) ** 2)


def fit(steps, *callbacks, tx: gx.Transformation = TX, **options):
    start = {"a": jnp.ones(())}
    return gx.fit(
        start, tx, loss, DATA, steps, batch_size=4, eval_every=4, callbacks=callbacks, progress=False, **options
    )


def rows(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


class Writer:
    """A fake of TensorBoard's SummaryWriter, as strict as the real one about its arguments."""

    def __init__(self, directory=None):
        self.directory, self.scalars, self.flushed = directory, {}, 0

    def add_scalar(self, tag, scalar_value, global_step=None):
        assert type(tag) is str and type(scalar_value) is float and type(global_step) is int
        self.scalars.setdefault(global_step, {})[tag] = scalar_value

    def flush(self):
        self.flushed += 1


class Run:
    """A fake of a W&B run, whose steps must increase."""

    def __init__(self):
        self.logged = {}

    def log(self, data, step=None):
        assert (
            isinstance(step, int)
            and step > max(self.logged, default=0)
            and all(type(x) is float for x in data.values())
        )
        self.logged[step] = data


def expected(run, evaluated=()):
    """The rows of the history; a step without an evaluation has no eval."""
    found = {}
    for i, step in enumerate(run.history["step"].tolist()):
        row = {name: values[i] for name, values in run.history.items() if name != "step"}
        found[step] = {name: x for name, x in row.items() if name != "eval" or step in evaluated}
    return found


# ---------------------------------------------------------------- in fit
def test_each_step_of_a_run_is_written_once(tmp_path):
    path, writer, logged = tmp_path / "new" / "run.jsonl", Writer(), Run()
    loggers = gx.log_jsonl(path), gx.log_tensorboard(writer), gx.log_wandb(logged)
    run = fit(10, *loggers, evaluate=lambda w: w["a"])
    need = expected(run, evaluated=(4, 8, 10))
    assert {"loss", "learning_rate", "gradient_norm", "update_norm", "monitor/size", "monitor/layers/ratio/a"} <= {
        *need[1]
    }
    assert writer.scalars == logged.logged == need and writer.flushed
    assert rows(path) == [{"step": step} | row for step, row in need.items()]


def test_the_file_of_a_resumed_run_is_that_of_one_run(tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    fit(20, gx.log_jsonl(whole))
    saved = {"checkpoint": tmp_path / "run.npz", "checkpoint_every": 3}
    fit(9, gx.log_jsonl(parts), **saved)
    with parts.open("a") as file:  # cut off while it was written
        file.write('{"step": 10, "lo')
    fit(20, gx.log_jsonl(parts), resume=True, **saved)
    assert parts.read_bytes() == whole.read_bytes()
    fit(20, gx.log_jsonl(parts))  # the same run again
    assert parts.read_bytes() == whole.read_bytes()
    with pytest.raises(ValueError, match=r"log_jsonl: .*parts.jsonl is the log of another run: the loss at step 1 was"):
        fit(20, gx.log_jsonl(parts), seed=1)
    assert parts.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("log", [gx.log_tensorboard, gx.log_wandb])
def test_a_logger_continues_after_the_last_step(log):
    sink = Writer() if log is gx.log_tensorboard else Run()
    run = fit(10, log(sink, last=7))
    steps = sink.scalars if isinstance(sink, Writer) else sink.logged
    assert steps == {step: row for step, row in expected(run).items() if step > 7}


def test_numbers_that_are_not_finite_are_valid_json(tmp_path):
    path = tmp_path / "run.jsonl"
    fit(8, gx.log_jsonl(path), tx=gx.sgd(1e30), evaluate=lambda w: w["a"] * jnp.nan)
    found = rows(path)
    assert found[0]["loss"] < 1e3 and found[-1]["loss"] == "NaN" and "Infinity" in {row["loss"] for row in found}
    assert np.isnan(float(found[-1]["loss"])) and np.isinf(float("Infinity"))
    assert ["eval" in row for row in found] == [step % 4 == 0 for step in range(1, 9)]  # a NaN too
    log = gx.log_jsonl(path)
    log(9, {"x": -jnp.inf})
    assert rows(path)[-1] == {"step": 9, "x": "-Infinity"}


# ---------------------------------------------------------------- in a loop
def test_a_loop_written_by_hand(tmp_path):
    path, writer, logged = tmp_path / "run.jsonl", Writer(), Run()
    loggers = gx.log_jsonl(path), gx.log_tensorboard(writer), gx.log_wandb(logged)
    step = gx.train_step(
        lambda w, x, model: (loss(w, x), (model, {"largest": x.max(), "rows": x})),
        gx.skip_nonfinite(TX),
        has_aux=True,
        has_model_state=True,
    )
    params = {"a": jnp.ones(())}
    state, metrics = step.tx.init(params), None
    for i in range(1, 4):
        params, state, metrics = step(params, state, jnp.array(DATA), model_state=jnp.array(5))
        for log in loggers:
            log(i, metrics)
    assert metrics is not None
    last = writer.scalars[3]
    assert last == logged.logged[3] and rows(path)[-1] == {"step": 3} | last
    assert last["loss"] == float(metrics.loss) and last["skipped"] == 0.0 and last["learning_rate"] == np.float32(0.1)
    assert last["monitor/layers/norm/a"] == float(metrics.update_norm) and last["aux/largest"] == 1.0
    assert not {"model_state", "aux/rows", "finite"} & last.keys()
    loggers[0](np.int64(4), {"loss": 1, "flag": True, "array": jnp.ones(2), "name": "no", "none": None})
    assert rows(path)[-1] == {"step": 4, "loss": 1.0, "flag": 1.0}


# ---------------------------------------------------------------- libraries and errors
def test_libraries_are_imported_when_a_logger_is_made(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    made = []
    monkeypatch.setattr(sys.modules["tensorboardX"], "SummaryWriter", lambda at: made.append(Writer(at)) or made[-1])
    gx.log_tensorboard(tmp_path)(1, {"loss": 0.5})
    assert made[0].directory == str(tmp_path) and made[0].scalars == {1: {"loss": 0.5}}
    run = Run()
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=run))
    gx.log_wandb()(1, {"loss": 0.5})
    assert run.logged == {1: {"loss": 0.5}}
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=None))
    with pytest.raises(ValueError, match=r"log_wandb: expected a current run, got none: call wandb\.init"):
        gx.log_wandb()
    for name in ("wandb", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="log_wandb: without a run it needs wandb: pip install wandb"):
        gx.log_wandb()
    with pytest.raises(
        ImportError, match="log_tensorboard: a directory needs a SummaryWriter: pip install tensorboardX"
    ):
        gx.log_tensorboard("runs")


BAD = {
    "no writer": (lambda path: gx.log_tensorboard(3), TypeError, "log_tensorboard: writer must have add_scalar, or be"),
    "no run": (lambda path: gx.log_wandb("name"), TypeError, "log_wandb: run must have log.*, got 'name'"),
    "a step alone": (
        lambda path: gx.log_jsonl(path)(3),
        TypeError,
        r"expected logger\(run\) with a Fit, or logger\(step",
    ),
    "a step below 0": (
        lambda path: gx.log_jsonl(path)(-1, {"loss": 1.0}),
        ValueError,
        "logger: the step must be an in",
    ),
    "a step that is no integer": (lambda path: gx.log_jsonl(path)(1.5, {"loss": 1.0}), TypeError, "expected logger"),
    "another step": (
        lambda path: gx.log_jsonl(path)(2, {"step": 3}),
        ValueError,
        "log_jsonl: the number 'step' is 3.0, of step 2: give it another name",
    ),
    "no file": (lambda path: gx.log_jsonl(None), TypeError, "log_jsonl: path must be a file, got None"),
    "a directory": (lambda path: gx.log_jsonl(path.parent), ValueError, "log_jsonl: path must be a file, got the dir"),
    "last": (lambda path: gx.log_wandb(Run(), last=-1), ValueError, "logger: last must be an integer, 0 or more"),
    "no step": (lambda path: gx.log_jsonl(path)({"loss": 1.0}), TypeError, "expected logger"),
    "a traced number": (
        lambda path: jax.jit(lambda x: gx.log_jsonl(path)(1, {"loss": x}))(1.0),
        TypeError,
        "logger: loss is traced: call it outside jit, with the numbers that the step returned",
    ),
}


@pytest.mark.parametrize("call, kind, message", BAD.values(), ids=BAD)
def test_bad_arguments(call, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        call(tmp_path / "run.jsonl")


@pytest.mark.parametrize("step", [3, np.int64(3), jnp.array(3)])
def test_the_step_may_be_an_array(step, tmp_path):
    log = gx.log_jsonl(path := tmp_path / "run.jsonl")
    log(step, {"loss": 1.0, "step": step})
    assert rows(path) == [{"step": 3, "loss": 1.0}]


@pytest.mark.parametrize("text", ["notes", "notes\n", '{"loss": 1}\n', "[1]\n", '{"step": "one"}\n'])
def test_a_file_that_is_not_a_log_is_left_alone(text, tmp_path):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a log of steps: expected lines that are objects with a step"):
        gx.log_jsonl(path)
    assert path.read_text() == text
