"""Groups of parameters: partition, masked, freeze, explain."""

import copy
import dataclasses
import pickle
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near, follow, member, params_of, stream, types

import gradtx as gx
from gradtx.combinators.partition import freeze, masked, partition
from gradtx.core import leaves_by_path, walk
from gradtx.inspect.explain import explain

params = {
    "embed": jnp.ones((5, 2)),
    "layers": [{"w": jnp.ones((3, 4)), "bias": jnp.ones(4)}, {"w": jnp.ones((4, 2)), "bias": jnp.ones(2)}],
}
adam, sgd = gx.adam(0.1), gx.sgd(0.2, momentum=0.9)


def paths(tree):
    return set(leaves_by_path(tree))


def factors(tx, params=params):
    """The factor of each parameter's update, for pieces that only scale."""
    u, _ = tx.update(params, tx.init(params), params)
    return {path: float(x.ravel()[0]) for path, x in leaves_by_path(u).items()}


class reads_extra(gx.PerLeaf):
    """Checks the shapes of its parameters and of an extra argument."""

    needs = ("curvature", "value")

    def update_leaf(self, g, slots, context):
        return g, slots

    def update_tree(self, updates, slots, context):
        curvature, value = context.extra["curvature"], context.extra["value"]
        jax.tree.map(lambda g, p, h: chex.assert_equal_shape([g, p, h]), updates, context.params, curvature)
        return jax.tree.map(lambda g, h: g / h * value, updates, curvature), slots


# ---------------------------------------------------------------- laws
@pytest.mark.parametrize("tx", [sgd, gx.chain(gx.clip_by_global_norm(0.5), gx.adamw())])
def test_one_rule_for_all_is_the_plain_transformation(tx):
    gradients = list(stream(params))
    plain, state = follow(tx, params, gradients)
    for grouped in (
        partition({"**": tx}),
        partition({}, default=tx),
        partition({"all": tx}, labels="all"),
        masked(tx, None, otherwise="zero"),
        masked(tx, {"embed": True, "layers": True}, otherwise="zero"),
    ):
        got, slots = follow(grouped, params, gradients)
        chex.assert_trees_all_equal(got, plain)
        (inner,) = slots.slots[type(grouped).__name__].values()
        chex.assert_trees_all_equal(inner, state.slots)


@pytest.mark.parametrize("tx", [gx.adamw(0.1), gx.rprop()])
def test_elementwise_in_both_groups_is_the_plain_transformation(tx):
    gradients = list(stream(params))
    plain, _ = follow(tx, params, gradients)
    got, _ = follow(partition({"**/bias": tx}, default=tx), params, gradients)
    chex.assert_trees_all_equal(got, plain)


def test_a_norm_is_over_the_group_alone():
    tx = partition({"**/bias": gx.clip_by_global_norm(1.0)}, default=gx.identity())
    u, _ = tx.update(params, tx.init(params))
    assert_near(u["layers"][0]["bias"], jnp.full(4, 1 / jnp.sqrt(6)))
    assert_near(u["layers"][1]["bias"], jnp.full(2, 1 / jnp.sqrt(6)))
    chex.assert_trees_all_equal(u["embed"], params["embed"])
    inner = masked(gx.clip_by_global_norm(1.0), "**/bias", otherwise="identity")
    chex.assert_trees_all_equal(inner.update(params, inner.init(params))[0], u)


def test_first_match_wins():
    tx = partition({"layers/0/*": gx.scale(1), "**/bias": gx.scale(2), "**": gx.scale(3)}, default=gx.scale(4))
    assert factors(tx) == {"embed": 3, "layers/0/w": 1, "layers/0/bias": 1, "layers/1/w": 3, "layers/1/bias": 2}
    with pytest.raises(ValueError, match=r"the rule 'embed' chooses no parameter; earlier rules chose embed$"):
        partition({"**": gx.scale(1), "embed": gx.scale(2)}).init(params)


