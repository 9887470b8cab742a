"""A user's combinator of a tuple of transformations works everywhere that gradtx walks through parts."""

import jax
import jax.numpy as jnp
import pytest
from streams import assert_near, follow, params_of, stream

import gradtx as gx
from gradtx.core import leaves_by_path, walk


class mean_of(gx.Transformation):
    """The mean of the updates of several transformations."""

    inner: tuple[gx.Transformation, ...]
    weight: gx.Scalar = 1.0

    def update_tree(self, updates, slots, context):
        new = {}
        made = [self.part(name, updates, slots, context, new) for name in self.parts()]
        return jax.tree.map(lambda *u: self.weight * sum(u) / len(u), *made), new


TX = mean_of((gx.adam(0.1), gx.heavy_ball(0.2, 0.5)), weight=0.5)
PARAMS = params_of()


def test_its_parts_and_slots_have_the_same_names():
    assert TX.parts() == {"inner_1": gx.adam(0.1), "inner_2": gx.heavy_ball(0.2, 0.5)}
    state = TX.init(PARAMS)
    assert list(state.slots) == ["mean_of"] and list(state.slots["mean_of"]) == ["inner_1", "inner_2"]
    assert sum(type(piece) is gx.scale_by_learning_rate for piece in walk(TX)) == 2


def test_it_computes_its_formula_and_keeps_the_laws():
    alone = [follow(part, PARAMS, stream(PARAMS))[0] for part in TX.parts().values()]
    expected = [jax.tree.map(lambda a, b: 0.25 * (a + b), *both) for both in zip(*alone)]
    assert_near(follow(TX, PARAMS, stream(PARAMS))[0], expected)
    gx.check_laws(TX)


def test_hyperparameters_are_read_and_set():
    found = gx.hyperparameters(TX)
    assert {found["inner_1.learning_rate"], found["weight"]} == {0.1, 0.5}
    new = gx.set_hyperparameters(TX, {"inner_2.learning_rate": 0.3, "weight": 1.0})
    assert new == mean_of((gx.adam(0.1), gx.heavy_ball(0.3, 0.5)))
    assert TX.at(3) == TX and jax.tree.structure(new) == jax.tree.structure(TX)


@pytest.mark.parametrize("first", [True, False])
def test_eval_params_come_from_the_part_that_has_them(first):
    averaged, plain = gx.lookahead(gx.sgd(1.0), every_k=4), gx.sgd(1.0)
    tx = mean_of((averaged, plain) if first else (plain, averaged))
    state = tx.init(PARAMS)
    g = next(stream(PARAMS))
    updates, state = tx.update(g, state, PARAMS)
    moved = gx.apply_updates(PARAMS, updates)
    assert_near(gx.eval_params(tx, state, moved), PARAMS)  # the slow weights, which have not moved yet


def test_explain_formula_summary_and_repr():
    tx = mean_of((gx.partition({"b": gx.sgd(0.1)}, default=gx.adam()), gx.sgd(0.2)))
    rows = {row.parameter: row for row in gx.explain(tx, PARAMS).rows}
    assert rows["b"].group == "partition.b" and rows["w"].group == "partition.default"
    assert rows["b"].tx == mean_of((gx.sgd(0.1), gx.sgd(0.2)))
    assert "mean" in gx.formula(TX)
    assert "mean_of.inner_2.add_momentum" in str(gx.summary(TX, PARAMS))
    assert gx.read(repr(TX), {"mean_of": mean_of}) == TX


# ---------------------------------------------------------------- names
class my(gx.PerLeaf):
    """Adds its rate times the number of its updates; `my_2` and `my_3` are classes of the same kind."""

    rate: gx.Scalar = 1.0

    def init_leaf(self, param):
        return {"sum": jnp.zeros_like(param)}

    def update_leaf(self, g, slots, context):
        return g + (kept := slots["sum"] + self.rate), {"sum": kept}


class my_2(my):
    pass


class my_3(my):
    pass


def factors(tx, params):
    """The factor of each parameter's update, for pieces that only scale."""
    u, _ = tx.update(params, tx.init(params), params)
    return {path: float(x) for path, x in leaves_by_path(u).items()}


def moves(tx, updates=2):
    return [float(u["w"]) for u in follow(tx, {"w": jnp.zeros(())}, [{"w": jnp.zeros(())}] * updates)[0]]


