"""Wrappers that keep a second point, where the parameters move: GPA, SNOO and outer optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import gradient_stream, steps_of, worst_error
from streams import assert_near, params_of, stream

import gradtx as gx

NOISE = gradient_stream(100, seed=1)
CURVATURE = np.logspace(-2, 0, NOISE.shape[1])
SAME = {
    "the outer optimizer of every update": (
        gx.lookahead(gx.sgd(0.5), every_k=1, outer=gx.adam(0.1, eps=1e-3)),
        gx.chain(gx.scale(0.5), gx.adam(0.1, eps=1e-3)),
    ),
    "an outer optimizer that takes the whole displacement": (
        gx.lookahead(gx.adam(0.1), every_k=5, outer=gx.sgd(1.0)),
        gx.adam(0.1),
    ),
    "gpa of an average of the last iterate": (gx.gpa(gx.adam(0.1), 0.5, decay=0.0), gx.adam(0.1)),
    "gpa of sgd, Nesterov's momentum": (  # Defazio et al. 2025: with μ_x = μ_y
        gx.gpa(gx.sgd(0.1), b1=0.75, decay=0.75),
        gx.chain(gx.blend(gx.scale_by_ema(0.75), 0.75), gx.scale_by_learning_rate(0.1)),
    ),
    "gpa of sgd, heavy ball": (  # with μ_y = 1
        gx.gpa(gx.sgd(0.1), b1=1.0, decay=0.75),
        gx.averaged_momentum(0.1, 0.75),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_they_are_the_same_along_the_way(x64, name):
    made, parent = SAME[name]
    assert worst_error(steps_of(made, NOISE, CURVATURE), steps_of(parent, NOISE, CURVATURE)) <= 1e-10


def test_an_outer_optimizer_starts_and_counts_at_synchronisations():
    """Adam's first outer step is its rate, however late it comes; a schedule inside counts all updates."""
    params = jnp.zeros(2)
    rate = gx.schedules.piecewise_constant((1.0, 0.25), (4,))
    tx = gx.lookahead(gx.sgd(1.0), every_k=3, outer=gx.adam(rate, b1=0.0, b2=0.5, eps=0.0))
    state, seen = tx.init(params), []
    for _ in range(6):
        params, state = tx.apply(params, state, jnp.array([1.0, -2.0]))
        seen.append(params)
    assert_near(jnp.stack(seen[2::3]), jnp.array([[-1.0, 1.0], [-1.25, 1.25]]))
    assert_near(gx.eval_params(tx, state, params), seen[-1])
    assert int(state.slots["lookahead"]["outer"]["precondition"]["direction"]["bias_correction"]["age"]) == 2


def test_a_leaf_without_a_gradient_stays():
    params = params_of()
    tx = gx.lookahead(gx.sgd(0.1), every_k=2, outer=gx.sgd(0.5, momentum=0.9, nesterov=True))
    state = tx.init(params)
    for g in stream(params, 4):
        u, state = tx.update({**g, "b": None}, state, params)
        assert u["b"] is None
    assert_near(state.slots["lookahead"]["slow"]["b"], params["b"], 0)


def test_outer_is_a_transformation():
    with pytest.raises(
        TypeError, match=r"lookahead: outer must be a transformation or a pair \(init, update\), got 0.5"
    ):
        gx.lookahead(gx.sgd(0.1), 2, outer=0.5)
    optax_like = (lambda params: (), lambda updates, state, params: (jax.tree.map(jnp.negative, updates), state))
    gx.lookahead(gx.sgd(0.1), 2, outer=optax_like)
