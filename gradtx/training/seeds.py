"""The training loop of several seeds at once, compiled once."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gradtx.core import leaves_by_path
from gradtx.core.arguments import checked, function_of, live, outside_traces
from gradtx.core.errors import said, unknown
from gradtx.core.programs import program_of, weak
from gradtx.core.transformation import TransformationLike
from gradtx.training.fit import (
    MAX_STEPS_PER_CALL,
    OPTIONS,
    Fit,
    _batches,
    _check,
    _copy,
    _Feed,
    _feed,
    _progress_display,
    _Run,
    _run_steps,
    _stacked,
)
from gradtx.training.step import compiler_options, split_step, train_step


class Fits(Fit):
    """Result of training runs with several seeds: a `Fit` whose arrays have a leading axis of seeds.

    `history["step"]` is the same for all seeds and has shape (steps,); the others have shape (seeds, steps).
    """

    __slots__ = ()

    def frame(self) -> Any:
        """Return the history as a pandas data frame, indexed by step, with a column `run` that counts the seeds from 0.

        Raises `ImportError` without pandas.
        """
        steps, runs = self.history["step"], len(self.history["loss"])
        flat = {name: values.ravel() for name, values in self.history.items()}
        flat |= {"run": np.repeat(np.arange(runs), len(steps)), "step": np.tile(steps, runs)}
        return Fit.frame(self._replace(history=flat))

    def __repr__(self) -> str:
        last = {name: x[..., -1] for name, x in self.history.items() if x.size}
        medians = ", ".join(f"{name}={np.median(x):.4g}" for name, x in last.items())
        return f"Fits({medians}; medians of {len(self.history.get('loss', []))} seeds, stopped={self.stopped!r})"


@checked
def fit_seeds(
    params: Any,
    tx: TransformationLike,
    loss: Callable[..., Any],
    data: Any,
    steps: int,
    *,
    seeds: int | Sequence[int] = 5,
    batch_size: int | Literal["all"] | None = None,
    model_state: Any = None,
    progress: bool = True,
    **options: Any,
) -> Fits:
    """Train a model with several seeds at once: `fit`, vmapped over the seeds and compiled once.

    Each run is that of `fit(…, seed=seed)`, to rounding. `gx.plots.curves` draws the result as a median with quartiles.
    To evaluate, call `jax.vmap(evaluate)(run.params)`.

    Args:
      params: The initial parameters, a tree of arrays, the same for every seed; or a function from a random key to
        them, which is called with `jax.random.key(seed)` for each seed.
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.
      loss: `loss(params, batch)`, which returns one real number. It also takes the model state and a key, in this
        order, with `model_state` and `has_key`, and returns the further outputs described in `train_step`.
      data: The training data, as in `fit`: a tree of arrays, which each seed visits in its own order; a function from a
        random key to a batch; or an iterable of batches, the same for every seed.
      steps: The number of steps.
      seeds: The number of seeds, 1 or more, for the seeds 0, 1, 2, …; or a sequence of seeds, each from 0 to 2³² − 1.
      batch_size: The number of rows in a step, for data of arrays; `"all"` or None for all rows, in the given order.
      model_state: The initial model state, if the loss takes one and returns the next; None otherwise.
      progress: If True, show the loss of the first seed and the steps per second on stderr, with tqdm if it is
        installed (`gradtx[progress]`).
      **options: Further options of `train_step`, as in `fit`.

    Returns:
      `Fits`, a `Fit` whose arrays have a leading axis of seeds.

    Raises:
      ValueError: `seeds` is out of range, arrays of the data have unequal rows, or `train_step` refuses the loss or the
        batch.
      TypeError: An argument has the wrong type.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> x = jnp.linspace(-1, 1, 32)
    >>> def loss(w, batch):
    ...     x, y = batch
    ...     return jnp.mean((w * x - y) ** 2)
    >>> run = gx.fit_seeds(jax.random.normal, gx.sgd(0.5), loss, (x, 3 * x), 50, seeds=4, batch_size=8, progress=False)
    >>> run.params.shape, run.history["loss"].shape
    ((4,), (4, 50))
    >>> run.params.round(2)
    Array([3., 3., 3., 3.], dtype=float32)
    """
    outside_traces("fit_seeds")
    each = list(range(seeds)) if type(seeds) is int else seeds
    if not isinstance(each, Sequence) or isinstance(each, str) or not len(each):
        raise ValueError(
            f"fit_seeds: seeds must be a number of seeds, 1 or more, or a sequence of them, got {said(seeds)}"
        )
    own = [name for name in signature(fit_seeds).parameters if name != "options"]
    for name in options:
        if name not in OPTIONS:
            raise TypeError(
                unknown("fit_seeds has no argument", name, [*own, *OPTIONS], "Of one run, `fit` takes more.")
            )
    for seed in each:
        _check(steps, seed, {}, options)
    step = train_step(loss, tx, has_model_state=model_state is not None, **options)
    feed, arrays = _feed(data, batch_size)
    if callable(params):
        function_of("fit_seeds: params", params, "key")
    starts = [params(jax.random.key(seed)) if callable(params) else params for seed in each]
    for path, x in leaves_by_path({"params": starts[0], "model_state": model_state}).items():
        live(f"fit_seeds: {path}", x)
    carries = [jax.tree.map(_copy, (start, step.tx.init(start), model_state)) for start in starts]
    # Of each seed the order of its rows, its key and its history; the steps of all are those of one program.
    runs = [_Run(step, feed, arrays, carry, steps, seed, None, 1, None) for seed, carry in zip(each, carries)]
    carry = jax.tree.map(lambda *several: jnp.stack(several), *carries)
    keys = jnp.stack([jax.random.key(seed) for seed in each])
    capacity = 1 if feed.kind == "batches" else max(1, min(MAX_STEPS_PER_CALL, 2**20 // max(1, feed.batch_size)))
    batches = _batches(data, 0) if feed.kind == "batches" else None
    program, hyperparameters = _program(step, feed), jax.tree.leaves(step)
    done, per_call, stopped = 0, min(capacity, max(1, -(-steps // 20))), "steps"
    with _progress_display(runs[0], progress) as show:
        while done < steps:
            count = min(per_call, steps - done)
            if batches is None:
                rows = [run._rows(count, capacity) for run in runs]
                data = (arrays, None if rows[0] is None else np.stack([x for x in rows if x is not None]))
            else:
                several = [batch for _, batch in zip(range(count), batches)]
                if not several:
                    stopped = "data"
                    break
                data = _stacked(several, capacity)
            carry, new = program(hyperparameters, capacity, carry, data, done, count, keys)
            done += count
            for i, (run, records) in enumerate(zip(runs, _unstacked(jax.device_get(new), len(runs)))):
                run._unfetched.append((run.done, count, records))
                run.done = done
                run.fetch()
                if i == 0:
                    show()
    histories = [run.result(stopped).history for run in runs]
    history = {name: np.stack([one[name] for one in histories]) for name in histories[0] if name != "step"}
    return Fits(carry[0], carry[1], {"step": histories[0]["step"]} | history, carry[2], None, stopped)


def _unstacked(tree: Any, count: int) -> list[Any]:
    return [jax.tree.map(lambda x: x[i], tree) for i in range(count)]  # noqa: B023


def _program(step: train_step, feed: _Feed) -> Callable[..., Any]:
    """Compile a number of steps of every seed as one program: `fit`'s, vmapped over carry, rows of the data and key."""
    _, build_step = split_step(step)
    make_batch = None if feed.make is None else weak(feed.make)
    without_function = feed._replace(make=None)
    axes = (None, 0) if feed.kind == "rows" and feed.rows != feed.batch_size else None

    def make(loss):
        def program(hyperparameters, capacity, carry, data, start, count, keys):
            own = without_function._replace(make=make_batch and make_batch())

            def one(carry, data, key):
                return _run_steps(build_step(hyperparameters, loss()), own, capacity, carry, data, start, count, key)

            return jax.vmap(one, (0, axes, 0))(carry, data, keys)

        return jax.jit(program, static_argnums=1, donate_argnums=2, compiler_options=compiler_options())

    return program_of(step.loss, ("seeds", build_step, without_function, make_batch), make)
