"""The gates over all named optimizers, and over Optax's by the same code: `python tests/benchmarks/gates.py`.

Each row is the worst that was measured, and how many fail: raise, or are beyond the gate. The tests hold gradtx to the
gates; this is the table of how far it stays within, beside what Optax does with the same input.
"""

import os
import sys
import warnings
from functools import partial
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import CASES
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import extra, params_of, stream, types

from gradtx import optimizers

OPTAX = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion nadam nadamw "
    "noisy_sgd novograd optimistic_adam_v2 optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd sm3 yogi"
).split()
CONTRIB = "acprop ademamix adopt cocob dadapt_adamw dog dowg madgrad momo muon prodigy schedule_free_adamw".split()
RESTING = "adamaxw adamw fromage lamb lars nadamw noisy_sgd".split()  # which move without a gradient


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
    """State and updates of another type after a step, or an error, for parameters and gradients in two dtypes."""
    wrong = 0
    for a, b in (("float32",) * 2, ("bfloat16",) * 2, ("bfloat16", "float32"), ("float32", "bfloat16")):
        params, g = params_of(a), params_of(b)
        state = jax.eval_shape(tx.init, params)
        u, after = jax.eval_shape(lambda g, s, p: tx.update(g, s, p, **given), g, state, params)
        wrong += jax.tree.structure(state) != jax.tree.structure(after)
        wrong += types(after) != types(state) or [x.dtype for x in jax.tree.leaves(u)] != [jnp.dtype(b)] * 2
    return float(wrong)


def p3(tx, given):
    params, several = params_of(), list(stream(params_of()))
    with jax.disable_jit():
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
    """Leaves of the state shaped as a parameter that `jit(init)` lays out otherwise."""
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


def p9(tx, given):
    params, several = params_of(), list(stream(params_of(), 2))
    renamed = lambda t: {"z": t["b"], "a": t["w"]}  # noqa: E731
    a = steps(tx, params, several, given, jitted(tx, given))[0]
    b = steps(tx, renamed(params), map(renamed, several), given, jitted(tx, given))[0]
    return apart(b, list(map(renamed, a)))


def p12(tx, given):
    """The largest update of a zero gradient in float16, NaN counting as infinite."""
    params = params_of("float16")
    zeros = jax.tree.map(jnp.zeros_like, params)
    out = jax.tree.leaves(steps(tx, params, [zeros, zeros], given, jitted(tx, given))[0])
    return max(float(np.max(np.nan_to_num(np.abs(np.asarray(x, np.float64)), nan=np.inf))) for x in out)


GATES = {
    "P1 leaves of the wrong type, 4 pairings": (p1, 0),
    "P3 eager = jit": (p3, 4 * 2**-23),
    "P4 scan = loop": (p4_scan, 1e-6),
    "P4 vmap = loop": (p4_vmap, 1e-6),
    "P5 sharded, automatic mesh": (partial(sharded, AxisType.Auto), 3e-6),
    "P5 sharded, explicit mesh": (partial(sharded, AxisType.Explicit), 3e-6),
    "P6 slots laid out unlike the parameter": (p6, 0),
    "P7 donation, errors": (p7, 0),
    "P9 leaves permuted and renamed": (p9, 4 * 2**-23),
    "P12 update of a zero gradient, float16": (p12, 0),
}


def main(only=""):
    for gate, (measure, bound) in GATES.items():
        if not gate.startswith(only):
            continue
        for library, panel in (("gradtx", ours()), ("optax", theirs())):
            found, errors = {}, {}
            for name, tx, given, moves in panel:
                if gate.startswith("P12") and moves:
                    continue
                if gate.startswith("P9") and "key" in given:
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
