"""Restoring of saved states into the same optimizer or another one, by the names of the slots."""

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.dtypes import prng_key
from numpy.lib.npyio import NpzFile

from gradtx.codecs import CODECS, decoded, encoded, is_encoded, view_of
from gradtx.core import State, Transformation
from gradtx.core.arguments import checked, live
from gradtx.core.errors import describe, said
from gradtx.core.root import pieces
from gradtx.core.trees import boxed_paths, flatten_with_path, path_of, spans_processes
from gradtx.inspect.tables import aligned


class Restored(NamedTuple):
    """Report of `restore`, by path; prints as a table of the slots."""

    kept: dict[str, str]
    """The restored leaves: from the path in the new state to the path in the saved state."""
    fresh: list[str]
    """The leaves of the new state without a saved value; they are as `init` makes them."""
    dropped: list[str]
    """The saved leaves that are not used."""
    parameters: list[str]
    """The paths of the parameters."""
    converted: dict[str, str]
    """The kept leaves that `cast` or `grow` changed: from their path to, say, `bfloat16[4,2] → float32[6,2]`."""

    def __str__(self) -> str:
        return _table(self)

    __repr__ = __str__


@checked
def restore(
    tx: Any,
    params: Any,
    saved: Any,
    *,
    at: str | None = None,
    renamed: Mapping[str, str | None] | None = None,
    cast: bool = False,
    grow: bool = False,
    strict: bool = True,
) -> tuple[State, Restored]:
    """Restore a saved state into an optimizer, the one that saved it or another, and report each slot.

    Slots have names, so most changes of a composition keep their paths: a clip in front, another rate, a rate that
    becomes a schedule, a chain within a chain. A saved leaf whose path, shape and dtype match is kept bit for bit, on
    the devices where `init` places it.

    So does a wrapper that is added or taken away: the slots inside keep their values, and the clock of the schedules
    inside goes on, also where its unit changes. After `accumulate(tx, 4)` is put around an optimizer that made 1,001
    updates, its rate is at step 1,001, and advances once every 4 updates. Fresh slots correct themselves, because
    averages know their own age.

    The state is found in a checkpoint that holds more than the state: Orbax's raw form of an NNX optimizer, of a Flax
    `TrainState` or of an Equinox module, where the other leaves are ignored.

    Args:
      tx: The optimizer that will use the state: a transformation of gradtx, or a pair (init, update) such as Optax's.
      params: The parameters of the optimizer.
      saved: A `State`, or its form in a file: nested dicts (msgpack, orbax), or a dict from paths to arrays (npz), such
        as `{"slots/scale_by_ema/mean/w": …}`; or a tree that holds one. Do not unpickle untrusted files: unpickling
        runs code from the file.
      at: The path of the state in `saved`, such as `"opt_state"`; needed if `saved` holds several states.
      renamed: A dict from saved paths, or parts of paths in whole names, to new ones; None as the new path drops the
        leaves. `{"dense/w": "dense/kernel"}` renames a parameter, and
        `{"slots/precondition": "slots/partition/default/precondition"}` moves Adam into a group.
      cast: If True, a leaf of another precision is converted to the dtype of its slot, such as a bfloat16 checkpoint to
        float32, and reported in `converted`. If False, raise: rounding a state changes a run.
      grow: If True, a leaf that is smaller than its slot, such as the moments of an embedding that has more rows now,
        fills the start of each axis; the rest is as `init` makes it. It is reported in `converted`. The age of an
        average stays one number for the whole parameter, so new rows are corrected as old ones are. If False, raise.
      strict: If True, raise if a leaf would be fresh, or dropped without being renamed to None. Slots that only keep
        rounding errors of others, such as the `lost` of `accumulate`, may be either.

    Returns:
      The restored state and a `Restored` report.

    Raises:
      ValueError: With `strict`, a leaf would be fresh or dropped. Always: a saved leaf has another shape or dtype that
        neither `grow` nor `cast` converts, a name in `renamed` is not in any saved path, two saved leaves have one new
        path, or `saved` holds several states. The message has the paths.
      TypeError: `tx` is not a transformation, or `renamed` is not a dict of paths.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> old, params = gx.sgd(0.1, momentum=0.9), {"w": jnp.ones(2)}
    >>> _, saved = old.update(params, old.init(params))
    >>> new, params = gx.chain(gx.clip(1.0), old), {"w": jnp.ones(2), "b": jnp.ones(1)}
    >>> state, report = gx.restore(new, params, saved, strict=False)
    >>> report
    slot                         kept  fresh
    step                         1
    slots/add_momentum/velocity  1: w  1: b
    >>> state.slots["add_momentum"]["velocity"]
    {'b': Array([0.], dtype=float32), 'w': Array([1., 1.], dtype=float32)}
    """
    tx = Transformation.coerce("restore: tx", tx)
    state = tx.init(params)
    need, boxed, structure = (
        _by_path("this optimizer's state", state, is_encoded),
        boxed_paths(state),
        jax.tree.structure(state),
    )
    del state  # frees each fresh array as soon as it is replaced
    within, have = _state_of(_leaves(saved), need, at)
    have = _joined({boxed.get(path, path): _array(path, leaf) for path, leaf in have.items()})
    if within and isinstance(renamed, Mapping):
        renamed = {x.removeprefix(f"{within}/") if isinstance(x, str) else x: new for x, new in renamed.items()}
    origin, gone = _moved(list(have), {} if renamed is None else renamed)
    _rewrapped(origin, need, have)
    _set_clocks(tx, origin, need, have)
    report = Restored(
        {path: origin[path] for path in need if path in origin},
        [path for path in need if path not in origin],
        [path for new, path in origin.items() if new not in need],
        list(_by_path("params", params)),
        {},
    )
    rounding = [f"slots/{'/'.join((*names, slot))}/" for names, piece in pieces(tx) for slot in piece.roundoff]
    if strict and not all(f"{path}/".startswith((*rounding,)) for path in [*report.fresh, *report.dropped]):
        raise ValueError(
            "restore: the saved state does not fit this optimizer and these parameters:\n"
            f"{_table(report, whole=False)}\n"
            "Pass renamed={'saved path': 'new path'} for a slot that has moved, None as its new path to drop it, or "
            "strict=False to keep the slots that fit and drop the rest"
        )
    for path, old in report.kept.items():
        place, like = f"restore: {old!r}, which renamed={{{old!r}: None}} would drop,", need[path]
        if is_encoded(like) or is_encoded(have[old]):
            need[path] = _recoded(place, have[old], like, cast, grow)
            was, now = _described(have[old]), _described(like)
        else:
            x = _viewed(_read(place, have[old], like), like)
            need[path] = placed(place, x, like, cast, grow)
            was, now = describe(x), describe(like)
        if was != now:
            report.converted[path] = f"{was} → {now}"
    if not isinstance(step := need["step"], Tracer) and step < 0:
        raise ValueError(f"restore: {origin['step']!r} must be the number of updates, got {step}")
    return structure.unflatten(jax.tree.leaves([*need.values()])), report._replace(dropped=[*report.dropped, *gone])


