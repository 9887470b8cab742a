"""L-BFGS against Optax's and SciPy's: `python tests/benchmarks/minimize.py`.

For each problem the steps (and the evaluations of the value with its gradient) until the gradient's norm is at most
1e-6, and the time of a step within one compiled loop, interleaved, in medians. Nothing here is a test: machines differ.
"""

import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

import gradtx as gx

TESTS = Path(__file__).parents[1]


def main() -> None:
    sys.path[:0] = [str(TESTS), str(TESTS / "training"), str(TESTS / "benchmarks")]
    from bars import seconds
    from smooth import PROBLEMS
    from test_minimize import TOLERANCE, by_optax, by_scipy  # pyright: ignore[reportMissingImports]

    ratios = []
    print(f"{'':24}{'gradtx':>16}{'Optax':>16}{'SciPy':>8}{'time of a step, µs':>28}")
    for name, problem in PROBLEMS.items():
        start, function = jnp.asarray(problem.start), problem.function

        def ours(x: Any, function: Any = function) -> Any:
            found = gx.minimize(function, x, tolerance=TOLERANCE, max_steps=3000)
            return found.evaluations, found.steps

        ways = {"gradtx": jax.jit(ours), "Optax": by_optax(function)}
        counts = {way: tuple(map(int, run(start))) for way, run in ways.items()}
        took = seconds({way: partial(run, start) for way, run in ways.items()}, rounds=100)
        each = {way: took[way] / steps for way, (_, steps) in counts.items()}
        ratios.append(each["gradtx"] / each["Optax"])
        texts = [f"{steps} ({evaluations})" for evaluations, steps in counts.values()]
        times = f"{each['gradtx'] * 1e6:.1f} against {each['Optax'] * 1e6:.1f}: {ratios[-1]:.2f}"
        print(f"{name:24}{texts[0]:>16}{texts[1]:>16}{by_scipy(problem):>8}{times:>28}", flush=True)
    print(f"the median ratio of the times: {median(ratios):.2f}   (bar: at most 1)")


if __name__ == "__main__":
    with jax.enable_x64(True):
        main()
