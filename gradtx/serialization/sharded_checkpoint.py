"""Checkpoints of arrays that no process holds whole: directories of Orbax, which all processes write together."""

from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import prng_key
from jax.sharding import NamedSharding, PartitionSpec

from gradtx.core import leaves_by_path
from gradtx.core.trees import spans_processes


class Directory:
    """The checkpoints of a run in a directory, of which the last complete one is kept.

    `save` returns when the arrays are copied, and writes them while the run goes on.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._orbax = import_module("orbax.checkpoint")
        except ImportError:
            raise ImportError(
                f"fit: the checkpoint {path} is of arrays that several processes hold together, and expected Orbax to "
                'write it: pip install "gradtx[orbax]"'
            ) from None
        options = self._orbax.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
        self._path, self._manager = path, self._orbax.CheckpointManager(path.absolute(), options=options)
        self.step: int | None = self._manager.latest_step()

    def save(self, trees: dict[str, Any], notes: dict[str, Any]) -> None:
        """Write named trees and JSON notes, the step among them."""
        if notes["step"] == self.step:
            return
        leaves = {f"{tree}/{name}": x for tree, several in trees.items() for name, x in leaves_by_path(several).items()}
        arrays, args = [_plain(x) for x in leaves.values()], self._orbax.args
        notes |= {"names": [*leaves], "dtypes": {name: str(x.dtype) for name, x in leaves.items()}}
        notes |= {"shapes": [x.shape for x in arrays]}
        both = args.Composite(arrays=args.StandardSave(arrays), notes=args.JsonSave(notes))
        self._manager.save(notes["step"], args=both)
        self.step = notes["step"]

    def load(self, like: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Load the arrays, by tree and path, and the notes; those of `like` with the shardings that they have there."""
        args = self._orbax.args
        try:
            notes = self._manager.restore(self.step, args=args.Composite(notes=args.JsonRestore()))["notes"]
            names, dtypes, shapes = notes["names"], notes["dtypes"], notes["shapes"]
        except Exception as error:  # Orbax raises many kinds for what it did not write
            raise ValueError(f"{self._path} is not a checkpoint of gx.fit") from error
        need = {f"{tree}/{name}": x for tree, several in like.items() for name, x in leaves_by_path(several).items()}
        whole = next((x.sharding for x in need.values() if spans_processes(x)), None)
        whole = NamedSharding(whole.mesh, PartitionSpec()) if isinstance(whole, NamedSharding) else None

        def target(name: str, shape: tuple[int, ...]) -> Any:
            """An array like the one that is needed; NumPy's for others, such as the history."""
            x = need.get(name)
            if x is None or _plain(x).shape != shape or dtypes[name] != str(x.dtype):
                return np.zeros(shape, dtypes[name] if x is None else _plain(x).dtype)  # refused, or for the history
            sharding = x.sharding if spans_processes(x) else whole or (x.committed and x.sharding)
            like = jax.ShapeDtypeStruct(shape, _plain(x).dtype, sharding=sharding or None)
            return like if sharding else np.zeros(shape, like.dtype)

        targets = [target(name, tuple(shape)) for name, shape in zip(names, shapes)]
        arrays = self._manager.restore(self.step, args=args.Composite(arrays=args.StandardRestore(targets)))["arrays"]
        return dict(zip(names, arrays)), notes

    def close(self) -> None:
        """Wait until the last checkpoint is complete."""
        self._manager.wait_until_finished()
        self._manager.close()


def _plain(x: Any) -> Any:
    """An array that Orbax saves: not a random key, and not one of this process alone."""
    x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, prng_key) else x
    return x if spans_processes(x) or jax.process_count() == 1 else np.asarray(x)
