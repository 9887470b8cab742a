"""Pieces of dual averaging, norms per leaf, and noise: special cases, scales and errors."""

import jax
import jax.numpy as jnp
import pytest

import gradtx as gx


@pytest.mark.promotes("its models, as users write them")
def test_a_coordinate_stays_exactly_zero_while_its_gradients_sum_to_less_than_the_penalty():
    gradients = jnp.stack([(-1.0) ** jnp.arange(8), -jnp.ones(8)], axis=1)
    tx, w = gx.ftrl(0.5, l1=2.0, initial_value=0.0), jnp.zeros(2)
    state, zero = tx.init(w), []
    for g in gradients:
        u, state = tx.update(g, state, w)
        w = gx.apply_updates(w, u)
        zero.append((w == 0).tolist())
    assert zero == [[True, True]] * 2 + [[True, False]] * 6 and w[1] > 0


@pytest.mark.promotes("its models, as users write them")
def test_without_penalties_it_keeps_all_digits():
    """In float32, after many small steps: a form with a growing state loses them."""
    g = jnp.sin(jnp.arange(5000.0))[:, None] + jnp.array([0.3, -1.0])

    def walk(tx):
        def step(carry, g):
            w, state = carry
            u, state = tx.update(g, state, w)
            return (w + u, state), u

        w = jnp.array([5.0, -3.0])
        return jax.lax.scan(step, (w, tx.init(w)), g)[1]

    steps, expected = walk(gx.ftrl(1e-4, initial_value=0.0)), walk(gx.adagrad(1e-4, eps=0.0))
    assert jnp.max(jnp.abs(steps / expected - 1)) < 1e-5


def test_pieces_that_keep_the_start_need_the_parameters():
    tx, w = gx.madgrad(), jnp.ones(2)
    with pytest.raises(ValueError, match="from_start needs the parameters"):
        tx.update(w, tx.init(w))
    with pytest.raises(ValueError, match="ftrl_proximal needs the parameters"):
        gx.ftrl().update(w, gx.ftrl().init(w))
    state = gx.from_start().init(w)
    assert state.slots["from_start"]["start"] is not w  # or both could not be donated


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_each_leaf_is_clipped_by_its_own_norm_at_any_scale(size):
    tree = {"a": jnp.full(4, 3 * size), "b": jnp.full((2, 2), 0.1 * size), "c": None, "d": jnp.zeros(0)}
    tx = gx.clip_by_norm(size)
    u, _ = tx.update(tree, tx.init(tree))
    assert abs(float(gx.global_norm(u["a"])) / size - 1) < 1e-6
    assert (u["b"] == tree["b"]).all() and u["c"] is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gx.ftrl(0.0), "ftrl: learning_rate must be a finite number above 0"),
        (lambda: gx.ftrl(l1=-1.0), "ftrl: l1 must be"),
        (lambda: gx.clip_by_norm(0.0), "clip_by_norm: max_norm must be"),
        (lambda: gx.adabound(final_size=0.0), "adabound: final_size must be"),
        (lambda: gx.padam(exponent=-0.5), "padam: exponent must be"),
        (lambda: gx.noisy_sgd(variance=-1.0), "noisy_sgd: variance must be"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_point_from_the_start_is_reached_from_anywhere():
    tx, start = gx.from_start(), jnp.array([2.0, -1.0])
    for point in (start, 3 * start, -start):
        u, _ = tx.update(jnp.ones(2), tx.init(start), point)
        assert jnp.allclose(point + u, start + 1)
