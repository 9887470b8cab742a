"""Storage: a wrapper that keeps the slots of an optimizer encoded in fewer bits between its updates."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from gradtx.codecs import (
    CODECS,
    Codec,
    bfloat16,
    bits_for,
    block_hashes,
    decoded,
    encoded,
    float8_e4m3,
    float16,
    in_blocks,
    int8,
    is_encoded,
    mixed,
    of_blocks,
    random_bits,
    ufloat8,
    view_of,
)
from gradtx.combinators import chain, factored, reduced
from gradtx.core import Context, Kind, Part, Slots, Transformation, axes, init_slots, leaves_by_path, path_of, run
from gradtx.core.errors import said
from gradtx.core.kinds import CountOrZero
from gradtx.core.root import is_separable, keys_of, names_of, per_leaf
from gradtx.core.trees import as_dtype, flatten_with_path, is_none, map_with_path, working_dtype
from gradtx.core.where import Where, choose, chooser
from gradtx.wrappers.evaluation import of_slots

NAMED: dict[str, dict[str, Codec]] = {
    "8bit": {"signed": int8(), "nonnegative": ufloat8()},
    "bfloat16": {"signed": bfloat16(), "nonnegative": bfloat16()},
    "float16": {"signed": float16(), "nonnegative": float16()},
    "float8": {"signed": float8_e4m3(), "nonnegative": ufloat8()},
}
PART = 2**18  # coordinates that an update decodes at a time: their float32 arrays fit into the cache of a core


def _codec(place: str, value: Any) -> Any:
    """A name, a codec, or pairs of a pattern and one of these or None."""
    if isinstance(value, Codec):
        known = CODECS.get(getattr(value, "form", None))  # encoded arrays are decoded by their form
        if type(value) is not type(known):
            raise TypeError(f"{place} must be a codec of gx.codecs, got {said(value)}, a subclass of one")
        return value
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if isinstance(value, tuple) and all(isinstance(x, tuple) and len(x) == 2 for x in value):
        for pattern, _ in value:
            if not isinstance(pattern, str):
                raise TypeError(f"{place} must have patterns of paths of slots as keys, got {said(pattern)}")
        return tuple((p, x if x is None else _codec(f"{place}[{p!r}]", x)) for p, x in value)
    if not isinstance(value, str):
        raise TypeError(f"{place} must be a name, a codec, or a dict of these by patterns of slots, got {said(value)}")
    if value not in NAMED:
        raise ValueError(f"{place} must be {', '.join(map(repr, NAMED))} or a codec, got {said(value)}")
    return value


class store(Transformation):
    """Keep the slots of an optimizer encoded in fewer bits between updates.

    u = inner(g);  slots ← encode(slots)

    Each update decodes the slots, runs the inner optimizer in float32, and encodes the new slots. Every piece declares
    which of its slots may be rounded: averages, sums and maxima of updates. Counters, signs, step sizes, points of the
    parameter space, bases, covariances and slots of fewer numbers, as those of `factored`, stay exact, and so do all
    slots of a piece that declares nothing, or of an Optax transformation. `gx.summary` shows the codec of each slot.

    `"8bit"` encodes slots of any sign by `codecs.int8`, and those that are never negative, such as averages of squares,
    by `codecs.ufloat8`: 2.03 bytes for each parameter in place of 8 for AdamW. `"bfloat16"` takes 4, `"float16"` takes
    4.03, and `"float8"`, of `codecs.float8_e4m3` and `codecs.ufloat8`, takes 2.03. 8 bits are coarse for averages that
    `orthogonalize` receives, as in Muon, where small singular values count as much as large ones: use `"bfloat16"`
    there.

    Slots are rounded stochastically: an average that changes by less than the spacing of its codes still moves, in
    expectation as it should. The random bits are a hash of the step, the parameter's path, the coordinate and `seed`,
    so that a run repeats and no `key` is needed. They are made of the argument `key` if `update` receives one. An
    update emits what it computed before the new slots were rounded; the rounding shows at the next update.

    Codes have the shape and the sharding of their slot. A derivative of an update does not flow through codes: it is
    with respect to the hyperparameters of that update, with the state held constant.

    Put transformations that need all leaves at once, such as `clip_by_global_norm`, outside: an inner optimizer that
    treats each coordinate alone, as AdamW does, runs part by part, so that no float32 copy of its slots is made.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      codec: `"8bit"`, `"bfloat16"`, `"float16"` or `"float8"`; a codec of `gx.codecs`, for all slots that may be
        rounded; or a dict of these, or None, by patterns of slots, such as `{"**/by/**": "bfloat16", "**": None}`. The
        path of a slot is its names in the state and the parameter's: `precondition/by/scale_by_ema/mean/w`. The first
        pattern that matches applies. A codec that a pattern gives to a slot is used even if its piece declares nothing.
      where: The parameters whose slots are encoded: a path pattern, a function of (path, leaf), a tree of booleans, or
        None for all.
      stochastic: If False, round to the nearest code.
      seed: An integer, 0 or more, for other random bits.

    Raises:
      ValueError: A codec for numbers of 0 or more is given to a slot of any sign, a pattern matches no slot, or `codec`
        is another name.
      TypeError: `codec` is not a name, a codec or a dict of these.

    Source: Dettmers et al. 2022, arXiv 2110.02861 (blocks of 8-bit codes).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.store(gx.adamw(1e-3), "8bit"), {"w": jnp.ones((256, 256))}
    >>> gx.summary(tx, params).rows[2].state, gx.summary(tx, params).bytes / 256**2
    ('mean (int8)', 2.03155517578125)
    """

    inner: Part
    codec: Annotated[Any, Kind(_codec)] = "8bit"
    where: Where = None
    stochastic: bool = True
    seed: CountOrZero = 0

    formula = "u = inner(g)"

    def reads(self) -> set[str]:
        return {"key"}

    # -------------------------------------------------------------------------------------------------- slots

    def init_tree(self, params: Any) -> Slots:
        slots = init_slots(self.inner, params)
        if not slots:
            return {}
        names = [*leaves_by_path(params, is_none)]
        chosen = choose("store: where", self.where, params)
        declared = {"/".join(keys): a for keys, a in ranges(self.inner)}
        rules = self.codec if isinstance(self.codec, tuple) else (("**", self.codec),)
        matched = set()

        def encode(keys: Any, x: Any) -> Any:
            path = path_of(keys)
            if x is None or not jnp.issubdtype(x.dtype, jnp.floating) or not x.ndim or not x.size:
                return x
            if _parameter(path, names) not in chosen:
                return x
            pattern, codec = next(((p, c) for p, c in rules if chooser(p)(path, x)), (None, None))
            matched.add(pattern)
            own = next((a for slot, a in declared.items() if f"{path}/".startswith(f"{slot}/")), None)
            if codec is None or (own is None and not isinstance(self.codec, tuple)):
                return x
            if isinstance(codec, str):
                codec = NAMED[codec][own or "signed"]
            elif own == "signed" and not codec.signed:
                name = type(codec).__name__
                raise ValueError(
                    f"store: expected a codec for numbers of any sign for the slot {path!r}, got {name}, which holds "
                    f'numbers of 0 or more: pass codec="8bit", or a dict of codecs by patterns of slots'
                )
            return encoded(codec, x)

        out = map_with_path(encode, slots)
        for pattern, _ in rules if isinstance(self.codec, tuple) and chosen else ():
            if pattern not in matched:
                paths = ", ".join(leaves_by_path(slots))
                raise ValueError(
                    f"store: codec has the pattern {pattern!r}, which is the first for no slot of: {paths}"
                )
        return {"inner": out}

    def decoded(self, slots: Slots, dtype: Any) -> Any:
        """The slots of the inner optimizer, decoded."""
        return jax.tree.map(lambda x: decoded(x, dtype) if is_encoded(x) else x, slots, is_leaf=is_encoded)

    def encoded_as(self, new: Any, old: Any, start: Any = None, names: Any = ()) -> Any:
        """New slots, each encoded as the old one; with the random bits of its parameter, one of `names`."""
        numbers: dict[str, int] = {}

        def encode(keys: Any, kept: Any, x: Any) -> Any:
            if not is_encoded(kept):
                return x
            name, view = _parameter(path_of(keys), names), view_of(kept)
            number = numbers[name] = numbers.get(name, -1) + 1
            random = None if start is None else _random(start, name, number, view)
            return encoded(CODECS[type(kept)], x, random, view)

        return map_with_path(encode, old, new, is_leaf=is_encoded)

    def evaluate(self, params: Any, slots: Slots) -> Any:
        inner = self.decoded(slots.get("inner", {}), working_dtype(params))
        return of_slots(self.inner, inner, params)

    def turned(self, slots: Slots, turn: Any) -> Slots:
        if not slots:
            return slots
        names, inner = names_of(self.inner), self.decoded(slots["inner"], working_dtype(slots))
        new = {names[0]: self.inner.turned(inner[names[0]], turn)} if names else self.inner.turned(inner, turn)
        return slots | {"inner": self.encoded_as(new, slots["inner"])}

    # ------------------------------------------------------------------------------------------------- update

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        given = slots.get("inner", {})
        if not any(map(is_encoded, jax.tree.leaves(given, is_leaf=is_encoded))):
            return self.part("inner", updates, slots, context, new := {}), new
        start = self._start(context)
        # Scales are float32, also where the working dtype, to which the root casts them, is wider.
        old = jax.tree.map(lambda x: jax.tree.map(_scale, x) if is_encoded(x) else x, given, is_leaf=is_encoded)
        out, new = self._updated(updates, old, context, start)
        return out, {"inner": jax.tree.map(lambda x, y: as_dtype(y, x.dtype), given, new)}

    def _updated(self, updates: Any, old: Any, context: Context, start: Any) -> tuple[Any, Any]:
        if is_elementwise(self.inner):
            return _leaf_by_leaf(self.inner, updates, old, context, start)
        out, new = run(self.inner, updates, self.decoded(old, working_dtype(updates)), context)
        return out, self.encoded_as(new, old, start, [*leaves_by_path(updates, is_none)])

    def _start(self, context: Context) -> Array | None:
        """The random bits of this step; None without stochastic rounding."""
        if not self.stochastic:
            return None
        if context.extra.get("key") is not None:
            return jax.random.bits(context.key_of("store"), (), jnp.uint32) ^ np.uint32(self.seed)
        return mixed(mixed(context.step.astype(jnp.uint32)) ^ np.uint32(self.seed))


def ranges(tx: Any, keys: tuple[str, ...] | None = None) -> Iterator[tuple[tuple[str, ...], str]]:
    """Iterate over the slots of a transformation that may be rounded, by their keys, with "signed" or "nonnegative"."""
    yield from _ranges(tx, names_of(tx) if keys is None else keys, "signed")[0]


def _ranges(tx: Any, keys: tuple[str, ...], incoming: str) -> tuple[list[tuple[tuple[str, ...], str]], str]:
    """The ranges of the slots of a transformation and of its updates, given the range of the incoming updates."""

    def own(declared: str) -> str:
        return incoming if declared == "updates" else declared

    found = [((*keys, name), own(declared)) for name, declared in tx.ranges.items()]
    if isinstance(tx, (factored, reduced)):  # fewer numbers, each for many coordinates
        return found, "signed"
    passes = tx.emits == "updates"
    seen, emitted = incoming if passes or isinstance(tx, chain) else "signed", []
    for name, part in tx.parts().items():
        more, out = _ranges(part, (*keys, *keys_of(tx, name, part)), seen)
        found += more
        emitted.append(out)
        if isinstance(tx, chain):
            seen = out
    if isinstance(tx, chain):
        return found, seen
    if passes and emitted:
        return found, "nonnegative" if set(emitted) == {"nonnegative"} else "signed"
    return found, own(tx.emits)


def is_elementwise(tx: Any) -> bool:
    """Whether a transformation treats each coordinate alone."""
    return is_separable(tx) and tx.elementwise and all(map(is_elementwise, tx.parts().values()))


def _scale(x: Array) -> Array:
    return as_dtype(x, jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _parameter(path: str, names: Any) -> str:
    """The path of the parameter of a slot: the longest path that ends the slot's."""
    ends = (name for name in names if name == path or path.endswith(f"/{name}") or not name)
    return max(ends, key=len, default=path)


