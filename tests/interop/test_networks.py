"""gradtx on networks of Flax, Equinox and Haiku: the book's examples, and `train_step` and `fit` with batch norm."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from streams import assert_near

import gradtx as gx
from gradtx.core import leaves_by_path

GUIDE = Path(__file__).parents[2] / "notebooks" / "guides" / "networks.md"
X = jax.random.normal(jax.random.key(0), (64, 2))
Y = jnp.sin(X.sum(1, keepdims=True))
# No bias before batch norm, which takes it away again: its gradient is rounding alone, which Adam magnifies. And few
# steps, because what the two programs round differently grows with each: in Equinox's network to 2e-6 after 40.
STEPS = 10


def need(module: str) -> Any:
    return pytest.importorskip(module, reason="declared: the extra `networks` is not installed")


def linen_with_batch_norm():
    nn = need("flax.linen")
    model = nn.Sequential([nn.Dense(8, use_bias=False), nn.BatchNorm(use_running_average=False), nn.tanh, nn.Dense(1)])
    variables = model.init(jax.random.key(1), X)

    def apply(params, model_state, x):
        return model.apply({"params": params, "batch_stats": model_state}, x, mutable=["batch_stats"])

    def loss(params, batch, model_state):
        prediction, new = apply(params, model_state, batch[0])
        return jnp.mean((prediction - batch[1]) ** 2), new["batch_stats"]

    return variables["params"], variables["batch_stats"], loss


def nnx_with_batch_norm():
    nnx = need("flax.nnx")
    rngs = nnx.Rngs(1)
    layers = (
        nnx.Linear(2, 8, use_bias=False, rngs=rngs),
        nnx.BatchNorm(8, rngs=rngs),
        nnx.tanh,
        nnx.Linear(8, 1, rngs=rngs),
    )
    graph, params, model_state = nnx.split(nnx.Sequential(*layers), nnx.Param, nnx.BatchStat)

    def loss(params, batch, model_state):
        model = nnx.merge(graph, params, model_state, copy=True)
        return jnp.mean((model(batch[0]) - batch[1]) ** 2), nnx.state(model, nnx.BatchStat)

    return params, model_state, loss


def equinox_with_batch_norm():
    eqx = need("equinox")
    keys = jax.random.split(jax.random.key(1))

    def make():
        norm = eqx.nn.BatchNorm(8, axis_name="batch", mode="batch")
        tanh = eqx.nn.Lambda(jnp.tanh)
        return eqx.nn.Sequential(
            [eqx.nn.Linear(2, 8, use_bias=False, key=keys[0]), norm, tanh, eqx.nn.Linear(8, 1, key=keys[1])]
        )

    model, model_state = eqx.nn.make_with_state(make)()
    params, rest = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, batch, model_state):
        model = jax.vmap(eqx.combine(params, rest), axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        prediction, model_state = model(batch[0], model_state)
        return jnp.mean((prediction - batch[1]) ** 2), model_state

    return params, model_state, loss


def haiku_with_batch_norm():
    hk = need("haiku")

    def network(x):
        norm = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)
        return hk.Linear(1)(jnp.tanh(norm(hk.Linear(8, with_bias=False)(x), is_training=True)))

    model = hk.without_apply_rng(hk.transform_with_state(network))

    def loss(params, batch, model_state):
        prediction, model_state = model.apply(params, model_state, batch[0])
        return jnp.mean((prediction - batch[1]) ** 2), model_state

    return *model.init(jax.random.key(1), X), loss


class Library(NamedTuple):
    """How the tests use an example of the book, whose names are `r`."""

    module: str
    weights: str
    biases: str
    params: Callable[[Any], Any]
    state: Callable[[Any], Any]
    predict: Callable[[Any, Any], Any]  # with other parameters
    with_batch_norm: Callable[[], Any]  # parameters, model state and loss


LIBRARIES = {  # in the order of the guide
    "linen": Library(
        "flax.linen",
        "**/kernel",
        "**/bias",
        lambda r: r.state.params,
        lambda r: r.state.opt_state,
        lambda r, params: r.model.apply(params, r.x),
        linen_with_batch_norm,
    ),
    "nnx": Library(
        "flax.nnx",
        "**/kernel",
        "**/bias",
        lambda r: r.nnx.as_pure(r.nnx.state(r.model, r.nnx.Param)),
        lambda r: r.nnx.as_pure(r.optimizer.opt_state),
        lambda r, params: r.nnx.merge(r.nnx.graphdef(r.model), params)(r.x),
        nnx_with_batch_norm,
    ),
    "equinox": Library(
        "equinox",
        "**/weight",
        "**/bias",
        lambda r: r.eqx.filter(r.model, r.eqx.is_inexact_array),
        lambda r: r.state,
        lambda r, params: jax.vmap(r.eqx.combine(params, r.model))(r.x),
        equinox_with_batch_norm,
    ),
    "haiku": Library(
        "haiku",
        "**/w",
        "**/b",
        lambda r: r.params,
        lambda r: r.state,
        lambda r, params: r.model.apply(params, r.x),
        haiku_with_batch_norm,
    ),
}
each_library = pytest.mark.parametrize("library", LIBRARIES)


def example(library: str, steps: int, tx: Any = None) -> Any:
    """The names of the guide's example after some steps, each its last line, with `tx` in place of its optimizer."""
    need(LIBRARIES[library].module)
    preface, *blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    *lines, step = dict(zip(LIBRARIES, blocks))[library].splitlines()
    names: dict[str, Any] = {}
    exec(preface, names)
    names.update({} if tx is None else {"tx": tx})
    exec("\n".join(lines), names)
    for _ in range(steps):
        exec(step, names)
    return SimpleNamespace(**names)


