"""States through every format, and into other compositions and parameters."""

import io
import os
import pickle
import tracemalloc
import zipfile
from typing import Any, NamedTuple

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from cases import ALL
from flax import nnx
from flax.serialization import from_bytes, msgpack_restore, msgpack_serialize, to_bytes, to_state_dict
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import follow, params_of, stream, types

import gradtx as gx
from gradtx import schedules
from gradtx.codecs import is_encoded
from gradtx.core import leaves_by_path


# ---------------------------------------------------------------- files
def by_pickle(states, path):
    return pickle.loads(pickle.dumps(states))


def by_npz(states, path):
    """One file; the paths begin with the name of each state."""
    np.savez(path / "states.npz", **leaves_by_path(states))
    out: dict[str, Any] = {}
    with np.load(path / "states.npz", allow_pickle=False) as file:
        for name, x in file.items():
            case, _, leaf = name.partition("/")
            out.setdefault(case, {})[leaf] = x
    return out


def by_msgpack(states, path):
    return msgpack_restore(msgpack_serialize(to_state_dict(states)))


def by_orbax(states, path):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path / "states", states)
        return checkpointer.restore(path / "states")


FORMATS = {"pickle": by_pickle, "npz": by_npz, "msgpack": by_msgpack, "orbax": by_orbax}


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def of_any_bits(tree, seed=0):
    """Negative zeros, infinities, NaNs with a payload and denormal numbers among them."""
    random = np.random.default_rng(seed)

    def leaf(x):
        made: Any = np.frombuffer(random.bytes(x.nbytes), x.dtype).reshape(x.shape)
        return jnp.asarray(made & np.iinfo(x.dtype).max if made.dtype.kind == "i" else made)  # a step is not negative

    return jax.tree.map(leaf, tree)


@pytest.fixture(scope="module")
def states():
    with jax.disable_jit():
        return {name: of_any_bits(case.tx.init(params_of()), i) for i, (name, case) in enumerate(ALL)}


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.usefixtures("eager")
def test_every_state_comes_back_to_the_bit(states, form, tmp_path):
    """That it then resumes to the bit, test_contract tests."""
    saved = FORMATS[form](states, tmp_path)
    for name, case in ALL:
        state, report = gx.restore(case.tx, params_of(), saved[name])
        assert types(state) == types(states[name]) and bits(state) == bits(states[name]), name
        slots = leaves_by_path(states[name], is_encoded)  # the report names a slot that `store` keeps as one
        assert list(report.kept) == list(report.kept.values()) == list(slots)


def test_flax_restores_a_state_into_one():
    tx, params = gx.adam(), params_of()
    _, state = follow(tx, params, stream(params, 2))
    assert bits(from_bytes(tx.init(params), to_bytes(state))) == bits(state)


class Block(NamedTuple):
    kernel: Any
    gains: tuple[Any, ...]


TREES: dict[str, Any] = {
    "lists, named tuples and None": {"layers": [Block(jnp.ones((2, 3)), (jnp.ones(3), None)), {"b": jnp.ones(3)}]},
    "one array": jnp.ones(3),
    "names with a slash, numbers": {"mlp/~/linear": {"w": jnp.ones(3)}, "at": {0: jnp.ones(2), 1: jnp.ones(1)}},
    "boxes of Flax": {"dense": {"kernel": nn.Partitioned(jnp.ones((2, 3)), ("x", "y")), "bias": jnp.ones(3)}},
    "empty, integers, complex": {"e": jnp.ones((0, 2)), "n": jnp.arange(3), "z": jnp.ones(2, jnp.complex64)},
    "nothing": {},
}


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("params", TREES.values(), ids=TREES)
@pytest.mark.usefixtures("eager")
def test_parameters_of_any_structure(params, form, tmp_path):
    if form == "orbax" and isinstance(params, dict):  # which refuses arrays without elements
        params = {name: None if name == "e" else x for name, x in params.items()}
    state = of_any_bits(gx.adam().init(params))
    saved = FORMATS[form]({"it": state}, tmp_path)["it"]
    again, report = gx.restore(gx.adam(), params, saved)
    assert types(again) == types(state) and bits(again) == bits(state)
    assert not report.fresh and not report.dropped


