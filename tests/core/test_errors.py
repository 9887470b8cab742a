"""Bad input, as a table: a call, and the type and message of its error, or its result.

No message of JAX, NumPy or Python's binding of arguments may reach a user: each error is raised by a `raise` of gradtx.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# pyright: reportAbstractUsage=false, reportIndexIssue=false

import functools
import inspect
import linecache
import pickle
import traceback
from collections import OrderedDict, namedtuple
from dataclasses import FrozenInstanceError
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx as gx
from gradtx import lab, plots, schedules, training

params = {"layer": {"w": jnp.ones((3, 4)), "b": jnp.zeros(4)}}
tx = gx.adamw()
state = tx.init(params)


def with_leaf(name, value):
    return {"layer": {**params["layer"], name: value}}


def without(name):
    return {"layer": {k: x for k, x in params["layer"].items() if k != name}}


def update(updates=params, state=state, params=params, tx=tx, **extra):
    return lambda: tx.update(updates, state, params, **extra)


class forgetful(gx.PerLeaf):
    """Returns slots with another name than its `init_leaf`."""

    def init_leaf(self, param):
        return {"mean": param}

    def update_leaf(self, g, slots, context):
        return g, {"average": g}


class ruleless(gx.PerLeaf):
    """Defines no rule."""


def of_leaf(init=lambda p: {"n": p}, update=lambda g, slots: (g, slots)):
    """The update of a piece made of these functions."""

    class own(gx.PerLeaf):
        def init_leaf(self, param):
            return init(param)

        def update_leaf(self, g, slots, context):
            return update(g, slots)

    return lambda: own().update(params, own().init(params), params)


def guarded(update):
    tx = gx.skip_nonfinite(gx.pair(lambda params: (), update))
    return lambda: tx.update(params, tx.init(params), params)


def reused(call):
    """The call with a state whose memory a donated step has taken."""

    def act():
        old = jax.tree.map(jnp.copy, state)
        with jax.disable_jit(False):
            jax.jit(lambda x: jax.tree.map(lambda y: y + 1, x), donate_argnums=0)(old)
        return call(old)

    return act


class total(gx.Transformation):
    """Returns one number for all leaves."""

    def update_tree(self, updates, slots, context):
        return jnp.zeros(()), slots


class wordy(gx.PerLeaf):
    """Has a field that is structure."""

    names: tuple = ()


NO_LIMIT = [None, float("inf")]
HYPERPARAMETERS = [
    (piece, name, value)
    for piece, name, values in [
        (gx.scale_by_ema, "decay", (1.0, 1.5, -0.1)),
        (gx.add_momentum, "decay", (1.0, -0.1)),
        (gx.bias_correction, "decay", (1.0,)),
        (gx.nesterov_ema, "decay", (1.0, -1e-9)),
        (gx.nesterov_ema, "warmup_rate", (-1.0,)),
        (gx.decayed_max, "decay", (1.0,)),
        (gx.running_variance, "decay", (1.0,)),
        (gx.running_sum, "initial_value", (-1.0,)),
        (gx.scale_by_own_rms, "decay", (1.0,)),
        (gx.scale_by_own_rms, "eps", (-1e-8,)),
        (gx.rprop_steps, "initial_value", (0.0, -1.0)),
        (gx.rprop_steps, "grow", (0.0,)),
        (gx.rprop_steps, "shrink", (0.0,)),
        (gx.rprop_steps, "smallest", (-1.0,)),
        (gx.rprop_steps, "largest", (0.0,)),
        (gx.scale_by_learning_rate, "learning_rate", (-1.0,)),
        (gx.add_weight_decay, "weight_decay", (-0.1,)),
        (gx.clip, "limit", (0.0, -1.0)),
        (gx.clip_by_global_norm, "max_norm", (0.0, -1.0)),
        (gx.scale, "factor", ()),
        (gx.add_constant, "constant", ()),
    ]
    for value in (*values, float("nan"), *NO_LIMIT, jnp.array(jnp.nan), "fast", True, 1j, np.ones(3), [1.0])
    if not (name in ("limit", "max_norm") and any(value is x for x in NO_LIMIT))
]


@pytest.mark.parametrize("piece, name, value", HYPERPARAMETERS)
def test_a_bad_hyperparameter_names_the_piece_and_the_argument(piece, name, value):
    with pytest.raises((ValueError, TypeError), match=f"^{piece.__name__}: {name} must be .*, got "):
        piece(**{name: value})


RECIPES = [
    (gx.adam, {"learning_rate": -1.0}, "adam: learning_rate must be"),
    (gx.adam, {"learning_rate": float("nan")}, "adam: learning_rate must be"),
    (gx.adam, {"b1": 1.0}, "adam: b1 must be"),
    (gx.adam, {"b2": 1.0}, "adam: b2 must be"),
    (gx.adam, {"b2": jnp.bfloat16(0.999)}, "adam: b2 must be"),
    (gx.adam, {"b2": jnp.float32(1)}, "adam: b2 must be"),
    (gx.adam, {"eps": -1e-8}, "adam: eps must be"),
    (gx.adamw, {"weight_decay": -1.0}, "adamw: weight_decay must be"),
    (gx.adamw, {"where": 3}, "adamw: where must be"),
    (gx.adamw, {"where": {"w": "no"}}, "adamw: where must be"),
    (gx.sgd, {"nesterov": True}, "sgd: nesterov=True needs a momentum"),
    (gx.sgd, {"momentum": 1.0}, "sgd: momentum must be"),
    (gx.rmsprop, {"centered": True, "corrected": True}, "rmsprop: centered=True"),
    (gx.rprop, {"learning_rate": 0.0}, "rprop: learning_rate must be"),
    (gx.rolling_ball, {"friction": 20.0}, "add_momentum: decay"),
    (gx.adagrad, {"initial_value": -1.0}, "adagrad: initial_value must be"),
]


@pytest.mark.parametrize("recipe, arguments, words", RECIPES)
def test_a_bad_argument_of_a_recipe(recipe, arguments, words):
    with pytest.raises((ValueError, TypeError), match=f"^{words}"):
        recipe(**arguments)


BAD = {
    # updates against parameters
    "a shape": (
        update(with_leaf("w", jnp.ones((4, 3)))),
        ValueError,
        r"^updates\['layer/w'\] must have shape \(3, 4\), got \(4, 3\)",
    ),
    "a shape that broadcasts": (
        update(with_leaf("b", jnp.ones(1))),
        ValueError,
        r"^updates\['layer/b'\] must have shape \(4,\), got \(1,\)",
    ),
    "a leaf missing": (
        update(without("b")),
        ValueError,
        r"updates\['layer/b'\] is missing: expected 'layer/b', 'layer/w', got 'layer/w'; .* None for a leaf",
    ),
    "a leaf too many": (
        update(with_leaf("c", jnp.ones(1))),
        ValueError,
        r"updates\['layer/c'\] is unexpected: expected 'layer/b', 'layer/w', got",
    ),
    "None in params only": (
        update(params=with_leaf("b", None)),
        ValueError,
        r"updates\['layer/b'\] is unexpected: expected",
    ),
    "integer updates": (
        update(with_leaf("b", jnp.ones(4, int))),
        TypeError,
        r"updates\['layer/b'\] must be float32, got int32",
    ),
    "updates and parameters swapped": (
        lambda: gx.sgd().update(params, gx.sgd().init(params), with_leaf("b", None)),
        ValueError,
        r"^updates\['layer/b'\] is unexpected: expected 'layer/w', got 'layer/b', 'layer/w': were updates and params",
    ),
    "apply in the order of update": (
        lambda: tx.apply(with_leaf("b", None), state, params),
        ValueError,
        r"^updates\['layer/b'\] is unexpected: .*: were updates and params swapped",
    ),
    "a float0 for a parameter": (
        lambda: gx.sgd().apply(
            {"n": np.zeros(2, jax.dtypes.float0)}, gx.sgd().init({"n": jnp.ones(2, int)}), {"n": jnp.ones(2, int)}
        ),
        TypeError,
        r"^params\['n'\] is float0, a gradient: were updates and params swapped",
    ),
    "None for a name that begins like another": (
        lambda: adam.update({"w": None}, adam.init({"w": weights, "w2": weights}), {"w": weights, "w2": weights}),
        ValueError,
        r"^updates\['w2'\] is missing: expected 'w', 'w2', got 'w'",
    ),
    "integer parameters": (
        lambda: tx.update(params, tx.init(with_leaf("b", jnp.ones(4, int))), with_leaf("b", jnp.ones(4, int))),
        TypeError,
        r"updates\['layer/b'\] must be None, got float32\[4\]; .* None for a leaf that is frozen or an integer",
    ),
    "boolean updates": (update(with_leaf("b", jnp.ones(4, bool))), TypeError, "must be float32, got bool"),
    "a complex update of a real parameter": (
        update(with_leaf("b", jnp.ones(4, jnp.complex64))),
        TypeError,
        r"updates\['layer/b'\] must be float32, got complex64",
    ),
    "a string": (update(with_leaf("b", "text")), TypeError, r"updates\['layer/b'\] is 'text': keep arrays"),
    "a string in init": (
        lambda: tx.init(with_leaf("b", "text")),
        TypeError,
        r"params\['layer/b'\] is 'text': keep arrays",
    ),
    "a function in init": (lambda: tx.init({"f": jnp.tanh}), TypeError, r"params\['f'\] is .*: keep arrays"),
    "a key in init": (lambda: tx.init({"k": jax.random.key(0)}), TypeError, r"params\['k'\] is a random key"),
    "a key in update": (
        update(with_leaf("b", jax.random.split(jax.random.key(0), 4))),
        TypeError,
        r"updates\['layer/b'\] is a random key",
    ),
    "other containers": (
        lambda: gx.sgd().update([jnp.ones(1)], gx.sgd().init((jnp.ones(1),)), (jnp.ones(1),)),
        ValueError,
        r"^updates: the containers of the trees PyTreeDef\(\[\*\]\) and PyTreeDef\(\(\*,\)\) differ",
    ),
    # the state
    "swapped arguments": (update(state, params), TypeError, "state must come from tx.init.params., got dict"),
    "Optax's state": (update(state=((), ())), TypeError, "state must come from tx.init.params., got tuple"),
    "another optimizer's state": (
        update(state=gx.sgd().init(params)),
        ValueError,
        r"^state.slots\['precond.*'\] is missing: .*, got no leaves; make the state with init of this optimizer",
    ),
    "a state with more": (update(tx=gx.sgd()), ValueError, r"^state.slots\['precond.*'\] is unexpected"),
    "other parameters' state": (
        update(state=tx.init(with_leaf("b", jnp.zeros(5)))),
        ValueError,
        r"^state.slots\[.*layer/b'\] must have shape \(4,\), got \(5,\); make the state with .* these parameters",
    ),
    "a state of another precision": (
        update(state=jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.ndim else x, state)),
        TypeError,
        r"^state.slots\[.*\] must be float32, got bfloat16",
    ),
    "a state with more, without params": (
        lambda: gx.adam().update(params, gx.sgd().init(params)),
        ValueError,
        r"^state.slots\['precond.*'\] is missing: .*, got no leaves; make the state with init of this optimizer",
    ),
    # arguments
    "no params": (
        update(params=None),
        ValueError,
        r"^add_weight_decay needs the parameters: call update\(updates, state",
    ),
    "a typo": (update(vaule=1.0), TypeError, "^unexpected argument 'vaule'. This optimizer takes no extra arguments"),
    "a batch of optimizers": (
        lambda: jax.vmap(gx.adam)(jnp.ones(3)).update(params, gx.adam().init(params)),
        ValueError,
        r"holds values of shape \(3,\): update many optimizers inside jax.vmap",
    ),
    "a rate that is a vector": (
        lambda: gx.adam(lambda step: jnp.ones(3)).init(params),
        ValueError,
        r"must be one number, got float32\[3\]",
    ),
    "a rate that is NaN at the start": (
        lambda: gx.adam(lambda step: jnp.nan).init(params),
        ValueError,
        "finite number",
    ),
    # the parts
    "a number in a chain": (
        lambda: gx.chain(gx.scale(1.0), 3),
        TypeError,
        r"^chain: links\[1\] must be a transformation",
    ),
    "a piece that is not called": (
        lambda: gx.chain(gx.square),
        TypeError,
        r"^chain: links\[0\] must be a transformation",
    ),
    "a triple": (lambda: gx.add((1, 2, 3)), TypeError, r"^add: links\[0\] must be"),
    "a direction": (lambda: gx.precondition(0.9, by=gx.rms()), TypeError, "^precondition: direction must be"),
    "unhashable structure": (
        lambda: wordy([1]),
        TypeError,
        "^wordy: names is static .* and must be hashable",
    ),
    # where
    "a pattern that chooses nothing": (
        lambda: gx.adamw(where="*/kernel").init(params),
        ValueError,
        r"where='\*/kernel' chooses no parameter; there are layer/b, layer/w",
    ),
    "a predicate that answers no boolean": (
        lambda: gx.adamw(where=lambda path, leaf: "no").init(params),
        TypeError,
        "must return True or False for 'layer/b', got 'no'",
    ),
    "a tree with a branch missing": (
        lambda: gx.adamw(where={"layer": {"w": True}}).init(params),
        ValueError,
        "has no entry for the parameter 'layer/b'",
    ),
    # a user's pieces
    "an update of another shape": (
        of_leaf(update=lambda g, slots: (jnp.sum(g), slots)),
        ValueError,
        r"^own: update_leaf: updates\['layer/b'\] must have shape \(4,\), got \(\)",
    ),
    "no update for a gradient": (
        of_leaf(update=lambda g, slots: (None, slots)),
        TypeError,
        r"^own: update_leaf: updates\['layer/b'\] must be an array, got None",
    ),
    "an update that is a string": (
        of_leaf(update=lambda g, slots: ("a", slots)),
        TypeError,
        r"^own: update_leaf: updates\['layer/b'\] must be an array, got 'a'",
    ),
    "an update alone": (
        of_leaf(update=lambda g, slots: g),
        TypeError,
        r"^own: update_leaf must return \(updates, slots\), with a dict of slots, got float32\[4\]",
    ),
    "a slot that changes its shape": (
        of_leaf(update=lambda g, slots: (g, {"n": jnp.sum(g)})),
        ValueError,
        r"^own: update_leaf: slots\['n/layer/b'\] must have shape \(4,\), got \(\)",
    ),
    "a slot that is a number": (
        of_leaf(init=lambda p: {"n": 0}),
        TypeError,
        "^own: init_leaf: the slot 'n' of 'layer/b' must be an array, got 0",
    ),
    "a slot alone": (
        of_leaf(init=lambda p: p),
        TypeError,
        r"^own: init_leaf must return a dict of arrays, got float32\[4\]",
    ),
    "slots of some leaves only": (
        of_leaf(init=lambda p: {"n": p} if p.ndim == 1 else {}),
        ValueError,
        "^own: init_leaf must return the same slots for every leaf, got 'n' for 'layer/b' and none for 'layer/w': use ",
    ),
    "a pair's update that is a number": (
        guarded(lambda updates, state, params: (1, state)),
        ValueError,
        r"^pair: updates\['layer/b'\] is missing: expected 'layer/b', 'layer/w', got ''",
    ),
    "a pair's update of one leaf more": (
        guarded(lambda updates, state, params: ({**updates, "more": jnp.ones(1)}, state)),
        ValueError,
        r"^pair: updates\['more'\] is unexpected: expected 'layer/b', 'layer/w', got",
    ),
    "one number for all leaves": (
        lambda: total().update(params, total().init(params)),
        ValueError,
        r"^total: updates\['layer/b'\] is missing: expected 'layer/b', 'layer/w', got ''",
    ),
    "built: fit from donated parameters": (
        reused(lambda old: gx.fit(old.slots, tx, lambda p, b: 0.0, np.ones(2), 1, progress=False)),
        ValueError,
        "^fit: params/.* was donated to an earlier step, which reused its memory",
    ),
    "a pair's update alone": (
        guarded(lambda updates, state, params: updates),
        TypeError,
        r"^pair: its update must return \(updates, state\), got",
    ),
    "built: a state that was donated": (
        reused(lambda old: tx.update(params, old, params)),
        ValueError,
        r"^(state.step|state.slots\['.*'\]) was donated to an earlier step, which reused its memory",
    ),
    "built: a donated state restored": (
        reused(lambda old: gx.restore(tx, params, old)),
        ValueError,
        "^restore: 'step' was donated to an earlier step, which reused its memory",
    ),
    "renamed that is a list": (
        lambda: gx.restore(tx, params, state, renamed=["a"]),  # pyright: ignore[reportArgumentType]
        TypeError,
        r"^restore: renamed must be a dict of paths, got \['a'\]$",
    ),
    "saved with keys of two kinds": (
        lambda: gx.restore(tx, params, {"step": np.int32(1), 3: np.ones(2)}),
        ValueError,
        "^restore: in saved, a dict must have keys of one type",
    ),
    "a saved step below 0": (
        lambda: gx.restore(gx.scale(1.0), params, {"step": np.int32(-1)}),
        ValueError,
        "^restore: 'step' must be the number of updates, got -1$",
    ),
    "names to read that are a list": (
        lambda: gx.read("adam()", ["a"]),  # pyright: ignore[reportArgumentType]
        TypeError,
        r"^read: names must be a dict of the names that the text may use, got \['a'\]$",
    ),
    "a decay of 1, in a recipe": (
        lambda: gx.mars(gx.adam(), decay=1.0),
        ValueError,
        "^mars: decay must be at least 0 and below 1, got 1.0$",
    ),
    "the same, read": (lambda: gx.read("mars(adam(), 1.0)"), ValueError, "mars: decay must be at least 0"),
    "a peak of 0": (lambda: gx.adamc(peak=0.0), ValueError, "^adamc: peak must be a finite number above 0, got 0.0$"),
    "no mass": (
        lambda: gx.rolling_ball(mass=0.0),
        ValueError,
        "^rolling_ball: mass must be a finite number above 0, got 0.0$",
    ),
    "a rate that is a string, in a recipe": (
        lambda: gx.asgd("a"),
        TypeError,
        "^asgd: learning_rate must be a number, an array, a schedule or a function of the step, got 'a'$",
    ),
    "a momentum that is None, in a recipe": (
        lambda: gx.madgrad(momentum=None),
        TypeError,
        "^madgrad: momentum must be a number",
    ),
    "other slots": (
        lambda: forgetful().update(params, forgetful().init(params)),
        ValueError,
        r"^forgetful: update_leaf: slots\['mean/layer/b'\] is missing: expected 'mean/layer/b', got 'average/layer/b'",
    ),
    "no rule": (
        lambda: ruleless().update(params, ruleless().init(params)),
        NotImplementedError,
        "must define update_leaf",
    ),
    "no schedule": (lambda: gx.adam(gx.Schedule()).init(params), NotImplementedError, "must define __call__"),
    # apply_updates
    "apply: a shape": (
        lambda: gx.apply_updates(params, with_leaf("w", jnp.ones((4, 3)))),
        ValueError,
        r"^updates\['layer/w'\] must have shape \(3, 4\), got \(4, 3\)",
    ),
    "apply: a leaf missing": (
        lambda: gx.apply_updates(params, without("w")),
        ValueError,
        r"^updates\['layer/w'\] is missing: expected 'layer/b', 'layer/w', got 'layer/b'",
    ),
    "apply: integers": (
        lambda: gx.apply_updates(with_leaf("b", jnp.ones(4, int)), params),
        TypeError,
        r"updates\['layer/b'\] must be None, got float32\[4\]",
    ),
}


# ---------------------------------------------------------------- calls that do not fit
batch, weights = jnp.ones((8, 3)), jnp.zeros(3)


def loss(weights, batch):
    return jnp.mean((batch @ weights - 1) ** 2)


CALLS = {
    "a misspelled argument of a recipe": (
        lambda: gx.adam(learning_rat=1),
        r"^adam has no argument 'learning_rat': did you mean 'learning_rate'. It takes \(learning_rate, b1, b2, eps",
    ),
    "its initials": (lambda: gx.adam(lr=1), "^adam has no argument 'lr': did you mean 'learning_rate'"),
    "a part of it": (lambda: gx.heavy_ball(rate=1), "^heavy_ball has no argument 'rate': did you mean 'learning_rate'"),
    "another library's name": (lambda: gx.adam(beta1=0.9), "^adam has no argument 'beta1': did you mean 'b1'"),
    "a misspelled argument of a piece": (
        lambda: gx.scale_by_ema(deacy=0.9),
        r"^scale_by_ema has no argument 'deacy': did you mean 'decay'. It takes \(decay, from_first, before",
    ),
    "an argument like no other": (
        lambda: gx.scale_by_ema(q=1),
        r"^scale_by_ema has no argument 'q'\. It takes \(decay",
    ),
    "an argument of a piece without arguments": (
        lambda: gx.square(x=1),
        r"^square has no argument 'x'\. It takes \(\)",
    ),
    "a value where none goes": (lambda: gx.square(1), r"^square: too many positional arguments\. It takes \(\)$"),
    "a missing argument": (lambda: gx.clip(), r"^clip: missing a required argument: 'limit'\. It takes \(limit\)"),
    "a missing part": (
        lambda: gx.precondition(gx.momentum()),
        r"^precondition: missing a required argument: 'by'\. It takes \(dir",
    ),
    "a choice not made": (
        lambda: gx.masked(gx.sgd(), "w"),
        "^masked: missing a required (keyword-only )?argument: 'otherwise'",
    ),
    "a missing argument of a recipe": (lambda: gx.orthograd(), "^orthograd: missing a required argument: 'inner'"),
    "too many": (lambda: gx.clip(1, 2, 3), r"^clip: too many positional arguments\. It takes \(limit\)$"),
    "too many of a recipe": (
        lambda: gx.sign_sgd(1, 2),
        r"^sign_sgd: too many positional arguments\. It takes \(learning_rate\)$",
    ),
    "given twice": (
        lambda: gx.sgd(0.1, learning_rate=1),
        r"^sgd: multiple values for argument 'learning_rate'\. It takes \(learning_rate, mom",
    ),
    "a keyword argument passed positionally": (
        lambda: gx.partition({"w": gx.sgd()}, gx.sgd(), {"w": "a"}),
        r"^partition: too many positional arguments\. It takes \(rules, default, \*, labels",
    ),
    "a name in a chain": (lambda: gx.chain(gx.sgd(), learning_rate=1), "^chain has no argument 'learning_rate'"),
    "monitor without a name": (lambda: gx.monitor(gx.global_norm), "^monitor: missing a required argument: 'measure'"),
    "a schedule": (lambda: schedules.cosine(1.0, step=3), "^cosine has no argument 'step': did you mean 'steps'"),
    "a schedule with an argument of Optax": (
        lambda: schedules.warmup_cosine(init_value=0.0),
        "^warmup_cosine has no argument 'init_value': did you mean 'start'",
    ),
    "a schedule without its steps": (lambda: schedules.cosine(1.0), "^cosine: missing a required argument: 'steps'"),
    "a schedule called without a step": (lambda: gx.of_step(abs)(), "^of_step: missing a required argument: 'step'"),
    "update without a state": (
        lambda: tx.update(params),
        r"^chain.update: missing a required argument: 'state'\. It takes \(updates, state, params",
    ),
    "update with a loss by place": (
        lambda: tx.update(params, state, params, 1.0),
        r"^chain.update: too many positional arguments\. It takes \(updates, state, params, \*\*extra\)$",
    ),
    "init with more": (
        lambda: tx.init(params, params),
        r"^chain.init: too many positional arguments\. It takes \(params\)$",
    ),
    "at without a step": (lambda: tx.at(), "^chain.at: missing a required argument: 'step'"),
    "a transformation called": (lambda: tx(params, state), r"^chain is not a function: call its init\(params\), then"),
    "a transformation compiled": (lambda: jax.jit(gx.square())(weights), "^square is not a function: call its init"),
    "apply_updates of one": (
        lambda: gx.apply_updates(params),
        "^apply_updates: missing a required argument: 'updates'",
    ),
    "eval_params without params": (
        lambda: gx.eval_params(tx, state),
        "^eval_params: missing a required argument: 'params'",
    ),
    "summary": (lambda: gx.summary(tx), "^summary: missing a required argument: 'params'"),
    "explain": (lambda: gx.explain(tx), "^explain: missing a required argument: 'params'"),
    "formula": (lambda: gx.formula(), "^formula: missing a required argument: 'tx'"),
    "hyperparameters": (lambda: gx.hyperparameters(), "^hyperparameters: missing a required argument: 'tx'"),
    "hyperparameters by name": (
        lambda: gx.set_hyperparameters(tx, eps=1),
        r"^set_hyperparameters has no argument 'eps'\. It takes \(tx, values",
    ),
    "a measure": (lambda: gx.global_norm(), "^global_norm: missing a required argument: 'tree'"),
    "a predicate": (lambda: gx.is_matrix("w"), "^is_matrix: missing a required argument: 'leaf'"),
    "several to stack": (
        lambda: gx.stack(gx.sgd(), gx.sgd()),
        r"^stack: too many positional arguments\. It takes \(txs\)$",
    ),
    "sweep": (lambda: gx.sweep(abs), "^sweep: missing a required argument: 'txs'"),
    "grid": (lambda: gx.grid(gx.adam, lr=[1.0]), "^grid: adam has no argument 'lr': did you mean 'learning_rate'"),
    "grid by place": (
        lambda: gx.grid(gx.sgd, {"learning_rate": [1.0]}),
        r"^grid: too many positional arguments\. It takes \(make, \*\*values\)$",
    ),
    "fit": (lambda: gx.fit(weights, gx.sgd()), "^fit: missing a required argument: 'loss'"),
    "an option of fit": (
        lambda: gx.fit(weights, gx.sgd(), loss, batch, 1, has_auxx=True),
        "^fit has no argument 'has_auxx': did you mean 'has_aux'",
    ),
    "train_step": (lambda: gx.train_step(loss), "^train_step: missing a required argument: 'tx'"),
    "a flag of train_step": (
        lambda: gx.train_step(loss, tx, aux=True),
        "^train_step has no argument 'aux': did you me",
    ),
    "a step without a batch": (
        lambda: gx.train_step(loss, gx.sgd())(weights, gx.sgd().init(weights)),
        r"^train_step: missing a required argument: 'batch'\. It takes \(params, state, batch, \*, key",
    ),
    "a picture": (lambda: plots.curves({}, colour="red"), "^curves has no argument 'colour'"),
    "a race": (lambda: lab.race(lab.xor(), epoch=1), "^race has no argument 'epoch': did you mean 'epochs'"),
    "descend": (lambda: lab.descend(lab.SURFACES["bowl"]), "^descend: missing a required argument: 'tx'"),
}


# ---------------------------------------------------------------- parts, flags and functions
def leaked(shape=(3,)):
    """A tracer of a trace that has ended."""
    kept = []
    jax.make_jaxpr(lambda x: kept.append(x) or x)(jnp.zeros(shape))
    return kept[0]


def with_rate(rate):
    return lambda: gx.sgd(rate).init(weights)


def stepped(tx, updates=weights, params=weights, **extra):
    return lambda: tx.update(updates, tx.init(params), params, **extra)


PARTS = {
    "a class": (
        lambda: gx.chain(gx.scale_by_ema),
        TypeError,
        r"^chain: links\[0\] must be a transformation .*, got the class scale_by_ema: call it",
    ),
    "a recipe that is not called": (
        lambda: gx.lookahead(gx.adam),
        TypeError,
        r"^lookahead: inner must be a transformation .*, got the function adam: call it, adam\(…\)",
    ),
    "a list of optimizers": (
        lambda: gx.chain([gx.adam(), gx.sgd()]),
        TypeError,
        r"^chain: links\[0\] must be a transformation .*: give each as an argument of its own$",
    ),
    "a pair of optimizers": (
        lambda: gx.add((gx.adam(), gx.sgd())),
        TypeError,
        r"^add: links\[0\] must be a tr.*of its",
    ),
    "None in a chain": (lambda: gx.chain(gx.sgd(), None), TypeError, r"^chain: links\[1\] must be .*, got None$"),
    "a state in a chain": (lambda: gx.chain(state), TypeError, r"^chain: links\[0\] must be .*, got State\("),
    "a schedule in a chain": (
        lambda: gx.chain(schedules.constant(1.0)),
        TypeError,
        r"must be .*, got constant\(1.0\)$",
    ),
    "a rate as an optimizer": (lambda: gx.lookahead(0.1), TypeError, "^lookahead: inner must be .*, got 0.1$"),
    "numbers as a pair": (lambda: gx.pair(3, 4), TypeError, "^pair: init_function must be a function of one argument"),
    "optimizers as a pair": (lambda: gx.pair(gx.sgd(), gx.sgd()), TypeError, "^pair: init_function must be a function"),
    "an optimizer as a number": (
        lambda: gx.scale(gx.sgd()),
        TypeError,
        "^scale: factor must be a number, .*, got chain",
    ),
    "a recipe as a number": (
        lambda: gx.scale(gx.sgd).init(weights),
        TypeError,
        "^scale: factor at step 0: a schedule must return a number, got chain",
    ),
    "a key as a number": (lambda: gx.scale(jax.random.key(0)), TypeError, "^scale: factor must be a number"),
    "an object as a number": (lambda: gx.scale(np.array(None)), TypeError, "^scale: factor must be a number"),
    "shapes as a number": (
        lambda: gx.scale(jax.ShapeDtypeStruct((), "f4")),
        TypeError,
        "^scale: factor must be a numb",
    ),
    "a huge integer": (lambda: gx.scale(10**400), ValueError, "^scale: factor must be a finite number, got inf"),
    "a flag that is a string": (
        lambda: gx.add_momentum(nesterov="no"),
        TypeError,
        "^add_momentum: nesterov must be True or",
    ),
    "a flag that is a number": (
        lambda: gx.sgd(0.1, 0.9, 0.9),
        TypeError,
        "^sgd: nesterov must be True or False, got 0.9",
    ),
    "a flag of a recipe": (
        lambda: gx.adam(corrected="no"),
        TypeError,
        "^adam: corrected must be True or False, got 'n",
    ),
    "a flag that is None": (lambda: gx.dog(per_leaf=None), TypeError, "^dog: per_leaf must be True or False, got None"),
    "a flag of train_step": (
        lambda: gx.train_step(loss, tx, donate=0),
        TypeError,
        "^train_step: donate must be True or",
    ),
    "no interval": (lambda: gx.every(gx.sgd(), 0), ValueError, "^every: every_k must be an integer, 1 or more, got 0"),
    "a broken interval": (lambda: gx.every(gx.sgd(), 1.5), TypeError, "^every: every_k must be an integer, .* 1.5"),
    "a boolean count": (
        lambda: gx.lookahead(gx.sgd(), every_k=True),
        TypeError,
        "^lookahead: every_k must be an integer",
    ),
    "a count below 1": (lambda: gx.average_params(gx.sgd(), start=-1), ValueError, "^average_params: start must be"),
    "a scheduled count": (
        lambda: gx.every(gx.sgd(), schedules.constant(2.0)),
        TypeError,
        "^every: every_k must be an",
    ),
    "a traced count": (
        lambda: jax.make_jaxpr(lambda k: gx.every(gx.sgd(), k).init(weights))(3),
        TypeError,
        r"^every: every_k must be an integer, 1 or more, got .*int32\[\]",
    ),
    "one decay for many": (lambda: gx.aggmo(decays=0.9), TypeError, "^aggmo: decays must be a sequence, got 0.9"),
    "no decay": (lambda: gx.aggmo(decays=()), ValueError, "^aggmo: decays must have 1 or more, got none"),
    "a number as patterns": (lambda: gx.scion(heads=3), TypeError, "the patterns of a group must be a sequence, got 3"),
    "a box upside down": (
        lambda: gx.projections.box(1.0, -1.0),
        ValueError,
        "^box: low must be at most high, got 1.0 and -1.0",
    ),
    "assigned": (lambda: setattr(tx, "links", ()), AttributeError, "^cannot assign to field 'links'"),
    "an unknown name": (
        lambda: gx.addam,
        AttributeError,
        "^module 'gradtx' has no attribute 'addam': did you mean 'ad",
    ),  # pyright: ignore
    "a class of PyTorch": (lambda: gx.AdamW, AttributeError, "no attribute 'AdamW': did you mean 'adamw'"),  # pyright: ignore
    "a scheduler of PyTorch": (lambda: gx.StepLR, AttributeError, r"did you mean 'gx.schedules.exponential\("),  # pyright: ignore
    "a scheduler of PyTorch, among ours": (
        lambda: gx.schedules.StepLR,  # pyright: ignore[reportAttributeAccessIssue]
        AttributeError,
        r"^module 'gradtx.schedules' has no attribute 'StepLR': did you mean 'gx.schedules.exponential\(",
    ),
    "a class of PyTorch, among ours": (
        lambda: gx.optimizers.Adam,  # pyright: ignore[reportAttributeAccessIssue]
        AttributeError,
        "^module 'gradtx.optimizers' has no attribute 'Adam': did you mean 'adam'",
    ),
    "an unknown schedule": (
        lambda: gx.schedules.abracadabra,  # pyright: ignore[reportAttributeAccessIssue]
        AttributeError,
        r"^module 'gradtx.schedules' has no attribute 'abracadabra'. dir\(gradtx.schedules\) lists the names",
    ),
    "a decay of Adam": (
        lambda: gx.adam(weight_decay=0.1),  # pyright: ignore[reportCallIssue]
        TypeError,
        "^adam has no argument 'weight_decay': use gx.adamw",
    ),
    "betas": (lambda: gx.adam(betas=(0.9, 0.99)), TypeError, "'betas': did you mean 'b1' and 'b2'"),  # pyright: ignore
    "lr": (lambda: gx.adamw(lr=0.1), TypeError, "'lr': did you mean 'learning_rate'"),  # pyright: ignore
    "a recipe's argument": (
        lambda: gx.rprop(float("nan")),
        ValueError,
        "^rprop: learning_rate must be a finite number",
    ),
    "a rate from YAML": (
        lambda: gx.adam("3e-4"),
        TypeError,
        r"^adam: learning_rate must be a number, .*, got '3e-4': write float\('3e-4'\)$",
    ),
    "a weight decay from YAML": (
        lambda: gx.adamw(weight_decay="0.1"),
        TypeError,
        r"^adamw: weight_decay must be a number, .*, got '0.1': write float\('0.1'\)$",
    ),
    "a word for a rate": (lambda: gx.adam("fast"), TypeError, "^adam: learning_rate must be .*, got 'fast'$"),
    "a float in a piece": (
        lambda: type("own", (gx.PerLeaf,), {"__annotations__": {"a": float}}),
        TypeError,
        "gx.Scalar",
    ),
    "b2 = 1 as float32 rounds it": (
        lambda: gx.adam(b2=1 - 1e-9),
        ValueError,
        r"^adam: b2 must be at least 0 and below 1, got 0\.999999999, 1\.0 in float32",
    ),
    "a batch of optimizers in init": (
        lambda: gx.stack([gx.delay(1.0), gx.delay(2.0)]).init(weights),
        ValueError,
        r"^initial_value holds values of shape \(2,\): update many optimizers inside jax.vmap",
    ),
    # functions of the step
    "a rate of two arguments": (
        with_rate(lambda a, b: a),
        TypeError,
        r"^sgd: learning_rate must be a function of the step, got <lambda>\(a, b\)",
    ),
    "a rate that is None": (
        with_rate(lambda step: None),
        TypeError,
        "learning_rate at step 0 must be a number, .*None",
    ),
    "a rate that is a string": (
        with_rate(lambda step: "x"),
        TypeError,
        "learning_rate at step 0 must be a number, .*'x'",
    ),
    "a rate that is complex": (with_rate(lambda step: 1j), TypeError, "learning_rate at step 0 must be a number, .*1j"),
    "a rate that is a boolean": (with_rate(lambda step: True), TypeError, "learning_rate at step 0 must be a number"),
    "a rate that is two": (with_rate(lambda step: (1.0, 2.0)), TypeError, "learning_rate at step 0 must be a number"),
    "a rate below 0": (
        with_rate(lambda step: -1.0),
        ValueError,
        "^scale_by_learning_rate: learning_rate at step 0 must be a finite number, 0 or more, got -1.0",
    ),
    "a scheduled decay of 1": (
        lambda: gx.adam(b2=schedules.constant(1.0)).init(weights),
        ValueError,
        "^scale_by_ema: decay at step 0 must be at least 0 and below 1, got 1.0",
    ),
    "a rate that divides by the step": (with_rate(lambda step: 1 / step), ValueError, "of_step.* divides by 0"),
    "a rate divided by 0": (with_rate(schedules.constant(1.0) / 0), ValueError, "divides by 0"),
    "a rate with if": (
        lambda: jax.make_jaxpr(stepped(gx.sgd(lambda step: 1.0 if step < 3 else 0.5)))(),
        TypeError,
        r"learning_rate: of_step\(<lambda>\) must be one that JAX can trace: jnp.where",
    ),
    "a schedule's class": (
        lambda: gx.adam(gx.schedules.constant),
        TypeError,
        r"learning_rate must be a function of the step, got the class constant: call it, constant\(…\)",
    ),
    "no function of the step": (lambda: gx.of_step(3), TypeError, "^of_step: function must be a function of one argum"),
    # schedules
    "no steps": (lambda: schedules.cosine(1.0, steps=0), ValueError, "^cosine: steps must be an integer, 1 or more"),
    "steps that are a float": (
        lambda: schedules.cosine(1.0, steps=1e3),
        TypeError,
        "^cosine: steps must be an integer",
    ),
    "a flag of a schedule": (
        lambda: schedules.exponential(1.0, 0.5, staircase=1),
        TypeError,
        "staircase must be True or",
    ),
    "an unknown shape": (
        lambda: schedules.one_cycle(1.0, 9, shape="sine"),
        ValueError,
        "^one_cycle: shape must be one",
    ),
    "boundaries out of order": (
        lambda: schedules.piecewise_constant((3.0, 2.0, 1.0), (9, 3)),
        ValueError,
        r"^piecewise_constant: boundaries must increase, got \(9, 3\)",
    ),
    "a value too few": (
        lambda: schedules.piecewise_constant((1.0,), (3,)),
        ValueError,
        "must have one more item than bound",
    ),
    "a value for values": (
        lambda: schedules.piecewise_constant(1.0, (3,)),
        TypeError,
        "values must be a sequence, got",
    ),
    "a step that is not an integer": (
        lambda: schedules.cosine(1.0, 3)(0.5),
        TypeError,
        "^the step must be an integer, got 0",
    ),
    "a step below 0": (lambda: schedules.cosine(1.0, 3)(-1), ValueError, "^the step must be 0 or more .*, got -1"),
    "a string times a schedule": (
        lambda: schedules.constant(1.0) * "a",
        TypeError,
        "^combined: right must be a number",
    ),
    "None and a schedule": (lambda: None + schedules.constant(1.0), TypeError, "^combined: left must be a number"),
    "at a string": (lambda: tx.at("a"), TypeError, r"^at\(step\) needs an integer, got 'a'"),
    "at a state": (lambda: tx.at(state), TypeError, r"^at\(step\) needs an integer, got State"),
    # groups
    "a predicate of one": (
        lambda: gx.adamw(where=lambda path: True),
        TypeError,
        r"^adamw: where must be a function of \(path, leaf\), got <lambda>\(path\)",
    ),
    "a predicate of one, without a name": (
        lambda: gx.adamw(where=functools.partial(lambda path: True)),
        TypeError,
        r"^adamw: where must be a function of \(path, leaf\), got partial\(path\)",
    ),
    "a rule of one": (
        lambda: gx.partition({lambda path: True: tx}),
        TypeError,
        r"^partition: the rule <lambda> must be a",
    ),
    "a list as where": (lambda: gx.adamw(where=["w"]), TypeError, "^adamw: where must be a path pattern"),
    "numbers as where": (lambda: gx.freeze({"w": 1}), TypeError, "^freeze: where must be a path pattern"),
    "a tree with a branch too many": (
        lambda: gx.adamw(where={"layer": True, "head": False}).init(params),
        ValueError,
        r"^add_weight_decay: where\['head'\] matches no parameter; there are layer/b, layer/w",
    ),
    "a masked tree with a branch too many": (
        lambda: gx.masked(tx, {"layer": True, "head": False}, otherwise="zero").init(params),
        ValueError,
        r"\['head'\] matches no parameter; there are layer/b, layer/w",
    ),
    "a predicate that looks at values": (
        lambda: gx.masked(tx, lambda path, leaf: leaf.sum() > 0, otherwise="zero").init(params),
        AttributeError,
        "^a parameter is chosen by its path and type: a leaf has shape, ndim, size and dtype, not 'sum'",
    ),
    "a predicate that answers an array": (
        lambda: gx.freeze(lambda path, leaf: jnp.array(True)).init(params),
        TypeError,
        "^freeze: where=<lambda> must return True or False for 'layer/b', got",
    ),
    "masked with swapped arguments": (
        lambda: gx.masked("w", tx, otherwise="zero"),
        TypeError,
        "^masked: inner must be a tr",
    ),
    "an unknown otherwise": (
        lambda: gx.masked(tx, "w", otherwise="drop"),
        ValueError,
        "^masked: otherwise must be 'ide",
    ),
    "a list of rules": (lambda: gx.partition([tx]), TypeError, "^partition: rules must be a dict of transformations"),
    "a rule that is a number": (
        lambda: gx.partition({"w": 3}),
        TypeError,
        r"^partition: rules\['w'\] must be a transf",
    ),
    "a key that is a number": (
        lambda: gx.partition({3: tx}),
        TypeError,
        "^partition: a rule must be a pattern, a funct",
    ),
    "no rule at all": (
        lambda: gx.partition({}).init(params),
        ValueError,
        "^partition: no rule chooses layer/b, layer/w",
    ),
    "a label without a rule": (
        lambda: gx.partition({"a": tx}, labels={"w": "b"}),
        ValueError,
        "^partition: labels has b|'b'",
    ),
    "labels of numbers": (
        lambda: gx.partition({"a": tx}, labels={"w": 3}),
        TypeError,
        "^partition: labels must be a tree",
    ),
    "a label of no parameter": (
        lambda: gx.partition({"a": tx}, labels={"layer": "a", "head": "a"}).init(params),
        ValueError,
        r"^partition: labels\['head'\] matches no parameter; there are layer/b, layer/w",
    ),
    "an optional rule that does not exist": (
        lambda: gx.partition({"a": tx}, optional="b"),
        ValueError,
        "^partition: optional has",
    ),
    "optional that is a number": (
        lambda: gx.partition({"a": tx}, optional=3),
        TypeError,
        "^partition: optional must be",
    ),
}

# ---------------------------------------------------------------- the arguments of init and update
Pair = namedtuple("Pair", "w b")
adam, momentum = gx.adam(), gx.momentum(0.9)


def of_state(**changed):
    return lambda: tx.update(params, state._replace(**changed), params)


def sam(grad_fn):
    return stepped(gx.sam(gx.sgd()), params, params, grad_fn=grad_fn)


GIVEN = {
    "an array of objects": (
        lambda: tx.init(np.array([None, 1])),
        TypeError,
        "^params is .*: keep arrays and None only",
    ),
    "an array of texts": (lambda: tx.init({"w": np.array(["a"])}), TypeError, r"^params\['w'\] is .*: keep arrays"),
    "an array of dates": (
        lambda: tx.init({"w": np.array("2026", "M8[D]")}),
        TypeError,
        r"^params\['w'\] is .*: keep a",
    ),
    "an array of records": (
        lambda: tx.init({"w": np.zeros(2, [("a", "f4")])}),
        TypeError,
        r"^params\['w'\] is .*: keep",
    ),
    "a type": (lambda: tx.init({"w": int}), TypeError, r"^params\['w'\] is the class int: keep arrays"),
    "a set": (lambda: tx.init({1.0, 2.0}), TypeError, "^params is .*: keep arrays and None only"),
    "a module": (lambda: tx.init(np), TypeError, "^params is <module 'numpy'.*: keep arrays"),
    "shapes and a string in init": (
        lambda: adam.init({"w": jax.ShapeDtypeStruct((3,), "f4"), "b": "x"}),
        TypeError,
        r"^params\['b'\] is 'x': keep arrays",
    ),
    "keys of several types": (
        lambda: tx.init({1: weights, "a": weights}),
        ValueError,
        "^chain.init: in params, a dict must have keys of one type, such as strings$",
    ),
    "a tracer in init": (
        lambda: adam.init(leaked()),
        ValueError,
        "^params is a leaked tracer: return",
    ),
    "a tracer in update": (
        lambda: adam.update(leaked(), adam.init(weights)),
        ValueError,
        "^updates is a leaked tracer",
    ),
    "a tracer in a state": (
        lambda: adam.update(weights, jax.tree.map(lambda x: leaked() if x.ndim else x, adam.init(weights))),
        ValueError,
        r"slots(/|\[')precondition/.* is a leaked tracer",
    ),
    "a tracer as a rate": (
        lambda: gx.scale(leaked(())).init(weights),
        ValueError,
        "^scale: factor is a leaked tracer",
    ),
    "objects in update": (
        lambda: adam.update(np.array([None]), adam.init(weights)),
        TypeError,
        "^updates is .*: keep arr",
    ),
    "a string in update": (lambda: adam.update("g", adam.init(weights)), TypeError, "^updates is 'g': keep arrays"),
    "shapes in update": (
        lambda: adam.update(jax.ShapeDtypeStruct((3,), "f4"), adam.init(weights), weights),
        TypeError,
        "^updates is .*, which has no values",
    ),
    "shapes without params": (
        lambda: adam.update(jnp.ones(4), adam.init(weights)),
        ValueError,
        r"^state.slots\['.*'\] must have shape \(4,\), got \(3,\); make the state with .* these parameters",
    ),
    "a column for a number": (
        stepped(adam, jnp.ones(1), jnp.ones(())),
        ValueError,
        r"^updates must have shape \(\), got \(1,\)",
    ),
    "a real update of a complex parameter": (
        stepped(adam, weights, weights * 1j),
        TypeError,
        "^updates must be complex64, got float32",
    ),
    "a branch alone": (
        update(params["layer"]),
        ValueError,
        r"^updates\['layer/b'\] is missing: .*, got 'b', 'w'",
    ),
    "a branch around": (
        update({"net": params}),
        ValueError,
        r"^updates\['layer/b'\] is missing: .*, got 'net/layer/b'",
    ),
    "a leaf for a branch": (stepped(adam, weights, {"w": weights}), ValueError, r"^updates\['w'\] is missing"),
    "a branch for a leaf": (
        stepped(adam, {"w": weights}, weights),
        ValueError,
        "^updates is missing: expected '', got '",
    ),
    "a list of numbers": (
        stepped(adam, [0.0, 0.0, 0.0], weights),
        ValueError,
        "^updates is missing: expected '', got '",
    ),
    "a dict for a named tuple": (
        stepped(adam, {"w": weights, "b": weights}, Pair(weights, weights)),
        ValueError,
        r"^updates: the containers of the trees PyTreeDef\({.*}\) and PyTreeDef\(.*Pair.*\) differ",
    ),
    "an ordered dict for a dict": (
        stepped(adam, OrderedDict(w=weights), {"w": weights}),
        ValueError,
        "^updates: the containers of the trees .*OrderedDict.* and .* differ",
    ),
    "an ordered dict without params": (
        lambda: adam.update(OrderedDict(w=weights), adam.init({"w": weights})),
        ValueError,
        "^state.slots: the containers of the trees .*OrderedDict.* and .* differ; make the state with init",
    ),
    # the state
    "the state first": (
        lambda: tx.update(state, params, params),
        TypeError,
        "state must come from tx.init.params., got dict: were state and updates swapped",
    ),
    "the state last": (
        lambda: tx.update(params, params, state),
        TypeError,
        "got dict: were state and .* swapped",
    ),
    "no state": (
        lambda: tx.update(params, None, params),
        TypeError,
        "state must come from tx.init.params., got NoneType",
    ),
    "the slots": (
        lambda: tx.update(params, state.slots, params),
        TypeError,
        "state must come from tx.init.params., got dict",
    ),
    "a state as a dict": (
        lambda: tx.update(params, state._asdict(), params),
        TypeError,
        "state must come from tx.init.params., got d",
    ),
    "a state without its step": (
        of_state(step=None),
        TypeError,
        "^state.step must be one int32, got None: make the s",
    ),
    "a step that is a float": (of_state(step=1.5), TypeError, "^state.step must be one int32, got 1.5|float32"),
    "a step of 16 bits": (
        update(state=state._replace(step=jnp.zeros((), jnp.int16))),
        TypeError,
        "^state.step must be one int32, got ",
    ),
    "a step of many": (of_state(step=jnp.ones(3, int)), TypeError, r"^state.step must be one int32, got int32\[3\]"),
    "a step that is a string": (of_state(step="a"), TypeError, "^state.step must be one int32, got 'a'"),
    "no slots": (
        of_state(slots=None),
        ValueError,
        r"^state.slots\['precondition/.*'\] is missing: expected .*, got no leaves; make the",
    ),
    "a slot that is a string": (
        lambda: gx.scale_by_ema(0.9).update(weights, gx.State(jnp.array(0), {"scale_by_ema": {"mean": "a"}}), weights),
        TypeError,
        r"^state.slots\['scale_by_ema/mean'\] must be an array, got 'a'",
    ),
    "a state of many": (
        lambda: adam.update(weights, jax.vmap(adam.init)(jnp.ones((2, 3))), weights),
        TypeError,
        r"^state.step must be one int32, got int32\[2\]: make the state with init",
    ),
    "a state of other names": (
        lambda: adam.update({"a": weights}, adam.init({"b": weights})),
        ValueError,
        r"^state.slots\['precondition/.*/a'\] is missing",
    ),
    # extra arguments
    "params misspelled": (
        lambda: tx.update(params, state, parms=params),
        TypeError,
        "^unexpected argument 'parms': did you mean 'params'",
    ),
    "value misspelled": (
        stepped(gx.polyak_sgd(), vaule=1.0),
        TypeError,
        "^unexpected argument 'vaule': did you mean 'value'. This optimizer takes value",
    ),
    "no value": (stepped(gx.polyak_sgd()), ValueError, "^polyak_step needs the argument 'value': call update.*value=…"),
    "a value that is None": (
        stepped(gx.polyak_sgd(), value=None),
        ValueError,
        "^polyak_step needs the argument 'value'",
    ),
    "values": (stepped(gx.polyak_sgd(), value=weights), ValueError, r"value must be one real number, got float32\[3\]"),
    "a complex value": (stepped(gx.polyak_sgd(), value=1j), ValueError, "value must be one real number, got complex64"),
    "a value that is a string": (
        stepped(gx.polyak_sgd(), value="a"),
        TypeError,
        "value must be one real number, got 'a'",
    ),
    "no key": (stepped(gx.noisy_sgd()), ValueError, "^add_noise needs the argument 'key': call update"),
    "a number as a key": (stepped(gx.noisy_sgd(), key=0), TypeError, "key must be one random key, .*, got "),
    "keys": (
        stepped(gx.noisy_sgd(), key=jax.random.split(jax.random.key(0))),
        TypeError,
        r"^add_noise: key must be one random key, jax.random.key\(0\), got key<fry>\[2\]",
    ),
    "no gradient function": (stepped(gx.sam(gx.sgd())), ValueError, "^sam needs the argument 'grad_fn': call update"),
    "a gradient as a function": (
        sam(params),
        TypeError,
        "^grad_fn must be a function of a tree like the parameters, got .*layer",
    ),
    "a gradient of nothing": (
        sam(lambda: params),
        TypeError,
        r"^grad_fn: too many positional arguments\. It takes \(\); it must be a function of a tree",
    ),
    "a gradient of two": (sam(lambda a, b: params), TypeError, "^grad_fn: missing a .* 'b'.* a function of a tree"),
    "no gradient of it": (
        sam(lambda p: None),
        ValueError,
        r"^grad_fn\(…\) has nothing for params\['layer/b'\]: it is No",
    ),
    "a value and a gradient": (
        sam(lambda p: (1.0, p)),
        ValueError,
        r"^grad_fn\(…\) has nothing for params\['layer/b'\]",
    ),
    "a gradient of another shape": (
        sam(lambda p: with_leaf("b", jnp.ones(5))),
        ValueError,
        r"^grad_fn\(…\)\['layer/b'\] must have shape \(4,\), got \(5,\)",
    ),
    # apply_updates
    "apply: no params": (lambda: gx.apply_updates(None, params), ValueError, r"^updates\['layer/b'\] is unexpected"),
    "apply: a string": (lambda: gx.apply_updates(weights, "a"), TypeError, "^updates is 'a': keep arrays"),
    "apply: updates and state": (
        lambda: gx.apply_updates(params, tx.update(params, state, params)),
        ValueError,
        r"^updates\['layer/b'\] is missing: .*, got '0/layer/b'",
    ),
    "apply: shapes": (lambda: gx.apply_updates(jax.ShapeDtypeStruct((3,), "f4"), weights), TypeError, "has no values"),
}

# ---------------------------------------------------------------- training, serialization and other users of the core
stack2 = gx.stack([gx.scale(1.0), gx.scale(2.0)])


def trained(loss, weights=weights, batch=batch, tx=gx.sgd(0.1), key=None, **options):  # noqa: B008
    def act():
        step = gx.train_step(loss, tx, donate=False, **options)
        return step(weights, tx.init(jnp.zeros(3)), batch, key=key)

    return act


def gone():
    x = jnp.zeros(3)
    x.delete()
    return x


def fitted(params=weights, tx=gx.sgd(0.1), loss=loss, data=batch, steps=1, **options):  # noqa: B008
    return lambda: gx.fit(params, tx, loss, data, steps, progress=False, **options)


def swept(train, txs=stack2):
    return lambda: gx.sweep(train, txs)


def draw(**options):
    return lambda: gx.random_search(lambda w: jnp.sum(w), weights, **{"key": jax.random.key(0)} | options)


BUILT = {
    # train_step
    "a loss by name": (lambda: gx.train_step("mse", tx), TypeError, "^train_step: loss must be a function, got 'mse'"),
    "loss and optimizer swapped": (
        lambda: gx.train_step(tx, loss),
        TypeError,
        "^train_step: loss must be a function, got ",
    ),
    "an optimizer not called": (
        lambda: gx.train_step(loss, gx.sgd),
        TypeError,
        "^train_step: tx must be .*: call it, sgd",
    ),
    "a loss without a batch": (
        trained(lambda w: 0.0),
        TypeError,
        r"^train_step: loss must be a function of \(params, batch",
    ),
    "a loss without a key": (
        trained(loss, has_key=True),
        TypeError,
        r"must be a function of \(params, batch, key\), got loss",
    ),
    "a loss that is None": (
        trained(lambda w, x: None),
        ValueError,
        "^train_step: the loss must be one real number, got N",
    ),
    "losses": (
        trained(lambda w, x: x @ w),
        ValueError,
        r"^train_step: the loss must be one real number, got float32\[8\]",
    ),
    "a loss and more": (
        trained(lambda w, x: (loss(w, x), 1)),
        ValueError,
        "must be one real number, .*: set has_aux=True",
    ),
    "no aux": (
        trained(loss, has_aux=True),
        ValueError,
        r"^train_step: the loss must return \(value, aux\), got float32",
    ),
    "aux that is a string": (
        trained(lambda w, x: (loss(w, x), {"a": "b"}), has_aux=True),
        TypeError,
        r"^train_step: aux\['a'\] must be an array, got 'b'",
    ),
    "a loss with if": (
        lambda: jax.make_jaxpr(lambda w: trained(lambda w, x: loss(w, x) if w[0] > 0 else 0.0, w)())(weights),
        TypeError,
        "^train_step: loss: the function <lambda> must be one that JAX can trace: jnp.where",
    ),
    "a loss of NumPy": (
        trained(lambda w, x: np.sum(np.asarray(w))),
        TypeError,
        "^train_step: loss: .* that JAX can trace",
    ),
    "a batch that is a string": (trained(loss, batch="a"), TypeError, "^train_step: batch must be an array, got 'a'"),
    "a batch of objects": (
        trained(loss, batch=np.array([None])),
        TypeError,
        r"^train_step: batch must be an array, got o",
    ),
    "params that are a string": (trained(loss, "w"), TypeError, "^train_step: params must be an array, got 'w'"),
    "params that are used": (
        trained(loss, gone()),
        ValueError,
        "^train_step: params was donated to an earlier step, which reused its memory: .*donate=False",
    ),
    "a key not asked for": (trained(loss, key=jax.random.key(0)), ValueError, "^train_step: unexpected key"),
    "a seed as a key": (
        trained(lambda w, x, k: 0.0, key=0, has_key=True),
        TypeError,
        "^train_step: key must be one random",
    ),
    "no micro-batch": (
        trained(loss, micro_batches=0),
        ValueError,
        "^train_step: micro_batches must be an integer, 1 or",
    ),
    "micro-batches that do not divide": (trained(loss, micro_batches=3), ValueError, "3 micro-batches do not divide"),
    # fit
    "fit: the optimizer first": (lambda: gx.fit(tx, weights, loss, batch, 1), TypeError, "tx must be a transformation"),
    "fit: no loss": (fitted(loss=None), TypeError, "^fit: loss must be a function, got None"),
    "fit: no data": (fitted(data=None), TypeError, "^fit: data must be a tree of arrays, .*, got None"),
    "fit: a file's name": (fitted(data="train.npz"), TypeError, "^fit: data must be a tree of arrays, .*'train.npz'"),
    "fit: texts": (fitted(data=np.array(["a", "b"])), TypeError, "^fit: data must be a tree of arrays, "),
    "fit: a string among arrays": (
        fitted(data={"x": batch, "y": "a"}),
        TypeError,
        "^fit: data must be a tree of arrays, ",
    ),
    "fit: unequal rows": (
        fitted(data=(batch, batch[:3])),
        ValueError,
        r"^fit: data\['1'\] has 3 rows, data\['0'\] has 8",
    ),
    "fit: no rows": (fitted(data=jnp.ones(())), ValueError, "^fit: data must be an array with an axis of rows"),
    "fit: a function of nothing": (
        fitted(data=lambda: batch),
        TypeError,
        r"^fit: data must be a function of key, got <la",
    ),
    "fit: steps below 0": (fitted(steps=-1), ValueError, "^fit: steps must be an integer from 0 to .*, got -1"),
    "fit: steps as a string": (fitted(steps="2"), ValueError, "^fit: steps must be an integer from 0 to .*, got '2'"),
    "fit: a batch too large": (fitted(batch_size=9), ValueError, "^fit: batch_size must be 'all' or from 1 to 8, .* 9"),
    "fit: a seed as a string": (fitted(seed="a"), ValueError, "^fit: seed must be an integer from 0 to .*, got 'a'"),
    "fit: patience alone": (fitted(patience=2), ValueError, "^fit: patience needs evaluate"),
    "fit: evaluate a number": (fitted(evaluate=3), TypeError, "^fit: evaluate must be a function of params, got 3"),
    "fit: evaluate of two": (
        fitted(evaluate=lambda p, q: 0.0),
        TypeError,
        r"^fit: evaluate must be a function of params,",
    ),
    "fit: evaluate to None": (
        fitted(evaluate=lambda p: None),
        ValueError,
        "^fit: evaluate must return a number .*None",
    ),
    "fit: evaluate to a string": (
        fitted(evaluate=lambda p: "a"),
        ValueError,
        "^fit: evaluate must return a number .*'a'",
    ),
    "fit: one callback": (fitted(callbacks=print), TypeError, "^fit: callbacks must be a sequence, got "),
    "fit: a number as a callback": (
        fitted(callbacks=(3,)),
        TypeError,
        "^fit: a callback must be a function of run, got 3",
    ),
    "fit: a callback of nothing": (
        fitted(callbacks=[lambda: 0]),
        TypeError,
        r"^fit: a callback must be .*<lambda>\(\)",
    ),
    "fit: a number as a file": (fitted(checkpoint=3), TypeError, "^fit: checkpoint must be a file, got 3"),
    "fit: resume nothing": (fitted(resume=True), ValueError, "^fit: resume needs checkpoint"),
    "fit: progress as a string": (
        lambda: gx.fit(weights, tx, loss, batch, 1, progress="no"),
        TypeError,
        "^fit: progress must",
    ),
    "fit: a model state not taken": (
        fitted(model_state=1.0),
        TypeError,
        r"of \(params, batch, model_state\), got loss",
    ),
    # sweeps
    "sweep: one optimizer": (swept(lambda tx: 0.0, gx.sgd()), ValueError, "^sweep: txs must be a batch of optimizers"),
    "sweep: swapped arguments": (
        lambda: gx.sweep(stack2, abs),
        TypeError,
        "^sweep: train must be a function of one arg",
    ),
    "sweep: a function of nothing": (
        swept(lambda: 0.0),
        TypeError,
        r"^sweep: train must be a function of one .*<lambda>\(\)",
    ),
    "sweep: nothing comes": (swept(lambda tx: None), TypeError, "^sweep: train must return arrays, returned None"),
    "sweep: a string comes": (swept(lambda tx: "a"), TypeError, "^sweep: train must return arrays, returned 'a'"),
    "sweep: if": (swept(lambda tx: 1.0 if tx.factor > 0 else 2.0), TypeError, "^sweep: train: .* that JAX can trace"),
    "sweep: none at once": (
        lambda: gx.sweep(abs, stack2, at_once=0),
        ValueError,
        "^sweep: at_once must be None or an int",
    ),
    "stack: a number": (lambda: gx.stack(3), TypeError, "^stack: txs must be a sequence, got 3"),
    "stack: one optimizer": (lambda: gx.stack(gx.sgd()), TypeError, "^stack: txs must be a sequence, got chain"),
    "stack: none": (lambda: gx.stack([]), ValueError, "^stack needs one optimizer or more, got none"),
    "stack: not called": (
        lambda: gx.stack([gx.sgd]),
        TypeError,
        r"^stack: txs\[0\] must be .*the function sgd: call it",
    ),
    "stack: two kinds": (
        lambda: gx.stack([gx.sgd(), adam]),
        ValueError,
        r"^stack: txs\[1\] differs in structure from",
    ),
    "grid: an optimizer": (
        lambda: gx.grid(gx.sgd(), factor=[1]),
        TypeError,
        "^grid: make must be a function, got chain",
    ),
    "grid: a number": (
        lambda: gx.grid(gx.sgd, learning_rate=0.1),
        TypeError,
        "^grid: learning_rate must be a sequence",
    ),
    "grid: no value": (lambda: gx.grid(gx.sgd, learning_rate=[]), ValueError, "^grid: learning_rate has no values"),
    "grid: a bad value": (
        lambda: gx.grid(gx.sgd, learning_rate=[-1.0]),
        ValueError,
        "learning_rate must be .*, got -1.0",
    ),
    "best by a name": (
        lambda: gx.sweep(lambda tx: tx.factor, stack2).best(by="result"),
        TypeError,
        "^Sweep.best: by must be a function of one argument, got 'result'",
    ),
    # the values in an optimizer
    "hyperparameters of a recipe": (
        lambda: gx.hyperparameters(gx.adam),
        TypeError,
        "^hyperparameters: tx must be .*call",
    ),
    "hyperparameters at a number": (
        lambda: gx.hyperparameters(tx, 3),
        TypeError,
        "^hyperparameters: state must be the St",
    ),
    "an unknown hyperparameter": (
        lambda: gx.set_hyperparameters(tx, {"lr": 1}),
        ValueError,
        "^there is no hyperparameter 'lr': did you mean 'learning_rate'. There are b1, b2, eps",
    ),
    "one of several": (lambda: gx.set_hyperparameters(tx, {"decay": 0.5}), ValueError, "'decay' is ambiguous: "),
    "no name": (lambda: gx.set_hyperparameters(tx, {3: 0.5}), ValueError, "^there is no hyperparameter '3'. There are"),
    "a list of values": (
        lambda: gx.set_hyperparameters(tx, [1]),
        TypeError,
        "^set_hyperparameters: values must be a dict",
    ),
    "a value out of range": (
        lambda: gx.set_hyperparameters(tx, {"eps": -1}),
        ValueError,
        r"^set_hyperparameters: eps \(eps of precondition\) must be a",
    ),
    "a summary of a recipe": (
        lambda: gx.summary(gx.adam, weights),
        TypeError,
        "^summary: tx must be .*function adam: call",
    ),
    "a summary of a string": (lambda: gx.summary(tx, {"a": "x"}), TypeError, r"^params\['a'\] is 'x': keep arrays"),
    "a formula by name": (lambda: gx.formula("adam"), TypeError, "^formula: tx must be a transformation .*'adam'"),
    "explain a string": (lambda: gx.explain(tx, {"a": "x"}), TypeError, r"^params\['a'\] is 'x': keep arrays"),
    "as_optax of a recipe": (
        lambda: gx.as_optax(gx.adam),
        TypeError,
        "^as_optax: tx must be .*the function adam: call it",
    ),
    "eval_params without a state": (
        lambda: gx.eval_params(tx, None, params),
        TypeError,
        "needs the State of tx.init, got N",
    ),
    "eval_params of another": (
        lambda: gx.eval_params(gx.lookahead(gx.sgd()), state, params),
        ValueError,
        r"^state.slots\['lookahead/age'\] is missing: expected",
    ),
    # measures
    "the norm of a string": (
        lambda: gx.global_norm({"a": "b"}),
        TypeError,
        r"^global_norm: tree\['a'\] must be an array",
    ),
    "the angle of two shapes": (
        lambda: gx.cosine_similarity(weights, batch),
        ValueError,
        "a and b must have the same shapes, got",
    ),
    "the angle of two trees": (
        lambda: gx.cosine_similarity({"w": weights}, weights),
        ValueError,
        "a and b must have the same shapes",
    ),
    "measurements of an optimizer": (
        lambda: gx.measurements(tx),
        TypeError,
        "^measurements: state must be the optimizer'",
    ),
    "a measure of two": (
        lambda: gx.monitor("angle", gx.cosine_similarity),
        TypeError,
        r"^monitor 'angle': measure must be a function of trees, got cosine_similarity\(a, b\)",
    ),
    "a measure that is a number": (
        lambda: gx.monitor("a", 3),
        TypeError,
        "^monitor 'a': measure must be a function of tr",
    ),
    "a measure to a vector": (
        stepped(gx.monitor("a", abs)),
        ValueError,
        r"^monitor 'a': the measure must return one .*\[3\]",
    ),
    "a measure to a string": (
        stepped(gx.monitor("a", lambda g: "x")),
        ValueError,
        "^monitor 'a': the measure must return one",
    ),
    # values alone
    "no draws": (draw(draws=0), ValueError, "^random_search: draws must be an integer, at least 1, got 0"),
    "half a draw": (draw(draws=1.5), ValueError, "^random_search: draws must be an integer, at least 1, got 1.5"),
    "draws of a seed": (draw(key=0), TypeError, "^random_search: key must be one random key, .*, got 0"),
    "draws of a string": (draw(scale="a"), TypeError, "^random_search: scale must be a number, got 'a'"),
    "a slope of nothing": (
        lambda: gx.numeric_gradient(3, weights),
        TypeError,
        "^numeric_gradient: loss must be a function",
    ),
    "a slope of None": (
        lambda: gx.numeric_gradient(lambda w: None, weights),
        TypeError,
        "^the loss must return one float",
    ),
    "a slope of texts": (
        lambda: gx.numeric_gradient(abs, {"a": "b"}),
        TypeError,
        r"params\['a'\] must be an array, got 'b",
    ),
    "a step of 0": (lambda: gx.numeric_gradient(jnp.sum, weights, step=0), ValueError, "step must be above 0, got 0"),
    "a step as a string": (
        lambda: gx.numeric_gradient(jnp.sum, weights, step="a"),
        TypeError,
        "step must be a number, got 'a'",
    ),
    "another method": (
        lambda: gx.numeric_gradient(jnp.sum, weights, method="x"),
        ValueError,
        "method must be 'forward' or",
    ),
    "a gradient of another tree": (
        lambda: gx.check_gradient(jnp.sum, weights, gradient={"w": weights}),
        ValueError,
        "^check_gradient: the gradient must have the structure and shapes",
    ),
    # pictures and races
    "curves of a number": (lambda: plots.curves(3), TypeError, "^curves: losses must be a dict from names to arrays"),
    "panels of a number": (lambda: plots.panels(3), TypeError, "^panels: groups must be a dict from titles to losses"),
    "a number as a schedule": (
        lambda: plots.schedule(3),
        TypeError,
        "^schedule: schedule must be a function of one arg",
    ),
    "a number as a table": (lambda: plots.table(3), TypeError, "^table: table must be a sequence, got 3"),
    "a race of nothing": (
        lambda: lab.race(3),
        TypeError,
        r"must be a Problem, such as PROBLEMS\['xor'\]\(\), got 3",
    ),
    "a race of names": (
        lambda: lab.race(lab.xor(), ["adam"]),
        TypeError,
        "^race: entries must be a dict from n",
    ),
}


def of_tree(init=lambda p: {"n": jnp.zeros(1)}, update=lambda u, slots: (u, slots), needs=()):
    """The update of a piece on whole trees made of these functions."""

    class own(gx.Transformation):
        def init_tree(self, params):
            return init(params)

        def update_tree(self, updates, slots, context):
            return update(updates, slots)

    own.needs = needs
    return lambda: own().update(params, own().init(params), params)


def of_context(rule, wrap=lambda tx: tx):
    """The update, without parameters, of a piece whose rule reads the context."""

    class own(gx.PerLeaf):
        def update_leaf(self, g, slots, context):
            return rule(g, context), slots

    return lambda: wrap(own()).update(params, wrap(own()).init(params))


def of_init(init, wrap=lambda tx: tx):
    """The initial state of a `PerLeaf` that defines `init_tree`."""

    class own(gx.PerLeaf):
        def init_tree(self, params):
            return init(params)

        def update_leaf(self, g, slots, context):
            return g, slots

    return lambda: wrap(own()).init(params)


class misspelt(gx.PerLeaf):
    """Reads a slot that it does not have."""

    def init_leaf(self, param):
        return {"average": param}

    def update_leaf(self, g, slots, context):
        return slots["mean"], slots


class short(gx.PerLeaf):
    """Its rule lacks the context."""

    def update_leaf(self, g, slots):  # pyright: ignore[reportIncompatibleMethodOverride]
        return g, slots


class perhaps(gx.PerLeaf):
    """Has a hyperparameter that may be None."""

    factor: gx.NonNegative | None = None


def fed(**given):
    """A step with a model state of one number; what is given replaces the arguments."""
    given = {"returns": jnp.ones(1), "skip_nonfinite": False, "micro_batches": 1, "batch": jnp.ones((2, 3))} | given
    options = {name: given[name] for name in ("skip_nonfinite", "micro_batches")}
    step = gx.train_step(lambda w, b, m: (w.sum(), given["returns"]), gx.sgd(), has_model_state=True, **options)
    return lambda: step(jnp.ones(3), step.tx.init(jnp.ones(3)), given["batch"], model_state=jnp.ones(1))


both = {"a/b": weights, "a": {"b": weights}}
mixed = {1: weights, "a": weights}

WRITTEN = {
    # a user's pieces
    "an integer slot made a fraction": (
        of_leaf(lambda p: {"n": jnp.zeros((), int)}, lambda g, slots: (g, {"n": jnp.float32(0.5)})),
        TypeError,
        r"^own: update_leaf: slots\['n/layer/b'\] must be int32, got float32",
    ),
    "a flag made a number": (
        of_tree(lambda p: {"n": jnp.zeros((), bool)}, lambda u, slots: (u, {"n": jnp.ones((), jnp.int32)})),
        TypeError,
        r"^own: slots\['n'\] must be bool, got int32",
    ),
    "a complex update": (
        of_leaf(update=lambda g, slots: (jax.lax.complex(g, g), slots)),
        TypeError,
        r"^own: update_leaf: updates\['layer/b'\] must be float32, got complex64",
    ),
    "a pair's state of another kind": (
        lambda: stepped(gx.pair(lambda p: jnp.zeros((), int), lambda u, s, p: (u, jnp.ones(()))), jnp.ones(3))(),
        TypeError,
        r"^pair: slots\['state'\] must be int32, got float32",
    ),
    "a slot that grows": (
        of_tree(update=lambda u, slots: (u, {"n": jnp.zeros(2)})),
        ValueError,
        r"^own: slots\['n'\] must have shape \(1,\), got \(2,\)",
    ),
    "a slot that is a string": (
        of_tree(update=lambda u, slots: (u, {"n": "x"})),
        TypeError,
        r"^own: slots\['n'\] must be an array, got 'x'",
    ),
    "no update of the tree": (
        of_tree(update=lambda u, slots: None),
        TypeError,
        r"^own: update_tree must return \(updates, slots\), with a dict of slots, got None",
    ),
    "an update of three": (of_tree(update=lambda u, slots: (u, slots, 1)), TypeError, "^own: update_tree must return"),
    "updates alone, a dict of two": (
        of_tree(update=lambda u, slots: {"w": 1, "b": 2}),
        TypeError,
        "^own: update_tree must return",
    ),
    "a rule that reads an argument it does not declare": (
        of_context(lambda g, context: g * context.extra["curvature"]),
        ValueError,
        r"^own: its update found no 'curvature': it has no slots; .* declared, needs = \('curvature',\), and passed to",
    ),
    "a rule that reads an argument it does not declare, in a chain": (
        lambda: of_context(lambda g, context: g * context.extra["key"], lambda tx: gx.chain(tx, gx.sgd()))(),
        ValueError,
        r"^own: its update found no 'key': it has no slots; .* needs = \('key',\)",
    ),
    "a rule that reads a slot of another name": (
        lambda: misspelt().update(params, misspelt().init(params)),
        ValueError,
        "^misspelt: its update found no 'mean': the slots are 'average'; ",
    ),
    "a rule that reads parameters that are not given": (
        of_context(lambda g, context: g * context.params),
        ValueError,
        r"^own: its update failed with None for context.params: .* declare needs = \(\"params\",\), and call update\(",
    ),
    "a function of parameters that are not given": (
        of_context(lambda g, context: g * jnp.sqrt(context.params)),
        ValueError,
        "^own: its update failed with None for context.params",
    ),
    "a method of parameters that are not given": (
        of_context(lambda g, context: g * context.params.mean()),
        ValueError,
        "^own: its update failed with None for context.params",
    ),
    "init_tree of one array, by a function": (
        of_init(lambda p: {"n": jnp.zeros_like(p)}),
        TypeError,
        r"^own: init_tree failed on the whole tree of parameters.* define init_leaf\(self, param\)",
    ),
    "init_tree of one array, by its shape": (
        of_init(lambda p: {"n": jnp.zeros(p.shape)}),
        TypeError,
        "^own: init_tree failed on the whole tree of parameters",
    ),
    "init_tree of one array, in a chain": (
        of_init(lambda p: {"n": 0 * p}, lambda tx: gx.chain(tx, gx.sgd())),
        TypeError,
        "^own: init_tree failed on the whole tree of parameters",
    ),
    "init_tree of a number, for a rule on one array": (
        of_init(lambda p: {"n": jnp.zeros(())}),
        ValueError,
        "^own: init_tree must return trees like params, got .* as 'n': for a slot of one array, define init_leaf",
    ),
    "init_tree that returns an array, in a chain": (
        of_init(lambda p: jnp.zeros(3), lambda tx: gx.chain(tx, gx.sgd())),
        TypeError,
        r"^own: init_tree must return a dict of slots, got float32\[3\]",
    ),
    "init_tree that returns None": (
        of_tree(lambda p: None),
        TypeError,
        "^own: init_tree must return a dict of slots, got None",
    ),
    "a slot of a string": (
        of_tree(lambda p: {"n": {"of": "x"}}),
        TypeError,
        r"^own: init_tree: slots\['n/of'\] must be an array, got 'x'",
    ),
    "needs as a string": (
        of_tree(needs="value"),
        TypeError,
        r"^own: needs must be a tuple of names, got 'value': write \('value',\)",
    ),
    "a rule without the context": (
        lambda: short().init(weights),
        TypeError,
        r"^short: update_leaf must take \(self, g, slots, context\)",
    ),
    "a hyperparameter that may be None": (
        lambda: perhaps(-1.0),
        ValueError,
        "^perhaps: factor must be a finite number, 0 or more, got -1.0",
    ),
    "a field by a method's name": (
        lambda: type("own", (gx.PerLeaf,), {"__annotations__": {"init": gx.Scalar}}),
        TypeError,
        "^own: a field cannot be called 'init', the name of a method",
    ),
    # numbers beyond float32
    "a rate too large": (
        lambda: gx.sgd(1e300),
        ValueError,
        "^sgd: learning_rate must be a finite number, 0 or more, got 1e[+]300, inf in float32",
    ),
    "a norm too small": (lambda: gx.clip_by_global_norm(1e-300), ValueError, "got 1e-300, 0.0 in float32"),
    "a decay set to 1": (
        lambda: gx.set_hyperparameters(gx.adam(), {"by.decay": 1 - 1e-9}),
        ValueError,
        "must be at least 0 and below 1, got 0.999999999, 1.0 in float32",
    ),
    # schedules
    "a schedule of schedules": (
        lambda: gx.sgd(lambda step: schedules.constant(0.1)).init(weights),
        TypeError,
        r"^scale_by_learning_rate: learning_rate at step 0: a schedule must return a number, got constant\(0.1\)",
    ),
    # extra arguments, and numbers
    "a pair's update of one": (
        lambda: stepped(gx.pair(lambda p: (), lambda u: u), jnp.ones(3))(),
        TypeError,
        r"^pair: its update: too many positional arguments\. It takes \(u\); it is called with \(updates, state, p",
    ),
    "a pair's argument not given": (
        lambda: stepped(gx.pair(lambda p: (), lambda u, s, p, *, value: (u, s)), jnp.ones(3))(),
        TypeError,
        r"^pair: its update: missing a .*argument: 'value'\. It takes \(u, s, p, \*, value\); it is called with",
    ),
    "a value of a string, of parts": (
        lambda: stepped(gx.accumulate(gx.polyak_sgd(), 2), jnp.ones(3), value="x")(),
        TypeError,
        "^accumulate: value must be one real number, got 'x'",
    ),
    "a step beyond int32": (
        lambda: adam.update(weights, adam.init(weights)._replace(step=2**31), weights),
        ValueError,
        "state.* is 2147483648, which overflows int32",
    ),
    "the norm of a key": (
        lambda: gx.global_norm(jax.random.key(0)),
        TypeError,
        "^global_norm: tree must be an array of numbers, got",
    ),
    # trees
    "two leaves of one path": (lambda: adam.init(both), ValueError, r"^two leaves have the same path, among \['a/b'\]"),
    **{
        f"keys of several types, {name}": (
            act,
            ValueError,
            f"^{name}: in {argument}, a dict must have keys of one type, such as strings$",
        )
        for (name, argument), act in {
            ("chain.update", "updates"): lambda: tx.update(mixed, state, params),
            ("chain.apply", "params"): lambda: tx.apply(mixed, state, params),
            ("apply_updates", "params"): lambda: gx.apply_updates(mixed, mixed),
            ("eval_params", "params"): lambda: gx.eval_params(tx, state, mixed),
            ("summary", "params"): lambda: gx.summary(tx, mixed),
            ("measurements", "state"): lambda: gx.measurements(mixed),
            ("global_norm", "tree"): lambda: gx.global_norm(mixed),
            ("explain", "params"): lambda: gx.explain(tx, mixed),
            ("numeric_gradient", "params"): lambda: gx.numeric_gradient(lambda p: 1.0, mixed),
            ("check_laws", "params"): lambda: gx.check_laws(tx, mixed),
            ("fit", "params"): lambda: gx.fit(mixed, tx, lambda p, b: 1.0, weights, 1),
        }.items()
    },
    # the gradient's check
    "a loss of many": (
        lambda: gx.check_gradient(lambda p: p["layer"]["b"], params),
        ValueError,
        r"^the loss must return one floating number, got float32 of shape \(4,\)",
    ),
    "a loss of a string": (
        lambda: gx.check_gradient(lambda p: "x", params),
        TypeError,
        "^the loss must return one .* 'x'",
    ),
    # train_step
    "nothing to train": (
        lambda: gx.fit({"w": 0}, gx.sgd(), lambda p, b: b.sum(), jnp.ones(3), 1),
        ValueError,
        "^train_step: params holds no floating or complex array to train: write 0.0, not 0",
    ),
    "a model state of another shape": (
        fed(returns=jnp.ones(3), skip_nonfinite=True),
        ValueError,
        r"^train_step: the loss returns a model state whose '' is of shape \(3,\); it was of shape \(1,\)",
    ),
    "a model state of other names": (fed(returns={"z": jnp.ones(1)}), ValueError, "model state whose '' is missing"),
    "a model state in another container": (
        lambda: gx.train_step(lambda w, b, m: (w.sum(), tuple(m)), gx.sgd(), has_model_state=True)(
            weights, gx.sgd().init(weights), weights, model_state=[weights]
        ),
        ValueError,
        "^train_step: the loss returns a model state that is PyTreeDef.*; it was PyTreeDef",
    ),
    "a model state that grows by parts": (fed(returns=jnp.ones(3), micro_batches=2), ValueError, "is of shape"),
    "parts of unequal rows": (
        fed(micro_batches=2, batch=(jnp.ones((8, 3)), jnp.ones((2, 3)))),
        ValueError,
        r"^train_step: batch\['1'\] has 2 rows, another array of it 8: micro-batches need equal numbers of rows",
    ),
    "options of fit": (
        lambda: gx.fit(params, tx, lambda p, b: 0.0, weights, 1, options=1),
        TypeError,
        "^fit has no argument 'options': .* train_step takes has_aux",
    ),
    "a grid of nothing": (lambda: gx.grid(int), TypeError, r"^stack: txs\[0\] must be a transformation or a pair"),
    "parameters and state swapped": (
        lambda: gx.train_step(lambda w, b: w["w"] * b, gx.sgd())(gx.sgd().init(weights), {"w": weights}, weights),
        TypeError,
        r"^train_step: call step\(params, state, batch\): params is a state",
    ),
    # check_laws
    "a bound of a string": (
        lambda: gx.check_laws(adam, bound="x"),
        ValueError,
        "^check_laws: bound must be a fin.* 'x'",
    ),
    "a bound below 0": (lambda: gx.check_laws(adam, bound=-1), ValueError, "^check_laws: bound must be a finite num"),
    "laws of a string": (lambda: gx.check_laws(adam, "x"), TypeError, "^params is 'x': keep arrays and None only"),
    "laws of shapes": (
        lambda: gx.check_laws(adam, jax.ShapeDtypeStruct((2,), "float32")),
        TypeError,
        "^params is .*, which has no values",
    ),
    "laws within a trace": (
        lambda: jax.make_jaxpr(lambda p: gx.check_laws(adam, p))(weights),
        ValueError,
        "^check_laws: expected concrete arrays, got tracers: call it outside of jax.jit",
    ),
}

# ---------------------------------------------------------------- arrays that JAX does not take, or no longer
FOREIGN = {
    ">f4": (
        np.ones(3, ">f4"),
        r">f4\[3\]: JAX takes no other byte order than the machine's: write x.astype\('float32'\)",
    ),
    ">i4": (
        np.ones(3, ">i4"),
        r">i4\[3\]: JAX takes no other byte order than the machine's: write x.astype\('int32'\)",
    ),
    "long double": (np.ones(3, "g"), r"float128\[3\]: JAX has no such dtype: write x.astype\('float32'\)"),
    "complex long": (np.ones(3, "G"), r"complex256\[3\]: JAX has no such dtype: write x.astype\('complex64'\)"),
    "masked": (np.ma.ones(3), r"float64\[3\]: JAX takes no masked arrays: call its filled\(0\)"),
    "a set": ({1.0}, r"{1.0}: keep arrays and None only"),
    "a class's object": (SimpleNamespace(w=weights), "namespace.*: keep arrays and None only"),
}
if np.dtype("g").itemsize <= 8:  # where C's long double is a double
    FOREIGN = {name: x for name, x in FOREIGN.items() if "long" not in name}


LEAK = leaked(())


def deleted(x):
    x = jnp.asarray(x)
    x.delete()
    return x


def later():
    """An optimizer whose rate has been deleted since."""
    rate = jnp.float32(0.1)
    tx = gx.sgd(rate)
    rate.delete()
    return tx


class aged(gx.PerLeaf):
    """Has a slot named as the one that counts its updates."""

    counts = True

    def init_leaf(self, param):
        return {"age": param}

    def update_leaf(self, g, slots, context):
        return g, slots


def less(record, name):
    """The record without one of its fields."""
    object.__delattr__(record, name)
    return record


def within(function):
    """The call within a trace."""
    return lambda: jax.make_jaxpr(lambda x: function() and x)(1.0)


def negated(tx, kind=lambda x: x):
    """The optimizer with its numbers turned around, which passes by the checks of its classes."""
    return jax.tree.map(lambda x: kind(-x - 1), tx)


def archive(**arrays):
    file = BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    return np.load(file)


def late(act):
    """The call under x64."""

    def in_x64():
        with jax.enable_x64(True):
            act()

    return in_x64


RATE = "scale_by_learning_rate: learning_rate must be a finite number, 0 or more, got "
COUNT = r"^state\.step must be the number of updates, from 0 to 2³¹ − 1, got "
PASSED = "a function or a field holds a tracer that leaked .*: pass the value as an argument"
EDGES = {
    **{
        f"{name} as params": (lambda x=x: adam.init({"w": x}), TypeError, rf"^params\['w'\] is {words}")
        for name, (x, words) in FOREIGN.items()
    },
    **{
        f"{name} as updates": (
            lambda x=x: adam.update({"w": x}, adam.init({"w": weights})),
            TypeError,
            rf"^updates\['w'\] is {words}",
        )
        for name, (x, words) in FOREIGN.items()
    },
    **{
        f"{name} to apply": (
            lambda x=x: gx.apply_updates({"w": weights}, {"w": x}),
            TypeError,
            rf"^updates\['w'\] is {words}",
        )
        for name, (x, words) in FOREIGN.items()
    },
    **{
        f"{name} as a rate": (
            lambda x=x: jax.tree.map(lambda _: x[0], adam).init(weights),
            TypeError,
            "is .*: write x.astype",
        )
        for name, (x, words) in FOREIGN.items()
        if name == "long double"
    },
    "another byte order as a rate": (
        lambda: jax.tree.map(lambda _: np.array(0.1, ">f4"), gx.sgd()).init(weights),
        TypeError,
        r"^scale_by_learning_rate: learning_rate is .*: JAX takes no other byte order",
    ),
    "another byte order as a slot": (
        of_leaf(lambda p: {"n": np.zeros(3, ">f4")}),
        TypeError,
        r"^own: init_leaf: the slot 'n' of 'layer/b' must be an array, got >f4\[3\]: JAX takes",
    ),
    "a deleted number as a rate": (
        lambda: gx.sgd(deleted(0.1)),
        ValueError,
        "^sgd: learning_rate was donated to an earlier step",
    ),
    **{
        f"a rate that is deleted later, {name}": (lambda act=act: act(later()), ValueError, words)
        for name, (act, words) in {
            "init": (lambda tx: tx.init(weights), "^scale_by_learning_rate: learning_rate was donated"),
            "update": (
                lambda tx: tx.update(weights, adam.init(weights)._replace(slots={})),
                "learning_rate was donated",
            ),
            "hyperparameters": (gx.hyperparameters, r"^hyperparameters: tx\['links/1/learning_rate'\] was donated"),
            "formula": (gx.formula, r"^formula: tx\['links/1/learning_rate'\] was donated"),
            "==": (lambda tx: tx == gx.sgd(0.1), "^a hyperparameter was donated"),
            "hash": (hash, "^a hyperparameter was donated"),
            "in a schedule": (
                lambda tx: schedules.constant(1.0).__mul__(tx.links[1].learning_rate)(0),
                "^combined: right was donated|^a hyperparameter",
            ),
        }.items()
    },
    "the norm of a deleted array": (lambda: gx.global_norm(gone()), ValueError, "^global_norm: tree was donated"),
    "the gradient at a deleted array": (
        lambda: gx.check_gradient(jnp.sum, gone()),
        ValueError,
        "^(check|numeric)_gradient: params was donated",
    ),
    # tracers that leaked
    "a schedule with a leak": (
        lambda: gx.sgd(lambda step: LEAK * step).init(weights),
        ValueError,
        f"^of_step: {PASSED}",
    ),
    "a schedule's field that leaked": (
        lambda: schedules.cosine(LEAK, 10)(3),
        ValueError,
        "^cosine: peak is a leaked tracer",
    ),
    "the same, in a rate": (
        lambda: gx.sgd(schedules.cosine(LEAK, 10)).init(weights),
        ValueError,
        "^cosine: peak is a leaked tracer",
    ),
    "a pair with a leak": (
        stepped(gx.pair(lambda p: (), lambda u, s, p: (u * LEAK, s)), jnp.ones(3)),
        ValueError,
        f"^pair(.update|: its update): {PASSED}",
    ),
    "the start of a pair with a leak": (
        stepped(gx.pair(lambda p: p * LEAK, lambda u, s, p: (u, s)), jnp.ones(3)),
        ValueError,
        f"^pair.init: {PASSED}",
    ),
    "a rule with a leak": (
        of_leaf(update=lambda g, slots: (g * LEAK, slots)),
        ValueError,
        f"^own(.update|: its update): {PASSED}",
    ),
    "a slot with a leak": (of_leaf(lambda p: {"n": p * LEAK}), ValueError, f"^own.init: {PASSED}"),
    "a where with a leak": (
        lambda: gx.freeze(lambda path, leaf: LEAK > 0).init(weights),
        ValueError,
        f"^freeze.init: {PASSED}|^masked.init: {PASSED}",
    ),
    "a loss with a leak": (trained(lambda w, x: jnp.sum(w * LEAK)), ValueError, PASSED),
    "fit with a leak": (fitted(loss=lambda w, x: jnp.sum(w * LEAK)), ValueError, PASSED),
    "the norm of a leak": (lambda: gx.global_norm(LEAK), ValueError, "^global_norm: tree is a leaked tracer"),
    # within a trace
    **{
        f"{name} within a trace": (
            within(act),
            ValueError,
            f"^{name}: expected a call outside of jax.jit, jax.vmap and jax.grad, got one inside",
        )
        for name, act in {
            "fit": fitted(),
            "fit_seeds": lambda: gx.fit_seeds(weights, gx.sgd(), loss, batch, 1, progress=False),
            "check_gradient": lambda: gx.check_gradient(jnp.sum, weights),
        }.items()
    },
    "a sweep of traced rates": (
        lambda: jax.make_jaxpr(lambda x: swept(lambda tx: tx.factor, gx.grid(gx.scale, factor=[x, 1.0]))().results)(
            1.0
        ),
        TypeError,
        "^sweep: txs are traced, .*: within jit, use jax.vmap",
    ),
    # records without a field
    "a field that was deleted": (
        lambda: less(gx.sgd(0.1).links[1], "learning_rate").init(weights),
        AttributeError,
        "^scale_by_learning_rate: the field 'learning_rate' was deleted: records do not change",
    ),
    "a field without default that was deleted": (
        lambda: gx.hyperparameters(less(gx.scale(1.0), "factor")),
        AttributeError,
        "^scale: the field 'factor' was deleted",
    ),
    "a field deleted": (lambda: delattr(gx.scale(1.0), "factor"), FrozenInstanceError, "^cannot delete field 'factor'"),
    # numbers that jax.tree.map made
    **{
        f"a rate below 0, {name}": (act, ValueError, f"^{RATE}-1")
        for name, act in {
            "init": lambda: negated(gx.sgd(0.5)).init(weights),
            "update": lambda: negated(gx.sgd(0.5)).update(weights, gx.sgd().init(weights)),
            "apply": lambda: negated(gx.sgd(0.5)).apply(weights, gx.sgd().init(weights), weights),
            "an array": lambda: negated(gx.sgd(0.5), jnp.float32).update(weights, gx.sgd().init(weights)),
            "NumPy": lambda: negated(gx.sgd(0.5), np.float32).init(weights),
            "in a trace": lambda: jax.make_jaxpr(lambda w: negated(gx.sgd(0.5)).update(w, gx.sgd().init(w)))(weights),
            "in a wrapper": lambda: negated(gx.skip_nonfinite(gx.sgd(0.5))).init(weights),
            "fit": lambda: fitted(tx=negated(gx.sgd(0.5)))(),
        }.items()
    },
    "a rate of NaN": (
        lambda: jax.tree.map(lambda x: np.float32("nan"), gx.sgd()).init(weights),
        ValueError,
        f"^{RATE}nan",
    ),
    "a decay below 0": (
        lambda: negated(gx.scale_by_ema(0.5)).init(weights),
        ValueError,
        "^scale_by_ema: decay must be at least 0 and below 1, got -1.5",
    ),
    "a limit below 0": (
        lambda: negated(gx.clip(0.5)).update(weights, gx.clip(0.5).init(weights)),
        ValueError,
        "^clip: limit must be a finite number above 0, got -1.5",
    ),
    "a schedule's number below 0": (
        lambda: negated(gx.sgd(schedules.exponential(0.5, 0.5))).init(weights),
        ValueError,
        "^exponential: start must be a finite number, 0 or more, got -1.5",
    ),
    "a schedule below 0": (
        lambda: gx.sgd(lambda step: -0.1).init(weights),
        ValueError,
        "^scale_by_learning_rate: learning_rate at step 0 must be a finite number, 0 or more, got -0.1",
    ),
    # steps
    **{
        f"a step of {name}": (of_state(step=step), ValueError, COUNT + r"(Array\(|np.int32\()?-5")
        for name, step in {"-5": -5, "int32": jnp.int32(-5), "NumPy": np.int32(-5)}.items()
    },
    "a step below 0, applied": (
        lambda: tx.apply(params, state._replace(step=jnp.int32(-5)), params),
        ValueError,
        COUNT,
    ),
    "a step below 0, restored": (
        lambda: gx.restore(tx, params, state._replace(step=jnp.int32(-5))),
        ValueError,
        "^restore: 'step' must be the number of updates, got -5",
    ),
    "a step below 0, of fit": (
        lambda: fitted(state=gx.sgd().init(weights)._replace(step=jnp.int32(-5)))(),
        ValueError,
        "'step' must be the number of updates, got -5",
    ),
    "a schedule at a step below 0": (
        lambda: gx.sgd(lambda step: 0.1).at(-1),
        ValueError,
        "^the step must be 0 or more and at most 2³¹ − 1, got -1",
    ),
    "a step of int64": (late(lambda: of_state(step=jnp.int64(3))()), TypeError, r"^state.step must be one int32, got"),
    "a step beyond int32, of int64": (late(lambda: of_state(step=jnp.int64(2**32 + 3))()), ValueError, COUNT),
    "a step beyond int32, converted": (
        late(lambda: gx.restore(tx, params, state._replace(step=np.int64(2**32 + 3)), cast=True)),
        ValueError,
        r"^restore: 'step', .* is int64\[\], not int32\[\], which cannot hold its values",
    ),
    # files, keys and slots
    "a file of objects": (
        lambda: gx.restore(gx.sgd(), weights, archive(step=np.array(3, object))),
        ValueError,
        r"^restore: 'step', .* is object\[\], not int32\[\]",
    ),
    "a key of other numbers": (
        stepped(gx.add_noise(), key=np.zeros(4, "u4")),
        TypeError,
        "^add_noise: key must be one random key",
    ),
    "a slot named by a number": (
        of_leaf(lambda p: {0: p}),
        TypeError,
        "^own: init_leaf: the name of a slot must be a string that is not empty, got 0",
    ),
    "a slot of a tree named by a pair": (
        of_tree(lambda p: {(1, 2): jnp.zeros(1)}),
        TypeError,
        r"^own: init_tree: the name of a slot must be a string that is not empty, got \(1, 2\)",
    ),
    "a second age": (
        lambda: aged().init(weights),
        ValueError,
        "^aged: init_leaf: a piece with counts = True has a slot 'age' already",
    ),
}

TABLE = {
    **BAD,
    **{f"call: {name}": (act, TypeError, words) for name, (act, words) in CALLS.items()},
    **{f"part: {name}": entry for name, entry in PARTS.items()},
    **{f"given: {name}": entry for name, entry in GIVEN.items()},
    **{f"built: {name}": entry for name, entry in BUILT.items()},
    **{f"written: {name}": entry for name, entry in WRITTEN.items()},
    **{f"edge: {name}": entry for name, entry in EDGES.items()},
}
ROOT = str(Path(gx.__file__).parent)
THEIRS = (
    *(
        "got an unexpected keyword",
        "object has no attribute",
        "not subscriptable",
        "not callable",
    ),
    *(
        "not iterable",
        "unsupported operand",
        "ncompatible shapes",
        "got incompatible",
        "dot_general",
        "Tracer",
        "ufunc",
    ),
    *("broadcast", "not a valid JAX", "not supported between", "abstract array", "float() argument", "been deleted"),
    *("pytree structure error", "Custom node type", "could not convert", "traced for jit", "traced array"),
)


def refused(act, error, words):
    """Check that the call raises this error and message, by a `raise` of gradtx and in no words of another library."""
    with pytest.raises(error, match=words) as caught:
        act()
    *_, (frame, line) = traceback.walk_tb(caught.value.__traceback__)
    path = frame.f_code.co_filename
    assert path.startswith(ROOT) and linecache.getline(path, line).strip().startswith("raise"), f"{path}:{line}"
    assert not [theirs for theirs in THEIRS if theirs in str(caught.value)]


@pytest.mark.parametrize("act, error, words", TABLE.values(), ids=TABLE)
def test_bad_input(act, error, words):
    refused(act, error, words)
    with jax.disable_jit():
        refused(act, error, words)


UNTRACEABLE = {
    "if": of_leaf(update=lambda g, slots: (g if g.sum() > 0 else -g, slots)),
    "float": of_leaf(update=lambda g, slots: (g * float(g.sum()), slots)),
    "an array of NumPy": of_leaf(update=lambda g, slots: (jnp.asarray(np.sign(np.asarray(g))), slots)),
    "if, of a tree": of_tree(update=lambda u, slots: (u, slots if slots["n"] > 0 else {**slots})),
}


@pytest.mark.parametrize("act", UNTRACEABLE.values(), ids=UNTRACEABLE)
def test_a_piece_that_cannot_be_traced_raises_with_advice(act):
    refused(act, TypeError, r"^own: its update must be one that JAX can trace: jnp.where\(x > 0, a, b\) for if")
    with jax.disable_jit():
        act()


def test_a_schedule_that_cannot_be_traced_raises_with_advice():
    tx = gx.sgd(lambda step: {0: 0.1}[step])
    start = gx.State(jnp.zeros((), jnp.int32), {})
    refused(lambda: tx.update(weights, start), TypeError, "must be one that JAX can trace: jnp.where")


def test_one_array_in_two_places_is_not_reused():
    def loss(p, batch):
        return (p["slope"] * batch - p["offset"]) ** 2

    one = jnp.ones(())
    step, shared = gx.train_step(loss, gx.adam()), {"slope": one, "offset": one}
    words = r"^train_step: params\['offset'\] and params\['slope'\] are one array, whose memory a step reuses: copy it"
    refused(lambda: step(shared, step.tx.init(shared), jnp.ones(())), ValueError, words)
    params = {"slope": jnp.ones(()), "offset": jnp.zeros(())}
    words = r"^train_step: params\['slope'\] and batch are one array"
    refused(lambda: step(params, step.tx.init(params), params["slope"]), ValueError, words)
    kept = gx.train_step(loss, gx.adam(), donate=False)
    kept(shared, kept.tx.init(shared), one)


def test_the_table_has_at_least_120_entries():
    assert len(TABLE) >= 120


MODULES = {"gx": gx, "schedules": schedules, "plots": plots, "training": training}
PUBLIC = {
    f"{module}.{name}": getattr(MODULES[module], name)
    for module, here in MODULES.items()
    for name in getattr(here, "__all__", dir(here))
    if inspect.isroutine(x := getattr(here, name)) or (inspect.isclass(x) and not issubclass(x, tuple))
    if not name.startswith("_") and x.__module__.startswith(here.__name__)
}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_raises_our_error_for_a_wrong_call(name):
    public = PUBLIC[name]
    words = f"^{public.__name__}( has no argument 'nonsense'|: missing a required argument: '\\w+'. It takes )"
    refused(lambda: public(nonsense=1), TypeError, words)
    assert "nonsense" not in inspect.signature(public).parameters and public.__doc__
    assert pickle.loads(pickle.dumps(public)) is public


# ---------------------------------------------------------------- odd input with one meaning
ODD = {
    "no update at all": (lambda: tx.update(None, state, params)[0], None),
    "None for a branch": (lambda: tx.update({"layer": None}, state, params)[0], {"layer": None}),
    "no parameters": (lambda: adam.update({}, adam.init({}), {})[0], {}),
    "None as parameters": (lambda: adam.update(None, adam.init(None))[0], None),
    "nothing in a leaf": (stepped(gx.sgd(0.5), jnp.ones((0, 3)), jnp.ones((0, 3))), np.ones((0, 3))),
    "a number as a tree": (stepped(gx.sgd(0.5), 1.0, 2.0), -0.5),
    "numbers in a list": (stepped(gx.sgd(0.5), [1.0, 2.0], [0.0, 0.0]), [-0.5, -1.0]),
    "NumPy": (stepped(gx.sgd(0.5), np.ones(3, "f4"), np.ones(3, "f4")), -0.5 * np.ones(3)),
    "a float0": (
        stepped(gx.sgd(0.5), np.zeros(2, jax.dtypes.float0), jnp.ones(2, int)),
        np.zeros(2, jax.dtypes.float0),
    ),
    "None for an integer": (stepped(adam, {"n": None}, {"n": jnp.ones(2, int)}), {"n": None}),
    "an empty chain": (stepped(gx.chain(), jnp.ones(3)), np.ones(3)),
    "the state of its twin": (
        lambda: adam.update(jnp.ones(3), gx.adam(0.1, b1=0.5).init(weights), weights)[0],
        -0.001 * np.ones(3),
    ),
    "an integer as a rate": (stepped(gx.scale(2), jnp.ones(3)), 2 * np.ones(3)),
    "an array of integers as a rate": (stepped(gx.scale(jnp.array(2)), jnp.ones(3)), 2 * np.ones(3)),
    "a fraction as a rate": (stepped(gx.scale(Fraction(1, 4)), jnp.ones(3)), 0.25 * np.ones(3)),
    "NumPy's number as a rate": (stepped(gx.scale(np.float64(0.25)), jnp.ones(3)), 0.25 * np.ones(3)),
    "NumPy's flag": (stepped(gx.sgd(1.0, 0.5, np.bool_(True)), jnp.ones(3)), -1.5 * np.ones(3)),
    "a boolean mask": (stepped(gx.masked(gx.scale(9.0), False, otherwise="identity"), jnp.ones(3)), np.ones(3)),
    "an integer as the loss": (stepped(gx.polyak_step(), jnp.ones(3), value=3), np.ones(3)),
    "a key of the old form": (
        lambda: bool(jnp.isfinite(stepped(gx.add_noise(), jnp.ones(3), key=jax.random.PRNGKey(0))()[0]).all()),
        True,
    ),
    "a gradient that is NaN": (stepped(gx.sgd(0.5), jnp.full(3, jnp.nan)), np.full(3, np.nan)),
    "no update to apply": (lambda: gx.apply_updates(params, None), params),
    "by name": (lambda: gx.apply_updates(updates=jnp.ones(3), params=weights), np.ones(3)),
    "the norm of nothing": (lambda: gx.global_norm(None), 0.0),
    "the norm of numbers": (lambda: gx.global_norm([3, 4.0]), 5.0),
    "the measurements of no monitor": (lambda: gx.measurements(state), {}),
    "no batch": (lambda: gx.fit(weights, gx.sgd(), loss, [], 3, progress=False).stopped, "data"),
    "no steps": (lambda: gx.fit(weights, gx.sgd(), loss, batch, 0, progress=False).params, weights),
    "a loss without gradient": (lambda: trained(lambda w, x: 1.0)()[0], np.zeros(3)),
}


@pytest.mark.parametrize("act, expected", ODD.values(), ids=ODD)
def test_odd_input_has_one_meaning(act, expected):
    got = act()
    got = got[0] if isinstance(got, tuple) and isinstance(got[-1], gx.State) else got
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        if getattr(y, "dtype", None) == jax.dtypes.float0 or isinstance(y, (str, bool)):
            assert np.all(x == y)
        else:
            np.testing.assert_allclose(x, y, rtol=2e-6)
