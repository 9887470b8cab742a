"""Loggers: write the numbers of a run to TensorBoard, Weights & Biases or a file of JSON lines.

Each is a callback of `fit`, and can be called in a loop written by hand. No logger imports the library that it writes
to, except `log_tensorboard` for a directory and `log_wandb` for the current run.
"""

import json
import math
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradtx.core import leaves_by_path
from gradtx.core.arguments import checked, is_array
from gradtx.core.errors import said
from gradtx.core.kinds import integer
from gradtx.core.trees import spans_processes
from gradtx.training.fit import Fit
from gradtx.training.step import Metrics


class Logger:
    """A callback that writes the numbers of each step once: `logger(run)`, or in a loop `logger(step, metrics)`.

    As a callback of `fit` it writes the rows of the history since its last call, every `eval_every` steps and at the
    end.

    Args:
      write: `write(step, numbers)` writes one step: its number, from 1, and a dict from names to floats.
      last: The last step that is logged already, 0 or more: a callback writes the rows after it.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> logger = gx.training.Logger(lambda step, numbers: print(step, numbers))
    >>> logger(1, {"loss": jnp.array(0.5), "rate": {"head": 0.1}})
    1 {'loss': 0.5, 'rate/head': 0.1}
    >>> logger(2, gx.training.Metrics(jnp.array(0.25)))
    2 {'loss': 0.25}
    """

    @checked
    def __init__(self, write: Callable[[int, dict[str, float]], Any], last: int = 0) -> None:
        self._write = write
        self._last = integer(0).convert("logger: last", last)

    @checked
    def __call__(self, run: Any, numbers: Any = None) -> None:
        """Write the new rows of a run, or the numbers of one step.

        Args:
          run: The `Fit` that `fit` passes to its callbacks; or the number of the step, from 1, with `numbers`.
          numbers: The `Metrics` of the step or a tree of numbers; arrays that are not single numbers are left out. Of
            several processes that compute them together, process 0 writes.

        Raises:
          TypeError: `run` is neither a `Fit` nor an integer, or one comes without what it needs.
          ValueError: The number of the step is below 0.
        """
        if any(map(spans_processes, jax.tree.leaves(numbers))) and jax.process_index():
            return  # process 0 writes them
        of_step = jnp.issubdtype(getattr(run, "dtype", type(run)), jnp.integer) and not isinstance(run, Tracer)
        if isinstance(run, Fit) and numbers is None:
            self._write_rows(run.history)
        elif of_step and numbers is not None:
            step = integer(0).convert("logger: the step", run)
            self._write(step, _numbers(numbers))
            self._last = step
        else:
            raise TypeError(
                f"expected logger(run) with a Fit, or logger(step, numbers), got {said(run)}, {said(numbers)}"
            )

    def _write_rows(self, history: dict[str, np.ndarray]) -> None:
        steps = history["step"].tolist()
        for i in range(np.searchsorted(steps, self._last, side="right"), len(steps)):
            row = {name: float(values[i]) for name, values in history.items() if name != "step"}
            # NaN stands for a step without an evaluation; the last step of a call has one.
            unknown = [name for name, x in row.items() if name.split("/")[0] == "eval" and math.isnan(x)]
            for name in unknown if i < len(steps) - 1 else ():
                del row[name]
            self._write(steps[i], row)
            self._last = steps[i]


def _numbers(tree: Any) -> dict[str, float]:
    """The single real numbers in a tree, by path. The state of a model in `Metrics` is not a measurement."""
    if isinstance(tree, Metrics):
        tree = tree._asdict() | {"model_state": None, "monitor": tree.measurements}
        del tree["measurements"]
    leaves = {path: x for path, x in leaves_by_path(tree).items() if isinstance(x, (bool, int, float)) or is_array(x)}
    for path, x in leaves.items():
        if isinstance(x, Tracer):
            raise TypeError(f"logger: {path} is traced: call it outside jit, with the numbers that the step returned")
    return {path: float(x) for path, x in leaves.items() if not jnp.shape(x) and not jnp.iscomplexobj(x)}


