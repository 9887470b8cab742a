"""One compiled training step of any loss with any optimizer."""

import dataclasses
from collections.abc import Callable
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradtx.combinators import measurements
from gradtx.core import Part, Record, State, leaves_by_path, walk
from gradtx.core.arguments import checked, function_of, is_array, live, one_key, trace_state, traced
from gradtx.core.checks import check_values, manual_axes, passed, refuse_shards
from gradtx.core.errors import place, said
from gradtx.core.kinds import Count
from gradtx.core.programs import program_of
from gradtx.core.trees import is_float0, unboxed, widen
from gradtx.inspect.hyperparameters import learning_rates
from gradtx.pieces.formulas import two_sum
from gradtx.pieces.measures import all_finite, global_norm
from gradtx.wrappers.accumulate import FEW

WIDE = {"xla_cpu_prefer_vector_width": 512}
current_trace, NO_TRACE = trace_state()


class Metrics(NamedTuple):
    """Measurements of a training step: the loss, its further outputs and, with `measure`, what the optimizer did."""

    loss: Array
    """The loss of the batch, before the step."""
    finite: Any = None
    """With `skip_nonfinite`, True if the loss and the gradient were finite; None otherwise."""
    aux: Any = None
    """With `has_aux`, the auxiliary output of the loss, stacked over the micro-batches if there are several."""
    model_state: Any = None
    """With `has_model_state`, the model state for the next step."""
    weight: Any = None
    """With `weighted`, the weight of the batch: the sum over its micro-batches."""
    learning_rate: Any = None
    """With `measure`, the learning rate of the step, schedules and clocks included. A dict by name if the optimizer has
    several, as groups do; None if it has none."""
    gradient_norm: Any = None
    """With `measure`, the global norm of the gradient of the batch, before any clipping."""
    update_norm: Any = None
    """With `measure`, the global norm of the change of the parameters."""
    skipped: Any = None
    """With `measure`, True if `skip_nonfinite`, as an option or a wrapper, or `skip_if` skipped the step; else None."""
    measurements: Any = None
    """With `measure`, the numbers of every `monitor` of the optimizer, as `gx.measurements` returns them."""


