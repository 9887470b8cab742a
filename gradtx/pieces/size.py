"""Pieces that make a size of what they have seen: sums, maxima, and the feedback of a method's own steps."""

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Decay, NonNegative, PerLeaf, Positive, Slots
from gradtx.pieces.formulas import lerp, safe_sqrt


class running_sum(PerLeaf):
    """The sum of all updates so far, AdaGrad's memory.   s ← s + g;  u = s

    Args:
      start: The sum before the first update, in units of the updates.

    Source: Duchi, Hazan and Singer 2011.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.running_sum()
    >>> gradients, start = jnp.array([1.0, 2.0, 3.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([1., 3., 6.], dtype=float32)
    """

    start: NonNegative = 0.0

    formula = "s0 = start; s = s + g; u = s"

    def init_leaf(self, param: Array) -> Slots:
        return {"sum": jnp.full_like(param, self.start)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        total = slots["sum"] + g
        return total, {"sum": total}


class running_max(PerLeaf):
    """The largest of all updates so far, coordinate by coordinate, from 0.   s ← max(s, g);  u = s

    Source: Reddi, Kale and Kumar 2018, arXiv 1904.09237 (AMSGrad).

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.running_max()
    >>> gradients, start = jnp.array([1.0, 3.0, 2.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([1., 3., 3.], dtype=float32)
    """

    formula = "s = max(s, g); u = s"

    def init_leaf(self, param: Array) -> Slots:
        return {"max": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        largest = jnp.maximum(slots["max"], g)
        return largest, {"max": largest}


class decayed_max(PerLeaf):
    """The largest of the updates so far, each decayed by its age: AdaMax's memory.   s ← max(b·s, g);  u = s

    Args:
      decay: b in [0, 1).

    Source: Kingma and Ba 2015, arXiv 1412.6980, section 7.1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.decayed_max(0.5)
    >>> gradients, start = jnp.array([4.0, 1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([4., 2., 1.], dtype=float32)
    """

    decay: Decay = 0.999

    formula = "s = max(decay * s, g); u = s"

    def init_leaf(self, param: Array) -> Slots:
        return {"max": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        largest = jnp.maximum(self.decay * slots["max"], g)
        return largest, {"max": largest}


class additive_average(PerLeaf):
    r"""Yogi's average of sizes: it moves by a share of g, towards g, however far away that is.

    $$s ← s − (1 − b)\,\mathrm{sign}(s − g)\,g; \qquad u = s$$

    Where an exponential average forgets at the same pace whatever comes, this one forgets slowly while g is small.

    Args:
      decay: b in [0, 1).
      start: s before the first update, in units of the updates.

    Source: Zaheer et al. 2018, Adaptive methods for nonconvex optimization, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.additive_average(0.5)
    >>> gradients, start = jnp.array([4.0, 1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([2. , 1.5, 1. ], dtype=float32)
    """

    decay: Decay = 0.999
    start: NonNegative = 0.0

    formula = "s0 = start; s = s - (1 - decay) * sign(s - g) * g; u = s"

    def init_leaf(self, param: Array) -> Slots:
        return {"mean": jnp.full_like(param, self.start)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        mean = slots["mean"] - (1 - self.decay) * jnp.sign(slots["mean"] - g) * g
        return mean, {"mean": mean}


class rectify(PerLeaf):
    r"""RAdam's caution: a size is enlarged while it is the average of few squares, and 1 while of too few to be one.

    $$u = \frac{g}{r} \text{ if } ρ > ρ_0, \text{ else } 1; \qquad
    r^2 = \frac{(ρ − 4)(ρ − 2)\,n}{(n − 4)(n − 2)\,ρ}, \qquad
    ρ = n − \frac{2 t b^t}{1 − b^t}, \qquad n = \frac{2}{1 − b} − 1$$

    ρ is over how many steps a plain mean would be as old as the average, from 1 at the first update to n. A direction
    divided by 1 is a step of momentum.

    Args:
      decay: b in [0, 1), that of the average.
      threshold: ρ₀, at least 4, below which 1/√s has no finite variance. 4 in the paper, 5 in its code and elsewhere.

    Source: Liu et al. 2020, arXiv 1908.03265, equations 3 to 6.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.rectify(0.9)
    >>> sizes, start = jnp.full(7, 0.5), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, sizes)[1].round(1)
    Array([1. , 1. , 1. , 1. , 1. , 2. , 1.5], dtype=float32)
    """

    decay: Decay = 0.999
    threshold: Positive = 5.0

    formula = (
        "n = 2 / (1 - decay) - 1; ρ = n - 2 * t * decay**t / (1 - decay**t); "
        "r = sqrt((ρ - 4) * (ρ - 2) * n / ((n - 4) * (n - 2) * ρ)); u = (g / r) ** (ρ > threshold)"
    )

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        now, most = 1 + 2 * _mean_age(self.decay, context.step), 1 + 2 * self.decay / (1 - self.decay)
        enough = now > jnp.maximum(self.threshold, 4)
        now, most = jnp.where(enough, now, 5), jnp.where(enough, most, 5)
        square = (now - 4) * (now - 2) * most / ((most - 4) * (most - 2) * now)
        return jnp.where(enough, g / jnp.sqrt(square), 1), slots


def _mean_age(decay: Array, step: Array) -> Array:
    """The mean of 0 … t − 1, weighted by bⁱ: b/(1 − b) − t·bᵗ/(1 − bᵗ), without its cancellation for small t·log b."""
    rate, steps = -jnp.log(jnp.maximum(decay, jnp.finfo(decay.dtype).tiny)), step.astype(decay.dtype)
    small = rate * steps < 0.1

    def curve(x):  # 1/(eˣ − 1) − 1/x + 1/2
        return x / 12 * (1 - x * x / 60 * (1 - x * x / 42))

    early = (steps - 1) / 2 + curve(jnp.minimum(rate, 0.1)) - steps * curve(jnp.minimum(rate * steps, 0.1))
    late = decay / (1 - decay) + steps * jnp.exp(-rate * steps) / jnp.expm1(-rate * steps)
    return jnp.where(small, early, late)


class running_variance(PerLeaf):
    r"""The exponential average of the squared distance from the average, ema(g²) − ema(g)², without its cancellation.

    $$s ← b\,(s + (1 − b)(g − m)^2), \qquad m ← b\,m + (1 − b)\,g; \qquad u = s$$

    Args:
      decay: b in [0, 1), of both averages; they start at 0.

    Source: Graves 2013, arXiv 1308.0850, equations 38 and 39; in this form West 1979.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.running_variance(0.5)
    >>> gradients, start = jnp.array([4.0, 0.0, 0.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([4.  , 3.  , 1.75], dtype=float32)
    """

    decay: Decay = 0.9

    formula = "s = decay * (s + (1 - decay) * (g - m) ** 2); m = decay * m + (1 - decay) * g; u = s"

    def init_leaf(self, param: Array) -> Slots:
        return {"mean": jnp.zeros_like(param), "variance": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        away = g - slots["mean"]
        variance = self.decay * (slots["variance"] + (1 - self.decay) * away * away)
        return variance, {"mean": lerp(slots["mean"], g, self.decay), "variance": variance}


class scale_by_own_rms(PerLeaf):
    r"""AdaDelta's feedback: multiplies the updates by the RMS of what it emitted before.

    $$u = \sqrt{x + ε}\; g, \qquad x ← b\,x + (1 − b)\,u^2$$

    Args:
      decay: b in [0, 1).
      eps: ε, in squared units of the parameters; √ε is the size of the first steps.

    Source: Zeiler 2012, arXiv 1212.5701, algorithm 1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.scale_by_own_rms(0.5, eps=1.0)
    >>> gradients, start = jnp.array([1.0, 1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([1.    , 1.2247, 1.4142], dtype=float32)
    """

    decay: Decay = 0.9
    eps: NonNegative = 1e-6

    formula = "d = sqrt(x + eps) * g; x = decay * x + (1 - decay) * d**2; u = d"

    def init_leaf(self, param: Array) -> Slots:
        return {"mean_square": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        u = safe_sqrt(slots["mean_square"] + self.eps) * g
        return u, {"mean_square": lerp(slots["mean_square"], u * u, self.decay)}


class sign_steps(PerLeaf):
    r"""Rprop's steps: each coordinate has a size of its own, and only the sign of the update is used.

    $$s ← \mathrm{clip}(s · (\text{grow if } g·g_{-1} > 0,\ \text{shrink if} < 0)), \qquad u = s · \mathrm{sign}(g)$$

    Args:
      start: s before the first update, in units of the parameters.
      grow: The factor while the sign stays, at least 1.
      shrink: The factor when the sign flips.
      smallest: The least s.
      largest: The greatest s.
      wait_on_flip: Whether a coordinate whose sign flips stays where it is for that update (and counts as having no
        sign at the next), instead of stepping back by the shrunken step.

    Source: Riedmiller and Braun 1993; `wait_on_flip` is Igel and Hüsken's iRprop⁻, 2000.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.sign_steps(1.0, grow=2.0, shrink=0.5)
    >>> gradients, start = jnp.array([0.1, 7.0, -0.1]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([ 1.,  2., -1.], dtype=float32)
    """

    start: Positive = 1e-2
    grow: Positive = 1.2
    shrink: Positive = 0.6
    smallest: NonNegative = 1e-6
    largest: Positive = 50.0
    wait_on_flip: bool = False

    formula = (
        "a = σ * sign(g); s0 = start; s = clip(s * grow ** (a > 0) * shrink ** (a < 0), smallest, largest); "
        "σ = sign(g) * (a >= 0) if wait_on_flip else sign(g); u = s * σ"
    )

    def init_leaf(self, param: Array) -> Slots:
        return {"step_size": jnp.full_like(param, self.start), "sign": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        sign = jnp.sign(g)
        agreement = sign * slots["sign"]
        factor = jnp.where(agreement > 0, self.grow, jnp.where(agreement < 0, self.shrink, 1.0))
        size = jnp.clip(factor * slots["step_size"], self.smallest, self.largest)
        if self.wait_on_flip:
            sign = jnp.where(agreement < 0, 0, sign)
        return size * sign, {"step_size": size, "sign": sign}
