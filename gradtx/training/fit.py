"""The training loop: any loss, any optimizer, any data."""

import math
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from os import PathLike
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from gradtx.core import State, Transformation, leaves_by_path
from gradtx.core.arguments import checked, function_of, is_array, live, outside_traces, sequence, traced
from gradtx.core.errors import place, said, unknown
from gradtx.core.programs import program_of, weak
from gradtx.core.transformation import TransformationLike
from gradtx.core.trees import is_divided
from gradtx.serialization import checkpoint as files
from gradtx.serialization.restore import restore
from gradtx.serialization.sharded_checkpoint import Directory
from gradtx.training.processes import are_shared, by_first, gathered
from gradtx.training.step import compiler_options, split_step, train_step
from gradtx.wrappers import eval_params

MAX_STEPS_PER_CALL = 1024
CALLS_BETWEEN_AGREEMENTS = 16  # of processes, on whether one of them was interrupted
OPTIONS = ("has_aux", "has_key", "micro_batches", "weighted", "skip_nonfinite", "measure")


class Fit(NamedTuple):
    """Result of a training run, or its current point when passed to a callback."""

    params: Any
    state: State
    history: dict[str, np.ndarray]
    """Arrays by name, one number a step: `step` from 1; `loss`, before that step; `finite` with `skip_nonfinite`; `aux`
    or `aux/…` with `has_aux`; `eval` or `eval/…`, which is NaN at steps without an evaluation. Unless `measure=False`:
    `learning_rate`, or `learning_rate/…` of several; `gradient_norm`; `update_norm`; `skipped`, 1 for a step that
    `skip_nonfinite` skipped, the option or the wrapper; and `monitor/…`, the numbers of every `monitor`."""
    model_state: Any = None
    best: Any = None
    """With `patience`, the evaluated parameters of the lowest evaluation."""
    stopped: str | None = None
    """The reason for the end: "steps", "data" (exhausted), "patience", "callback" or "interrupt" (Ctrl-C)."""

    def frame(self) -> Any:
        """Return the history as a pandas data frame, indexed by step. Raises `ImportError` without pandas."""
        try:
            pandas = import_module("pandas")
        except ImportError:
            raise ImportError("frame needs pandas: pip install pandas") from None
        return pandas.DataFrame(self.history).set_index("step")

    def __repr__(self) -> str:
        several = {name: values for name, values in self.history.items() if not name.startswith("monitor/")}
        last = {name: values[-1] for name, values in several.items() if len(values)}
        return f"Fit({', '.join(f'{name}={value:.4g}' for name, value in last.items())}, stopped={self.stopped!r})"


