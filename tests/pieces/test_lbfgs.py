"""The two loops of L-BFGS against updates of a dense matrix, and against conjugate gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy import ndarray
from numpy.linalg import norm

import gradtx as gx

rng = np.random.default_rng(0)
SIZE, STEPS = 17, 250


def hessian_of(lowest: float, highest: float) -> ndarray:
    basis = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0]
    return basis * np.linspace(lowest, highest, SIZE) @ basis.T


def gradient_at(hessian: ndarray, x: ndarray) -> ndarray:
    return x @ hessian + 0.3 * np.sin(3 * x)


def dense(points: ndarray, gradients: ndarray, memory: int, min_cosine: float = 1e-10) -> tuple[ndarray, int]:
    """H·g at each point, with H of the last pairs by BFGS updates of a dense matrix; and the pairs that it left out."""
    out, left_out, pairs = [], 0, []
    for t, g in enumerate(gradients):
        if t:
            s, y = points[t] - points[t - 1], g - gradients[t - 1]
            if not s.any():
                pairs = []
            elif s @ y > min_cosine * norm(s) * norm(y):
                pairs = [*pairs, (s, y)][-memory:]
            else:
                left_out += 1
        s, y = pairs[-1] if pairs else (g, g * max(1, norm(g)))
        h = np.eye(SIZE) * (s @ y) / (y @ y)
        for s, y in pairs:
            v = np.eye(SIZE) - np.outer(y, s) / (y @ s)
            h = v.T @ h @ v + np.outer(s, s) / (y @ s)
        out.append(h @ g)
    return np.array(out), left_out


def tree_of(x: Any) -> Any:
    return {"bias": x[:5], "kernel": jnp.reshape(x[5:], (3, 4))}


def followed(tx: Any, points: ndarray, gradients: ndarray) -> ndarray:
    def step(state, row):
        u, state = tx.update(tree_of(row[0]), state, tree_of(row[1]))
        return state, jnp.concatenate([u["bias"], u["kernel"].ravel()])

    return np.asarray(jax.lax.scan(step, tx.init(tree_of(points[0])), (gradients, points))[1])


CONFIGURATIONS: list[tuple[dict[str, Any], float, bool]] = [
    ({}, 0.5, False),
    ({"memory": 1}, 0.1, False),
    ({"memory": 5, "min_cosine": 0.3}, -5.0, True),  # an indefinite Hessian: pairs of negative curvature are left out
    ({"memory": 30}, 0.5, True),  # more pairs than parameters
]


@pytest.mark.parametrize("arguments, lowest, rests", CONFIGURATIONS)
def test_the_two_loops_are_the_dense_update(x64, arguments, lowest, rests):
    points = rng.standard_normal((STEPS, SIZE))
    if rests:
        points[100] = points[99]  # as after a failed line search: all pairs are discarded
    gradients = gradient_at(hessian_of(lowest, 10.0), points)
    expected, left_out = dense(points, gradients, **{"memory": 10} | arguments)
    got = followed(gx.scale_by_lbfgs(**arguments), points, gradients)
    assert np.max(np.abs(got - expected).max(1) / np.abs(expected).max(1)) <= 1e-10
    assert left_out > 20 if lowest < 0 else left_out < 20


def test_with_exact_steps_on_a_bowl_it_is_the_method_of_conjugate_gradients(x64):
    hessian, x = hessian_of(0.5, 10.0), rng.standard_normal(SIZE)
    tx = gx.scale_by_lbfgs(1)
    state = tx.init(jnp.asarray(x))
    mine, g = x, hessian @ x
    residual, direction = -g, -g
    for _ in range(SIZE - 3):
        u, state = tx.update(jnp.asarray(hessian @ mine), state, jnp.asarray(mine))
        d, g = np.asarray(u), hessian @ mine
        mine = mine - d * (g @ d) / (d @ hessian @ d)
        rate = residual @ residual / (direction @ hessian @ direction)
        x = x + rate * direction
        after = residual - rate * hessian @ direction
        direction, residual = after + direction * (after @ after) / (residual @ residual), after
        assert norm(mine - x) <= 1e-7 * norm(x)


def test_fresh_slots_and_a_nan_leave_no_pair():
    tx, params = gx.scale_by_lbfgs(3), jnp.array([3.0, 4.0])
    state = tx.init(params)
    u, state = tx.update(params, state, params)
    assert jnp.allclose(u, params / 5)  # the first step has norm 1 at most
    _, state = tx.update(params * jnp.nan, state, 2 * params)
    assert not state.slots["scale_by_lbfgs"]["inverse_curvatures"].any()
    u, state = tx.update(3 * params, state, 3 * params)
    assert jnp.allclose(u, params / 5) and not state.slots["scale_by_lbfgs"]["inverse_curvatures"].any()
    u, state = tx.update(4 * params, state, 4 * params)
    assert jnp.allclose(u, 4 * params)  # of curvature 1


@pytest.mark.parametrize("memory", [0, -1, 2.5, True])
def test_a_bad_memory(memory):
    for make in (gx.scale_by_lbfgs, gx.lbfgs):
        with pytest.raises((TypeError, ValueError), match=r"lbfgs: memory must be an integer, 1 or more, got"):
            make(memory)
