"""Minimization to a tolerance: against SciPy and Optax, every reason to stop, and batches."""

from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from smooth import PROBLEMS, Problem, bowl, himmelblau, rosenbrock
from streams import assert_near

import gradtx as gx
from gradtx.training.minimize import REASONS

TOLERANCE = 1e-6


# ---------------------------------------------------------------- evaluations
def by_scipy(problem: Problem) -> int:
    """How often SciPy's L-BFGS-B evaluates the function with its gradient."""
    evaluations = 0

    def counted(x):
        nonlocal evaluations
        evaluations += 1
        return problem.by_hand(x)

    def stop(intermediate_result):
        if np.linalg.norm(problem.by_hand(intermediate_result.x)[1]) <= TOLERANCE:
            raise StopIteration

    start: Any = problem.start
    options = {"maxcor": 10, "gtol": 0.0, "ftol": 0.0, "maxiter": 3000, "maxfun": 10**5}
    scipy.optimize.minimize(counted, start, jac=True, method="L-BFGS-B", options=options, callback=stop)
    return evaluations


def by_optax(function: Any) -> Any:
    """The evaluations and the steps of Optax's L-BFGS, as a compiled function of the start."""
    tx: Any = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(function)

    def step(carry):
        evaluations, steps, params, state = carry
        value, g = value_and_grad(params, state=state)
        u, state = tx.update(g, state, params, value=value, grad=g, value_fn=function)
        evaluations += state[-1].info.num_linesearch_steps
        return evaluations, steps + 1, optax.apply_updates(params, u), state

    def goes_on(carry):
        return (carry[1] == 0) | (jnp.linalg.norm(optax.tree.get(carry[3], "grad")) > TOLERANCE)

    return jax.jit(lambda x: jax.lax.while_loop(goes_on, step, (jnp.asarray(1), 0, x, tx.init(x)))[:2])


@pytest.mark.promotes("Optax's arithmetic")
def test_lbfgs_evaluates_no_more_often_than_scipy_and_optax(x64):
    """In the median of the problems. A percent is for rounding, which alone changes the count of a long run so much."""
    ratios = []
    for problem in PROBLEMS.values():
        start = jnp.asarray(problem.start)
        found = gx.minimize(problem.function, start, tolerance=TOLERANCE, max_steps=3000)
        assert found.converged and abs(found.value - problem.lowest) < 1e-6
        assert np.linalg.norm(problem.by_hand(np.asarray(found.params))[1]) <= TOLERANCE * (1 + 1e-6)
        others = by_scipy(problem), int(by_optax(problem.function)(start)[0])
        ratios.append([int(found.evaluations) / other for other in others])
    assert all(median(several) <= 1.01 and max(several) <= 1.1 for several in zip(*ratios)), ratios


@pytest.mark.parametrize("tx", [gx.lbfgs(), gx.sgd(0.01), gx.chain(gx.momentum(0.5), gx.scale(-0.01))])
@pytest.mark.usefixtures("eager")
def test_it_counts_the_evaluations(tx):
    points: list[Any] = []

    def counted(x):
        jax.debug.callback(lambda x: points.append(np.array(x)), x)
        return himmelblau(x)

    found = gx.minimize(counted, jnp.zeros(2), tx, max_steps=6)
    jax.effects_barrier()
    assert found.steps == 6 and found.evaluations == len(points) >= 7


# ---------------------------------------------------------------- why it stops
def notch(x: Any) -> Any:
    """Its gradient at 1 has the wrong sign, so no step along it goes down."""
    return jnp.sum(jax.lax.stop_gradient(2 * x) - x)


STOPS: dict[str, tuple[Any, Any, dict[str, Any], int]] = {
    "gradient": (bowl, jnp.ones(100), {"tolerance": 1e-2}, 0),
    "gradient, at the start": (bowl, jnp.zeros(100), {"tolerance": 0.0}, 0),
    "value": (bowl, jnp.ones(100), {"tolerance": 0.0, "value_tolerance": 1e-3}, 1),
    "steps": (rosenbrock, jnp.zeros(2), {"max_steps": 3}, 2),
    "no lower value": (notch, jnp.ones(2), {}, 3),
    "not a number": (lambda x: jnp.log(x), -jnp.ones(()), {}, 4),
    "infinite": (lambda x: -jnp.sum(x**4), jnp.ones(2), {"tx": gx.sgd(10.0)}, 4),
}


