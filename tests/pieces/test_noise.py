"""The noise: its distribution, its dependence on the key, and errors."""

import jax
import jax.numpy as jnp
import pytest

import gradtx as gx

KEY = jax.random.key(3)


def noise_of(steps, variance=0.25, power=1.0, key=KEY, size=20_000):
    """The noise added to zeros: for two leaves, one row per step."""
    tx = gx.add_noise(variance, power)
    zeros = {"a": jnp.zeros(size), "b": jnp.zeros(size)}
    state, rows = tx.init(zeros), []
    for _ in range(steps):
        u, state = tx.update(zeros, state, key=key)
        rows.append(u)
    return jnp.stack([u["a"] for u in rows]), jnp.stack([u["b"] for u in rows])


def test_its_defaults_are_those_of_the_paper():
    assert gx.add_noise() == gx.add_noise(variance=0.01, power=0.55)


def test_it_is_normal_with_a_variance_that_fades():
    a, _ = noise_of(4)
    for t, row in enumerate(a, 1):
        deviation = (0.25 / t) ** 0.5
        assert abs(row.mean()) < 4 * deviation / 20_000**0.5
        assert abs(row.std() / deviation - 1) < 0.02
        assert abs(jnp.mean(jnp.abs(row) < deviation) - 0.6827) < 0.015
        assert abs(jnp.mean((row / deviation) ** 4) - 3) < 0.3


def test_leaves_steps_and_keys_are_independent_and_the_same_key_repeats():
    a, b = noise_of(2, power=0.0)
    other, _ = noise_of(2, power=0.0, key=jax.random.key(4))
    for x, y in ((a[0], b[0]), (a[0], a[1]), (a[1], b[0]), (a[0], other[0])):
        assert abs(jnp.corrcoef(x, y)[0, 1]) < 0.03
    assert (noise_of(2, power=0.0)[0] == a).all()


def test_it_needs_a_key():
    tx, w = gx.noisy_sgd(), jnp.zeros(2)
    with pytest.raises(ValueError, match="add_noise needs the argument 'key'"):
        tx.update(w, tx.init(w))
    with pytest.raises(TypeError, match="add_noise: key must be one random key"):
        tx.update(w, tx.init(w), key=jnp.ones(3))
    assert (tx.update(w, tx.init(w), key=jax.random.PRNGKey(0))[0] != 0).all()
