"""Line searches: the conditions of Wolfe and Armijo at every accepted step, the evaluations, and what they refuse."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from numpy import ndarray
from smooth import PROBLEMS, bowl, himmelblau
from streams import assert_near

import gradtx as gx
from gradtx.wrappers.line_search import Trial, _cubic

EPS = float(np.finfo(float).eps)


def path_of(tx: gx.Transformation, function: Any, start: Any, steps: int, evaluate: Any = None) -> dict[str, Any]:
    """The parameters before and after each step, with what the line search measured."""
    evaluate = evaluate or gx.value_and_grad_from_state(function)

    def step(carry, _):
        params, state = carry
        value, gradient = evaluate(params, state=state)
        after, state = tx.apply(params, state, gradient, value=value, value_fn=function)
        return (after, state), {"before": params, "after": after, **gx.measurements(state)}

    start = jnp.asarray(start)
    return jax.lax.scan(step, (start, tx.init(start)), length=steps)[1]


def steps_of(path: dict[str, Any], by_hand: Any) -> Any:
    """The value and slope at both ends of each step, as NumPy has them, until the gradient is rounding."""
    for before, after in zip(np.asarray(path["before"]), np.asarray(path["after"])):
        (f, g), (f_after, g_after) = by_hand(before), by_hand(after)
        if np.linalg.norm(g) <= 1e-6:
            return
        yield f, g @ (after - before), f_after, g_after @ (after - before)


DIRECTIONS: dict[str, tuple[Any, float]] = {
    "lbfgs": (gx.scale_by_lbfgs(), 0.9),
    "lbfgs, to the minimum": (gx.scale_by_lbfgs(3), 1e-3),
    "gradient": (gx.identity(), 0.1),
    "rms": (gx.precondition(gx.identity(), by=gx.rms(0.9), eps=1e-8), 0.5),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_step_of_zoom_meets_the_strong_conditions_of_wolfe(x64, problem, direction):
    function, by_hand, start, _ = PROBLEMS[problem]
    inner, c2 = DIRECTIONS[direction]
    path = path_of(gx.zoom(inner, c2=c2), function, start, 60)
    several = list(steps_of(path, by_hand))
    assert several and path["failures"][len(several) - 1] == 0
    for f, slope, f_after, slope_after in several:
        assert slope < 0 and f_after <= f + 1e-4 * slope + 101 * EPS * abs(f)
        assert abs(slope_after) <= c2 * abs(slope) * (1 + 1e-6)


@pytest.mark.parametrize("direction", [gx.identity(), gx.momentum(0.5), gx.scale_by_lbfgs(5)])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_step_of_backtracking_meets_armijos_condition(x64, problem, direction):
    function, by_hand, start, _ = PROBLEMS[problem]
    path = path_of(gx.backtracking(direction, c1=0.1), function, start, 60)
    several = list(steps_of(path, by_hand))
    assert len(several) > 5 and (path["step size"][: len(several)] > 0).all()
    for f, slope, f_after, _ in several:
        assert slope < 0 and f_after <= f + 0.1 * slope + 101 * EPS * abs(f)


def test_backtracking_starts_at_its_bound_and_then_at_a_multiple_of_the_last_step(x64):
    """On ½·8·x², c₁ = ½ accepts t ≤ 1/8, and the parabola through a rejected trial has its minimum there."""
    octuple = lambda x: 4.0 * jnp.sum(x**2)  # noqa: E731

    def measured(**arguments):
        path = path_of(gx.backtracking(gx.identity(), c1=0.25, **arguments), octuple, [1.0], 3)
        return path["step size"][0], path["evaluations"]

    size, evaluations = measured()
    assert jnp.allclose(size, 0.125) and evaluations.tolist()[:1] == [2]  # 1, then at the minimum
    size, evaluations = measured(max_rate=0.1)
    assert size == 0.1 and evaluations.tolist() == [1, 1, 1]
    path = path_of(gx.backtracking(gx.identity(), c1=0.0, grow=1.5, max_rate=0.01), octuple, [1.0], 3)
    assert path["step size"].tolist() == [0.01, 0.01, 0.01]


def barrier(x: Any) -> Any:
    """Its minimum is at 1 − 1/40; at 1 and beyond it is not a number."""
    return jnp.sum(-jnp.log(1 - x) - 40 * x)


@pytest.mark.parametrize("a, b", [(0.0, 3.0), (3.0, 0.0), (1.0, 1.5), (-2.0, 5.0)])
def test_the_next_trial_is_the_minimum_of_the_cubic(a, b, x64):
    def trial(t):  # of a cubic that has its minimum at 2
        return Trial.of(*(jnp.asarray(x) for x in (t, t**3 / 3 - 1.5 * t**2 + 2 * t + 7, t**2 - 3 * t + 2)))

    minimum, exists = _cubic(trial(a), trial(b))
    assert exists and abs(minimum - 2) < 1e-12


@pytest.mark.parametrize("slope, found", [(-0.5, True), (0.9, True), (1.1, False)])
def test_where_rounding_hides_the_decrease_the_slope_decides(slope, found):
    origin = Trial(jnp.array([0.0, 1e6, -1.0]))
    trial = Trial(jnp.array([1.0, 1e6 + 1, slope]))  # higher by less than the rounding of a sum
    assert gx.zoom(gx.identity(), c1=0.04).decreases(trial, origin) == found
    assert not gx.zoom(gx.identity(), c1=0.1).decreases(Trial(trial.numbers.at[2].set(0.9)), origin)


def test_a_fresh_state_has_no_gradient():
    state = gx.lbfgs().init({"w": jnp.ones(2), "n": jnp.array(1)})
    assert_near(state.slots["zoom"]["evaluated"].gradient, {"w": jnp.zeros(2), "n": None})


@pytest.mark.parametrize("search", [gx.zoom, gx.backtracking])
@pytest.mark.usefixtures("x64")
def test_a_trial_that_is_not_finite_is_too_far(search):
    path = path_of(search(gx.scale_by_lbfgs()), barrier, [0.0, 0.5], 20)
    assert jnp.isfinite(path["after"]).all() and not path["failures"][:8].any() and path["evaluations"].sum() > 21
    assert jnp.allclose(path["after"][-1], 1 - 1 / 40, atol=1e-3)


def bent(x: Any) -> Any:
    """Its value is finite where its gradient is not: at x ≤ 0."""
    return jnp.sum(jnp.where(x > 0, x**2 / 2 + x, 2 * jnp.sqrt(jnp.maximum(x, 0.0))))


def test_a_trial_whose_gradient_is_not_finite_is_too_far(x64):
    path = path_of(gx.zoom(gx.identity()), bent, [1.0], 3)
    assert jnp.isfinite(path["after"]).all() and (path["after"] > 0).all()


@pytest.mark.parametrize("search", [gx.zoom, gx.backtracking])
def test_uphill_it_goes_along_the_gradient_and_counts_a_failure(x64, search):
    start = jnp.asarray(PROBLEMS["Himmelblau"].start)
    wrong, right = (path_of(search(gx.scale(x)), himmelblau, start, 3) for x in (-1.0, 1.0))
    assert_near(wrong["after"], right["after"])
    assert wrong["failures"].tolist() == [1, 2, 3] and right["failures"].tolist() == [0, 0, 0]
    sideways = gx.pair(lambda _: (), lambda g, state, _: (jnp.stack([-g[1], g[0]]), state))  # ⟨g, d⟩ = 0
    assert_near(path_of(search(sideways), himmelblau, start, 3)["after"], right["after"])


@pytest.mark.parametrize("search", [gx.zoom, gx.backtracking])
def test_without_a_lower_value_it_stays_and_counts_a_failure(search):
    tx, params = search(gx.identity(), max_trials=7), jnp.array([1.0, 2.0])
    u, state = tx.update(-params, tx.init(params), params, value=2.5, value_fn=lambda x: jnp.sum(x**2) / 2)
    measured = {name: float(x) for name, x in gx.measurements(state).items()}
    assert not u.any() and measured == {"step size": 0.0, "evaluations": 7.0, "failures": 1.0}
    for value in (jnp.nan, -jnp.inf):
        u, state = tx.update(params, state, params, value=value, value_fn=lambda x: jnp.sum(x**2) / 2)
        assert not u.any()
    assert gx.measurements(state)["failures"] == 3


@pytest.mark.parametrize("search", [gx.zoom, gx.backtracking])
def test_at_a_minimum_it_stays_and_evaluates_nothing(search):
    path = path_of(search(gx.scale_by_lbfgs()), bowl, jnp.zeros(100), 2)
    assert not path["after"].any() and not path["failures"].any() and not path["evaluations"].any()


def test_zoom_goes_on_while_the_function_falls_and_says_when_it_found_no_minimum(x64):
    path = path_of(gx.zoom(gx.identity(), max_trials=5), jnp.sum, [0.0], 1)
    assert path["step size"][0] > 20 and path["failures"][0] == 1


# ---------------------------------------------------------------- evaluations
@pytest.mark.parametrize("tx", [gx.zoom(gx.scale_by_lbfgs()), gx.backtracking(gx.momentum(0.9))])
@pytest.mark.usefixtures("eager")
def test_nothing_is_evaluated_twice(tx):
    points: list[ndarray] = []

    def counted(x):
        jax.debug.callback(lambda x: points.append(np.array(x)), x)
        return himmelblau(x)

    path = path_of(tx, counted, jnp.zeros(2), 12)
    jax.effects_barrier()
    assert len(points) == 1 + path["evaluations"].sum()
    assert len(np.unique(np.array(points), axis=0)) == len(points)


def test_the_handed_on_value_and_gradient_are_those_at_the_parameters():
    tree = {"n": jnp.array(3), "w": jnp.array([1.0, -2.0]), "z": jnp.array([1 + 2j, 0.5j], jnp.complex64)}

    def function(tree):
        return jnp.sum(tree["w"] ** 4) + jnp.sum(jnp.abs(tree["z"] - 1) ** 2) * tree["n"].astype(float)

    own = gx.value_and_grad_from_state(function)
    for tx in (gx.lbfgs(), gx.chain(gx.monitor("norm", gx.global_norm), gx.backtracking(gx.identity()))):
        params, state, value = tree, tx.init(tree), jnp.inf
        for i in range(30):
            value, gradient = jax.jit(own)(params, state=state)
            expected, slope = jax.value_and_grad(function, allow_int=True)(params)
            assert_near(value, expected)
            assert gradient["n"] is None and gradient["z"].dtype == jnp.complex64
            if i < 10:
                assert_near(
                    (gradient["w"], gradient["z"].real, gradient["z"].imag),
                    (slope["w"], slope["z"].real, -slope["z"].imag),
                    1e-4,
                )
            params, state = tx.apply(params, state, gradient, value=value, value_fn=function)
        assert value < 1e-3


def test_other_states_hand_nothing_on():
    params = jnp.ones(2)
    several = gx.chain(gx.skip_nonfinite(gx.lbfgs())), gx.adam()
    for state in (*(tx.init(params) for tx in several), None):
        with pytest.raises(ValueError, match=r"^value_and_grad_from_state: state must be of one line search, got"):
            gx.value_and_grad_from_state(jnp.sum)(params, state=state)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"expected a state of parameters of shapes \[\(3,\)\], got \[\(2,\)\]"):
        gx.value_and_grad_from_state(jnp.sum)(jnp.ones(3), state=gx.lbfgs().init(params))


# ---------------------------------------------------------------- losses
@jax.custom_vjp
def reverse_only(x):
    return jnp.sum((x - 3.0) ** 4)


reverse_only.defvjp(lambda x: (reverse_only(x), x), lambda x, ct: (ct * 4 * (x - 3.0) ** 3,))


@pytest.mark.parametrize("search", [gx.zoom, gx.backtracking])
def test_a_loss_without_forward_derivatives(search):
    path = path_of(search(gx.scale_by_lbfgs()), reverse_only, jnp.zeros(3), 30)
    assert reverse_only(path["after"][-1]) < 1e-4


@pytest.mark.parametrize("search", [gx.zoom, gx.backtracking])
def test_a_loss_without_any_derivative_has_a_grad_fn(search):
    """Its value and gradient are computed outside JAX."""

    def value_fn(x):
        return jax.pure_callback(lambda x: np.sum((np.asarray(x) - 3) ** 4, dtype="float32"), jnp.zeros(()), x)

    def grad_fn(x):
        return jax.pure_callback(lambda x: 4 * (np.asarray(x) - 3) ** 3, x, x)

    tx, params = search(gx.scale_by_lbfgs()), jnp.zeros(3)
    state = tx.init(params)
    for _ in range(20):
        extra = {"value": value_fn(params), "value_fn": value_fn, "grad_fn": grad_fn}
        params, state = tx.apply(params, state, grad_fn(params), **extra)
    assert value_fn(params) < 1e-3


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_within_a_training_step_and_a_fit(micro_batches):
    x = jnp.linspace(-1, 1, 64)

    def loss(w, batch):
        x, y = batch
        return jnp.mean((w["slope"] * x + w["offset"] - y) ** 2)

    start, data = {"slope": jnp.zeros(()), "offset": jnp.zeros(())}, (x, 3 * x + 1)
    step = gx.train_step(loss, gx.lbfgs(), micro_batches=micro_batches)
    params, state, metrics = start, step.tx.init(start), None
    for _ in range(6):
        params, state, metrics = step(params, state, data)
    assert abs(params["slope"] - 3) < 1e-3 and metrics and "evaluations" in metrics.measurements
    start = {"slope": jnp.zeros(()), "offset": jnp.zeros(())}
    assert gx.fit(start, gx.lbfgs(), loss, data, steps=8, progress=False).history["loss"][-1] < 1e-6


def test_a_group_searches_while_the_others_stay():
    tx = gx.partition({"a": gx.lbfgs()}, default=gx.freeze())
    params = {"a": jnp.array([5.0, -3.0]), "b": jnp.array([2.0])}

    def function(tree):
        return jnp.sum((tree["a"] - tree["b"]) ** 2)

    state = tx.init(params)
    for _ in range(5):
        value, gradient = jax.value_and_grad(function)(params)
        params, state = tx.apply(params, state, gradient, value=value, value_fn=function)
    assert jnp.allclose(params["a"], 2.0, atol=1e-4) and params["b"] == 2.0


# ---------------------------------------------------------------- within shard_map
DATA = np.random.default_rng(0).standard_normal((16, 5))


def of_rows(params, rows):
    return jnp.mean(jnp.log(jnp.cosh(rows @ params["w"] - 1))) + jnp.sum(params["b"] ** 4)


def mapped(tx, loss, specs=None, gradient=jax.value_and_grad):
    """Six steps on eight devices, each with two rows of the data, and the loss `loss(params, rows)`."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    specs = specs or PartitionSpec()

    def steps(params, rows):
        state, value_fn = tx.init(params), lambda p: loss(p, rows)
        for _ in range(6):
            value, g = gradient(value_fn)(params)
            params, state = tx.apply(params, state, g, value=value, value_fn=value_fn)
        return params

    run = jax.shard_map(steps, mesh=mesh, in_specs=(specs, PartitionSpec("x")), out_specs=specs)
    return jax.jit(run)({"w": jnp.ones(5), "b": jnp.ones(8)}, jnp.asarray(DATA))