@pytest.mark.parametrize("function, start, arguments, status", STOPS.values(), ids=STOPS)
def test_it_says_why_it_stopped(function, start, arguments, status):
    found = gx.minimize(function, start, **arguments)
    assert int(found.status) == status and found.reason == REASONS[status]
    assert bool(found.converged) == (status <= 1)
    assert found.params.shape == start.shape
    if status < 4:
        assert_near(found.value, function(found.params), 1e-5)
    if status == 2:
        assert found.steps == 3
    if status == 0:
        assert found.gradient_norm <= arguments["tolerance"]


@pytest.mark.parametrize("power", [-70, 70])
def test_the_squares_of_a_gradient_may_leave_the_range_of_numbers(power):
    """A function times a power of two, with a rate divided by it, takes the same steps exactly."""
    scale = 2.0**power
    plain = gx.minimize(himmelblau, jnp.zeros(2), gx.sgd(0.01), tolerance=0.01)
    scaled = gx.minimize(lambda x: scale * himmelblau(x), jnp.zeros(2), gx.sgd(0.01 / scale), tolerance=0.01 * scale)
    assert 0 < scaled.steps == plain.steps and scaled.converged
    np.testing.assert_array_equal(scaled.params, plain.params)
    np.testing.assert_array_equal(scaled.gradient_norm, scale * plain.gradient_norm)


def test_a_gradient_may_grow_by_more_than_the_range_of_squares():
    """On −x²/2 every step of this rate multiplies the parameter, and its gradient, by 1e5."""
    found = gx.minimize(lambda x: -(x**2) / 2, jnp.array(1e-25), gx.sgd(1e5 - 1), tolerance=0.0, max_steps=8)
    assert found.reason == "the largest number of steps is reached" and found.steps == 8
    np.testing.assert_allclose(found.gradient_norm, 1e15, rtol=1e-5)


def test_a_batch_is_a_loop():
    starts = jax.random.uniform(jax.random.key(0), (8, 2), minval=-4, maxval=4)
    arguments: dict[str, Any] = {"tolerance": 1e-3, "max_steps": 9}
    several = jax.vmap(lambda x: gx.minimize(himmelblau, x, **arguments))(starts)
    alone = [gx.minimize(himmelblau, x, **arguments) for x in starts]
    assert several.reason == [one.reason for one in alone] and len({*several.reason}) == 2
    for i, one in enumerate(alone):
        assert (several.steps[i], several.evaluations[i]) == (one.steps, one.evaluations)
        assert_near(several.params[i], one.params, 1e-3)


def test_a_batch_of_optimizers_and_of_problems():
    rates = jnp.array([1e-3, 1e-2])
    found = jax.vmap(lambda tx: gx.minimize(himmelblau, jnp.ones(2), tx, max_steps=20))(jax.vmap(gx.sgd)(rates))
    for rate, params in zip((1e-3, 1e-2), found.params):
        assert_near(params, gx.minimize(himmelblau, jnp.ones(2), gx.sgd(rate), max_steps=20).params, 1e-5)
    roots = jax.jit(jax.vmap(lambda a: gx.minimize(lambda w: (w**2 - a) ** 2, 1.0, tolerance=1e-4).params))
    assert_near(roots(jnp.array([1.0, 4.0, 9.0])), jnp.array([1.0, 2.0, 3.0]), 1e-3)


TRANSFORMATIONS: dict[str, Any] = {
    "adam": gx.adam(0.1),
    "backtracking": gx.backtracking(gx.momentum(0.5)),
    "clipped": gx.chain(gx.clip_by_global_norm(10.0), gx.lbfgs(3)),
    "guarded": gx.skip_nonfinite(gx.lbfgs()),
    "sam": gx.sam(gx.adam(0.1), radius=1e-3),
    "polyak": gx.polyak_sgd(),
    "optax": optax.adam(0.1),
    "optax.lbfgs": optax.lbfgs(),
}