@pytest.mark.parametrize("form", ["npz", "msgpack"])
@pytest.mark.promotes("Optax's arithmetic")
def test_the_state_of_a_pair_in_bfloat16(form, tmp_path):
    params = params_of()
    tx = gx.chain(optax.scale_by_adam(mu_dtype=jnp.bfloat16))
    _, state = follow(tx, params, stream(params, 2))
    again, _ = gx.restore(tx, params, FORMATS[form]({"it": state}, tmp_path)["it"])
    assert types(again) == types(state) and bits(again) == bits(state)


def test_a_typed_random_key_is_restored_from_its_numbers():
    tx = gx.pair(lambda params: jax.random.key(5), lambda updates, state, params: (updates, state))
    saved = {"step": np.zeros((), np.int32), "slots/pair/state": jax.random.key_data(jax.random.key(7))}
    assert gx.restore(tx, params_of(), saved)[0].slots["pair"]["state"] == jax.random.key(7)


@pytest.mark.parametrize("traced", ["saved", "params"])
def test_within_a_compiled_function(traced):
    tx, params = gx.adamw(1e-3), params_of()
    saved = of_any_bits(tx.init(params))
    if traced == "saved":
        state = jax.jit(lambda saved: gx.restore(tx, params, saved)[0])(saved)
    else:
        state = jax.jit(lambda params: gx.restore(tx, params, jax.tree.map(np.asarray, saved))[0])(params)
    assert bits(state) == bits(saved)


def test_it_is_placed_as_by_init_and_shares_no_memory():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    params = {"w": jax.device_put(jnp.ones((8, 2)), NamedSharding(mesh, PartitionSpec("x"))), "b": jnp.ones(2)}
    tx = gx.sgd(0.1, momentum=0.9)
    saved = of_any_bits(tx.init(params))
    before = bits(saved)
    state, _ = gx.restore(tx, params, saved)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(tx.init(params))):
        assert x.sharding == y.sharding and x.committed == y.committed
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(state)
    assert bits(saved) == before


# ---------------------------------------------------------------- other compositions
SGD, ADAM = gx.sgd(0.1, momentum=0.9), gx.adam(0.1)
A, B, C = gx.scale_by_ema(0.5), gx.scale_by_ema(0.8, from_first=True), gx.add_momentum(0.9)
SAME = {
    "itself": (ADAM, ADAM),
    "a clip in front": (ADAM, gx.chain(gx.clip_by_global_norm(1.0), ADAM)),
    "a clip taken away": (gx.chain(gx.clip_by_global_norm(1.0), ADAM), ADAM),
    "another rate": (ADAM, gx.adam(0.5, b1=0.8, eps=1e-4)),
    "a rate that becomes a schedule": (ADAM, gx.adam(schedules.cosine(0.1, steps=10), eps=lambda step: 1e-8)),
    "decay": (ADAM, gx.adamw(0.1)),
    "chains in chains": (gx.chain(gx.chain(A, B), C), gx.chain(A, B, C)),
    "and back": (gx.chain(A, B, C), gx.chain(A, gx.chain(B, gx.chain(C)))),
    "a piece alone": (A, gx.chain(A, gx.scale(2.0))),
    "an inner chain": (gx.every(gx.chain(A, gx.chain(C)), 2), gx.every(gx.chain(A, C), 3)),
}


@pytest.mark.parametrize("old, new", SAME.values(), ids=SAME)
@pytest.mark.usefixtures("eager")
def test_slots_that_keep_their_names_are_kept_bit_for_bit(old, new):
    params = params_of()
    saved = of_any_bits(old.init(params))
    state, report = gx.restore(new, params, saved)
    assert bits(state) == bits(saved) and types(state) == types(saved)
    assert not report.fresh and not report.dropped
    assert jax.tree.structure(state) == jax.tree.structure(saved)


