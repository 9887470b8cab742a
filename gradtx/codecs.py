"""Codecs: arrays in fewer bits, for the slots of optimizers. `store` keeps slots encoded between updates.

A codec encodes blocks of numbers, (…, block), as codes of 8 or 16 bits, and a scale for each block. The codes have the
shape of the array, so they are sharded as it is; a block is a part of the last axis where that divides, and otherwise a
part of the flattened array.
"""

import math
from collections import namedtuple
from typing import Any, ClassVar
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.lax import bitcast_convert_type, stop_gradient

from gradtx.core import Record
from gradtx.core.kinds import Count
from gradtx.core.trees import sharded, sharded_along

__all__ = ["bfloat16", "float8_e4m3", "float8_e5m2", "float16", "int8", "ufloat8"]

# ------------------------------------------------------------------------------------------------------- encoded arrays


class Encoded:
    """Base of encoded arrays: tuples of `codes`, and of a `scale` for each block unless the codec has none.

    The first field has the name of the codec, so that a file says how a slot is encoded.
    """

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]]

    @property
    def codes(self) -> Array:
        return self[0]  # pyright: ignore[reportIndexIssue]

    @property
    def scale(self) -> Array | None:
        return self[1] if len(self._fields) == 2 else None  # pyright: ignore[reportIndexIssue]

    @property
    def codec(self) -> str:
        return self._fields[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def dtype(self) -> Any:
        """The dtype of the decoded array."""
        return jnp.dtype("float32")


class Bfloat16(Encoded, namedtuple("Bfloat16", ["bfloat16"])):
    """An array that `bfloat16` encoded: the bit patterns."""

    __slots__ = ()


class Float16(Encoded, namedtuple("Float16", ["float16", "scale"])):
    """An array that `float16` encoded: bit patterns and scales."""

    __slots__ = ()


class Float8E4M3(Encoded, namedtuple("Float8E4M3", ["float8_e4m3", "scale"])):
    """An array that `float8_e4m3` encoded: bit patterns and scales."""

    __slots__ = ()


class Float8E5M2(Encoded, namedtuple("Float8E5M2", ["float8_e5m2", "scale"])):
    """An array that `float8_e5m2` encoded: bit patterns and scales."""

    __slots__ = ()


class Int8(Encoded, namedtuple("Int8", ["int8", "scale"])):
    """An array that `int8` encoded: integers and scales."""

    __slots__ = ()


class Ufloat8(Encoded, namedtuple("Ufloat8", ["ufloat8", "scale"])):
    """An array that `ufloat8` encoded: codes and scales."""

    __slots__ = ()


def is_encoded(x: Any) -> bool:
    """Whether `x` is an encoded array."""
    return isinstance(x, Encoded)


# ----------------------------------------------------------------------------------------------------------- bit tricks


def bits_of(x: Array) -> Array:
    return bitcast_convert_type(x, jnp.uint32)


def float_of(x: Array) -> Array:
    return bitcast_convert_type(x, jnp.float32)


def unit(random: Array) -> Array:
    """Numbers in [0, 1) of random bits."""
    return (random >> 8).astype(jnp.float32) * np.float32(2.0**-24)


def mixed(x: Array) -> Array:
    """Hash 32 bits (the `lowbias32` of C. Wellons, 2018)."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def rounded(x: Array, random: Array | None) -> Array:
    """Round to an integer: at random, without bias, or to the nearest."""
    return jnp.round(x) if random is None else jnp.floor(x + unit(random))


def on_grid(x: Array, random: Array | None, fraction: int, least: int) -> Array:
    """Round to numbers of `fraction` bits after the leading one, spaced evenly below 2^`least`."""
    exponent = jnp.maximum(bits_of(x) & np.uint32(0x7F800000), np.uint32((127 + least) << 23))
    step = exponent - np.uint32(fraction << 23)
    return rounded(x * float_of(np.uint32(254 << 23) - step), random) * float_of(step)


# --------------------------------------------------------------------------------------------------------------- codecs


class Codec(Record):
    """Base of codecs. `encode` and `decode` work on blocks, (…, block), of float32.

    A subclass defines `codes_of(share, random)`, of numbers between −`most` and `most`, and `shares_of(codes)`.
    """

    form: ClassVar[Any]
    most: ClassVar[float]
    signed: ClassVar[bool] = True
    dtype: ClassVar[Any]

    def codes_of(self, share: Array, random: Array | None) -> Array:
        raise NotImplementedError(f"{type(self).__name__} must define codes_of")

    def shares_of(self, codes: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} must define shares_of")

    def encode(self, x: Array, random: Array | None) -> Any:
        """Encode blocks: the largest magnitude of a block becomes `most`. Rounds to the nearest without random bits.

        A block that holds a number that is not finite decodes as NaN.
        """
        largest = jnp.max(jnp.abs(x), -1)  # NaN and infinity go to the scale
        vanishes = largest < np.float32(self.most / 2.0**127)  # where the quotient would overflow
        inverse = jnp.where(vanishes, 0, self.most / jnp.where(vanishes, 1, largest))
        codes = self.codes_of(x * inverse[..., None], random)
        return self.form(codes, jnp.where(vanishes, 0, largest * np.float32(1 / self.most)))

    def decode(self, kept: Any) -> Array:
        """Decode blocks."""
        return self.shares_of(kept.codes) * kept.scale[..., None]


class int8(Codec):
    """8-bit integers of any sign: 255 levels between ± the largest magnitude of the block, closer to each other near 0.

    x / max|x| = c·|c| / 127²,  −127 ≤ c ≤ 127

    Evenly spaced levels have the same noise for all coordinates of a block, too much for those whose gradients are
    small. With squares the spacing, and the largest error, is (2·√(|x|/max|x|) + 1/127)/127 of the largest magnitude,
    and half of it to the nearest. Stochastic rounding makes the expectation exact, so an average that changes by less
    than a level still moves.

    Args:
      block: The largest number of coordinates that share a scale, an integer, 1 or more.

    Source: Dettmers et al. 2022, arXiv 2110.02861 (blocks), with other levels and stochastic rounding.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> gx.codecs.int8().encode(jnp.array([[1.0, -0.5, 0.001]]), None).codes
    Array([[127, -90,   4]], dtype=int8)
    """

    block: Count = 256

    form = Int8
    most = 127.0**2
    dtype = jnp.int8

    def codes_of(self, share: Array, random: Array | None) -> Array:
        size = jnp.abs(share)
        low = jnp.floor(jnp.sqrt(size))
        p = (size - low * low) / (2 * low + 1)  # of the way to the next level
        up = p > 0.5 if random is None else unit(random) < p
        return (jnp.sign(share) * jnp.minimum(low + up.astype(jnp.float32), 127)).astype(jnp.int8)

    def shares_of(self, codes: Array) -> Array:
        c = codes.astype(jnp.float32)
        return c * jnp.abs(c)


class ufloat8(Codec):
    """8-bit floats of numbers that are never negative, such as averages of squares: 5 bits exponent, 3 bits fraction.

    x / max x = 0, or 2⁻ᵉ·(1 + f/8), 0 ≤ e ≤ 30

    8 levels in each factor of 2, over 31 of these below the largest number of the block: a logarithm by shifts alone.
    The relative error is below 1/8, and below 1/16 to the nearest. A positive number never becomes 0, so that nothing
    is divided by 0 that was not: below 2⁻³⁰ of the largest it becomes the lowest level.

    Stochastic rounding leaves the expectation of x^¼ as it is, to the second order of the spacing. The noise of many
    roundings adds up in a long average s, by a quarter of s with b = 0.999, and E[1/√s] exceeds 1/√E[s]: with the
    expectation of x kept, the steps of Adam would be 2 % too long. An average b·s + (1 − b)·g² of numbers rounded so
    has E[1/√s] right; its own expectation is up to 5 % high.

    Args:
      block: The largest number of coordinates that share a scale, an integer, 1 or more.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> codec = gx.codecs.ufloat8()
    >>> codec.decode(codec.encode(jnp.array([[1.0, 0.3, 1e-4, 0.0]]), None)).round(6)
    Array([[1.000e+00, 3.125e-01, 9.900e-05, 0.000e+00]], dtype=float32)
    """

    block: Count = 256

    form = Ufloat8
    most = 2.0**8  # so that neither the scale nor its inverse underflows
    signed = False
    dtype = jnp.uint8

    def codes_of(self, share: Array, random: Array | None) -> Array:
        bits = bits_of(share)
        if random is None:
            rest = np.uint32(1 << 19)
        else:
            # x lies a fraction p of the way from a level to the next, which is 1/(8 + f) higher. To the second order,
            # rounding up with probability p + ⅜·p(1 − p)/(8 + f) leaves the expectation of x^¼ as it is.
            p = (bits & np.uint32((1 << 20) - 1)).astype(jnp.float32) * np.float32(2.0**-20)
            levels = ((bits >> 20) & 7).astype(jnp.float32) + 8
            more = (p * (1 - p) / levels * np.float32(0.375 * 2.0**20)).astype(jnp.uint32)
            rest = jnp.minimum((random >> 12) + more, np.uint32((1 << 20) - 1))
        levels = ((bits + rest) >> 20).astype(jnp.int32) - ONE  # of `most`: 0; of each factor of 2: 8
        return jnp.where(share > 0, jnp.clip(levels + LEVELS, 1, LEVELS), 0).astype(jnp.uint8)

    def shares_of(self, codes: Array) -> Array:
        share = float_of((codes.astype(jnp.uint32) + np.uint32(ONE - LEVELS)) << 20)
        return jnp.where(codes > 0, share, 0)


ONE, LEVELS = (127 + 8) * 8, 248  # the first 12 bits of `most`; its code


class bfloat16(Codec):
    """bfloat16: the first 16 bits of float32, 8 bits of precision, without a scale.

    The relative error is below 2⁻⁷, and below 2⁻⁸ to the nearest. Stochastic rounding makes the expectation exact.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> codec = gx.codecs.bfloat16()
    >>> codec.decode(codec.encode(jnp.array([[1.0, 1.001, -3.14159]]), None))
    Array([[ 1.      ,  1.      , -3.140625]], dtype=float32)
    """

    form = Bfloat16
    dtype = jnp.uint16
    block = 256  # the view for random bits and loops

    def encode(self, x: Array, random: Array | None) -> Any:
        bits = bits_of(x)
        rest = np.uint32(0x7FFF) + ((bits >> 16) & 1) if random is None else random >> 16
        up = bits + rest
        finite = (up & np.uint32(0x7F800000)) != np.uint32(0x7F800000)  # no carry into infinity, or NaN
        return self.form((jnp.where(finite, up, bits) >> 16).astype(jnp.uint16))

    def decode(self, kept: Any) -> Array:
        return float_of(kept.codes.astype(jnp.uint32) << 16)


class Small(Codec):
    """Base of floats of 8 or 16 bits with a scale: their numbers by `native`, their dtype."""

    native: ClassVar[Any]
    fraction: ClassVar[int]
    least: ClassVar[int]  # 2^least is the smallest normal number

    def codes_of(self, share: Array, random: Array | None) -> Array:
        x = jnp.clip(on_grid(share, random, self.fraction, self.least), -self.most, self.most)
        return bitcast_convert_type(x.astype(self.native), self.dtype)

    def shares_of(self, codes: Array) -> Array:
        return bitcast_convert_type(codes, self.native).astype(jnp.float32)


class float16(Small):
    """float16 with a scale for each block: 11 bits of precision.

    The largest magnitude of a block becomes 2¹⁵, so that squares of small gradients do not underflow. The relative
    error is below 2⁻¹⁰ down to 2⁻²⁹ of the largest, and half of that to the nearest.

    Args:
      block: The largest number of coordinates that share a scale, an integer, 1 or more.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> codec = gx.codecs.float16()
    >>> codec.decode(codec.encode(jnp.array([[1e-12, 1.0002e-15]]), None))
    Array([[1.0000000e-12, 1.0004044e-15]], dtype=float32)
    """

    block: Count = 256

    form = Float16
    most, fraction, least = 2.0**15, 10, -14
    native, dtype = jnp.float16, jnp.uint16


class float8_e4m3(Small):
    """8-bit floats of any sign with a scale for each block: 4 bits exponent, 3 bits fraction.

    The largest magnitude of a block becomes 448. The relative error is below 1/8 down to 2⁻¹⁴ of the largest, and below
    1/16 to the nearest.

    Args:
      block: The largest number of coordinates that share a scale, an integer, 1 or more.

    Source: Micikevicius et al. 2022, arXiv 2209.05433.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> codec = gx.codecs.float8_e4m3()
    >>> codec.decode(codec.encode(jnp.array([[448.0, -9.9, 0.01]]), None))
    Array([[ 4.480000e+02, -1.000000e+01,  9.765625e-03]], dtype=float32)
    """

    block: Count = 256

    form = Float8E4M3
    most, fraction, least = 448.0, 3, -6
    native, dtype = jnp.float8_e4m3fn, jnp.uint8


class float8_e5m2(Small):
    """8-bit floats of any sign with a scale for each block: 5 bits exponent, 2 bits fraction.

    The largest magnitude of a block becomes 57344. The relative error is below 1/4 down to 2⁻²⁹ of the largest, and
    below 1/8 to the nearest.

    Args:
      block: The largest number of coordinates that share a scale, an integer, 1 or more.

    Source: Micikevicius et al. 2022, arXiv 2209.05433.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> codec = gx.codecs.float8_e5m2()
    >>> codec.decode(codec.encode(jnp.array([[57344.0, -9.9, 0.01]]), None))
    Array([[ 5.734400e+04, -1.000000e+01,  9.765625e-03]], dtype=float32)
    """

    block: Count = 256

    form = Float8E5M2
    most, fraction, least = 57344.0, 2, -14
    native, dtype = jnp.float8_e5m2, jnp.uint8


CODECS: dict[Any, Codec] = {c.form: c() for c in (int8, ufloat8, bfloat16, float16, float8_e4m3, float8_e5m2)}

# --------------------------------------------------------------------------------------------------------------- blocks


def blocks_of(shape: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The shape (…, blocks, block) of an array in blocks of at most `most` numbers.

    Blocks are parts of the last axis if it has a divisor between most/2 and most, else of the flattened array, whose
    last block may be padded.
    """
    if count := _count(shape[-1], most):
        return (*shape[:-1], count, shape[-1] // count)
    size = math.prod(shape)
    count = _count(size, most) or -(-size // most)
    return count, -(-size // count)


def _count(n: int, most: int) -> int | None:
    """The fewest equal parts of n, each of at most `most` and at least half of that."""
    least = -(-n // most)
    return next((count for count in range(least, 2 * n // most + 1) if n % count == 0), None)


def view_of(kept: Encoded) -> tuple[int, ...]:
    """The shape (…, blocks, block) in which an encoded array is in blocks."""
    shape = kept.codes.shape
    if kept.scale is None:
        return blocks_of(shape, bfloat16.block)
    *lead, count = kept.scale.shape
    if tuple(lead) == shape[:-1] and shape[-1] % count == 0:
        return (*shape[:-1], count, shape[-1] // count)
    return count, -(-math.prod(shape) // count)


def in_blocks(x: Array, view: tuple[int, ...]) -> Array:
    """Reshape to blocks; on an explicit mesh, gathered where the last axis is sharded or the blocks are not its."""
    sharding = jax.typeof(x).sharding
    if any(sharding.spec) and (view[:-2] != x.shape[:-1] or sharding.spec[-1] is not None):
        x = jax.reshard(x, jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec()))
    if x.size < math.prod(view):
        x = jnp.pad(x.reshape(-1), (0, math.prod(view) - x.size))
    return x.reshape(view)


def of_blocks(x: Array, shape: tuple[int, ...]) -> Array:
    """Undo `in_blocks`."""
    size = math.prod(shape)
    return x.reshape(shape) if x.size == size else x.reshape(-1)[:size].reshape(shape)


def scale_shape(view: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the scales: as many axes as the array has, with the blocks on the last."""
    return view[:-1] if view[:-2] == shape[:-1] else (*[1] * (len(shape) - 1), view[0])


# ---------------------------------------------------------------------------------------------------------- random bits


def random_of(start: Array, name: str, shape: tuple[int, ...]) -> Array:
    """Random bits of the shape of an array with a name, such as its path."""
    view = blocks_of(shape, 256) if shape else (1, 1)
    own = mixed(start ^ np.uint32(crc32(name.encode())))
    return of_blocks(random_bits(block_hashes(view, own), view[-1]), shape)


def block_hashes(view: tuple[int, ...], start: Array) -> Array:
    """A hash of each block: of its place, axis by axis, and of `start`."""
    x = start
    for axis in range(len(view) - 1):
        own = jax.lax.broadcasted_iota(jnp.uint32, view[:-1], axis)
        x = mixed(x ^ (own * np.uint32(0x9E3779B9) + np.uint32(axis)))
    return jnp.broadcast_to(x, view[:-1])


def random_bits(hashes: Array, block: int) -> Array:
    """32 random bits for each coordinate of the blocks."""
    lane = jax.lax.broadcasted_iota(jnp.uint32, (*hashes.shape, block), hashes.ndim)
    return mixed(hashes[..., None] ^ (lane * np.uint32(0x9E3779B9)))


def bits_for(random: Array | None, number: int) -> Array | None:
    """The random bits of one of several arrays: the same bits, rotated, so that the leading ones differ."""
    if random is None:
        return None
    turn = 8 * (number % 4)
    random = random if number < 4 else mixed(random + np.uint32(number // 4))
    return random if turn == 0 else (random << turn) | (random >> (32 - turn))


# --------------------------------------------------------------------------------------------------------- whole arrays


def encoded(codec: Codec, x: Array, random: Array | None = None, view: tuple[int, ...] | None = None) -> Any:
    """Encode an array; `random` has the shape of its blocks."""
    view = view or blocks_of(x.shape, codec.block)  # pyright: ignore[reportAttributeAccessIssue]
    kept = codec.encode(in_blocks(stop_gradient(x).astype(jnp.float32), view), random)
    return placed_as(kept, x)


def placed_as(kept: Any, x: Array) -> Any:
    """Encoded blocks in the shape and the sharding of the array."""
    view = kept.codes.shape
    codes = sharded(_placed(of_blocks(kept.codes, x.shape), x), x)
    if not isinstance(codes, Tracer) and isinstance(getattr(x, "sharding", None), jax.sharding.NamedSharding):
        codes = jax.device_put(codes, x.sharding)
    if kept.scale is None:
        return type(kept)(codes)
    scale = kept.scale.reshape(shape := scale_shape(view, x.shape))
    axes = tuple(i if a == b and i < x.ndim - 1 else None for i, (a, b) in enumerate(zip(shape, x.shape)))
    return type(kept)(codes, sharded_along(scale, x, axes))


def _placed(x: Array, like: Array) -> Array:
    sharding = jax.typeof(like).sharding
    return jax.reshard(x, sharding) if any(sharding.spec) else x


def decoded(kept: Any, dtype: Any = jnp.float32) -> Array:
    """Decode an array."""
    view = view_of(kept)
    blocks = type(kept)(
        *(in_blocks(kept.codes, view), *(stop_gradient(x).astype(jnp.float32).reshape(view[:-1]) for x in kept[1:]))
    )
    return _placed(of_blocks(CODECS[type(kept)].decode(blocks), kept.codes.shape), kept.codes).astype(dtype)
