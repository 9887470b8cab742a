"""Transformations that emit parameters, displacements or earlier updates in place of the updates."""

from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, PerLeaf, Scalar, Slots


class delay(PerLeaf):
    """Emit the updates of the previous step.

    u = l;  l ← g

    Args:
      initial_value: The first update emitted, of any sign, in units of the updates.
      from_first: If True, the first update is emitted at once, instead of `initial_value`, and again at the second
        step.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.delay()
    >>> first, state = tx.update(jnp.array(1.0), tx.init(jnp.zeros(())))
    >>> float(first), float(tx.update(jnp.array(2.0), state)[0])
    (0.0, 1.0)
    """

    initial_value: Scalar = 0.0
    from_first: bool = False

    @property
    def counts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.from_first

    linear = True
    elementwise = True
    emits = "updates"
    ranges: ClassVar[dict[str, str]] = {"last": "updates"}
    formula = "l0 = initial_value; d = l + (g - l) * (t <= 1) if from_first else l; l = g; u = d"

    def init_leaf(self, param: Array) -> Slots:
        return {"last": jnp.full_like(param, self.initial_value)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return jnp.where(context.age == 1, g, slots["last"]) if self.from_first else slots["last"], {"last": g}


class difference(PerLeaf):
    """Emit the change of the updates from one step to the next.

    u = g − l;  l ← g

    Args:
      from_first: If True, the first difference is 0 instead of the first update.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.difference()
    >>> first, state = tx.update(jnp.array(1.0), tx.init(jnp.zeros(())))
    >>> float(first), float(tx.update(jnp.array(3.0), state)[0])
    (1.0, 2.0)
    """

    from_first: bool = False

    @property
    def counts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.from_first

    linear = True
    elementwise = True
    ranges: ClassVar[dict[str, str]] = {"last": "signed"}
    formula = "d = (g - l) * (t > 1) if from_first else g - l; l = g; u = d"

    def init_leaf(self, param: Array) -> Slots:
        return {"last": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        last = jnp.where(context.age == 1, g, slots["last"]) if self.from_first else slots["last"]
        return g - last, {"last": g}


class emit_params(PerLeaf):
    """Emit the parameters, whatever the updates are.

    u = θ

    Needs `params`.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.emit_params(), jnp.array([3.0])
    >>> tx.update(jnp.zeros(1), tx.init(params), params)[0]
    Array([3.], dtype=float32)
    """

    elementwise = True
    formula = "u = θ"
    needs = ("params",)

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return context.params, slots


class emit_displacement(PerLeaf):
    """Emit the displacement of the parameters from their values at `init`, whatever the updates are.

    u = θ − θ₀

    Needs `params`.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.emit_displacement()
    >>> tx.update(jnp.zeros(1), tx.init(jnp.array([3.0])), jnp.array([3.5]))[0]
    Array([0.5], dtype=float32)
    """

    elementwise = True
    formula = "u = θ - θ0"
    needs = ("params",)

    def init_leaf(self, param: Array) -> Slots:
        return {"start": jnp.array(param, copy=True)}  # so that parameters and state may both be donated

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return context.params - slots["start"], slots
