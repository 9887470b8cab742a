"""Other libraries, both ways."""

from gradtx.interop.optax import as_optax
from gradtx.interop.pair import pair

__all__ = ["as_optax", "pair"]


def __dir__() -> list[str]:
    return __all__
