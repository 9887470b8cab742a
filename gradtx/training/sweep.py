"""Sweeps: batches of optimizers, and one compiled training run over a batch."""

import itertools
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradtx.core import Record, Transformation, leaves_by_path
from gradtx.core.arguments import checked, function_of, misfit, sequence, traced
from gradtx.core.checks import check_values
from gradtx.core.errors import describe, said
from gradtx.core.programs import program_of
from gradtx.inspect.hyperparameters import labels, plain
from gradtx.inspect.tables import aligned


@checked
def stack(txs: Sequence[Any]) -> Any:
    """Stack optimizers of one structure into one, whose hyperparameters have a leading axis.

    Use the result with `jax.vmap` and `sweep`.

    Args:
      txs: A sequence of one or more optimizers that differ in nothing except their numbers.

    Returns:
      One transformation, a batch: each hyperparameter is an array of shape (optimizers,).

    Raises:
      ValueError: The optimizers differ in their structure; the message has the first difference.

    >>> import gradtx as gx
    >>> gx.stack([gx.sgd(0.1), gx.sgd(0.2)])
    chain(identity(), scale_by_learning_rate(<float32[2]>))
    """
    several = [Transformation.coerce(f"stack: txs[{i}]", tx) for i, tx in enumerate(sequence("stack: txs", txs))]
    if not several:
        raise ValueError("stack needs one optimizer or more, got none")
    for i, tx in enumerate(several):
        if different := _difference("", several[0], tx):
            raise ValueError(f"stack: txs[{i}] differs in structure from txs[0]: {different}")
    return jax.tree.map(lambda *values: jnp.stack([jnp.asarray(x, float) for x in values]), *several)


@checked
def grid(make: Callable[..., Any], **values: Iterable[Any]) -> Any:
    """Stack an optimizer for every combination of the values, as one batch.

    The last argument varies fastest, as in `itertools.product`.

    Args:
      make: A function from the named arguments to an optimizer, such as `gx.adam`.
      **values: For each argument of `make` a sequence of its values. If all are numbers, the table of the sweep has the
        arguments as its columns.

    Returns:
      One transformation, a batch: each hyperparameter is an array of shape (combinations,).

    Raises:
      TypeError: `make` does not take an argument, or needs one that is missing.
      ValueError: An argument has no values, or the optimizers differ in their structure.

    >>> import gradtx as gx
    >>> txs = gx.grid(gx.adam, learning_rate=[0.1, 0.01], b2=[0.99, 0.999])
    >>> txs.links[1]
    scale_by_learning_rate(<float32[4]>)
    """
    columns = {name: _values(name, several) for name, several in values.items()}
    if why := misfit(_name(function_of("grid: make", make)), make, (), columns):
        raise TypeError(f"grid: {why}")
    rows = list(itertools.product(*columns.values()))
    txs = stack([make(**dict(zip(columns, row))) for row in rows])
    several = [x for row in rows for x in row if not isinstance(x, numbers.Real)]
    if all(getattr(x, "shape", None) == () and not isinstance(x, Tracer) for x in several):
        # The caller's words for the columns of `sweep`, beside the fields: a batch that JAX rebuilds is without them.
        txs.__dict__["_words"] = {
            name: np.array([float(plain(x)) for x in several]) for name, several in zip(columns, zip(*rows))
        }
    return txs


def _values(name: str, values: Any) -> list[Any]:
    values = sequence(f"grid: {name}", values)
    if not values:
        raise ValueError(f"grid: {name} has no values")
    return values