@pytest.mark.parametrize(
    "pattern, chosen",
    [
        ("embed", {"embed"}),
        ("*", {"embed"}),
        ("**", paths(params)),
        ("**/bias", {"layers/0/bias", "layers/1/bias"}),
        ("*/0/*", {"layers/0/w", "layers/0/bias"}),
        ("layers/**", paths(params) - {"embed"}),
        ("layers/**/w", {"layers/0/w", "layers/1/w"}),
        ("layers/1/b*", {"layers/1/bias"}),
        ("l*/*/*s", {"layers/0/bias", "layers/1/bias"}),
        (gx.is_matrix, {"embed", "layers/0/w", "layers/1/w"}),
        (lambda path, leaf: leaf.size > 9, {"embed", "layers/0/w"}),
        (lambda path, leaf: np.bool_(leaf.shape == (2,)), {"layers/1/bias"}),
    ],
)
def test_which_parameters_a_rule_chooses(pattern, chosen):
    for tx in (
        partition({pattern: gx.scale(2)}, default=gx.scale(0)),
        masked(gx.scale(2), pattern, otherwise="zero"),
        gx.chain(gx.scale(-1), gx.add(freeze(pattern), gx.scale(-1)), gx.scale(2)),
    ):
        assert {path for path, factor in factors(tx).items() if factor == 2} == chosen


def test_labels_may_stand_for_branches_and_leave_the_rest_to_the_default():
    rules = {"a": gx.scale(1), "b": gx.scale(2)}
    expected = {"embed": 2, "layers/0/w": 1, "layers/0/bias": 1, "layers/1/w": 2, "layers/1/bias": 1}
    whole = partition(rules, labels={"embed": "b", "layers": ["a", {"w": "b", "bias": "a"}]})
    assert factors(whole) == expected
    part = partition(rules, gx.scale(9), labels={"embed": None, "layers": ["a", {"w": "b"}]})
    assert factors(part) == expected | {"embed": 9, "layers/1/bias": 9}


# Names that are prefixes or ends of other names.
alike = {
    "w": jnp.ones(1),
    "w2": jnp.ones(2),
    "layer": {"kernel": jnp.ones(3), "mykernel": jnp.ones(4)},
    "layer2": {"kernel": jnp.ones(5)},
    "mylayer": {"kernel": jnp.ones(6)},
}


@pytest.mark.parametrize(
    "pattern, chosen",
    [
        ("**/kernel", {"layer/kernel", "layer2/kernel", "mylayer/kernel"}),
        ("**/layer/**", {"layer/kernel", "layer/mykernel"}),
        ("layer/**", {"layer/kernel", "layer/mykernel"}),
        ("*/kernel", {"layer/kernel", "layer2/kernel", "mylayer/kernel"}),
        ("**/w", {"w"}),
        ("w/**", {"w"}),
        ("w", {"w"}),
    ],
)
def test_a_pattern_matches_whole_names(pattern, chosen):
    for tx in (
        partition({pattern: gx.scale(2)}, default=gx.scale(0)),
        masked(gx.scale(2), pattern, otherwise="zero"),
        gx.add_weight_decay(1.0, where=pattern),
    ):
        assert {path for path, factor in factors(tx, alike).items() if factor == 2} == chosen


@pytest.mark.parametrize("flip", [False, True])
def test_trees_of_labels_and_booleans_match_whole_names(flip):
    first, last = ("a", "b") if flip else ("b", "a")
    labels = {"w": first, "w2": last, "layer": first, "layer2": last, "mylayer": first}
    booleans = jax.tree.map(lambda label: label == "b", labels)
    expected = {path: 2.0 if labels[path.split("/")[0]] == "b" else 0.0 for path in paths(alike)}
    for tx in (
        partition({"a": gx.scale(0), "b": gx.scale(2)}, labels=labels),
        masked(gx.scale(2), booleans, otherwise="zero"),
        gx.chain(gx.add_weight_decay(1.0, where=booleans), gx.add_constant(-1.0), gx.scale(2)),
    ):
        assert factors(tx, alike) == expected


def test_an_optional_rule_may_choose_nothing():
    for optional in ("**/gate", ("**/gate",), ["**/gate"]):
        tx = partition({"**/gate": adam}, default=sgd, optional=optional)
        gradients = list(stream(params))
        chex.assert_trees_all_equal(follow(tx, params, gradients)[0], follow(sgd, params, gradients)[0])
    with pytest.raises(ValueError, match="chooses no parameter"):
        partition({"**/gate": adam}, default=sgd).init(params)
    tx = partition({"a": adam, "b": sgd}, labels="b", optional="a")
    assert_near(follow(tx, params, [params])[0], follow(sgd, params, [params])[0])


