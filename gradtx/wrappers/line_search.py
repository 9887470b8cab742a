"""Line searches: wrappers that find how far to go along a direction, by the values of the loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Decay, Part, Positive, Slots, State, Transformation, walk, working_dtype
from gradtx.core.arguments import checked
from gradtx.core.checks import refuse_local
from gradtx.core.errors import _listed, describe, said
from gradtx.core.kinds import Count
from gradtx.core.root import counted
from gradtx.core.trees import Measurement, differentiable, is_float0, is_none, narrow, sharded, widen
from gradtx.pieces.elementwise import scale_by_learning_rate
from gradtx.pieces.extra import value_of
from gradtx.pieces.formulas import safe_divide, safe_sqrt
from gradtx.pieces.measures import inner_product


class Evaluated(NamedTuple):
    """The loss and its gradient at the parameters that a line search stepped to."""

    value: Array  # the largest number before the first update
    gradient: Any


class Trial(NamedTuple):
    """A point on the line: t, φ(t) and φ′(t), as one array, of which a loop carries fewer than of numbers."""

    numbers: Array

    @classmethod
    def of(cls, t: Array, value: Array, slope: Array) -> "Trial":
        return cls(jnp.stack([t, value, slope]))

    t = property(lambda self: self.numbers[0])
    value = property(lambda self: self.numbers[1])
    slope = property(lambda self: self.numbers[2])


class LineSearch(Transformation):
    """Base of line searches: u = −t·d, with t found by `search` along the direction d."""

    direction: Part
    c1: Decay = 1e-4

    needs = ("params", "value", "value_fn")
    formula = "d = direction(g); s = search(d); u = -s * d"

    def reads(self) -> set[str]:
        return {*self.needs, "grad_fn"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(isinstance(piece, scale_by_learning_rate) for piece in walk(self.direction)):
            place = f"{type(self).__name__}: direction"
            how = "it finds the learning rate itself; use momentum(0.9), not sgd(0.1, momentum=0.9)"
            raise ValueError(f"{place} must be without a learning rate, got {said(self.direction)}: {how}")

    def init_tree(self, params: Any) -> Slots:
        dtype = working_dtype(params)

        def zeros(p: Any) -> Array | None:
            return sharded(jnp.zeros_like(widen(p)), widen(p)) if differentiable("params", p) else None

        measured = {"step size": jnp.zeros((), dtype)}
        measured |= {name: jnp.zeros((), jnp.int32) for name in ("evaluations", "failures")}
        return super().init_tree(params) | {
            "evaluated": Evaluated(jnp.full((), jnp.finfo(dtype).max, dtype), jax.tree.map(zeros, params)),
            "measured": {name: Measurement(x) for name, x in measured.items()},
        }

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        direction = self.part("direction", updates, slots, context, new := {})
        old = {name: x.value for name, x in slots["measured"].items()}
        value = value_of(self, context, old["step size"].dtype)
        refuse_local(type(self).__name__, "a loss", value)
        # −⟨g, d⟩ is the slope at 0 of φ(t) = f(θ − t·d). Uphill, the search goes along the gradient instead.
        product = inner_product(updates, direction)
        refuse_local(type(self).__name__, "an inner product", product)
        down = product > 0
        direction = jax.tree.map(lambda d, g: jnp.where(down, d, g), direction, updates)
        slope = -jnp.where(down, product, inner_product(updates, updates))

        # The step size is a constant to `jax.grad`, which has no reverse mode for loops of unknown length.
        fixed = jax.lax.stop_gradient((self, updates, direction, context.params, value, slope, old["step size"]))
        tx, start, along, params, first, fall, last = fixed

        def at(t: Array) -> tuple[Trial, Any]:
            point = jax.tree.map(lambda d, p: None if d is None else p - t * d, along, params, is_leaf=is_none)
            value, gradient = evaluate(self, context, point, t.dtype)
            return Trial.of(t, value, -inner_product(gradient, along)), gradient

        origin = Trial.of(jnp.zeros_like(fall), first, fall)
        best, gradient, trials, found = tx.search(at, origin, start, last)
        failed = ~(found & down) & ~(fall == 0)
        kept = jax.tree.map(
            lambda g, held: held if g is None else g, gradient, slots["evaluated"].gradient, is_leaf=is_none
        )
        measured = {
            "step size": best.t,
            "evaluations": trials,
            "failures": jnp.where(failed, counted(old["failures"]), old["failures"]),
        }
        new |= {
            "evaluated": Evaluated(best.value, kept),
            "measured": {name: Measurement(x) for name, x in measured.items()},
        }
        return jax.tree.map(lambda d: -(best.t * d), direction), new

    def search(
        self, at: Callable[[Array], tuple[Trial, Any]], origin: Trial, gradient: Any, last: Array
    ) -> tuple[Trial, Any, Array, Array]:
        """Return the trial to step to, its gradient, the number of trials, and whether it meets the conditions."""
        raise NotImplementedError

    def decreases(self, trial: Trial, origin: Trial) -> Array:
        """Armijo's condition. Where rounding hides the decrease, the slope decides (Hager and Zhang, 2005)."""
        rounding = 100 * jnp.finfo(origin.value.dtype).eps * jnp.abs(origin.value)
        enough = trial.value <= origin.value + self.c1 * trial.t * origin.slope
        hidden = (trial.value <= origin.value + rounding) & (-trial.t * origin.slope < rounding)
        hidden &= trial.slope <= (2 * self.c1 - 1) * origin.slope
        return (enough | hidden) & jnp.isfinite(trial.value) & jnp.isfinite(trial.slope)


