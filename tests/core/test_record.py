"""Records beyond the registry: fields by annotation, schedules, numbers of other types."""

import dataclasses
import inspect
import pickle
import types
from collections.abc import Callable
from typing import Any, Optional

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer
from streams import assert_near, follow, params_of, stream

import gradtx as gx
from gradtx.core import Fraction


class both(gx.Transformation):
    """A field of each kind."""

    inner: gx.Transformation
    several: tuple[gx.Transformation, ...]
    rate: gx.Scalar = 1
    name: str = "x"
    flag: bool = False

    def update_tree(self, updates: Any, slots: Any, context: gx.Context) -> tuple[Any, Any]:
        return updates, slots


def test_annotations_decide_which_fields_are_leaves():
    pair: Any = (lambda p: (), lambda u, s, p=None: (u, s))
    tx = both(gx.scale(2), (gx.scale(3), pair), 4, "y")
    assert jax.tree.leaves(tx) == [2.0, 3.0, 4.0] and all(type(x) is float for x in jax.tree.leaves(tx))
    assert isinstance(tx.several[1], gx.pair)
    assert jax.tree.structure(tx) != jax.tree.structure(dataclasses.replace(tx, name="z"))
    assert jax.tree.structure(tx) == jax.tree.structure(dataclasses.replace(tx, rate=7))
    assert repr(both(gx.scale(2), (), flag=True)) == "both(scale(2.0), several=(), rate=1.0, flag=True)"


@pytest.mark.parametrize(
    "number", [0.5, np.float32(0.5), np.float64(0.5), jnp.float32(0.5), np.array(0.5), jnp.array(0.5)]
)
def test_a_number_of_any_type_is_the_number(number):
    assert gx.scale(number) == gx.scale(0.5) and hash(gx.scale(number)) == hash(gx.scale(0.5))
    assert repr(gx.scale(number)) == "scale(0.5)"
    assert pickle.loads(pickle.dumps(gx.scale(number))) == gx.scale(0.5)


KINDS = {
    "Scalar": gx.Scalar,
    "NonNegative": gx.NonNegative,
    "Positive": gx.Positive,
    "Decay": gx.Decay,
    "Fraction": Fraction,
    "optional": gx.Scalar | None,
    "several": tuple[gx.Scalar, ...],
}


@pytest.mark.parametrize("hint", KINDS.values(), ids=KINDS)
def test_an_array_that_its_owner_changes_is_not_in_a_record(hint):
    record: Any = type("holds", (gx.Schedule,), {"__annotations__": {"x": hint}})
    array = np.array(0.5, np.float32)
    several = isinstance(hint, types.GenericAlias)
    made = record((array,) if several else array)
    before, shown = hash(made), repr(made)
    array[...] = 0.25
    assert made == record((0.5,) if several else 0.5) and (hash(made), repr(made)) == (before, shown)
    (held,) = jax.tree.leaves(made)
    assert held.dtype == np.float32 and not held.flags.writeable


TAKES = {name: inspect.signature(getattr(gx, name)).parameters for name in gx.optimizers.__all__}


@pytest.mark.parametrize("name", [name for name, takes in TAKES.items() if "learning_rate" in takes])
def test_a_recipe_keeps_the_number_that_it_is_called_with(name):
    rate = np.array(0.125)
    inner = {"inner": gx.scale(1.0)} if "inner" in TAKES[name] else {}
    tx = getattr(gx, name)(learning_rate=rate, **inner)
    before, shown, values = hash(tx), repr(tx), gx.hyperparameters(tx)
    rate[...] = 0.5
    assert (hash(tx), repr(tx), gx.hyperparameters(tx)) == (before, shown, values)


def test_integers_become_floats():
    for one in (1, np.int64(1), jnp.int32(1)):
        (leaf,) = jax.tree.leaves(gx.scale(one))
        assert jnp.result_type(leaf) == jnp.float32 and leaf == 1