# ---------------------------------------------------------------- freezing
def test_frozen_parameters_stay_and_take_no_memory():
    tx = partition({"embed": freeze()}, default=adam)
    new, state, update, u = params, tx.init(params), jax.jit(tx.update), None
    for g in stream(params):
        u, state = update(g, state, new)
        new = gx.apply_updates(new, u)
    chex.assert_trees_all_equal(new["embed"], params["embed"])
    alone = {"layers": params["layers"]}
    expected, slots = follow(adam, alone, [{"layers": g["layers"]} for g in stream(params)])
    assert not any("embed" in path for path in paths(state.slots))
    memory = lambda s: sum(x.nbytes for x in jax.tree.leaves(s))  # noqa: E731
    assert memory(state) == memory(slots)
    assert u and not u["embed"].any()
    assert_near(u["layers"], expected[-1]["layers"])
    other = masked(adam, "layers/**", otherwise="zero")
    chex.assert_trees_all_equal(follow(other, params, stream(params))[0][-1], u)


def test_freeze_is_zero_there_even_for_nan_and_the_same_elsewhere():
    g = jax.tree.map(lambda x: x * jnp.nan, params)
    u, state = freeze("embed").update(g, freeze("embed").init(params))
    assert state.slots == {} and (u["embed"] == 0).all() and jnp.isnan(u["layers"][0]["w"]).all()


# ---------------------------------------------------------------- against Optax
@pytest.mark.promotes("Optax's arithmetic")
def test_optax_partition_and_masked(x64):
    p = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    gradients = list(stream(p, 8))
    labels = {"embed": "e", "layers": [{"w": "w", "bias": "b"}] * 2}
    theirs = optax.partition(
        {
            "e": optax.set_to_zero(),
            "w": optax.adamw(0.1),
            "b": optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(1)),
        },
        labels,
    )
    rules = {"embed": freeze(), "**/w": gx.adamw(0.1, weight_decay=1e-4)}
    biases = gx.chain(gx.clip_by_global_norm(0.3), gx.sgd(1.0))
    expected, _ = follow(theirs, p, gradients, jax.jit(theirs.update))
    assert_near(follow(partition(rules, default=biases), p, gradients)[0], expected, 1e-12)
    by_labels = partition({"e": freeze(), "w": rules["**/w"], "b": biases}, labels=labels)
    assert_near(follow(by_labels, p, gradients)[0], expected, 1e-12)

    mask = {"embed": False, "layers": [{"w": True, "bias": False}] * 2}
    theirs = optax.masked(optax.chain(optax.clip_by_global_norm(0.3), optax.scale_by_adam()), mask)
    adam_without_rate = gx.precondition(gx.momentum(), by=gx.rms())
    tx = masked(gx.chain(gx.clip_by_global_norm(0.3), adam_without_rate), mask, otherwise="identity")
    assert_near(follow(tx, p, gradients)[0], follow(theirs, p, gradients)[0], 1e-12)


@pytest.mark.promotes("Optax's arithmetic")
def test_optaxs_transformations_as_members():
    theirs, pattern = optax.chain(optax.clip_by_global_norm(0.3), optax.scale_by_adam()), "**/bias"
    gradients = list(stream(params))
    got, _ = follow(partition({pattern: theirs}, default=gx.identity()), params, gradients)
    mask = {"embed": False, "layers": [{"w": False, "bias": True}] * 2}
    masking = optax.masked(theirs, mask)
    assert_near(got, follow(masking, params, gradients)[0])


# ---------------------------------------------------------------- the arguments of a member
def test_extra_arguments_shaped_like_the_parameters_are_cut():
    curvature = jax.tree.map(lambda x: 2 * x, params)
    tx = gx.chain(partition({"**/bias": reads_extra()}, default=gx.scale(3)), freeze("embed"))
    u, _ = tx.update(params, tx.init(params), params, curvature=curvature, value=5.0)
    assert factors(gx.pair(lambda p: (), lambda *_: (u, ()))) == {
        "embed": 0,
        "layers/0/w": 3,
        "layers/0/bias": 2.5,
        "layers/1/w": 3,
        "layers/1/bias": 2.5,
    }
    nested = masked(partition({"**/bias": reads_extra()}, default=gx.scale(3)), "layers/0/*", otherwise="zero")
    absent = curvature | {"embed": None}
    gradients = params | {"embed": None}
    u, _ = nested.update(gradients, nested.init(params), params, curvature=absent, value=5.0)
    assert u["embed"] is None and u["layers"][0]["bias"][0] == 2.5 and u["layers"][1]["bias"][0] == 0
    with pytest.raises(TypeError, match="unexpected argument 'speed'"):
        tx.update(params, tx.init(params), params, speed=1.0)


@pytest.mark.parametrize("value", [5.0, jnp.float32(5), np.float64(5)])
def test_a_number_is_not_cut_though_the_parameters_are_one_array(value):
    w = jnp.ones(3)
    tx = partition({"x": reads_extra(), "**": reads_extra()}, optional="x")
    u, _ = tx.update(w, tx.init(w), w, curvature=2 * w, value=value)
    assert (u == 2.5).all()


