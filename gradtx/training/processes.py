"""Agreement of several processes that train one model: what one of them alone knows is decided by the first."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradtx.core.trees import spans_processes


def are_shared(tree: Any) -> bool:
    """Whether several processes hold the arrays of a tree together."""
    return jax.process_count() > 1 and any(map(spans_processes, jax.tree.leaves(tree)))


def gathered(*numbers: float) -> np.ndarray:
    """The numbers of each process, a row each, in all processes, which wait for each other."""
    devices = {device.process_index: device for device in jax.devices()}  # one of each process
    mesh = Mesh(np.array([devices[process] for process in sorted(devices)]), ("process",))
    mine = np.array([numbers], np.float64).view(np.uint8)  # JAX would round them to float32
    rows = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("process")), mine)
    all_rows = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(rows)
    return np.asarray(all_rows.addressable_data(0)).view(np.float64)


def by_first(what: str, function: Callable[[], Sequence[float]], count: int) -> Sequence[float]:
    """Run a function in the first process alone; return its `count` numbers in all. If it raises, all raise."""
    error, numbers = None, [0.0] * count
    if jax.process_index() == 0:
        try:
            numbers = function()
        except BaseException as caught:  # the others wait, whatever it is
            error = caught
    failed, *numbers = gathered(error is not None, *numbers)[0]
    if error is not None:
        raise error
    if failed:
        raise RuntimeError(f"fit: {what} failed in process 0: its error says why")
    return numbers