def placed(place: str, x: Any, like: Any, cast: bool = False, grow: bool = False) -> jax.Array:
    """Copy `x` to the devices of `like`. Raises `ValueError` (prefixed with `place`) if shape or dtype differ."""
    x = _viewed(x, like)
    kept, said = x, f"{place} is {describe(x)}, not {describe(like)}"
    if x.dtype != like.dtype and _alike(x.dtype, like.dtype):
        if not cast:
            raise ValueError(f"{said}: pass cast=True to convert it")
        with np.errstate(over="ignore"):
            x = x.astype(like.dtype)
    smaller = x.ndim == like.ndim and all(a <= b for a, b in zip(x.shape, like.shape))
    if x.dtype == like.dtype and x.shape != like.shape and smaller:
        if not grow:
            raise ValueError(f"{said}: pass grow=True to keep it as the start of each axis")
        x = jnp.asarray(like).at[tuple(map(slice, x.shape))].set(x)
    if (x.shape, x.dtype) != (like.shape, like.dtype):
        raise ValueError(said)
    if isinstance(x, Tracer) or isinstance(like, Tracer):
        return jnp.asarray(x)
    if x.dtype != kept.dtype:
        integer = jnp.issubdtype(x.dtype, jnp.integer)
        if (x != kept).any() if integer else np.isfinite(kept).all() and not np.isfinite(x).all():
            raise ValueError(f"{said}, which cannot hold its values")
    if spans_processes(x):  # it is on its devices already
        return x
    return jax.device_put(x, like.sharding if getattr(like, "committed", False) else None, may_alias=False)