GROUPED = gx.partition({"b": SGD}, default=ADAM)
SMALL = {"w": jnp.ones(3), "b": jnp.ones(2)}
RENAMED = {"kernel": SMALL["w"], "b": SMALL["b"]}
GROUP = "slots/partition/default/precondition"
MORE = {"w": jnp.ones(3), "b": jnp.ones(2), "c": jnp.ones(1)}
VELOCITY = "slots/add_momentum/velocity"
CHANGES: dict[str, Any] = {  # old, its parameters, new, its parameters, renamed, what is fresh, what is dropped
    "a piece is renamed": (
        *(SGD, SMALL, gx.scale_by_ema(0.9), SMALL, {VELOCITY: "slots/scale_by_ema/mean"}),
        *([], []),
    ),
    "a piece of two": (
        *(gx.chain(A, C), SMALL, gx.chain(B, A, C), SMALL, {"scale_by_ema": "scale_by_ema_2"}),
        *(["slots/scale_by_ema/age", "slots/scale_by_ema/mean/b", "slots/scale_by_ema/mean/w"], []),
    ),
    "two change places": (
        *(gx.chain(A, B), SMALL, gx.chain(B, A), SMALL),
        *({"scale_by_ema": "scale_by_ema_2", "scale_by_ema_2": "scale_by_ema"}, [], []),
    ),
    "groups": (
        *(ADAM, SMALL, GROUPED, SMALL, {"slots/precondition": GROUP}),
        [f"slots/partition/b/{VELOCITY[6:]}/b"],
        [f"slots/precondition/{part}/scale_by_ema/mean/b" for part in ("by", "direction")],
    ),
    "a piece more": (SGD, SMALL, gx.chain(SGD, A), SMALL, {}, [f"slots/scale_by_ema/mean/{x}" for x in "bw"], []),
    "a piece less": (gx.chain(SGD, A), SMALL, SGD, SMALL, {}, [], [f"slots/scale_by_ema/mean/{x}" for x in "bw"]),
    "dropped by name": (
        *(gx.chain(SGD, A), SMALL, SGD, SMALL, {"scale_by_ema": None}),
        *([], [f"slots/scale_by_ema/mean/{x}" for x in "bw"]),
    ),
    "the longer name goes first": (
        *(gx.chain(A), SMALL, gx.chain(B, A), SMALL),
        *({"scale_by_ema": "scale_by_ema_2", "scale_by_ema/mean/w": None},),
        [*(f"slots/scale_by_ema/{x}" for x in ("age", "mean/b", "mean/w")), "slots/scale_by_ema_2/mean/w"],
        ["slots/scale_by_ema/mean/w"],
    ),
    "a parameter more": (SGD, SMALL, SGD, MORE, {}, [f"{VELOCITY}/c"], []),
    "a parameter less": (SGD, MORE, SGD, SMALL, {}, [], [f"{VELOCITY}/c"]),
    "a parameter renamed": (SGD, SMALL, SGD, RENAMED, {"w": "kernel"}, [], []),
    "a parameter of another shape": (
        *(SGD, SMALL, SGD, {**SMALL, "w": jnp.ones(4)}, {f"{VELOCITY}/w": None}),
        *([f"{VELOCITY}/w"], [f"{VELOCITY}/w"]),
    ),
}


@pytest.mark.parametrize("old, theirs, new, params, renamed, fresh, dropped", CHANGES.values(), ids=CHANGES)
@pytest.mark.usefixtures("eager")
def test_the_report_lists_fresh_and_dropped_slots(old, theirs, new, params, renamed, fresh, dropped):
    saved = of_any_bits(old.init(theirs))
    have, start = leaves_by_path(saved), leaves_by_path(new.init(params))
    state, report = gx.restore(new, params, saved, renamed=renamed, strict=False)
    assert (report.fresh, report.dropped) == (fresh, dropped)
    assert sorted([*report.kept.values(), *dropped]) == sorted(have)
    for path, x in leaves_by_path(state).items():
        assert bits(x) == bits(start[path] if path in fresh else have[report.kept[path]])
    assert types(state) == types(new.init(params))
    if fresh or set(dropped) - {path for path in have if None in renamed.values()}:
        with pytest.raises(ValueError, match="strict=False") as error:
            gx.restore(new, params, saved, renamed=renamed)
        for path in fresh:
            assert path.rpartition("/")[0] in str(error.value)
    else:
        assert bits(gx.restore(new, params, saved, renamed=renamed)[0]) == bits(state)