def test_members_see_their_parameters():
    tx = partition({"**/bias": gx.scale(1)}, default=gx.add_weight_decay(0.5, where=gx.is_matrix))
    assert factors(tx) == {path: 1.0 if "bias" in path else 1.5 for path in paths(params)}
    with pytest.raises(ValueError, match=r"^add_weight_decay needs the parameters"):
        tx.update(params, tx.init(params))


def test_groups_within_groups():
    inner = partition({"**/bias": gx.scale(2), "**/w": gx.scale(3)})
    tx = partition({"layers/1/w": gx.scale(1), "layers/**": inner, "*": freeze()})
    assert factors(tx) == {"embed": 0, "layers/0/w": 3, "layers/0/bias": 2, "layers/1/w": 1, "layers/1/bias": 2}
    # a pattern may match leaves of another group; one that matches no leaf at all is still refused
    tx = partition({"**/bias": masked(gx.scale(2), "embed", otherwise="zero")}, default=gx.scale(1))
    assert factors(tx)["layers/0/bias"] == 0
    with pytest.raises(ValueError, match="where='embedding' chooses no parameter"):
        partition({"**/bias": masked(gx.scale(2), "embedding", otherwise="zero")}, default=gx.scale(1)).init(params)


# ---------------------------------------------------------------- slots
def test_slots_are_keyed_by_the_rules():
    def named(path, leaf):
        return path == "embed"

    tx = partition(
        {"**/bias": gx.scale_by_ema(), named: sgd, lambda path, leaf: path == "layers/0/w": sgd}, default=sgd
    )
    slots = tx.init(params).slots["partition"]
    assert list(slots) == ["**/bias", "named", "<lambda>", "default"]
    assert paths(slots["**/bias"]) == {"scale_by_ema/mean/layers/0/bias", "scale_by_ema/mean/layers/1/bias"}
    assert paths(slots["default"]) == {"add_momentum/velocity/layers/1/w"}
    assert paths(masked(sgd, "embed", otherwise="zero").init(params).slots) == {
        "masked/inner/add_momentum/velocity/embed"
    }
    assert partition({"embed": gx.scale(2), "layers/**": freeze()}).init(params).slots == {}
    two = partition({"default": sgd}, default=sgd, labels={"embed": "default"})
    assert list(two.init(params).slots["partition"]) == ["default", "default_2"]
    assert list(two.parts()) == ["default", "default_2"]


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_the_state_is_a_fixed_point(param_dtype):
    small = params_of(param_dtype)
    tx = partition({"b": adam}, default=gx.chain(gx.clip_by_global_norm(1.0), sgd))
    state = tx.init(small)
    for g in stream(small):
        u, after = tx.update(g, state, small)
        assert types(after) == types(state) and types(u) == types(g)
        state = after


# ---------------------------------------------------------------- trees
class Layer(NamedTuple):
    w: Any
    bias: Any


def test_any_tree_absent_leaves_integers_and_complex_numbers():
    tree = {"a": Layer(jnp.ones((2, 2)), None), "n": jnp.arange(3), "z": (jnp.ones(2, jnp.complex64), 2.0, ())}
    tx = partition({"**/w": adam, "z/0": sgd, gx.is_matrix: adam, "**/bias": adam}, default=sgd, optional=gx.is_matrix)
    g = jax.tree.map(lambda x: np.zeros(3, jax.dtypes.float0) if x is tree["n"] else jnp.ones_like(x), tree)
    u, state = tx.update(g, tx.init(tree), tree)
    assert u["n"].dtype == jax.dtypes.float0 and u["a"].bias is None and u["z"][0].dtype == jnp.complex64
    assert not any(path.endswith("/n") for path in paths(state.slots))
    chex.assert_trees_all_equal_structs(tx.update(u, state, tree)[1], state)
    # a complex leaf has the shape that the user gave it, at init and at update alike
    z = {"z": jnp.ones((2, 2), jnp.complex64), "v": jnp.ones(2, jnp.complex64), "w": jnp.ones(2)}
    tx = partition({gx.is_matrix: sgd}, default=gx.scale(1.0))
    assert paths(tx.init(z).slots) == {"partition/is_matrix/add_momentum/velocity/z"}
    chosen = partition({lambda path, leaf: leaf.dtype == jnp.complex64: sgd}, default=gx.scale(1.0))
    assert {path.split("/")[-1] for path in paths(chosen.init(z).slots)} == {"z", "v"}
    u, _ = chosen.update(z, chosen.init(z), z)
    assert_near(u["w"], z["w"])
    assert not (jnp.real(u["z"]) == 1).any() and not (jnp.real(u["v"]) == 1).any()
    low = {"w": jnp.ones(2, jnp.bfloat16)}  # which is float32 inside
    tx = gx.add_weight_decay(1.0, where=lambda path, leaf: leaf.dtype == jnp.bfloat16)
    assert (tx.update(low, tx.init(low), low)[0]["w"] == 2).all()
    assert_near(tx.update(z, tx.init(z), z)[0]["w"], z["w"])


