"""The figures that gradtx promises, measured: `python tests/benchmarks/bars.py`.

Ratios within one process, interleaved, medians; Optax beside it. Nothing here is a test: machines differ.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from random import Random
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradtx as gx

TREE = {f"layer_{i}": jnp.ones((32, 32)) for i in range(148)}


def seconds(actions: dict[str, Callable[[], Any]], rounds: int = 30) -> dict[str, float]:
    """The median time of each action, taken in turn."""
    for act in actions.values():
        jax.block_until_ready(act())
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, act in actions.items():
            start = time.perf_counter()
            jax.block_until_ready(act())
            times[name].append(time.perf_counter() - start)
    return {name: median(several) for name, several in times.items()}


def eager() -> None:
    """An eager update against its own jitted call, and against Optax eager and jitted, on 148 leaves."""
    took = {}
    for name, tx in {"gradtx": gx.adam(1e-3), "optax": optax.adam(1e-3)}.items():
        state = tx.init(TREE)
        jitted = jax.jit(tx.update)
        took |= seconds(
            {
                f"{name} eager": partial(tx.update, TREE, state, TREE),
                f"{name} jitted": partial(jitted, TREE, state, TREE),
            }
        )
    for name, time_taken in took.items():
        print(f"  {name:14} {time_taken * 1e3:8.2f} ms")
    print(f"  optax eager / gradtx eager   {took['optax eager'] / took['gradtx eager']:6.1f}   (bar: at least 12)")
    print(f"  gradtx eager / gradtx jitted {took['gradtx eager'] / took['gradtx jitted']:6.2f}   (bar: at most 1.2)")
    print(f"  gradtx jitted / optax jitted {took['gradtx jitted'] / took['optax jitted']:6.2f}")


def compiled(tx: Any, size: int) -> Any:
    """The donated step of an optimizer on one leaf."""
    params = {"w": jnp.zeros(size)}

    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    return jax.jit(step, donate_argnums=(0, 1, 2)).lower(params, tx.init(params), params).compile()


def accesses() -> None:
    """The bytes that a compiled Adam reads, writes and needs according to XLA, per parameter and in total."""
    for name, tx in {"gradtx": gx.adam(1e-3), "optax": optax.adam(1e-3)}.items():
        small, large = (compiled(tx, size) for size in (10**6, 2 * 10**6))
        a, b = (c.cost_analysis()["bytes accessed"] for c in (small, large))
        temporary = large.memory_analysis().temp_size_in_bytes
        print(f"  {name:8} {(b - a) / 10**6:.3f} bytes a parameter, {2 * a - b:.0f} beside, temporaries {temporary}")


def branches(rounds: int = 48) -> None:
    """A donated step of AdamW on 20 leaves of a million, guarded or in parts, against the plain one; and Optax's."""
    plain: dict[str, Any] = {"gradtx": gx.adamw(1e-3), "optax": optax.adamw(1e-3)}
    ways = plain | {
        "gradtx guarded": gx.skip_nonfinite(plain["gradtx"]),
        "gradtx guarded from what comes in": gx.skip_nonfinite(plain["gradtx"], outgoing=False),
        "gradtx clipped": gx.chain(gx.clip_by_global_norm(1.0), plain["gradtx"]),
        "optax clipped": optax.chain(optax.clip_by_global_norm(1.0), plain["optax"]),
        "optax guarded": optax.apply_if_finite(plain["optax"], 10**6),
        "gradtx in 8 parts": gx.accumulate(plain["gradtx"], 8),
        "optax in 8 parts": optax.MultiSteps(plain["optax"], 8),
    }

    def million(value: float) -> Any:
        return jax.block_until_ready({f"w{i}": jnp.full(10**6, value) for i in range(20)})

    # XLA gives results the memory of arguments, in the order of the arguments: the updates get that of g.
    def step(name: str, g: Any, state: Any, params: Any) -> Any:
        updates, state = ways[name].update(g, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    def apply(name: str, params: Any, state: Any, g: Any) -> Any:
        return ways[name].apply(params, state, g)

    def ordered(key: Any, g: Any) -> Any:
        params, state = carry[key]
        return (params, state, g) if key[1] else (g, state, params)

    steps, carry = {}, {}
    for name, tx in ways.items():
        for as_one in {isinstance(tx, gx.Transformation), False}:
            carry[name, as_one] = (params := million(1.0)), tx.init(params)
            jitted = jax.jit(partial(apply if as_one else step, name), donate_argnums=(0, 1, 2))
            steps[name, as_one] = jitted.lower(*ordered((name, as_one), million(1e-3))).compile()
    order, times = Random(0), {key: [] for key in steps}
    for _ in range(rounds):
        for key in order.sample([*steps], len(steps)):  # the previous step decides how memory is laid out
            given = ordered(key, million(1e-3))
            start = time.perf_counter()
            carry[key] = jax.block_until_ready(steps[key](*given))
            del given
            times[key].append(time.perf_counter() - start)
    took = {key: median(several[8:]) for key, several in times.items()}
    temporary = {key: compiled.memory_analysis().temp_size_in_bytes / 8e7 for key, compiled in steps.items()}
    for library, as_one in ("gradtx", True), ("gradtx", False), ("optax", False):
        how = "apply" if as_one else "update, then added"
        parts = times[f"{library} in 8 parts", as_one][8:]
        idle, mean = median(parts), sum(median(parts[i::8]) for i in range(8)) / 8
        base = took[library, as_one]
        print(f"  {library}, {how}: plain {base * 1e3:.0f} ms, temporaries {temporary[library, as_one]:.2f} of a tree")
        single = {"guarded": 1.25, "guarded from what comes in": 1.25, "clipped": 1.1}
        for name, time_taken, bar in (
            *(
                (n, took[f"{library} {n}", as_one], bar)
                for n, bar in single.items()
                if (f"{library} {n}", as_one) in took
            ),
            ("in 8 parts: a part that waits", idle, 0.4),
            ("in 8 parts: the mean", mean, 1.0),
        ):
            own = temporary[f"{library} {name.partition(':')[0]}", as_one]
            print(f"    {name}: {time_taken / base:.2f} of it   (bar: {bar}), temporaries {own:.2f}")


def matrices(sides: tuple[int, ...] = (64, 256, 512), count: int = 8) -> None:
    """A SOAP step that renews no basis against Adam's and the six products of each matrix; temporaries at a refresh."""

    @jax.jit
    def products(g: Any, vectors: Any) -> Any:  # into the basis and back, and the two covariances
        return jax.tree.map(lambda x, q: (q @ (q.T @ x @ q) @ q.T, x @ x.T, x.T @ x), g, vectors)

    for side in sides:
        keys = {f"layer_{i}": jax.random.key(i) for i in range(count)}
        g, vectors = ({n: jax.random.normal(k, (side, side)) * c for n, k in keys.items()} for c in (1.0, side**-0.5))
        carry, steps, temporaries = {}, {}, {}
        for name, tx in {"adam": gx.adam(1e-3), "soap": gx.soap(1e-3, every_k=10**6), "muon": gx.muon(1e-3)}.items():
            params = jax.tree.map(jnp.copy, g)
            carry[name] = tx.apply(params, tx.init(params), g)
            # As in a training step: updates as results would take the memory of the state, which XLA would then copy.
            steps[name] = jax.jit(tx.apply, donate_argnums=(0, 1)).lower(*carry[name], g).compile()
            temporaries[name] = steps[name].memory_analysis().temp_size_in_bytes

        def donated(name: str) -> Any:
            carry[name] = steps[name](*carry[name], g)  # noqa: B023
            return carry[name]  # noqa: B023

        took = seconds({"products": partial(products, g, vectors)} | {name: partial(donated, name) for name in steps})
        over = (took["soap"] - took["products"]) / took["adam"]
        shown = ", ".join(f"{name} {time_taken * 1e3:.2f}" for name, time_taken in took.items())
        print(f"  {count} × {side}²: {shown} ms; soap without its products {over:.2f} of adam   (bar: 1.6)")
        batch = 2 * count * 4 * side**2  # both sides of every matrix
        print(f"    temporaries {temporaries['soap'] / batch:.1f} of the batch of equal matrices   (bar: 4)")


def imports() -> None:
    """The time that `import gradtx` adds to `import jax`, over fresh processes."""
    code = "import time; a = time.perf_counter(); import jax; b = time.perf_counter(); import gradtx; "
    code += "print(b - a, time.perf_counter() - b)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    ran = [subprocess.check_output([sys.executable, "-c", code], env=environment) for _ in range(15)]
    jax_time, own_time = (median(several) for several in zip(*(map(float, line.split()) for line in ran)))
    print(f"  jax {jax_time:.3f} s, gradtx {own_time:.3f} s: {own_time / jax_time:+.1%}   (bar: +10%)")


def summary() -> None:
    """The summary of AdamW on 70 billion parameters, from shapes."""
    params = {f"layer_{i}": jax.ShapeDtypeStruct((8192, 8192), "bfloat16") for i in range(1050)}
    start = time.perf_counter()
    str(gx.summary(gx.adamw(), params))
    print(f"  {time.perf_counter() - start:.2f} s   (bar: under 1)")


def sweep() -> None:
    """64 learning rates over a tiny MLP's 300 steps: a sweep against a jitted run with each rate as a constant."""
    key = jax.random.key(0)
    x, noise = jax.random.normal(key, (64, 8)), jax.random.normal(key, (64, 16))
    params = {"a": noise[:8] / 3, "b": noise[8:24, :1] / 4}
    y = jnp.sin(x[:, :1])

    def loss(params):
        return jnp.mean((jnp.tanh(x @ params["a"]) @ params["b"] - y) ** 2)

    def train(tx):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (gx.apply_updates(params, updates), state), None

        (last, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=300)
        return loss(last)

    rates = [float(rate) for rate in jnp.geomspace(1e-4, 1, 64)]
    ways = {
        "constants": lambda: [jax.jit(partial(train, gx.adam(rate)))() for rate in rates],
        "sweep": lambda: gx.sweep(train, gx.grid(gx.adam, learning_rate=rates)).results,
        "in sequence": lambda: gx.sweep(train, gx.grid(gx.adam, learning_rate=rates), at_once=1).results,
    }
    took, results = {}, {}
    for name, way in ways.items():  # compilation included, which dominates
        start = time.perf_counter()
        results[name] = jnp.stack(jax.block_until_ready(list(way())))
        took[name] = time.perf_counter() - start
    for name in ("sweep", "in sequence"):
        away = jnp.max(jnp.abs(results[name] - results["constants"]))
        ratio = took["constants"] / took[name]
        print(f"  {name}: {took[name]:.2f} s, constants {took['constants']:.1f} s: {ratio:.0f} times   (bar: 20)")
        print(f"  the losses differ by at most {away:.1e}")


if __name__ == "__main__":
    for bar in (eager, accesses, branches, matrices, imports, summary, sweep):
        print(bar.__doc__)
        bar()
