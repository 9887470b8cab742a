"""Bases of matrices: the laws of `in_basis`, rounding, what turns with a basis, and decompositions that end."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx
from gradtx.core import leaves_by_path

ADAM = gx.precondition(gx.momentum(0.95), by=gx.rms(0.95))


def gradients(shape, steps, seed=0):
    """Gradients with correlated rows and columns that drift."""
    random = np.random.default_rng(seed)
    a, b, out = random.normal(size=(shape[0],) * 2), random.normal(size=(shape[1],) * 2), []
    for t in range(steps):
        a = a + 0.02 * random.normal(size=a.shape)
        out.append(a @ random.normal(size=shape) @ b * (1 + 0.5 * np.sin(t / 20)) + 0.3 * a @ np.ones(shape))
    return np.stack(out).astype(np.float32).astype(float)


def run(tx, several, dtype: Any = jnp.float64, name="w"):
    several = jnp.asarray(several, dtype)
    params = {name: jnp.zeros(several.shape[1:], dtype)}

    def step(state, g):
        u, state = tx.update({name: g}, state, params)
        return state, u[name]

    return np.asarray(jax.jit(lambda: jax.lax.scan(step, tx.init(params), several)[1])(), np.float64)


LINEAR = {
    "momentum": gx.sgd(0.1, momentum=0.9),
    "nesterov": gx.sgd(0.1, momentum=0.9, nesterov=True),
    "nadam's direction": gx.nesterov_ema(0.9),
    "two averages": gx.add(gx.momentum(0.9), gx.chain(gx.scale_by_ema(0.99), gx.scale(5.0))),
    "a blend": gx.blend(gx.scale_by_ema(0.9, before=True), 0.7),
    "a group": gx.partition({"w": gx.momentum(0.9)}),
    "a difference": gx.chain(gx.difference(), gx.running_mean(0.5)),
}
BASES = {
    "qr": gx.eigenbasis(3),
    "eigh": gx.eigenbasis(3, method="eigh"),
    "singular": gx.singular_vectors(3, "both"),
    "random": gx.random_vectors(3, rank=6),
}


@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
@pytest.mark.parametrize("inner", LINEAR.values(), ids=LINEAR)
def test_a_linear_transformation_in_a_basis_that_changes_is_that_transformation(inner, basis, x64):
    several = gradients((6, 6), 40)
    expected = run(inner, several)
    made = run(gx.in_basis(inner, basis, skip_first=False), several)
    assert np.max(np.abs(made - expected)) <= 1e-12 * np.max(np.abs(expected))


class linear_unsaid(gx.PerLeaf):
    def init_leaf(self, param):
        return {"mean": jnp.zeros_like(param)}

    def update_leaf(self, g, slots, context):
        mean = 0.9 * slots["mean"] + 0.1 * g
        return mean, {"mean": mean}


class linear_said(linear_unsaid):
    linear = True


def test_only_what_is_declared_linear_turns(x64):
    """A user's piece stays as it is unless it says that it is linear, and so does a piece behind one that is not."""
    several = gradients((6, 6), 40)
    average, basis = gx.scale_by_ema(0.9), gx.eigenbasis(3)
    expected = run(gx.in_basis(average, basis), several)
    assert np.max(np.abs(run(gx.in_basis(linear_said(), basis), several) - expected)) <= 1e-12
    stays = run(gx.in_basis(average, basis, carry=False), several)
    assert np.max(np.abs(stays - expected)) > 0.1
    assert np.max(np.abs(run(gx.in_basis(linear_unsaid(), basis), several) - stays)) <= 1e-12
    behind = gx.chain(gx.sign(), average)
    assert (run(gx.in_basis(behind, basis), several) == run(gx.in_basis(behind, basis, carry=False), several)).all()


@pytest.mark.parametrize("shape", [(32, 32), (32, 16), (16, 64)])
@pytest.mark.parametrize("whiten", [False, True], ids=["soap", "kl_soap"])
def test_rounding_is_not_a_step(shape, whiten, x64):
    """Few gradients leave a null space, in which rounding errors would choose the vectors."""
    tx, several = gx.in_basis(ADAM, gx.eigenbasis(whiten=whiten)), gradients(shape, 30)
    low, high = run(tx, several, jnp.float32), run(tx, several)
    for t in (2, 3, 6, 11, 30):
        assert np.linalg.norm(low[t - 1] - high[t - 1]) <= 1e-4 * np.linalg.norm(high[t - 1])