def test_the_report_is_a_table():
    saved = SGD.init(SMALL)
    _, report = gx.restore(gx.chain(SGD, A), MORE, saved, strict=False)
    assert str(report).splitlines() == [
        "slot                         kept     fresh",
        "step                         1",
        "slots/add_momentum/velocity  2: b, w  1: c",
        "slots/scale_by_ema/mean               3",
    ]
    _, report = gx.restore(GROUPED, SMALL, ADAM.init(SMALL), renamed={"slots/precondition": GROUP}, strict=False)
    rows = [line.split() for line in repr(report).splitlines()]
    age, log, mean = "bias_correction/age", "bias_correction/mean_log_decay", "scale_by_ema/mean"
    ours = [f"/{part}/{slot}" for part in ("by", "direction") for slot in (age, log, mean)]
    assert rows == [
        ["slot", "saved", "as", "kept", "fresh", "dropped"],
        ["step", "1"],
        *([GROUP + slot, "slots/precondition" + slot, "1"] for slot in ours),
        ["slots/partition/b/add_momentum/velocity", "1"],
        *([f"slots/precondition/{part}/{mean}", "1"] for part in ("by", "direction")),
    ]


# ---------------------------------------------------------------- what frameworks write
class Trainer(eqx.Module):
    model: Any
    opt_state: Any


def trained(tx, params) -> Any:
    return follow(tx, params, stream(params, 2))[1]


def in_nnx(tx):
    model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(0)))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    state = trained(tx, params)
    nnx.update(optimizer.opt_state, nnx.state(state))
    return optimizer, params, state


def of_nnx(tx):
    optimizer, params, state = in_nnx(tx)
    return nnx.state(optimizer), params, state


def of_nnx_pure(tx):
    saved, params, state = of_nnx(tx)
    return nnx.to_pure_dict(saved), params, state


def of_nnx_opt_state(tx):
    optimizer, params, state = in_nnx(tx)
    return optimizer.opt_state, params, state


def of_train_state(tx):
    params = nn.Dense(3).init(jax.random.key(0), jnp.ones((1, 2)))
    state = trained(tx, params)
    return TrainState.create(apply_fn=None, params=params, tx=tx).replace(opt_state=state), params, state


def of_equinox(tx):
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    state = trained(tx, params)
    return eqx.filter(Trainer(model, state), eqx.is_array), params, state


def of_optax(tx):
    params = params_of()
    state = trained(optax.chain(optax.identity(), tx), params)
    return {"params": params, "opt_state": state}, params, state[1]


FILES = {
    "orbax": by_orbax,
    "npz": lambda saved, path: by_npz({"it": saved}, path)["it"],
    "msgpack": by_msgpack,
    "flat": lambda saved, path: flatten_dict(by_orbax(saved, path)),
    "as it is": lambda saved, path: saved,
}


ROOTS = dict.fromkeys((of_nnx, of_nnx_pure, of_train_state, of_equinox), "opt_state")
ROOTS |= {of_nnx_opt_state: None, of_optax: "opt_state/1"}
AND_FILES = [(written, form) for written in ROOTS for form in FILES]  # Flax's msgpack takes none of these
AND_FILES = [x for x in AND_FILES if x not in [(w, "msgpack") for w in (of_nnx, of_nnx_opt_state, of_equinox)]]


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("written, form", AND_FILES, ids=lambda x: getattr(x, "__name__", x))
@pytest.mark.parametrize("tx", [gx.adamw(), gx.sgd(), gx.skip_nonfinite(gx.sgd())], ids=["adamw", "sgd", "guarded"])
def test_a_state_is_found_in_what_a_framework_writes(written, form, tx, tmp_path):
    tree, params, state = written(tx)
    saved = FILES[form](tree, tmp_path)
    for at in (None, ROOTS[written]):
        again, report = gx.restore(tx, params, saved, at=at)
        assert bits(again) == bits(state) and types(again) == types(state)
        assert not report.fresh and not report.dropped and not report.converted


