"""States of Optax's optimizers, live and in files: gradtx makes the next 100 updates that Optax makes, and back.

In float64: Optax computes its bias corrections in the dtype of the parameters, in which 1 − β₂ᵗ cancels.
"""

import pickle
import re
import subprocess
import sys
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize, to_state_dict
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gradtx as gx
from gradtx.core import leaves_by_path, walk

pytestmark = pytest.mark.promotes("Optax's arithmetic")
random = np.random.default_rng(7)
START = {name: random.standard_normal(shape) for name, shape in {"b": (3,), "k": (3, 5), "w": (4, 3)}.items()}
GRADIENTS = {
    name: random.standard_normal((105, *x.shape)) * np.logspace(-3, 1, x.shape[-1]) for name, x in START.items()
}
RATE = gx.schedules.cosine(0.1, 300)
WHERE = {"b": False, "k": True, "w": True}


def rate(step):
    return 0.05 * (1 + jnp.cos(jnp.pi * step / 300))


def muon(**arguments):
    return optax.contrib.muon(0.02, eps=0.0, adam_learning_rate=0.003, **arguments)


def at_odd_steps(step: Any, **extra: Any) -> Any:
    return step % 2 == 1


PAIRS: dict[str, tuple[Any, Any]] = {
    "adam": (gx.adam(0.01), optax.adam(0.01)),
    "adam, scheduled": (gx.adam(RATE), optax.adam(rate)),
    "adamw": (gx.adamw(0.01, weight_decay=0.1, where=WHERE), optax.adamw(0.01, weight_decay=0.1, mask=WHERE)),
    "nadam": (gx.nadam(0.01), optax.nadam(0.01)),
    "radam": (gx.radam(0.01), optax.radam(0.01)),
    "amsgrad": (gx.amsgrad(0.01), optax.amsgrad(0.01)),
    "adamax": (gx.adamax(0.01), optax.adamax(0.01)),
    "adabelief": (
        gx.adabelief(0.01, 0.8, 0.99, 1e-6, eps_in_average=1e-4),
        optax.adabelief(0.01, 0.8, 0.99, 1e-6, eps_root=1e-6),
    ),
    "yogi": (gx.yogi(0.01), optax.yogi(0.01)),
    "lamb": (gx.lamb(0.01, weight_decay=0.1), optax.lamb(0.01, weight_decay=0.1)),
    "sgd": (gx.sgd(0.1), optax.sgd(0.1)),
    "sgd with momentum": (gx.sgd(0.1, 0.9), optax.sgd(0.1, 0.9)),
    "sgd with momentum, scheduled": (gx.sgd(RATE, 0.9, True), optax.sgd(rate, 0.9, True)),
    "an average": (gx.averaged_momentum(0.1), optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1))),
    "lion": (gx.lion(0.01), optax.lion(0.01)),
    "adafactor": (gx.adafactor(0.01, min_size=3), optax.adafactor(0.01, min_dim_size_to_factor=3)),
    "adafactor, whole": (gx.adafactor(0.01, min_size=128), optax.adafactor(0.01)),
    "rmsprop": (gx.rmsprop(0.01, eps_in_sqrt=True), optax.rmsprop(0.01)),
    "rmsprop, corrected": (
        gx.rmsprop(0.01, eps_in_sqrt=True, corrected=True),
        optax.rmsprop(0.01, bias_correction=True),
    ),
    "rmsprop, centered": (
        gx.rmsprop(0.01, eps=1e-4, eps_in_sqrt=True, centered=True),
        optax.rmsprop(0.01, eps=1e-4, centered=True),
    ),
    "rmsprop, momentum": (gx.rmsprop(0.01, eps_in_sqrt=True, momentum=0.9), optax.rmsprop(0.01, momentum=0.9)),
    "rmsprop, momentum, scheduled": (
        gx.chain(gx.precondition(gx.identity(), gx.rms(0.9, False), 1e-8, True), gx.rate_inside_momentum(RATE)),
        optax.rmsprop(rate, momentum=0.9),
    ),
    "adagrad": (gx.adagrad(0.1, eps=1e-7, eps_in_sqrt=True), optax.adagrad(0.1)),
    "adadelta": (gx.adadelta(0.5, 0.95, 1e-5), optax.adadelta(0.5, 0.95, 1e-5)),
    "muon": (gx.muon(corrected=True, default=gx.nadam(0.003, eps=0.0)), muon()),
    "muon without Nesterov's step": (gx.muon(nesterov=False, default=gx.adam(0.003, eps=0.0)), muon(nesterov=False)),
    "chains in chains": (
        gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(RATE)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.chain(optax.chain(optax.adamw(rate, weight_decay=0.01)))),
    ),
    "two of a kind": (gx.chain(gx.adam(0.1), gx.adam(0.1)), optax.chain(optax.adam(0.1), optax.adam(0.1))),
    "a named chain": (
        gx.sgd(RATE, 0.9),
        optax.named_chain(("trace", optax.trace(0.9)), ("count", optax.scale_by_learning_rate(rate))),
    ),
    "inject_hyperparams": (gx.adam(RATE), optax.inject_hyperparams(optax.adam)(learning_rate=rate)),
    "inject_hyperparams of numbers": (gx.adam(0.01), optax.inject_hyperparams(optax.adam)(learning_rate=0.01)),
    "groups": (
        gx.partition({"b": gx.sgd(RATE, 0.9)}, default=gx.adam(0.01)),
        optax.partition({"x": optax.sgd(rate, 0.9), "y": optax.adam(0.01)}, {"b": "x", "w": "y", "k": "y"}),
    ),
    "masks": (
        gx.chain(gx.masked(gx.adam(0.1), "w", "identity"), gx.masked(gx.adam(0.1), "k", "identity")),
        optax.chain(*(optax.masked(optax.adam(0.1), {x: x == name for x in START}) for name in "wk")),
    ),
    "MultiSteps": (gx.accumulate(gx.adam(RATE), 3), optax.MultiSteps(optax.adam(rate), 3)),
    "MultiSteps of sums": (
        gx.accumulate(gx.sgd(RATE, 0.9), 3, mean=False),
        optax.MultiSteps(optax.sgd(rate, 0.9), 3, use_grad_mean=False),
    ),
    "MultiSteps of a number that grows": (
        gx.accumulate(gx.adam(RATE), gx.schedules.piecewise_constant((1, 2), (2,))),
        optax.MultiSteps(optax.adam(rate), lambda step: jnp.where(jnp.asarray(step) < 2, 1, 2)),
    ),
    "conditionally_transform": (
        gx.chain(gx.apply_if(gx.adam(RATE), at_odd_steps), gx.scale(gx.schedules.linear(1.0, 0.5, 200))),
        optax.chain(
            optax.conditionally_transform(optax.adam(rate), at_odd_steps),
            optax.scale_by_schedule(optax.linear_schedule(1.0, 0.5, 200)),
        ),
    ),
    "conditionally_mask": (
        gx.apply_if(gx.sgd(RATE, 0.9), at_odd_steps, otherwise="zero"),
        optax.conditionally_mask(optax.sgd(rate, 0.9), at_odd_steps),
    ),
    "apply_if_finite": (gx.skip_nonfinite(gx.adam(RATE)), optax.apply_if_finite(optax.adam(rate), 5)),
    "both": (
        gx.skip_nonfinite(gx.accumulate(gx.adam(RATE), 2)),
        optax.apply_if_finite(optax.MultiSteps(optax.adam(rate), 2).gradient_transformation(), 5),
    ),
}
COUNTLESS = {"sgd", "sgd with momentum", "rmsprop", "rmsprop, centered", "rmsprop, momentum", "adagrad"}
COUNTLESS |= {"adadelta"}  # Optax counts nothing, and gradtx needs no count
each = pytest.mark.parametrize("name", PAIRS)


