"""Optimizers on several devices and in the memory of the host, by JAX's own shardings and memory spaces."""

from gradtx.distributed.in_shard_map import in_shard_map
from gradtx.distributed.offload import offload
from gradtx.distributed.shard_state import shard_state

__all__ = ["in_shard_map", "offload", "shard_state"]


def __dir__() -> list[str]:
    return __all__
