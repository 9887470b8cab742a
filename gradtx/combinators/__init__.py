"""Transformations made of transformations."""

from gradtx.combinators.averages import momentum, rms, scale_by_rms
from gradtx.combinators.chain import add, chain
from gradtx.combinators.precondition import precondition

__all__ = ["add", "chain", "momentum", "precondition", "rms", "scale_by_rms"]