class train_step(Record):
    """Compiled training step of any loss with any optimizer: `(params, state, batch) -> (params, state, metrics)`.

    The gradient, the update and its addition to the parameters are one program. It reuses the memory of `params` and
    `state`, so the arrays passed in are deleted; `donate=False` keeps them. The optimizer is an argument of the
    program: `step(…, tx=other)` runs other hyperparameters without compiling again. Within `jax.jit` or `jax.lax.scan`
    the step is a plain function.

    The pieces of the optimizer receive the extra arguments that they need: the loss as `value`, the gradient as `grad`,
    the `key`, and, of the same batch, the loss `value_fn` and its gradient `grad_fn` as functions of the parameters,
    and the Hessian-vector product `hvp`. So do Optax's transformations that read them. `qk_clip` receives
    `aux["max_logits"]`, the largest of micro-batches. Clipping is a piece of the optimizer:
    `gx.chain(gx.clip_by_global_norm(1.0), tx)`. Evaluate the model at `gx.eval_params(step.tx, state, params)`.

    Args:
      loss: `loss(params, batch)`, which returns one real number. It also takes `model_state` and a key, in this order,
        if `has_model_state` and `has_key` are set.
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.
      has_aux: If True, the loss returns `(value, aux)`.
      has_model_state: If True, the loss is `loss(params, batch, model_state)` and returns `(value, model_state)` with
        the next model state (such as running means), or `(value, (model_state, aux))` if `has_aux` is True too.
      has_key: If True, the loss takes a random key as its last argument.
      micro_batches: The number of equal parts into which the batch is split, an integer, 1 or more; the gradient is
        averaged over them. If the loss is a mean over different numbers of tokens in the parts, set `weighted` too.
      weighted: If True, the loss returns `(value, weight)` in place of the value, where the weight, 0 or more, is the
        number of tokens or examples that the value is a mean of. The loss and the gradient of micro-batches are then
        means weighted by it, which are those of the whole batch; a part of weight 0 adds nothing, even if its loss is
        NaN. Pieces that need `weight`, such as `accumulate(…, weighted=True)`, receive it.
      skip_nonfinite: If True, a step whose loss or gradient is not finite leaves parameters, state and model state
        unchanged.
      donate: If True, the step reuses the memory of `params` and `state`.
      measure: If True, the `Metrics` have the learning rate, the norms of the gradient and of the step, skipped
        steps and the numbers of every `monitor`. This reads the gradient and the parameters once more. If False,
        nothing is measured and the program is that of the update alone.

    Raises:
      ValueError: The loss is not one real number, the micro-batches do not divide the batch, or a key or a model state
        is missing or unexpected.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> step = gx.train_step(lambda w, batch: jnp.mean((batch * w - 1) ** 2), gx.sgd(0.25))
    >>> params, batch = jnp.zeros(()), jnp.ones(4)
    >>> params, state, metrics = step(params, step.tx.init(params), batch)
    >>> float(params), float(metrics.loss)
    (0.5, 1.0)
    """

    loss: Callable[..., Any]
    tx: Part
    has_aux: bool = False
    has_model_state: bool = False
    has_key: bool = False
    micro_batches: Count = 1
    weighted: bool = False
    skip_nonfinite: bool = False
    donate: bool = True
    measure: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        more = [*(["model_state"] if self.has_model_state else []), *(["key"] if self.has_key else [])]
        function_of("train_step: loss", self.loss, "params", "batch", *more)

    @checked
    def __call__(
        self, params: Any, state: State, batch: Any, *, key: Any = None, model_state: Any = None, tx: Any = None
    ) -> tuple[Any, State, Metrics]:
        """Run one step. Pass `tx` to use other hyperparameters without recompiling.

        Args:
          params: The parameters.
          state: The state of the optimizer, from `step.tx.init(params)` or the previous step.
          batch: The batch, as the loss takes it.
          key: The random key of this step, if the loss or a piece of the optimizer takes one.
          model_state: The model state, with `has_model_state`.
          tx: An optimizer that replaces `step.tx` in this call.

        Returns:
          The new parameters, the new state and the `Metrics`.
        """
        step = self if tx is None else dataclasses.replace(self, tx=tx)
        if current_trace() == NO_TRACE:
            try:
                check_values(step.tx, state)
                return passed(step._program(params, state, batch, key, model_state))
            except (TypeError, ValueError, RuntimeError) as error:
                if isinstance(params, State):
                    raise TypeError("train_step: call step(params, state, batch): params is a state") from error
                if self.donate and isinstance(error, RuntimeError):
                    _check_not_aliased({"params": params, "state": state}, {"batch": batch, "model_state": model_state})
                _check_usable(params=params, state=state, batch=batch, key=key, model_state=model_state)
                raise
        return _step(step, params, state, batch, key, model_state)

    @cached_property
    def _program(self) -> Callable[..., Any]:
        """The compiled step, shared by all steps of this structure, with the hyperparameters bound to it.

        The hyperparameters are one vector, made once: a small model's step takes as long as passing its arguments.
        """
        hyperparameters, build_step = split_step(self)

        def make(loss):
            def program(hyperparameters, params, state, batch, key, model_state):
                return _step(build_step(hyperparameters, loss()), params, state, batch, key, model_state)

            donated = ("params", "state") if self.donate else None
            return jax.jit(program, donate_argnames=donated, compiler_options=compiler_options())

        program = program_of(self.loss, build_step, make)
        with jax.ensure_compile_time_eval():  # the cached array must not be a tracer
            return partial(program, jnp.array(hyperparameters, float))

    @cached_property
    def _needs_key(self) -> bool:
        return self.has_key or "key" in self._reads

    @cached_property
    def _reads(self) -> set[str]:
        """The extra arguments that the pieces read."""
        return {name for piece in walk(self.tx) for name in piece.reads()}

    def __getstate__(self) -> dict[str, Any]:  # without the cached properties
        return {name: getattr(self, name) for name in self._kinds}

    def _value(self, params: Any, batch: Any, model_state: Any, key: Any) -> tuple[Any, tuple[Any, Any, Any]]:
        """Return the loss and `(weight, next model state, aux)`; the weight is None unless `weighted`."""
        more = [*([model_state] if self.has_model_state else []), *([key] if self.has_key else [])]
        value = traced("train_step: loss", self.loss, params, batch, *more)
        aux = weight = None
        name = "(value, weight)" if self.weighted else "value"
        if self.has_aux or self.has_model_state:
            value, aux = _pair(f"({name}, aux)" if not self.has_model_state else f"({name}, model_state)", value)
        if self.has_model_state:
            after, aux = _pair(f"({name}, (model_state, aux))", aux) if self.has_aux else (aux, None)
            model_state = _next_model_state(after, model_state)
        if self.weighted:
            value, weight = _pair(name, value)
            if (
                not (is_array(weight) or isinstance(weight, (int, float)))
                or jnp.shape(weight)
                or jnp.iscomplexobj(weight)
            ):
                raise ValueError(f"train_step: the weight must be one real number, got {said(weight)}")
            weight = jnp.asarray(weight, float)
        if not _is_real_number(value):
            more = ": set has_aux=True, has_model_state=True or weighted=True" if isinstance(value, tuple) else ""
            raise ValueError(f"train_step: the loss must be one real number, got {said(value)}{more}")
        for path, x in leaves_by_path(aux).items():
            if not is_array(x) and not isinstance(x, (int, float, complex)):
                raise TypeError(f"train_step: {place('aux', path)} must be an array, got {said(x)}")
        return value, (weight, model_state, aux)

    def _check(self, batch: Any, key: Any, model_state: Any) -> None:
        if (key is None) == self._needs_key:
            missing = "key is missing: the loss or the optimizer takes one; pass key=jax.random.key(seed)"
            unexpected = "unexpected key: the loss takes none (has_key=True if it does), nor does the optimizer"
            raise ValueError(f"train_step: {missing if key is None else unexpected}")
        if key is not None:
            one_key("train_step", key)
        if (model_state is None) == self.has_model_state:
            missing = "model_state is missing: the loss takes one (has_model_state=True)"
            unexpected = "unexpected model_state: set has_model_state=True if the loss takes one"
            raise ValueError(f"train_step: {missing if model_state is None else unexpected}")
        if "weight" in self._reads and not self.weighted:
            how = "set weighted=True, with a loss that returns (value, weight)"
            raise ValueError(f"train_step: weight is missing: the optimizer takes one; {how}")
        if self.micro_batches > 1:
            if not (rows := leaves_by_path(batch)):
                raise ValueError(
                    f"train_step: {self.micro_batches} micro-batches need an array in batch, got {said(batch)}"
                )
            for path, leaf in rows.items():
                if not jnp.ndim(leaf) or jnp.shape(leaf)[0] % self.micro_batches:
                    of = f"{place('batch', path)} of shape {jnp.shape(leaf)}"
                    raise ValueError(f"train_step: {self.micro_batches} micro-batches do not divide {of}")
                if jnp.shape(leaf)[0] != len(first := next(iter(rows.values()))):
                    of = f"{place('batch', path)} has {jnp.shape(leaf)[0]} rows, another array of it {len(first)}"
                    raise ValueError(f"train_step: {of}: micro-batches need equal numbers of rows")


