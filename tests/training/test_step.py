import pickle
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import assert_near, extra

import gradtx as gx
from gradtx.training import step as step_module

RANDOM = np.random.default_rng(0)
X = jnp.asarray(RANDOM.standard_normal((8, 3)), jnp.float32)
BATCH = X, jnp.asarray(X @ np.array([1.0, -2.0, 0.5]) + 0.3, jnp.float32)
PARAMS = {"w": jnp.array([0.1, 0.2, 0.3]), "b": jnp.zeros(())}
KEY = jax.random.key(1)


def loss(params, batch):
    x, y = batch
    return jnp.mean(jnp.abs(x @ params["w"] + params["b"] - y) ** 2)


def with_more(params, batch, *more, returns=()):
    """A loss with a model state that counts examples, noise from the key, and predictions as aux."""
    more, x = list(more), batch[0]
    count = more.pop(0) if "model_state" in returns else None
    value = loss(params, batch) + (jax.random.normal(more.pop()) * params["b"] if more else 0)
    beside = {"model_state": None if count is None else count + len(x), "aux": x @ params["w"]}
    given = tuple(beside[name] for name in returns)
    return (value, given[0] if len(given) == 1 else given) if given else value


def copy(tree):
    return jax.tree.map(jnp.copy, tree)


def plain(tx, params, batch, steps, loss=loss):
    """The loop that everyone writes."""
    state, losses = tx.init(params), []
    for _ in range(steps):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        grad_fn = partial(jax.grad(loss), batch=batch)
        given = {"value": value, "key": KEY, "grad_fn": grad_fn}
        given["hvp"] = lambda v, at=params, grad_fn=grad_fn: jax.jvp(grad_fn, (at,), (v,))[1]
        gradient = jax.tree.map(jnp.conj, gradient)
        updates, state = tx.update(gradient, state, params, **{name: given[name] for name in extra(tx)})
        params = gx.apply_updates(params, updates)
        losses.append(value)
    return params, state, losses


def stepped(step, params, batch, steps, **more):
    params, losses = copy(params), []
    state = step.tx.init(params)
    for _ in range(steps):
        params, state, metrics = step(params, state, batch, **more)
        losses.append(metrics.loss)
    return params, state, losses


# ---------------------------------------------------------------- the plain loop
SEVERAL = {
    "sgd": gx.sgd(0.1),
    "adamw": gx.adamw(0.05),
    "a schedule": gx.heavy_ball(gx.schedules.linear(0.1, 0.0, steps=4)),
    "muon": gx.muon(0.05),
    "value": gx.momo(0.5),
    "grad_fn": gx.sam(gx.adam(0.05), radius=0.05),
    "hvp and key": gx.adahessian(0.05),
    "key": gx.chain(gx.add_noise(0.1), gx.scale(-0.1)),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_a_step_equals_a_plain_loop(name):
    tx = SEVERAL[name]
    key = {"key": KEY} if "key" in extra(tx) else {}
    assert_near(stepped(gx.train_step(loss, tx), PARAMS, BATCH, 3, **key), plain(tx, PARAMS, BATCH, 3), 1e-5)


COMPLEX = {"w": jnp.array([0.1 + 1j, 0.2, -0.3j]), "b": jnp.zeros((), jnp.complex64)}
TREES = {
    "complex": COMPLEX,
    "bfloat16": jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS),
    "empty leaves": PARAMS | {"none": jnp.zeros((0, 3))},
    "None": PARAMS | {"frozen": None},
}


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.promotes("its models, as users write them")
def test_trees_of_parameters(name, micro_batches):
    tx, params = gx.adam(0.05), TREES[name]
    have = stepped(gx.train_step(loss, tx, micro_batches=micro_batches), params, BATCH, 3)
    have, need = (jax.tree.map(lambda x: jnp.stack([x.real, x.imag]), x) for x in (have, plain(tx, params, BATCH, 3)))
    assert_near(have, need, 2e-2 if name == "bfloat16" else 1e-5)


