"""AdaHessian and Sophia on a loss whose Hessian is not 0, and Sophia against Optax's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import curvature as family
from references import SIZE, START, as_tree, as_vector, gradient_stream, reference_steps, steps_of, worst_error

import gradtx as gx

NOISE = gradient_stream(1000, seed=2)
CURVATURE = np.logspace(-2, 1, SIZE)
MORE = [("adahessian", {"eps": 0.0, "b2": 0.9}), ("sophia", {"eps": 0.0, "gamma": 1.0, "b2": 0.5})]
CASES = [(name, x) for name, several in family.CONFIGURATIONS.items() for x in several] + MORE


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_recipe_is_its_formula_on_a_curved_loss(x64, name: str, arguments: dict[str, Any]):
    steps = jax.jit(steps_of)(getattr(gx, name)(**arguments), NOISE, CURVATURE)
    if "where" in arguments:
        mask = jax.tree.map(np.full_like, as_tree(START), arguments["where"])
        arguments = arguments | {"where": np.asarray(as_vector(mask))}
    expected = reference_steps(getattr(family, name), NOISE, CURVATURE, **arguments)
    assert worst_error(steps, expected) <= 1e-12


@pytest.mark.promotes("Optax's arithmetic")
def test_sophia_of_optaxs_conventions_is_optaxs(x64):
    """Optax corrects the momentum, and divides by the Hessian of the step before."""
    own = gx.every(gx.chain(gx.hessian_diagonal(), gx.scale_by_ema(0.9)), 4)
    size = gx.chain(own, gx.delay(), gx.scale(0.5), gx.lower_bound(1e-3))
    tx = gx.chain(
        gx.precondition(gx.momentum(0.8), by=size, eps=0.0),
        gx.clip(1.0),
        gx.add_weight_decay(0.1),
        gx.scale_by_learning_rate(0.01),
    )
    diagonal: Any = gx.as_optax(gx.pair(lambda _: (), lambda updates, state, params: (as_tree(CURVATURE), state)))
    theirs = optax.contrib.sophia(0.01, 0.8, 0.9, 1e-3, 0.1, gamma=0.5, update_interval=4, hessian_diagonal_fn=diagonal)
    run = jax.jit(lambda tx, rows: steps_of(tx, rows, CURVATURE), static_argnums=0)
    assert worst_error(run(tx, NOISE[:300]), run(theirs, NOISE[:300])) <= 1e-12


def test_newtons_method_at_once():
    """On a quadratic bowl along the axes Hutchinson's diagonal has no noise, and one step finds the minimum."""
    tx = gx.adahessian(1.0, b1=0.0, b2=0.0, eps=0.0)
    w, curvature = jnp.array([3.0, -2.0, 0.5]), jnp.array([1e-4, 1.0, 1e4])
    step, _ = tx.update(curvature * w, tx.init(w), w, hvp=lambda v: curvature * v, key=jax.random.key(3))
    assert jnp.abs(w + step).max() < 1e-6
