"""Optimizers on several devices and in the memory of the host, by JAX's own shardings and memory spaces."""

from gradtx.distributed.offload import offload
from gradtx.distributed.shard_state import shard_state

__all__ = ["offload", "shard_state"]


def __dir__() -> list[str]:
    return __all__
