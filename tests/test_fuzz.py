"""Random compositions of the whole registry, six deep, over random trees.

A composition is a registered one whose parts are replaced, at random, by others: what is registered in cases.py is in
it. `pytest tests/test_fuzz.py --fuzz 10000` takes so many examples, others at each run; without, few and always the
same. Most of it runs operation by operation, for compiling takes a hundred times as long.
"""

import dataclasses
import pickle
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALL, PARTS, at_odd_steps
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from rounding import assert_within
from streams import FUNCTIONS, extra, follow, schedules_of, types

import gradtx as gx
from gradtx.core import Transformation, walk

REGISTERED = [  # without those for a tree with a w, and those that may not be inside another
    case.tx for _, case in (*ALL, *PARTS) if "where='w'" not in repr(case.tx) and not case.tx.outermost
]
COMPOSED = [tx for tx in REGISTERED if len([*walk(tx)]) > 1]
MOST = 16  # transformations in one


# ---------------------------------------------------------------- compositions
UP_TO = [
    st.integers(0, n) for n in range(4)
]  # numbers alone are drawn: hypothesis hashes and prints what it draws from
ANY, ANY_COMPOSED = st.integers(0, len(REGISTERED) - 1), st.integers(0, len(COMPOSED) - 1)


@st.composite
def compositions(draw: Any, depth: int = 6) -> Transformation:
    return altered(draw, COMPOSED[draw(ANY_COMPOSED)], depth)


def altered(draw: Any, tx: Transformation, depth: int) -> Transformation:
    """A transformation with other parts and hyperparameters that its checks allow."""

    def part(old):
        return altered(draw, REGISTERED[draw(ANY)] if draw(UP_TO[1]) else old, depth - 1)

    for name, kind in tx._kinds.items():
        now = getattr(tx, name)
        if not kind.data:
            continue
        if isinstance(now, float):
            new = [now, now, 0.75 * now, gx.schedules.linear(now, 0.5 * now, 3)][draw(UP_TO[3])]
        elif isinstance(now, Transformation) and depth > 1:
            new = part(now)
        elif isinstance(now, tuple) and all(isinstance(x, Transformation) for x in now) and depth > 1:
            new = tuple(map(part, now[:4]))
            if type(tx) in (gx.chain, gx.add, gx.multiply) and draw(UP_TO[1]):
                new += (part(gx.identity()),)
        else:
            continue
        try:
            other = dataclasses.replace(tx, **{name: new})
        except (TypeError, ValueError):  # a refused value stays as it was
            continue
        tx = other if len([*walk(other)]) <= MOST else tx
    return tx


def has(tx: Any, *pieces: type) -> bool:
    return any(isinstance(piece, pieces) for piece in walk(tx))


# ---------------------------------------------------------------- trees
SHAPES: list[tuple[int, ...]] = [(), (2,), (3, 2), (0, 2)]  # few, for each compiles each operation anew
DTYPES = ["float32", "float32", "bfloat16", "float16", "complex64"]


class Leaf(NamedTuple):
    """The specification of a leaf; not a pytree."""

    shape: tuple[int, ...]
    dtype: str
    trained: bool  # or its gradient is None


LEAVES = st.builds(Leaf, st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.sampled_from([True] * 4 + [False]))
TREES = st.recursive(
    st.one_of(LEAVES, LEAVES, LEAVES, LEAVES, st.sampled_from([None, (), {}])),
    lambda inner: (
        st.dictionaries(st.sampled_from("avw"), inner, min_size=1, max_size=3)  # the axes of a matrix `b` are in doubt
        | st.lists(inner, min_size=1, max_size=2)
        | st.tuples(inner, inner)
    ),
    max_leaves=4,
).filter(lambda tree: tree is not None)  # None has no parameters


class Problem(NamedTuple):
    """A composition, parameters, and the gradients of some steps."""

    tx: Any
    params: Any
    gradients: list[Any]