@pytest.mark.parametrize(
    "classes, names",
    [
        ([my, my, my], ["my", "my_2", "my_3"]),
        ([my, my_2, my_3], ["my", "my_2", "my_3"]),
        ([my, my, my_2], ["my", "my_3", "my_2"]),
        ([my_2, my, my], ["my_2", "my", "my_3"]),
        ([my, my_2, my], ["my", "my_2", "my_3"]),
        ([my, my, my_2, my_3, my_2], ["my", "my_4", "my_2", "my_3", "my_2_2"]),
    ],
)
def test_no_made_name_is_a_chosen_one(classes, names):
    rates = [10.0**i for i in range(len(classes))]
    links = [one(rate) for one, rate in zip(classes, rates)]
    for tx in (gx.chain(*links), gx.add(*links), gx.multiply(*links), gx.monitor("m", lambda *trees: 0.0, *links)):
        assert list(tx.parts()) == names and [*tx.parts().values()] == links
        assert sorted(gx.hyperparameters(tx).values()) == rates
    assert moves(gx.chain(*links)) == moves(gx.add(*links)) == [sum(rates), 2 * sum(rates)]


GROUPS = [
    {"default": 1.0, "default_2": 2.0},
    {"default_2": 1.0, "default": 2.0},
    {"default": 1.0, "default_2": 2.0, "default_3": 4.0},
    {"default_3": 1.0, "default_2": 2.0},
]


@pytest.mark.parametrize("rates", GROUPS)
def test_a_group_of_a_partition_has_a_name_of_its_own(rates):
    params = dict.fromkeys([*rates, "rest"], jnp.ones(()))
    tx = gx.partition({name: gx.sgd(rate) for name, rate in rates.items()}, default=gx.sgd(0.5))
    names = [rule.name for rule in tx.groups()]
    assert names[:-1] == [*rates] and len({*names}) == len(names)
    assert factors(tx, params) == {name: -rate for name, rate in (rates | {"rest": 0.5}).items()}
    shown = {row.parameter: row.tx for row in gx.explain(tx, params).rows}
    assert shown == {name: gx.chain(gx.sgd(rate)) for name, rate in (rates | {"rest": 0.5}).items()}
    assert sorted(gx.hyperparameters(tx).values()) == sorted([0.5, *rates.values()])


def test_functions_of_one_name_and_a_label_of_a_made_one_are_groups():
    def named(path):
        chosen = lambda other, leaf: other == path  # noqa: E731
        chosen.__name__ = "chosen"
        return chosen

    rules = {named("a"): gx.scale(1), named("b"): gx.scale(2), "chosen_2": gx.scale(3)}
    tx = gx.partition(rules, default=gx.scale(4))
    params = dict.fromkeys(["a", "b", "c", "chosen_2"], jnp.ones(()))
    assert factors(tx, params) == {"a": 1, "b": 2, "chosen_2": 3, "c": 4}


def test_a_recipe_twice_has_no_name_of_a_class():
    adam_2 = type("adam_2", (my,), {"__annotations__": {"b1": gx.Scalar}, "b1": 0.5})
    found = gx.hyperparameters(gx.chain(gx.adam(0.1, b1=0.6), gx.adam(0.2, b1=0.7), adam_2()))
    assert sorted(value for name, value in found.items() if name.endswith("b1")) == [0.5, 0.6, 0.7]


class measured(my):
    """A piece with the name of a slot of `monitor`."""


class both(gx.Transformation):
    """Parts of a tuple beside fields with the names that these would have."""

    inner: tuple[gx.Transformation, ...]
    inner_1: gx.Transformation
    inner_1_2: gx.Transformation

    def update_tree(self, updates, slots, context):
        new = {}
        for name in self.parts():
            updates = self.part(name, updates, slots, context, new)
        return updates, new


def test_no_name_of_a_part_is_one_of_a_slot_or_a_field():
    tx = gx.chain(my(1.0), gx.monitor("m", gx.global_norm, measured(3.0)))
    states = follow(tx, {"w": jnp.zeros(())}, [{"w": jnp.zeros(())}] * 2)[1]
    assert float(gx.measurements(states)["m"]) == 2 + 6
    tx = both((my(1.0), my(2.0)), my(4.0), my(8.0))
    assert [*tx.parts().values()] == [my(1.0), my(2.0), my(4.0), my(8.0)]
    assert tx.parts()["inner_1"] == my(4.0) and tx.parts()["inner_1_2"] == my(8.0)
    assert moves(tx) == [15, 30]
