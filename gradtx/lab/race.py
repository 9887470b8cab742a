"""Race of optimizers on one problem, with a compiled training loop for each."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from gradtx import optimizers
from gradtx.core import State, Transformation
from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.core.transformation import TransformationLike
from gradtx.inspect import hyperparameters
from gradtx.lab.problems import Batch, Entry, Problem
from gradtx.training import fit
from gradtx.wrappers import eval_params

DIRECTION = "gradient descent, and its direction changed (momentum)"
SIZE = "the size of each coordinate's step changed"
BOTH = "direction and size changed (the Adam family)"
ENTRIES: dict[str, Entry] = {
    "sgd": Entry(optimizers.sgd, 0.2, DIRECTION),
    "averaged_momentum": Entry(optimizers.averaged_momentum, 0.5, DIRECTION),
    "heavy_ball": Entry(optimizers.heavy_ball, 0.05, DIRECTION),
    "rate_inside_momentum": Entry(optimizers.rate_inside_momentum, 0.05, DIRECTION),
    # The friction makes the decay, 1 − Δt·η/m, 0.9 at any rate.
    "rolling_ball": Entry(lambda rate: optimizers.rolling_ball(rate, friction=0.1 / rate), 0.1, DIRECTION),
    "nesterov": Entry(optimizers.nesterov, 0.05, DIRECTION),
    "adagrad": Entry(optimizers.adagrad, 0.1, SIZE),
    "rmsprop": Entry(optimizers.rmsprop, 0.002, SIZE),
    "adadelta": Entry(optimizers.adadelta, 1.0, SIZE),
    "rprop": Entry(optimizers.rprop, 0.003, SIZE, batch_size="all"),
    "adam": Entry(optimizers.adam, 0.01, BOTH),
    "adam_uncorrected": Entry(lambda rate: optimizers.adam(rate, corrected=False), 0.01, BOTH),
    "adamw": Entry(optimizers.adamw, 0.01, BOTH),
    "adamax": Entry(optimizers.adamax, 0.01, BOTH),
    "nadam": Entry(optimizers.nadam, 0.01, BOTH),
    "amsgrad": Entry(optimizers.amsgrad, 0.01, BOTH),
}
"""The textbook optimizers, by name."""


class Result(NamedTuple):
    """Result of an optimizer in a race."""

    optimizer: str
    """The name of the entry."""
    family: str
    """The family of the entry."""
    learning_rate: float
    """The learning rate used, the best of several; NaN if the optimizer has none, or more than one."""
    batch_size: int
    """The number of examples in a step."""
    steps: int
    """The number of updates."""
    final_loss: float
    """The loss over all training examples after the last step; not finite if the run diverged."""
    test_accuracy: float
    """The accuracy on the test examples, from 0 to 1; NaN if the problem has no classes or the loss is not finite."""
    ms_per_step: float
    """Milliseconds per step: the median over the compiled calls of the run, without compilation."""
    state_bytes_per_parameter: float
    """The bytes of the whole state, including the step, divided by the number of parameters."""
    losses: np.ndarray
    """The loss of each step's batch before that step, shape (steps,)."""