def test_stacked_matrices_and_kernels_are_matrices(x64):
    alone = [gradients((6, 4), 25, seed) for seed in range(3)]
    expected = [run(gx.soap(every_k=3), several) for several in alone]
    stacked = run(gx.layout(gx.soap(every_k=3), "batch in out"), np.stack(alone, 1))
    assert np.max(np.abs(stacked - np.stack(expected, 1))) <= 1e-12
    whole = gx.layout(gx.in_basis(gx.chain(ADAM, gx.clip_by_global_norm(1e9)), gx.eigenbasis(3)), "batch in out")
    single = [run(gx.in_basis(ADAM, gx.eigenbasis(3)), several) for several in alone]
    assert np.max(np.abs(run(whole, np.stack(alone, 1)) - np.stack(single, 1))) <= 1e-12
    kernel = run(gx.soap(every_k=3), alone[0].reshape(25, 2, 3, 4), name="conv/kernel")
    assert np.max(np.abs(kernel.reshape(25, 6, 4) - expected[0])) <= 1e-12
    factored = gx.in_basis(gx.factored(gx.momentum(0.9)), gx.eigenbasis(3))  # it reads axes, of the coordinates
    assert np.max(np.abs(run(factored, alone[0].reshape(25, 2, 3, 4), name="conv/kernel"))) > 0


@pytest.mark.parametrize(
    "tx", [gx.soap(every_k=3), gx.shampoo(every_k=3), gx.muon(default=gx.sgd())], ids=["soap", "shampoo", "muon"]
)
def test_blocks_are_matrices(tx, x64):
    several = gradients((8, 12), 20)
    whole = run(gx.in_blocks(tx, 4), several)
    for i in (0, 4):
        for j in (0, 4, 8):
            alone = run(tx, several[:, i : i + 4, j : j + 4])
            assert np.max(np.abs(whole[:, i : i + 4, j : j + 4] - alone)) <= 1e-12
    assert np.max(np.abs(run(gx.in_blocks(gx.adam(), 4), several) - run(gx.adam(), several))) <= 1e-12


@pytest.mark.parametrize(
    "tx",
    [
        gx.in_basis(gx.chain(gx.scale_by_ema(0.9), gx.sign()), gx.eigenbasis(3)),
        gx.in_basis(gx.ademamix(), gx.eigenbasis(3)),
        gx.in_basis(
            gx.precondition(gx.momentum(0.9), by=gx.chain(gx.square(), gx.factored(gx.momentum(0.9)), gx.sqrt()))
        ),
        gx.schedule_free(gx.in_basis(gx.adam(b1=0.0), gx.eigenbasis(3))),
        gx.in_basis(gx.lion(), gx.random_vectors(3, rank=2)),
        gx.cautious(gx.soap()),
        gx.graft(gx.adam(), gx.in_basis(gx.sign())),
        gx.accumulate(gx.soap(every_k=2), 2),
    ],
    ids=["lion-like", "ademamix", "factored", "schedule-free", "random", "cautious", "grafted", "accumulated"],
)
def test_anything_crosses_with_a_basis(tx):
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    state = tx.init(params)
    for g in gradients((4, 3), 7):
        updates, state = tx.update({"w": jnp.asarray(g, jnp.float32), "b": jnp.ones(3)}, state, params)
        params = gx.apply_updates(params, updates)
        assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    "tx, name", [(gx.soap(every_k=1), "bases refused"), (gx.shampoo(every_k=1), "factors refused")]
)
def test_what_is_not_finite_leaves_a_basis_as_it_was(tx, name):
    params = {"w": jnp.zeros((3, 2))}
    _, state = tx.update({"w": jnp.asarray(gradients((3, 2), 1)[0], jnp.float32)}, tx.init(params), params)
    _, after = tx.update({"w": jnp.full((3, 2), jnp.nan)}, state, params)
    for path, x in leaves_by_path(after.slots).items():
        if path.endswith(("left/w", "right/w")):
            assert (x == leaves_by_path(state.slots)[path]).all()
    assert gx.measurements(state)[name] == 0 and gx.measurements(after)[name] == 1


