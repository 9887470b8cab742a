"""Averages over time, and the correction of their start at 0."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import (
    Context,
    Decay,
    NonNegative,
    PerLeaf,
    Positive,
    Schedule,
    Slots,
    Transformation,
    init_slots,
    run,
    working_dtype,
)
from gradtx.core.root import separable
from gradtx.pieces.formulas import lerp


class scale_by_ema(PerLeaf):
    """Exponential moving average of the updates.

    m ← b·m + (1 − b)·g;  u = m

    Effective window: 1/(1 − b) updates. The average starts at 0, so early values are biased low: follow it with
    `bias_correction(b)` or set `from_first=True`.

    Args:
      decay: b, the decay of the average, in [0, 1).
      from_first: If True, start the average at the first update instead of 0.
      before: If True, emit the previous average and update it afterwards (Lion, ADOPT).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.scale_by_ema(0.5)
    >>> state = tx.init(jnp.zeros(()))
    >>> for value in (25.0, 13.0, 17.0, 31.0, 43.0):
    ...     average, state = tx.update(jnp.array(value), state)
    ...     print(average)
    12.5
    12.75
    14.875
    22.9375
    32.96875
    """

    decay: Decay = 0.9
    from_first: bool = False
    before: bool = False

    @property
    def counts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.from_first

    linear = True
    elementwise = True
    emits = "updates"
    ranges: ClassVar[dict[str, str]] = {"mean": "updates"}
    formula = (
        "m0 = g if from_first else 0; l = (m * (t > 1) + g * (t <= 1) if from_first else m) if before else 0; "
        "m = decay * m + (1 - decay) * g; u = l if before else m"
    )

    def init_leaf(self, param: Array) -> Slots:
        return {"mean": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        before = jnp.where(context.age == 1, g, slots["mean"]) if self.from_first else slots["mean"]
        mean = lerp(before, g, self.decay)
        return before if self.before else mean, {"mean": mean}


class add_momentum(PerLeaf):
    """Heavy-ball momentum: a decaying sum of the updates (Polyak, 1964).

    v ← b·v + g;  u = v,  or with Nesterov  u = g + b·v

    This piece is a link of a chain and has no learning rate: for a complete optimizer use `sgd(momentum=…)` or
    `heavy_ball`, for an average of gradients instead of a sum use `averaged_momentum`, and for Adam's direction, a
    bias-corrected average, use the piece `momentum`.

    A constant update g grows to g / (1 − b). Nesterov's form is the gradient step from the look-ahead point, with the
    parameters kept at that point.

    Args:
      decay: b, the decay of the sum, in [0, 1): 1 − friction.
      nesterov: If True, use Nesterov's form of momentum. It looks one step ahead.

    Source: Polyak 1964; Nesterov 1983; Sutskever et al. 2013.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.add_momentum(0.5)
    >>> gradients, start = jnp.array([1.0, 1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([1.  , 1.5 , 1.75], dtype=float32)
    """

    decay: Decay = 0.9
    nesterov: bool = False

    linear = True
    elementwise = True
    emits = "updates"
    ranges: ClassVar[dict[str, str]] = {"velocity": "updates"}
    formula = "v = decay * v + g; u = g + decay * v if nesterov else v"

    def init_leaf(self, param: Array) -> Slots:
        return {"velocity": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        velocity = self.decay * slots["velocity"] + g
        return g + self.decay * velocity if self.nesterov else velocity, {"velocity": velocity}


class bias_correction(Transformation):
    """Correct an exponential moving average for its start at 0 (Kingma and Ba, 2015).

    u = g / (1 − bᵗ);  g / (1 − b₁·b₂ ⋯ bₜ) if b changes

    The correction keeps its own age t, the number of updates that it has seen, and the mean of log b over them. So it
    is right for fresh slots in an old run, for a decay that is a schedule, and for one that you change between updates.

    The age is one for all parameters, and counts an update if any of them has a gradient. `leafwise` gives each leaf an
    age of its own, for a leaf whose first gradient comes late, and `rowwise` each row, for rows whose average is reset.

    Args:
      decay: b, the decay of the average to correct, in [0, 1).

    Source: Kingma and Ba 2015, arXiv 1412.6980, section 3.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.chain(gx.scale_by_ema(0.9), gx.bias_correction(0.9))
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))[0].round(4)
    Array([3.], dtype=float32)
    """

    decay: Decay = 0.9

    counts = True

    linear = True
    elementwise = True
    emits = "updates"
    formula = "p0 = 1; p = decay * p if changing else decay**t; hat = g / (1 - p); u = hat"

    @property
    def changing(self) -> bool:
        """Whether the decay is a schedule."""
        return isinstance(self.decay, Schedule)

    def init_tree(self, params: Any) -> Slots:
        return {"mean_log_decay": jnp.zeros((), working_dtype(params))}

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        mean, log_product = _log_product(slots["mean_log_decay"], self.decay, context.age)
        # Computed for each leaf: one value for all leaves made a compiled step of a small network take 1.7× as long.
        return jax.tree.map(lambda g: g / -jnp.expm1(log_product), updates), {"mean_log_decay": mean}


def _log_product(mean: Array, decay: Array, age: Array) -> tuple[Array, Array]:
    """Return the mean of log b over t updates and the sum, log(b₁ ⋯ bₜ), given the mean over the t − 1 before."""
    t = age.astype(mean.dtype)
    mean = mean + (_log(decay) - mean) / t
    return mean, t * mean


def _log(decay: Array) -> Array:
    return jnp.log(jnp.maximum(decay, jnp.finfo(decay.dtype).tiny))


class nesterov_ema(Transformation):
    r"""Bias-corrected average of the updates as it will be one step ahead, Nadam's direction (Dozat, 2016).

    $$m ← b\,m + (1 − b)\,g, \qquad u = \frac{μ_{t+1}\, m}{1 − μ_1 ⋯ μ_{t+1}} + \frac{(1 − μ_t)\, g}{1 − μ_1 ⋯ μ_t}$$

    Here μₜ = b, or with the paper's warmup μₜ = b·(1 − ½·0.96^(ψ·t)).

    Args:
      decay: b, the decay of the average, in [0, 1).
      warmup: If True, warm up μ.
      warmup_rate: ψ, the rate of the warmup, 0 or more, per step.

    Source: Dozat 2016, Incorporating Nesterov momentum into Adam, algorithm 2, with m decayed by b at every step, as in
    PyTorch and Keras.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.nesterov_ema(0.5)
    >>> gradients, start = jnp.array([1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([1.3333, 1.0952], dtype=float32)
    """

    decay: Decay = 0.9
    warmup: bool = False
    warmup_rate: NonNegative = 0.004

    linear = True
    ranges: ClassVar[dict[str, str]] = {"scale_by_ema": "updates"}
    elementwise = True
    formula = (
        "m = decay * m + (1 - decay) * g; "
        "μ = decay * (1 - 0.96 ** (warmup_rate * t) / 2) if warmup else decay; "
        "ν = decay * (1 - 0.96 ** (warmup_rate * (t + 1)) / 2) if warmup else decay; "
        "p0 = 1; p = μ * p; u = ν * m / (1 - ν * p) + (1 - μ) * g / (1 - p)"
    )

    counts = True

    def init_tree(self, params: Any) -> Slots:
        return init_slots(scale_by_ema(), params) | {"mean_log_decay": jnp.zeros((), working_dtype(params))}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        means, new = run(scale_by_ema(self.decay), updates, slots, context)
        t = context.age.astype(self.decay.dtype)  # whose t + 1 does not overflow
        mu, mu_next = self._mu(t), self._mu(t + 1)
        mean, log_product = _log_product(slots["mean_log_decay"], mu, context.age)
        now, ahead = -jnp.expm1(log_product), -jnp.expm1(log_product + _log(mu_next))
        out = jax.tree.map(lambda g, m: mu_next * m / ahead + (1 - mu) * g / now, updates, means)
        return out, new | {"mean_log_decay": mean}

    def turned(self, slots: Slots, turn: Any) -> Slots:
        return slots | {"scale_by_ema": scale_by_ema().turned(slots["scale_by_ema"], turn)}

    def _mu(self, t: Array) -> Array:
        warm = 1 - 0.5 * 0.96 ** (self.warmup_rate * t)
        return self.decay * warm if self.warmup else self.decay


class yogi_average(PerLeaf):
    r"""Yogi's additive average, for updates of 0 or more such as squared gradients (Zaheer et al., 2018).

    $$s ← s − (1 − b)\,\mathrm{sign}(s − g)\,g; \qquad u = s$$

    The average moves towards g by (1 − b)·g, whatever its distance from g. An exponential moving average forgets at a
    constant rate; this average forgets slowly while g is small.

    Args:
      decay: b, in [0, 1): each update moves the average by the fraction 1 − b of g.
      initial_value: s before the first update, 0 or more, in units of the updates.

    Source: Zaheer et al. 2018, Adaptive methods for nonconvex optimization, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.yogi_average(0.5)
    >>> gradients, start = jnp.array([4.0, 1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([2. , 1.5, 1. ], dtype=float32)
    """

    decay: Decay = 0.999
    initial_value: NonNegative = 0.0

    elementwise = True
    emits = "nonnegative"
    ranges: ClassVar[dict[str, str]] = {"mean": "nonnegative"}
    formula = "s0 = initial_value; s = s - (1 - decay) * sign(s - g) * g; u = s"

    def init_leaf(self, param: Array) -> Slots:
        return {"mean": jnp.full_like(param, self.initial_value)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        mean = slots["mean"] - (1 - self.decay) * jnp.sign(slots["mean"] - g) * g
        return mean, {"mean": mean}


class rectify(PerLeaf):
    r"""RAdam rectification: inflate the denominator while its variance is high, and use 1 until the variance is finite.

    $$u = \frac{g}{r} \text{ if } ρ > ρ_0, \text{ else } 1; \qquad
    r^2 = \frac{(ρ − 4)(ρ − 2)\,n}{(n − 4)(n − 2)\,ρ}, \qquad
    ρ = n − \frac{2 t b^t}{1 − b^t}, \qquad n = \frac{2}{1 − b} − 1$$

    g is the denominator, the root of an average of squares. ρ is the number of steps over which a plain mean is as old
    as that average; it rises from 1 at the first update to n. A direction divided by 1 is a momentum step.

    Args:
      decay: b, the decay of the average of squares, in [0, 1).
      threshold: ρ₀, at least 4; below 4 the variance of 1/√s is not finite. The paper uses 4, its code and other
        implementations use 5.

    Source: Liu et al. 2020, arXiv 1908.03265, equations 3 to 6.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.rectify(0.9)
    >>> gradients, start = jnp.full(7, 0.5), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(1)
    Array([1. , 1. , 1. , 1. , 1. , 2. , 1.5], dtype=float32)
    """

    decay: Decay = 0.999
    threshold: Positive = 5.0

    elementwise = True
    emits = "updates"
    formula = (
        "n = 2 / (1 - decay) - 1; ρ = n - 2 * t * decay**t / (1 - decay**t); "
        "r = sqrt((ρ - 4) * (ρ - 2) * n / ((n - 4) * (n - 2) * ρ)); u = (g / r) ** (ρ > threshold)"
    )

    counts = True

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        now, most = 1 + 2 * _mean_age(self.decay, context.age), 1 + 2 * self.decay / (1 - self.decay)
        enough = now > jnp.maximum(self.threshold, 4)
        now, most = jnp.where(enough, now, 5), jnp.where(enough, most, 5)
        square = (now - 4) * (now - 2) * most / ((most - 4) * (most - 2) * now)
        return jnp.where(enough, g / jnp.sqrt(square), 1), slots


def _mean_age(decay: Array, step: Array) -> Array:
    """Return the mean of 0 … t − 1 weighted by bⁱ: b/(1 − b) − t·bᵗ/(1 − bᵗ), without cancellation at small t·log b."""
    rate, steps = -jnp.log(jnp.maximum(decay, jnp.finfo(decay.dtype).tiny)), step.astype(decay.dtype)
    small = rate * steps < 0.1

    def curve(x):  # 1/(eˣ − 1) − 1/x + 1/2
        return x / 12 * (1 - x * x / 60 * (1 - x * x / 42))

    early = (steps - 1) / 2 + curve(jnp.minimum(rate, 0.1)) - steps * curve(jnp.minimum(rate * steps, 0.1))
    late = decay / (1 - decay) + steps * jnp.exp(-rate * steps) / jnp.expm1(-rate * steps)
    return jnp.where(small, early, late)


class running_variance(PerLeaf):
    r"""Exponential moving average of the squared distance from the average, ema(g²) − ema(g)², without cancellation.

    $$s ← b\,(s + (1 − b)(g − m)^2), \qquad m ← b\,m + (1 − b)\,g; \qquad u = s$$

    Args:
      decay: b, the decay of both averages, in [0, 1). They start at 0.

    Source: Graves 2013, arXiv 1308.0850, equations 38 and 39; in this form West 1979.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.running_variance(0.5)
    >>> gradients, start = jnp.array([4.0, 0.0, 0.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([4.  , 3.  , 1.75], dtype=float32)
    """

    decay: Decay = 0.9

    elementwise = True
    emits = "nonnegative"
    ranges: ClassVar[dict[str, str]] = {"mean": "updates", "variance": "nonnegative"}
    formula = "s = decay * (s + (1 - decay) * (g - m) ** 2); m = decay * m + (1 - decay) * g; u = s"

    def init_leaf(self, param: Array) -> Slots:
        return {"mean": jnp.zeros_like(param), "variance": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        away = g - slots["mean"]
        variance = self.decay * (slots["variance"] + (1 - self.decay) * away * away)
        return variance, {"mean": lerp(slots["mean"], g, self.decay), "variance": variance}


class running_mean(PerLeaf):
    """Mean of all updates so far, or of a growing number of the newest updates.

    s ← s + (g − s)/tᵖ;  u = s

    With p = 1 all updates have the same weight; with p = 0 only the last update counts; in between, about the last tᵖ
    updates count. The average starts at the first update and needs no `bias_correction`.

    Args:
      power: p, 0 or more.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, section 7.2, where the decay is 1 − t⁻ᵖ.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.running_mean(1.0)
    >>> gradients, start = jnp.array([4.0, 2.0, 0.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([4., 3., 2.], dtype=float32)
    """

    power: NonNegative = 1.0

    linear = True
    elementwise = True
    emits = "updates"
    ranges: ClassVar[dict[str, str]] = {"mean": "updates"}
    formula = "s = (1 - t ** -power) * s + t ** -power * g; u = s"

    counts = True

    def init_leaf(self, param: Array) -> Slots:
        return {"mean": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        share = context.age.astype(g.dtype) ** -self.power  # used directly: 1 − (1 − share) would lose digits
        mean = (1 - share) * slots["mean"] + share * g
        return mean, {"mean": mean}