def test_integers_among_the_parameters_stay():
    params, _, _ = stepped(gx.train_step(loss, gx.adam(), skip_nonfinite=True), PARAMS | {"n": jnp.arange(3)}, BATCH, 2)
    assert params["n"].tolist() == [0, 1, 2] and params["n"].dtype == jnp.int32


# ---------------------------------------------------------------- the arguments and results of the loss
@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("has_key", [False, True])
@pytest.mark.parametrize("returns", [(), ("aux",), ("model_state",), ("model_state", "aux")])
def test_the_arguments_and_results_of_the_loss(returns, has_key, micro_batches):
    asked = {f"has_{name}": True for name in returns} | {"has_key": has_key, "micro_batches": micro_batches}
    step = gx.train_step(partial(with_more, returns=returns), gx.sgd(0.1), **asked)
    given = ({"key": KEY} if has_key else {}) | ({"model_state": 5} if "model_state" in returns else {})
    params = copy(PARAMS)
    params, _, metrics = step(params, step.tx.init(params), BATCH, **given)
    assert metrics.model_state == (13 if "model_state" in returns else None)
    if "aux" in returns:
        assert metrics.aux.shape == ((8,) if micro_batches == 1 else (4, 2))
        np.testing.assert_allclose(metrics.aux.ravel(), BATCH[0] @ PARAMS["w"], rtol=1e-5)
    else:
        assert metrics.aux is None
    keys = [KEY] if micro_batches == 1 else [jax.random.fold_in(KEY, i) for i in range(micro_batches)]
    noise = np.mean([jax.random.normal(key) for key in keys]) if has_key else 0.0
    noisy = plain(gx.sgd(0.1), PARAMS, BATCH, 1, lambda params, batch: loss(params, batch) + noise * params["b"])[0]
    assert_near(params, noisy, 1e-5)


