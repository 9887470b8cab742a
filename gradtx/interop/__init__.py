"""Interoperability with other libraries."""

from gradtx.interop.optax import as_optax

__all__ = [
    "as_optax",
]


def __dir__() -> list[str]:
    return __all__
