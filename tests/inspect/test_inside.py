"""Transformations inside wrappers are read, set, explained, measured and evaluated, in every field of every wrapper.

A new wrapper is tested by its line in the registry.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALL
from streams import extra, schedules_of

import gradtx as gx
from gradtx import optimizers
from gradtx.core import Transformation, walk

NAMES = ["inner", "slow", "links", "step", "age", "value", "default", "average"]
params: Any = {name: jnp.linspace(1.0, 2.0, 6).reshape(2, 3) + i for i, name in enumerate(NAMES)}
params["inner"] = {"slow": params["inner"], "inner": params["inner"] + 0.5}
PATHS = {"inner/slow", "inner/inner", *NAMES[1:]}
GRADIENTS = [jax.tree.map(lambda p, i=i: jnp.sin((i + 1) * p) + 1.5, params) for i in range(3)]

INNER = {
    "sgd": gx.sgd(0.5),
    "adam": gx.adam(),
    "schedule_free": gx.schedule_free(gx.sgd(0.5)),
    "average_params": gx.average_params(gx.adam(0.25)),
    "lookahead": gx.lookahead(gx.adam(0.25), every_k=2),
    "reduce_on_plateau": gx.chain(gx.sgd(0.5), gx.reduce_on_plateau(0.5)),
    "monitor": gx.chain(gx.monitor("watched", gx.global_norm), gx.sgd(0.5)),
}


def fields_of(tx):
    """The fields that hold transformations, with what puts another one there."""
    for name, kind in tx._kinds.items():
        held = getattr(tx, name) if kind.data else None
        if isinstance(held, Transformation):
            yield name, lambda inner, name=name: dataclasses.replace(tx, **{name: inner})
        for i, part in enumerate(held) if isinstance(held, tuple) else ():
            if isinstance(part, Transformation):

                def replaced(inner, name=name, held: Any = held, i=i):
                    new = jax.tree.map(lambda x: x, tx)
                    new.__dict__[name] = (*held[:i], inner, *held[i + 1 :])
                    return new

                yield f"{name}[{i}]", replaced


FIELDS = {
    f"{type(piece).__name__}-{name}": put
    for case, entry in reversed(ALL)  # of several cases of one class, the first
    if case.rsplit("-", 1)[0] not in optimizers.__all__
    for piece in walk(entry.tx)
    for name, put in fields_of(piece)
    if (type(piece), name) != (gx.skip_if, "predicate")  # not any transformation
}
# Fields in which an optimizer emits what it emits alone, so that the test below compares.
TRANSPARENT = {"leafwise-inner", "rowwise-inner", "skip_nonfinite-inner", "skip_if-inner", "layout-inner", "lazy-inner"}
AVERAGES = ("schedule_free", "average_params", "lookahead")
# Fields in which only some transformations have a meaning, with the error for the others.
REFUSED = {("momo_step-direction", inner): f"direction must be linear, got {inner}: write" for inner in AVERAGES}
for inner, tx in INNER.items():
    REFUSED["in_basis-basis", inner] = r"basis must be a basis, such as eigenbasis\(\)"
    REFUSED["kronecker-by", inner] = r"by must be covariance_roots\(\) or whitening\(\)"
    for field in ("zoom-direction", "backtracking-direction"):
        if any(isinstance(piece, gx.scale_by_learning_rate) for piece in walk(tx)):
            REFUSED[field, inner] = "direction must be without a learning rate"
EACH = [(field, inner) for field in FIELDS for inner in INNER]


def run(tx):
    """The updates and the parameters to evaluate of each step, and the last state."""

    @jax.jit
    def steps(params):
        state, out = tx.init(params), []
        for g in GRADIENTS:
            updates, state = tx.update(g, state, params, **extra(tx))
            params = gx.apply_updates(params, updates)
            out.append((updates, gx.eval_params(tx, state, params)))
        return out, state

    return steps(params)


@functools.cache
def alone(inner):
    return run(INNER[inner])[0]


# An update that is a difference of parameters, as lookahead's, has their rounding.
ROUNDING = float(np.spacing(np.float32(max(np.max(p) for p in jax.tree.leaves(params)))))


def alike(a, b):
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))]
    return all(np.max(np.abs(x - y)) <= 1e-5 * np.max(np.abs(y)) + ROUNDING for x, y in pairs)


@pytest.mark.parametrize("field, inner", EACH, ids=[f"{field}-{inner}" for field, inner in EACH])
def test_what_is_inside_is_seen_from_outside(field, inner):
    if (field, inner) in REFUSED:
        with pytest.raises((TypeError, ValueError), match=REFUSED[field, inner]):
            FIELDS[field](INNER[inner])
        return
    tx = FIELDS[field](INNER[inner])
    out, state = run(tx)
    # Evaluation: of the shape of the parameters, and of a part that emits as it does alone, the same as alone.
    for _, found in out:
        assert jax.tree.structure(found) == jax.tree.structure(params)
        for x, p in zip(jax.tree.leaves(found), jax.tree.leaves(params)):
            assert x.shape == p.shape and x.dtype == p.dtype and jnp.isfinite(x).all()
    same = all(alike(updates, others) for (updates, _), (others, _) in zip(out, alone(inner)))
    assert same or field not in TRANSPARENT
    if same and not hasattr(tx, "evaluate"):
        for (_, found), (_, expected) in zip(out, alone(inner)):
            assert alike(found, expected)
    # Hyperparameters.
    values = gx.hyperparameters(tx, state)
    assert values.keys() == gx.hyperparameters(tx).keys()
    for value in gx.hyperparameters(INNER[inner]).values():
        assert value in values.values()
    if not schedules_of(tx):
        assert gx.set_hyperparameters(tx, values) == tx
        for name, value in values.items():
            other = gx.set_hyperparameters(tx, {name: value * 0.5 + 0.011})
            assert gx.hyperparameters(other) == {**values, name: value * 0.5 + 0.011}
    # Tables and formulas.
    assert {row.parameter for row in gx.explain(tx, params).rows} == PATHS
    total = sum(x.nbytes for x in jax.tree.leaves(state))
    assert gx.summary(tx, params).bytes == total
    assert type(INNER[inner]).__name__ in repr(tx) and gx.formula(tx)
    # Measurements.
    found = gx.measurements(state)
    watched = [x for name, x in found.items() if "watched" in name]
    assert len(watched) >= (inner == "monitor") and all(jnp.isfinite(x).all() for x in watched)