def test_micro_batches_are_summed_in_float32():
    params = {"w": jnp.zeros((), jnp.bfloat16)}
    step = gx.train_step(lambda p, x: p["w"] * x.mean(), gx.sgd(1.0), micro_batches=512)
    params, _, _ = step(params, step.tx.init(params), jnp.ones(512, jnp.bfloat16))
    assert params["w"] == -1.0 and params["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("micro_batches", [8, 64, 256, 1024])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_many_micro_batches_is_accurate(micro_batches, dtype, weighted):
    """Within 2e-7 of the largest coordinate of NumPy's mean in float64."""
    rows = np.random.default_rng(0).uniform(0, 1, (micro_batches, 1000)).astype(np.float32)

    def linear(params, row):
        value = (params.real * row[0]).sum()
        return (value, jnp.float32(3)) if weighted else value

    step = gx.train_step(linear, gx.sgd(1.0), micro_batches=micro_batches, weighted=weighted)
    start = jnp.zeros(1000, dtype)
    params, _, metrics = step(start, step.tx.init(start), rows)
    expected = rows.astype(float).mean(0)
    assert np.abs(np.asarray(params) + expected).max() <= 2e-7 * expected.max()
    assert float(metrics.loss) == 0


@pytest.mark.parametrize("name", ["grad_fn", "hvp and key"])
def test_pieces_with_functions_compute_the_same_over_micro_batches(name):
    steps = (gx.train_step(loss, SEVERAL[name], micro_batches=n) for n in (1, 4))
    key = {"key": KEY} if "key" in extra(SEVERAL[name]) else {}
    one, four = (stepped(step, PARAMS, BATCH, 2, **key) for step in steps)
    assert_near(four, one, 1e-5)


def test_a_batch_that_is_not_finite_changes_nothing():
    flags = {"has_model_state": True, "skip_nonfinite": True, "donate": False}
    step = gx.train_step(partial(with_more, returns=("model_state",)), gx.adam(0.1), **flags)
    params, state, metrics = step(PARAMS, step.tx.init(PARAMS), BATCH, model_state=jnp.array(0))
    assert metrics.finite and metrics.model_state == 8 and state.step == 1
    for bad in (jnp.nan, jnp.inf):
        after = step(params, state, (BATCH[0].at[0, 0].set(bad), BATCH[1]), model_state=jnp.array(8))
        assert not after[2].finite and not np.isfinite(after[2].loss) and after[2].model_state == 8
        assert_near(after[:2], (params, state), 0)


# ---------------------------------------------------------------- measurements
def measured_step(tx, steps=4, batches=(BATCH,), **options):
    """The metrics of each step, with the gradient and the change of the parameters by hand, in NumPy."""
    step, params, seen = gx.train_step(loss, tx, donate=False, **options), PARAMS, []
    state = step.tx.init(params)
    for i in range(steps):
        batch = batches[i % len(batches)]
        gradient = jax.grad(loss)(params, batch)
        new, state, metrics = step(params, state, batch)
        seen.append((metrics, gradient, jax.tree.map(lambda x, y: np.float64(x) - np.float64(y), new, params)))
        params = new
    return seen


def size(tree):
    return np.sqrt(sum(np.sum(np.square(np.asarray(x, np.float64))) for x in jax.tree.leaves(tree)))


def test_norms_and_the_rate_of_a_schedule_are_measured():
    tx = gx.chain(gx.clip_by_global_norm(0.01), gx.adamw(gx.schedules.linear(0.4, 0.0, steps=4)))
    for i, (metrics, gradient, change) in enumerate(measured_step(tx)):
        np.testing.assert_allclose(metrics.learning_rate, 0.4 - 0.1 * i, rtol=1e-6)
        np.testing.assert_allclose(metrics.gradient_norm, size(gradient), rtol=1e-6)  # before it is clipped
        np.testing.assert_allclose(metrics.update_norm, size(change), rtol=1e-4)
        assert metrics.skipped is None and metrics.measurements == {}


def test_the_rates_of_groups_and_of_a_clock_are_measured():
    groups = gx.partition({"w": gx.sgd(gx.schedules.inverse_time(0.5, 1.0))}, default=gx.adam(0.25))
    rates = [metrics.learning_rate for metrics, *_ in measured_step(gx.accumulate(groups, 2))]
    assert jax.tree.map(float, rates) == [{"w": w, "default": 0.25} for w in (0.5, 0.5, 0.25, 0.25)]
    assert [float(metrics.update_norm > 0) for metrics, *_ in measured_step(gx.accumulate(gx.sgd(0.1), 2))] == [
        0,
        1,
        0,
        1,
    ]
    (metrics, *_), *_ = measured_step(gx.scale(-0.1))
    assert metrics.learning_rate is None


BAD = BATCH[0] * np.nan, BATCH[1]
SKIPPING = {
    "the option": (gx.adam(0.1), {"skip_nonfinite": True}),
    "the wrapper": (gx.skip_nonfinite(gx.adam(0.1)), {}),
    "both, in a chain": (gx.chain(gx.scale(1.0), gx.skip_nonfinite(gx.adam(0.1))), {"skip_nonfinite": True}),
    "the wrapper for each leaf": (gx.leafwise(gx.skip_nonfinite(gx.adam(0.1))), {}),
    "the wrapper in accumulate": (gx.accumulate(gx.skip_nonfinite(gx.adam(0.1)), 1), {}),
}


@pytest.mark.parametrize("tx, options", SKIPPING.values(), ids=SKIPPING)
def test_skipped_steps_are_measured(tx, options):
    seen = measured_step(tx, batches=(BATCH, BAD, BAD), **options)
    assert [bool(metrics.skipped) for metrics, *_ in seen] == [False, True, True, False]
    assert [float(metrics.update_norm > 0) for metrics, *_ in seen] == [1, 0, 0, 1]


def test_the_numbers_of_monitors_are_measured():
    tx = gx.chain(gx.monitor("gradient", gx.global_norm), gx.sgd(0.1), gx.monitor_layers())
    tx = gx.chain(gx.monitor("skipped", gx.global_norm), tx)
    for metrics, gradient, change in measured_step(tx):
        assert metrics.skipped is None  # whatever a monitor is called
        np.testing.assert_allclose(metrics.measurements["gradient"], size(gradient), rtol=1e-6)
        assert metrics.measurements["layers"].keys() == {"norm", "ratio"}
        np.testing.assert_allclose(metrics.measurements["layers"]["norm"]["w"], size(change["w"]), rtol=1e-4)


@pytest.mark.parametrize("name", TREES)
@pytest.mark.promotes("its models, as users write them")
def test_trees_of_parameters_are_measured(name):
    step, params = gx.train_step(loss, gx.sgd(0.5), donate=False), TREES[name]
    new, _, metrics = step(params, step.tx.init(params), BATCH)
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(new))
    change = np.sqrt(sum(np.sum(np.abs(np.asarray(y, complex) - np.asarray(x, complex)) ** 2) for x, y in pairs))
    np.testing.assert_allclose(metrics.update_norm, change, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw", "a schedule"])
def test_unmeasured_a_step_is_the_program_of_the_update_alone(name):
    tx, params = SEVERAL[name], PARAMS

    def alone(tx, params, state, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        return *tx.apply(params, state, jax.tree.map(jnp.conj, gradient)), value

    def step(measure, tx, params, state, batch):
        params, state, metrics = gx.train_step(loss, tx, measure=measure)(params, state, batch)
        assert measure or metrics[1:] == (None,) * (len(metrics) - 1)
        return params, state, metrics.loss

    given = tx, params, tx.init(params), BATCH
    bare, off, on = (str(jax.make_jaxpr(f)(*given)) for f in (alone, partial(step, False), partial(step, True)))
    assert off == bare
    assert len(on) > len(bare)


# ---------------------------------------------------------------- memory and compiling
@pytest.mark.parametrize("donate", [True, False])
def test_memory_is_reused_if_donated(donate):
    step, params = gx.train_step(loss, gx.adam(), donate=donate), copy(PARAMS)
    state = step.tx.init(params)
    step(params, state, BATCH)
    assert {x.is_deleted() for x in jax.tree.leaves((params, state))} == {donate}
    assert not any(x.is_deleted() for x in BATCH)


def test_another_learning_rate_does_not_compile_again():
    traces = []
    step = gx.train_step(lambda w, batch: traces.append(1) or jnp.sum(w * batch), gx.sgd(0.1), donate=False)
    ends = [step(jnp.ones(2), step.tx.init(jnp.ones(2)), jnp.ones(2), tx=gx.sgd(rate))[0] for rate in (0.1, 0.2, 0.5)]
    assert len(traces) == 1
    np.testing.assert_allclose([end[0] for end in ends], [0.9, 0.8, 0.5], rtol=1e-6)
    step(jnp.ones(2), gx.adam().init(jnp.ones(2)), jnp.ones(2), tx=gx.adam())
    assert len(traces) == 2


@pytest.mark.parametrize(
    "several",
    [{"params": 0}, {"params": {"w": 0, "b": None}}, {"state": 0}, {"state": gx.State(None, 0)}, {"batch": 0}],  # pyright: ignore[reportArgumentType]
    ids=["params", "a parameter", "state", "slots", "batch"],
)
def test_a_vmapped_step_takes_no_memory(several):
    step, params = gx.train_step(loss, gx.adam(0.1)), copy(PARAMS)
    given = {"params": params, "state": step.tx.init(params), "batch": BATCH}
    axes = dict.fromkeys(given) | several
    twice = jax.vmap(lambda given, i: given, (None, 0), axes)(given, jnp.arange(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of donated buffers too
        got = jax.vmap(lambda given: step(**given)[0], (axes,))(twice)
    jax.block_until_ready(twice)  # which is still there
    expected, _, _ = gx.train_step(loss, step.tx, donate=False)(**given)
    assert_near(jax.tree.map(lambda x: x[1], got), expected)


def test_an_option_unknown_to_the_compiler_is_left_out(monkeypatch):
    assert (step_module.compiler_options() is None) == (jax.default_backend() != "cpu")
    step_module.compiler_options.cache_clear()
    monkeypatch.setattr(step_module, "WIDE", {"xla_cpu_no_such_option": 1})
    assert step_module.compiler_options() is None
    step_module.compiler_options.cache_clear()


def test_inside_scan_and_vmap_a_step_is_a_plain_function():
    step, rates = gx.train_step(loss, gx.adam(0.1)), jnp.array([0.01, 0.1])

    @jax.jit
    def run(tx):
        def body(carry, _):
            params, state, metrics = step(carry[0], carry[1], BATCH, tx=tx)
            return (params, state), metrics.loss

        (params, state), losses = jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), length=4)
        return params, state, losses

    many = jax.vmap(run)(jax.vmap(gx.adam)(rates))
    for i, rate in enumerate(rates.tolist()):
        params, state, losses = plain(gx.adam(rate), PARAMS, BATCH, 4)
        assert_near(jax.tree.map(lambda x, i=i: x[i], many), (params, state, jnp.stack(losses)), 1e-5)


# ---------------------------------------------------------------- the record
def test_the_record_prints_pickles_and_compares():
    step = gx.train_step(loss, gx.sgd(0.1), micro_batches=2)
    assert eval(repr(step), vars(gx) | {"train_step": gx.train_step, "loss": loss}) == step
    before = stepped(step, PARAMS, BATCH, 2)
    again = pickle.loads(pickle.dumps(step))  # after a call, when the compiled program is cached
    assert again == step != gx.train_step(loss, gx.sgd(0.2), micro_batches=2)
    assert hash(again) == hash(step) and repr(again) == repr(step)
    assert_near(stepped(again, PARAMS, BATCH, 2), before, 0)


# ---------------------------------------------------------------- errors
def two(params, batch):
    return loss(params, batch), 0


ERRORS = {
    "no function": (lambda: gx.train_step(3, gx.sgd()), TypeError, "loss must be a function, got 3"),  # pyright: ignore[reportArgumentType]
    "no optimizer": (lambda: gx.train_step(loss, 3), TypeError, "tx must be a transformation"),  # pyright: ignore[reportArgumentType]
    "micro_batches": (lambda: gx.train_step(loss, gx.sgd(), micro_batches=0), ValueError, "1 or more, got 0"),
    "indivisible": ({"micro_batches": 3}, ValueError, r"3 micro-batches do not divide batch\['0'\] of shape \(8, 3\)"),
    "no rows": ({"micro_batches": 2, "batch": ()}, ValueError, r"2 micro-batches need an array in batch, got \(\)"),
    "vector": ({"loss": lambda p, b: p["w"]}, ValueError, r"one real number, got .*3"),
    "complex": ({"loss": lambda p, b: loss(p, b) + 1j}, ValueError, "one real number, got .*complex64"),
    "integer": ({"loss": lambda p, b: 1}, ValueError, r"one real number, got 1"),
    "no number": ({"loss": lambda p, b: None}, ValueError, "one real number, got None"),
    "a pair not asked for": ({"loss": two}, ValueError, r"one real number, got \(.*has_aux=True"),
    "no pair": ({"has_aux": True}, ValueError, r"must return \(value, aux\)"),
    "no pair in a pair": (
        {"loss": lambda p, b, m: two(p, b), "has_aux": True, "has_model_state": True, "model_state": 1},
        ValueError,
        r"\(value, \(model_state, aux\)\)",
    ),
    "key missing": ({"loss": lambda p, b, k: loss(p, b), "has_key": True}, ValueError, "key is missing"),
    "key missing for a piece": ({"tx": gx.add_noise(0.1)}, ValueError, "key is missing"),
    "key not asked for": ({"key": KEY}, ValueError, "unexpected key"),
    "model state missing": (
        {"loss": lambda p, b, m: two(p, b), "has_model_state": True},
        ValueError,
        "model_state is missing",
    ),
    "model state not asked for": ({"model_state": 1}, ValueError, "unexpected model_state"),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.promotes("its models, as users write them")
def test_errors(name):
    call, kind, message = ERRORS[name]

    def run(loss=loss, tx=SEVERAL["sgd"], key=None, model_state=None, batch=BATCH, **options):
        step, params = gx.train_step(loss, tx, **options), copy(PARAMS)
        step(params, tx.init(params), batch, key=key, model_state=model_state)

    with pytest.raises(kind, match=message):
        call() if callable(call) else run(**call)


# What `jax.tree.map` makes of an optimizer is checked where its values are known, also with a state of the old one.
OLD_TX = gx.skip_nonfinite(gx.adam(0.1))
REBUILT = {
    "negative": (ValueError, "scale_by_learning_rate: learning_rate must be a finite number, 0 or more, got -1.0"),
    "nan": (ValueError, "scale_by_ema: decay must be at least 0 and below 1, got nan"),
    "text": (TypeError, "scale_by_ema: decay must be a number, .* got 'text'"),
}
BY = {
    "its own": lambda tx: gx.train_step(loss, tx)(copy(PARAMS), OLD_TX.init(PARAMS), BATCH),
    "given": lambda tx: gx.train_step(loss, OLD_TX)(copy(PARAMS), OLD_TX.init(PARAMS), BATCH, tx=tx),
    "minimize": lambda tx: gx.minimize(lambda p: loss(p, BATCH), PARAMS, tx),
}


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("how", REBUILT)
@pytest.mark.promotes("its models, as users write them")
def test_an_optimizer_that_was_made_invalid(how, by):
    value = {"negative": -1.0, "nan": float("nan")}.get(how, how)
    tx = jax.tree.map(lambda h: value if how != "negative" or h == 0.1 else h, OLD_TX)
    kind, text = REBUILT[how]
    with pytest.raises(kind, match=text):
        BY[by](tx)


@pytest.mark.promotes("its models, as users write them")
def test_a_state_of_a_negative_step():
    state = OLD_TX.init(PARAMS)._replace(step=jnp.int32(-1))
    with pytest.raises(ValueError, match=r"^state.step must be the number of updates, from 0"):
        gx.train_step(loss, OLD_TX)(copy(PARAMS), state, BATCH)


# ---------------------------------------------------------------- parts of different weight
MASK = jnp.asarray([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0]], jnp.float32)
TOKENS = (jnp.asarray(RANDOM.standard_normal((6, 4, 3)), jnp.float32), MASK)
WHOLE = {"w": jnp.array([0.1, 0.2, 0.3]), "b": jnp.array(0.5)}


def of_tokens(params, batch, *more, returns=()):
    """A mean over the tokens that the mask leaves: NaN for a part without any."""
    x, mask = batch
    error = (jnp.tanh(x @ params["w"] + params["b"]) - x[..., 0]) ** 2
    count = mask.sum()
    weighted = jnp.sum(error * mask) / count, count
    beside = {"model_state": more[0] + count if more else None, "aux": count}
    given = tuple(beside[name] for name in returns)
    return (weighted, given[0] if len(given) == 1 else given) if given else weighted


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 6])
@pytest.mark.parametrize("returns", [(), ("aux",), ("model_state",), ("model_state", "aux")])
def test_weighted_parts_give_the_gradient_of_the_whole_batch(returns, micro_batches):
    value, expected = jax.value_and_grad(lambda p: of_tokens(p, TOKENS)[0])(WHOLE)
    asked = {f"has_{name}": True for name in returns} | {"micro_batches": micro_batches, "donate": False}
    step = gx.train_step(partial(of_tokens, returns=returns), gx.sgd(1.0), weighted=True, **asked)
    given = {"model_state": jnp.array(2.0)} if "model_state" in returns else {}
    params, _, metrics = step(WHOLE, step.tx.init(WHOLE), TOKENS, **given)
    assert_near(jax.tree.map(jnp.subtract, WHOLE, params), expected, 1e-6)
    assert_near(metrics.loss, value, 1e-6)
    assert metrics.weight == MASK.sum() == 11
    assert metrics.model_state == (13 if "model_state" in returns else None)
    if "aux" in returns:
        assert metrics.aux.tolist() == MASK.reshape(micro_batches, -1).sum(1).squeeze().tolist()