def _check_not_aliased(reused: Any, read: Any) -> None:
    """Raise if one array stands in two places and a step would reuse its memory in one of them."""

    def arrays(trees):
        leaves = ((place(name, path), x) for name, tree in trees.items() for path, x in leaves_by_path(tree).items())
        return [(where, x) for where, x in leaves if isinstance(x, Array)]

    own = arrays(reused)
    for i, (here, x) in enumerate(own + arrays(read)):
        if there := [other for other, y in own[:i] if x is y]:
            how = "copy it, jnp.copy(x), or set donate=False"
            raise ValueError(f"train_step: {there[0]} and {here} are one array, whose memory a step reuses: {how}")


def _check_usable(**given: Any) -> None:
    """Raise for an argument that is not an array, or an array whose memory an earlier step reused."""
    for name, tree in given.items():
        for path, x in leaves_by_path(tree).items():
            if not is_array(x) and not isinstance(x, (int, float, complex)):
                raise TypeError(f"train_step: {place(name, path)} must be an array, got {said(x)}")
            live(f"train_step: {place(name, path)}", x)


def _pair(form: str, value: Any) -> Any:
    """Return `value`, or raise if it is not a pair."""
    if not (isinstance(value, tuple) and len(value) == 2):
        raise ValueError(f"train_step: the loss must return {form}, got {said(value)}")
    return value