def header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the shape and the dtype of an array in NumPy's format, without the array."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of NumPy's format is not of a plain array")
    shape, _, dtype = readers[version](file)
    return shape, dtype


class _Unread:
    """An array of an `.npz` file, of which the header alone is read: a small file can hold large arrays."""

    def __init__(self, saved: NpzFile, name: str) -> None:
        self.saved, self.name = saved, name
        if saved.zip is None:
            raise ValueError("the file is closed")
        with saved.zip.open(f"{name}.npy") as file:
            self.shape, self.dtype = header(file)


def _read(place: str, x: Any, like: Any) -> Any:
    """Read an array of a file. Raises `ValueError` (prefixed with `place`) if it is too large, or of objects."""
    if not isinstance(x, _Unread):
        return x
    most = jax.eval_shape(jax.random.key_data, like).size if jnp.issubdtype(like.dtype, prng_key) else like.size
    if math.prod(x.shape) > most or x.dtype.hasobject or x.dtype.itemsize > np.dtype(complex).itemsize:
        raise ValueError(f"{place} is {describe(x)}, not {describe(like)}")
    return x.saved[x.name]


def _viewed(x: Any, like: Any) -> Any:
    """An array of the dtype that was saved: files store keys as their numbers, and npz bfloat16 and such as bytes."""
    if jnp.issubdtype(like.dtype, prng_key) and x.dtype == np.uint32:
        return jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(like))
    if x.dtype == np.dtype((np.void, size := x.dtype.itemsize)) and size in (like.dtype.itemsize, 2):
        return x.view(like.dtype if size == like.dtype.itemsize else jnp.bfloat16)
    return x


def _joined(have: dict[str, Any]) -> dict[str, Any]:
    """Encoded arrays in place of their codes and scales, which files hold under the name of the codec."""
    forms = {form._fields[0]: form for form in CODECS}
    out = dict(have)
    for path, codes in have.items():
        slot, _, name = path.rpartition("/")
        form = forms.get(name)
        fields = [f"{slot}/{field}" for field in form._fields] if form else []
        if form and codes.dtype == CODECS[form].dtype and all(field in have for field in fields):
            out = {slot if x == path else x: y for x, y in out.items() if x == path or x not in fields}
            out[slot] = form(*(have[field] for field in fields))
    return out


def _described(x: Any) -> str:
    return f"{x.codec}{list(x.shape)}".replace(" ", "") if is_encoded(x) else describe(x)


def _recoded(place: str, x: Any, like: Any, cast: bool, grow: bool) -> Any:
    """Copy an array with the codec of `like`: the same codes bit for bit, or others, rounded to the nearest."""
    if is_encoded(x):
        x = type(x)(*(_read(place, y, jax.ShapeDtypeStruct(y.shape, y.dtype)) for y in x))
    same = [(y.shape, y.dtype) for y in x] == [(y.shape, y.dtype) for y in like] if type(x) is type(like) else False
    if same:
        return type(like)(*(placed(place, y, z) for y, z in zip(x, like)))
    if type(x) is not type(like) and not cast:
        raise ValueError(f"{place} is {_described(x)}, not {_described(like)}: pass cast=True to convert it")
    if is_encoded(x):
        x = decoded(type(x)(*map(jnp.asarray, x)))
    if not is_encoded(like):
        return placed(place, _viewed(_read(place, x, like), like), like, cast, grow)
    own = decoded(like)
    x = placed(place, _read(place, x, own), own, cast, grow)
    made = encoded(CODECS[type(like)], x, None, view_of(like))
    return type(like)(*(placed(place, y, z) for y, z in zip(made, like)))


def _alike(a: Any, b: Any) -> bool:
    """Whether two dtypes are of one kind: both floating, or both integers."""
    return any(jnp.issubdtype(a, kind) and jnp.issubdtype(b, kind) for kind in (jnp.floating, jnp.integer))


def _by_path(place: str, tree: Any, is_leaf: Any = None) -> dict[str, Any]:
    flat = flatten_with_path(tree, is_leaf)[0]
    out = {path_of(path): leaf for path, leaf in flat}
    if len(out) < len(flat):
        paths = [path_of(path) for path, _ in flat]
        twice = next(path for path in out if paths.count(path) > 1)
        raise ValueError(f"restore: two leaves of {place} have the path {twice!r}: give one of them another name")
    return out