def test_a_restored_state_goes_on_in_an_nnx_optimizer():
    optimizer, params, state = in_nnx(gx.adamw())
    again = nnx.Optimizer(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), gx.adamw(), wrt=nnx.Param)
    again.opt_state = nnx.data(nnx.clone(in_nnx(gx.adamw())[0].opt_state))
    restored, _ = gx.restore(gx.adamw(), params, nnx.state(optimizer))
    nnx.update(again.opt_state, nnx.state(restored))
    assert bits(again.opt_state) == bits(optimizer.opt_state) == bits(state)


def test_the_paths_of_renamed_begin_at_the_state_or_at_the_root():
    saved = {"opt": SGD.init(SMALL), "params": SMALL}
    for part in ("w", f"opt/{VELOCITY}/w", f"{VELOCITY}/w"):
        new = "kernel" if part == "w" else f"{VELOCITY}/kernel"
        state, _ = gx.restore(SGD, RENAMED, saved, renamed={part: new})
        assert state.slots["add_momentum"]["velocity"].keys() == RENAMED.keys()


def test_one_of_several_states():
    saved = {name: SGD.init(SMALL)._replace(step=jnp.int32(i)) for i, name in enumerate("gd")}
    assert [int(gx.restore(SGD, SMALL, saved, at=name)[0].step) for name in "gd"] == [0, 1]
    with pytest.raises(TypeError, match="at must be the path of the state in saved, a string"):
        gx.restore(SGD, SMALL, saved, at=0)  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- rows and dtypes that changed