def params_of(x=jnp.asarray):
    return jax.tree.map(x, START)


def run(tx: Any, params: Any, state: Any, first: int, last: int) -> Any:
    """The updates at some of the gradients, the parameters and the state after them."""

    def step(carry, g):
        params, state = carry
        u, state = tx.update(g, state, params)
        return (jax.tree.map(jnp.add, params, u), state), u

    gradients = jax.tree.map(lambda g: jnp.asarray(g[first:last]), GRADIENTS)
    (params, state), updates = jax.jit(lambda carry, gs: jax.lax.scan(step, carry, gs))((params, state), gradients)
    return updates, params, state


def worst(updates, expected):
    """The largest error of any update, relative to the largest coordinate of that update of that leaf."""
    errors = []
    for x, y in zip(jax.tree.leaves(updates), jax.tree.leaves(expected)):
        axes = tuple(range(1, x.ndim))
        size = np.max(np.abs(y), axis=axes)
        errors.append(np.max(np.max(np.abs(np.asarray(x) - y), axis=axes) / np.where(size > 0, size, 1)))
    return max(errors)


@each
def test_the_next_updates_are_optaxs(name, x64):
    tx, theirs = PAIRS[name]
    _, params, saved = run(theirs, params_of(), theirs.init(params_of()), 0, 5)
    state, report = gx.from_optax(tx, params, saved)
    fresh = [path for path in report.fresh if "/accumulate/lost/" not in path]  # rounding errors, which Optax drops
    assert fresh == (["step"] if name in COUNTLESS else [])
    assert all(re.search("hyperparams/|ns_coeffs|/v(_row|_col)?/|last_finite", path) for path in report.dropped)
    assert worst(run(tx, params, state, 5, 105)[0], run(theirs, params, saved, 5, 105)[0]) < 1e-6


