"""Random search, numeric gradients and the check of a gradient: rows 2 to 4 of the textbook."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx

KEY = jax.random.key(0)


# ---------------------------------------------------------------- random search
def bowl(params):
    return jnp.sum((params["w"] - 1) ** 2) + jnp.sum(params["b"] ** 2)


SHAPES = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(2)}


def test_random_search_is_the_best_of_a_loop():
    found = gx.random_search(bowl, SHAPES, KEY, draws=50, scale=2.0)
    draws = 2.0 * jnp.stack([jax.random.normal(key, (8,)) for key in jax.random.split(KEY, 50)])
    losses = [float(np.sum(draw[:2] ** 2) + np.sum((draw[2:] - 1) ** 2)) for draw in np.asarray(draws)]
    best = int(np.argmin(losses))
    np.testing.assert_array_equal(found.params["b"], draws[best, :2])
    np.testing.assert_array_equal(found.params["w"], draws[best, 2:].reshape(2, 3))
    np.testing.assert_allclose(found.loss, losses[best], rtol=1e-6)


def test_random_search_improves_with_draws():
    few, more, many = (gx.random_search(bowl, SHAPES, KEY, draws).loss for draws in (10, 300, 10_000))
    assert few > more > many


def test_random_search_ignores_nan():
    cliff = lambda w: jnp.where(w[0] < 0, jnp.nan, jnp.sum(w))  # noqa: E731
    found = gx.random_search(cliff, jnp.zeros(3), KEY, draws=100)
    assert found.params[0] >= 0 and found.loss == jnp.sum(found.params)
    assert gx.random_search(lambda w: jnp.sum(w) * jnp.nan, jnp.zeros(3), KEY, draws=10).loss == jnp.inf


def test_random_search_refuses():
    with pytest.raises(ValueError, match="random_search: draws must be an integer, at least 1, got 0"):
        gx.random_search(bowl, SHAPES, KEY, draws=0)
    with pytest.raises(TypeError, match=r"random_search: params\['n'\] must be float32 or float64, got int32"):
        gx.random_search(bowl, {"n": jnp.zeros(2, jnp.int32)}, KEY)
    with pytest.raises(ValueError, match=r"the loss must return one floating number, got float32 of shape \(3,\)"):
        gx.random_search(lambda w: w, jnp.zeros(3), KEY)


# ---------------------------------------------------------------- numeric gradients
def waves(params):
    return jnp.sum(jnp.exp(params["a"]["w"])) + jnp.sin(params["a"]["b"]) ** 2 + jnp.sum(params["rest"][0])


def nested():
    return {"a": {"w": jnp.array([[0.3, -1.0], [0.7, 2.0]]), "b": jnp.array(0.5)}, "rest": (jnp.zeros((0, 3)), None)}


@pytest.mark.parametrize(("method", "order"), [("forward", 1), ("central", 2)])
def test_numeric_gradient_has_the_error_of_its_order(x64, method, order):
    analytic = jax.grad(waves)(nested())

    def errors(step):
        numeric = gx.numeric_gradient(waves, nested(), step, method)
        return jax.tree.map(lambda n, a: np.abs(n - a), numeric, analytic)

    coarse, fine = errors(1e-2), errors(5e-3)
    ratios = jax.tree.leaves(jax.tree.map(lambda c, f: c / f, coarse, fine))
    np.testing.assert_allclose(np.concatenate([np.ravel(r) for r in ratios]), 2.0**order, rtol=0.02)


@pytest.mark.parametrize(("method", "accuracy"), [("forward", 1e-4), ("central", 1e-8)])
def test_numeric_gradient_at_its_default_step(x64, method, accuracy):
    numeric = gx.numeric_gradient(jnp.exp, jnp.array(1.0), method=method)
    assert abs(numeric / np.e - 1) < accuracy


def test_numeric_gradient_has_the_parameters_dtype():
    numeric = gx.numeric_gradient(waves, nested(), 1e-2, "central")
    assert jax.tree.structure(numeric) == jax.tree.structure(nested())
    for n, a in zip(jax.tree.leaves(numeric), jax.tree.leaves(jax.grad(waves)(nested()))):
        assert n.dtype == jnp.float32 and n.shape == a.shape
        np.testing.assert_allclose(n, a, rtol=1e-3)


def test_numeric_gradient_refuses():
    for step in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"numeric_gradient: step must be above 0, got {step!r}"):
            gx.numeric_gradient(jnp.sum, jnp.ones(2), step)
    with pytest.raises(ValueError, match="numeric_gradient: method must be 'forward' or 'central', got 'backward'"):
        gx.numeric_gradient(jnp.sum, jnp.ones(2), method="backward")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"numeric_gradient: params\['n'\] must be float32 or float64, got int32"):
        gx.numeric_gradient(jnp.sum, {"n": jnp.ones(2, jnp.int32)})
    with pytest.raises(ValueError, match=r"the loss must return one floating number, got float32 of shape \(2,\)"):
        gx.numeric_gradient(lambda w: w, jnp.ones(2))


# ---------------------------------------------------------------- the check of a gradient
rng = np.random.default_rng(0)
EXAMPLES, LABELS = rng.standard_normal((20, 4)), rng.integers(0, 3, 20)
CORRECT = np.eye(3)[LABELS]


def margins(params, maximum):
    scores = EXAMPLES @ params["W"] + params["b"]
    return maximum(0, scores - (scores * CORRECT).sum(1, keepdims=True) + 1) * (1 - CORRECT)


def hinge(params):
    """The multiclass support vector machine: mean over examples of Σ max(0, s_j − s_y + 1), plus ΣW²."""
    return jnp.mean(jnp.sum(margins(params, jnp.maximum), 1)) + jnp.sum(params["W"] ** 2)


def hinge_gradient(params):
    beyond = (margins(params, np.maximum) > 0).astype(float)
    of_scores = (beyond - CORRECT * beyond.sum(1, keepdims=True)) / len(EXAMPLES)
    return {"W": EXAMPLES.T @ of_scores + 2 * params["W"], "b": of_scores.sum(0)}


def machine():
    return {"W": jnp.asarray(np.random.default_rng(1).standard_normal((4, 3))), "b": jnp.zeros(3)}


@pytest.mark.parametrize("gradient", [None, hinge_gradient, jax.grad(hinge)])
@pytest.mark.promotes("its models, as users write them")
def test_check_gradient_passes_the_support_vector_machine(x64, gradient):
    errors = gx.check_gradient(hinge, machine(), gradient, tolerance=1e-8)
    assert errors.keys() == {"W", "b"} and max(errors.values()) < 1e-8


def test_check_gradient_in_float32():
    errors = gx.check_gradient(waves, nested())
    assert max(jax.tree.leaves(errors)) < 1e-3


@pytest.mark.promotes("its models, as users write them")
def test_check_gradient_reports_the_relative_error_of_each_leaf(x64):
    true = hinge_gradient(machine())
    errors = gx.check_gradient(hinge, machine(), {"W": 1.01 * true["W"], "b": true["b"]}, tolerance=0.1)
    assert errors["W"] == pytest.approx(0.01 / 1.01, rel=1e-6) and errors["b"] < 1e-8


@pytest.mark.promotes("its models, as users write them")
def test_check_gradient_names_the_worst_leaf(x64):
    true = hinge_gradient(machine())
    with pytest.raises(ValueError, match=r"check_gradient: the gradient at 'b' is off by 0\.5, more than 0\.01"):
        gx.check_gradient(hinge, machine(), {"W": 1.1 * true["W"], "b": 2 * true["b"]})
    with pytest.raises(ValueError, match=r"the gradient at 'W' is off by 2, more than 0\.01"):
        gx.check_gradient(hinge, machine(), {"W": -true["W"], "b": 2 * true["b"]})
    nan = true["W"].at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match=r"the gradient at 'W' is off by nan, more than 0\.01"):
        gx.check_gradient(hinge, machine(), {"W": nan, "b": 2 * true["b"]})


def test_check_gradient_where_there_is_nothing_to_compare():
    flat = {"empty": jnp.zeros((0, 2)), "unused": jnp.ones(2)}
    assert gx.check_gradient(lambda w: jnp.sum(w["empty"]), flat) == {"empty": 0.0, "unused": 0.0}
    assert gx.check_gradient(lambda w: 0.0, {}) == {}


def test_check_gradient_refuses():
    with pytest.raises(ValueError, match=r"check_gradient: expected a call outside of jax\.jit"):
        jax.jit(lambda w: gx.check_gradient(jnp.sum, w))(jnp.ones(2))
    shapes = "check_gradient: the gradient must have the structure and shapes of the parameters"
    with pytest.raises(ValueError, match=shapes):
        gx.check_gradient(jnp.sum, jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match=shapes):
        gx.check_gradient(bowl, SHAPES, {"w": SHAPES["w"]})
    with pytest.raises(TypeError, match=r"check_gradient: params\['n'\] must be float32 or float64, got int32"):
        gx.check_gradient(jnp.sum, {"n": jnp.ones(2, jnp.int32)})