@pytest.mark.parametrize("empty", [{}, {"a": None}, ()])
def test_trees_without_leaves(empty):
    for tx in (
        partition({"x": adam, gx.is_matrix: sgd}),
        masked(adam, "x", otherwise="zero"),
        freeze("x"),
        partition({"x": adam}, labels={"a": "x"}),
    ):
        u, state = tx.update(empty, tx.init(empty), empty)
        assert u == empty and state.step == 1


@pytest.mark.parametrize("absent", [{"layers": None}, {"embed": None}, {"embed": None, "layers": None}])
def test_none_for_a_gradient_leaves_the_leaf_and_its_slots_alone(absent):
    tx = partition({"layers/0/w": adam, "**/bias": adam, "embed": sgd}, default=sgd)
    first, second = stream(params, 2)
    _, state = follow(tx, params, [first])
    u, after = tx.update(second | absent, state, params)
    whole, _ = tx.update(second, state, params)
    assert_near(u, whole | absent)
    chex.assert_trees_all_equal_structs(after, state)
    old, new = leaves_by_path(state.slots), leaves_by_path(after.slots)
    for path in old:
        leaf = next((leaf for leaf in paths(params) if path.endswith(f"/{leaf}")), "")  # none for a bias correction's
        assert not leaf or (new[path] == old[path]).all() == (leaf.split("/")[0] in absent)


def test_none_for_a_gradient_without_parameters():
    tx = partition({"embed": gx.clip(1.0), gx.is_matrix: sgd}, default=gx.scale(1.0))
    u, _ = tx.update(params | {"embed": None}, tx.init(params))
    assert u["embed"] is None


# ---------------------------------------------------------------- jax's transformations
tx = partition({"b": gx.chain(gx.clip_by_global_norm(0.5), adam)}, default=masked(sgd, gx.is_matrix, otherwise="zero"))


def test_eager_jit_scan_and_disable_jit_agree():
    small = params_of()
    gradients = list(stream(small))

    def step(state, g):
        u, state = tx.update(g, state, small)
        return state, u

    eager, state = follow(tx, small, gradients)
    jitted, _ = follow(tx, small, gradients, jax.jit(tx.update))
    chex.assert_trees_all_equal(jitted, eager)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
    last, scanned = jax.lax.scan(step, jax.jit(tx.init)(small), stacked)
    assert_near(scanned, jax.tree.map(lambda *x: jnp.stack(x), *eager))
    assert_near(last, state)
    with jax.disable_jit():
        assert_near(follow(tx, small, gradients[:2])[0], eager[:2])
    assert jax.eval_shape(tx.init, small) == jax.eval_shape(lambda: state)
    shapes = jax.eval_shape(tx.update, small, state, small)[0]
    assert shapes == jax.eval_shape(lambda: small)


def test_vmap_over_parameters_and_over_optimizers():
    small = params_of()
    gradients = list(stream(small))

    def last(tx, params, gradients):
        return follow(tx, params, gradients)[0][-1]

    many = jax.tree.map(lambda x: jnp.stack([x, -2 * x]), (small, gradients))
    got = jax.jit(jax.vmap(partial(last, tx)))(*many)
    for i in range(2):
        assert_near(member(got, i), last(tx, *member(many, i)))

    def make(rate, decay):
        return partition({"b": gx.adam(rate, b1=decay)}, default=gx.sgd(rate, momentum=decay))

    rates, decays = jnp.array([0.1, 0.2, 0.3]), jnp.array([0.5, 0.7, 0.9])
    batch = jax.vmap(make)(rates, decays)
    got = jax.jit(jax.vmap(lambda tx: last(tx, small, gradients)))(batch)
    for i in range(3):
        assert_near(member(got, i), last(make(rates[i], decays[i]), small, gradients), 3e-6)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_is_single_device(axis_type):
    big = {"w": jnp.arange(64.0).reshape(16, 4) / 64, "b": jnp.ones(3)}
    gradients = list(stream(big, 2))
    single, _ = follow(tx, big, gradients)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        spec = {"w": NamedSharding(mesh, PartitionSpec("x")), "b": NamedSharding(mesh, PartitionSpec())}
        put = partial(jax.device_put, device=spec)
        for init in (tx.init, jax.jit(tx.init)):
            slots = [slot for slot in jax.tree.leaves(init(put(big)).slots) if slot.shape == (16, 4)]
            assert len(slots) == 1 and slots[0].sharding.is_equivalent_to(spec["w"], 2)
        assert_near(follow(tx, put(big), map(put, gradients))[0], single, 3e-6)