@each
def test_and_back(name, x64):
    tx, theirs = PAIRS[name]
    _, params, state = run(tx, params_of(), tx.init(params_of()), 0, 5)
    saved, report = gx.to_optax(tx, params, state, theirs)
    assert jax.tree.structure(saved) == jax.tree.structure(theirs.init(params))
    assert (
        all(re.search("hyperparams/|ns_coeffs|/v(_row|_col)?/", path) for path in report.fresh) and not report.dropped
    )
    assert worst(run(theirs, params, saved, 5, 105)[0], run(tx, params, state, 5, 105)[0]) < 1e-6


# ---------------------------------------------------------------- line searches
def convex(params):
    """A sum of convex functions of all parameters, on which steps of L-BFGS at a rate of 1 decrease the loss."""
    return sum(jnp.sum(jnp.cosh(x - i)) + jnp.mean(x) ** 2 for i, x in enumerate(jax.tree.leaves(params)))


def descend(tx: Any, params: Any, state: Any, steps: int) -> Any:
    """The updates, the parameters and the state after some steps down the convex function."""
    ours, updates = isinstance(tx, gx.Transformation), []
    reads = {name for piece in walk(tx) for name in piece.reads()} if ours else {"value", "value_fn", "grad"}
    tx = tx if ours else optax.with_extra_args_support(tx)
    for _ in range(steps):
        value, grad = jax.value_and_grad(convex)(params)
        more = {"value": value, "value_fn": convex, "grad": grad}
        u, state = tx.update(grad, state, params, **{name: x for name, x in more.items() if name in reads})
        updates.append(u)
        params = jax.tree.map(jnp.add, params, u)
    return updates and jax.tree.map(lambda *xs: jnp.stack(xs), *updates), params, state


