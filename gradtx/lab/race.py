"""Race of optimizers on one problem, with a compiled training loop for each."""

import math
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import optimizers
from gradtx.core import State, Transformation
from gradtx.core.apply import apply_updates
from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.lab.problems import Problem


class Entry(NamedTuple):
    """Participant of a race: an optimizer with its default learning rate and batch size."""

    make: Callable[[float], Transformation]
    """A function from a learning rate to the optimizer."""
    learning_rate: float
    """The default learning rate."""
    family: str
    """The change relative to SGD: the direction, the per-coordinate scale, or both."""
    batch_size: Literal["all"] | None = None
    """`"all"` if the optimizer needs the gradient of all examples; None for the batch size of the problem."""


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
"""The optimizers of the textbook, by name."""


class Result(NamedTuple):
    """Result of an optimizer in a race."""

    optimizer: str
    """The name of the entry."""
    family: str
    """The family of the entry."""
    learning_rate: float
    """The learning rate used."""
    batch_size: int
    """The number of examples in a step."""
    steps: int
    """The number of updates."""
    final_loss: float
    """The loss over all training examples after the last step; not finite if the run diverged."""
    test_accuracy: float
    """The accuracy on the test examples, from 0 to 1; NaN if the problem has no classes or the loss is not finite."""
    ms_per_step: float
    """Milliseconds per step: the median over the calls of the compiled loop, without compilation."""
    state_bytes_per_parameter: float
    """The bytes of the whole state, including the step, divided by the number of parameters."""
    losses: np.ndarray
    """The loss of each step's batch before that step, shape (steps,)."""


@checked
def race(
    problem: Problem,
    entries: Mapping[str, Entry] = ENTRIES,
    *,
    epochs: int | None = None,
    batch_size: int | Literal["all"] | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda optimizer, fraction: None,
) -> list[Result]:
    """Train a problem with each optimizer from the same start and return the results, sorted by final loss.

    Each epoch shuffles the examples and leaves out the examples that do not fill a batch.

    Args:
      problem: The problem to train, such as `digits()`.
      entries: The optimizers that take part, by name.
      epochs: The number of passes over the examples, 1 or more; None for the default of the problem.
      batch_size: The number of examples in a step, for every optimizer: `"all"` is batch descent, 1 is stochastic
        descent; None for the default of each entry or of the problem.
      learning_rate: The learning rate for every optimizer, a finite number above 0; None for the default of each entry.
      seed: The seed of the initial parameters and of the order of the examples, from 0 to 2³² − 1.
      progress: A function called with the name of the running optimizer and the completed fraction of the race, from 0
        to 1.

    Returns:
      A list with a `Result` for each entry, the lowest final loss first and diverged runs last.

    Raises:
      TypeError: `entries` is not a dict, or `problem` is not a `Problem`.
      ValueError: An option is out of range.

    >>> from gradtx.lab import ENTRIES, line, race
    >>> for result in race(line(), {"sgd": ENTRIES["sgd"]}):
    ...     print(result.optimizer, result.steps, f"{result.final_loss:.4f}")
    sgd 2000 0.0094
    """
    if not isinstance(entries, Mapping):
        raise TypeError(f"race: entries must be a dict from names to entries, got {said(entries)}")
    check_options(problem, epochs, batch_size, learning_rate, seed)
    examples = len(problem.train.targets)
    results = []
    for done, (name, entry) in enumerate(entries.items()):
        size = batch_size or entry.batch_size or problem.batch_size
        size = examples if size == "all" else size
        rate = learning_rate or entry.learning_rate
        run = _train(
            problem,
            entry.make(rate),
            epochs=epochs or problem.epochs,
            batch_size=size,
            seed=seed,
            progress=lambda fraction, name=name, done=done: progress(name, (done + fraction) / len(entries)),
        )
        final_loss = float(problem.loss(run.params, problem.train))
        accuracy = math.nan
        if problem.accuracy and math.isfinite(final_loss):
            accuracy = float(problem.accuracy(run.params, problem.test))
        state_bytes = sum(x.nbytes for x in jax.tree.leaves(run.state))
        results.append(
            Result(
                optimizer=name,
                family=entry.family,
                learning_rate=rate,
                batch_size=size,
                steps=len(run.losses),
                final_loss=final_loss,
                test_accuracy=accuracy,
                ms_per_step=run.ms_per_step,
                state_bytes_per_parameter=state_bytes / sum(p.size for p in jax.tree.leaves(run.params)),
                losses=run.losses,
            )
        )
    return sorted(results, key=lambda r: r.final_loss if math.isfinite(r.final_loss) else math.inf)


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
    problem: Problem, tx: Transformation, epochs: int, batch_size: int, seed: int, progress: Callable[[float], None]
) -> _Run:
    """Run a training loop, compiled ahead of time and called about twenty times so that progress is visible."""
    train = jax.device_put(problem.train)
    examples = len(train.targets)
    steps = examples // batch_size

    def loop(tx, params, state, train, keys):
        def step(carry, rows):
            params, state = carry
            loss, gradient = jax.value_and_grad(problem.loss)(params, jax.tree.map(lambda x: x[rows], train))
            updates, state = tx.update(gradient, state, params)
            return (apply_updates(params, updates), state), loss

        def epoch(carry, key):
            order = jnp.arange(examples) if batch_size == examples else jax.random.permutation(key, examples)
            return jax.lax.scan(step, carry, order[: steps * batch_size].reshape(steps, batch_size))

        (params, state), losses = jax.lax.scan(epoch, (params, state), keys)
        return params, state, losses.ravel()

    init_key, order_key = jax.random.split(jax.random.key(seed))
    params = problem.init(init_key)
    state = tx.init(params)
    per_call = max(n for n in range(1, 1 + max(1, epochs // 20)) if epochs % n == 0)
    calls = jax.random.split(order_key, (epochs // per_call, per_call))
    progress(0.0)
    compiled = jax.jit(loop, donate_argnames=("params", "state")).lower(tx, params, state, train, calls[0]).compile()
    losses, times = [], []
    for keys in calls:
        start = time.perf_counter()
        params, state, part = jax.block_until_ready(compiled(tx, params, state, train, keys))
        times.append(time.perf_counter() - start)
        losses.append(part)
        progress(len(losses) / len(calls))
    return _Run(params, state, np.concatenate(losses), 1e3 * median(times) / (per_call * steps))