@checked
def race(
    problem: Problem,
    entries: Mapping[str, Entry | TransformationLike] | None = None,
    *,
    epochs: int | None = None,
    batch_size: int | Literal["all"] | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda optimizer, fraction: None,
) -> list[Result]:
    """Train a problem with each optimizer from the same start and return the results, sorted by final loss.

    Each epoch shuffles the examples and leaves out the examples that do not fill a batch. An entry with several
    learning rates trains with each of them, compiled once, and its result is the run of the lowest final loss.

    Args:
      problem: The problem to train, such as `digits()`.
      entries: The optimizers that take part, by name: an `Entry`, or an optimizer, which runs as it is. None for the
        entries of the problem or else the textbook optimizers.
      epochs: The number of passes over the examples, 1 or more; None for the default of the problem.
      batch_size: The number of examples in a step, for every optimizer: `"all"` is batch descent, 1 is stochastic
        descent; None for the default of each entry or of the problem.
      learning_rate: The learning rate for every `Entry`, a finite number above 0; None for the default of each.
      seed: The seed of the initial parameters and of the order of the examples, from 0 to 2³² − 1.
      progress: A function called with the name of the running optimizer and the completed fraction of the race, from 0
        to 1.

    Returns:
      A list with a `Result` for each entry, the lowest final loss first and diverged runs last.

    Raises:
      TypeError: `entries` is not a dict of entries and optimizers, or `problem` is not a `Problem`.
      ValueError: An option is out of range.

    >>> import gradtx as gx
    >>> from gradtx.lab import ENTRIES, line, race
    >>> for result in race(line(), {"sgd": ENTRIES["sgd"], "lion": gx.lion(0.001)}):
    ...     print(result.optimizer, result.steps, f"{result.final_loss:.3f}")
    sgd 2000 0.009
    lion 2000 0.009
    """
    check_options(problem, epochs, batch_size, learning_rate, seed)
    if entries is None:
        entries = problem.entries or ENTRIES
    if not isinstance(entries, Mapping):
        raise TypeError(f"race: entries must be a dict from names to entries, got {said(entries)}")
    runs: list[tuple[str, str, float, int, Transformation]] = []
    for name, entry in entries.items():
        if not isinstance(entry, Entry):
            tx = Transformation.coerce(f"race: {name!r}", entry)
            rate = hyperparameters(tx).get("learning_rate", math.nan)
            runs.append((name, "", rate if np.ndim(rate) == 0 else math.nan, _size(problem, batch_size), tx))
            continue
        rates = learning_rate or entry.learning_rate
        for rate in rates if isinstance(rates, Sequence) else [rates]:
            tx = Transformation.coerce(f"race: {name!r}", entry.make(rate))
            runs.append((name, entry.family, rate, _size(problem, batch_size or entry.batch_size), tx))
    loss, best = jax.jit(problem.loss), dict[str, Result]()
    for done, (name, family, rate, size, tx) in enumerate(runs):
        run = _train(
            problem,
            tx,
            steps=(epochs or problem.epochs) * (len(problem.train.targets) // size),
            batch_size=size,
            seed=seed,
            progress=lambda fraction, name=name, done=done: progress(name, (done + fraction) / len(runs)),
        )
        at = eval_params(tx, run.state, run.params)
        final_loss = _mean(loss, at, problem.train)
        accuracy = math.nan
        if problem.accuracy and math.isfinite(final_loss):
            accuracy = _mean(problem.accuracy, at, problem.test)
        state_bytes = sum(x.nbytes for x in jax.tree.leaves(run.state))
        result = Result(
            optimizer=name,
            family=family,
            learning_rate=float(rate),
            batch_size=size,
            steps=len(run.losses),
            final_loss=final_loss,
            test_accuracy=accuracy,
            ms_per_step=run.ms_per_step,
            state_bytes_per_parameter=state_bytes / sum(p.size for p in jax.tree.leaves(run.params)),
            losses=run.losses,
        )
        best[name] = min(best.get(name, result), result, key=_finite)
    return sorted(best.values(), key=_finite)


def _size(problem: Problem, batch_size: int | Literal["all"] | None) -> int:
    return len(problem.train.targets) if batch_size == "all" else batch_size or problem.batch_size


def _finite(result: Result) -> float:
    """The final loss, infinite for a run that diverged."""
    return result.final_loss if math.isfinite(result.final_loss) else math.inf


def _mean(measure: Callable[[Any, Batch], Any], params: Any, examples: Batch, at_once: int = 500) -> float:
    """Average a mean over all examples, of which few enough are in memory at once."""
    count = len(examples.targets)
    parts = [jax.tree.map(lambda x: x[i : i + at_once], examples) for i in range(0, count, at_once)]  # noqa: B023
    return float(sum(float(measure(params, part)) * len(part.targets) for part in parts) / count)


@checked
def check_options(
    problem: Problem,
    epochs: int | None = None,
    batch_size: int | Literal["all"] | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
) -> None:
    """Check the options of `race` before it runs.

    Args:
      problem: The problem to train.
      epochs: The number of passes over the examples, 1 or more; None for the default of the problem.
      batch_size: The number of examples in a step, from 1 to all training examples; `"all"`; or None for the default.
      learning_rate: The learning rate, a finite number above 0; None for the default of each entry.
      seed: The seed, from 0 to 2³² − 1.

    Raises:
      TypeError: `problem` is not a `Problem`.
      ValueError: An option is out of range.

    >>> from gradtx.lab import check_options, line
    >>> check_options(line(), epochs=0)
    Traceback (most recent call last):
    ValueError: the epochs must be at least 1, got 0
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"the problem must be a Problem, such as PROBLEMS['xor'](), got {said(problem)}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed must be from 0 to 2³² − 1, got {seed}")
    if epochs is not None and epochs < 1:
        raise ValueError(f"the epochs must be at least 1, got {epochs}")
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ValueError(f"the learning rate must be a finite number above 0, got {learning_rate}")
    examples = len(problem.train.targets)
    if batch_size not in (None, "all") and not 1 <= batch_size <= examples:
        raise ValueError(
            f"the batch size must be 'all' or from 1 to {examples}, the training examples; got {batch_size}"
        )


class _Run(NamedTuple):
    """Trained parameters, state, losses and time of one training loop."""

    params: Any
    state: State
    losses: np.ndarray
    ms_per_step: float


def _train(
    problem: Problem, tx: Transformation, steps: int, batch_size: int, seed: int, progress: Callable[[float], None]
) -> _Run:
    """Run a training loop, about forty compiled calls so that progress is visible."""
    params = problem.init(jax.random.split(jax.random.key(seed))[0])
    per_call = min(1000, -(-steps // 40))
    progress(0.0)

    def run(steps, callback=None):
        return fit(
            params,
            tx,
            problem.loss,
            problem.train,
            steps,
            batch_size=batch_size,
            seed=seed,
            callbacks=[callback] if callback else [],
            eval_every=per_call,
            steps_per_call=per_call,
            progress=False,
            measure=False,
        )

    def tick(now):
        times.append((len(now.history["step"]), time.perf_counter()))
        progress(times[-1][0] / steps)

    run(1)  # compiles the program, which the next run shares
    times = [(0, time.perf_counter())]
    done = run(steps, tick)
    if done.stopped == "interrupt":
        raise KeyboardInterrupt
    durations = [1e3 * (end - start) / (n - m) for (m, start), (n, end) in pairwise(times)]
    return _Run(done.params, done.state, done.history["loss"], median(durations))