def evaluate(tx: Transformation, context: Context, point: Any, dtype: Any) -> tuple[Array, Any]:
    """Return the value and the gradient of the loss, the latter of `grad_fn` where `update` is given it."""

    def value_fn(point: Any) -> Array:
        value = context.extra["value_fn"](point)
        place = f"{type(tx).__name__}: value_fn(…) must be one real number"
        if not isinstance(value, (int, float)) and not hasattr(value, "dtype"):
            raise TypeError(f"{place}, got {said(value)}: with an auxiliary output, return the value alone")
        if jnp.shape(value) or jnp.iscomplexobj(value):
            raise ValueError(f"{place}, got {describe(jnp.asarray(value))}")
        value = jnp.asarray(value, dtype)
        refuse_local(f"{type(tx).__name__}: value_fn", "a loss", value)
        return value

    if "grad_fn" in context.extra:
        return value_fn(point), context.extra["grad_fn"](point)
    return jax.value_and_grad(value_fn)(point)


class backtracking(LineSearch):
    r"""Backtracking line search: shorten the step until the loss decreases enough (Armijo, 1966).

    $$u = −t\, d, \qquad d = \mathrm{direction}(g), \qquad f(θ − t d) ≤ f(θ) − c_1\, t\, ⟨g, d⟩$$

    A rejected t is replaced by the minimum of the parabola through f(θ), its slope and f(θ − t·d), at least t/10 and at
    most t/2. A trial whose loss or gradient is not finite is rejected. Where d is not a descent direction, ⟨g, d⟩ ≤ 0,
    the search goes along g. If no trial is accepted, u is 0. Both count as a failure.

    Every update needs `params`, the loss `value`, and `value_fn`, the loss as a function of parameters, of the same
    batch; g must be its gradient. Each trial evaluates the loss and its gradient, by reverse mode. Where `update` also
    receives `grad_fn`, the gradient comes from it. Put the search last in a chain: the state holds the value and the
    gradient at the parameters of the step, and `value_and_grad_from_state` returns them, so that nothing is evaluated
    twice. `gx.measurements(state)` has the `"step size"` t, the number of `"evaluations"` of the last update, and the
    number of `"failures"` so far. In derivatives of an update, t counts as a constant. Within `jax.shard_map`, losses
    and gradients must be of the whole, as after `jax.lax.pmean`; with its `check_vma`, others raise an error.

    Args:
      direction: The transformation that makes d of the gradient, without a learning rate, such as `momentum(0.9)`.
      c1: c₁, the fraction of the decrease of a linear loss that is enough, in [0, 1).
      max_rate: The upper bound of the learning rate, above 0. The first search begins there.
      grow: A later search begins at this times the last t, above 0, and at most at `max_rate`. None begins each search
        at `max_rate`, as directions of Newton's kind need, such as `scale_by_lbfgs`.
      max_trials: The largest number of trials of one update, an integer, 1 or more.

    Raises:
      ValueError: `direction` has a learning rate; `update` lacks `params`, `value` or `value_fn`; the value is not one
        real number; or, within `jax.shard_map`, a loss or an inner product differs from device to device.
      TypeError: The value is not a number.

    Source: Armijo 1966; Nocedal and Wright 2006, algorithm 3.1 and equation 3.57.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> loss = lambda w: jnp.sum(jnp.array([1.0, 100.0]) * w**2)
    >>> tx, params = gx.backtracking(gx.momentum(0.9)), jnp.array([1.0, 1.0])
    >>> state = tx.init(params)
    >>> for _ in range(100):
    ...     value, gradient = gx.value_and_grad_from_state(loss)(params, state=state)
    ...     params, state = tx.apply(params, state, gradient, value=value, value_fn=loss)
    >>> bool(loss(params) < 1e-3), float(gx.measurements(state)["step size"]) > 0
    (True, True)
    """

    max_rate: Positive = 1.0
    grow: Positive | None = 2.0
    max_trials: Count = 20

    def search(self, at: Any, origin: Trial, gradient: Any, last: Array) -> Any:
        def going(carry: Any) -> Array:
            n, *_, done = carry
            return (n < self.max_trials) & ~done

        def body(carry: Any) -> Any:
            n, t, *_ = carry
            trial, gradient = at(t)
            # The minimum of the parabola through φ(0), φ′(0) and φ(t).
            bend = trial.value - origin.value - origin.slope * t
            least = -origin.slope * t * t / (2 * jnp.where(bend > 0, bend, 1))
            shorter = jnp.where(jnp.isfinite(trial.value), jnp.clip(least, 0.1 * t, 0.5 * t), 0.1 * t)
            return n + 1, shorter, trial, gradient, self.decreases(trial, origin)

        first = self.max_rate if self.grow is None else jnp.minimum(self.max_rate, self.grow * last)
        first = jnp.where(last > 0, first, self.max_rate)
        start = (jnp.zeros((), jnp.int32), first, origin, gradient, origin.slope >= 0)
        n, _, trial, kept, done = jax.lax.while_loop(going, body, start)
        found = done & (n > 0)
        best, gradient = _pick(found, (trial, kept), (origin, gradient))
        return best, gradient, n, found


