"""How far parameters of low precision drift from float64, over 100,000 steps: `python tests/benchmarks/drift.py`.

Two problems, the same noise and batches for all; gradients are computed in at least float32 of the parameters as they
are, and have their dtype. For each optimizer, the distance from float64's parameters, relative to their norm, after
1,000, 10,000 and 100,000 steps; and the loss at the end.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradtx as gx

STEPS = (1_000, 10_000, 100_000)
SIZE, ROWS, BATCH = 64, 512, 16


class Problem(NamedTuple):
    start: np.ndarray
    loss: Callable[..., Any]
    gradient: Callable[..., Any]


def quadratic() -> Problem:
    """A bowl of curvatures from 0.001 to 1, with noise in the gradient."""
    random = np.random.default_rng(0)
    curvature, target = np.geomspace(1e-3, 1, SIZE, dtype=np.float32), random.standard_normal(SIZE, np.float32)

    def gradient(w, key):
        return curvature * (w - target) + 0.1 * jax.random.normal(key, (SIZE,), jnp.float32)

    return Problem(
        random.standard_normal(SIZE, np.float32), lambda w: jnp.sum(curvature * (w - target) ** 2) / 2, gradient
    )


def logistic() -> Problem:
    """Logistic regression on labels of which some are wrong, in small batches."""
    random = np.random.default_rng(1)
    x = random.standard_normal((ROWS, SIZE), np.float32)
    y = np.sign(x @ random.standard_normal(SIZE, np.float32) + 4 * random.standard_normal(ROWS, np.float32))

    def of(w, x, y):
        return jnp.mean(jnp.logaddexp(0, -y * (x @ w))) + 0.005 * jnp.sum(w * w)

    def gradient(w, key):
        rows = jax.random.randint(key, (BATCH,), 0, ROWS, jnp.int32)
        return jax.grad(of)(w, jnp.asarray(x)[rows], jnp.asarray(y)[rows])

    return Problem(random.standard_normal(SIZE, np.float32), lambda w: of(w, x, y), gradient)


def train(problem: Problem, tx: Any, dtype: str) -> list[np.ndarray]:
    """The parameters after each of STEPS."""
    apply = gx.apply_updates if isinstance(tx, gx.Transformation) else optax.apply_updates
    extra = {"key": jax.random.key(1)} if "stochastic" in repr(tx) else {}
    wide = jnp.float64 if dtype == "float64" else jnp.float32

    def step(carry, t):
        params, state = carry
        key = jax.random.fold_in(jax.random.key(0), t)
        g = problem.gradient(params.astype(wide), key).astype(params.dtype)
        updates, state = tx.update(g, state, params, **extra)
        return (apply(params, updates), state), None

    @partial(jax.jit, donate_argnums=0)
    def run(carry, steps):
        return jax.lax.scan(step, carry, steps)[0]

    params = jnp.asarray(problem.start, dtype)
    carry, out, before = (params, tx.init(params)), [], 0
    for steps in STEPS:
        carry = run(carry, jnp.arange(before, steps, dtype=jnp.int32))
        out.append(np.asarray(carry[0], np.float64))
        before = steps
    return out


def main() -> None:
    for problem in (quadratic(), logistic()):
        for name, ours, theirs in (
            ("SGD, momentum 0.9, rate 1e-3", gx.sgd(1e-3, 0.9), optax.sgd(1e-3, 0.9)),
            ("AdamW, rate 1e-4, decay 0.01", gx.adamw(1e-4, weight_decay=0.01), optax.adamw(1e-4, weight_decay=0.01)),
        ):
            print(f"{problem.loss.__qualname__.split('.')[0]}: {name}")
            right = train(problem, ours, "float64")

            def row(label, got, right=right, loss=problem.loss):
                away = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(got, right)]
                print(f"  {label:32}" + "".join(f"{x:10.1e}" for x in away) + f"{loss(got[-1]):12.5f}", flush=True)

            row("float64", right)
            row("float64, rounded to bfloat16", [x.astype(jnp.bfloat16).astype(float) for x in right])
            row("float32", train(problem, ours, "float32"))
            row("float32, Optax", train(problem, theirs, "float32"))
            row("bfloat16", train(problem, ours, "bfloat16"))
            row("bfloat16, Optax", train(problem, theirs, "bfloat16"))
            row("bfloat16, stochastic_rounding", train(problem, gx.chain(ours, gx.stochastic_rounding()), "bfloat16"))
            row("bfloat16, kahan_summation", train(problem, gx.chain(ours, gx.kahan_summation()), "bfloat16"))
            row("bfloat16, master_weights", train(problem, gx.master_weights(ours), "bfloat16"))


if __name__ == "__main__":
    with jax.enable_x64(True):
        main()