SEARCHES: dict[str, tuple[Any, Any]] = {
    "lbfgs": (gx.lbfgs(4), optax.lbfgs(memory_size=4)),
    "lbfgs, without a search": (
        gx.chain(gx.scale_by_lbfgs(3), gx.scale(-0.5)),
        optax.chain(optax.scale_by_lbfgs(3), optax.scale(-0.5)),
    ),
    "lbfgs, backtracking": (
        gx.backtracking(gx.scale_by_lbfgs(3), grow=None),
        optax.chain(
            optax.scale_by_lbfgs(3),
            optax.scale(-1.0),
            optax.scale_by_backtracking_linesearch(20, increase_factor=jnp.inf, store_grad=True),
        ),
    ),
    "momentum, backtracking": (
        gx.backtracking(gx.scale_by_ema(0.5), max_rate=0.02, grow=None),
        optax.chain(
            optax.ema(0.5, debias=False),
            optax.scale(-1.0),
            optax.scale_by_backtracking_linesearch(20, max_learning_rate=0.02, increase_factor=jnp.inf),
        ),
    ),
}


@pytest.mark.parametrize("steps", [0, 1, 3, 7])
@pytest.mark.parametrize("name", SEARCHES)
def test_line_searches_both_ways(name, steps, x64):
    """The next updates are Optax's, while both searches accept their first trial; and back to the same state."""
    tx, theirs = SEARCHES[name]
    _, params, saved = descend(theirs, params_of(), theirs.init(params_of()), steps)
    state, report = gx.from_optax(tx, params, saved)
    assert all(re.search("failures|evaluated/|^step$|evaluations", path) for path in report.fresh)
    assert all(re.search("info/|2/value", path) for path in report.dropped)
    assert worst(descend(tx, params, state, 5)[0], descend(theirs, params, saved, 5)[0]) < 1e-6
    again, report = gx.to_optax(tx, params, state, theirs)
    assert not report.dropped or all(re.search("/evaluated/|/measured/", path) for path in report.dropped)
    for path, x in leaves_by_path(saved).items():
        if not re.search("info/|2/value", path):
            assert np.array_equal(x, leaves_by_path(again)[path]), path


@pytest.mark.parametrize("name", SEARCHES)
def test_line_searches_back_from_gradtx(name, x64):
    tx, theirs = SEARCHES[name]
    _, params, state = descend(tx, params_of(), tx.init(params_of()), 6)
    saved, _ = gx.to_optax(tx, params, state, theirs)
    assert worst(descend(theirs, params, saved, 5)[0], descend(tx, params, state, 5)[0]) < 1e-6


def test_the_handed_on_value_is_known_or_not(x64):
    tx, theirs, params = gx.lbfgs(2), optax.lbfgs(memory_size=2), params_of()
    fresh, _ = gx.from_optax(tx, params, theirs.init(params))
    expected = leaves_by_path(tx.init(params)) | {"slots/zoom/measured/step size": 1.0}  # where Optax's searches begin
    assert jax.tree.all(jax.tree.map(jnp.array_equal, leaves_by_path(fresh), expected))
    assert jnp.isinf(gx.to_optax(tx, params, fresh, theirs)[0][2].value)
    _, params, saved = descend(theirs, params, theirs.init(params), 3)
    value, gradient = gx.value_and_grad_from_state(convex)(params, state=gx.from_optax(tx, params, saved)[0])
    assert value == saved[2].value and jax.tree.all(jax.tree.map(jnp.array_equal, gradient, saved[2].grad))