class zoom(LineSearch):
    r"""Line search for the strong Wolfe conditions, by bracketing and zooming in (Nocedal and Wright, 2006).

    $$u = −t\, d, \qquad d = \mathrm{direction}(g), \qquad
    φ(t) ≤ φ(0) + c_1\, t\, φ'(0), \qquad |φ'(t)| ≤ c_2\, |φ'(0)|, \qquad φ(t) = f(θ − t d)$$

    It begins at t = 1 and goes on by the minimum of the cubic through two trials: from 1.1 to 4 times as far until a
    minimum is bracketed, then inside the bracket. Where rounding hides the decrease, the slope alone decides. A trial
    whose loss or gradient is not finite is rejected. Where d is not a descent direction, ⟨g, d⟩ ≤ 0, the search goes
    along g. If no trial meets both conditions, t is the best trial that meets the first, or 0. Both count as a failure.

    Every update needs `params`, the loss `value`, and `value_fn`, the loss as a function of parameters, of the same
    batch; g must be its gradient. Each trial evaluates the loss and its gradient, by reverse mode. Where `update` also
    receives `grad_fn`, the gradient comes from it. Put the search last in a chain: the state holds the value and the
    gradient at the parameters of the step, and `value_and_grad_from_state` returns them, so that nothing is evaluated
    twice. `gx.measurements(state)` has the `"step size"` t, the number of `"evaluations"` of the last update, and the
    number of `"failures"` so far. In derivatives of an update, t counts as a constant. Within `jax.shard_map`, losses
    and gradients must be of the whole, as after `jax.lax.pmean`; with its `check_vma`, others raise an error.

    Args:
      direction: The transformation that makes d of the gradient, without a learning rate, such as `scale_by_lbfgs()`.
      c1: c₁, the fraction of the decrease of a linear loss that is enough, in [0, 1).
      c2: c₂, the fraction of the slope that may remain, in [0, 1) and above c₁: 0.9 for directions of Newton's kind,
        0.1 for conjugate gradients.
      max_trials: The largest number of trials of one update, an integer, 1 or more.

    Raises:
      ValueError: `direction` has a learning rate; c₂ is not above c₁; `update` lacks `params`, `value` or `value_fn`;
        the value is not one real number; or, within `jax.shard_map`, a loss or an inner product differs from device to
        device.
      TypeError: The value is not a number.

    Source: Nocedal and Wright 2006, algorithms 3.5 and 3.6, equation 3.59; for rounding, Hager and Zhang 2005.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> loss = lambda w: 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2
    >>> tx, params = gx.zoom(gx.scale_by_lbfgs()), jnp.array([-1.2, 1.0])
    >>> state = tx.init(params)
    >>> for _ in range(40):
    ...     value, gradient = gx.value_and_grad_from_state(loss)(params, state=state)
    ...     params, state = tx.apply(params, state, gradient, value=value, value_fn=loss)
    >>> params.round(3)
    Array([1., 1.], dtype=float32)
    """

    c2: Decay = 0.9
    max_trials: Count = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.c1, float) and isinstance(self.c2, float) and self.c2 <= self.c1:
            raise ValueError(f"zoom: c2 must be above c1, got {self.c2} and {self.c1}")

    def search(self, at: Any, origin: Trial, gradient: Any, last: Array) -> Any:
        eps, first = jnp.finfo(origin.value.dtype).eps, origin

        def going(carry: Any) -> Array:
            n, _, low, high, _, (bracketed, done) = carry
            narrow = jnp.abs(high.t - low.t) <= eps * low.t
            return (n < self.max_trials) & ~done & ~(bracketed & narrow)

        def body(carry: Any) -> Any:
            n, t, low, high, kept, (bracketed, _) = carry
            here, gradient = at(t)
            # XLA would compute what depends on the origin alone before the loop, by a kernel for each number.
            origin, _ = jax.lax.optimization_barrier((first, t))
            enough = self.decreases(here, origin)
            level = jnp.abs(here.value - low.value) <= 100 * eps * jnp.abs(origin.value)
            too_far = ~enough | ((n > 0) & (here.value >= low.value) & ~level)
            done = ~too_far & (jnp.abs(here.slope) <= -self.c2 * origin.slope)
            # The minimum is between `here` and `low` where the slope points back to `low`.
            back = jnp.where(bracketed, here.slope * (high.t - low.t) >= 0, here.slope >= 0)
            high = _pick(too_far, here, _pick(back, low, high))
            low, last = _pick(too_far, low, here), low
            kept = _pick(too_far, kept, gradient)
            bracketed = bracketed | too_far | back
            # Inside a bracket, a tenth of it away from its ends at least; before, beyond the last trial.
            ends = _pick(bracketed, (low, high), (last, here))
            near, far = (pick(ends[0].t, ends[1].t) for pick in (jnp.minimum, jnp.maximum))
            margin = 0.1 * (far - near)
            near, far = _pick(bracketed, (near + margin, far - margin), (1.1 * t, 4 * t))
            least, exists = _cubic(*ends)
            ahead = jnp.where(exists, jnp.clip(least, near, far), jnp.where(bracketed, (near + far) / 2, far))
            return n + 1, ahead, low, high, kept, jnp.stack([bracketed, done])

        start = (jnp.zeros((), jnp.int32), jnp.ones_like(origin.t), origin, origin, gradient)
        flags = jnp.stack([jnp.zeros((), bool), origin.slope >= 0])
        n, _, low, _, kept, (_, done) = jax.lax.while_loop(going, body, (*start, flags))
        found = done & (n > 0)
        best, gradient = _pick(found | (low.value < origin.value), (low, kept), (origin, gradient))
        return best, gradient, n, found


