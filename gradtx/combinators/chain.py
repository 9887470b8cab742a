"""Compositions of several transformations: in sequence, or side by side, summed or multiplied."""

import math
from typing import Any, ClassVar

import jax

from gradtx.core import Context, Slots, Transformation, run
from gradtx.core.root import distinct, own_slots, separable
from gradtx.core.transformation import TransformationLike


class Links(Transformation):
    """Base of compositions. Slots are named after the class of each link: `scale_by_ema`, `scale_by_ema_2`, …"""

    links: tuple[Transformation, ...]
    own: ClassVar[tuple[str, ...]] = ()  # the names of its own slots, which no link has
    flat = True
    named = True

    def __init__(self, *several: TransformationLike, links: tuple[TransformationLike, ...] = ()) -> None:
        object.__setattr__(self, "links", (*several, *links))
        self.__post_init__()

    def _arguments(self) -> list[str]:
        return [repr(link) for link in self.links]

    def parts(self) -> dict[str, Transformation]:
        return dict(zip(distinct([type(link).__name__ for link in self.links], self.own), self.links))

    def init_tree(self, params: Any) -> Slots:
        slots = {name: own_slots(link, params) for name, link in self.parts().items()}
        return {name: kept for name, kept in slots.items() if kept}

    def side_by_side(self, updates: Any, slots: Slots, context: Context) -> tuple[list[Any], Slots]:
        """Run every link on the same updates; return their outputs and the new slots of all."""
        made, new = [], {}
        for name, link in self.parts().items():
            one, kept = run(link, updates, slots, context, name=name)
            made.append(one)
            new |= kept
        return made, new


class chain(Links, init=False):
    r"""Apply transformations one after another: each transforms the output of the one before it.

    $$\mathrm{chain}(a, b)(g) = b(a(g))$$

    A chain within a chain is flattened, so `chain(chain(a, b), c)` and `chain(a, b, c)` are equal and have the same
    state. `chain()` is the identity.

    Args:
      *several: The transformations, any number of them, in order: transformations of gradtx, or pairs (init, update)
        such as Optax's.

    >>> import gradtx as gx
    >>> gx.chain(gx.chain(gx.clip(1.0), gx.scale_by_ema(0.9)), gx.scale(-0.1))
    chain(clip(1.0), scale_by_ema(0.9), scale(-0.1))
    """

    elementwise = True

    def __post_init__(self) -> None:
        super().__post_init__()
        flat = (inner for link in self.links for inner in (link.links if isinstance(link, chain) else (link,)))
        object.__setattr__(self, "links", tuple(flat))

    @property
    def linear(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(link.linear for link in self.links)

    def turned(self, slots: Slots, turn: Any) -> Slots:
        new = dict(slots)
        for name, link in self.parts().items():
            if name in slots:
                new[name] = link.turned(slots[name], turn)
            if not link.linear:
                break  # the links after it do not receive vectors of these coordinates
        return new

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        return _through(self.parts().items(), updates, slots, context)

    def finish_tree(self, updates: Any, slots: Slots, context: Context, then: Any) -> Any:
        if not self.links:
            return then(updates, {})
        *before, (name, last) = self.parts().items()
        updates, new = _through(before, updates, slots, context)
        return run(last, updates, slots, context, lambda made, kept: then(made, new | kept), name)


def _through(links: Any, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
    new = {}
    for name, link in links:
        updates, kept = run(link, updates, slots, context, name=name)
        new |= kept
    return updates, new


class add(Links, init=False):
    r"""Sum the outputs of several transformations of the same updates.

    $$\mathrm{add}(a, b)(g) = a(g) + b(g)$$

    Args:
      *several: The transformations, any number of them: transformations of gradtx, or pairs (init, update) such as
        Optax's.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> variance = gx.add(gx.square(), gx.scale(-1.0))  # g² − g
    >>> variance.update(jnp.array([3.0]), variance.init(jnp.zeros(1)))[0]
    Array([6.], dtype=float32)
    """

    elementwise = True
    emits = "updates"

    @property
    def fed(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(self.parts())

    @property
    def linear(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(link.linear for link in self.links)

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        terms, new = self.side_by_side(updates, slots, context)
        return jax.tree.map(lambda g, *term: sum(term), updates, *terms), new


class multiply(Links, init=False):
    r"""Multiply the outputs of several transformations of the same updates, coordinate by coordinate.

    $$\mathrm{multiply}(a, b)(g) = a(g) · b(g)$$

    Args:
      *several: The transformations, any number of them: transformations of gradtx, or pairs (init, update) such as
        Optax's.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> cube = gx.multiply(gx.square(), gx.identity())
    >>> cube.update(jnp.array([-3.0]), cube.init(jnp.zeros(1)))[0]
    Array([-27.], dtype=float32)
    """

    elementwise = True

    @property
    def fed(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(self.parts())

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        factors, new = self.side_by_side(updates, slots, context)
        return jax.tree.map(lambda g, *factor: math.prod(factor), updates, *factors), new