def mean_of_rows(params, rows):
    return jax.lax.pmean(of_rows(params, rows), "x")


SEARCHES = {"lbfgs": gx.lbfgs(4), "backtracking": gx.backtracking(gx.momentum(0.5))}


@pytest.mark.parametrize("tx", SEARCHES.values(), ids=SEARCHES)
def test_on_several_devices_a_loss_of_the_whole_is_searched_as_on_one(x64, tx):
    params = state = None
    for _ in range(6):
        params = {"w": jnp.ones(5), "b": jnp.ones(8)} if params is None else params
        state = tx.init(params) if state is None else state
        value_fn = lambda p: of_rows(p, jnp.asarray(DATA))  # noqa: E731
        value, g = jax.value_and_grad(value_fn)(params)
        params, state = tx.apply(params, state, g, value=value, value_fn=value_fn)
    assert_near(mapped(tx, mean_of_rows), params, 1e-12)


LOCAL: dict[str, tuple[Any, str]] = {
    "a loss": ((of_rows,), "expected a loss of the whole, the same on each device, got one that varies along .* 'x', "),
    "a loss of the trials": (
        (
            of_rows,
            None,
            lambda f: lambda p: (jax.lax.pmean(f(p), "x"), jax.grad(lambda p: jax.lax.pmean(f(p), "x"))(p)),
        ),
        "value_fn: expected a loss of the whole, the same on each device, got one that varies along .* 'x', within ",
    ),
    "parameters": (
        (
            lambda p, rows: mean_of_rows({**p, "b": p["b"][0]}, rows),
            {"w": PartitionSpec(), "b": PartitionSpec("x")},
        ),
        "expected (an inner product of the whole|whole parameters)",
    ),
}


