"""Other libraries' transformations inside gradtx's."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from gradtx.arguments import misfit, said
from gradtx.checks import check_made
from gradtx.core import Context, Slots, Transformation
from gradtx.core.trees import differentiable, widen


class pair(Transformation):
    """Any `(init, update)` as a transformation, Optax's included; its state is one slot.

    Two pairs are equal if their functions are the same objects. `update` is given the extra arguments that it takes.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.pair(lambda params: (), lambda updates, state, params: (updates / 2, state))
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))[0]
    Array([1.5], dtype=float32)
    """

    init_function: Callable[[Any], Any]
    update_function: Callable[..., Any]

    needs = ("**",)

    def init_tree(self, params: Any) -> Slots:
        wide = jax.tree.map(lambda p: widen(p) if differentiable("params", p) else None, params)
        return {"state": self.init_function(wide)}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        takes = inspect.signature(self.update_function).parameters
        variadic = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        extra = {name: x for name, x in context.extra.items() if variadic or name in takes}
        if why := misfit("pair: its update", self.update_function, (updates, slots["state"], context.params), extra):
            raise TypeError(f"{why}; it is called with (updates, state, params), and by name with what update is given")
        made = self.update_function(updates, slots["state"], context.params, **extra)
        if not isinstance(made, tuple) or len(made) != 2:
            raise TypeError(f"pair: its update must return (updates, state), got {said(made)}")
        check_made("pair", made[0], updates)
        return made[0], {"state": made[1]}