def _leaves(saved: Any) -> dict[str, Any]:
    """The leaves of the saved tree by their paths; the keys of a flat dict may be paths, as strings or tuples."""
    if isinstance(saved, NpzFile):
        try:
            saved = {name: _Unread(saved, name) for name in saved.files}
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"restore: saved must be an open file of arrays that numpy.savez wrote: {error}"
            ) from error
    if isinstance(saved, Mapping):
        saved = {"/".join(map(str, key)) if isinstance(key, tuple) else key: x for key, x in saved.items()}
    try:
        return _by_path("saved", saved)
    except (TypeError, ValueError) as error:
        if "restore: " in str(error):
            raise
        raise ValueError("restore: in saved, a dict must have keys of one type, which can be sorted") from error


def _state_of(leaves: dict[str, Any], need: Mapping[str, Any], at: str | None) -> tuple[str, dict[str, Any]]:
    """Return the path of the state in the saved tree, and the leaves of the state by their paths in it.

    A state has the leaf `step`, and all its other leaves are in `slots`. NNX saves each leaf x as x/value.
    """
    if not isinstance(at, (str, type(None))):
        raise TypeError(f"restore: at must be the path of the state in saved, a string, got {said(at)}")

    def inside(place: str) -> dict[str, Any]:
        within = {path.removeprefix(f"{place}/"): x for path, x in leaves.items() if path.startswith(f"{place}/")}
        return within if place else leaves

    steps = {path.removesuffix("/value") for path in leaves}
    places = sorted(path.removesuffix("step").rstrip("/") for path in steps if f"/{path}".endswith("/step"))
    places = [x for x in places if all(re.match("step(/value)?$|slots/", path) for path in inside(x))]
    places = [x for x in places if "/slots/" not in f"/{x}/"]  # the clock of a wrapper
    if need.keys() - {"step"}:
        places = [x for x in places if len(inside(x)) > 1] or places
    if at is not None and not inside(at):
        raise ValueError(f"restore: at={at!r} is not in saved, which has a state at {_listed(places) or 'no path'}")
    if at is None and len(places) > 1 and "" not in places:
        raise ValueError(f"restore: saved holds several states: pass at={' or at='.join(map(repr, places))}")
    place = at if at is not None else "" if "" in places else "".join(places)
    found = inside(place)
    if "step/value" in found:
        found = {path if path in need else path.removesuffix("/value"): x for path, x in found.items()}
    return place, found


def _array(path: str, leaf: Any) -> Any:
    live(f"restore: {path!r}", leaf)
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, _Unread)):
        raise ValueError(f"restore: an array must be saved as {path!r}, got {leaf!r}")
    return leaf


def _moved(have: list[str], renamed: Mapping[str, str | None]) -> tuple[dict[str, str], list[str]]:
    """Return the saved path of each new path, and the saved paths that `renamed` drops."""
    if not isinstance(renamed, Mapping):
        raise TypeError(f"restore: renamed must be a dict of paths, got {said(renamed)}")
    for part, new in renamed.items():
        if not isinstance(part, str) or not isinstance(new, (str, type(None))):
            raise TypeError(f"restore: renamed must be of paths, as strings, to paths or None, got {part!r}: {new!r}")
    parts = re.compile(rf"(?<![^/])(?:{'|'.join(map(re.escape, sorted(renamed, reverse=True)))})(?![^/])")
    origin: dict[str, str] = {}
    gone = []
    for path in have:
        found = parts.findall(path) if renamed else []
        if any(renamed[part] is None for part in found):
            gone.append(path)
            continue
        new = parts.sub(lambda part: renamed[part[0]] or "", path) if found else path
        if new in origin:
            raise ValueError(f"restore: {origin[new]!r} and {path!r} are both saved for {new!r}: rename or drop one")
        origin[new] = path
    for part in renamed:
        if not any(f"/{part}/" in f"/{path}/" for path in have):
            known = _listed(get_close_matches(part, have) or have)
            raise ValueError(f"restore: renamed has {part!r}, which is in no saved path; there are {known}")
    return origin, gone