def test_pairs_that_were_left_out(x64):
    """Where ours has fewer pairs than updates, the newest pair stands where Optax would have written it."""
    tx: gx.Transformation = gx.scale_by_lbfgs(3, min_cosine=0.6)
    theirs: Any = optax.scale_by_lbfgs(3)
    x, y, z, w = jnp.eye(4)
    points, state = (
        jnp.cumsum(jnp.array([y, y, x + 0.2 * y, -0.5 * y, x, x + 0.2 * y, 0.3 * z, 0.7 * w]), 0),
        tx.init(x),
    )
    *before, last = points * jnp.array([1.0, 30.0, 5.0, 2.0])
    for x, g in zip(points, before):
        _, state = tx.update(g, state, x)
    slots = state.slots["scale_by_lbfgs"]
    assert slots["age"] == 7 and slots["next"] == (7 - 1 - 2) % 3  # two pairs had a cosine of 0.35
    saved, report = gx.to_optax(tx, points[0], state, theirs)
    assert not report.dropped and not report.fresh
    assert jnp.allclose(theirs.update(last, saved, points[-1])[0], tx.update(last, state, points[-1])[0], rtol=1e-12)


# ---------------------------------------------------------------- files
def by_pickle(state, path):
    return pickle.loads(pickle.dumps(state))


def by_msgpack(state, path):
    return msgpack_restore(msgpack_serialize(to_state_dict(state)))


def by_npz(state, path):
    np.savez(path / "state.npz", **leaves_by_path(state))
    return np.load(path / "state.npz")


def by_orbax(state, path):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path / "state", state)
        return checkpointer.restore(path / "state")


FORMS = {"pickle": by_pickle, "msgpack": by_msgpack, "npz": by_npz, "orbax": by_orbax}


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("form", FORMS)
def test_the_forms_of_files(form, tmp_path):
    for i, (name, (tx, theirs)) in enumerate(PAIRS.items()):
        if name == "a named chain" and form == "msgpack":  # Flax writes no OrderedDict
            continue
        _, params, saved = run(theirs, params_of(jnp.float32), theirs.init(params_of(jnp.float32)), 0, 4)
        (place := tmp_path / str(i)).mkdir()
        expected, live = gx.from_optax(tx, params, saved)
        state, report = gx.from_optax(tx, params, FORMS[form](saved, place))
        assert jax.tree.all(jax.tree.map(jnp.array_equal, state, expected)), name
        assert report.kept == live.kept


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("form", FORMS)
def test_line_searches_in_files(form, tmp_path):
    for i, (tx, theirs) in enumerate(SEARCHES.values()):
        _, params, saved = descend(theirs, params_of(jnp.float32), theirs.init(params_of(jnp.float32)), 3)
        (place := tmp_path / str(i)).mkdir()
        expected, live = gx.from_optax(tx, params, saved)
        state, report = gx.from_optax(tx, params, FORMS[form](saved, place))
        assert jax.tree.all(jax.tree.map(jnp.array_equal, state, expected)) and report.kept == live.kept


def test_a_file_needs_no_optax(tmp_path):
    theirs: Any = optax.adamw(1e-3)
    _, saved = theirs.update({"w": jnp.ones(2)}, theirs.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)})
    np.savez(tmp_path / "state.npz", **leaves_by_path(saved))
    code = (
        "import sys; sys.modules['optax'] = None\n"
        "import gradtx as gx, jax.numpy as jnp, numpy as np\n"
        f"saved = np.load({str(tmp_path / 'state.npz')!r})\n"
        "state, _ = gx.from_optax(gx.adamw(), {'w': jnp.ones(2)}, saved)\n"
        "assert state.step == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Block(NamedTuple):
    kernel: Any
    gains: tuple[Any, ...]


TREES: dict[str, Any] = {
    "lists, named tuples and None": {"layers": [Block(jnp.ones((2, 3)), (jnp.ones(3), None)), {"b": jnp.ones(3)}]},
    "one array": jnp.ones(3),
    "names with a slash": {"mlp/~/linear": {"w": jnp.ones(3)}},
    "the names of fields": {"mu": {"count": jnp.ones(2)}, "age": jnp.ones(()), "mean": jnp.ones(3)},
    "boxes of Flax": {"dense": {"kernel": nn.Partitioned(jnp.ones((2, 3)), ("x", "y")), "bias": jnp.ones(3)}},
    "complex": {"z": jnp.ones(2, jnp.complex64)},
}


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("params", TREES.values(), ids=TREES)
def test_parameters_of_any_structure(params, form, tmp_path):
    tx, theirs = gx.sgd(RATE, 0.9), optax.sgd(rate, 0.9)
    saved: Any = theirs.update(params, theirs.init(params))[1]
    state, report = gx.from_optax(tx, params, FORMS[form](saved, tmp_path))
    _, expected = tx.update(params, tx.init(params))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state, expected))
    assert not report.fresh and not report.dropped
    back, _ = gx.to_optax(tx, params, state, theirs)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, back, saved))


