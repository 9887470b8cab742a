"""The gates over all named optimizers, and over Optax's by the same code: `python tests/benchmarks/gates.py`.

Each row is the worst that was measured, and how many fail: raise, or are beyond the gate. The tests hold gradtx to the
gates; this is the table of how far it stays within, beside what Optax does with the same input.
"""

import io
import os
import pickle
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from cases import CASES
from flax.serialization import from_bytes, to_bytes
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import extra, params_of, stream, types

import gradtx as gx
from gradtx import optimizers

OPTAX = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion nadam nadamw "
    "noisy_sgd novograd optimistic_adam_v2 optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd sm3 yogi"
).split()
CONTRIB = "acprop ademamix adopt cocob dadapt_adamw dog dowg madgrad momo muon prodigy schedule_free_adamw".split()
RESTING = "adamaxw adamw fromage lamb lars nadamw noisy_sgd".split()  # which move without a gradient
NOISY = ("noisy_sgd",)  # whose noise is of the place of a leaf


def ours():
    for name in optimizers.__all__:
        for case in CASES.get(name, [])[:1]:
            yield name, case.tx, extra(case.tx), case.moves_at_rest


def theirs():
    for module, names in ((optax, OPTAX), (optax.contrib, CONTRIB)):
        for name in names:
            make = getattr(module, name, None)
            if make is None:
                continue
            try:
                tx = make()
            except TypeError:
                tx = make(1e-3)
            given = {"value": jnp.float32(1.0)} if name == "momo" else {}
            yield name, optax.with_extra_args_support(tx), given, name in RESTING


def panels_of(makes: Any) -> Any:
    """The optimizers that both libraries define alike."""
    return {
        "gradtx": [(name, make(gx), {}, False) for name, make in makes.items()],
        "optax": [(name, optax.with_extra_args_support(make(optax)), {}, False) for name, make in makes.items()],
    }


def library_of(tx) -> Any:
    return gx if isinstance(tx, gx.Transformation) else optax


def steps(tx, params, gradients, given, update=None):
    state, out = tx.init(params), []
    for g in gradients:
        u, state = update(g, state, params) if update else tx.update(g, state, params, **given)
        out.append(u)
    return out, state


def apart(a, b):
    """The largest difference, in units of the largest finite coordinate of `b`, leaf by leaf."""
    worst = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if (np.isnan(x) != np.isnan(y)).any():
            return np.inf
        scale = np.max(np.abs(y[np.isfinite(y)]), initial=0) or 1
        worst = max(worst, float(np.nanmax(np.where(x == y, 0, np.abs(x - y)), initial=0)) / scale)
    return worst


def jitted(tx, given):
    """Functions and flags stay outside: they are the same for all calls."""
    return jax.jit(partial(tx.update, **given))


def p1(tx, given):
    """The state and updates change their type in a step, or it raises, for parameters and gradients in two dtypes."""
    wrong = 0
    for a, b in (("float32",) * 2, ("bfloat16",) * 2, ("bfloat16", "float32"), ("float32", "bfloat16")):
        params, g = params_of(a), params_of(b)
        state = jax.eval_shape(tx.init, params)
        u, after = jax.eval_shape(lambda g, s, p: tx.update(g, s, p, **given), g, state, params)
        wrong += jax.tree.structure(state) != jax.tree.structure(after)
        wrong += types(after) != types(state) or [x.dtype for x in jax.tree.leaves(u)] != [jnp.dtype(b)] * 2
    return float(wrong)


def p2(tx, given):
    """With `identity` before and after, and in chains of chains; another structure of the state counts as infinite."""
    lib, worst, params = library_of(tx), 0.0, params_of()
    one, half = lib.identity(), lib.scale(0.5)
    same = [tx, lib.chain(tx), lib.chain(one, tx), lib.chain(tx, one)]
    chains = [lib.chain(half, tx, one), lib.chain(lib.chain(half, tx), one), lib.chain(half, lib.chain(tx, one))]
    for alike in (same, chains):
        first, *others = (steps(x, params, stream(params_of(), 2), given, jitted(x, given)) for x in alike)
        for other in others:
            fits = jax.tree.structure(other) == jax.tree.structure(first)
            worst = max(worst, apart(other, first) if fits else np.inf)
    return worst


def p3(one_by_one, tx, given):
    """Called outside of jit, which gradtx compiles itself; or every operation by itself, as within a debugger."""
    params, several = params_of(), list(stream(params_of()))
    with jax.disable_jit(one_by_one):
        plain = steps(tx, params, several, given)[0]
    return apart(steps(tx, params, several, given, jitted(tx, given))[0], plain)