def test_a_refresh_is_a_branch_also_under_vmap():
    """Whatever `vmap` makes of the step, the decompositions stay in one branch of a `cond`."""
    tx, params = gx.soap(), {"w": jnp.zeros((2, 4, 3))}
    state = jax.vmap(tx.init)(params)
    text = str(jax.make_jaxpr(jax.vmap(tx.update))(params, state, params))
    assert "qr" in text and "cond[" in text
    outside = text.split("cond[")[0]
    assert " qr" not in outside and "householder" not in outside


@pytest.mark.parametrize(
    "tx", [gx.soap(every_k=2), gx.shampoo(every_k=2), gx.psgd_kron()], ids=["soap", "shampoo", "psgd_kron"]
)
def test_matrices_of_one_shape_are_renewed_in_one_batch_as_one_by_one(tx, monkeypatch):
    """A batch is for accelerators: here it is chosen by hand, and its decompositions stay one by one."""
    params = {"x": jnp.zeros((4, 3)), "y": jnp.zeros((3, 4)), "z": {"w": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}}
    params["stack"] = jnp.zeros((2, 4, 3))
    tx = gx.layout(tx, {"stack": "batch in out"})
    g = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)

    def steps():
        state, out = tx.init(params), []
        for t in range(5):
            u, state = jax.jit(lambda g, state: tx.update(g, state, params))(jax.tree.map(lambda x: x + t, g), state)  # noqa: B023
            out.append(u)
        return out, state.slots

    alone, of, chosen = steps(), jax.lax.platform_dependent, []

    def batches(*operands, cpu, default):
        if default.__name__ != "batches":
            return of(*operands, cpu=cpu, default=default)
        chosen.append(sorted(x.shape for x, _ in operands[0].values()))
        return default(*operands)

    jax.clear_caches()
    with monkeypatch.context() as patched:
        patched.setattr(jax.lax, "platform_dependent", batches)
        together = steps()
    jax.clear_caches()
    assert chosen[0] == [(1, 3, 4), (1, 4, 3), (1, 4, 3), (2, 4, 3)]
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6)


HANG = """
import jax, jax.numpy as jnp, gradtx as gx
sizes = (64, 96, 48, 96)
tx = gx.layout(gx.soap(every_k=1), "batch ...")
params = {str(i): jnp.ones((4, a, b)) for i, (a, b) in enumerate(zip(sizes, sizes[1:]))}
g = {name: jax.random.normal(jax.random.key(0), p.shape) for name, p in params.items()}
step = lambda state, t: (tx.update(jax.tree.map(lambda x: x * (1 + t), g), state, params)[1], 0)
state, _ = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(20.0)))(tx.init(params))
print(float(sum(jnp.sum(x) for x in jax.tree.leaves(state.slots))))
"""


def test_decompositions_of_several_matrices_end():
    """Batched, they wait for each other for ever on a CPU of two cores."""
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": str(root), "PATH": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", HANG], env=environment, capture_output=True, text=True, timeout=240)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: gx.in_basis(gx.adam(), gx.adam()), TypeError, "in_basis: basis must be a basis, such as eigenbasis"),  # pyright: ignore
        (lambda: gx.kronecker(gx.adam(), gx.eigenbasis()), TypeError, "kronecker: by must be covariance_roots"),  # pyright: ignore
        (lambda: gx.in_basis(gx.sam(gx.adam())), ValueError, "in_basis: sam needs 'grad_fn'"),
        (lambda: gx.eigenbasis(which="left"), ValueError, "eigenbasis: which must be 'both'"),  # pyright: ignore
        (lambda: gx.singular_vectors(rank=0), ValueError, "singular_vectors: rank must be an integer, 1 or more"),
        (lambda: gx.covariance_roots(whiten=True), ValueError, "covariance_roots: whiten needs root=2, got root=4"),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_leaves_that_are_not_matrices_go_to_the_inner_transformation(x64):
    params = {"bias": jnp.ones(3), "embedding": jnp.ones((5, 2)), "c": jnp.ones((2, 2), complex), "s": jnp.ones(())}
    tx, inner = gx.in_basis(ADAM, gx.singular_vectors(rank=100)), ADAM
    updates, _ = tx.update(params, tx.init(params), params)
    expected, _ = inner.update(params, inner.init(params), params)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), updates, expected))
    wide = gx.in_basis(ADAM, gx.eigenbasis(largest=3), skip_first=False)  # a side above `largest` has no basis
    state = wide.init({"w": jnp.ones((3, 5))})
    assert state.slots["in_basis"]["basis"]["eigenbasis"]["right"]["w"] is None
