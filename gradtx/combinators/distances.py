"""Directions times an estimated distance: how far the parameters have moved, or how far they have to move."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import (
    Context,
    Decay,
    NonNegative,
    Part,
    Positive,
    Slots,
    Transformation,
    init_slots,
    run,
    working_dtype,
)
from gradtx.pieces.averages import add_momentum, scale_by_ema
from gradtx.pieces.elementwise import identity
from gradtx.pieces.formulas import lerp, safe_divide, safe_sqrt
from gradtx.pieces.measures import global_norm, inner_product, sum_of_sizes
from gradtx.pieces.norms import scale_by_total_norm
from gradtx.pieces.sources import emit_displacement


class dog_distance(Transformation):
    r"""Multiply a direction by the largest distance of the parameters from their start: DoG and DoWG.

    $$r ← \max(r, ‖θ − θ_0‖), \qquad u = r · d(g) \quad\text{or, weighted,}\quad u = r · d(r · g)$$

    The distance is over all leaves; wrap in `leafwise` for one distance per leaf. The direction d should be free of
    units: a gradient divided by a denominator of the same units. Needs `params`.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It makes d of
        the updates.
      initial_value: r before the first update, above 0, in units of the parameters if `relative` is False. Choose it
        small.
      relative: If True, multiply `initial_value` by 1 + ‖θ₀‖.
      weighted: If True, multiply the updates by r before d, so that later ones count more (DoWG).

    Source: Ivgi, Hinder and Carmon 2023, arXiv 2302.12022 (DoG); weighted, Khaled, Mishchenko and Jin 2023, arXiv
    2305.16284 (DoWG).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.dog_distance(gx.sign(), initial_value=0.1, relative=False)
    >>> state = tx.init(jnp.zeros(2))
    >>> tx.update(jnp.array([7.0, -7.0]), state, jnp.zeros(2))[0]
    Array([ 0.1, -0.1], dtype=float32)
    >>> tx.update(jnp.array([7.0, -7.0]), state, jnp.array([3.0, 4.0]))[0]
    Array([ 5., -5.], dtype=float32)
    """

    inner: Part
    initial_value: Positive = 1e-6
    relative: bool = True
    weighted: bool = False

    formula = (
        "r0 = initial_value * (1 + norm(θ0)) if relative else initial_value; r = max(r, norm(θ - θ0)); "
        "u = r * (inner(r * g) if weighted else inner(g))"
    )
    needs = ("params",)

    def init_tree(self, params: Any) -> Slots:
        kept = init_slots(emit_displacement(), params)
        start = jnp.asarray(self.initial_value, working_dtype(params))
        return (
            super().init_tree(params) | kept | {"distance": start * (1 + global_norm(kept)) if self.relative else start}
        )

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        away, new = run(emit_displacement(), updates, slots, context)
        distance = jnp.maximum(slots["distance"], global_norm(away))
        if self.weighted and isinstance(self.inner, scale_by_total_norm):
            # The update for r·g with norm s is the update for g with norm s/r. That needs only ‖g‖, so that a mesh
            # reduces ‖g‖ and ‖θ − θ₀‖ in one collective.
            slots = slots | {"inner": jax.tree.map(lambda s: s / distance, slots["inner"])}
            direction = self.part("inner", updates, slots, context, new)
            new["inner"] = scaled(distance, new["inner"])
        else:
            weighted = scaled(distance, updates) if self.weighted else updates
            direction = self.part("inner", weighted, slots, context, new)
        return jax.tree.map(lambda u: distance * u, direction), new | {"distance": distance}


class prodigy_distance(Transformation):
    r"""Multiply a preconditioned direction by Prodigy's estimate d of the distance to the minimum.

    $$u = γ\,d \left(\frac{a(d\,g)}{b(d\,g) + d\,ε} + p\right), \qquad
      r ← β\,r + γ\,d^2 ⟨g, θ_0 − θ⟩, \quad s ← β\,s + γ\,d^2 g, \quad d ← \max\!\left(d, c\,\frac{r}{‖s‖_1}\right)$$

    One d serves all leaves, sums are over all leaves, and d only grows. Both averages are of gradients multiplied by d,
    so gradients seen while d was too small are soon outweighed. Needs `params`.

    Args:
      direction: The transformation a: makes the direction from the updates times d.
      by: The transformation b: makes the denominator, 0 or more, from the updates times d. `ones()` divides by 1, for a
        direction that is free of units.
      eps: ε, added to the denominator, 0 or more. It is multiplied by d, and is in units of the updates.
      pull: The transformation that makes p from zeros, such as a weight decay. p is multiplied by γ·d too.
      learning_rate: γ, the factor of d, 0 or more: 1, or a schedule of the shape that the learning rate should have.
      decay: β², in [0, 1): the decay of the average of squares in `by`. Its root is the decay of r and s.
      initial_value: d before the first update, above 0, in units of the parameters: too small rather than too large.
      coefficient: c, the factor of the estimate, above 0. Change it to make all steps smaller or larger.

    Source: Mishchenko and Defazio 2024, arXiv 2306.06101, algorithm 4.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.chain(gx.prodigy_distance(gx.sign(), by=gx.ones(), eps=0.0, initial_value=0.01), gx.scale(-1.0))
    >>> def step(carry, _):
    ...     w, state = carry
    ...     u, state = tx.update(jnp.sign(w - 3), state, w)
    ...     return (w + u, state), state.slots["prodigy_distance"]["distance"]
    >>> jax.lax.scan(step, (jnp.zeros(()), tx.init(jnp.zeros(()))), length=30)[1][jnp.array([0, 29])].round()
    Array([0., 2.], dtype=float32)
    """

    direction: Part
    by: Part
    eps: NonNegative = 1e-8
    pull: Part = identity()  # pyright: ignore[reportAssignmentType]
    learning_rate: NonNegative = 1.0
    decay: Decay = 0.999
    initial_value: Positive = 1e-6
    coefficient: Positive = 1.0

    formula = (
        "d0 = initial_value; k = learning_rate * d * (direction(d * g) / (by(d * g) + d * eps) + pull(0 * g)); "
        "r = sqrt(decay) * r + learning_rate * d**2 * sum(g * (θ0 - θ)); "
        "s = sqrt(decay) * s + learning_rate * d**2 * g; "
        "d = max(d, coefficient * r / sum(abs(s))); u = k"
    )
    needs = ("params",)

    def init_tree(self, params: Any) -> Slots:
        start = jnp.asarray(self.initial_value, working_dtype(params))
        kept = init_slots(emit_displacement(), params) | init_slots(add_momentum(), params)
        return super().init_tree(params) | kept | {"distance": start, "gain": jnp.zeros_like(start)}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        distance, decay = slots["distance"], safe_sqrt(self.decay)
        direction = self.part("direction", scaled(distance, updates), slots, context, new := {})
        size = self.part("by", scaled(distance, updates), slots, context, new)
        pull = self.part("pull", jax.tree.map(jnp.zeros_like, updates), slots, context, new)

        def step(a, b, p):
            return self.learning_rate * distance * (safe_divide(a, b + distance * self.eps) + p)

        away, start = run(emit_displacement(), updates, slots, context)
        weight = (
            self.learning_rate * distance * (distance / self.initial_value)
        )  # only r / ‖s‖₁ matters, and d² could underflow
        weights, kept = run(add_momentum(decay), scaled(weight, updates), slots, context)
        gain = decay * slots["gain"] - weight * inner_product(updates, away)
        estimate = self.coefficient * safe_divide(gain, sum_of_sizes(weights))
        new |= start | kept | {"distance": jnp.maximum(distance, estimate), "gain": gain}
        return jax.tree.map(step, direction, size, pull), new


class dadapt_distance(Transformation):
    r"""Multiply the updates by D-Adaptation's estimate d of the distance to the minimum, and precondition them.

    $$u = \frac{a(γ\,d\,g)}{b(g) + ε} + γ\,d\,p, \qquad s_+ = β\,s + (1 − β)\,γ\,d\,g,$$
    $$r ← β\,r + (1 − β)\,γ\,d \left⟨g, \frac{s}{b + ε}\right⟩, \qquad
      d ← \max\!\left(d, \frac{r}{(1 − β) ‖s_+‖_1}\right), \quad s ← s_+$$

    One d serves all leaves, sums are over all leaves, and d only grows. Unlike `prodigy_distance`, it does not need the
    initial parameters, and d grows more slowly.

    Args:
      direction: The transformation a, which must be linear: makes the direction from the updates times γ·d.
      by: The transformation b: makes the denominator, 0 or more, from the updates.
      eps: ε, added to the denominator, 0 or more.
      pull: The transformation that makes p from zeros, such as a weight decay. p is multiplied by γ·d too.
      learning_rate: γ, the factor of d, 0 or more: 1, or a schedule of the shape that the learning rate should have.
      decay: β², in [0, 1): the decay of the average of squares in `by`. Its root is the decay of r and s.
      initial_value: d before the first update, above 0, in units of the parameters: too small rather than too large.

    Source: Defazio and Mishchenko 2023, arXiv 2301.07733, the Adam form.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.chain(gx.dadapt_distance(gx.identity(), by=gx.rms(0.9), decay=0.9, initial_value=0.01), gx.scale(-1.0))
    >>> def step(carry, _):
    ...     w, state = carry
    ...     u, state = tx.update(jnp.sign(w - 3), state, w)
    ...     return (w + u, state), state.slots["dadapt_distance"]["distance"]
    >>> jax.lax.scan(step, (jnp.zeros(()), tx.init(jnp.zeros(()))), length=30)[1][jnp.array([0, 29])].round()
    Array([0., 1.], dtype=float32)
    """

    direction: Part
    by: Part
    eps: NonNegative = 1e-8
    pull: Part = identity()  # pyright: ignore[reportAssignmentType]
    learning_rate: NonNegative = 1.0
    decay: Decay = 0.999
    initial_value: Positive = 1e-6

    formula = (
        "d0 = initial_value; "
        "k = direction(learning_rate * d * g) / (by(g) + eps) + learning_rate * d * pull(0 * g); "
        "r = sqrt(decay) * r + (1 - sqrt(decay)) * learning_rate * d * sum(g * s / (by(g) + eps)); "
        "s = sqrt(decay) * s + (1 - sqrt(decay)) * learning_rate * d * g; "
        "d = max(d, r / ((1 - sqrt(decay)) * sum(abs(s)))); u = k"
    )

    def init_tree(self, params: Any) -> Slots:
        start = jnp.asarray(self.initial_value, working_dtype(params))
        kept = init_slots(scale_by_ema(), params)
        return super().init_tree(params) | kept | {"distance": start, "gain": jnp.zeros_like(start)}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        distance, decay = slots["distance"], safe_sqrt(self.decay)
        weight = self.learning_rate * distance
        weighted = scaled(weight, updates)
        direction = self.part("direction", weighted, slots, context, new := {})
        size = self.part("by", updates, slots, context, new)
        pull = self.part("pull", jax.tree.map(jnp.zeros_like, updates), slots, context, new)

        def divided(u):
            return jax.tree.map(lambda x, b: safe_divide(x, b + self.eps), u, size)

        before, _ = run(scale_by_ema(decay, before=True), weighted, slots, context)
        after, kept = run(scale_by_ema(decay), weighted, slots, context)
        gain = lerp(slots["gain"], weight * inner_product(updates, divided(before)), decay)
        estimate = safe_divide(gain, (1 - decay) * sum_of_sizes(after))
        new |= kept | {"distance": jnp.maximum(distance, estimate), "gain": gain}
        return jax.tree.map(lambda u, p: u + weight * p, divided(direction), pull), new


def scaled(factor: Any, tree: Any) -> Any:
    return jax.tree.map(lambda x: factor * x, tree)