def _next_model_state(new: Any, old: Any) -> Any:
    """Return the new model state in the dtypes of the old one; raise if its structure or shapes differ."""
    have, need = leaves_by_path(new), leaves_by_path(old)
    for path in (*need, *have):
        a, b = have.get(path), need.get(path)
        if a is None or b is None or jnp.shape(a) != jnp.shape(b):
            said = ["missing" if x is None else f"of shape {jnp.shape(x)}" for x in (a, b)]
            raise ValueError(
                f"train_step: the loss returns a model state whose {path!r} is {said[0]}; it was {said[1]}"
            )
    after, before = jax.tree.structure(new), jax.tree.structure(old)
    if after != before:
        raise ValueError(f"train_step: the loss returns a model state that is {after}; it was {before}")

    def cast(x, dtype):
        return x if getattr(x, "dtype", None) == dtype else jnp.asarray(x, dtype)

    return jax.tree.map(lambda x, y: cast(x, jnp.result_type(y)), new, old)


def _is_real_number(x: Any) -> bool:
    return (
        isinstance(x, (float, Array, np.ndarray, np.generic))
        and not jnp.shape(x)
        and jnp.issubdtype(jnp.result_type(x), jnp.floating)
    )


def _step(step: train_step, params: Any, state: State, batch: Any, key: Any, model_state: Any) -> Any:
    """Run the step. The gradient is conjugated: `jax.grad` returns the conjugate of the steepest ascent direction."""
    step._check(batch, key, model_state)

    def gradient_of(params, batch, model_state, key):
        (value, (weight, model_state, aux)), gradient = jax.value_and_grad(step._value, has_aux=True, allow_int=True)(
            params, batch, model_state, key
        )
        gradient = jax.tree.map(lambda g: None if is_float0(g) else jnp.conj(g), gradient)
        return (value, gradient), weight, model_state, aux

    def value_of(params, batch, model_state, key):
        value, (weight, model_state, aux) = step._value(params, batch, model_state, key)
        return value, weight, model_state, aux

    def share_of(x, weight):
        """Return what one micro-batch adds to the mean, or to the sum that the total weight divides."""
        if weight is None:
            return x / step.micro_batches
        return jnp.where(weight == 0, 0, weight.astype(x.dtype) * x)

    def mean_of(evaluate, params):
        """Evaluate on the whole batch, in micro-batches."""
        if step.micro_batches == 1:
            new, weight, after, aux = evaluate(params, batch, model_state, key)
            if step.weighted:
                new = jax.tree.map(lambda x: jnp.where(weight == 0, 0, x), new)
            return new, weight, after, aux

        def part(carry, rows):
            mean, lost, total, model_state, i = carry
            own = None if key is None else jax.random.fold_in(key, i)
            new, weight, model_state, aux = evaluate(params, rows, model_state, own)
            new = jax.tree.map(lambda m, x: share_of(x.astype(m.dtype), weight), mean, new)
            if lost is None:
                mean = jax.tree.map(jnp.add, mean, new)
            else:  # what the additions round off is added to the next part
                pairs = jax.tree.map(lambda m, rest, x: two_sum(m, rest + x), mean, lost, new)
                mean, lost = jax.tree.transpose(jax.tree.structure(mean), None, pairs)
            return (mean, lost, jax.tree.map(jnp.add, total, weight), model_state, i + 1), aux

        rows = jax.tree.map(lambda x: jnp.reshape(x, (step.micro_batches, -1, *jnp.shape(x)[1:])), batch)
        first = jax.tree.map(lambda x: x[0], rows)
        like, total = jax.eval_shape(lambda: evaluate(params, first, model_state, key)[:2])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype if x.dtype.itemsize >= 4 else "float32"), like)
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), total)
        lost = None if step.micro_batches <= FEW else zeros
        (mean, _, total, after, _), aux = jax.lax.scan(part, (zeros, lost, total, model_state, 0), rows)
        if step.weighted:
            mean = jax.tree.map(lambda m: m / jnp.where(total == 0, 1, total).astype(m.dtype), mean)
        return jax.tree.map(lambda m, x: m.astype(x.dtype), mean, like), total, after, aux

    def grad_fn(point):
        return mean_of(gradient_of, point)[0][1]

    (value, gradient), weight, after, aux = mean_of(gradient_of, params)
    if axes := manual_axes():
        for option in ("skip_nonfinite", "measure"):
            if getattr(step, option):
                refuse_shards(f"train_step: {option}", {"gradient": gradient}, axes, f"pass {option}=False")
    if not jax.tree.leaves(gradient):
        raise ValueError("train_step: params holds no floating or complex array to train: write 0.0, not 0")

    def go(params, state, gradient):
        given = {
            "value": value,
            "weight": weight,
            "grad": gradient,
            "key": key,
            "value_fn": lambda point: mean_of(value_of, point)[0],
            "grad_fn": grad_fn,
            "hvp": lambda v: jax.jvp(grad_fn, (params,), (v,))[1],
        }
        if "max_logits" in step._reads:
            given["max_logits"] = _max_logits(aux, step.micro_batches)
        extra = {name: x for name, x in given.items() if name in step._reads}
        return step.tx.apply(params, state, gradient, **extra)

    finite = None
    if step.skip_nonfinite:
        finite = all_finite(gradient, value)
        new = jax.lax.cond(finite, go, lambda params, state, gradient: (params, state), params, state, gradient)
        after = jax.tree.map(partial(jnp.where, finite), after, model_state)
    else:
        new = go(params, state, gradient)
    measured = _measured(step.tx, (params, state), new, gradient, finite) if step.measure else {}
    return *new, Metrics(value, finite, aux, after, weight, **measured)