@checked
def fit(
    params: Any,
    tx: TransformationLike,
    loss: Callable[..., Any],
    data: Any,
    steps: int,
    *,
    batch_size: int | Literal["all"] | None = None,
    seed: int = 0,
    state: Any = None,
    model_state: Any = None,
    evaluate: Callable[..., Any] | None = None,
    eval_every: int = 100,
    patience: int | None = None,
    callbacks: Sequence[Callable[[Fit], Any]] = (),
    checkpoint: Any = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
    progress: bool = True,
    steps_per_call: int | None = None,
    **options: Any,
) -> Fit:
    """Train a model: any loss, any optimizer, any data, many steps in one compiled call.

    The run trains copies of the parameters. Everything random, including the order of the data, is a function of the
    seed and the step, so an interrupted and resumed run ends with the same bits. The first Ctrl-C stops the run after
    the current call and returns its result; a second stops it at once. Runs with the same loss and data and other
    hyperparameters do not compile again.

    Several processes train one model if arrays of it, or of the data, have devices of several: call `fit` in each with
    the same arguments. Process 0 decides how many steps a call has, shows the progress, runs the callbacks and writes
    the checkpoint file; the history has its evaluations.

    Args:
      params: The initial parameters, a tree of arrays.
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.
      loss: `loss(params, batch)`, which returns one real number. It also takes the model state and a key, in this
        order, with `model_state` and `has_key`, and returns the further outputs described in `train_step`.
      data: The training data, in one of three forms. A tree of arrays with equal numbers of rows: each epoch visits
        them in a new order and leaves out the rows that do not fill a batch. A function from a random key to a batch.
        An iterable (or list) of batches: re-iterated when exhausted if possible; on resume, batches already consumed
        are skipped. In several processes, batches are arrays of all of them, as
        `jax.make_array_from_process_local_data` makes, or alike in each; and so is their number.
      steps: The total number of steps, including the steps before resuming.
      batch_size: The number of rows in a step, for data of arrays; `"all"` or None for all rows, in the given order.
      seed: The seed of the data's order and of every random key, from 0 to 2³² − 1.
      state: The initial state of the optimizer, from an earlier run or in any form that `restore` accepts; None to
        start from `init`.
      model_state: The initial model state, if the loss takes one and returns the next; None otherwise.
      evaluate: `evaluate(params)`, or `evaluate(params, model_state)` with a model state, which returns a number or a
        dict of numbers. It receives the parameters of `eval_params`.
      eval_every: The number of steps between evaluations, and between calls of the callbacks, 1 or more. Both also run
        at the end.
      patience: Stop after this many evaluations without improvement, a result lower than all before; None to never stop
        early. If `evaluate` returns a dict, its first key is monitored (jit sorts keys).
      callbacks: Functions of the run so far, a `Fit`. The next step reuses its arrays, so copy the ones that you keep.
        If a callback returns True, the run stops. In several processes they run in process 0 alone, so compute with
        divided arrays in `evaluate`, which runs in all. `log_jsonl`, `log_tensorboard` and `log_wandb` make callbacks
        that write the history.
      checkpoint: The `.npz` file for checkpoints, written every `checkpoint_every` steps and at the end; None for no
        file. Each run needs a file of its own. Its directory is made. Where no process holds all arrays whole, it is a
        directory, which all processes write by Orbax (`gradtx[orbax]`) while the run goes on; any number of processes
        and any mesh can continue from it. All processes must see it.
      checkpoint_every: The number of steps between checkpoints, 1 or more.
      resume: If True, continue from the checkpoint if the file exists.
      progress: If True, show the loss, the steps per second and, unless `measure=False`, the learning rate, the norms,
        skipped steps and the numbers of monitors on stderr, with tqdm if it is installed (`gradtx[progress]`).
      steps_per_call: The largest number of steps in one compiled call. None for as many as take about a tenth of a
        second; for an iterable None means 1, because the batches of one call are held in memory together.
      **options: `has_aux`, `has_key`, `micro_batches`, `weighted`, `skip_nonfinite` and `measure`, as in `train_step`.

    Returns:
      A `Fit`: the trained parameters, the state, the history, and the reason for the end.

    Raises:
      ValueError: Arguments contradict each other, arrays of the data have unequal rows, the checkpoint does not fit, or
        `train_step` refuses the loss or the batch.
      TypeError: An argument has the wrong type.
      FileExistsError: The checkpoint exists and `resume` is False, or another run has written it since.
      OSError: No file can be written at `checkpoint`.
      ImportError: The checkpoint is of arrays that are divided over processes, and Orbax is not installed.
      RuntimeError: A callback, or the writing of a checkpoint, has failed in process 0.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> x = jnp.linspace(-1, 1, 32)
    >>> def loss(w, batch):
    ...     x, y = batch
    ...     return jnp.mean((w["slope"] * x + w["offset"] - y) ** 2)
    >>> start = {"slope": jnp.zeros(()), "offset": jnp.zeros(())}
    >>> run = gx.fit(start, gx.adam(0.1), loss, (x, 3 * x + 1), 300, batch_size=8, progress=False)
    >>> f"{run.params['slope']:.2f} {run.params['offset']:.2f}", run.history["loss"].shape, run.stopped
    ('3.00 1.00', (300,), 'steps')
    """
    outside_traces("fit")
    counts = {"eval_every": eval_every, "checkpoint_every": checkpoint_every}
    _check(steps, seed, counts | {"patience": patience, "steps_per_call": steps_per_call}, options)
    if patience is not None and evaluate is None:
        raise ValueError("fit: patience needs evaluate: pass the function whose result it monitors")
    callbacks = [function_of("fit: a callback", one, "run") for one in sequence("fit: callbacks", callbacks)]
    if evaluate is not None:
        function_of("fit: evaluate", evaluate, "params", *([] if model_state is None else ["model_state"]))
    if not (checkpoint is None or isinstance(checkpoint, (str, PathLike))):
        raise TypeError(f"fit: checkpoint must be a file, got {said(checkpoint)}")
    if resume and checkpoint is None:
        raise ValueError("fit: resume needs checkpoint: pass the file to continue from")

    step = train_step(loss, tx, has_model_state=model_state is not None, **options)
    for path, x in leaves_by_path({"params": params, "model_state": model_state}).items():
        live(f"fit: {path}", x)
    if state is None:
        state = step.tx.init(params)
    else:
        try:
            state, _ = restore(step.tx, params, state)
        except (TypeError, ValueError) as error:
            raise ValueError(f"fit: the state is not of this optimizer: convert it with gx.restore. {error}") from error
    carry = jax.tree.map(_copy, (params, state, model_state))
    feed, arrays = _feed(data, batch_size)
    run = _Run(step, feed, arrays, carry, steps, seed, evaluate, eval_every, patience)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        run.begin(path, resume)
    capacity = 1 if feed.kind == "batches" else max(1, min(MAX_STEPS_PER_CALL, 2**20 // max(1, feed.batch_size)))
    most = steps_per_call or capacity
    capacity = most if feed.kind == "batches" else max(most, capacity)  # one program for most values of steps_per_call
    batches = _batches(data, run.done) if feed.kind == "batches" else None
    if batches is not None and run.shared:
        _check_numbers_of_batches(data)

    watched = evaluate is not None or bool(callbacks)
    events = [eval_every] * watched + [checkpoint_every] * (path is not None)
    per_call = 1 if steps_per_call is None else most
    saved, evaluated, stopped, calls = None, None, "patience" if run.out_of_patience() else None, 0
    with _interruptible() as interrupted, _progress_display(run, progress) as show:
        try:
            while not stopped and run.done < steps:
                count = min([per_call, steps - run.done, *(every - run.done % every for every in events)])
                begun = time.perf_counter()
                if not (count := run.advance(count, capacity, batches)):
                    stopped = "data"
                    break
                calls += 1
                due = any(run.done % every == 0 for every in events) or run.done == steps
                if batches is None or due or run.since_fetch() > 0.1 or interrupted:
                    run.fetch()
                    show()
                took, interrupt = time.perf_counter() - begun, bool(interrupted)
                if run.shared:  # all processes must go on with the same number of steps, or all stop
                    together = batches is None or due or calls % CALLS_BETWEEN_AGREEMENTS == 0
                    several = gathered(took, interrupt) if together else [[took, False]]
                    took, interrupt = several[0][0], any(flag for _, flag in several)
                if batches is None and steps_per_call is None:
                    if took < 0.05:
                        per_call = min(2 * per_call, most)
                    elif took > 0.2:
                        per_call = max(1, per_call // 2)
                if watched and run.done % eval_every == 0:
                    run.evaluate()
                    evaluated = run.done
                    if run.call(callbacks, None):
                        stopped = "callback"
                    elif run.out_of_patience():
                        stopped = "patience"
                if path and run.done % checkpoint_every == 0:
                    run.save(path)
                    saved = run.done
                if (interrupt or (interrupted and not run.shared)) and not stopped and run.done < steps:
                    stopped = "interrupt"
        except KeyboardInterrupt:
            if run.lost() or run.shared:
                raise
            stopped = "interrupt"
        run.fetch()
        if path and saved != run.done:
            run.save(path)
        if run.done and stopped != "interrupt" and evaluated != run.done:
            run.evaluate()  # after saving, because a longer run does not evaluate here
            run.call(callbacks, stopped or "steps")
        run.close()
    return run.result(stopped or "steps")


def _asks_to_stop(answer: Any) -> bool:
    """Whether a callback returned True, NumPy's or JAX's included; other values do not stop the run."""
    if not isinstance(answer, bool) and not (is_array(answer) and jnp.issubdtype(answer.dtype, bool)):
        return False
    if jnp.shape(answer):
        raise ValueError(f"fit: a callback must return one True or False, got {said(answer)}: take its any() or all()")
    return bool(answer)


def _check(steps: Any, seed: Any, counts: dict[str, Any], options: dict[str, Any]) -> None:
    for name in options:
        if name not in OPTIONS:
            known = [*OPTIONS, *(x for x in signature(fit).parameters if x != "options")]
            raise TypeError(unknown("fit has no argument", name, known, f"train_step takes {', '.join(OPTIONS)}"))
    for name, n in counts.items():
        if not (n is None and name in ("patience", "steps_per_call")) and (type(n) is not int or n < 1):
            raise ValueError(f"fit: {name} must be an integer, 1 or more, got {said(n)}")
    for name, n, bits in (("steps", steps, 31), ("seed", seed, 32)):
        if type(n) is not int or not 0 <= n < 2**bits:
            raise ValueError(f"fit: {name} must be an integer from 0 to {2**bits - 1}, got {said(n)}")


# ---------------------------------------------------------------- data
class _Feed(NamedTuple):
    """Source of batches: the properties for which a program is compiled."""

    kind: Literal["rows", "key", "batches"]
    rows: int = 0
    batch_size: int = 0
    make: Callable[[Any], Any] | None = None

    def batch(self, data: Any, step: Any, i: Any, key: Any) -> Any:
        """Return the i-th batch of a call. For data of arrays, `data` is a pair (arrays, rows of each batch)."""
        if self.make is not None:
            return traced("fit: data", self.make, jax.random.fold_in(key, step))
        if self.kind == "batches":
            return jax.tree.map(lambda x: x[i], data)
        arrays, rows = data
        return arrays if rows is None else jax.tree.map(lambda x: _rows_of(x, rows[i]), arrays)


def _rows_of(x: Any, rows: Any) -> Any:
    """Some of the rows, divided over an explicit mesh as all rows are, if it divides their number."""
    sharding = jax.typeof(x).sharding
    if not any(sharding.spec):
        return x[rows]
    first, *rest = sharding.spec
    names = (first,) if isinstance(first, str) else first or ()
    divides = len(rows) % math.prod(sharding.mesh.shape[name] for name in names) == 0
    return x.at[rows].get(out_sharding=sharding.update(spec=PartitionSpec(first if divides else None, *rest)))


def _feed(data: Any, batch_size: Any) -> tuple[_Feed, Any]:
    leaves = leaves_by_path(data, lambda x: isinstance(x, Iterable) and not isinstance(x, (tuple, list, dict)))
    arrays = not callable(data) and not isinstance(data, list) and all(hasattr(x, "shape") for x in leaves.values())
    wrong = isinstance(data, (str, bytes)) or (isinstance(data, dict) and not arrays)
    if wrong or any(hasattr(x, "dtype") and not is_array(x) for x in leaves.values()):
        raise TypeError(f"fit: data must be a tree of arrays, a function of a key or an iterable, got {said(data)}")
    if not arrays or not leaves:
        if callable(data):
            function_of("fit: data", data, "key")
        if not callable(data) and not (hasattr(data, "__iter__") and (leaves or isinstance(data, list))):
            raise TypeError(f"fit: data must be a tree of arrays, a function of a key or an iterable, got {said(data)}")
        if batch_size is not None:
            raise ValueError("fit: batch_size is for data of arrays; a function or an iterable makes whole batches")
        return (_Feed("key", make=data) if callable(data) else _Feed("batches")), None
    rows = {}
    for path, x in leaves.items():
        if not x.shape:
            raise ValueError(f"fit: {place('data', path)} must be an array with an axis of rows, got {said(x)}")
        rows[path] = x.shape[0]
    (first, size), *_ = rows.items()
    for path, n in rows.items():
        if n != size:
            raise ValueError(f"fit: data[{path!r}] has {n} rows, data[{first!r}] has {size}")
    batch_size = size if batch_size in (None, "all") else batch_size
    if type(batch_size) is not int or not 1 <= batch_size <= size:
        raise ValueError(
            f"fit: batch_size must be 'all' or from 1 to {size}, the rows of the data; got {said(batch_size)}"
        )
    return _Feed("rows", size, batch_size), jax.tree.map(jnp.asarray, data)


def _batches(data: Any, used: int) -> Iterator[Any]:
    """Iterate over the batches again and again, or once for an iterator; skip the first `used` batches."""

    def repeated():
        while True:
            empty = True
            for batch in data:
                empty = False
                yield batch
            if empty or iter(data) is data:
                return

    batches = repeated()
    for i in range(used):
        if next(batches, None) is None:
            raise ValueError(f"fit: the data ended after {i} batches, and the checkpoint is at step {used}")
    return batches


def _check_numbers_of_batches(data: Any) -> None:
    """Raise if the processes have different numbers of batches: all would wait for the one whose data ends first."""
    numbers = gathered(len(data) if hasattr(data, "__len__") else -1)[:, 0]
    if (numbers != numbers[0]).any():
        raise ValueError(
            f"fit: data must have as many batches in each process, got {_listed(numbers)}: leave out the last ones of "
            "the others"
        )


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{n:.0f}" for n in numbers)


def _stacked(batches: list[Any], most: int) -> Any:
    """Stack the batches of a call as one tree of arrays, padded to `most` batches so that calls share a program."""
    batches = [jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.asarray(x), batch) for batch in batches]
    for path, x in leaves_by_path(batches[0]).items():
        if not is_array(x):
            raise TypeError(f"fit: {place('data', path)} must be an array in each batch, got {said(x)}")
    first = {path: (x.shape, x.dtype) for path, x in leaves_by_path(batches[0]).items()}
    for batch in batches[1:]:
        other = {path: (x.shape, x.dtype) for path, x in leaves_by_path(batch).items()}
        if other != first:
            differ = next(path for path in (*first, *other) if first.get(path) != other.get(path))
            raise ValueError(
                f"fit: batches of one call must be alike: expected {differ!r} of shape and dtype "
                f"{first.get(differ)}, got {other.get(differ)}. Drop the batches that differ, or pass steps_per_call=1"
            )
    batches += [batches[-1]] * (most - len(batches))
    return jax.tree.map(lambda *several: (jnp if isinstance(several[0], jax.Array) else np).stack(several), *batches)


# ---------------------------------------------------------------- the run
def _program(step: train_step, feed: _Feed) -> Callable[..., Any]:
    """Compile a number of steps as one program, with the options of `train_step`, so that both give the same bits."""
    _, build_step = split_step(step)
    make_batch = None if feed.make is None else weak(feed.make)

    def make(loss):
        def program(hyperparameters, capacity, *rest):
            own = feed_without_function._replace(make=make_batch and make_batch())
            return _run_steps(build_step(hyperparameters, loss()), own, capacity, *rest)

        return jax.jit(program, static_argnums=1, donate_argnums=2, compiler_options=compiler_options())

    feed_without_function = feed._replace(make=None)
    return program_of(step.loss, (build_step, feed_without_function, make_batch), make)


def _run_steps(step, feed, capacity, carry, data, start, count, key):
    """Run `count` steps after `start`; return the carry and the metrics of each step.

    `count` is not static, so all counts up to `capacity` share one program.
    """
    data_key, step_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)

    def one(i, carry):
        params, state, model_state = carry
        batch = feed.batch(data, start + i, i, data_key)
        own = jax.random.fold_in(step_key, start + i) if step._needs_key else None
        params, state, metrics = step(params, state, batch, key=own, model_state=model_state)
        return (params, state, metrics.model_state), _numbers(metrics, step.micro_batches)

    def body(i, loop):
        carry, new = one(i, loop[0])
        return carry, jax.tree.map(lambda all, x: all.at[i].set(x), loop[1], new)

    records = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), jax.eval_shape(one, 0, carry)[1])
    return jax.lax.fori_loop(0, count, body, (carry, records))


