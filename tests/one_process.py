"""One of several processes that train one model: `python one_process.py '{"index": 0, "count": 2, …}'`.

It writes what it found to `out`, as JSON; what it prints are the lines of its callbacks.
"""

import json
import os
import signal
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

X = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
DATA = X, X @ np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
START = {"w": np.zeros((8, 4), np.float32), "b": np.ones(4, np.float32)}
STEPS = 24


def loss(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def placed(kind, mesh):
    """The parameters and the data: replicated or divided (FSDP), with rows of the data on each device."""
    specs = {"w": PartitionSpec("data" if kind == "fsdp" else None), "b": PartitionSpec()}
    params = {name: jax.device_put(x, NamedSharding(mesh, specs[name])) for name, x in START.items()}
    return params, jax.device_put(DATA, NamedSharding(mesh, PartitionSpec("data")))


def optimizer():
    import gradtx as gx

    return gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.schedules.cosine(0.1, 200)))


def whole(tree):
    """The arrays of a tree as lists, in each process."""
    from jax.experimental.multihost_utils import process_allgather

    def one(x):
        return np.asarray(process_allgather(x, tiled=True) if jax.process_count() > 1 else x).tolist()

    return jax.tree.map(one, tree)


def stepped(kind, mesh):
    """A loop of train_step."""
    import gradtx as gx

    params, data = placed(kind, mesh)
    step = gx.train_step(loss, optimizer())
    state = jax.jit(step.tx.init)(params)
    params, state, metrics = step(params, state, data)
    for _ in range(7):
        params, state, metrics = step(params, state, data)
    return {"params": whole(params), "loss": float(metrics.loss), "norm": float(metrics.gradient_norm)}


def fitted(kind, mesh, **more):
    import gradtx as gx

    params, data = placed(kind, mesh)
    options: dict[str, Any] = {
        "batch_size": 16,
        "eval_every": 6,
        "progress": False,
        "evaluate": lambda p: {"loss": loss(p, data)},
    }
    options |= {"steps": STEPS} | more
    run = gx.fit(params, optimizer(), loss, data, **options)
    return {
        "params": whole(run.params),
        "loss": run.history["loss"].tolist(),
        "eval": run.history["eval/loss"].tolist() if "eval/loss" in run.history else None,
        "stopped": run.stopped,
        "spec": [*run.params["w"].sharding.spec],
    }


def main(index, count, port, folder, do):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if count > 1:
        jax.distributed.initialize(f"localhost:{port}", count, index)
    import gradtx as gx

    module: Any = import_module("gradtx.training.fit")
    folder = Path(folder)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    found: Any = {}
    counts, advance = [], module._Run.advance

    def noted(self, *args):
        counts.append(advance(self, *args))
        return counts[-1]

    module._Run.advance = noted
    if do == "train":
        # Clocks that differ: process 0 takes each call for a fast one, the others for a slow one.
        module.time = SimpleNamespace(perf_counter=lambda: time.perf_counter() * (1e-6 if index == 0 else 1e6))
        for kind in ("dp", "fsdp"):
            found[f"step {kind}"] = stepped(kind, mesh)
            counts.clear()
            log = gx.log_jsonl(folder / f"{kind}.jsonl")
            said = [log, lambda run: print("callback", len(run.history["loss"]), flush=True)]
            found[f"fit {kind}"] = fitted(kind, mesh, callbacks=said, progress=True, checkpoint=folder / kind)
            found[f"fit {kind}"]["counts"] = [*counts]
        batches = [jax.tree.map(lambda x, i=i: x[16 * i : 16 * i + 16], DATA) for i in range(4)]
        run = gx.fit(placed("dp", mesh)[0], optimizer(), loss, batches, 10, progress=False)
        found["batches"] = {"params": whole(run.params), "loss": run.history["loss"].tolist()}
        rows = NamedSharding(mesh, PartitionSpec("data"))
        parts = [jax.tree.map(lambda x: np.split(x, count)[index], batch) for batch in batches]
        divided = [jax.tree.map(partial(jax.make_array_from_process_local_data, rows), part) for part in parts]
        run = gx.fit(START, optimizer(), loss, divided, 10, progress=False)  # parameters of each process, alike
        found["divided batches"] = {"params": whole(run.params), "loss": run.history["loss"].tolist()}

        evaluations = []

        def interrupted(params):
            evaluations.append(params)
            if index == count - 1 and len(evaluations) == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return 0.0

        stop = fitted("dp", mesh, evaluate=interrupted, steps=1000)
        found["interrupt"] = stop["stopped"], len(stop["loss"])
        stop = fitted("dp", mesh, callbacks=[lambda run: len(run.history["loss"]) >= 12])
        found["stop"] = stop["stopped"], len(stop["loss"])

        def refused(**arguments):
            params, data = placed("dp", mesh)
            try:
                gx.fit(params, optimizer(), loss, **{"data": data, "steps": 4, "progress": False} | arguments)
            except Exception as error:
                return f"{type(error).__name__}: {error}"

        found["errors"] = [
            refused(data=batches[: 2 + index]),
            refused(checkpoint=folder / "dp"),
            refused(callbacks=[lambda run: 1 / 0]),
            refused(checkpoint=folder / "no" / ("x" * 300)),
        ]
    else:
        kind = do.partition(" ")[2]
        more = {"checkpoint": folder / f"killed {kind}", "checkpoint_every": 4, "resume": True, "steps": 80}
        found = fitted(kind, mesh, eval_every=40, **more) | {"counts": counts}
    (folder / f"{do}-{index}-of-{count}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
