"""`store` and `split_weights` against the plain optimizer: `python tests/benchmarks/storage.py [--losses] [NAME …]`.

Bytes of state for each parameter; the medians of interleaved donated steps on 8 matrices, as ratios of wall time; the
temporaries of a step, in float32 copies of the parameters. With `--losses`, the loss on the training examples after 5
epochs of the digits, or with `--text` after 2 of the text, to that of the plain optimizer: the geometric mean, least
and largest of 5 seeds.
"""

import sys
import time
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradtx as gx
from gradtx.lab import digits, text

OPTIMIZERS = {
    "adamw": gx.adamw(1e-3),
    "lion": gx.lion(1e-3),
    "muon": gx.muon(1e-2, default=gx.adam(4e-3)),
    "adafactor": gx.adafactor(1e-2),
    "schedule_free_adamw": gx.schedule_free_adamw(1e-2),
    "soap": gx.soap(1e-2),
}
# On the text, the learning rates of its race, and Adam's where it has none.
OF_TEXT = {
    "adamw": gx.adamw(4e-3),
    "lion": gx.lion(1e-3),
    "muon": gx.muon(1e-2, default=gx.adam(4e-3), exclude=("embedding", "position", "head")),
    "adafactor": gx.adafactor(1e-2),
    "schedule_free_adamw": gx.schedule_free_adamw(4e-3),
    "soap": gx.soap(4e-3),
}


def ways(tx):
    """The optimizer in fewer bits, and whether its parameters are bfloat16."""
    codecs = {codec: (gx.store(tx, codec), False) for codec in ("bfloat16", "float16", "float8", "8bit")}
    return {"plain": (tx, False)} | codecs | {"split, 8bit": (gx.split_weights(gx.store(tx)), True)}


def narrowed(params: Any, low: bool) -> Any:
    return jax.tree.map(lambda p: p.astype(jnp.bfloat16) if low else p + 0, params)


def steps(tx):
    params = {f"w{i}": jax.random.normal(jax.random.key(i), (1024, 1024)) for i in range(8)}
    size, gradients = 8 * 1024**2, jax.tree.map(lambda p: p + 0.1, params)
    runs: dict[str, Any] = {}
    for name, (way, low) in ways(tx).items():
        own = narrowed(params, low)
        state = way.init(own)
        step = jax.jit(way.apply, donate_argnums=(0, 1)).lower(own, state, gradients).compile()
        memory: Any = step.memory_analysis()
        runs[name] = [step, own, state, [], memory.temp_size_in_bytes / (4 * size), gx.summary(way, own).bytes / size]
    for _ in range(12):
        for run in runs.values():
            start = time.perf_counter()
            run[1], run[2] = jax.block_until_ready(run[0](run[1], run[2], gradients))
            run[3].append(time.perf_counter() - start)
    for name, run in runs.items():
        ratio = median(run[3][2:]) / median(runs["plain"][3][2:])
        print(f"  {name:12s} {run[5]:6.2f} bytes  {ratio:5.2f} of the time  temporaries {run[4]:.2f}", flush=True)


def losses(tx, problem, epochs, batch, seeds=5):
    train = jax.tree.map(jnp.asarray, problem.train)
    rows = len(problem.train.targets) // batch * batch

    def wide(params: Any) -> Any:
        return jax.tree.map(lambda p: p.astype(jnp.float32), params)

    def final(way, low, key):
        params = narrowed(problem.init(key), low)

        def step(carry, rows):
            params, state = carry
            examples = jax.tree.map(lambda x: x[rows], train)
            gradient = jax.grad(lambda p: problem.loss(wide(p), examples))(params)
            return way.apply(params, state, gradient), None

        keys = jax.random.split(key, epochs)
        order = jax.vmap(lambda key: jax.random.permutation(key, len(problem.train.targets))[:rows])(keys)
        (params, state), _ = jax.lax.scan(step, (params, way.init(params)), order.reshape(-1, batch))
        params = wide(gx.eval_params(way, state, params))
        parts = jax.tree.map(lambda x: x[:rows].reshape(-1, batch, *x.shape[1:]), train)
        return jnp.mean(jax.lax.map(lambda examples: problem.loss(params, examples), parts))

    keys = jax.random.split(jax.random.key(0), seeds)
    plain = None
    for name, (way, low) in ways(tx).items():
        train_to_end = jax.jit(lambda key, way=way, low=low: final(way, low, key))
        found = np.asarray([train_to_end(key) for key in keys])
        plain = found if plain is None else plain
        ratio = found / plain
        mean = np.exp(np.log(ratio).mean())
        print(
            f"  {name:12s} loss {found.mean():.4f}, {mean:.4f} [{ratio.min():.4f}, {ratio.max():.4f}] of plain",
            flush=True,
        )


if __name__ == "__main__":
    optimizers = OPTIMIZERS | (OF_TEXT if "--text" in sys.argv else {})
    for name in [x for x in sys.argv[1:] if x in optimizers] or optimizers:
        print(name)
        if "--text" in sys.argv:
            losses(optimizers[name], problem := text(), problem.epochs, problem.batch_size)
        elif "--losses" in sys.argv:
            losses(optimizers[name], digits(), 5, 32)
        else:
            steps(optimizers[name])