# ---------------------------------------------------------------- clocks
SMALL = {"w": jnp.ones(3)}
ONES = {"w": jnp.ones(3)}


def after(tx: Any, steps: int, gradients: Any = ONES) -> Any:
    state = tx.init(SMALL)
    for _ in range(steps):
        _, state = tx.update(gradients, state, SMALL)
    return state


def test_wrappers_that_only_one_of_the_two_has():
    state, report = gx.from_optax(gx.adam(RATE), SMALL, after(optax.MultiSteps(optax.adam(rate), 2), 6))
    assert state.step == 3 and state.slots["precondition"]["by"]["bias_correction"]["age"] == 3
    assert "acc_grads/w" in report.dropped  # of no gradient
    with pytest.raises(ValueError, match="expected only values that have a slot, got 'acc_grads/w'"):
        gx.from_optax(gx.adam(RATE), SMALL, after(optax.MultiSteps(optax.adam(rate), 2), 5))
    state, report = gx.from_optax(gx.accumulate(gx.adam(RATE), 2), SMALL, after(optax.adam(rate), 3), strict=False)
    assert state.slots["accumulate"]["step"] == 3 and state.slots["accumulate"]["count"] == 0
    assert report.fresh == ["slots/accumulate/count", "slots/accumulate/sum/w"]
    _, report = gx.from_optax(gx.accumulate(gx.adam(RATE), 9), SMALL, after(optax.MultiSteps(optax.adam(rate), 9), 5))
    assert all(path.startswith("slots/accumulate/lost") for path in report.fresh) and not report.dropped
    theirs = optax.MultiSteps(optax.apply_if_finite(optax.adam(rate), 5), 2)
    ours = gx.accumulate(gx.skip_nonfinite(gx.adam(RATE)), 2)
    state, report = gx.from_optax(ours, SMALL, saved := after(theirs, 3))
    assert report.fresh == ["slots/accumulate/value"]  # of a guard, which needs no loss
    assert jax.tree.all(jax.tree.map(jnp.array_equal, gx.to_optax(ours, SMALL, state, theirs)[0], saved))
    saved, report = gx.to_optax(gx.adam(RATE), SMALL, after(gx.adam(RATE), 3), optax.MultiSteps(optax.adam(rate), 2))
    assert saved.gradient_step == saved.inner_opt_state[0].count == saved.inner_opt_state[1].count == 3


def test_skipped_updates():
    tx, theirs = gx.skip_nonfinite(gx.adam(RATE)), optax.apply_if_finite(optax.adam(rate), 5)
    saved = after(theirs, 3)
    for _ in range(2):
        _, saved = theirs.update({"w": jnp.full(3, jnp.nan)}, saved, SMALL)
    state, _ = gx.from_optax(tx, SMALL, saved)
    assert state.step == 5 and state.slots["skip_nonfinite"]["step"] == 3
    assert gx.measurements(state) == {"skipped": 2, "skipped in a row": 2}
    assert jax.tree.all(jax.tree.map(jnp.array_equal, gx.to_optax(tx, SMALL, state, theirs)[0], saved))