def error(library, r, params=None):
    own = LIBRARIES[library]
    return float(r.error(own.predict(r, own.params(r) if params is None else params)))


@each_library
def test_example_learns(library):
    assert error(library, example(library, 40)) < error(library, example(library, 0)) / 10


@each_library
def test_example_is_optax(library):
    """For SGD: Optax's Adam rounds its bias correction, by 1e-5 at b2 = 0.999."""
    decay = optax.add_decayed_weights(0.01, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params))
    theirs = example(library, 40, optax.chain(decay, optax.sgd(0.1, momentum=0.9)))
    own = example(library, 40, gx.chain(gx.add_weight_decay(0.01, where=gx.is_matrix), gx.sgd(0.1, momentum=0.9)))
    assert_near(*(LIBRARIES[library].params(r) for r in (own, theirs)))


@each_library
def test_patterns_match_the_librarys_names(library):
    own = LIBRARIES[library]
    by_name, by_shape = (own.params(example(library, 5, gx.adamw(0.02, where=w))) for w in (own.weights, gx.is_matrix))
    assert_near(by_name, by_shape)
    frozen = example(library, 5, gx.partition({own.biases: gx.freeze()}, default=gx.adam(0.02)))
    before, after = (leaves_by_path(own.params(r)) for r in (example(library, 0), frozen))
    for path, leaf in after.items():
        assert (leaf == before[path]).all() == (path.rsplit("/")[-1] in ("bias", "b")), path


@each_library
def test_parameters_to_evaluate(library):
    own, tx = LIBRARIES[library], gx.schedule_free(gx.sgd(0.3), b1=0.9)
    r = example(library, 40, tx)
    evaluated = gx.eval_params(tx, own.state(r), own.params(r))
    start, trained, found = error(library, example(library, 0)), error(library, r), error(library, r, evaluated)
    assert found < start / 5 and found != trained


@each_library
@pytest.mark.promotes("its models, as users write them")
def test_fit_and_train_step_with_batch_norm(library):
    params, model_state, loss = LIBRARIES[library].with_batch_norm()
    tx = gx.adam(0.05)
    run = gx.fit(params, tx, loss, (X, Y), steps=STEPS, model_state=model_state, progress=False)
    assert run.history["loss"][-1] < run.history["loss"][0] / 5
    step, state, before = gx.train_step(loss, tx, has_model_state=True, donate=False), tx.init(params), model_state
    for _ in range(STEPS):
        params, state, metrics = step(params, state, (X, Y), model_state=model_state)
        model_state = metrics.model_state
    assert_near(run.params, params)
    assert_near(run.model_state, model_state)
    assert any((x != y).any() for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(model_state)))


def test_nnx_passes_on_extra_arguments():
    nnx = need("flax.nnx")
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(1))
    optimizer = nnx.Optimizer(model, gx.sam(gx.sgd(0.1), radius=0.05), wrt=nnx.Param)
    graph = nnx.graphdef(model)

    def loss(params):
        return jnp.mean((nnx.merge(graph, params)(X) - Y) ** 2)

    @nnx.jit
    def step(model, optimizer):
        gradient = nnx.grad(lambda model: loss(nnx.state(model)))(model)
        optimizer.update(model, gradient, grad_fn=jax.grad(loss))

    before = loss(nnx.state(model))
    for _ in range(20):
        step(model, optimizer)
    assert loss(nnx.state(model)) < before / 2


def test_linen_passes_on_no_extra_arguments():
    need("flax.linen")
    with pytest.raises(ValueError, match="sam needs the argument 'grad_fn'"):
        example("linen", 1, gx.sam(gx.sgd(0.1)))
