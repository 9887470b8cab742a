"""The time from an optimizer to its compiled step, beside Optax's: `python tests/benchmarks/compile.py [NAME …]`.

The shapes of the state, and trace, lowering and XLA of an update and its addition, jitted and donated, for models of 1,
148 and 1,000 leaves; of 10,000 without XLA: `--leaves 10000 --no-xla --rounds 1`. Processor time, ratios within one
process, interleaved, medians. Nothing here is a test: machines differ.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradtx as gx

PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]] = {
    "adamw": (lambda: gx.adamw(1e-3), lambda: optax.adamw(1e-3)),
    "adafactor": (lambda: gx.adafactor(1e-3), lambda: optax.adafactor(1e-3)),
    "lamb": (lambda: gx.lamb(1e-3), lambda: optax.lamb(1e-3)),
    "muon": (lambda: gx.muon(1e-3), lambda: optax.contrib.muon(1e-3)),
    "clip + adamw": (
        lambda: gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3)),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    ),
    "guard": (lambda: gx.skip_nonfinite(gx.adamw(1e-3)), lambda: optax.apply_if_finite(optax.adamw(1e-3), 10)),
    "guard of what comes in": (
        lambda: gx.skip_nonfinite(gx.adamw(1e-3), outgoing=False),
        lambda: optax.apply_if_finite(optax.adamw(1e-3), 10),  # which checks no more
    ),
}


def model(leaves: int) -> Any:
    """The shapes of a transformer of GPT-2's kind, twelve leaves a layer, in so many leaves."""
    width = 256  # above the smallest side that Optax's Adafactor factors
    of_layer = {
        "norm_1": {"scale": (width,), "bias": (width,)},
        "attention": {"kernel": (width, 3 * width), "bias": (3 * width,)},
        "out": {"kernel": (width, width), "bias": (width,)},
        "norm_2": {"scale": (width,), "bias": (width,)},
        "up": {"kernel": (width, 4 * width), "bias": (4 * width,)},
        "down": {"kernel": (4 * width, width), "bias": (width,)},
    }
    whole: Any = {"embedding": (512, width)}
    for i in range(-(-leaves // 12)):
        whole[f"layer_{i}"] = of_layer
    flat, tree = jax.tree.flatten(whole, is_leaf=lambda x: isinstance(x, tuple))
    cut = [jax.ShapeDtypeStruct(shape, jnp.float32) if i < leaves else None for i, shape in enumerate(flat)]
    return tree.unflatten(cut)


def stages(tx: Any, params: Any, xla: bool) -> list[float]:
    """The seconds of processor time that `eval_shape(init)`, trace, lowering and XLA take."""

    def step(params: Any, state: Any, g: Any) -> Any:
        if isinstance(tx, gx.Transformation):
            return tx.apply(params, state, g)
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    jax.clear_caches()
    now = [time.process_time()]
    state = jax.eval_shape(tx.init, params)
    now.append(time.process_time())
    traced = jax.jit(step, donate_argnums=(0, 1)).trace(params, state, params)
    now.append(time.process_time())
    lowered = traced.lower()
    now.append(time.process_time())
    if xla:
        lowered.compile()
        now.append(time.process_time())
    return [b - a for a, b in pairwise(now)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*PAIRS], metavar="NAME", help=", ".join(PAIRS))
    parser.add_argument("--leaves", type=int, nargs="*", default=[1, 148, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-xla", action="store_true", help="trace and lower only")
    given = parser.parse_args()
    print(
        f"Python {sys.version.split()[0]}, JAX {jax.__version__}: seconds of gradtx | Optax, and the ratios of init "
        "and of the step"
    )
    for leaves in given.leaves:
        params = model(leaves)
        for name in given.names:
            times: dict[str, list[Any]] = {"gradtx": [], "optax": []}
            for _ in range(given.rounds):
                for library, make in zip(times, PAIRS[name]):
                    if make is not None:
                        times[library].append(stages(make(), params, not given.no_xla))
            took = {library: [median(stage) for stage in zip(*several)] for library, several in times.items()}
            rows = "   ".join(
                f"{stage} {mine:.3f} | {theirs:.3f}"
                for stage, mine, theirs in zip(("init", "trace", "lower", "XLA"), *took.values())
            )
            init = took["gradtx"][0] / took["optax"][0]
            step = sum(took["gradtx"][1:]) / sum(took["optax"][1:])
            print(f"{leaves:6} {name:22} {rows}   init {init:.2f}, step {step:.2f}   (bars: 2 and 0.8)", flush=True)


if __name__ == "__main__":
    main()