@checked
def log_jsonl(path: Any) -> Logger:
    """Log to a file of JSON lines, one object for each step: `{"step": 1, "loss": 0.5, …}`.

    A run that resumes from a checkpoint appends: of a file that exists, the steps up to its last one are not written
    again by `fit`. JSON has no NaN and no infinity; they are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, which
    `float` reads. Each step is written at once, and an incomplete last line is removed.

    Args:
      path: The file, a path; its directory is made.

    Returns:
      A `Logger`, for the callbacks of `fit` or for a loop.

    Raises:
      ValueError: The file exists, and is not a log of steps or, in a call of the logger, is the log of another run; it
        is a directory; or numbers with the name "step" differ from the step.
      TypeError: `path` is not a path.

    >>> import gradtx as gx, jax.numpy as jnp, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.jsonl"
    >>> log = gx.log_jsonl(path)
    >>> log(1, {"loss": jnp.inf})
    >>> path.read_text()
    '{"step": 1, "loss": "Infinity"}\\n'
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"log_jsonl: path must be a file, got {said(path)}")
    if (path := Path(path)).is_dir():
        raise ValueError(f"log_jsonl: path must be a file, got the directory {path}")
    return _JsonLines(path)


class _JsonLines(Logger):
    """The logger of `log_jsonl`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._first, last = _ends(path) if path.exists() else ({}, {"step": 0})
        super().__init__(self._append, last["step"])

    def _append(self, step: int, numbers: dict[str, float]) -> None:
        if numbers.get("step", step) != step:
            why = f"the number 'step' is {numbers['step']}, of step {step}"
            raise ValueError(f"log_jsonl: {why}: give it another name")
        row = {"step": step} | {name: _json(x) for name, x in numbers.items() if name != "step"}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n")

    def _write_rows(self, history: dict[str, np.ndarray]) -> None:
        at = np.flatnonzero(history["step"] == self._first.get("step"))
        if len(at) and self._first.get("loss", loss := _json(float(history["loss"][at[0]]))) != loss:
            why = f"the loss at step {self._first['step']} was {self._first['loss']}, and is {loss}"
            raise ValueError(f"log_jsonl: {self._path} is the log of another run: {why}. Choose another file")
        super()._write_rows(history)


def _json(x: float) -> float | str:
    return x if math.isfinite(x) else "NaN" if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"


def _ends(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first and the last row of a log; an incomplete last line is removed from the file."""
    whole = path.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    lines = kept.splitlines()
    try:
        rows = [json.loads(line) for line in (lines[0], lines[-1])] if lines else [{"step": 0}] * 2
    except ValueError:
        rows = [{}]
    if not all(isinstance(row, dict) and type(row.get("step")) is int for row in rows) or whole[:1] not in (b"", b"{"):
        raise ValueError(f"log_jsonl: {path} is not a log of steps: expected lines that are objects with a step")
    with path.open("r+b") as file:
        file.truncate(len(kept))
    return rows[0], rows[1]


@checked
def log_tensorboard(writer: Any, last: int = 0) -> Logger:
    """Log to TensorBoard, a scalar for each number.

    Args:
      writer: An object with `add_scalar(name, number, step)`, such as the `SummaryWriter` of PyTorch or tensorboardX;
        or a directory, for a `SummaryWriter` of whichever of the two is installed.
      last: The last step that is logged already, 0 or more: a callback writes the rows after it. Pass the step of the
        checkpoint when a run resumes.

    Returns:
      A `Logger`, for the callbacks of `fit` or for a loop.

    Raises:
      ImportError: `writer` is a directory, and neither PyTorch's TensorBoard support nor tensorboardX is installed.
      TypeError: `writer` has no `add_scalar`.

    >>> import gradtx as gx
    >>> class Writer:
    ...     def add_scalar(self, name, number, step):
    ...         print(step, name, number)
    >>> log = gx.log_tensorboard(Writer())
    >>> log(1, {"loss": 0.5})
    1 loss 0.5
    """
    if isinstance(writer, (str, os.PathLike)):
        writer = _summary_writer()(os.fspath(writer))
    if not callable(getattr(writer, "add_scalar", None)):
        raise TypeError(f"log_tensorboard: writer must have add_scalar, or be a directory, got {said(writer)}")

    def write(step: int, numbers: dict[str, float]) -> None:
        for name, x in numbers.items():
            writer.add_scalar(name, x, step)
        if callable(flush := getattr(writer, "flush", None)):
            flush()

    return Logger(write, last)


def _summary_writer() -> Any:
    for module in ("torch.utils.tensorboard", "tensorboardX"):
        try:
            return import_module(module).SummaryWriter
        except ImportError:
            continue
    raise ImportError("log_tensorboard: a directory needs a SummaryWriter: pip install tensorboardX")


@checked
def log_wandb(run: Any = None, last: int = 0) -> Logger:
    """Log to Weights & Biases, one call of `run.log` for each step.

    Args:
      run: A run, `wandb.init(…)`, or another object with `log(numbers, step=…)`; None for the current run.
      last: The last step that is logged already, 0 or more: a callback writes the rows after it. Pass the step of the
        checkpoint when a run resumes.

    Returns:
      A `Logger`, for the callbacks of `fit` or for a loop.

    Raises:
      ImportError: `run` is None, and wandb is not installed.
      TypeError: `run` has no `log`.
      ValueError: `run` is None, and no run has begun.

    >>> import gradtx as gx
    >>> class Run:
    ...     def log(self, numbers, step):
    ...         print(step, numbers)
    >>> log = gx.log_wandb(Run())
    >>> log(1, {"loss": 0.5})
    1 {'loss': 0.5}
    """
    if run is None:
        try:
            run = import_module("wandb").run
        except ImportError:
            raise ImportError("log_wandb: without a run it needs wandb: pip install wandb") from None
        if run is None:
            raise ValueError("log_wandb: expected a current run, got none: call wandb.init(…) before, or pass a run")
    if not callable(getattr(run, "log", None)):
        raise TypeError(f"log_wandb: run must have log(numbers, step=…), got {said(run)}")
    return Logger(lambda step, numbers: run.log(numbers, step=step), last)