@pytest.mark.promotes("functions of the step, as users write them")
def test_hyperparameters_of_members_are_leaves_may_be_schedules_and_compile_once():
    traces = 0

    class count(gx.PerLeaf):
        def update_leaf(self, g, slots, context):
            nonlocal traces
            traces += 1
            return g, slots

    small, make = params_of(), lambda rate: partition({"b": gx.scale(rate)}, default=gx.chain(count(), gx.sgd(rate)))
    assert jax.tree.leaves(make(0.5)) == [0.5, 0.5]
    assert [type(x) for x in jax.tree.leaves(tx)] == [float] * len(jax.tree.leaves(tx))
    for rate in (0.5, 0.25, 1):
        make(rate).update(small, make(rate).init(small), small)
    assert traces == 1
    halving = gx.of_step(lambda step: 0.5 * 0.5**step)
    (first, second), state = follow(make(halving), small, [small, small])
    assert_near(second, jax.tree.map(lambda x: x / 2, first))
    assert make(halving).at(1) == make(0.25)
    chex.assert_trees_all_equal_structs(state, make(0.5).init(small))


# ---------------------------------------------------------------- records
RECORDS = [
    tx,
    partition({"embed": adam, gx.is_matrix: sgd}, default=gx.adamw(), optional=gx.is_matrix),
    partition({"x": gx.scale(2), "y": gx.scale(3)}, labels={"a": {"b": "x", "c": "y"}}),
    partition({"x": gx.scale(2), "y": gx.scale(3)}, gx.scale(4), labels="x", optional=["y"]),
    partition({}, default=adam),
    masked(adam, {"a": [True, False]}, otherwise="identity"),
    masked(adam, "embed", otherwise="zero"),
    freeze("embed"),
    freeze(),
    freeze({"a": True}),
]


@pytest.mark.parametrize("tx", RECORDS)
def test_a_record_prints_as_its_call_and_equal_ones_are_alike(tx):
    again = gx.read(repr(tx))
    for twin in (again, pickle.loads(pickle.dumps(tx)), copy.deepcopy(tx), dataclasses.replace(tx)):
        assert twin == tx and hash(twin) == hash(tx) and jax.tree.structure(twin) == jax.tree.structure(tx)
    assert tx not in [other for other in RECORDS if other is not tx] and len(list(walk(tx))) >= 1
    assert max(map(len, repr(tx).splitlines())) <= 100
    assert jax.tree.map(lambda x: x, tx) == tx


def test_a_partition_prints_its_rules():
    assert repr(partition({"b": gx.scale(1), gx.is_matrix: freeze()}, gx.scale(3), optional="b")) == (
        "partition(\n    {'b': scale(1.0), is_matrix: freeze()},\n    default=scale(3.0),\n    optional=('b',),\n)"
    )


# ---------------------------------------------------------------- explain
def test_explain():
    tx = gx.chain(
        gx.clip(1.0),
        partition({"**/bias": masked(gx.scale(2), "layers/0/*", otherwise="zero")}, default=gx.sgd(0.5)),
        freeze("embed"),
    )
    shapes = jax.eval_shape(lambda: {**params, "n": jnp.arange(2), "absent": None})
    text = """\
parameter      type          axes     group
embed          float32[5,2]  row out  partition.default, freeze.frozen
layers/0/bias  float32[4]    out      partition.**/bias.masked.inner, freeze.otherwise
layers/0/w     float32[3,4]  in out   partition.default, freeze.otherwise
layers/1/bias  float32[2]    out      partition.**/bias.masked.otherwise, freeze.otherwise
layers/1/w     float32[4,2]  in out   partition.default, freeze.otherwise
n              int32[2]               not floating

partition.default, freeze.frozen = chain(clip(1.0), identity(), scale_by_learning_rate(0.5), zero())
partition.**/bias.masked.inner, freeze.otherwise = chain(clip(1.0), scale(2.0), identity())
partition.default, freeze.otherwise = chain(clip(1.0), identity(), scale_by_learning_rate(0.5), identity())
partition.**/bias.masked.otherwise, freeze.otherwise = chain(clip(1.0), zero(), identity())
not floating = identity()"""
    assert str(explain(tx, shapes)) == text and repr(explain(tx, shapes)) == text
    rows = explain(tx, params).rows
    assert [row[:4] for row in rows] == [row[:4] for row in explain(tx, shapes).rows[:-1]]
    assert (
        str(explain(gx.scale(1), {"w": 2.0}))
        == "parameter  type       axes  group\nw          float32[]        all\n\nall = scale(1.0)"
    )


