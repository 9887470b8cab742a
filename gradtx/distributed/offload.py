"""The state of an optimizer in the memory of the host."""

from typing import Any

import jax

from gradtx.core import Context, Part, Slots, Transformation
from gradtx.core.trees import moved


class offload(Transformation):
    """Keep the state of an optimizer in the memory of the host between updates (Ren et al., 2021).

    u = inner(g)

    Each update copies the slots to the device and back. For a model whose state does not fit a device beside its
    parameters and activations: the copies take the time of the bus, 2 × 8 bytes a parameter for Adam. Numbers such as
    ages stay on the device. The results are those of the inner optimizer, bit by bit. Place the parameters by
    `jax.device_put` and make the state by `jax.jit(tx.init)`: the first step then compiles for all. If a step donates
    the state, it must return parameters and state first and in this order, as `apply` and `train_step` do: jaxlib ends
    the process where the memory of a donated host array would go to a result on the device.

    It goes outermost, around guards, accumulation and averages: `offload(skip_nonfinite(adamw(1e-3)))`.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.

    Raises:
      ValueError: It is inside another transformation.

    Source: Ren et al. 2021, ZeRO-Offload, arXiv 2101.06840; here the update itself runs on the device.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.offload(gx.adam(1e-3)), {"w": jnp.zeros(2)}
    >>> mean = tx.init(params).slots["offload"]["inner"]["precondition"]["direction"]["scale_by_ema"]["mean"]["w"]
    >>> mean.sharding.memory_kind
    'pinned_host'
    """

    inner: Part

    outermost = True
    fed = ("inner",)
    formula = "u = inner(g)"

    def placed(self, structs: Any) -> Any:
        def host(x: Any) -> Any:
            sharding = x.sharding and x.ndim and x.sharding.with_memory_kind("pinned_host")
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) if sharding else x

        return jax.tree.map(host, structs)

    def init_tree(self, params: Any) -> Slots:
        return moved(super().init_tree(params), jax.memory.Space.Host)

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, moved(slots, jax.memory.Space.Device), context, new := {})
        return made, moved(new, jax.memory.Space.Host)