def test_an_average_that_is_younger_than_the_schedule():
    theirs: Any = optax.adam(rate)
    saved = after(theirs, 5)
    saved = (after(optax.adam(0.1), 0)[0], saved[1])
    state, _ = gx.from_optax(gx.adam(RATE), SMALL, saved)
    assert state.step == 5 and state.slots["precondition"]["by"]["bias_correction"]["age"] == 0
    back, _ = gx.to_optax(gx.adam(RATE), SMALL, state, theirs)
    assert back[0].count == 0 and back[1].count == 5


def test_a_decay_that_is_a_schedule(x64):
    decay = gx.schedules.linear(0.9, 0.99, 10)
    tx = gx.adam(0.1, b1=decay)
    (expected,) = (
        x
        for path, x in leaves_by_path(after(tx, 7)).items()
        if path.endswith("direction/bias_correction/mean_log_decay")
    )
    state, _ = gx.from_optax(tx, SMALL, after(optax.adam(0.1), 7))
    np.testing.assert_allclose(
        state.slots["precondition"]["direction"]["bias_correction"]["mean_log_decay"], expected, 1e-6
    )


def test_the_report_is_a_table():
    _, report = gx.from_optax(gx.sgd(RATE, 0.9), SMALL, after(optax.sgd(rate, 0.9), 2))
    assert str(report).splitlines() == [
        "slot                         saved as  kept",
        "step                         1/count   1",
        "slots/add_momentum/velocity  0/trace   1",
    ]


def test_both_ways_within_16_bits():
    theirs: Any = optax.adam(0.1, mu_dtype=jnp.bfloat16)
    saved = after(theirs, 3)
    state, _ = gx.from_optax(gx.adam(0.1), SMALL, saved)
    assert state.slots["precondition"]["direction"]["scale_by_ema"]["mean"]["w"].dtype == jnp.float32
    assert jax.tree.all(jax.tree.map(jnp.array_equal, gx.to_optax(gx.adam(0.1), SMALL, state, theirs)[0], saved))


def test_it_is_placed_as_by_init_and_shares_no_memory():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    params = {"w": jax.device_put(jnp.ones((8, 2)), NamedSharding(mesh, PartitionSpec("x"))), "b": jnp.ones(2)}
    tx, theirs = gx.sgd(RATE, 0.9), optax.sgd(rate, 0.9)
    saved: Any = theirs.update(params, theirs.init(params))[1]
    state, _ = gx.from_optax(tx, params, jax.tree.map(np.asarray, saved))
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(tx.init(params))):
        assert x.sharding == y.sharding
    live, _ = gx.from_optax(tx, params, saved)
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(live)
    assert saved[0].trace["w"].sum() == 16


# ---------------------------------------------------------------- errors
ADAM, MOMENTUM = after(optax.adam(0.1), 2), after(optax.sgd(0.1, 0.9), 2)
WRONG: dict[str, Any] = {  # tx, saved, message
    "another optimizer": (
        *(gx.sgd(0.1, 0.9), ADAM),
        "expected a value for 'slots/add_momentum/velocity/w', got '0/mu/w', '0/nu/w':\n(.*\n)*Pass the optimizer",
    ),
    "the other way": (
        gx.adam(),
        MOMENTUM,
        r"expected a value for 'slots/precondition/by/scale_by_ema/mean/w', .*, got '0/trace/w'",
    ),
    "without its momentum": (gx.sgd(0.1), MOMENTUM, "expected only values that have a slot, got '0/trace/w'"),
    "no decay for its count": (
        gx.chain(gx.adam(), gx.scale_by_ema()),
        ADAM,
        "expected a value for 'slots/scale_by_ema/mean/w', got none",
    ),
    "a schedule without a count": (
        gx.sgd(RATE, 0.9),
        MOMENTUM,
        r"value for 'step', got none:\n(.*\n)*.*state._replace\(step=…\)",
    ),
    "a shape": (
        *(gx.adam(), optax.adam(0.1).init({"w": jnp.ones((3, 1))})),
        r"'0/nu/w' for 'slots/precondition/by/scale_by_ema/mean/w': expected float32\[3\], got float32\[3,1\]",
    ),
    "a rate in the momentum": (
        *(gx.rmsprop(RATE, momentum=0.9), optax.rmsprop(0.1, momentum=0.9).init(SMALL)),
        "'2/trace/w' for '.*velocity/w': expected a constant learning rate above 0, got cosine.*: put scale",
    ),
    "an ensemble": (
        *(gx.adam(), jax.vmap(optax.adam(0.1).init)({"w": jnp.ones((2, 3))})),
        r"'0/count': expected a number of updates, got int32\[2\]: convert each member",
    ),
    "a count below 0": (
        *(gx.adam(), {"0": {**ADAM[0]._asdict(), "count": np.int32(-1)}}),
        "'0/count': expected a number of updates, got -1",
    ),
    "an unknown state": (gx.adam(), optax.contrib.prodigy().init(SMALL), "expected a value for .*, got '.*exp_avg/w'"),
    "another tree": (gx.adam(), {"params": {"w": np.ones(3)}}, "expected a value for .*, got 'params/w'"),
    "a donated array": (gx.sgd(0.1, 0.9), "donated", "'0/trace/w' for '.*' was donated to an earlier step"),
}