def test_parts_without_weights_are_another_mean():
    """The mean of the parts' means, which `weighted` corrects."""
    tokens = jax.tree.map(lambda x: x[:2], TOKENS)
    steps = (
        gx.train_step(lambda p, b: of_tokens(p, b)[0], gx.sgd(1.0), micro_batches=2, donate=False),
        gx.train_step(of_tokens, gx.sgd(1.0), micro_batches=2, weighted=True, donate=False),
    )
    apart, whole = (step(WHOLE, step.tx.init(WHOLE), tokens)[2].loss for step in steps)
    assert abs(apart - whole) > 0.01


@pytest.mark.parametrize("name", ["value", "grad_fn", "hvp and key"])
def test_pieces_see_the_weighted_mean(name):
    tx, key = SEVERAL[name], {"key": KEY} if "key" in extra(SEVERAL[name]) else {}
    one, three = (
        stepped(gx.train_step(of_tokens, tx, weighted=True, micro_batches=n), WHOLE, TOKENS, 3, **key) for n in (1, 3)
    )
    assert_near(three, one, 1e-5)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_batch_without_any_weight_makes_a_step_of_0(micro_batches):
    step = gx.train_step(of_tokens, gx.sgd(1.0), weighted=True, micro_batches=micro_batches, donate=False)
    params, _, metrics = step(WHOLE, step.tx.init(WHOLE), (TOKENS[0], 0 * MASK))
    assert_near(params, WHOLE, 0)
    assert metrics.loss == 0 and metrics.weight == 0


