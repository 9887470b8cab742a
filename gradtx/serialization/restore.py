"""A saved state put into an optimizer, which need not be the one that saved it: what is remembered has a name."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.dtypes import prng_key
from jax.tree_util import keystr, tree_flatten_with_path

from gradtx.core import State, Transformation
from gradtx.core.arguments import checked, live
from gradtx.core.errors import describe, said
from gradtx.core.trees import path_of
from gradtx.inspect.tables import aligned


class Restored(NamedTuple):
    """What `restore` did, by path; prints as a table of the slots."""

    kept: dict[str, str]
    """The path of what is used, and the path that it was saved as."""
    fresh: list[str]
    """What nothing was saved for: it is as `init` makes it."""
    dropped: list[str]
    """What was saved and is not used."""
    parameters: list[str]

    def __str__(self) -> str:
        return _table(self)

    __repr__ = __str__


@checked
def restore(
    tx: Any, params: Any, saved: Any, *, renamed: Mapping[str, str | None] | None = None, strict: bool = True
) -> tuple[State, Restored]:
    """A state of this optimizer from one that it, or another, saved; and a report of what became of each slot.

    Slots have names, so most changes of a composition leave them where they are: a clip in front, another rate, one
    that becomes a schedule, a chain in a chain. What has the name, shape and dtype that are needed is kept bit for bit,
    on the devices where `init` places it. What begins fresh does so at the saved step, and averages are then taken as
    old: a fresh `rms(0.999)` is at first 32 times too small. Warm the learning rate up again.

    Args:
      tx: The optimizer.
      params: Its parameters.
      saved: A `State`, or what a file gives back of one: nested dicts (msgpack, orbax), or paths and arrays (npz), as
        `{"slots/scale_by_ema/mean/w": …}`. Do not unpickle what others may have written: that runs what they wrote.
      renamed: Where what is saved is now: paths, or parts of paths in whole names, and what takes their place; None for
        what is to be dropped. A parameter is renamed by `{"dense/w": "dense/kernel"}`, Adam goes into a group by
        `{"slots/precondition": "slots/partition/default/precondition"}`.
      strict: Whether to refuse what would make anything begin fresh, or drop what is not renamed to None.

    Raises:
      ValueError: If strict, something would be fresh, or dropped; or, always, what is saved has another shape or dtype,
        a name in `renamed` is nowhere, or two things have one place. The message has the paths.

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
    flat, structure = tree_flatten_with_path(Transformation.coerce("restore: tx", tx).init(params))
    need = _by_path("this optimizer's state", flat)
    boxed = {keystr(path, simple=True, separator="/"): path_of(path) for path, _ in flat}  # w, of Flax w/value
    del flat  # so that what is replaced is free at once
    have = {boxed.get(path, path): leaf for path, leaf in _saved(saved).items()}
    origin, gone = _moved(list(have), renamed or {})
    report = Restored(
        {path: origin[path] for path in need if path in origin},
        [path for path in need if path not in origin],
        [path for new, path in origin.items() if new not in need],
        list(_by_path("params", tree_flatten_with_path(params)[0])),
    )
    if strict and (report.fresh or report.dropped):
        raise ValueError(
            f"restore: what is saved is not of this optimizer and these parameters:\n{_table(report, whole=False)}\n"
            "renamed={'as saved': 'as here'} says where a slot is now, or by None that it is dropped; strict=False "
            "takes what fits and drops the rest"
        )
    for path, old in report.kept.items():
        place = f"restore: {old!r}, which renamed={{{old!r}: None}} would drop,"
        need[path] = placed(place, have[old], need[path])
    if not isinstance(step := need["step"], Tracer) and step < 0:
        raise ValueError(f"restore: {origin['step']!r} must be the number of updates, got {step}")
    return structure.unflatten(need.values()), report._replace(dropped=[*report.dropped, *gone])


def placed(place: str, x: Any, like: Any) -> jax.Array:
    """A copy of `x` on the devices of `like`, or a `ValueError` that begins with `place`: it has not its type."""
    if jnp.issubdtype(like.dtype, prng_key) and x.dtype == np.uint32:
        x = jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(like))
    elif x.dtype == np.dtype((np.void, x.dtype.itemsize)) and x.dtype.itemsize == like.dtype.itemsize:
        x = x.view(like.dtype)  # npz has no name for bfloat16 and such
    if (x.shape, x.dtype) != (like.shape, like.dtype):
        raise ValueError(f"{place} is {describe(x)}, not {describe(like)}")
    if isinstance(x, Tracer) or isinstance(like, Tracer):
        return jnp.asarray(x)
    return jax.device_put(x, like.sharding if getattr(like, "committed", False) else None, may_alias=False)


def _by_path(place: str, flat: Any) -> dict[str, Any]:
    out = {path_of(path): leaf for path, leaf in flat}
    if len(out) < len(flat):
        paths = [path_of(path) for path, _ in flat]
        twice = next(path for path in out if paths.count(path) > 1)
        raise ValueError(f"restore: two leaves of {place} have the path {twice!r}, and cannot be told apart")
    return out


def _saved(saved: Any) -> dict[str, Any]:
    try:
        flat = tree_flatten_with_path(dict(saved) if isinstance(saved, Mapping) else saved)[0]
    except ValueError as error:
        raise ValueError("restore: in saved, a dict must have keys of one type, which can be sorted") from error
    leaves = _by_path("saved", flat)
    for path, leaf in leaves.items():
        live(f"restore: {path!r}", leaf)
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
            raise ValueError(f"restore: an array must be saved as {path!r}, got {leaf!r}")
    return leaves


def _moved(have: list[str], renamed: Mapping[str, str | None]) -> tuple[dict[str, str], list[str]]:
    """What is saved by where it is now, and what is nowhere."""
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


def _table(report: Restored, whole: bool = True) -> str:
    """What became of the leaves of each slot; not `whole`: of those where some are not kept."""
    parameters = set(report.parameters)

    def split(path: str) -> tuple[str, str]:
        """The slot, and the parameter that it is for."""
        names = path.split("/")
        ends = (("/".join(names[:i]), "/".join(names[i:])) for i in range(1, len(names)))
        return next((end for end in ends if end[1] in parameters), (path, ""))

    slots: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for kind, paths in enumerate((report.kept, report.fresh, report.dropped)):
        for path in paths:
            slot, leaf = split(path)
            slots.setdefault(slot, ([], [], []))[kind].append(leaf)

    rows: list[tuple[str, ...]] = [("slot", "saved as", "kept", "fresh", "dropped")]
    for slot, kinds in slots.items():
        old = [report.kept[f"{slot}/{leaf}" if leaf else slot].removesuffix(f"/{leaf}") for leaf in kinds[0]]
        several = sum(map(bool, kinds)) > 1
        cells = (f"{len(some)}: {_listed(some)}" if several and some else str(len(some) or "") for some in kinds)
        if whole or kinds[1] or kinds[2]:
            rows.append((slot, _listed([was for was in dict.fromkeys(old) if was != slot]), *cells))
    used = [i for i in range(5) if any(row[i] for row in rows[1:])]
    return aligned([[row[i] for i in used] for row in rows], left=len(used))


def _listed(paths: list[str], most: int = 6) -> str:
    return ", ".join([*paths[:most], *(["…"] if len(paths) > most else [])])