def _difference(place: str, a: Any, b: Any) -> str:
    """Describe the first structural difference between two optimizers, or return ""."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        if len(a) != len(b):
            return f"{place} are {len(b)}, not {len(a)}"
        return next(filter(None, (_difference(f"{place}[{i}]", x, y) for i, (x, y) in enumerate(zip(a, b)))), "")
    if isinstance(a, Record) and type(a) is type(b):
        for name, kind in a._kinds.items():
            field, x, y = f"{place}.{name}" if place else name, getattr(a, name), getattr(b, name)
            if kind.data and (found := _difference(field, x, y)):
                return found
            if not kind.data and x != y:
                return f"{field} is {y!r}, not {x!r}"
        return ""
    return "" if _kind(a) == _kind(b) else f"{place or 'it'} is {_kind(b)}, not {_kind(a)}"


def _kind(value: Any) -> str:
    """Describe a hyperparameter or a part without its numbers."""
    if value is None or isinstance(value, Record):
        return type(value).__name__ if value is not None else "None"
    return f"an array of shape {jnp.shape(value)}" if jnp.shape(value) else "a number"


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))


class Sweep(NamedTuple):
    """Results of a sweep; prints as a table with a row for each optimizer.

    >>> import gradtx as gx
    >>> found = gx.sweep(lambda tx: tx.factor**2, gx.grid(gx.scale, factor=[2.0, -1.0]))
    >>> found
    factor  result
         2       4
        -1       1
    >>> found.best()
    scale(-1.0)
    """

    results: Any
    """The results of `train`, a tree of arrays with a leading axis of optimizers."""
    hyperparameters: dict[str, np.ndarray]
    """The hyperparameters that vary, by name, each of shape (optimizers,). For a batch of `gx.grid`, its arguments."""
    txs: Any
    """The optimizers, as one batch."""

    @checked
    def best(self, by: Callable[[Any], Any] = lambda result: result) -> Any:
        """Return the optimizer of the lowest result. NaN is never the lowest.

        Its hyperparameters are Python numbers, the shortest decimals: 0.1, not 0.10000000149.

        Args:
          by: A function from the results to one number for each optimizer; needed where `train` returns a tree.

        Raises:
          TypeError: `by` does not return an array.
          ValueError: The array does not have one number for each optimizer, or has only NaN.
        """
        found = by(self.results)
        if not isinstance(found, (jax.Array, np.ndarray, list, tuple)):
            raise TypeError(f"best: by must choose an array of the results, chose {said(found)}")
        values = np.asarray(found, float)
        size = jax.tree.leaves(self.txs)[0].shape
        if values.shape != size or np.isnan(values).all():
            have = "only NaN" if values.shape == size else f"an array of shape {values.shape}"
            raise ValueError(f"best needs one number for each of {size[0]} optimizers, got {have}")
        return jax.tree.map(lambda x: plain(x[int(np.nanargmin(values))]), self.txs)

    def __str__(self) -> str:
        columns = {name: [f"{value:.4g}" for value in values] for name, values in self.hyperparameters.items()}
        for path, result in leaves_by_path(self.results).items():
            numbers = np.asarray(result).tolist()
            cells = [f"{x:.4g}" for x in numbers] if result.ndim == 1 else [describe(result[0])] * len(result)
            columns[path or "result"] = cells
        rows = list(zip(*columns.values()))
        more = [f"… and {len(rows) - 100} more"] if len(rows) > 100 else []
        return "\n".join([aligned([tuple(columns), *rows[:100]], left=0), *more])

    __repr__ = __str__


@checked
def sweep(train: Callable[[Any], Any], txs: Any, *, at_once: int | None = None) -> Sweep:
    """Run `train(tx)` for every optimizer of a batch, compiled once.

    Args:
      train: A pure function that JAX can trace, from an optimizer to a tree of arrays. The same function with another
        batch of this structure and size does not compile again.
      txs: The optimizers: a batch from `stack`, `grid` or `jax.vmap`, or a sequence of optimizers.
      at_once: The number of optimizers that run in parallel, 1 or more; None for all, 1 for one after another. Fewer
        need less memory.

    Returns:
      A `Sweep`: the results, the hyperparameters that vary, and the optimizers.

    Raises:
      ValueError: `txs` is not a batch of optimizers, or `at_once` is below 1.
      TypeError: `train` returns something other than arrays, or `txs` are traced.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> def train(tx):
    ...     def step(carry, _):
    ...         w, state = carry
    ...         update, state = tx.update(2 * w, state)  # the gradient of w²
    ...         return (w + update, state), None
    ...     w = jnp.ones(())
    ...     (w, _), _ = jax.lax.scan(step, (w, tx.init(w)), length=3)
    ...     return w * w
    >>> found = gx.sweep(train, gx.grid(gx.heavy_ball, learning_rate=[0.1, 0.3, 0.6], decay=[0.0, 0.5]))
    >>> found
    learning_rate  decay    result
              0.1      0    0.2621
              0.1    0.5    0.0912
              0.3      0  0.004096
              0.3    0.5    0.1063
              0.6      0   6.4e-05
              0.6    0.5  0.004624
    >>> found.best()
    chain(add_momentum(0.0), scale_by_learning_rate(0.6))
    """
    if isinstance(txs, Sequence):
        txs = stack(txs)
    if at_once is not None and (isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1):
        raise ValueError(f"sweep: at_once must be None or an integer, 1 or more, got {said(at_once)}")
    leaves = leaves_by_path(txs) if isinstance(txs, Transformation) else {}
    shapes = {jnp.shape(x) for x in leaves.values()}
    if len(shapes) != 1 or len(shapes.pop()) != 1:
        raise ValueError(f"sweep: txs must be a batch of optimizers, as gx.stack and gx.grid make, got {said(txs)}")
    if any(isinstance(x, Tracer) for x in leaves.values()):
        raise TypeError("sweep: txs are traced, but its table needs their values: within jit, use jax.vmap(train)(txs)")
    for extreme in (np.min, np.max):  # a range holds all between; NaN is both
        check_values(jax.tree.map(extreme, txs))
    # The leaves are the argument: JAX keeps the structure of an argument, and the functions in it, for ever.
    values, form = jax.tree.flatten(txs)
    program = program_of(train, (at_once, form), lambda of: jax.jit(lambda x: _run(of(), at_once, form.unflatten(x))))
    results = program(values)
    columns = vars(txs).get("_words") or {name: np.array([plain(x) for x in xs]) for name, xs in labels(txs).items()}
    return Sweep(results, {name: column for name, column in columns.items() if np.ptp(column)}, txs)


def _run(train: Callable[[Any], Any], at_once: int | None, txs: Any) -> Any:
    def checked(tx):
        result = traced("sweep: train", train, tx)
        if not jax.tree.leaves(result):
            raise TypeError(f"sweep: train must return arrays, returned {said(result)}")
        for path, leaf in leaves_by_path(result).items():
            if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int)):
                raise TypeError(f"sweep: train must return arrays, returned {said(leaf)}{path and f' at {path!r}'}")
        return jax.tree.map(jnp.asarray, result)

    if at_once is None:
        return jax.vmap(checked)(txs)
    return jax.lax.map(checked, txs, batch_size=None if at_once == 1 else at_once)