def test_accumulate_receives_the_weights_of_the_steps():
    """Six steps of one part, or three of two parts, make the step of the whole batch."""
    expected = jax.grad(lambda p: of_tokens(p, TOKENS)[0])(WHOLE)
    for parts in (1, 2):
        tx = gx.accumulate(gx.chain(gx.monitor("norm", gx.global_norm), gx.sgd(1.0)), 6 // parts, weighted=True)
        step = gx.train_step(of_tokens, tx, weighted=True, micro_batches=parts)
        params, state = copy(WHOLE), tx.init(WHOLE)
        for i in range(0, 6, parts):
            batch = jax.tree.map(partial(jax.lax.slice_in_dim, start_index=i, limit_index=i + parts), TOKENS)
            params, state, _ = step(params, state, batch)
        assert_near(jax.tree.map(jnp.subtract, WHOLE, params), expected, 1e-6)


def test_errors_about_weights():
    for returned, message in (
        (lambda p, b: p["b"], r"must return \(value, weight\), got"),
        (lambda p, b: (p["b"], p["w"]), "the weight must be one real number, got"),
        (lambda p, b: (p["b"], 1j), "the weight must be one real number, got"),
    ):
        step = gx.train_step(returned, gx.sgd(1.0), weighted=True, donate=False)
        with pytest.raises(ValueError, match=f"train_step: the loss {message}|train_step: {message}"):
            step(WHOLE, step.tx.init(WHOLE), TOKENS)
    step = gx.train_step(lambda p, b: p["b"], gx.accumulate(gx.sgd(1.0), 2, weighted=True), donate=False)
    with pytest.raises(ValueError, match="train_step: weight is missing: the optimizer takes one; set weighted=True"):
        step(WHOLE, step.tx.init(WHOLE), TOKENS)
    step = gx.train_step(of_tokens, gx.sgd(1.0), donate=False)
    with pytest.raises(ValueError, match=r"must be one real number, got .*: set has_aux=True, .* or weighted=True"):
        step(WHOLE, step.tx.init(WHOLE), TOKENS)