@st.composite
def problems(draw: Any, depth: int = 6, dtypes: Any = None, three: bool = False) -> Problem:
    tx = gx.add(*(draw(compositions(depth)) for _ in range(3))) if three else draw(compositions(depth))
    tree, random = draw(TREES), np.random.default_rng(draw(st.integers(0, 99)))
    size, wider = draw(st.sampled_from([1e-2, 1.0, 1.0, 30.0])), draw(st.sampled_from([None, "float32", "float16"]))
    simple = has(tx, gx.low_rank_momentum, gx.orthogonalize, gx.scale_by_shape, gx.pair)  # no complex numbers

    def array(leaf, dtype, scale):
        x = random.standard_normal((2, *leaf.shape)) * scale
        x = x[0] + 1j * x[1] if dtype == "complex64" else np.where(np.abs(x[0]) < 0.2 * scale, 0, x[0])
        return jnp.asarray(x, dtype)

    def dtype_of(leaf):
        dtype = "float32" if dtypes and leaf.dtype not in dtypes else leaf.dtype
        return "float32" if simple and dtype == "complex64" else dtype

    def gradient(leaf):
        if not leaf.trained and not has(tx, gx.pair):  # Optax maps over trees of one structure
            return None
        dtype = dtype_of(leaf)
        return array(leaf, dtype if dtype == "complex64" or dtypes or not wider else wider, size)

    is_leaf = lambda x: isinstance(x, Leaf)  # noqa: E731
    params = jax.tree.map(lambda leaf: array(leaf, dtype_of(leaf), 1.0), tree, is_leaf=is_leaf)
    gradients = [jax.tree.map(gradient, tree, is_leaf=is_leaf) for _ in range(2)]
    event(f"depth {depth_of(tx)}")
    return Problem(tx, params, gradients)


def depth_of(tx: Any) -> int:
    inner = jax.tree.leaves(tx, is_leaf=lambda x: x is not tx and isinstance(x, Transformation))
    return 1 + max((depth_of(x) for x in inner if isinstance(x, Transformation)), default=0)


# ---------------------------------------------------------------- laws
TWICE = (gx.projections.simplex, gx.projections.l1_ball)
"""Declared: XLA may compute what comes in twice, with two roundings, and the largest of it is not among it then."""


def the_state_is_a_fixed_point(problem: Problem) -> None:
    """P1, operation by operation and traced; and the updates and parameters keep their types."""
    tx, params, gradients = problem
    given, functions = {}, {}
    for name, x in extra(tx).items():
        (functions if name in FUNCTIONS else given)[name] = x
    with jax.numpy_dtype_promotion("standard" if has(tx, gx.pair) else "strict"), jax.numpy_rank_promotion("raise"):
        with jax.disable_jit():
            first, u = tx.init(params), None
            state = first
            for g in gradients:
                u, state = tx.update(g, state, params, **given, **functions)
                assert types(state) == types(first)
                chex.assert_trees_all_equal_shapes_and_dtypes(u, g)
                assert types(gx.apply_updates(params, u)) == types(params)
        assert types(jax.eval_shape(tx.init, params)) == types(first)
        traced = jax.eval_shape(partial(tx.update, **functions), gradients[0], first, params, **given)
        assert types(traced) == types((u, first))


def it_prints_pickles_and_compares(tx: Transformation) -> None:
    leaves, structure = jax.tree.flatten(tx)
    twin = jax.tree.unflatten(structure, leaves)
    assert twin == tx and hash(twin) == hash(tx)
    if not has(tx, gx.pair):  # whose functions are local to what made them
        assert gx.read(repr(tx), names={"at_odd_steps": at_odd_steps}) == tx
        assert pickle.loads(pickle.dumps(tx)) == tx
    assert schedules_of(tx) or tx.at(1) == tx


