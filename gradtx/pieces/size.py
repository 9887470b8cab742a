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
