import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from gradtx.lab import digits, line, xor
from gradtx.lab.problems import network


def test_digits_are_scikit_learns_each_in_one_part():
    problem = digits()
    assert problem.train.inputs.shape == (1437, 64) and problem.test.inputs.shape == (360, 64)
    images, classes = load_digits(return_X_y=True)
    rows = np.c_[
        np.r_[problem.train.inputs, problem.test.inputs] * 16, np.r_[problem.train.targets, problem.test.targets]
    ]
    expected = np.c_[images, classes]
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    assert set(problem.test.targets) == set(range(10))


def test_digits_split_is_fixed():
    np.testing.assert_array_equal(digits().test.inputs, digits().test.inputs)


def numpy_network(params, x):
    first, second = [{name: np.asarray(value, float) for name, value in layer.items()} for layer in params]
    return np.maximum(x @ first["weight"] + first["bias"], 0) @ second["weight"] + second["bias"]


def test_digits_loss_and_accuracy_are_the_textbooks():
    problem = digits()
    params = problem.init(jax.random.key(0))
    assert [layer["weight"].shape for layer in params] == [(64, 64), (64, 10)]
    x, classes = problem.test
    scores = numpy_network(params, x)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    loss = -np.mean(np.log(probabilities[np.arange(360), classes]))
    assert float(problem.loss(params, problem.test)) == pytest.approx(loss, rel=1e-5)
    assert problem.accuracy is not None
    assert float(problem.accuracy(params, problem.test)) == pytest.approx(np.mean(scores.argmax(1) == classes))


def test_xor_loss_and_accuracy_are_the_textbooks():
    problem = xor()
    params = problem.init(jax.random.key(2))
    x, y = problem.train
    np.testing.assert_array_equal(y, np.logical_xor(x[:, 0], x[:, 1]))
    p = 1 / (1 + np.exp(-numpy_network(params, x)[:, 0]))
    loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert float(problem.loss(params, problem.train)) == pytest.approx(loss, rel=1e-5)
    assert problem.accuracy is not None
    assert float(problem.accuracy(params, problem.train)) == pytest.approx(np.mean((p > 0.5) == y))


def test_line_loss_is_the_mean_squared_error():
    problem = line()
    (x, y), params = problem.train, {"a": np.float32(1.5), "b": np.float32(-0.5)}
    assert float(problem.loss(params, problem.train)) == pytest.approx(
        np.mean((1.5 * x[:, 0] - 0.5 - y) ** 2), rel=1e-5
    )


def test_weights_start_with_variance_two_over_inputs():
    first, second = digits().init(jax.random.key(0))
    assert float(first["weight"].var()) == pytest.approx(2 / 64, rel=0.1)
    assert float(second["weight"].var()) == pytest.approx(2 / 64, rel=0.2)
    assert not first["bias"].any() and not second["bias"].any()


def test_network_of_one_layer_is_affine():
    params = [{"weight": jnp.array([[2.0]]), "bias": jnp.array([1.0])}]
    np.testing.assert_allclose(network(params, np.array([[-3.0], [3.0]])), [[-5.0], [7.0]])
