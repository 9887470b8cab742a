"""`lazy` against the rule of SparseAdam, row by row in NumPy, and against optimizers that see one row each."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.sparse import BCOO
from streams import assert_near, extra, follow, stream

import gradtx as gx
from gradtx.core import leaves_by_path

BATCHES = [(0, 1), (1, 4), (1,), (), (0, 1, 2), (4, 2)]  # the rows that have a gradient at each step; row 3 has none


def sparse_stream(tree, batches=BATCHES):
    """Gradients that are 0 except for the rows in the batch, and for scalars."""
    for g, rows in zip(stream(tree, len(batches)), batches):
        at = jnp.array(rows, int)

        def cut(g, at=at):
            return g if not jnp.ndim(g) else jnp.zeros_like(g).at[at].set(g[at] + 1)

        yield jax.tree.map(cut, g)


def sparse_adam(gradients, rate, b1, b2, eps):
    """torch.optim.SparseAdam: `step` is one for all rows, and ε is added before the correction."""
    m, v = np.zeros_like(gradients[0]), np.zeros_like(gradients[0])
    for t, (g, rows) in enumerate(zip(gradients, BATCHES), 1):
        u = np.zeros_like(g)
        for i in rows:
            m[i] += (1 - b1) * (g[i] - m[i])
            v[i] += (1 - b2) * (g[i] ** 2 - v[i])
            u[i] = -rate * np.sqrt(1 - b2**t) / (1 - b1**t) * m[i] / (np.sqrt(v[i]) + eps)
        yield u


def test_it_is_sparse_adam(x64):
    table = jnp.ones((5, 3), "float64")
    gradients = list(sparse_stream(table))
    eps = gx.of_step(lambda step: 1e-3 / jnp.sqrt(1 - 0.9 ** jnp.asarray(step + 1, float)))
    got, state = follow(gx.lazy(gx.adam(0.1, 0.8, 0.9, eps)), table, gradients)
    expected = list(sparse_adam([np.asarray(g) for g in gradients], 0.1, 0.8, 0.9, 1e-3))
    assert_near(got, [jnp.asarray(u) for u in expected], 1e-13)
    assert not got[-1][3].any()
    assert {int(x) for path, x in leaves_by_path(state.slots).items() if path.endswith("age")} == {len(BATCHES)}


@pytest.mark.parametrize("inner", [gx.adamw(0.1), gx.chain(gx.adam(0.1), gx.add_momentum(0.9)), gx.adagrad(0.1)])
def test_over_rowwise_each_row_is_an_optimizer_of_its_own_gradients(inner):
    table = jnp.ones((5, 3))
    gradients = list(sparse_stream(table))
    got, _ = follow(gx.lazy(gx.rowwise(inner)), table, gradients)
    for i in range(5):
        steps = [t for t, rows in enumerate(BATCHES) if i in rows]
        expected, _ = follow(inner, table[i], [gradients[t][i] for t in steps])
        assert_near([got[t][i] for t in steps], expected)
        assert not any(u[i].any() for t, u in enumerate(got) if t not in steps)


INNER = {
    "adamw": gx.adamw(0.1),
    "adafactor": gx.adafactor(0.1),
    "came": gx.came(0.1),
    "a norm and groups": gx.chain(
        gx.clip_by_global_norm(0.5), gx.partition({"b": gx.heavy_ball(0.1)}, default=gx.amsgrad(0.1))
    ),
    "schedule_free": gx.schedule_free(gx.adam(0.1, b1=0.0)),
    "prodigy": gx.prodigy(),
    "sm3": gx.sm3(0.1),
    "optax": gx.pair(*optax.adam(0.1)),
    "no state": gx.sgd(0.1),
}


@pytest.mark.parametrize("name", INNER)
@pytest.mark.promotes("Optax's arithmetic")
def test_rows_without_a_gradient_keep_weights_and_slots(name):
    """Those with a gradient are updated as by the inner optimizer, and so are slots without rows, and scalars."""
    tx = gx.lazy(INNER[name])
    params = {"w": jnp.ones((5, 3)), "b": jnp.ones(5), "s": jnp.ones(())}
    state, inner = tx.init(params), INNER[name].init(params)
    for g, rows in zip(sparse_stream(params), BATCHES):
        inner = inner._replace(slots=state.slots["lazy"]["inner"]) if state.slots else inner
        expected, expected_state = INNER[name].update(g, inner, params, **extra(tx))
        u, after = tx.update(g, state, params, **extra(tx))
        present = np.isin(np.arange(5), rows)
        chex.assert_trees_all_equal(u["s"], expected["s"])
        for leaf in ("w", "b"):
            assert not u[leaf][~present].any()
            chex.assert_trees_all_close(u[leaf][present], expected[leaf][present], rtol=1e-5)

        def check(new, old, free, present=present):
            if new.ndim and len(new) == 5:
                chex.assert_trees_all_equal(new[~present], old[~present])
                chex.assert_trees_all_close(new[present], free[present], rtol=1e-5)
            else:
                chex.assert_trees_all_close(new, free, rtol=1e-5)

        if after.slots:
            jax.tree.map(check, after.slots["lazy"]["inner"], state.slots["lazy"]["inner"], expected_state.slots)
        state = after


def test_none_complex_integers_and_nan():
    params = {"c": jnp.ones((2, 3), "complex64"), "none": jnp.ones((2, 3)), "n": jnp.arange(2), "w": jnp.ones((2, 2))}
    tx = gx.lazy(gx.adamw(0.1))
    state = tx.init(params)
    g = {"c": jnp.zeros((2, 3), "complex64").at[1, 0].set(1j), "none": None, "n": None, "w": jnp.zeros((2, 2))}
    u, after = tx.update(g | {"w": g["w"].at[0, 0].set(jnp.nan)}, state, params)
    assert not u["c"][0].any() and u["c"][1].all() and u["none"] is None and u["n"] is None
    assert jnp.isnan(u["w"][0, 0]) and not u["w"][1].any()
    for path, x in leaves_by_path(after.slots).items():
        if path.endswith("/none"):
            assert not x.any()


def test_accumulate_goes_around_it():
    table = jnp.ones((5, 3))
    gradients = list(sparse_stream(table))
    got, _ = follow(gx.accumulate(gx.lazy(gx.adam(0.1)), 2), table, gradients)
    means = [(a + b) / 2 for a, b in zip(gradients[::2], gradients[1::2])]
    expected, _ = follow(gx.lazy(gx.adam(0.1)), table, means)
    assert_near(got[1::2], expected)


def test_sparse_arrays_are_refused():
    tx, params = gx.lazy(gx.adam()), {"w": jnp.ones((3, 2))}
    sparse = {"w": BCOO.fromdense(params["w"])}
    how = "must be a dense array, got .*BCOO.*: call its todense\\(\\); lazy\\(tx\\) leaves the rows that are 0"
    state = tx.init(params)
    with pytest.raises(TypeError, match=rf"^params\['w'\] {how}"):
        tx.init(sparse)
    for call in (tx.update, jax.jit(tx.update)):
        with pytest.raises(TypeError, match=rf"^updates\['w'\] {how}"):
            call(sparse, state, params)
    with pytest.raises(TypeError, match=rf"^updates\['w'\] {how}"):
        gx.apply_updates(params, sparse)