def test_explain_names_the_transformation_that_runs():
    """The transformation that `explain` names for a leaf gives the leaf's update when it runs alone."""
    inner = partition({"**/bias": gx.momentum(0.8)}, default=masked(gx.rms(0.9), "*/0/*", otherwise="identity"))
    tx = gx.precondition(gx.add(inner, freeze(gx.is_matrix)), by=gx.rms(), eps=0.1)
    gradients = list(stream(params))
    got, _ = follow(tx, params, gradients)
    for row in explain(tx, params).rows:
        alone, _ = follow(row.tx, params, gradients)
        assert_near(leaves_by_path(got[-1])[row.parameter], leaves_by_path(alone[-1])[row.parameter])
        assert not {partition, masked, freeze} & set(map(type, walk(row.tx)))


# ---------------------------------------------------------------- errors
BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "unmatched leaves": (
        lambda: partition({"**/bias": adam}).init(params),
        ValueError,
        "^partition: no rule chooses embed, layers/0/w, layers/1/w: pass a default$",
    ),
    "a rule that chooses nothing": (
        lambda: partition({"**/gate": adam}, default=sgd).init(params),
        ValueError,
        r"^partition: the rule '\*\*/gate' chooses no parameter; there are embed, layers/0/bias, layers/0/w, ",
    ),
    "a function that chooses nothing": (
        lambda: partition({gx.is_matrix: adam}, default=sgd).init({"b": jnp.ones(2)}),
        ValueError,
        "^partition: the rule is_matrix chooses no parameter; there are b$",
    ),
    "a rule of labels that chooses nothing": (
        lambda: partition({"a": adam, "b": sgd}, labels="a").init(params),
        ValueError,
        "^partition: the rule 'b' chooses no parameter",
    ),
    "labels of another structure": (
        lambda: partition({"a": adam}, labels={"embed": "a", "layers": ["a", "a", "a"]}).init(params),
        ValueError,
        r"^partition: labels\['layers/2'\] matches no parameter; there are embed, ",
    ),
    "labels of the beginning of a name": (
        lambda: partition({"a": adam}, default=sgd, labels={"layer": "a", "laye": "a"}).init(alike),
        ValueError,
        r"^partition: labels\['laye'\] matches no parameter; there are layer/kernel, ",
    ),
    "booleans of the beginning of a name": (
        lambda: masked(adam, {"laye": True} | dict.fromkeys(alike, True), "zero").init(alike),
        ValueError,
        r"^masked: where=.*\['laye'\] matches no parameter; there are layer/kernel, ",
    ),
    "booleans of more than a name": (
        lambda: masked(adam, {"w22": True} | dict.fromkeys(alike, True), "zero").init(alike),
        ValueError,
        r"^masked: where=.*\['w22'\] matches no parameter; there are layer/kernel, ",
    ),
    "a mask without a name that begins like another": (
        lambda: masked(adam, {"w": True, "layer": True, "layer2": True, "mylayer": True}, "zero").init(alike),
        ValueError,
        "has no entry for the parameter 'w2'",
    ),
    "labels without a name that begins like another": (
        lambda: partition({"a": adam}, labels={"w": "a", "layer": "a", "mylayer": "a", "layer2": "a"}).init(alike),
        ValueError,
        "^partition: no rule chooses w2: pass a default",
    ),
    "labels that lack a leaf": (
        lambda: partition({"a": adam}, labels={"embed": "a", "layers": ["a", {"w": "a"}]}).init(params),
        ValueError,
        "^partition: no rule chooses layers/1/bias: pass a default",
    ),
    "an unknown label": (
        lambda: partition({"a": adam, "b": sgd}, labels={"x": "a", "y": "c"}),
        ValueError,
        "^partition: labels has 'c', which is not a rule; the rules are 'a', 'b'$",
    ),
    "labels of numbers": (
        lambda: partition({"a": adam}, labels={"x": 1}),
        TypeError,
        "^partition: labels must be a tree of strings, got {'x': 1}",
    ),
    "a function of labels": (
        lambda: partition({"a": adam}, labels=lambda params: {"x": "a"}),
        TypeError,
        "^partition: labels must be a tree of strings, got the function <lambda>: call it with the parameters$",
    ),
    "labels as the default": (
        lambda: partition({"a": adam}, {"x": "a"}),  # pyright: ignore[reportArgumentType]
        TypeError,
        "^partition: default must be a transformation, got {'x': 'a'}. Pass labels as labels=…$",
    ),
    "an unknown optional rule": (
        lambda: partition({"a": adam}, sgd, optional="b"),
        ValueError,
        "^partition: optional has 'b', which is not a rule; the rules are 'a'$",
    ),
    "a function that answers no boolean": (
        lambda: partition({lambda path, leaf: "no": adam}, default=sgd).init(params),
        TypeError,
        "^partition: the rule <lambda> must return True or False for 'embed', got 'no'$",
    ),
    "a mask that answers no boolean": (
        lambda: masked(adam, lambda path, leaf: 1, otherwise="zero").init(params),
        TypeError,
        "^masked: where=<lambda> must return True or False for 'embed', got 1$",
    ),
    "a function of the values": (
        lambda: partition({lambda path, leaf: leaf.sum() > 0: adam}, default=sgd).init(params),
        AttributeError,
        "chosen by its path and type: a leaf has shape, ndim, size and dtype, not 'sum'",
    ),
    "a rule of the wrong type": (
        lambda: partition({3: adam}),
        TypeError,
        "^partition: a rule must be a pattern, a function, or a label, got 3",
    ),
    "a function with labels": (
        lambda: partition({gx.is_matrix: adam}, labels="x"),
        TypeError,
        "^partition: a rule must be a pattern, a function, or a label, got the function is_matrix",
    ),
    "pairs": (lambda: partition([("*", adam)]), TypeError, "^partition: rules must be a dict of transformations, got"),  # pyright: ignore[reportArgumentType]
    "a number": (lambda: partition(3), TypeError, "^partition: rules must be a dict of transformations, got 3"),  # pyright: ignore[reportArgumentType]
    "a member that is not a transformation": (
        lambda: partition({"*/b": 0.1}),  # pyright: ignore[reportArgumentType]
        TypeError,
        r"^partition: rules\['\*/b'\] must be a transformation",
    ),
    "a default that is not a transformation": (
        lambda: partition({}, 0.1),  # pyright: ignore[reportArgumentType]
        TypeError,
        "^partition: default must be a transformation",
    ),
    "otherwise": (
        lambda: masked(adam, "w", "keep"),  # pyright: ignore[reportArgumentType]
        ValueError,
        "^masked: otherwise must be 'identity' or 'zero', got 'keep'",
    ),
    "no otherwise": (lambda: masked(adam, "w"), TypeError, "masked: missing a required .*argument: 'otherwise'"),  # pyright: ignore
    "a mask of the wrong type": (
        lambda: masked(adam, {"w": 1}, "zero"),
        TypeError,
        "^masked: where must be .*a tree of booleans, got {'w': 1}",
    ),
    "a mask with a branch missing": (
        lambda: masked(adam, {"embed": True}, "zero").init(params),
        ValueError,
        "has no entry for the parameter 'layers/0/bias'",
    ),
    "masked: a pattern that chooses nothing": (
        lambda: masked(adam, "gate", "zero").init(params),
        ValueError,
        "^masked: where='gate' chooses no parameter; there are embed, ",
    ),
    "freeze: a pattern that chooses nothing": (
        lambda: freeze("gate").init(params),
        ValueError,
        "^freeze: where='gate' chooses no parameter; there are embed, ",
    ),
    "explain: a number for a transformation": (
        lambda: explain(3, params),  # pyright: ignore[reportArgumentType]
        TypeError,
        "^explain: tx must be a transformation",
    ),
    "explain: a rule that chooses nothing": (
        lambda: explain(gx.chain(freeze("gate")), params),
        ValueError,
        "^freeze: where='gate' chooses no parameter",
    ),
    "a state of another partition": (
        lambda: partition({"embed": sgd}, sgd).update(params, partition({"**/w": sgd}, sgd).init(params), params),
        ValueError,
        r"^state.slots\['partition/.*'\] is .*; make the state with init of this optimizer",
    ),
}


@pytest.mark.parametrize("act, error, words", BAD.values(), ids=BAD)
def test_bad_input(act, error, words):
    with pytest.raises(error, match=words):
        act()