def _random(start: Array, parameter: str, number: int, view: tuple[int, ...]) -> Array:
    """The random bits of one of the slots of a parameter."""
    own = mixed(start ^ np.uint32(crc32(parameter.encode())))
    bits = bits_for(random_bits(block_hashes(view, own), view[-1]), number)
    assert bits is not None
    return bits


# --------------------------------------------------------------------------------------------- coordinate by coordinate


def _leaf_by_leaf(tx: Any, updates: Any, slots: Slots, context: Context, start: Any) -> tuple[Any, Slots]:
    """Run an elementwise transformation on each leaf, a large one part by part, so that no copy in float32 is made.

    Leaves of the same type are traced once, as in `gradtx.core.root.leaf_by_leaf`.
    """
    name = type(tx).__name__
    own = slots if tx.flat else slots[name]
    leaves, tree = flatten_with_path(updates, is_leaf=is_none)
    params = [None] * len(leaves) if context.params is None else tree.flatten_up_to(context.params)
    whole, form = jax.tree.flatten(per_leaf(tx, own))
    columns = [tree.flatten_up_to(x) if w else [x] * len(leaves) for w, x in zip(whole, form.flatten_up_to(own))]
    compiled = jax.jit if isinstance(context.step, Tracer) else lambda program: program
    programs: dict[Any, list[Any]] = {}
    after = jnp.zeros((), bool)  # of the leaf before: see `_in_parts`

    def program_of(keys: Any, g: Any, p: Any, row: Any) -> Any:
        alike = programs.setdefault((*map(jax.typeof, jax.tree.leaves((g, p, row))), jax.tree.structure(row)), [])
        for asked, program in alike:
            if all(question(path_of(keys), g) == answer for question, answer in asked):
                return program
        path, asked = path_of(keys), []

        def one(g: Any, p: Any, row: Any) -> Any:
            old = form.unflatten(row)
            own = context._replace(params=p, unasked_path=path, asked=asked)
            u, new = run(tx, g, old if tx.flat else {name: old}, own)
            return u, form.flatten_up_to(new if tx.flat else new[name])

        wide = getattr(axes.given(path, g), "dtype", g.dtype) == g.dtype

        def program(g: Any, p: Any, row: Any, start: Any, after: Any) -> Any:
            with axes.within(one=True):
                if not wide:  # their copies in the working dtype are made when the leaf before is finished
                    g, p = jax.tree.map(lambda x: jnp.where(after, 0, x), (g, p))
                return _in_parts(one, g, p, row, start, after, context.step)

        alike.append((asked, compiled(program)))
        return alike[-1][1]

    rows: list[Any] = []
    first = None  # with an update: it says what slots that are the same for all become
    for (keys, g), p, *row in zip(leaves, params, *columns):
        if g is not None:
            seed = None if start is None else mixed(start ^ np.uint32(crc32(path_of(keys).encode())))
            with axes.within(one=True):
                program = program_of(keys, g, p, row)
            g, row, after = program(g, p, row, seed, after)
            first = first or row
        rows.append((g, *row))
    if first is None:
        return updates, slots
    out, *columns = map(list, zip(*rows))
    new = form.unflatten([tree.unflatten(column) if w else x for w, x, column in zip(whole, first, columns)])
    return tree.unflatten(out), new if tx.flat else {name: new}