def p4_scan(tx, given):
    params, several = params_of(), list(stream(params_of()))
    loop = steps(tx, params, several, given, jitted(tx, given))[1]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *several)
    last = jax.jit(lambda g: jax.lax.scan(lambda s, g: (tx.update(g, s, params, **given)[1], None), tx.init(params), g))
    return apart(last(stacked)[0], loop)


def p4_vmap(tx, given):
    params, several = params_of(), list(stream(params_of(), 2))
    many = jax.tree.map(lambda x: jnp.stack([x, -2 * x]), (params, several))
    got = jax.jit(jax.vmap(lambda p, g: steps(tx, p, g, given)[0]))(*many)
    one = jax.jit(lambda p, g: steps(tx, p, g, given)[0])
    loop = [one(*jax.tree.map(lambda x, i=i: x[i], many)) for i in range(2)]
    return apart(got, jax.tree.map(lambda *x: jnp.stack(x), *loop))


def sharded(axis_type, tx, given):
    w = jnp.arange(64.0) / 64
    params = {"w": w.reshape(16, 4), "columns": w.reshape(2, 32) - 0.5, "vector": 1 - w, "b": jnp.ones(3)}
    several = list(stream(params, 2))
    single = steps(tx, params, several, given, jitted(tx, given))[0]
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        axes = {"w": ("x",), "columns": (None, "x"), "vector": ("x",), "b": ()}
        spec = {name: NamedSharding(mesh, PartitionSpec(*by)) for name, by in axes.items()}
        put = partial(jax.device_put, device=spec)
        return apart(steps(tx, put(params), map(put, several), given, jitted(tx, given))[0], single)