def _max_logits(aux: Any, micro_batches: int) -> Any:
    """The largest logits of the batch, which the loss returns beside its value."""
    if not (isinstance(aux, dict) and "max_logits" in aux):
        how = "set has_aux=True, with a loss that returns (value, {'max_logits': …})"
        raise ValueError(f"train_step: max_logits is missing: the optimizer takes it; {how}")
    largest = aux["max_logits"]
    return jax.tree.map(lambda x: jnp.max(x, 0), largest) if micro_batches > 1 else largest


def _measured(tx: Any, before: Any, after: Any, gradient: Any, finite: Any) -> dict[str, Any]:
    """Return the `Metrics` of `measure`, given parameters and state before and after the step."""

    def change(old: Any, new: Any) -> Any:
        return widen(new) - widen(old) if jnp.issubdtype(jnp.result_type(old), jnp.inexact) else None

    return {
        "learning_rate": jax.tree.map(jnp.asarray, learning_rates(tx, before[1])),
        "gradient_norm": global_norm(gradient),
        # Of the change, not of the updates: XLA on a CPU would compute these twice, which takes as long as a step.
        "update_norm": global_norm(jax.tree.map(change, before[0], after[0])),
        "skipped": _skipped(before[1], after[1], finite),
        "measurements": measurements(after[1]),
    }


def _skipped(before: State, after: State, finite: Any) -> Any:
    """Return whether `finite` is False or a guard counted a skipped step; None without either."""

    def counts(state: State) -> list[Any]:
        leaves = leaves_by_path(unboxed(state.slots))  # a monitor may have the same name, but measures no integer
        return [
            x
            for path, x in leaves.items()
            if "measured/skipped/" in f"{path}/" and jnp.issubdtype(x.dtype, jnp.integer)
        ]

    skipped = [] if finite is None else [~finite]
    skipped += [jnp.any(new != old) for old, new in zip(counts(before), counts(after))]
    return jnp.stack(skipped).any() if skipped else None


@dataclasses.dataclass(frozen=True)
class StepBuilder:
    """The structure of a `train_step` without its loss. Call it with hyperparameters and a loss to build the step."""

    structure: Any

    def __call__(self, hyperparameters: Any, loss: Callable[..., Any]) -> train_step:
        step = jax.tree.unflatten(self.structure, list(hyperparameters))
        step.__dict__["loss"] = loss
        return step


def split_step(step: train_step) -> tuple[list[Any], StepBuilder]:
    """Split a step into its hyperparameters and a builder that takes them and the loss."""
    leaves, structure = jax.tree.flatten(step)
    without_loss = jax.tree.unflatten(structure, leaves)
    without_loss.__dict__["loss"] = None
    return leaves, StepBuilder(jax.tree.structure(without_loss))


@cache
def compiler_options() -> dict[str, Any] | None:
    """XLA's options: 512-bit vectors on a CPU, up to 2 % faster; None on other backends or if XLA lacks the option."""
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=WIDE).lower().compile()
    except RuntimeError:
        return None
    return WIDE
