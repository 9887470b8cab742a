"""Interoperability with other libraries."""

from gradtx.interop.optax import as_optax, from_optax, to_optax
from gradtx.interop.torch import from_torch

__all__ = [
    "as_optax",
    "from_optax",
    "from_torch",
    "to_optax",
]


def __dir__() -> list[str]:
    return __all__