@pytest.mark.parametrize("tx, saved, message", WRONG.values(), ids=WRONG)
def test_an_error_names_what_does_not_fit(tx, saved, message):
    if isinstance(saved, str):
        saved = after(optax.sgd(0.1, 0.9), 1)
        saved[0].trace["w"].delete()
    with pytest.raises(ValueError, match=r"^from_optax: ") as error:
        gx.from_optax(tx, SMALL, saved)
    assert re.search(message, str(error.value)), str(error.value)


def test_errors_of_to_optax():
    state = after(gx.adam(), 2)
    with pytest.raises(ValueError, match=r"^to_optax: .*expected a value for '0/trace/w', got 'slots"):
        gx.to_optax(gx.adam(), SMALL, state, optax.sgd(0.1, 0.9))
    with pytest.raises(TypeError, match=r"^to_optax: optax_tx must be a transformation of Optax, got 3"):
        gx.to_optax(gx.adam(), SMALL, state, 3)
    with pytest.raises(TypeError, match=r"^to_optax: tx must be a transformation"):
        gx.to_optax(3, SMALL, state, optax.adam(0.1))
    with pytest.raises((TypeError, ValueError), match="state"):
        gx.to_optax(gx.adam(), SMALL, ADAM, optax.adam(0.1))
    with pytest.raises(
        TypeError, match=r"^from_optax: expected a state of Optax, got a State of gradtx: use gx.restore"
    ):
        gx.from_optax(gx.adam(), SMALL, state)


def test_within_a_compiled_function():
    state = after(gx.adam(), 1)
    with pytest.raises(TypeError, match=r"^from_optax: '0/count' is traced: convert the state outside of jax.jit"):
        jax.jit(lambda saved: gx.from_optax(gx.adam(), SMALL, saved)[0])(ADAM)
    with pytest.raises(TypeError, match=r"^to_optax: '.*' is traced: convert the state outside of jax.jit"):
        jax.jit(lambda state: gx.to_optax(gx.adam(), SMALL, state, optax.adam(0.1))[0])(state)


def test_without_strict_it_keeps_what_fits():
    state, report = gx.from_optax(gx.chain(gx.adam(), gx.scale_by_ema()), SMALL, ADAM, strict=False)
    assert report.fresh == ["slots/scale_by_ema/mean/w"] and state.step == 2
    state, report = gx.from_optax(gx.rmsprop(), SMALL, ADAM, strict=False)
    assert report.dropped == ["0/mu/w"] and not report.fresh
    saved, report = gx.to_optax(gx.adam(), SMALL, after(gx.adam(), 2), optax.sgd(rate, 0.9), strict=False)
    assert report.fresh == ["0/trace/w"] and saved[1].count == 2
