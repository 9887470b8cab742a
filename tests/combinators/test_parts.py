"""A user's combinator of a tuple of transformations works everywhere that gradtx walks through parts."""

import jax
import pytest
from streams import assert_near, follow, params_of, stream

import gradtx as gx
from gradtx.core import walk


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