@pytest.mark.parametrize("tx", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)
@pytest.mark.promotes("Optax's arithmetic")
def test_any_optimizer_minimizes_any_tree(tx):
    start = {"a": jnp.array([3.0, -2.0]), "z": jnp.array(1 + 2j, jnp.complex64), "n": jnp.array(2), "f": 1.0}

    def function(tree):
        return jnp.sum(tree["a"] ** 2) + jnp.abs(tree["z"] - 1j) ** 2 * tree["n"] + (tree["f"] - 3) ** 2

    found = gx.minimize(function, start, tx, tolerance=1e-2)
    assert found.value < 1e-3 and abs(found.params["z"] - 1j) < 2e-2 and found.params["n"] == 2
    assert found.params["z"].dtype == jnp.complex64 and found.params["f"].dtype == jnp.float32


def test_it_compiles_once():
    traces = 0

    def function(x):
        nonlocal traces
        traces += 1
        return jnp.sum(x**4)

    gx.minimize(function, jnp.ones(3))
    once = traces
    for tolerance in (1e-2, 1e-3):
        gx.minimize(function, 2 * jnp.ones(3), gx.lbfgs(), tolerance, max_steps=9)
    assert traces == once


BAD: dict[str, tuple[Any, Any, str]] = {
    "tolerance": (lambda: gx.minimize(bowl, jnp.ones(100), tolerance=-1e-3), ValueError, "tolerance must be 0 or more"),
    "NaN": (
        lambda: gx.minimize(bowl, jnp.ones(100), tolerance=float("nan")),
        ValueError,
        "tolerance must be 0 or more",
    ),
    "value": (
        lambda: gx.minimize(bowl, jnp.ones(100), value_tolerance=-1.0),
        ValueError,
        "value_tolerance must be 0 or more, got -1.0",
    ),
    "words": (lambda: gx.minimize(bowl, jnp.ones(100), tolerance="1"), TypeError, "tolerance must be a number"),  # pyright: ignore[reportArgumentType]
    "no steps": (
        lambda: gx.minimize(bowl, jnp.ones(100), max_steps=0),
        ValueError,
        "max_steps must be an integer, 1 or",
    ),
    "half": (lambda: gx.minimize(bowl, jnp.ones(100), max_steps=1.5), ValueError, "max_steps must be an integer, 1 or"),  # pyright: ignore[reportArgumentType]
    "many": (
        lambda: gx.minimize(lambda x: x, jnp.ones(2)),
        ValueError,
        r"fun must return one real number, got float32\[2\]",
    ),
    "a pair": (lambda: gx.minimize(lambda x: (x, x), 1.0), ValueError, "fun must return one real number, got"),
    "an integer": (lambda: gx.minimize(lambda x: 3, 1.0), ValueError, "fun must return one real number, got 3"),
    "integers": (
        lambda: gx.minimize(lambda x: jnp.sum(x.astype(float)), jnp.arange(3)),
        ValueError,
        "params has no floating or complex array",
    ),
    "not a function": (lambda: gx.minimize(3.0, jnp.ones(2)), TypeError, "fun must be a function of one argument"),  # pyright: ignore[reportArgumentType]
    "not an optimizer": (lambda: gx.minimize(bowl, jnp.ones(100), 0.1), TypeError, "tx must be a transformation"),  # pyright: ignore[reportArgumentType]
    "no array": (lambda: gx.minimize(lambda x: 1.0, "x"), TypeError, "params is 'x': keep arrays"),
    "noise": (lambda: gx.minimize(bowl, jnp.ones(100), gx.noisy_sgd()), ValueError, "tx must be deterministic, got"),
}


@pytest.mark.parametrize("call, kind, text", BAD.values(), ids=BAD)
def test_a_bad_argument(call, kind, text):
    with pytest.raises(kind, match=f"^minimize: {text}"):
        call()
