"""Other libraries, both ways."""

from gradtx.interop.optax import as_optax

__all__ = ["as_optax"]
