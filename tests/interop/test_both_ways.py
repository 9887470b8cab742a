"""gradtx inside Optax, and Optax inside gradtx."""

import jax
import jax.numpy as jnp
import optax
import pytest
from streams import assert_near, follow, params_of, stream

import gradtx as gx

TXS = [gx.adamw(where="**/w"), gx.chain(gx.clip_by_global_norm(1.0), gx.nadam()), gx.sgd()]
each_tx = pytest.mark.parametrize("tx", TXS, ids=["adamw", "clipped nadam", "sgd"])


def tree():
    return {"layer": params_of()}


@each_tx
@pytest.mark.parametrize("wrap", [lambda tx: tx, gx.as_optax], ids=["as it is", "as_optax"])
@pytest.mark.promotes("Optax's arithmetic")
def test_in_optax_chain_and_multi_steps(tx, wrap):
    params = tree()
    gradients = list(stream(params))
    expected, _ = follow(tx, params, gradients)
    got, _ = follow(optax.chain(optax.identity(), wrap(tx)), params, gradients)
    assert_near(got, expected)
    twice = [g for g in gradients for _ in range(2)]
    got, _ = follow(optax.MultiSteps(wrap(tx), 2), params, twice)
    assert_near(got[1::2], expected)
    assert not any(x.any() for x in jax.tree.leaves(got[::2]))


@each_tx
def test_in_optax_partition(tx):
    params = {"on": tree(), "off": jnp.ones(4)}
    gradients = list(stream(params, 3))
    split = optax.partition({"on": tx, "off": optax.set_to_zero()}, {"on": "on", "off": "off"})
    got, _ = follow(split, params, gradients)
    expected, _ = follow(tx, {"on": params["on"]}, [{"on": g["on"]} for g in gradients])
    assert_near([u["on"] for u in got], [u["on"] for u in expected])
    assert not any(u["off"].any() for u in got)


class scale_by_value(gx.PerLeaf):
    """Multiplies by the extra argument `value`."""

    needs = ("value",)

    def update_leaf(self, g, slots, context):
        return g * context.extra["value"], slots


def test_extra_arguments_both_ways():
    params = jnp.ones(3)
    tx = gx.chain(scale_by_value(), gx.scale(2.0))
    inside = optax.chain(optax.identity(), gx.as_optax(tx))
    u, _ = inside.update(params, inside.init(params), params, value=3.0, unknown=1)
    assert jnp.all(u == 6)
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    outside = gx.chain(optax.GradientTransformationExtraArgs(lambda params: (), update), scale_by_value())
    u, _ = outside.update(params, outside.init(params), params, value=3.0, other=1.0)
    assert (u == 3).all() and set(seen) == {"value", "other"}


@pytest.mark.promotes("Optax's arithmetic")
def test_optax_inside_is_optax():
    params = params_of()
    gradients = list(stream(params))
    adam = optax.adam(1e-2)
    tx = gx.chain(optax.clip(0.5), gx.scale(2.0), (adam.init, adam.update))
    alone = optax.chain(optax.clip(0.5), optax.scale(2.0), adam)
    got, state = follow(tx, params, gradients)
    expected, _ = follow(alone, params, gradients)
    assert_near(got, expected)
    jitted, _ = follow(tx, params, gradients, jax.jit(tx.update))
    assert_near(jitted, got)
    assert set(state.slots) == {"pair", "pair_2"}


def test_optax_wrappers_of_gradtx_inside_gradtx():
    params = params_of()
    gradients = list(stream(params))
    tx = gx.chain(gx.clip(0.5), optax.apply_if_finite(gx.as_optax(gx.adam()), 2))
    expected, _ = follow(gx.chain(gx.clip(0.5), gx.adam()), params, gradients)
    assert_near(follow(tx, params, gradients)[0], expected)


# ---------------------------------------------------------------- the extra arguments that Optax's members read
def quartic(params, batch):
    return jnp.mean((batch @ params["w"] - 1) ** 4) + jnp.sum(params["b"] ** 2)


READERS = {
    "value": optax.chain(optax.sgd(0.05), optax.contrib.reduce_on_plateau(factor=0.5, patience=1)),
    "value and params": optax.polyak_sgd(max_learning_rate=0.1),
    "value, grad and value_fn": optax.lbfgs(memory_size=3),
    "a line search": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=15)),
}
PARTS = {"alone": lambda tx: tx, "in a chain": lambda tx: gx.chain(gx.identity(), tx)}


@pytest.mark.parametrize("wrap", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.promotes("Optax's arithmetic")
def test_train_step_and_fit_pass_on_what_optax_reads(reader, wrap):
    params = {"w": jnp.full((2, 1), 0.1), "b": jnp.ones(2)}
    batch = jax.random.normal(jax.random.key(0), (8, 2))
    expected, state = params, reader.init(params)
    for _ in range(3):
        value, gradient = jax.value_and_grad(quartic)(expected, batch)
        more = {"value": value, "grad": gradient, "value_fn": lambda p: quartic(p, batch)}
        updates, state = reader.update(gradient, state, expected, **more)
        expected = optax.apply_updates(expected, updates)
    step = gx.train_step(quartic, wrap(reader), donate=False)
    ours, state = params, step.tx.init(params)
    for _ in range(3):
        ours, state, _ = step(ours, state, batch)
    assert_near(ours, expected)
    assert_near(gx.fit(params, wrap(reader), quartic, batch, steps=3, progress=False).params, expected)
    split = gx.train_step(quartic, wrap(reader), micro_batches=2, donate=False)
    assert_near(split(params, split.tx.init(params), batch)[0], step(params, step.tx.init(params), batch)[0])


def test_a_pair_in_train_step_receives_the_arguments_in_its_signature():
    seen = {}

    def update(updates, state, params, *, value, key, grad_fn):
        seen.update(value=value, key=key, gradient=grad_fn(params))
        return updates, state

    step = gx.train_step(lambda w, batch: jnp.sum(w * batch), (lambda params: (), update), donate=False)
    params = jnp.zeros(2)
    step(params, step.tx.init(params), jnp.ones(2), key=jax.random.key(0))
    assert seen.keys() == {"value", "key", "gradient"} and seen["gradient"].shape == (2,)
    with pytest.raises(ValueError, match="key is missing"):
        step(params, step.tx.init(params), jnp.ones(2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
@pytest.mark.promotes("Optax's arithmetic")
def test_a_line_search_of_optax_in_another_dtype(dtype):
    params = {"w": jnp.full((2, 1), 0.1, dtype), "b": jnp.ones(2, dtype)}
    loss = lambda params, batch: jnp.real(quartic(jax.tree.map(jnp.abs, params), jnp.abs(batch)))  # noqa: E731
    step = gx.train_step(loss, optax.lbfgs(memory_size=2), donate=False)
    state, batch = step.tx.init(params), jnp.ones((4, 2), dtype)
    losses = []
    for _ in range(3):
        params, state, metrics = step(params, state, batch)
        losses.append(float(metrics.loss))
    assert losses[-1] < losses[0]
