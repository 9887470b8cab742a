"""Checkpoint files: trees of arrays in one `.npz` file, which is replaced as a whole."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import prng_key

from gradtx.core import leaves_by_path
from gradtx.core.errors import describe
from gradtx.serialization.restore import placed

NOTES = "notes"  # the entry that holds notes and dtypes, as JSON
Entries = dict[str, np.ndarray]


def save(path: Path, trees: dict[str, Any], notes: dict[str, Any]) -> None:
    """Write named trees and JSON notes to a file. A file that exists stays intact until the new one is complete."""
    entries: dict[str, Any] = {}
    dtypes = {}
    for tree, leaves in trees.items():
        for name, leaf in leaves_by_path(leaves).items():
            name = f"{tree}/{name}"
            dtypes[name] = str(leaf.dtype)
            x = np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, prng_key) else leaf)
            entries[name] = x.view(f"u{x.dtype.itemsize}") if x.dtype.kind == "V" else x  # bfloat16 and such
    entries[NOTES] = np.array(json.dumps(notes | {"dtypes": dtypes}))
    new = path.with_name(f"{path.name}.tmp")
    with new.open("wb") as file:
        np.savez(file, **entries)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def load(path: Path) -> tuple[Entries, dict[str, Any]]:
    """Load the arrays, by tree and path, and the notes. Raises `ValueError` for a file that `save` did not write.

    Loading executes nothing from the file, so files from untrusted sources are safe.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                entries = dict(arrays)
            notes = json.loads(entries.pop(NOTES).item())
            dtypes = notes["dtypes"]
            whole = all(isinstance(x, np.ndarray) and isinstance(dtypes[name], str) for name, x in entries.items())
        except Exception as error:  # zip, NumPy and JSON raise many kinds for malformed bytes
            raise ValueError(f"{path} is not a checkpoint of gx.fit") from error
    if not whole:
        raise ValueError(f"{path} is not a checkpoint of gx.fit")
    return entries, notes


def restore(path: Path, entries: Entries, notes: dict[str, Any], tree: str, like: Any) -> Any:
    """Restore the tree of that name, with each array on the devices of the leaf of `like`.

    Raises `ValueError` with the path of the leaf if the tree does not fit `like`.
    """
    have, need = ({name: x for name, x in entries.items() if name.startswith(f"{tree}/")}, leaves_by_path(like))
    need = {f"{tree}/{name}": leaf for name, leaf in need.items()}
    for name in (*need, *have):
        if name not in have or name not in need:
            what = "has no" if name in need else "has an unknown"
            raise ValueError(f"the checkpoint {path} does not fit: it {what} {name!r}")

    def one(name, leaf):
        x, dtype, place = have[name], notes["dtypes"][name], f"the checkpoint {path} does not fit: {name!r}"
        if dtype != str(leaf.dtype):
            raise ValueError(f"{place} is {dtype}[{','.join(map(str, x.shape))}], not {describe(leaf)}")
        if getattr(leaf.dtype, "kind", "") == "V" and x.dtype == f"u{leaf.dtype.itemsize}":
            x = x.view(leaf.dtype)
        return placed(place, x, leaf)

    return jax.tree.unflatten(jax.tree.structure(like), [one(name, leaf) for name, leaf in need.items()])
