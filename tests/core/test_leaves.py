"""Separable updates: each leaf alone, traced once for all leaves of the same type."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx
from gradtx.core.root import Context, is_separable

PARAMS = {
    f"layer_{i}": {"kernel": jnp.full((2, 3), i + 1.0, "float32"), "bias": jnp.full((3,), 0.5, "float32")}
    for i in range(10)
}


def counting(asks):
    """A piece that counts how often its rule is traced; `asks` reads something of the leaf from the context."""
    traced = []

    class own(gx.PerLeaf):
        def init_leaf(self, param):
            traced.append("init")
            return {"seen": jnp.zeros_like(param)}

        def update_leaf(self, g, slots, context):
            traced.append("update")
            return g + asks(context), {"seen": slots["seen"] + 1}

    return own(), traced


@pytest.mark.parametrize(
    ("asks", "times"),
    [
        (lambda context: 0.0, 2),  # one for the kernels, one for the biases
        (lambda context: context.chooses("*/bias") * 1.0, 2),
        (lambda context: context.chooses("layer_1/*") * 1.0, 4),
        (lambda context: context.chooses("layer_*/kernel") * context.chooses("layer_[01]/*") * 1.0, 2),
        (lambda context: float(context.path[6]), 20),
    ],
    ids=["nothing", "a choice that follows the shape", "a choice", "two choices", "the path"],
)
def test_a_rule_is_traced_once_for_all_leaves_of_which_its_questions_have_the_same_answers(asks, times):
    tx, traced = counting(asks)
    state = jax.jit(tx.init)(PARAMS)
    assert traced == ["init"] * 2
    traced.clear()
    updates, state = jax.jit(tx.update)(PARAMS, state)
    assert traced.count("update") == times
    for i in range(10):
        for name in ("kernel", "bias"):
            here = Context(jnp.array(1), None, {}, unasked_path=f"layer_{i}/{name}")
            want = PARAMS[f"layer_{i}"][name] + asks(here)
            np.testing.assert_array_equal(updates[f"layer_{i}"][name], want)
    np.testing.assert_array_equal(state.slots["own"]["seen"]["layer_9"]["bias"], np.ones(3))


def test_equal_leaves_with_other_paths_decay_as_their_group_does():
    tx = gx.adamw(0.1, weight_decay=0.5, where="layer_3/*")
    free = gx.adamw(0.1, weight_decay=0.0)
    g = jax.tree.map(jnp.cos, PARAMS)
    updates, plain = (jax.jit(t.update)(g, t.init(PARAMS), PARAMS)[0] for t in (tx, free))
    for name, leaf in updates.items():
        decay = 0.1 * 0.5 if name == "layer_3" else 0.0
        for key in leaf:
            np.testing.assert_allclose(leaf[key], plain[name][key] - decay * PARAMS[name][key], rtol=1e-6)


def test_equal_leaves_have_different_noise():
    tx = gx.add_noise(1.0)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    noise, _ = jax.jit(tx.update)(zeros, tx.init(PARAMS), key=jax.random.key(0))
    kernels = np.stack([leaf["kernel"] for leaf in noise.values()])
    assert len(np.unique(kernels)) == kernels.size


def test_compositions_of_separable_pieces_are_separable_and_others_are_not():
    assert is_separable(gx.adamw(0.1)) and is_separable(gx.chain()) and is_separable(gx.lion(0.1))
    assert not is_separable(gx.clip_by_global_norm(1.0))
    assert not is_separable(gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.1)))

    class total(gx.PerLeaf):
        def update_tree(self, updates, slots, context):
            return jax.tree.map(lambda g: sum(jnp.sum(x) for x in jax.tree.leaves(updates)) + g, updates), slots

    assert not is_separable(total())  # it replaces the method that is marked


def test_each_leaf_adds_one_equation_to_the_trace_of_a_step():
    tx = gx.adamw(0.1)

    def equations(params):
        jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
        inner = jaxpr.eqns[0].params["jaxpr"] if len(jaxpr.eqns) == 1 else jaxpr  # as JAX 0.12 inlines, or not yet
        return [e.params.get("name") for e in inner.eqns]

    few, many = equations({"layer_0": PARAMS["layer_0"]}), equations(PARAMS)
    assert (few.count("program"), many.count("program")) == (2, 20)
    assert len(many) - len(few) == 18


def test_what_all_leaves_share_is_computed_once_and_not_in_the_program_of_each():
    tx = gx.adamw(0.1)  # 1 − bᵗ of two averages, for each of two types of leaves
    jaxpr = jax.make_jaxpr(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)
    inner = jaxpr.eqns[0].params["jaxpr"] if len(jaxpr.eqns) == 1 else jaxpr
    programs = [e for e in inner.eqns if e.params.get("name") == "program"]
    assert programs and not any("expm1" in str(e.params["jaxpr"]) for e in programs)
    assert [e.primitive.name for e in inner.eqns].count("expm1") == 4


def test_leaves_of_one_shape_keep_their_own_slots_in_a_trace():
    params = {name: jnp.full(3, value) for name, value in {"a": 1.0, "b": -2.0, "c": 0.5}.items()}

    def after(params):
        tx = gx.adamw(0.1)
        step, state = jax.jit(tx.apply), tx.init(params)
        for _ in range(3):
            params, state = step(params, state, jax.tree.map(jnp.sin, params))
        return params

    alone = {name: after({name: p})[name] for name, p in params.items()}
    chex.assert_trees_all_close(after(params), alone, rtol=1e-6)


def test_pieces_see_the_number_of_the_update_from_one():
    class step(gx.PerLeaf):
        def update_leaf(self, g, slots, context):
            return g * context.step.astype(g.dtype), slots

    state, seen = step().init(jnp.ones(1)), []
    for _ in range(3):
        u, state = step().update(jnp.ones(1), state)
        seen.append(int(u[0]))
    assert seen == [1, 2, 3]


def test_a_piece_that_does_not_count_has_no_age():
    class counts_not(gx.PerLeaf):
        def update_leaf(self, g, slots, context):
            return g * context.age.astype(g.dtype), slots

    for tx in (counts_not(), gx.lookahead(counts_not()), gx.chain(gx.rectify(), counts_not())):
        with pytest.raises(TypeError, match=r"a piece that reads context\.age must declare counts = True"):
            tx.update(jnp.ones(1), tx.init(jnp.ones(1)), jnp.ones(1))


@pytest.mark.parametrize("tx", [gx.nesterov_ema(), gx.bias_correction(), gx.running_mean(), gx.lookahead(gx.sgd(0.1))])
def test_without_any_gradient_a_piece_does_not_age(tx):
    params = {"w": jnp.ones(2)}
    _, state = tx.update(params, tx.init(params), params)
    _, after = tx.update({"w": None}, state, params)
    assert after.slots[type(tx).__name__]["age"] == 1 and after.step == 2
