"""Checkpoint files: trees of arrays in one `.npz` file, which is replaced as a whole."""

import json
import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any
from zipfile import ZipFile

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import prng_key

from gradtx.core import leaves_by_path
from gradtx.core.errors import describe
from gradtx.serialization.restore import header, placed

NOTES = "notes"  # the entry that holds notes and dtypes, as JSON
Entries = dict[str, np.ndarray]


def check_place(path: Path, divided: bool = False) -> None:
    """Make the directory of a checkpoint; raise `OSError` if no file can be written there under this name.

    The checkpoint of arrays that are divided over processes is itself a directory.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if divided and path.is_file():
            raise NotADirectoryError("of arrays divided over processes it is a directory, and there is a file")
        if path.is_dir() and not divided:
            raise IsADirectoryError("it is a directory")
        with suppress(FileNotFoundError):
            path.lstat()  # refuses a name that is too long
        with _own_file(path):
            pass
    except (OSError, ValueError) as error:  # ValueError: the name has a character that no name may have
        why = getattr(error, "strerror", None) or error
        raise OSError(
            f"fit: checkpoint must be a file that can be written, got {str(path)!r}: {why}: "
            "pass the name of a file in a directory where you may write"
        ) from error


@contextmanager
def _own_file(path: Path) -> Iterator[Path]:
    """Context manager: an empty file next to `path` that no other writer has. It does not outlive an error."""
    new = path.with_name(f"checkpoint-{token_hex(8)}.tmp")  # short, because a longer name than `path` may be too long
    new.touch(exist_ok=False)
    try:
        yield new
    finally:
        new.unlink(missing_ok=True)


def save(path: Path, trees: dict[str, Any], notes: dict[str, Any], over: Collection[str]) -> None:
    """Write named trees and JSON notes to a file. A file that exists stays intact until the new one is complete.

    Raises `FileExistsError` if the file that exists is of a run that is not in `over`.
    """
    entries: dict[str, Any] = {}
    dtypes = {}
    for tree, leaves in trees.items():
        for name, leaf in leaves_by_path(leaves).items():
            name = f"{tree}/{name}"
            dtypes[name] = str(leaf.dtype)
            x = np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, prng_key) else leaf)
            entries[name] = x.view(f"u{x.dtype.itemsize}") if x.dtype.kind == "V" else x  # bfloat16 and such
    entries[NOTES] = np.array(json.dumps(notes | {"dtypes": dtypes}))
    with _own_file(path) as new:
        with new.open("wb") as file:
            np.savez(file, **entries)
            file.flush()
            os.fsync(file.fileno())
        if path.exists() and _run_of(path) not in over:
            raise FileExistsError(
                f"fit: another run has written the checkpoint {path}: pass each run a file of its own as checkpoint"
            )
        os.replace(new, path)


def load(path: Path) -> tuple[Entries, dict[str, Any]]:
    """Load the arrays, by tree and path, and the notes. Raises `ValueError` for a file that `save` did not write.

    Loading executes nothing from the file, so files from untrusted sources are safe.
    """
    with _opened(path) as arrays:
        entries = dict(arrays)
        notes = json.loads(entries.pop(NOTES).item())
        if not entries.keys() <= notes["dtypes"].keys():
            raise ValueError("the notes have no dtype of an array")
    return entries, notes


def _run_of(path: Path) -> Any:
    """The run that wrote a checkpoint."""
    with _opened(path) as arrays:
        return json.loads(arrays[NOTES].item())["run"]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Context manager: the arrays of a file, which are read when they are asked for."""
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                _check_sizes(arrays.zip, os.fstat(file.fileno()).st_size)
                yield arrays
        except Exception as error:  # zip, NumPy and JSON raise many kinds for malformed bytes
            raise ValueError(f"{path} is not a checkpoint of gx.fit") from error


def _check_sizes(archive: ZipFile, size: int) -> None:
    """Raise `ValueError` before memory is taken for arrays that the file, which is not compressed, cannot hold."""
    if sum(member.file_size for member in archive.infolist()) > size:
        raise ValueError("the arrays are larger than the file")
    for member in archive.infolist():
        with archive.open(member) as file:
            shape, dtype = header(file)
            if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                raise ValueError(f"{member.filename} is not as large as its header says")


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
