"""Steps, compile times and memory on this machine's GPU, TPU or CPU, as a table and as JSON.

    python tests/benchmarks/accelerator.py --out DIR [--sections NAME …] [--seconds 300] [--scale 1.0]

It needs gradtx and JAX alone, and no network. Optax and torch (`torch.optim.AdamW(fused=True)`) are measured beside
gradtx where they are installed. The limit of an AdamW step is a copy of the bytes that it must read and write, 28 for
each float32 parameter. Times are medians of interleaved rounds in one process: trust the ratios. On a CPU everything is
smaller (`--scale`). A section that would begin after `--seconds` is left out, and the table says so.
"""

import argparse
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from inspect import isfunction, signature
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))  # for a machine where gradtx is not installed
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory too

import jax
import jax.numpy as jnp
import numpy as np

import gradtx as gx
from gradtx.core import walk

BYTES = 28  # of AdamW, for each float32 parameter: reads g, m, v and p; writes m, v and p
Row = dict[str, Any]


def shapes_of(name: str, scale: float) -> list[tuple[int, ...]]:
    """The leaves of a tree, with about `scale` of its parameters."""
    if name == "1 x 50M":
        return [(int(50e6 * scale),)]
    if name == "2,000 x 1,000":
        return [(1000,)] * max(10, int(2000 * min(1, 10 * scale)))
    width = max(64, int(768 * scale**0.5) // 64 * 64)  # GPT-2 small: 148 leaves, 124M
    vocabulary, context = int(50257 * scale**0.5), int(1024 * scale**0.5)
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    block = [(width,), (width,), *attention, (width,), (width,), (width, 4 * width), (4 * width,), (4 * width, width)]
    return [(vocabulary, width), (context, width), *[*block, (width,)] * 12, (width,), (width,)]


TREES = ("1 x 50M", "148 leaves, 124M", "2,000 x 1,000")


def tree_of(shapes: list[tuple[int, ...]], value: float) -> dict[str, jax.Array]:
    return {f"leaf_{i}": jnp.full(shape, value, jnp.float32) for i, shape in enumerate(shapes)}


def medians(actions: dict[str, Callable[[], Any]], rounds: int, calls: int) -> dict[str, float]:
    """Seconds of one call of each action: medians over rounds, in a random order, of several calls in a row."""
    for act in actions.values():
        jax.block_until_ready(act())
        jax.block_until_ready(act())
    order, times = Random(0), {name: [] for name in actions}
    for _ in range(rounds):
        for name in order.sample([*actions], len(actions)):
            start = time.perf_counter()
            jax.block_until_ready([actions[name]() for _ in range(calls)][-1])
            times[name].append((time.perf_counter() - start) / calls)
    return {name: median(several) for name, several in times.items()}


class Step:
    """A compiled, donated step `(params, state, gradient) -> (params, state)`, and the figures of its program."""

    def __init__(self, tx: Any, shapes: list[tuple[int, ...]]) -> None:
        def step(params, state, gradient):
            if isinstance(tx, gx.Transformation):
                return tx.apply(params, state, gradient)
            updates, state = tx.update(gradient, state, params)
            return jax.tree.map(jnp.add, params, updates), state

        self.gradient = tree_of(shapes, 1e-3)
        self.carry = (params := tree_of(shapes, 1.0)), jax.jit(tx.init)(params)
        jitted = jax.jit(step, donate_argnums=(0, 1))
        begun = time.perf_counter()
        traced = jitted.trace(*self.carry, self.gradient)
        then = time.perf_counter()
        lowered = traced.lower()
        later = time.perf_counter()
        self.compiled = lowered.compile()
        self.figures: Row = {
            "trace_s": then - begun,
            "lower_s": later - then,
            "compile_s": time.perf_counter() - later,
            "kernels": kernels(self.compiled.as_text() or ""),
        }
        memory = self.compiled.memory_analysis()
        if memory is not None:
            own = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
            self.figures["peak_bytes"] = own + memory.temp_size_in_bytes
            self.figures["temporary_bytes"] = memory.temp_size_in_bytes

    def __call__(self) -> Any:
        self.carry = self.compiled(*self.carry, self.gradient)
        return self.carry


def kernels(text: str) -> int:
    """An estimate of the kernels that a program launches: the operations of its entry computation that compute."""
    entry = re.search(r"^ENTRY .*?\{(.*?)^\}", text, re.M | re.S)
    operations = re.findall(r"^\s*(?:ROOT )?\S+ = .*? ([a-z][\w-]*)\(", entry[1] if entry else "", re.M)
    free = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "partition-id", "replica-id"}
    return sum(operation not in free for operation in operations)


