"""Distances, models of the loss, and `leafwise`."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import reference_of
from references import gradient_stream, reference_steps, steps_of, worst_error
from streams import assert_near, extra, follow, params_of, stream

import gradtx as gx

MEASURING = {
    "scale_by_total_norm": gx.scale_by_total_norm(),
    "dog_distance": gx.dog_distance(gx.scale_by_total_norm(), initial_value=0.1, relative=False),
    "prodigy_distance": gx.prodigy_distance(gx.momentum(), by=gx.rms()),
    "dadapt_distance": gx.dadapt_distance(gx.momentum(), by=gx.rms()),
    "momo_step": gx.momo_step(gx.momentum(), by=gx.rms()),
    "polyak_step": gx.polyak_step(),
    "mechanic": gx.mechanic(gx.sgd(0.1), tuners=2, initial_value=0.1),
}
each = pytest.mark.parametrize("tx", MEASURING.values(), ids=MEASURING)


def moving(tx, params, gradients):
    """The updates along a run in which they move the parameters."""
    state, out = tx.init(params), []
    for g in gradients:
        u, state = tx.update(g, state, params, **extra(tx))
        params = gx.apply_updates(params, jax.tree.map(lambda x: -10 * x, u))
        out.append(u)
    return out


@each
def test_a_leaf_without_gradients_is_not_counted(tx):
    params = params_of()
    gradients = list(stream(params))
    with_none = moving(tx, params, [{**g, "b": None} for g in gradients])
    alone = moving(tx, {"w": params["w"]}, [{"w": g["w"]} for g in gradients])
    assert_near([u["w"] for u in with_none], [u["w"] for u in alone])


@each
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_scale_of_the_gradients_does_not_matter(tx, size):
    """With a loss of the same scale, and denominators that are not squares, which would overflow."""
    by = {"by": gx.abs()} if hasattr(tx, "by") else {}
    tx, params = dataclasses.replace(tx, **by), params_of()
    zeros = jax.tree.map(jnp.zeros_like, params)
    for g in stream(params, 2):
        large = jax.tree.map(lambda x: size * x, g)
        u, state = tx.update(large, tx.init(zeros), zeros, **({"value": size} if "value" in tx.needs else {}))
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((u, state)))
        assert any(bool((x != 0).any()) for x in jax.tree.leaves(u))


def test_polyaks_step_is_exact_where_squares_are_not():
    g = jnp.array([3e30, 4e30])
    tx = gx.polyak_step(max_rate=1.0)
    u, _ = tx.update(g, tx.init(g), value=5e30)
    assert_near(u, jnp.array([0.6, 0.8]))
    u, _ = tx.update(1e-60 * g * 1.0, tx.init(g), value=5e-30)
    assert_near(u, 1e-60 * g)  # the largest step


def test_the_distance_is_the_largest_so_far_and_the_start_is_kept():
    tx = gx.dog_distance(gx.identity(), initial_value=0.5)
    params = jnp.array([3.0, 4.0])
    state = tx.init(params)
    assert float(state.slots["dog_distance"]["distance"]) == 3.0  # 0.5·(1 + ‖θ₀‖)
    for away, largest in ((0.0, 3.0), (10.0, 10.0), (5.0, 10.0)):
        u, state = tx.update(jnp.ones(2), state, params + jnp.array([away, 0.0]))
        assert_near(u, jnp.full(2, largest))
    chex.assert_trees_all_equal(state.slots["dog_distance"]["emit_displacement"]["start"], params)


def test_each_leaf_by_itself():
    params = params_of()
    gradients = list(stream(params))
    for tx in (gx.dog(), gx.prodigy(), gx.clip_by_global_norm(0.1)):
        several = moving(gx.leafwise(tx), params, gradients)
        for name in params:
            alone = moving(tx, params[name], [g[name] for g in gradients])
            assert_near([u[name] for u in several], alone)
    one = jnp.ones(3)
    assert_near(follow(gx.leafwise(gx.adam()), one, [one])[0], follow(gx.adam(), one, [one])[0])


def test_pieces_that_need_functions_of_all_parameters_are_refused():
    class newton(gx.PerLeaf):
        needs = ("hvp",)

    for name in ("leafwise", "momo_step"):
        with pytest.raises(ValueError, match=f"{name}: newton needs 'hvp', a function of all parameters"):
            getattr(gx, name)(gx.chain(gx.scale(1.0), newton()))


def test_a_model_of_the_loss_averages_losses_as_gradients(x64):
    """For any linear direction. A quadratic loss is above its tangents, so the model is below it."""
    w, direction = jnp.array([1.0, -2.0]), gx.chain(gx.add_momentum(0.5), gx.scale(0.5))
    tx = gx.momo_step(direction, max_rate=1e9)
    state = tx.init(w)
    points, gradients = [], []
    for _ in range(5):
        g = 2 * w
        points, gradients = [*points, w], [*gradients, g]
        u, state = tx.update(g, state, w, value=w @ w)
        weights = 0.5 ** (1 + np.arange(len(points))[::-1])
        d = weights @ jnp.stack(gradients)
        tangents = [p @ p + g @ (w - p) for p, g in zip(points, gradients)]
        model = weights @ jnp.stack(tangents)
        assert_near(u, max(model, 0) / (d @ d) * d, 1e-12)
        w = w - 0.1 * u


@pytest.mark.parametrize(
    ("tx", "extra", "words"),
    [
        (gx.momo(), {}, "momo_step needs the argument 'value'"),
        (gx.polyak_sgd(), {}, "polyak_step needs the argument 'value'"),
        (gx.polyak_sgd(), {"value": jnp.ones(2)}, "polyak_step: value must be one real number"),
        (gx.momo(), {"value": jnp.ones(2)}, "momo_step: value must be one real number"),
    ],
)
def test_the_loss_is_one_number(tx, extra, words):
    with pytest.raises(ValueError, match=words):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2), **extra)


def test_dadapt_adam_of_signs(x64):
    """The case in which Optax's definition is the same, against the paper's."""
    noise = np.sign(gradient_stream(200, seed=1))
    steps = jax.jit(steps_of)(gx.dadapt_adam(0.1, b2=0.0), noise)
    assert worst_error(steps, reference_steps(reference_of("dadapt_adam"), noise, learning_rate=0.1, b2=0.0)) <= 1e-12


def test_the_distances_are_found(x64):
    """For |w − 3| from 0 the distance is 3: found within a factor of 4, without ever shrinking."""
    for tx in (gx.prodigy(b2=0.99), gx.dadapt_adam(b2=0.99)):
        w, state = jnp.zeros(()), tx.init(jnp.zeros(()))

        def step(carry, _, tx=tx):
            w, state = carry
            u, state = tx.update(jnp.sign(w - 3), state, w)
            return (w + u, state), next(iter(state.slots.values()))["distance"]

        distances = jax.lax.scan(step, (w, state), length=300)[1]
        assert 0.75 < distances[-1] < 12
        assert (jnp.diff(distances) >= 0).all()