def chain_is_associative(problem: Problem) -> None:
    """P2: bit for bit, states included, and equal to running one after another."""
    (a, b, c), params, gradients = problem.tx.links, *problem[1:]
    flat = gx.chain(a, b, c)
    for same in (gx.chain(gx.chain(a, b), c), gx.chain(a, gx.chain(b, c)), gx.chain(gx.identity(), flat)):
        assert jax.tree.structure(same.init(params)) == jax.tree.structure(flat.init(params))
    assert gx.chain(gx.chain(a, b), c) == gx.chain(a, gx.chain(b, c)) == flat == gx.chain(flat)
    with jax.disable_jit():
        expected, state = follow(flat, params, gradients)
        for same in (gx.chain(gx.identity(), a, gx.identity(), b, c), gx.chain(a, b, gx.chain(c, gx.chain()))):
            chex.assert_trees_all_equal(follow(same, params, gradients), (expected, state))
        by_one, states = list(gradients), []
        for tx in (a, b, c):
            by_one, last = follow(tx, params, by_one)
            states.append(last)
        chex.assert_trees_all_equal(by_one, expected)
        named = jax.tree.leaves(state.slots)
        assert sum(x.size for x in named) == sum(x.size for last in states for x in jax.tree.leaves(last.slots))


def vmap_is_a_loop(problem: Problem) -> None:
    """P4, over parameters and gradients, operation by operation."""
    tx, *trees = problem

    def run(params, gradients):
        return follow(tx, params, gradients)

    many = jax.tree.map(lambda x: jnp.stack([x, -x / 2]), trees)
    with jax.disable_jit():
        got = jax.vmap(run, axis_size=2)(*many)
        for i in range(2):
            one = jax.tree.map(lambda x, i=i: x[i], many)
            event(assert_within(jax.tree.map(lambda x, i=i: x[i], got), run, one, bound=1e-6))


def compiled_is_eager(problem: Problem) -> None:
    """P3: within 4 ulp."""
    tx, params, gradients = problem
    if has(tx, *TWICE):
        return
    functions = [name for name in extra(tx) if name in FUNCTIONS]
    update = jax.jit(tx.update, static_argnames=functions)
    with jax.disable_jit():
        _, state = follow(tx, params, gradients[:-1])
    arguments = gradients[-1], state, params
    run = partial(tx.update, **extra(tx))
    event(assert_within(update(*arguments, **extra(tx)), run, arguments, bound=4 * float(jnp.finfo("float32").eps)))


def scan_is_a_loop(problem: Problem) -> None:
    """P4."""
    tx, params, gradients = problem
    if has(tx, *TWICE):
        return

    def run(params, gradients):
        return follow(tx, params, gradients)

    @jax.jit
    def scanned(params, stacked):
        step = lambda state, g: tx.update(g, state, params, **extra(tx))[::-1]  # noqa: E731
        return jax.lax.scan(step, tx.init(params), stacked, length=len(gradients))[::-1]

    got, state = scanned(params, jax.tree.map(lambda *x: jnp.stack(x), *gradients))
    got = [jax.tree.map(lambda x, i=i: x[i], got) for i in range(len(gradients))]
    event(assert_within((got, state), run, (params, gradients), bound=1e-6))


FLOATS = ["float32", "complex64"]  # of low precision another rounding is another number
CHECKS = {
    "the state": (the_state_is_a_fixed_point, problems(), 60),
    "the record": (it_prints_pickles_and_compares, compositions(), 60),
    "chain": (chain_is_associative, problems(3, dtypes=FLOATS, three=True), 15),
    "vmap": (vmap_is_a_loop, problems(4, dtypes=FLOATS), 15),
    "jit": (compiled_is_eager, problems(5, dtypes=FLOATS), 30),
    "scan": (scan_is_a_loop, problems(4, dtypes=FLOATS), 20),
}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.promotes("Optax's arithmetic, in a pair; the check of the state is strict without one")
def test_the_contract_holds_for_random_compositions(name, pytestconfig):
    check, examples, few = CHECKS[name]
    many = pytestconfig.getoption("--fuzz")
    options = settings(
        max_examples=few if many is None else max(1, many * few // sum(n for _, _, n in CHECKS.values())),
        derandomize=many is None,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    options(given(examples)(check))()