def _rewrapped(origin: dict[str, str], need: Mapping[str, Any], have: Mapping[str, Any]) -> None:
    """Match the leaves that differ only by the wrappers around them, of the same type and without ambiguity."""

    def bare(path: str) -> str:
        return re.sub(r"[^/]+/inner/", "", path)

    def alone(paths: list[str]) -> dict[str, str]:
        several = [bare(path) for path in paths]
        return {plain: path for plain, path in zip(several, paths) if several.count(plain) == 1}

    fresh = alone([path for path in need if path not in origin])
    for plain, old in alone([path for path in origin if path not in need]).items():
        new = fresh.get(plain)
        if new and describe(need[new]) == describe(have[origin[old]]):
            origin[new] = origin.pop(old)


def _set_clocks(tx: Transformation, origin: dict[str, str], need: Mapping[str, Any], have: Mapping[str, Any]) -> None:
    """Take the value of each clock from the saved clock of the slots that it now governs.

    A clock is the state's step, or the slot `step` of a wrapper that runs its inner transformation by its own count.
    """

    def clock_of(path: str, clocks: list[str]) -> str:
        """The innermost clock of a slot."""
        inside = (c for c in clocks if c != "step" and path.startswith(f"{c.removesuffix('step')}inner/"))
        return max(inside, key=len, default="step")

    clocks = ("/".join(("slots", *names, "step")) for names, piece in pieces(tx) if piece.clock)
    now = ["step", *(path for path in clocks if path in need)]  # those inside `leafwise` are one for each leaf
    before = [path for path, x in have.items() if re.fullmatch("slots/.*/step", path) and describe(x) == "int32[]"]
    gone = [path for path in before if origin.get(path) == path and path not in need]
    for clock in now:
        kept = [path for path in need if path in origin and path not in now and clock_of(path, now) == clock]
        governed = {clock_of(origin[path], before) for path in kept}
        innermost = max(gone, key=len, default="")
        if len(governed) == 1:
            (saved,) = governed
        elif clock == "step" and not kept and all(clock_of(innermost, [x]) == x for x in gone if x != innermost):
            saved = innermost or origin.get(clock)  # the wrappers are gone, and the pieces inside have no slots
        else:
            saved = origin.get(clock) or origin.get(clock_of(clock, [c for c in now if c != clock]))
        if saved is not None and saved in have:
            origin[clock] = saved
            if saved in gone:
                origin.pop(saved, None)  # it is not dropped


def _table(report: Restored, whole: bool = True) -> str:
    """Table of the kept, fresh and dropped leaves of each slot; without `whole`, of incomplete slots only."""
    parameters = set(report.parameters)

    def split(path: str) -> tuple[str, str]:
        """Split a path into the slot and the parameter."""
        names = path.split("/")
        ends = (("/".join(names[:i]), "/".join(names[i:])) for i in range(1, len(names)))
        return next((end for end in ends if end[1] in parameters), (path, ""))

    slots: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for kind, paths in enumerate((report.kept, report.fresh, report.dropped)):
        for path in paths:
            slot, leaf = split(path)
            slots.setdefault(slot, ([], [], []))[kind].append(leaf)

    rows: list[tuple[str, ...]] = [("slot", "saved as", "kept", "fresh", "dropped", "converted")]
    for slot, kinds in slots.items():
        old = [report.kept[f"{slot}/{leaf}" if leaf else slot].removesuffix(f"/{leaf}") for leaf in kinds[0]]
        several = sum(map(bool, kinds)) > 1
        cells = (f"{len(some)}: {_listed(some)}" if several and some else str(len(some) or "") for some in kinds)
        now = [report.converted.get(f"{slot}/{leaf}" if leaf else slot) for leaf in kinds[0]]
        changed = "; ".join(f"{leaf} {how}".strip() for leaf, how in zip(kinds[0], now) if how)
        if whole or kinds[1] or kinds[2]:
            rows.append((slot, _listed([was for was in dict.fromkeys(old) if was != slot]), *cells, changed))
    used = [i for i in range(6) if any(row[i] for row in rows[1:])]
    return aligned([[row[i] for i in used] for row in rows], left=len(used))


def _listed(paths: list[str], most: int = 6) -> str:
    return ", ".join([*paths[:most], *(["…"] if len(paths) > most else [])])