def test_records_are_frozen_and_replaceable():
    tx: Any = gx.adam()
    precondition, rate = tx.links
    for change in (
        lambda: setattr(rate, "learning_rate", 1.0),
        lambda: setattr(rate, "rate", 1.0),
        lambda: delattr(rate, "learning_rate"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    faster = dataclasses.replace(tx, links=(precondition, dataclasses.replace(rate, learning_rate=1)))
    assert faster == gx.adam(1) and faster != tx
    with pytest.raises(ValueError, match="eps must be"):
        dataclasses.replace(precondition, eps=-1)


def test_equal_records_are_one_static_argument():
    traces = []

    def step(tx, g):
        traces.append(tx)
        return tx.update(g, tx.init(g))[0]

    jitted = jax.jit(step, static_argnums=0)
    jitted(gx.adam(1e-2), jnp.ones(2))
    jitted(gx.adam(1e-2), jnp.ones(2))
    assert len(traces) == 1
    jitted(gx.adam(1e-3), jnp.ones(2))
    assert len(traces) == 2


def test_iteration_is_the_pair():
    init, update = gx.sgd(1.0)
    assert update(jnp.ones(1), init(jnp.ones(1)))[0] == -1


def halving(step):
    return 0.5**step


@pytest.mark.promotes("functions of the step, as users write them")
def test_schedules():
    tx = gx.adam(halving, b1=lambda step: 0.9 - 0.1 * step)
    assert "scale_by_learning_rate(of_step(halving))" in repr(tx)
    assert gx.adam(halving) == gx.adam(halving) and pickle.loads(pickle.dumps(gx.adam(halving))) == gx.adam(halving)
    assert gx.adam(halving, eps=lambda step: 1e-8 * (step + 1)).at(2) == gx.adam(0.25, eps=1e-8 * 3)
    params = params_of()
    state = tx.init(params)
    by_hand = tx.at(0).init(params)
    for i, g in enumerate(stream(params, 3)):
        u, state = tx.update(g, state, params)
        expected, by_hand = tx.at(i).update(g, by_hand, params)  # the rates of each step, changed between updates
        assert_near(u, expected)


def test_a_schedule_is_traced_once_and_sees_integers():
    seen = []

    def rate(step):
        seen.append(step)
        return jnp.where(step < 2**24 + 1, 1.0, 2.0)

    tx, params = gx.sgd(rate), jnp.ones(2)
    state = tx.init(params)
    for last in (2**24 - 1, 2**24, 2**24 + 1):
        u, _ = tx.update(params, state._replace(step=jnp.array(last, jnp.int32)), params)
        assert u[0] == (-2 if last > 2**24 else -1)
    traced = [step for step in seen if isinstance(step, Tracer)]
    assert traced and all(step.dtype == jnp.int32 for step in traced)


def test_gradients_agree_with_finite_differences(x64):
    """With respect to every hyperparameter of Adam, through an unrolled run."""
    params = {"a": jnp.array([1.0, -2.0, 0.5]), "rest": jnp.zeros(2)}

    def loss(tx):
        p, state = params, tx.init(params)
        for _ in range(6):
            gradient = {"a": p["a"] * jnp.array([1.0, 3.0, 0.3]), "rest": jnp.zeros(2)}
            u, state = tx.update(gradient, state, p)
            p = gx.apply_updates(p, u)
        return jnp.sum(p["a"] ** 2)

    tx = gx.adam(0.1, b1=0.8, b2=0.9, eps=1e-2)
    leaves, structure = jax.tree.flatten(tx)
    gradient = jax.tree.leaves(jax.grad(loss)(tx))
    for i, got in enumerate(gradient):
        h = 1e-6
        ahead, behind = (
            jax.tree.unflatten(structure, [x + s * (j == i) for j, x in enumerate(leaves)]) for s in (h, -h)
        )
        assert abs(got - (loss(ahead) - loss(behind)) / (2 * h)) <= 1e-6 * max(1, abs(got))
    assert len(gradient) == 6


def test_vmapping_the_recipe_makes_many_optimizers():
    rates = jnp.array([0.1, 0.2])
    many = jax.vmap(gx.adam)(rates)
    params = params_of()
    run = jax.vmap(lambda tx: follow(tx, params, stream(params, 3))[0][-1])(many)
    for i, rate in enumerate(rates):
        one = follow(gx.adam(float(rate)), params, stream(params, 3))[0][-1]
        assert_near(jax.tree.map(lambda x, i=i: x[i], run), one, 2e-6)
    assert "scale_by_learning_rate(<float32[2]>)" in repr(many)


def test_fields_have_the_options_of_a_dataclass():
    class own(gx.PerLeaf):
        a: gx.Scalar = 1.0
        names: tuple = dataclasses.field(default_factory=tuple)
        inner: gx.Transformation = dataclasses.field(default_factory=lambda: gx.sgd(0.1))
        _: dataclasses.KW_ONLY
        n: int = 3
        fixed: int = dataclasses.field(default=7, init=False)

    class below(own):
        b: gx.Scalar = 2.0

    assert own(2.0, ("a",), gx.adam(), n=4).n == 4 and own().names == () and own().inner == gx.sgd(0.1)
    assert below(n=5).fixed == 7 and below(n=5).b == 2.0
    for call in (lambda: own(1.0, (), gx.adam(), 4), lambda: own(fixed=1)):  # pyright: ignore[reportCallIssue]
        with pytest.raises(TypeError, match=r"^own(: too many positional arguments| has no argument)"):
            call()

    class first(gx.PerLeaf):
        a: gx.Scalar
        scale: dataclasses.InitVar[float] = 2.0

        def __post_init__(self, scale):
            self.__dict__["a"] *= scale
            super().__post_init__()

    assert first(1.0, 3.0).a == 3.0
    with pytest.raises(
        TypeError, match=r"^late: non-default argument 'b' follows default argument.*fields with defaults come last"
    ):

        class late(gx.PerLeaf):
            a: gx.Scalar = 1.0
            b: gx.Scalar  # pyright: ignore[reportGeneralTypeIssues]


def test_a_function_that_may_be_none_is_checked():
    class own(gx.PerLeaf):
        f: Optional[Callable[[Any], Any]] = None  # noqa: UP045
        several: tuple[gx.Transformation, ...] = ()

    assert own().f is None and own(abs).f is abs
    with pytest.raises(TypeError, match=r"^own: f must be a function of one argument, got 3$"):
        own(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"^own: several must be a sequence, got 3$"):
        own(several=3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "make",
    [
        lambda f: gx.asgd(f),
        lambda f: gx.asgd(weight_decay=f),
        lambda f: gx.madgrad(momentum=f),
        lambda f: gx.mars(gx.sgd(0.1), f, f),
        lambda f: gx.rolling_ball(f, f, f),
        lambda f: gx.adamc(0.1, f, weight_decay=f),
    ],
)
def test_a_recipe_can_compute_with_functions_of_the_step(make):
    params = params_of()
    gradients = list(stream(params, 2))
    got, _ = follow(make(lambda step: jnp.asarray(0.5)), params, gradients)
    assert_near(got, follow(make(0.5), params, gradients)[0])


def test_a_hyperparameter_or_a_part_may_be_none():
    class maybe(gx.PerLeaf):
        factor: gx.Scalar | None = None
        limit: None | gx.Positive = None  # noqa: RUF036
        inner: gx.Transformation | None = None
        each: tuple[gx.Decay, ...] | None = None

        def update_leaf(self, g, slots, context):
            return (g if self.factor is None else self.factor * g), slots

    none, some = maybe(), maybe(lambda step: 0.5, 2, gx.sgd(0.1), (0.9, 0.5))
    assert jax.tree.leaves(none) == [] and eval(repr(none), {"maybe": maybe}) == none
    assert jax.tree.leaves(some.at(0)) == [0.5, 2.0, 0.1, 0.9, 0.5]
    ones = jnp.ones(2)
    assert none.update(ones, none.init(ones))[0].tolist() == [1, 1]
    assert some.update(ones, some.init(ones))[0].tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match=r"^maybe: limit must be a finite number above 0, got 0.0"):
        maybe(limit=0)


def test_a_hyperparameter_rounded_out_of_its_range_by_the_parameters_dtype(x64):
    tx, words = gx.adam(b2=1 - 1e-9), r"^scale_by_ema: decay, in float32, must be at least 0 and below 1, got 1\.0"
    wide, narrow = jnp.ones(2, jnp.float64), jnp.ones(2, jnp.float32)
    assert jnp.isfinite(tx.update(wide, tx.init(wide))[0]).all()
    for init in (tx.init, jax.jit(tx.init)):
        with pytest.raises(ValueError, match=words):
            init(narrow)