GROWING = {"adam": gx.adam(), "adafactor": gx.adafactor(min_size=2), "sm3": gx.sm3()}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("tx", GROWING.values(), ids=GROWING)
def test_more_rows(tx, axis):
    shape = (6, 3) if axis == 0 else (4, 5)
    before, after = ({"e": jnp.ones(s), "b": jnp.ones(3)} for s in ((4, 3), shape))
    saved, fresh = trained(tx, before), leaves_by_path(tx.init(after))
    state, report = gx.restore(tx, after, saved, grow=True)
    assert not report.fresh and not report.dropped and report.converted
    old = leaves_by_path(saved)
    for path, x in leaves_by_path(state).items():
        start = tuple(map(slice, old[path].shape))
        assert bits(x[start]) == bits(old[path])
        assert bits(x.at[start].set(0)) == bits(fresh[path].at[start].set(0))
        assert (path in report.converted) == (x.shape != old[path].shape)
    types_of = types(tx.init(after))
    assert types(state) == types_of
    tx.update(after, state, after)


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("form", ["npz", "msgpack", "orbax"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_another_precision(dtype, form, tmp_path):
    tx, params = gx.adamw(), params_of()
    state = trained(tx, params)
    other = jax.tree.map(lambda x: np.asarray(x).astype(dtype) if x.dtype == "float32" else x, state)
    saved = FORMATS[form]({"it": other}, tmp_path)["it"]
    again, report = gx.restore(tx, params, saved, cast=True)
    assert types(again) == types(state)
    assert bits(again) == bits(jax.tree.map(lambda x, y: jnp.asarray(np.asarray(x), y.dtype), other, state))
    floating = [path for path, x in leaves_by_path(state).items() if x.dtype == "float32"]
    assert list(report.converted) == floating and dtype in str(report) and "→ float32" in str(report)
    assert list(report.kept) == list(leaves_by_path(state))
    with pytest.raises(ValueError, match="pass cast=True"):
        gx.restore(tx, params, saved)


@pytest.mark.promotes("Optax's arithmetic")
def test_and_into_bfloat16():
    params, wide, narrow = params_of(), optax.scale_by_adam(), optax.scale_by_adam(mu_dtype=jnp.bfloat16)
    saved = trained(gx.chain(wide), params)
    state, report = gx.restore(gx.chain(narrow), params, saved, cast=True)
    mean = state.slots["pair"]["state"].mu
    assert bits(mean) == bits(jax.tree.map(lambda x: x.astype("bfloat16"), saved.slots["pair"]["state"].mu))
    assert {x.split(" → ")[1][:8] for x in report.converted.values()} == {"bfloat16"}


# ---------------------------------------------------------------- errors
STATE = SGD.init(SMALL)
FLAT = leaves_by_path(STATE)
WRONG: dict[str, Any] = {  # saved, more arguments, what the message says
    "another optimizer": (ADAM.init(SMALL), {}, rf"(?s){VELOCITY}.*2.*slots/precondition/by/scale_by_ema/mean.*2"),
    "nothing": ({}, {}, "step"),
    "two states": ({"g": STATE, "d": STATE}, {}, "several states: pass at='d' or at='g'"),
    "a state that is nowhere": ({"opt": STATE}, {"at": "optimizer"}, "at='optimizer' is not in saved, .* state at opt"),
    "a dtype that cannot hold it": (
        *({**FLAT, f"{VELOCITY}/w": np.full(3, 1e60)}, {"cast": True}),
        r"float64\[3\], not float32\[3\], which cannot hold its values",
    ),
    "another kind of dtype": ({**FLAT, "step": np.float32(1)}, {"cast": True}, r"float32\[\], not int32\[\]$"),
    "rows": ({**FLAT, f"{VELOCITY}/w": np.ones(2, "f4")}, {}, "not float32.*: pass grow=True"),
    "more rows than there are": (
        *({**FLAT, f"{VELOCITY}/w": np.ones(4, "f4")}, {"grow": True}),
        r"is float32\[4\], not float32\[3\]$",
    ),
    "precision": ({**FLAT, f"{VELOCITY}/w": np.ones(3)}, {}, "not float32.*: pass cast=True"),
    "a shape": ({**FLAT, f"{VELOCITY}/w": np.ones(4, "f4")}, {}, r"velocity/w'.* is float32\[4\], not float32\[3\]"),
    "a shape, if not strict": (
        *({**FLAT, f"{VELOCITY}/w": np.ones((3, 1), "f4")}, {"strict": False}),
        r"velocity/w'.* would drop, is float32\[3,1\], not float32\[3\]",
    ),
    "a dtype": ({**FLAT, f"{VELOCITY}/w": np.ones(3)}, {}, r"velocity/w'.* is float64\[3\], not float32\[3\]"),
    "objects": ({**FLAT, f"{VELOCITY}/w": np.array([None] * 3)}, {}, r"is object\[3\], not float32\[3\]"),
    "a step that is not an integer": ({**FLAT, "step": np.float32(1)}, {}, r"'step'.* is float32\[\], not int32\[\]"),
    "no array": ({**FLAT, "step": "1"}, {}, "an array must be saved as 'step', got '1'"),
    "shapes alone": (jax.eval_shape(SGD.init, SMALL), {}, "an array must be saved as 'step'"),
    "a name that is nowhere": (STATE, {"renamed": {"velocty": "mean"}}, "'velocty', which is in no saved path; there"),
    "a part of a name": (STATE, {"renamed": {"veloc": "mean"}}, "'veloc', which is in no saved path"),
    "no name": (STATE, {"renamed": {"": "mean"}}, "'', which is in no saved path"),
    "two in one place": (STATE, {"renamed": {"w": "b"}}, "are both saved for 'slots/add_momentum/velocity/b'"),
    "one path twice": ({**FLAT, "slots": STATE.slots}, {}, "two leaves of saved have the path"),
}


@pytest.mark.parametrize("saved, arguments, message", WRONG.values(), ids=WRONG)
def test_an_error_names_the_path_that_does_not_fit(saved, arguments, message):
    with pytest.raises(ValueError, match=r"^restore: ") as error:
        gx.restore(SGD, SMALL, saved, **arguments)
    assert error.match(message)


def test_a_value_that_is_not_an_optimizer_is_refused():
    with pytest.raises(TypeError, match="restore: tx must be a transformation"):
        gx.restore(SMALL, SGD, STATE)
    with pytest.raises(TypeError, match="renamed must be of paths"):
        gx.restore(SGD, SMALL, STATE, renamed={"w": 1})  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- files that others wrote
class Trap:
    """Unpickled, it leaves a trace."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def run(path, **more):
    loss = lambda w, batch: jnp.mean((w["w"] * batch) ** 2)  # noqa: E731
    return gx.fit({"w": jnp.ones(())}, SGD, loss, jnp.ones(4), 2, checkpoint=path, progress=False, **more)


def test_a_checkpoint_runs_no_code(tmp_path):
    path, trap = tmp_path / "run.npz", tmp_path / "trap"
    run(path)
    with np.load(path) as file:
        entries = dict(file)
    pickled = np.array([Trap(trap)], object)
    pickle.loads(pickle.dumps(pickled))
    assert trap.exists()  # so it works
    trap.rmdir()
    for name in entries:
        np.savez(path, **{**entries, name: pickled})
        with pytest.raises(ValueError, match="is not a checkpoint"):
            run(path, resume=True)
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(ValueError, match="is not a checkpoint"):
        run(path, resume=True)
    assert not trap.exists()


def test_corrupt_checkpoints_raise_our_errors(tmp_path):
    path, random = tmp_path / "run.npz", np.random.default_rng(0)
    run(path)
    good = path.read_bytes()
    notes = io.BytesIO()
    with np.load(path) as file:
        np.savez(notes, **{**file, "notes": np.array("[" * 100_000)})
    broken = [good[: random.integers(len(good))] for _ in range(5)] + [notes.getvalue(), b"", b"\x93NUMPY" + good]
    for _ in range(40):
        one = bytearray(good)
        one[random.integers(len(one))] = random.integers(256)
        broken.append(bytes(one))
    for some in broken:
        path.write_bytes(some)
        try:
            run(path, resume=True)  # where a byte tells nothing, as a date of the zip does
        except ValueError as error:
            assert "checkpoint" in str(error)


def test_a_small_file_takes_little_memory(tmp_path):
    """A compressed array that is larger than its slot is refused by its header."""
    path, params = tmp_path / "state.npz", {"w": jnp.ones(4)}
    tx = gx.sgd(0.1, momentum=0.9)
    leaves: dict[str, Any] = leaves_by_path(tx.init(params))
    large: dict[str, Any] = {"slots/add_momentum/velocity/w": np.zeros(2**26, np.float32)}
    np.savez_compressed(path, **leaves | large)
    del large
    assert path.stat().st_size < 2**20
    with np.load(path) as file:
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=r"velocity/w'.* is float32\[67108864\], not float32\[4\]"):
                gx.restore(tx, params, file, cast=True, grow=True)
            assert tracemalloc.get_traced_memory()[1] < 2**24
        finally:
            tracemalloc.stop()
    np.savez_compressed(path, **leaves)
    with np.load(path) as file:
        assert gx.restore(tx, params, file)[0].slots["add_momentum"]["velocity"]["w"].shape == (4,)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("note.npy", "text")
    with np.load(path) as file, pytest.raises(ValueError, match=r"an open file of arrays that numpy\.savez wrote"):
        gx.restore(tx, params, file)
    with pytest.raises(ValueError, match="the file is closed"):
        gx.restore(tx, params, file)


# ---------------------------------------------------------------- clocks
RATE = gx.schedules.cosine(1e-3, 2000)
WRAPPERS = {  # of the plain optimizer: the wrapper, and its updates in 1,000 updates of the plain one
    "accumulate 2": (lambda tx: gx.accumulate(tx, 2), 2000),
    "accumulate 4": (lambda tx: gx.accumulate(tx, 4), 4000),
    "skip_nonfinite": (gx.skip_nonfinite, 1000),
    "accumulate in a guard": (lambda tx: gx.skip_nonfinite(gx.accumulate(tx, 2)), 2000),
    "a guard in accumulate": (lambda tx: gx.accumulate(gx.skip_nonfinite(tx), 2), 2000),
    "every": (lambda tx: gx.every(tx, 3), 3000),
    "average_params": (gx.average_params, 1000),
    "lookahead": (lambda tx: gx.lookahead(tx, 5), 1000),
    "schedule_free": (gx.schedule_free, 1000),
    "master_weights": (gx.master_weights, 1000),
    "mechanic": (gx.mechanic, 1000),
}
INSIDE = {
    "slotless": gx.sgd(RATE),
    "momentum": gx.sgd(RATE, momentum=0.9),
    "adam": gx.adam(RATE),
    "clipped": gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(RATE)),
    "one piece": gx.scale_by_learning_rate(RATE),
}


def ran(tx, params, steps):
    """The state after so many updates with a gradient of ones, with one loop for all."""
    g = jax.tree.map(jnp.ones_like, params)
    return jax.jit(lambda s: jax.lax.fori_loop(0, steps, lambda i, s: tx.update(g, s, params)[1], s))(tx.init(params))


def rate_of(tx, state):
    (rate,) = (x for name, x in gx.hyperparameters(tx, state).items() if name.endswith("learning_rate"))
    return float(rate)


def means_of(state):
    """The averages and velocities, by the end of their paths."""
    leaves = leaves_by_path(state.slots)
    return {
        path.split("inner/")[-1].removeprefix("precondition/"): x
        for path, x in leaves.items()
        if path.endswith(("mean/w", "velocity/w", "age", "mean_log_decay"))
        and "lookahead/age" not in path
        and "average_params/age" not in path
        and "schedule_free/age" not in path
    }


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_added_or_taken_away_keeps_the_rate_and_the_averages(wrapper, inside):
    params, tx = {"w": jnp.ones(3)}, INSIDE[inside]
    wrapped, per_run = WRAPPERS[wrapper]
    plain, inner = ran(tx, params, 1000), ran(wrapped(tx), params, per_run)
    added, _ = gx.restore(wrapped(tx), params, plain, strict=False)
    taken, report = gx.restore(tx, params, inner, strict=False)
    assert rate_of(wrapped(tx), added) == pytest.approx(float(RATE(1000)), rel=1e-6)
    assert rate_of(tx, taken) == pytest.approx(float(RATE(1000)), rel=1e-6)
    assert not report.fresh
    chex.assert_trees_all_equal(means_of(added), means_of(plain))
    chex.assert_trees_all_equal(means_of(taken), means_of(inner))


@pytest.mark.parametrize("inside", INSIDE)
def test_a_wrapper_with_another_interval_keeps_its_clock_and_the_first_group_is_whole(inside):
    params, tx = {"w": jnp.ones(3)}, INSIDE[inside]
    two, four = gx.accumulate(tx, 2), gx.accumulate(tx, 4)
    state, _ = gx.restore(four, params, ran(two, params, 2001))
    assert rate_of(four, state) == pytest.approx(float(RATE(1000)), rel=1e-6)
    emitted = []
    for _ in range(7):
        u, state = four.update({"w": jnp.ones(3)}, state, params)
        emitted.append(bool((u["w"] != 0).all()))
    assert emitted == [False, False, True, False, False, False, True]  # one of the first four was there


def test_slots_beside_a_wrapper_keep_the_clock_of_the_run():
    params = {"w": jnp.ones(3)}

    def tx(inner):
        return gx.chain(gx.scale_by_ema(0.9), gx.precondition(gx.identity(), by=inner), gx.scale_by_learning_rate(RATE))

    plain, rarely = tx(gx.running_sum()), tx(gx.every(gx.running_sum(), 10))
    state, _ = gx.restore(plain, params, ran(rarely, params, 1000), strict=False)
    assert state.step == 1000
    state, _ = gx.restore(rarely, params, ran(plain, params, 1000), strict=False)
    assert state.step == 1000


@pytest.mark.parametrize("separate", [gx.leafwise, gx.rowwise])
@pytest.mark.parametrize(
    "wrap",
    [lambda tx: gx.accumulate(tx, 2), lambda tx: gx.every(tx, 2), gx.skip_nonfinite, lambda tx: gx.lookahead(tx, 2)],
    ids=["accumulate", "every", "skip_nonfinite", "lookahead"],
)
def test_a_clock_of_each_leaf_or_row_comes_back(wrap, separate):
    params = {"w": jnp.ones((3, 2)), "v": jnp.ones(2)}
    tx = gx.chain(separate(wrap(gx.adam())), gx.scale_by_ema(0.9))
    _, state = follow(tx, params, [params] * 3)
    restored, report = gx.restore(tx, params, state)
    chex.assert_trees_all_equal(restored, state)
    assert not report.fresh and not report.dropped