def _in_parts(one: Any, g: Array, p: Any, row: list[Any], start: Any, after: Array, step: Array) -> Any:
    """Update a leaf whose slots are encoded: `one(g, p, row)`, on parts of at most `PART` coordinates.

    `after` is False, and comes from the leaf before, which is therefore finished first: its memory is then free.
    """
    places = [i for i, x in enumerate(row) if is_encoded(x)]
    views = {view_of(row[i]) for i in places}
    view = next(iter(views), g.shape)
    others = [x for i, x in enumerate(row) if i not in places and x.ndim]
    plain = any(jax.typeof(g).sharding.spec) or any(x.shape != g.shape for x in others)

    def encode(row: list[Any], like: list[Any], hashes: Any) -> list[Any]:
        random = None if hashes is None else random_bits(hashes, view[-1])

        def codes(i: int) -> Any:
            x = jax.lax.stop_gradient(row[i]).astype(jnp.float32)
            return CODECS[type(like[i])].encode(x, bits_for(random, places.index(i)))

        return [codes(i) if i in places else x for i, x in enumerate(row)]

    def decode(row: list[Any]) -> list[Any]:
        return [CODECS[type(x)].decode(jax.lax.stop_gradient(x)).astype(g.dtype) if is_encoded(x) else x for x in row]

    if not places:
        return *one(g, p, row), after
    if len(views) > 1 or plain or g.size != math.prod(view):
        wide = [decoded(x, g.dtype) if is_encoded(x) else x for x in row]
        u, new = one(g, p, wide)
        for number, i in enumerate(places):
            own = view_of(row[i])
            random = None if start is None else random_bits(block_hashes(own, start), own[-1])
            new[i] = encoded(CODECS[type(row[i])], new[i], bits_for(random, number), own)
        return u, new, after

    hashes = None if start is None else block_hashes(view, start)
    cut, joined, count = _cutter(view)

    def blocks(x: Any) -> Any:
        """The array, or the codes and scales, by blocks."""
        if is_encoded(x):
            return type(x)(in_blocks(x.codes, view), *(s.reshape(view[:-1]) for s in x[1:]))
        return x if x is None or not x.ndim else in_blocks(x, view)

    flat_g, flat_p, old = blocks(g), blocks(p), [blocks(x) for x in row]
    if count == 1:
        u, new = one(flat_g, flat_p, decode(old))
        new = encode(new, old, hashes)
    else:

        def part(i: Any, carry: Any) -> Any:
            u, new, state = carry

            def here(x: Any) -> Any:
                return jax.tree.map(lambda x: x if not x.ndim else cut(x, i), x)

            seen = [x if not jax.tree.leaves(x)[0].ndim else here(y) for x, y in zip(old, state)]
            # Read in a branch that is always taken: fused into what writes the codes, it would make XLA copy them all.
            zero = jax.tree.map(jnp.zeros_like, seen)
            seen = jax.lax.cond(step < 0, lambda zero, seen: zero, lambda zero, seen: seen, zero, seen)
            made, kept = one(here(flat_g), here(flat_p), decode(seen))
            kept = encode(kept, seen, here(hashes))

            def write(x: Any, y: Any) -> Any:
                return y if not x.ndim else joined(x, y, i)

            return write(u, made), new, [jax.tree.map(write, x, y) for x, y in zip(state, kept)]

        # 0, known only when the leaf before is finished
        start_u = jnp.full(view, jnp.where(after, 1, 0), g.dtype)
        u, _, new = jax.lax.fori_loop(0, count, part, (start_u, None, old))
        after = jnp.isnan(u[(0,) * u.ndim])
    u, new = (
        of_blocks(u, g.shape),
        [
            type(x)(of_blocks(y.codes, x.codes.shape), *(s.reshape(x.scale.shape) for s in y[1:]))
            if is_encoded(x)
            else y
            if not x.ndim
            else of_blocks(y, x.shape)
            for x, y in zip(row, new)
        ],
    )
    return u, new, after


def _cutter(view: tuple[int, ...]) -> tuple[Any, Any, int]:
    """Functions that read and write a part of an array of blocks, or of one number for each, and the number of parts.

    The longest axis of blocks is cut as (devices, parts, rest), and a part is one index of the second of these: on
    several devices, each device then has a piece of every part, and nothing moves between them.
    """
    axis = max(range(len(view) - 1), key=lambda i: view[i])
    devices = math.gcd(view[axis], jax.device_count())
    most = view[axis] // devices
    least = -(-math.prod(view) // PART)
    count = next((n for n in range(min(least, most), most + 1) if most % n == 0), most)
    if count > 16 * least:  # a length without divisors
        count = 1

    def shape(x: Any) -> tuple[int, ...]:
        return (*x.shape[:axis], devices, count, most // count, *x.shape[axis + 1 :])

    def cut(x: Any, i: Any) -> Any:
        return jax.lax.dynamic_index_in_dim(x.reshape(shape(x)), i, axis + 1, keepdims=False)

    def joined(x: Any, y: Any, i: Any) -> Any:
        return jax.lax.dynamic_update_index_in_dim(x.reshape(shape(x)), y, i, axis + 1).reshape(x.shape)

    return cut, joined, count