@pytest.mark.parametrize("tx", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("case", LOCAL)
def test_on_several_devices_a_local_number_is_refused(tx, case):
    arguments, message = LOCAL[case]
    with pytest.raises(ValueError, match=f"^(zoom|backtracking|scale_by_lbfgs): {message}"):
        mapped(tx, *arguments)


def test_minimize_on_several_devices_is_of_the_whole(x64):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))

    def found(loss):
        whole = PartitionSpec()
        minimized = lambda p, rows: gx.minimize(lambda p: loss(p, rows), p, tolerance=1e-8)  # noqa: E731
        return jax.jit(jax.shard_map(minimized, mesh=mesh, in_specs=(whole, PartitionSpec("x")), out_specs=whole))

    start = {"w": jnp.ones(5), "b": jnp.full(8, 0.1)}
    alone = gx.minimize(lambda p: of_rows(p, jnp.asarray(DATA)), start, tolerance=1e-8)
    got = found(mean_of_rows)(start, jnp.asarray(DATA))
    assert bool(got.converged) and got.steps == alone.steps
    assert_near(got.params["w"], alone.params["w"], 1e-7)
    with pytest.raises(ValueError, match=r"^minimize: fun: expected a value of the whole, the same on each device"):
        found(of_rows)(start, jnp.asarray(DATA))