class Copy:
    """A donated pass that reads and writes as many bytes as an AdamW step of so many parameters."""

    def __init__(self, count: int) -> None:
        self.array = jnp.ones(count * BYTES // 8, jnp.float32)
        self.negated = jax.jit(jnp.negative, donate_argnums=0)  # XLA would leave a mere copy out

    def __call__(self) -> Any:
        self.array = self.negated(self.array)
        return self.array


def torch_step(shapes: list[tuple[int, ...]]) -> Callable[[], Any] | None:
    """A step of torch's fused AdamW, done when it returns."""
    if not find_spec("torch"):
        return None
    torch: Any = import_module("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (device == "cpu") != (jax.default_backend() == "cpu"):
        return None
    params = [torch.ones(shape, device=device, requires_grad=True) for shape in shapes]
    for p in params:
        p.grad = torch.full_like(p, 1e-3)
    optimizer = torch.optim.AdamW(params, lr=1e-3, weight_decay=1e-2, fused=True)

    def step() -> None:
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def optax_of(make: Callable[[Any], Any]) -> Any:
    return make(import_module("optax")) if find_spec("optax") else None


def steps(scale: float, rounds: int) -> Iterator[Row]:
    """AdamW's donated step on three trees, against a copy of the same bytes, Optax and torch."""
    for name in TREES:
        shapes = shapes_of(name, scale)
        count = sum(int(np.prod(shape)) for shape in shapes)
        made = {"gradtx": Step(gx.adamw(1e-3), shapes)}
        if (other := optax_of(lambda optax: optax.adamw(1e-3, weight_decay=1e-2))) is not None:
            made["optax"] = Step(other, shapes)
        actions: dict[str, Callable[[], Any]] = {"copy (the limit)": Copy(count), **made}
        if torch := torch_step(shapes):
            actions["torch fused"] = torch
        took = medians(actions, rounds, calls=4)
        for who, seconds in took.items():
            figures = made[who].figures if who in made else {}
            limit = seconds / took["copy (the limit)"]
            yield {
                "what": f"{len(shapes)} leaves, {count / 1e6:.4g}M",
                "who": who,
                "ms": seconds * 1e3,
                "ratio": limit,
            } | {
                "GB_per_s": count * BYTES / seconds / 1e9,
                **figures,
            }


def parts(scale: float, rounds: int) -> Iterator[Row]:
    """AdamW clipped, guarded, in four parts, against the plain step of the same library, on 20 leaves."""
    shapes = [(int(50e6 * scale) // 20,)] * 20
    plain = gx.adamw(1e-3)
    ways: dict[str, Any] = {
        "gradtx": plain,
        "gradtx clipped": gx.chain(gx.clip_by_global_norm(1.0), plain),
        "gradtx guarded": gx.skip_nonfinite(plain),
        "gradtx in 4 parts": gx.accumulate(plain, 4),
    }
    if find_spec("optax"):
        optax: Any = import_module("optax")
        adamw = optax.adamw(1e-3, weight_decay=1e-2)
        ways |= {
            "optax": adamw,
            "optax clipped": optax.chain(optax.clip_by_global_norm(1.0), adamw),
            "optax guarded": optax.apply_if_finite(adamw, 10**6),
            "optax in 4 parts": optax.MultiSteps(adamw, 4),
        }
    made = {name: Step(tx, shapes) for name, tx in ways.items()}
    took = medians({**made}, rounds, calls=4)  # in parts, the mean of three that wait and one that is due
    for name, seconds in took.items():
        ratio = seconds / took[name.partition(" ")[0]]
        yield {
            "what": "20 leaves, of the plain step",
            "who": name,
            "ms": seconds * 1e3,
            "ratio": ratio,
            **made[name].figures,
        }


def matrices(scale: float, rounds: int) -> Iterator[Row]:
    """Muon's orthogonalization in bfloat16, in floating point operations a second, against a matrix product."""
    n, stack = (2048, 8) if scale >= 1 else (256, 2)
    a = jnp.ones((4 * n, 4 * n), jnp.bfloat16)
    x = {f"w{i}": jax.random.normal(jax.random.key(i), (n, n)) for i in range(stack)}
    product = jax.jit(lambda a: a @ a)
    operations = {"matrix product, bfloat16": 2 * (4 * n) ** 3}
    actions: dict[str, Callable[[], Any]] = {"matrix product, bfloat16": lambda: product(a)}
    for method in ("newton_schulz", "polar_express"):
        tx = gx.orthogonalize(method, dtype="bfloat16")
        state = tx.init(x)
        update = jax.jit(lambda x, tx=tx, state=state: tx.update(x, state)[0])
        actions[f"orthogonalize, {method}"] = lambda update=update: update(x)
        operations[f"orthogonalize, {method}"] = stack * 5 * 3 * 2 * n**3  # five steps of three products
    took = medians(actions, rounds, calls=2)
    peak = operations["matrix product, bfloat16"] / took["matrix product, bfloat16"]
    for name, seconds in took.items():
        speed = operations[name] / seconds
        yield {
            "what": f"{stack} of {n} x {n}",
            "who": name,
            "ms": seconds * 1e3,
            "ratio": speed / peak,
            "TFLOP_per_s": speed / 1e12,
        }


def contract(scale: float, rounds: int) -> Iterator[Row]:
    """Every named optimizer that needs the gradient alone: its updates on the device against those on the CPU."""
    params = {"w": jnp.linspace(-1, 1, 12).reshape(3, 4), "b": jnp.linspace(0.5, 1, 4)}
    gradients = [jax.tree.map(lambda p, i=i: jnp.cos((i + 3) * p), params) for i in range(3)]
    deadline = time.perf_counter() + 60

    def follow(tx: Any, device: Any) -> list[Any]:
        with jax.default_device(device):
            given = jax.device_put((params, gradients), device)
            update, state, out = jax.jit(tx.update), jax.jit(tx.init)(given[0]), []
            for g in given[1]:
                before = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
                u, state = update(g, state, given[0])
                out.append(u)
                fixed = before == jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
                assert fixed, f"{tx}: the state's types changed"
            return jax.device_get(out)

    names = [name for name in gx.optimizers.__all__ if isfunction(getattr(gx, name))]
    makers = {name: getattr(gx, name) for name in Random(0).sample(names, len(names))}
    for name, make in makers.items():
        required = [x for x in signature(make).parameters.values() if x.default is x.empty]
        if make.__annotations__.get("return") is not gx.Transformation or required:
            continue
        tx = make()
        if {need for piece in walk(tx) for need in piece.needs} - {"params"}:
            continue
        if time.perf_counter() > deadline:
            yield {"what": "left out after 60 s", "who": name}
            continue
        here, there = follow(tx, jax.devices()[0]), follow(tx, jax.devices("cpu")[0])
        away = largest = 0.0
        for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there)):
            away, largest = max(away, float(np.abs(a - b).max())), max(largest, float(np.abs(b).max()))
        yield {"what": "3 updates", "who": name, "ratio": away / max(largest, 1e-30)}


SECTIONS = {
    "steps": (steps, "time against the copy"),
    "parts": (parts, "time against the plain step"),
    "matrices": (matrices, "speed against the product"),
    "contract": (contract, "distance to the CPU's updates, of the largest"),
}
COLUMNS = (
    "what",
    "who",
    "ms",
    "ratio",
    "GB_per_s",
    "TFLOP_per_s",
    "trace_s",
    "lower_s",
    "compile_s",
    "kernels",
    "peak_bytes",
)


def table(rows: list[Row]) -> str:
    """The rows as a table in Markdown, without empty columns."""
    columns = [c for c in COLUMNS if any(c in row for row in rows)]

    def cell(x: Any) -> str:
        return "" if x is None else f"{x:.3g}" if isinstance(x, float) else f"{x:,}" if isinstance(x, int) else str(x)

    lines = [columns, ["---"] * len(columns), *([cell(row.get(c)) for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of accelerator.json and accelerator.md")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=[*SECTIONS], help="(default: all)")
    parser.add_argument("--seconds", type=float, default=300.0, help="no section begins later (default: 300)")
    parser.add_argument("--scale", type=float, help="of the sizes (default: 1, on a CPU 0.04)")
    given = parser.parse_args(argv)
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    device = jax.devices()[0]
    cpu = device.platform == "cpu"
    scale, rounds = given.scale or (0.04 if cpu else 1.0), 7 if cpu else 15
    versions = {
        name: import_module(name).__version__
        for name in ("jax", "jaxlib", "gradtx", "optax", "torch")
        if find_spec(name)
    }
    about = {"device": device.device_kind, "platform": device.platform, "python": platform.python_version(), **versions}
    begun = time.perf_counter()
    found: dict[str, Any] = {"about": about, "scale": scale}
    texts = [f"{', '.join(f'{k} {v}' for k, v in about.items())}; sizes × {scale:g}"]
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.sections:
        section, ratio = SECTIONS[name]
        title = f"## {name}\n\n{section.__doc__} The ratio is {ratio}.\n"
        if time.perf_counter() - begun > given.seconds:
            texts.append(f"{title}\nLeft out: {given.seconds:g} s had passed.")
            continue
        rows = found[name] = list(section(scale, rounds))
        if name == "contract":  # all are in the JSON
            title += f"\nOf {len(rows)} optimizers, those left out and the eight farthest:\n"
            rows = sorted(rows, key=lambda row: -row["ratio"] if "ratio" in row else -math.inf)
            rows = rows[: 8 + sum("ratio" not in row for row in rows)]
        texts.append(f"{title}\n{table(rows)}")
        statistics = device.memory_stats() or {}
        found["peak_bytes_in_use"] = statistics.get("peak_bytes_in_use")
        found["seconds"] = time.perf_counter() - begun
        (given.out / "accelerator.json").write_text(json.dumps(found, indent=1), encoding="utf-8")  # after each section
    texts.append(f"Peak of memory in use: {found.get('peak_bytes_in_use')}; {found['seconds']:.0f} s in all.")
    text = "\n\n".join(texts)
    (given.out / "accelerator.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