def p6(tx, given):
    """Leaves of the state with the shape of a parameter to which `jit(init)` gives another layout."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        spec = NamedSharding(mesh, PartitionSpec("x"))
        state = jax.jit(tx.init)({"w": jax.device_put(jnp.ones((16, 4)), spec)})
    alike = [x for x in jax.tree.leaves(state) if getattr(x, "shape", None) == (16, 4)]
    return float(sum(not x.sharding.is_equivalent_to(spec, 2) for x in alike))


def p7(tx, given):
    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, g):
        u, state = tx.update(g, state, params, **given)
        return jax.tree.map(jnp.add, params, u), state

    params = params_of()
    state = tx.init(params)
    for g in stream(params_of(), 3):
        params, state = step(params, state, g)
    return 0.0


def by_npz(state, like, folder):
    with io.BytesIO() as file:
        np.savez(file, **{jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)})
        file.seek(0)
        saved = np.load(file, allow_pickle=False)
        return jax.tree_util.tree_map_with_path(lambda path, _: saved[jax.tree_util.keystr(path)], like)


def by_orbax(state, like, folder):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(f"{folder}/state", state)
        return checkpointer.restore(f"{folder}/state", item=like)


FORMATS = {
    "pickle": lambda state, like, folder: pickle.loads(pickle.dumps(state)),
    "npz": by_npz,
    "msgpack": lambda state, like, folder: from_bytes(like, to_bytes(state)),
    "orbax": by_orbax,
}


def p8(tx, given):
    """Two updates after restoring a state, against two without saving."""
    params, several = params_of(), list(stream(params_of(), 4))
    update, state, worst = jitted(tx, given), tx.init(params), 0.0
    for g in several[:2]:
        _, state = update(g, state, params)

    def go_on(state):
        out = []
        for g in several[2:]:
            u, state = update(g, state, params)
            out.append(u)
        return out, state

    for form in FORMATS.values():
        with tempfile.TemporaryDirectory() as folder:
            worst = max(worst, apart(go_on(form(state, tx.init(params), folder)), go_on(state)))
    return worst


def p9(tx, given):
    params, several = params_of(), list(stream(params_of(), 2))
    renamed = lambda t: {"z": t["b"], "a": t["w"]}  # noqa: E731
    a = steps(tx, params, several, given, jitted(tx, given))[0]
    b = steps(tx, renamed(params), map(renamed, several), given, jitted(tx, given))[0]
    return apart(b, list(map(renamed, a)))


def p10_sign(tx, given):
    """Parameters and gradients with the other sign."""
    flip = partial(jax.tree.map, jnp.negative)
    plain = steps(tx, params_of(), stream(params_of()), given, jitted(tx, given))[0]
    flipped = steps(tx, flip(params_of()), map(flip, stream(params_of())), given, jitted(tx, given))[0]
    return apart(flipped, flip(plain))


def p10_scale(tx, given):
    plain = steps(tx, params_of(), stream(params_of()), given)[0]
    scaled = (jax.tree.map(lambda x: 1000 * x, g) for g in stream(params_of()))
    return apart(steps(tx, params_of(), scaled, given)[0], plain)


def p10_turn(tx, given):
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0], jnp.float32)
    params, several = jnp.ones(12), list(stream(jnp.ones(12)))
    return apart(
        steps(tx, params, (turn @ g for g in several), given)[0],
        [turn @ u for u in steps(tx, params, several, given)[0]],
    )


def p11(tx, given, parts=8):
    """Of eight parts, against their mean in float64 as the one gradient, twice."""
    ours = library_of(tx) is gx
    accumulated = gx.accumulate(tx, parts) if ours else optax.MultiSteps(tx, parts).gradient_transformation()
    params, several = params_of(), list(stream(params_of(), 2 * parts))
    mean = lambda *x: jnp.asarray(np.mean(np.asarray(x, np.float64), 0), x[0].dtype)  # noqa: E731
    means = [jax.tree.map(mean, *several[i : i + parts]) for i in (0, parts)]
    got = steps(accumulated, params, several, given, jitted(accumulated, given))[0]
    return apart(got[parts - 1 :: parts], steps(tx, params, means, given, jitted(tx, given))[0])


def p12(tx, given):
    """The largest update of a zero gradient in float16, NaN counting as infinite."""
    params = params_of("float16")
    zeros = jax.tree.map(jnp.zeros_like, params)
    out = jax.tree.leaves(steps(tx, params, [zeros, zeros], given, jitted(tx, given))[0])
    return max(float(np.max(np.nan_to_num(np.abs(np.asarray(x, np.float64)), nan=np.inf))) for x in out)


WITHOUT_EPS = panels_of({"adam": lambda x: x.adam(0.1, eps=0.0), "lion": lambda x: x.lion(0.1, weight_decay=0.0)})
LINEAR = panels_of({"sgd": lambda x: x.sgd(0.1), "nesterov": lambda x: x.sgd(0.1, 0.9, nesterov=True)})
MEAN = panels_of({"the mean": lambda x: x.identity(), "sgd": lambda x: x.sgd(0.1)})
GATES = {
    "P1 leaves of the wrong type, 4 pairings": (p1, 0),
    "P2 identity, associativity, states too": (p2, 0),
    "P3 eager = jit": (partial(p3, False), 4 * 2**-23),
    "P3 operations one by one = jit": (partial(p3, True), 4 * 2**-23),
    "P4 scan = loop": (p4_scan, 1e-6),
    "P4 vmap = loop": (p4_vmap, 1e-6),
    "P5 sharded, automatic mesh": (partial(sharded, AxisType.Auto), 3e-6),
    "P5 sharded, explicit mesh": (partial(sharded, AxisType.Explicit), 3e-6),
    "P6 slots laid out unlike the parameter": (p6, 0),
    "P7 donation, errors": (p7, 0),
    "P8 pickle, npz, msgpack, orbax; resumed": (p8, 0),
    "P9 leaves permuted and renamed": (p9, 4 * 2**-23),
    "P10 parameters and gradients negated": (p10_sign, 1e-6),
    "P10 gradients × 1000, without eps": (p10_scale, 1e-6, WITHOUT_EPS),
    "P10 gradients turned": (p10_turn, 1e-6, LINEAR),
    "P11 eight parts = their mean": (p11, 2e-7, MEAN),
    "P11 eight parts, every optimizer": (p11, 1e-6),
    "P12 update of a zero gradient, float16": (p12, 0),
}


def main(only=""):
    for gate, (measure, bound, *panels) in GATES.items():
        if not gate.startswith(only):
            continue
        for library, panel in (panels[0] if panels else {"gradtx": ours(), "optax": theirs()}).items():
            found, errors = {}, {}
            for name, tx, given, moves in panel:
                if gate.startswith("P12") and moves:
                    continue
                if gate.startswith(("P9", "P10")) and ("key" in given or name in NOISY):
                    continue
                try:
                    found[name] = measure(tx, given)
                except Exception as error:
                    errors[name] = type(error).__name__
            beyond = sorted((x for x in found if found[x] > bound), key=found.__getitem__, reverse=True)
            worst = max(found, key=found.__getitem__)
            fail = f"beyond {bound:.1e}: {len(beyond)}, errors: {len(errors)}, of {len(found) + len(errors)}"
            some = " ".join([*beyond[:4], *(f"{name}: {error}" for name, error in list(errors.items())[:4])])
            print(f"{gate:42} {library:7} worst {found[worst]:.1e} ({worst}); {fail}   {some}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
