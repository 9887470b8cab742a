"""train_step against the best hand-written Optax loop, on three models: `python tests/benchmarks/train_step.py`.

Interleaved in one process, donated, the ratio of the medians; and Optax's loop with the compiler's option too.
"""

import time
from statistics import median

import jax
import jax.numpy as jnp
import optax

import gradtx as gx
from gradtx.training import digits


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


def main(rounds=60):
    region = {"xla_cpu_copy_insertion_use_region_analysis": True}
    for model in (digits_mlp, transformer, embedding):
        params, loss, batch, calls = model()
        theirs = optax.adamw(1e-3)

        def by_hand(params, state, batch, loss=loss, theirs=theirs):
            value, gradient = jax.value_and_grad(loss)(params, batch)
            updates, state = theirs.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, value

        ours = gx.adamw(1e-3)
        step = gx.train_step(loss, ours)
        runs = {
            "gradtx": (step, ours),
            "optax": (jax.jit(by_hand, donate_argnums=(0, 1)), theirs),
            "optax, same options": (jax.jit(by_hand, donate_argnums=(0, 1), compiler_options=region), theirs),
        }
        carry = {name: (p := jax.tree.map(jnp.copy, params), tx.init(p)) for name, (_, tx) in runs.items()}
        times = {name: [] for name in runs}
        for _ in range(rounds + 1):
            for name, (run, _) in runs.items():
                p, s = carry[name]
                start = time.perf_counter()
                for _ in range(calls):
                    p, s, _ = run(p, s, batch)
                jax.block_until_ready(p)
                times[name].append((time.perf_counter() - start) / calls)
                carry[name] = p, s
        medians = {name: 1e3 * median(values[1:]) for name, values in times.items()}
        best = min(medians["optax"], medians["optax, same options"])
        print(
            model.__name__,
            {k: f"{v:.3f} ms" for k, v in medians.items()},
            f"ratio to the best of Optax {medians['gradtx'] / best:.3f}",
        )


if __name__ == "__main__":
    main()