def _numbers(metrics: Any, micro_batches: int) -> dict[str, Any]:
    """Return the history's numbers of a step; the scalars in `aux` are averaged over micro-batches."""
    numbers = {"loss": metrics.loss} | ({} if metrics.finite is None else {"finite": metrics.finite})
    for path, x in leaves_by_path(metrics.aux).items():
        if jnp.shape(x) == (() if micro_batches == 1 else (micro_batches,)) and not jnp.iscomplexobj(x):
            numbers[f"aux/{path}" if path else "aux"] = jnp.mean(x)
    measured = {name: getattr(metrics, name) for name in ("learning_rate", "gradient_norm", "update_norm", "skipped")}
    leaves = leaves_by_path(measured | {"monitor": metrics.measurements})
    return numbers | {path: x for path, x in leaves.items() if not jnp.shape(x)}  # not those of each row in `rowwise`


def _is_real_number(x: Any) -> bool:
    return (isinstance(x, (bool, int, float)) or is_array(x)) and not jnp.shape(x) and jnp.isrealobj(x)


def _copy(x: Any) -> Any:
    """Copy an array, so that its memory may be reused; a Python number becomes an array."""
    return jnp.array(x, x.dtype if isinstance(x, jax.Array) else jnp.result_type(x))


class _Run:
    """Mutable state of a run: parameters, optimizer state, history and best parameters, consistent between calls."""

    def __init__(self, step, feed, data, carry, steps, seed, evaluate, eval_every, patience):
        self.tx: Transformation = step.tx
        self._hyperparameters = [jnp.asarray(x, float) for x in jax.tree.leaves(step)]
        self._program = _program(step, feed)
        self._feed, self._data, self._carry, self.steps = feed, data, carry, steps
        self._seed, self._key = seed, jax.random.key(seed)
        self._ids = [token_hex(8)]  # of this run, and of the run whose checkpoint it loaded
        self._evaluate, self._eval_every, self._patience = evaluate, eval_every, patience
        self.done = 0
        self._unfetched: list[tuple[int, int, Any]] = []  # (start, count, metrics) still on the device
        self._history: dict[str, np.ndarray] = {"loss": np.full(steps, np.nan)}
        self._best: Any = None
        self._order: tuple[int, Any] = (-1, None)  # (epoch, permutation of its rows)
        self._fetched = time.perf_counter()
        self._directory: Directory | None = None

    @property
    def shared(self) -> bool:
        """Whether several processes run it together."""
        return are_shared((self._carry, self._data))

    def advance(self, count: int, capacity: int, batches: Iterator[Any] | None) -> int:
        """Run at most `count` more steps; return their number, 0 when the data is exhausted."""
        data = (self._data, self._rows(count, capacity))
        if batches is not None:
            several = [batch for _, batch in zip(range(count), batches)]
            if not several:
                return 0
            count, data = len(several), _stacked(several, capacity)
        self._carry, new = self._program(
            self._hyperparameters, capacity, self._carry, data, self.done, count, self._key
        )
        self._unfetched.append((self.done, count, new))
        self.done += count
        return count

    def _rows(self, count: int, capacity: int) -> np.ndarray | None:
        """Return the rows of the next batches. NumPy shuffles, because it sorts far faster than XLA on a CPU."""
        rows, size = self._feed.rows, self._feed.batch_size
        if rows == size:
            return None
        out, i = np.zeros((capacity, size), np.int32), 0
        while i < count:
            epoch, place = divmod(self.done + i, rows // size)
            if self._order[0] != epoch:
                self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(rows)
            n = min(count - i, rows // size - place)
            out[i : i + n] = self._order[1][place * size : (place + n) * size].reshape(n, size)
            i += n
        return out

    def since_fetch(self) -> float:
        """Seconds since the metrics were last fetched."""
        return time.perf_counter() - self._fetched

    def fetch(self) -> None:
        """Copy the metrics from the device into the history."""
        for start, count, records in self._unfetched:
            for name, values in records.items():
                self._column(name)[start : start + count] = np.asarray(values)[:count].astype(float)
        self._unfetched, self._fetched = [], time.perf_counter()

    def _column(self, name: str) -> np.ndarray:
        if name not in self._history:
            self._history[name] = np.full(self.steps, np.nan)
        return self._history[name]

    def status(self) -> str:
        """The measurements of the last step and the number of skipped steps, as a string."""
        last = {name: f"{values[self.done - 1]:.3g}" for name, values in self._history.items()}
        rates = {name.partition("/")[2]: x for name, x in last.items() if name.split("/")[0] == "learning_rate"}
        shown = {"loss": f"{self._column('loss')[self.done - 1]:.4g}"}
        if rates:
            shown["rate"] = " ".join(f"{name} {x}".strip() for name, x in rates.items())
        shown |= {name.replace("_", " "): last[name] for name in ("gradient_norm", "update_norm") if name in last}
        if skipped := np.nansum(self._history.get("skipped", 0)):
            shown["skipped"] = f"{skipped:.0f}"
        monitors = {name.removeprefix("monitor/"): x for name, x in last.items() if name.startswith("monitor/")}
        # The numbers of layers are too many for one line; skipped steps are shown already.
        shown |= {name: x for name, x in monitors.items() if "/" not in name and not name.startswith("skipped")}
        return ", ".join(f"{name} {x}" for name, x in shown.items())

    def lost(self) -> bool:
        """Whether an interrupted call has deleted the parameters or the state."""
        return any(x.is_deleted() for x in jax.tree.leaves(self._carry))

    def evaluate(self) -> None:
        """Evaluate, write the results into the history, and keep the best parameters."""
        if self._evaluate is None:
            return
        params, state, model_state = self._carry
        at = eval_params(self.tx, state, params)
        found = self._evaluate(at) if model_state is None else self._evaluate(at, model_state)
        named = {f"eval/{name}": x for name, x in found.items()} if isinstance(found, dict) else {"eval": found}
        if not named or not all(map(_is_real_number, named.values())):
            raise ValueError(f"fit: evaluate must return a number or a dict of numbers, returned {said(found)}")
        if self.shared:
            named = dict(zip(named, gathered(*map(float, named.values()))[0]))
        first, lowest = next(iter(named)), math.inf
        if (before := self._history.get(first)) is not None and not np.isnan(before).all():
            lowest = np.nanmin(before)
        if self._patience and float(named[first]) < lowest:
            self._best = jax.tree.map(_copy, at)
        for name, x in named.items():
            self._column(name)[self.done - 1] = float(x)

    def call(self, callbacks: Sequence[Callable[[Fit], Any]], stopped: str | None) -> bool:
        """Call the callbacks, in one process; return whether one of them asks to stop."""

        def ask() -> bool:
            answers = [callback(self.result(stopped)) for callback in callbacks]
            return any(map(_asks_to_stop, answers))

        if callbacks and self.shared:
            return bool(by_first("a callback", lambda: [ask()], 1)[0])
        return ask()

    def out_of_patience(self) -> bool:
        """Whether the last `patience` evaluations brought no improvement."""
        first = next((name for name in self._history if name.split("/")[0] == "eval"), None)
        if not self._patience or first is None:
            return False
        values = self._history[first][self._eval_every - 1 : self.done : self._eval_every]
        values = np.where(np.isnan(values), np.inf, values)
        return len(values) > 0 and len(values) - 1 - int(np.argmin(values)) >= self._patience

    def result(self, stopped: str | None) -> Fit:
        """The run so far, as a `Fit`."""
        history = {"step": np.arange(1, self.done + 1)} | {name: x[: self.done] for name, x in self._history.items()}
        return Fit(self._carry[0], self._carry[1], history, self._carry[2], self._best, stopped)

    # ------------------------------------------------------------ files
    def _data_settings(self) -> dict[str, Any]:
        """The settings that determine the order of the data; a resumed run must have the same."""
        return {"seed": self._seed, "rows": self._feed.rows, "batch_size": self._feed.batch_size}

    def _is_divided(self) -> bool:
        return any(map(is_divided, jax.tree.leaves(self._carry)))

    def begin(self, path: Path, resume: bool) -> None:
        """Check the place of the checkpoints, and continue from the one that is there."""

        def kind() -> list[float]:
            divided = self._is_divided()
            files.check_place(path, divided or (resume and path.is_dir()))
            if path.exists() and not resume:
                raise FileExistsError(
                    f"fit: checkpoint {path} already exists: pass resume=True to continue from it, or delete it"
                )
            return [path.exists(), path.is_dir() or divided]

        exists, is_directory = by_first("the checkpoint", kind, 2) if self.shared else kind()
        if is_directory:
            self._directory = Directory(path)
            exists = self._directory.step is not None  # a run may have ended before its first was complete
            if not exists and not self._is_divided():
                files.check_place(path)  # raises: the directory is not of checkpoints
        if exists:
            self._load(path)

    def close(self) -> None:
        """Wait until the last checkpoint is written."""
        if self._directory is not None:
            self._directory.close()

    def save(self, path: Path) -> None:
        params, state, model_state = self._carry
        # An OrderedDict, because a tree sorts the names of a plain dict.
        history = OrderedDict((name, x[: self.done]) for name, x in self._history.items())
        trees = {"params": params, "state": state, "model_state": model_state, "best": self._best, "history": history}
        notes = {"step": self.done, "best": self._best is not None, "of": self._data_settings(), "run": self._ids[0]}
        if self._directory is None and self._is_divided():  # from the first step on
            self._directory = Directory(path)

        def write() -> list[float]:
            files.save(path, trees, notes, over=self._ids)
            return []

        if self._directory is not None:
            self._directory.save(trees, notes)
        elif self.shared:
            by_first("a checkpoint", write, 0)
        else:
            write()

    def _load(self, path: Path) -> None:
        like = dict(zip(("params", "state", "model_state"), self._carry))
        if self._directory is None:
            entries, notes = files.load(path)
        else:
            entries, notes = self._directory.load(like | {"best": like["params"]})
        match notes:
            case {"of": dict(of), "step": int(done), "best": bool(best), "run": str(run)}:
                pass
            case _:
                raise ValueError(f"{path} is not a checkpoint of gx.fit")
        for name, value in self._data_settings().items():
            if (saved := of.get(name)) != value:
                raise ValueError(f"fit: the checkpoint {path} was made with {name} {saved}, not {value}: pass the same")
        if done < 0:
            raise ValueError(f"fit: expected a checkpoint at step 0 or more, got {path} at step {done}: delete it")
        if "history/loss" not in entries:
            raise ValueError(f"fit: expected a checkpoint with the history of the run, got {path} without: delete it")
        if done > self.steps:
            raise ValueError(f"fit: the checkpoint {path} is at step {done}, beyond the {self.steps} steps of this run")
        self._carry = tuple(files.restore(path, entries, notes, name, tree) for name, tree in like.items())
        if best:
            self._best = files.restore(path, entries, notes, "best", like["params"])
        if self.shared and len({*(steps := gathered(done)[:, 0])}) > 1:
            raise ValueError(
                f"fit: expected one checkpoint for all processes, got {path} at steps {_listed(steps)}: "
                "pass a path that all processes share"
            )
        if (updates := int(self._carry[1].step)) < 0:
            raise ValueError(f"fit: expected a state of 0 updates or more, got {updates} in {path}: delete it")
        self.done = done
        self._ids.append(run)
        for name, values in entries.items():
            if name.startswith("history/"):
                if (values.shape, values.dtype) != ((done,), float):
                    raise ValueError(f"the checkpoint {path} does not fit: {name!r} is not {done} numbers")
                self._column(name.removeprefix("history/"))[:done] = values


# ---------------------------------------------------------------- progress and Ctrl-C
@contextmanager
def _progress_display(run: _Run, progress: bool) -> Iterator[Callable[[], None]]:
    """Context manager: yields a function that shows the run's progress, with tqdm or one line every 5 seconds."""
    if not progress or (run.shared and jax.process_index()):
        yield lambda: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        begun = last = time.perf_counter()
        first = run.done

        def line():
            nonlocal last
            now = time.perf_counter()
            if run.done == run.steps or now - last > 5:
                last = now
                speed = f"{(run.done - first) / (now - begun):.3g} steps/s"
                print(f"fit: {run.done} of {run.steps} steps, {run.status()}, {speed}", file=sys.stderr, flush=True)

        yield line
        return
    with tqdm(initial=run.done, total=run.steps, unit="step") as bar:

        def update():
            bar.set_postfix_str(run.status(), refresh=False)
            bar.update(run.done - bar.n)

        yield update


@contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """Context manager: the first Ctrl-C sets a flag, the second raises `KeyboardInterrupt`.

    The flag is a list that becomes non-empty: an exception would end the compiled call and lose its results.
    """
    interrupted: list[bool] = []
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupted
        return

    def note(number, frame):
        if interrupted:
            raise KeyboardInterrupt
        interrupted.append(True)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