def _pick(which: Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(which, x, y), a, b)


def _cubic(a: Trial, b: Trial) -> tuple[Array, Array]:
    """The minimum of the cubic with the values and slopes of two trials, and whether it has one."""
    first = a.slope + b.slope - 3 * safe_divide(a.value - b.value, a.t - b.t)
    size = jnp.maximum(jnp.abs(first), jnp.maximum(jnp.abs(a.slope), jnp.abs(b.slope)))
    first, da, db = (safe_divide(x, size) for x in (first, a.slope, b.slope))  # their squares do not overflow
    square = first * first - da * db
    root = jnp.sign(b.t - a.t) * safe_sqrt(square)
    width = db - da + 2 * root
    exists = (square >= 0) & (width != 0) & jnp.isfinite(width)
    return b.t - (b.t - a.t) * ((db + root - first) / jnp.where(exists, width, 1)), exists


@checked
def value_and_grad_from_state(value_fn: Callable[..., Any]) -> Callable[..., tuple[Array, Any]]:
    """Return the value and the gradient that a line search has evaluated already, at the parameters of its step.

    Before the first update, and where the loss was not finite, they are computed by `jax.value_and_grad`. The state
    must be of an optimizer with `zoom` or `backtracking` outermost or last in a chain, and its last update must have
    been added to the parameters. With another batch than the one of the last update, use `jax.value_and_grad`: the
    state has the value and the gradient of the old one.

    The name and the signature are those of Optax; `optax.lbfgs` needs Optax's own function. For complex parameters, the
    gradient is the conjugate of the one of `jax.grad`, as `update` expects it.

    Args:
      value_fn: The loss, a function of parameters and further arguments, which returns one real number.

    Returns:
      A function of `(params, *args, state=state, **kwargs)`, which returns `(value, gradient)`.

    Raises:
      ValueError: The state is not the one of a line search, or does not fit the parameters.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> loss = lambda w: jnp.sum((w - 3) ** 2)
    >>> value_and_grad, tx, params = gx.value_and_grad_from_state(loss), gx.lbfgs(), jnp.zeros(2)
    >>> state = tx.init(params)
    >>> value, gradient = value_and_grad(params, state=state)
    >>> params, state = tx.apply(params, state, gradient, value=value, value_fn=loss)
    >>> value_and_grad(params, state=state)  # from the state
    (Array(10.514..., dtype=float32), Array([-4.585..., -4.585...], dtype=float32))
    """

    name = "value_and_grad_from_state"

    def value_and_grad(params: Any, *args: Any, state: State, **kwargs: Any) -> tuple[Array, Any]:
        def evaluated(params: Any) -> tuple[Array, Any]:
            value, gradient = jax.value_and_grad(value_fn, allow_int=True)(params, *args, **kwargs)
            return value, jax.tree.map(lambda g: None if is_float0(g) else jnp.conj(g), gradient)

        kept = handed_on(state)
        if kept is None:
            slots = _listed(state.slots) if isinstance(state, State) else said(state)
            how = "put zoom or backtracking outermost, or last in a chain"
            raise ValueError(f"{name}: state must be of one line search, got {slots}: {how}")
        value, gradient = jax.eval_shape(evaluated, params)
        handed = jnp.asarray(kept.value, value.dtype), restored(kept.gradient, gradient)
        known = kept.value < jnp.finfo(kept.value.dtype).max  # neither the first value nor NaN
        return jax.lax.cond(known, lambda: handed, lambda: evaluated(params))

    return value_and_grad


def handed_on(state: Any) -> Evaluated | None:
    """The value and the gradient in the state of a line search that is outermost or in the outermost chain."""
    found = [x["evaluated"] for x in getattr(state, "slots", {}).values() if isinstance(x, dict) and "evaluated" in x]
    return found[0] if len(found) == 1 else None


def restored(gradient: Any, like: Any) -> Any:
    """The kept gradient in the dtypes and the nodes of the parameters' gradient, of which `like` has the shapes."""
    have, (need, form) = jax.tree.leaves(gradient), jax.tree.flatten(like)
    made = [narrow(g, jnp.zeros((), x.dtype)) for g, x in zip(have, need)]
    if (shapes := [jnp.shape(x) for x in made]) != [x.shape for x in need] or len(have) != len(need):
        expected = [x.shape for x in need]
        raise ValueError(
            f"value_and_grad_from_state: expected a state of parameters of shapes {expected}, got {shapes}"
        )
    return form.unflatten(made)
