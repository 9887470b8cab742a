"""A user's slots: arrays of one type from `init` on, whatever `init_leaf` and `init_tree` return, or an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx

params = {"w": jnp.ones(3)}


def of_leaf(slot):
    """A rule on one array with this slot."""

    class own(gx.PerLeaf):
        def init_leaf(self, param):
            return {"n": slot}

        def update_leaf(self, g, slots, context):
            return g, slots

    return own()


def of_tree(slot):
    """A rule on trees with this slot."""

    class own(gx.Transformation):
        def init_tree(self, params):
            return {"n": slot}

        def update_tree(self, updates, slots, context):
            return updates, {"n": jax.tree.map(lambda x: x, slots["n"])}

    return own()


def of_pair(slot):
    """A pair with this state, as another library may have it."""
    return gx.pair(lambda params: slot, lambda updates, state, params: (updates, state))


# The slot, and its type as JAX writes it with x64 off and on.
ARRAYS = {
    "float64 of NumPy": (np.zeros(3), "float32[3]", "float64[3]"),
    "float32 of NumPy": (np.zeros(3, "f4"), "float32[3]", "float32[3]"),
    "integers of NumPy": (np.zeros(3, "i8"), "int32[3]", "int64[3]"),
    "bytes of NumPy": (np.zeros(3, "u1"), "uint8[3]", "uint8[3]"),
    "a counter of NumPy": (np.int64(0), "int32[]", "int64[]"),
    "a number of NumPy": (np.float32(0), "float32[]", "float32[]"),
    "a double of NumPy": (np.float64(0), "float32[]", "float64[]"),
    "a flag of NumPy": (np.bool_(False), "bool[]", "bool[]"),
    "bfloat16": (jnp.zeros(3, "bfloat16"), "bfloat16[3]", "bfloat16[3]"),
    "a key": (jax.random.key(0), "key<fry>[]", "key<fry>[]"),
}
NUMBERS = {
    "a float": (0.0, "float32[]", "float64[]"),
    "an int": (0, "int32[]", "int64[]"),
    "a bool": (False, "bool[]", "bool[]"),
    "a complex": (1j, "complex64[]", "complex128[]"),
    "a list": ([0.0, 1], "float32[] int32[]", "float64[] int64[]"),
    "a list of arrays": ([np.zeros(2), None], "float32[2]", "float64[2]"),
}
SLOTS = {
    **{f"{name}, {kind.__name__}": (kind, *x) for name, x in ARRAYS.items() for kind in (of_leaf, of_tree, of_pair)},
    **{f"{name}, {kind.__name__}": (kind, *x) for name, x in NUMBERS.items() for kind in (of_tree, of_pair)},
}


def types(state):
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    return " ".join(str(jax.typeof(x)) for x in jax.tree.leaves(state.slots))  # a weak type has a ~


@pytest.mark.parametrize("x64", [False, True], ids=["", "x64"])
@pytest.mark.parametrize("kind, slot, narrow, wide", SLOTS.values(), ids=SLOTS)
def test_a_slot_is_an_array_whose_type_stays(kind, slot, narrow, wide, x64):
    with jax.enable_x64(x64):
        tx, count, expected = kind(slot), 0, wide if x64 else narrow

        @jax.jit
        def step(state):
            nonlocal count
            count += 1
            return tx.update(params, state, params)[1]

        first = tx.init(params)
        assert types(first) == types(jax.jit(tx.init)(params)) == expected
        assert str(jax.tree.map(jax.typeof, jax.eval_shape(tx.init, params).slots)) == str(
            jax.tree.map(jax.typeof, first.slots)
        )
        state = step(step(first))
        assert count == 1 and types(state) == types(tx.update(params, first, params)[1]) == expected
        with jax.disable_jit():
            assert types(tx.update(params, tx.init(params), params)[1]) == expected
        for x, y in zip(jax.tree.leaves(gx.restore(tx, params, state)[0]), jax.tree.leaves(state)):
            assert jax.typeof(x) == jax.typeof(y) and jnp.array_equal(x, y)
        gx.check_laws(tx)


def named(slots, counts=False):
    """A rule on trees with these slots."""

    class own(gx.Transformation):
        def init_tree(self, params):
            return slots

        def update_tree(self, updates, slots, context):
            return updates, slots

    own.counts = counts
    return own()


REFUSED = {
    "a number as a name": (named({0: np.zeros(3)}), "the name of a slot must be a string that is not empty, got 0"),
    "no name": (named({"": np.zeros(3)}), "the name of a slot must be a string that is not empty, got ''"),
    "names of two types": (named({0: np.zeros(3), "a": np.zeros(3)}), "the name of a slot must be a string"),
    "a list": (named([np.zeros(3)]), r"must return a dict of slots, got \[float64\[3\]\]"),
    "a second age": (named({"age": np.zeros(3)}, counts=True), "a piece with counts = True has a slot 'age' already"),
    "two of one path": (named({"a/b": np.zeros(3), "a": {"b": np.zeros(3)}}), "two leaves .*have the .*path"),
    "a string": (named({"a": "x"}), r"slots\['a'\] must be an array, got 'x'"),
    "a long double": (named({"a": np.zeros(3, ">f4")}), r"slots\['a'\] must be an array, got >f4\[3\]: JAX takes no"),
}


@pytest.mark.parametrize("tx, why", REFUSED.values(), ids=REFUSED)
def test_slots_that_cannot_be_restored_break_a_law(tx, why):
    with pytest.raises((TypeError, ValueError), match=why):
        gx.check_laws(tx)
