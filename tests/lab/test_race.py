import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx
from gradtx.lab import ENTRIES, Batch, Entry, Problem, line, race, xor


def only(*names):
    return {name: ENTRIES[name] for name in names}


def by_name(results):
    return {result.optimizer: result for result in results}


def recording(examples):
    """A problem whose loss is its batch's mean target: at batch size 1 the losses are the examples visited."""
    batch = Batch(np.zeros((examples, 1), np.float32), np.arange(examples, dtype=np.float32))
    return Problem(lambda key: jnp.zeros(3), lambda w, b: jnp.mean(b.targets) + 0 * w.sum(), None, batch, batch, 1, 1)


# ---------------------------------------------------------------- known answers
def test_line_reaches_the_least_squares_fit_with_every_optimizer():
    (x, y) = line().train
    _, residual, *_ = np.linalg.lstsq(np.c_[x.astype(float), np.ones(len(x))], y.astype(float))
    results = race(line())
    assert len(results) == 16
    for result in results:
        assert result.final_loss == pytest.approx(residual[0] / len(x), rel=5e-3), result.optimizer
        assert np.isnan(result.test_accuracy)


def test_xor_is_learned_by_every_optimizer():
    for result in race(xor()):
        assert result.test_accuracy == 1.0, result.optimizer
        assert result.final_loss < 0.2


def test_batch_descent_is_the_textbooks_loop():
    (x, y), rate = line().train, 0.3
    x, a, b, expected = x[:, 0].astype(float), 0.0, 0.0, []
    for _ in range(25):
        error = a * x + b - y
        expected.append(np.mean(error**2))
        a, b = a - rate * np.mean(2 * error * x), b - rate * np.mean(2 * error)
    (result,) = race(line(), only("sgd"), epochs=25, learning_rate=rate)
    np.testing.assert_allclose(result.losses, expected, rtol=1e-4)
    assert result.final_loss == pytest.approx(np.mean((a * x + b - y) ** 2), rel=1e-4)


# ---------------------------------------------------------------- epochs and batches
def test_an_epoch_visits_every_example_once_in_a_new_order():
    (result,) = race(recording(12), only("sgd"), epochs=3, batch_size=1)
    orders = result.losses.reshape(3, 12)
    for order in orders:
        assert sorted(order) == list(range(12))
    assert len({tuple(order) for order in orders}) == 3


def test_examples_that_fill_no_batch_are_left_out():
    (result,) = race(recording(11), only("sgd"), epochs=2, batch_size=4)
    assert result.steps == 4 and result.batch_size == 4


@pytest.mark.parametrize("epochs", [1, 7, 41, 60])
def test_the_number_of_epochs_can_be_set(epochs):
    (result,) = race(recording(10), only("sgd"), epochs=epochs, batch_size="all")
    assert result.steps == epochs == len(result.losses) and result.batch_size == 10
    np.testing.assert_allclose(result.losses, 4.5)


def test_rprop_takes_all_examples_by_default():
    results = by_name(race(recording(10), only("rprop", "sgd"), epochs=2))
    assert (results["rprop"].batch_size, results["sgd"].batch_size) == (10, 1)
    assert race(recording(10), only("rprop"), epochs=2, batch_size=5)[0].steps == 4


def test_the_loop_is_traced_once():
    traces = []

    def count(epochs):
        problem = recording(10)
        counting = problem._replace(loss=lambda w, b: traces.append(1) or problem.loss(w, b))
        traces.clear()
        race(counting, only("adam"), epochs=epochs, batch_size=2)
        return len(traces)

    assert count(3) == count(60)


# ---------------------------------------------------------------- results
def test_state_bytes_are_counted_in_full():
    results = by_name(race(xor(), only("sgd", "heavy_ball", "adam", "amsgrad"), epochs=1))
    parameters = 2 * 4 + 4 + 4 * 1 + 1
    expected = {"sgd": 4, "heavy_ball": 4 + 4 * 17, "adam": 20 + 8 * 17, "amsgrad": 20 + 12 * 17}
    for name, bytes_ in expected.items():
        assert results[name].state_bytes_per_parameter == pytest.approx(bytes_ / parameters), name


def test_a_run_that_diverges_is_reported_last():
    results = race(line(), only("sgd", "adam", "heavy_ball"), learning_rate=3.0)
    assert results[0].optimizer == "adam" and results[0].final_loss < 0.02
    assert not np.isfinite([result.final_loss for result in results[1:]]).any()


def test_accuracy_of_a_run_that_diverged_is_unknown():
    problem = xor()._replace(loss=lambda params, batch: jnp.nan * params[0]["bias"].sum())
    (result,) = race(problem, only("sgd"), epochs=2)
    assert np.isnan(result.final_loss) and np.isnan(result.test_accuracy)


def test_the_seed_decides_the_results():
    first, again, other = (race(xor(), only("adam"), epochs=30, batch_size=2, seed=seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.losses, again.losses)
    assert first.final_loss == again.final_loss != other.final_loss


def test_learning_rate_replaces_every_rate():
    results = race(line(), epochs=1, learning_rate=0.02)
    assert {result.learning_rate for result in results} == {0.02} and len(results) == 16


def test_progress_rises_to_one():
    seen = []
    race(recording(4), only("sgd", "adam"), epochs=40, progress=lambda name, share: seen.append((name, share)))
    shares = [share for _, share in seen]
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0, 1) and len(shares) > 20
    assert {name for name, share in seen if share < 0.5} == {"sgd"}


def test_a_users_optimizer_takes_part():
    own = Entry(lambda rate: gx.chain(gx.sign(), gx.scale_by_learning_rate(rate)), 0.01, "the size")
    (result,) = race(line(), {"sign": own}, epochs=5)
    assert result.optimizer == "sign" and result.losses[-1] < result.losses[0]


def test_the_best_of_several_rates_is_reported_and_compiled_once():
    problem, traces = recording(10), []
    counting = problem._replace(loss=lambda w, b: traces.append(1) or jnp.sum((w - 1) ** 2))
    race(counting, {"sgd": Entry(gx.sgd, 0.1)}, epochs=3)
    once = len(traces)
    own = Entry(gx.sgd, [1e-4, 0.4, 30.0])
    traces.clear()
    (result,) = race(
        counting._replace(loss=lambda w, b: traces.append(1) or jnp.sum((w - 1) ** 2)), {"sgd": own}, epochs=3
    )
    assert result.learning_rate == 0.4 and len(traces) == once
    assert result.final_loss == pytest.approx(3 * 0.2**6 * 0.2 ** (2 * 27), abs=1e-6)


def test_an_optimizer_runs_as_it_is_and_its_evaluation_parameters_count():
    tx = gx.schedule_free(gx.sgd(0.1), b1=0.9)
    (result,) = race(line(), {"mine": tx}, epochs=5, learning_rate=3.0)
    w = line().init(jax.random.key(0))
    state = tx.init(w)
    for _ in range(5):
        updates, state = tx.update(jax.grad(line().loss)(w, line().train), state, w)
        w = gx.apply_updates(w, updates)
    expected = float(line().loss(gx.eval_params(tx, state, w), line().train))
    assert result.final_loss == pytest.approx(expected, rel=1e-5)
    assert result.learning_rate == 0.1


# ---------------------------------------------------------------- errors
def test_what_is_not_an_optimizer_is_refused_by_name():
    with pytest.raises(TypeError, match="race: 'mine'"):
        race(line(), {"mine": 3})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"epochs": -1},
        {"batch_size": 0},
        {"batch_size": 101},
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options)).replace('_', ' ')}.*{next(iter(options.values()))}"):
        race(line(), only("sgd"), **options)
