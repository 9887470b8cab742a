"""train_step against the best hand-written Optax loop, on three models: `python tests/benchmarks/train_step.py`.

Donated and interleaved; the ratio of the medians, in several processes; and Optax with an option of the compiler too.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from random import Random
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradtx as gx
from gradtx.lab import digits


def digits_mlp():
    problem = digits()
    return (
        problem.init(jax.random.key(0)),
        problem.loss,
        jax.tree.map(lambda x: jnp.asarray(x[:32]), problem.train),
        50,
    )


def transformer(width=128, layers=4, heads=4, length=32, vocabulary=256, batch=8):
    keys = iter(jax.random.split(jax.random.key(0), 100))
    dense = lambda *shape: jax.random.normal(next(keys), shape) / shape[0] ** 0.5  # noqa: E731
    params = {
        "embed": dense(vocabulary, width),
        "blocks": [
            {"qkv": dense(width, 3, heads, width // heads), "out": dense(width, width)}
            | {"up": dense(width, 4 * width), "down": dense(4 * width, width)}
            | {"scale1": jnp.ones(width), "scale2": jnp.ones(width)}
            for _ in range(layers)
        ],
    }

    def norm(x, scale):
        return x * scale * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)

    def loss(params, tokens):
        x = params["embed"][tokens[:, :-1]]
        mask = jnp.tril(jnp.ones((length, length), bool))
        for block in params["blocks"]:
            q, k, v = jnp.einsum("btw,wnhd->nbhtd", norm(x, block["scale1"]), block["qkv"])
            scores = jnp.where(mask, q @ k.mT / q.shape[-1] ** 0.5, -1e9)
            attended = jnp.einsum("bhtd->bthd", jax.nn.softmax(scores) @ v).reshape(x.shape)
            x = x + attended @ block["out"]
            x = x + jax.nn.gelu(norm(x, block["scale2"]) @ block["up"]) @ block["down"]
        logits = jax.nn.log_softmax(x @ params["embed"].T)
        return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], -1))

    return params, loss, jax.random.randint(next(keys), (batch, length + 1), 0, vocabulary), 3


def embedding(rows=78_125, width=128, batch=256):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"table": 0.1 * jax.random.normal(keys[0], (rows, width)), "out": jnp.ones(width)}

    def loss(params, batch):
        ids, targets = batch
        return jnp.mean((params["table"][ids] @ params["out"] - targets) ** 2)

    return params, loss, (jax.random.randint(keys[1], (batch,), 0, rows), jax.random.normal(keys[2], (batch,))), 2


def measured(model, rounds):
    """The median time of a step, in milliseconds, by way.

    Each continues from the same arrays, in a random order: their place in memory, and the previous step, matter more.
    """
    params, loss, batch, calls = model()
    theirs: Any = optax.adamw(1e-3)
    ours = gx.adamw(1e-3)

    def by_hand(params, state, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = theirs.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    region = {"xla_cpu_copy_insertion_use_region_analysis": True}
    runs = {
        "gradtx": gx.train_step(loss, ours, measure=False),
        "optax": jax.jit(by_hand, donate_argnums=(0, 1)),
        "optax, the option": jax.jit(by_hand, donate_argnums=(0, 1), compiler_options=region),
    }
    adam, *rest = theirs.init(params)
    params = jax.tree.map(jnp.copy, params)
    count, mu, nu = adam
    times = {name: [] for name in runs}
    for _ in range(rounds + 5):
        for name in Random().sample([*runs], len(runs)):
            if name == "gradtx":
                by, direction = ({"scale_by_ema": {"mean": mean}} for mean in (nu, mu))
                state: Any = gx.State(count, {"precondition": {"by": by, "direction": direction}})
            else:
                state = (adam._replace(count=count, mu=mu, nu=nu), *rest)
            start = time.perf_counter()
            for _ in range(calls):
                params, state, _ = runs[name](params, state, batch)
            jax.block_until_ready(params)
            times[name].append((time.perf_counter() - start) / calls)
            if name == "gradtx":
                by, direction = (state.slots["precondition"][of]["scale_by_ema"]["mean"] for of in ("by", "direction"))
                count, mu, nu = state.step, direction, by
            else:
                count, mu, nu = state[0]
    return {name: 1e3 * median(values[5:]) for name, values in times.items()}


def main(processes=5):
    for model, rounds in (digits_mlp, 1000), (transformer, 60), (embedding, 60):
        ratios = []
        for _ in range(processes):
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                took = alone.submit(measured, model, rounds).result()
            ratios.append(took["gradtx"] / min(took["optax"], took["optax, the option"]))
            print(model.__name__, {name: f"{value:.4f} ms" for name, value in took.items()}, f"{ratios[-1]:.3f}")
        print(f"{model.__name__}: {median(ratios):.3f} of the best of Optax, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
