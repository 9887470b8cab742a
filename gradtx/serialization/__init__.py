"""Serialization: read printed optimizers and restore saved states."""

from gradtx.serialization.read import read
from gradtx.serialization.restore import restore

__all__ = [
    "read",
    "restore",
]


def __dir__() -> list[str]:
    return __all__