def test_derivatives_hold_the_step_size_constant():
    def after(scale, x):
        tx = gx.backtracking(gx.scale(scale), max_rate=0.25)
        function = lambda x: jnp.sum(x**2)  # noqa: E731
        u, _ = tx.update(2 * x, tx.init(x), x, value=function(x), value_fn=function)
        return jnp.sum(x + u)

    by_scale, by_x = jax.grad(after, (0, 1))(1.0, jnp.array([1.0, 2.0]))
    assert jnp.allclose(by_scale, -0.25 * 6) and jnp.allclose(by_x, 1 - 0.25 * 2)


# ---------------------------------------------------------------- wrong input
params = jnp.array([1.0, 2.0])


def updating(tx: Any, **extra: Any) -> Any:
    return lambda: tx.update(params, tx.init(params), params, **extra)


def half(x: Any) -> Any:
    return jnp.sum(x**2) / 2


ANY: Any = 0.1
zoom, learning = (
    gx.zoom(gx.identity()),
    r"direction must be without a learning rate, got .*: it finds the learning rate",
)
BAD = {
    "no value_fn": (updating(zoom, value=2.5), ValueError, "^zoom needs the argument 'value_fn'"),
    "no value": (updating(gx.lbfgs(), value_fn=half), ValueError, "^zoom needs the argument 'value'"),
    "no params": (
        lambda: zoom.update(params, zoom.init(params), value=2.5, value_fn=half),
        ValueError,
        "^zoom needs the parameters",
    ),
    "a value of two": (updating(zoom, value=params, value_fn=half), ValueError, "^zoom: value must be one real number"),
    "values": (
        updating(zoom, value=2.5, value_fn=lambda x: x),
        ValueError,
        r"^zoom: value_fn\(…\) must be one real number, got float32\[2\]",
    ),
    "aux": (
        updating(zoom, value=2.5, value_fn=lambda x: (half(x), x)),
        TypeError,
        r"^zoom: value_fn\(…\) must be one real number, got \(.*: with an auxiliary output, return the value alone",
    ),
    "a complex value": (
        updating(gx.backtracking(gx.identity()), value=2.5, value_fn=lambda x: half(x).astype("complex64")),
        ValueError,
        r"^backtracking: value_fn\(…\) must be one real number, got complex64\[\]",
    ),
    "no function": (updating(zoom, value=2.5, value_fn=2.5), TypeError, "^value_fn must be a function"),
    "two arguments": (updating(zoom, value=2.5, value_fn=lambda x, y: half(x)), TypeError, "^value_fn.*'y'"),
    "an optimizer": (lambda: gx.zoom(gx.sgd(0.1)), ValueError, f"^zoom: {learning}"),
    "a wrapped one": (lambda: gx.backtracking(gx.skip_nonfinite(gx.adam())), ValueError, f"^backtracking: {learning}"),
    "c2 below c1": (
        lambda: gx.zoom(gx.identity(), 0.5, 0.1),
        ValueError,
        "^zoom: c2 must be above c1, got 0.1 and 0.5",
    ),
    "c1": (lambda: gx.zoom(gx.identity(), c1=1.0), ValueError, "^zoom: c1 must be at least 0 and below 1, got 1.0"),
    "no trials": (
        lambda: gx.backtracking(gx.identity(), max_trials=0),
        ValueError,
        "^backtracking: max_trials must be",
    ),
    "no growth": (lambda: gx.backtracking(gx.identity(), grow=0.0), ValueError, "^backtracking: grow must be"),
    "not a direction": (lambda: gx.zoom(ANY), TypeError, "^zoom: direction must be a transformation"),
}


@pytest.mark.parametrize("call, kind, text", BAD.values(), ids=BAD)
def test_a_bad_argument(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
