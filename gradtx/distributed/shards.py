"""A program on whole arrays, computed by several devices that each hold shards of them.

JAX traces the program on whole shapes, and each operation is then run on shards: an elementwise operation as it is, a
reduction followed by a sum over the mesh axes that divide what it reduces. An operation without a rule gets its
operands whole, gathered from all devices, so that no result can be that of a shard by mistake.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive

from gradtx.core.checks import varying

Spec = tuple[tuple[str, ...], ...]  # for each axis of an array, the mesh axes that divide it


@dataclass(frozen=True)
class Shard:
    """The part of an array on this device."""

    x: Any
    spec: Spec

    @property
    def is_whole(self) -> bool:
        return not any(self.spec)


ELEMENTWISE = {
    *"""abs acos acosh add add_any and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil clamp complex conj
    convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt imag
    integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul ne neg nextafter not or pow
    population_count real reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor""".split()
}
CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"}
# Operations on some of the axes, by the names of the parameters that hold these axes.
ALONG = {
    "concatenate": "dimension",
    "cumsum": "axis",
    "cumprod": "axis",
    "cummax": "axis",
    "cummin": "axis",
    "cumlogsumexp": "axis",
    "rev": "dimensions",
    "split": "axis",
    "sort": "dimension",
}


def interpreted(program: Any, shards: Sequence[Shard]) -> list[Shard]:
    """Run a program that `jax.make_jaxpr` made on whole arrays, given the shards of its arguments."""
    env: dict[Any, Shard] = {}
    jaxpr = _opened(program)
    env.update(zip(jaxpr.constvars, map(whole, getattr(program, "consts", ()))))
    env.update(zip(jaxpr.invars, shards))

    called: dict[Any, Any] = {}  # programs that are called for several leaves are traced once

    def read(var: Any) -> Shard:
        return whole(var.val) if hasattr(var, "val") else env[var]

    for eqn in jaxpr.eqns:
        operands = [read(var) for var in eqn.invars]
        refuse_collective(eqn)
        is_plain = all(x.is_whole for x in operands) and not _has_function(eqn)
        out = None if is_plain else _by_rule(eqn, operands, called)
        if out is None:
            for var, x in zip(eqn.invars, operands):
                if not x.is_whole:
                    env[var] = placed(x, _none(x))  # for later operations too
            out = [whole(x) for x in _bound(eqn, [x.x for x in map(read, eqn.invars)])]
        env.update(zip(eqn.outvars, out))
    return [read(var) for var in jaxpr.outvars]


def _opened(program: Any) -> Any:
    """The program without its constants."""
    return getattr(program, "jaxpr", program)


def whole(x: Any) -> Shard:
    """The shard of an array that each device holds whole."""
    return Shard(x, ((),) * np.ndim(x))


def sizes(names: Sequence[str]) -> int:
    """The number of shards along some mesh axes."""
    mesh = jax.sharding.get_abstract_mesh().shape  # `lax.axis_size` counts by a collective
    return math.prod(mesh[name] for name in names)


def whole_shape(shape: Sequence[int], spec: Spec) -> tuple[int, ...]:
    """The shape of the whole array of a shard."""
    return tuple(n * sizes(names) for n, names in zip(shape, spec))


def local_shape(shape: Sequence[int], spec: Spec) -> tuple[int, ...]:
    """The shape of the shards of a whole array."""
    return tuple(n // sizes(names) for n, names in zip(shape, spec))


def varied(x: Any, names: Any) -> Any:
    """The array with the type of one that differs along mesh axes, where `check_vma` asks for it."""
    missing = tuple(sorted({*names} - varying(x)))
    return lax.pcast(x, missing, to="varying") if missing and checks_vma() else x


def checks_vma() -> bool:
    """Whether `jax.shard_map` checks along which mesh axes an array varies."""
    names = jax.sharding.get_abstract_mesh().manual_axes
    return bool(names and varying(lax.axis_index(names[0])))


def placed(shard: Shard, spec: Spec) -> Shard:
    """The shard of the same array, divided as `spec` says."""
    x = shard.x
    for i, (have, need) in enumerate(zip(shard.spec, spec)):
        if have and have != need:
            x = lax.all_gather(varied(x, have), have, axis=i, tiled=True, to="invarying")
    for i, (have, need) in enumerate(zip(shard.spec, spec)):
        if need and have != need:
            n = x.shape[i] // sizes(need)
            x = lax.dynamic_slice_in_dim(varied(x, need), lax.axis_index(need) * n, n, i)
    return Shard(varied(x, [name for names in spec for name in names]), spec)


def _none(shard: Shard) -> Spec:
    return ((),) * len(shard.spec)


def joined(specs: Sequence[Spec]) -> Spec:
    """The spec of an elementwise result: each axis divided as in the first operand that divides it."""
    out, used = [], set()
    for column in zip(*specs):
        names = next((names for names in column if names and not used & {*names}), ())
        used |= {*names}
        out.append(names)
    return tuple(out)


def refuse_collective(eqn: Any) -> None:
    """Raise for a collective of a user's function: what it would sum is whole already."""
    names = [eqn.params.get(name) for name in ("axes", "axis_name")]
    if found := [x for x in jax.tree.leaves(names) if isinstance(x, str)]:
        raise ValueError(
            f"in_shard_map: expected functions of whole arrays, got one with a collective over {found[0]!r}: leave it "
            "out; in_shard_map sums over the mesh itself"
        )


def _bound(eqn: Any, values: Sequence[Any], **changed: Any) -> list[Any]:
    """Run the operation on these values."""
    names = frozenset().union(*map(varying, values))  # along which JAX wants all to vary, if one does
    values = [varied(x, names) for x in values]
    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params | changed))
    return list(out) if eqn.primitive.multiple_results else [out]


# ---------------------------------------------------------------- rules
def _by_rule(eqn: Any, operands: list[Shard], called: dict[Any, Any]) -> list[Shard] | None:
    """The results on shards; None without a rule, for which the operands must be whole."""
    name = eqn.primitive.name
    if name in ELEMENTWISE:
        return _elementwise(eqn, operands)
    if name in CALLS:
        inner = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params)
        return _call(inner, operands, called)
    if name in ALONG:
        return _along(eqn, operands)
    rule = RULES.get(name)
    return rule and rule(eqn, operands)


def _call(program: Any, operands: list[Shard], called: dict[Any, Any]) -> list[Shard]:
    key = id(program), *(x.spec for x in operands)
    if key not in called:
        specs: list[Spec] = []

        def run(*values: Any) -> list[Any]:
            out = interpreted(program, _again(values, operands))
            specs[:] = [x.spec for x in out]
            return [x.x for x in out]

        called[key] = jax.jit(run), specs
    function, specs = called[key]
    return [Shard(x, spec) for x, spec in zip(function(*(x.x for x in operands)), specs)]


def _elementwise(eqn: Any, operands: list[Shard]) -> list[Shard]:
    spec, shape = joined([x.spec for x in operands if x.spec]), eqn.outvars[0].aval.shape

    def fitting(shard: Shard) -> Any:
        """An axis of size 1 is broadcast, and so is a single number."""
        sizes = whole_shape(shard.x.shape, shard.spec) if shard.spec else ()
        return placed(shard, tuple(names if n == m else () for names, n, m in zip(spec, sizes, shape))).x

    return [Shard(_bound(eqn, [fitting(x) for x in operands])[0], spec)]


def _barrier(eqn: Any, operands: list[Shard]) -> list[Shard]:
    return [Shard(lax.optimization_barrier(x.x), x.spec) for x in operands]


def _along(eqn: Any, operands: list[Shard]) -> list[Shard] | None:
    """An operation that is elementwise over all axes but some."""
    axes = eqn.params[ALONG[eqn.primitive.name]]
    axes = axes if isinstance(axes, tuple) else (axes,)
    spec = joined([x.spec for x in operands])
    if any(x.spec[axis] for x in operands for axis in axes):
        return None
    return [Shard(x, spec) for x in _bound(eqn, [placed(x, spec).x for x in operands])]


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": lax.psum,
    "reduce_max": lax.pmax,
    "reduce_min": lax.pmin,
    "reduce_and": lax.pmin,
    "reduce_or": lax.pmax,
}


def _reduction(eqn: Any, operands: list[Shard]) -> list[Shard]:
    """Reduce the shards, and then over the mesh axes that divide the axes that are reduced."""
    (operand,), axes = operands, eqn.params["axes"]
    (out,) = _bound(eqn, [operand.x])
    spec = tuple(names for i, names in enumerate(operand.spec) if i not in axes)
    if names := tuple(name for axis in axes for name in operand.spec[axis]):
        flag = out.dtype == jnp.bool_
        out = REDUCTIONS[eqn.primitive.name](out.astype(jnp.int32) if flag else out, names)
        out = out != 0 if flag else out
    return [Shard(out, spec)]


def _broadcast(eqn: Any, operands: list[Shard]) -> list[Shard]:
    operand, *_ = operands
    shape: tuple[int, ...] = eqn.params["shape"]
    spec: list[tuple[str, ...]] = [()] * len(shape)
    for axis, names in zip(eqn.params["broadcast_dimensions"], operand.spec):
        spec[axis] = names
    (out,) = _bound(eqn, [operand.x], shape=local_shape(shape, tuple(spec)))
    return [Shard(out, tuple(spec))]


def _transpose(eqn: Any, operands: list[Shard]) -> list[Shard]:
    (operand,) = operands
    (out,) = _bound(eqn, [operand.x])
    return [Shard(out, tuple(operand.spec[axis] for axis in eqn.params["permutation"]))]


def _squeeze(eqn: Any, operands: list[Shard]) -> list[Shard] | None:
    (operand,), axes = operands, eqn.params["dimensions"]
    if any(operand.spec[axis] for axis in axes):
        return None
    (out,) = _bound(eqn, [operand.x])
    return [Shard(out, tuple(names for i, names in enumerate(operand.spec) if i not in axes))]


def _reshape(eqn: Any, operands: list[Shard]) -> list[Shard] | None:
    operand, *_ = operands
    new = eqn.params["new_sizes"]
    if eqn.params.get("dimensions") is not None:
        return None
    spec = reshaped(whole_shape(operand.x.shape, operand.spec), operand.spec, new)
    if spec is None:
        return None
    (out,) = _bound(eqn, [operand.x], new_sizes=local_shape(new, spec))
    return [Shard(out, spec)]


def reshaped(old: Sequence[int], spec: Spec, new: Sequence[int]) -> Spec | None:
    """The spec after a reshape, if each shard is reshaped by itself; None if not.

    Axes that are merged or split can be divided along the first of them alone: a shard is then a piece of the whole
    without gaps.
    """
    if 0 in old:
        return None
    out: list[tuple[str, ...]] = [()] * len(new)
    i = j = 0
    while i < len(old) or j < len(new):
        many = [[*range(i, min(i + 1, len(old)))], [*range(j, min(j + 1, len(new)))]]
        i, j = i + len(many[0]), j + len(many[1])
        while (left := math.prod(old[k] for k in many[0])) != (right := math.prod(new[k] for k in many[1])):
            if left < right:
                many[0].append(i)
                i += 1
            else:
                many[1].append(j)
                j += 1
        from_, to = [k for k in many[0] if old[k] > 1], [k for k in many[1] if new[k] > 1]
        if any(spec[k] for k in from_[1:]):
            return None
        if from_ and (names := spec[from_[0]]):
            if new[to[0]] % sizes(names):
                return None
            out[to[0]] = names
    return tuple(out)


def _slice(eqn: Any, operands: list[Shard]) -> list[Shard] | None:
    (operand,), params = operands, eqn.params
    strides = params["strides"] or (1,) * len(operand.spec)
    size = whole_shape(operand.x.shape, operand.spec)
    limits = list(params["limit_indices"])
    for i, names in enumerate(operand.spec):
        if names and (params["start_indices"][i], limits[i], strides[i]) != (0, size[i], 1):
            return None
        limits[i] = operand.x.shape[i] if names else limits[i]
    (out,) = _bound(eqn, [operand.x], limit_indices=tuple(limits))
    return [Shard(out, operand.spec)]


def _pad(eqn: Any, operands: list[Shard]) -> list[Shard] | None:
    operand, value = operands
    if any(names and config != (0, 0, 0) for names, config in zip(operand.spec, eqn.params["padding_config"])):
        return None
    return [Shard(_bound(eqn, [operand.x, value.x])[0], operand.spec)]


def _dynamic_slice(eqn: Any, operands: list[Shard]) -> list[Shard] | None:
    operand, *starts = operands
    size = whole_shape(operand.x.shape, operand.spec)
    if any(names and n != cut for names, n, cut in zip(operand.spec, size, eqn.params["slice_sizes"])):
        return None
    cut = local_shape(eqn.params["slice_sizes"], operand.spec)
    (out,) = _bound(eqn, [operand.x, *(x.x for x in starts)], slice_sizes=cut)
    return [Shard(out, operand.spec)]


def _dynamic_update_slice(eqn: Any, operands: list[Shard]) -> list[Shard] | None:
    operand, update, *starts = operands
    spec = joined([operand.spec, update.spec])
    size = [whole_shape(x.x.shape, x.spec) for x in (operand, update)]
    if any(names and n != m for names, n, m in zip(spec, *size)):
        return None
    (out,) = _bound(eqn, [placed(operand, spec).x, placed(update, spec).x, *(x.x for x in starts)])
    return [Shard(out, spec)]


# ---------------------------------------------------------------- control flow
def _specs_of(program: Any, shards: Sequence[Shard]) -> list[Spec]:
    """How the results of a program are divided."""
    found: list[Spec] = []

    def run(*values: Any) -> tuple[()]:
        found[:] = [x.spec for x in interpreted(program, _again(values, shards))]
        return ()

    jax.eval_shape(run, *(x.x for x in shards))
    return found


def _again(values: Sequence[Any], like: Sequence[Shard]) -> list[Shard]:
    return [Shard(x, shard.spec) for x, shard in zip(values, like)]


def _placed_run(program: Any, shards: Sequence[Shard], specs: Sequence[Spec]) -> list[Any]:
    return [placed(x, spec).x for x, spec in zip(interpreted(program, shards), specs)]


def _cond(eqn: Any, operands: list[Shard]) -> list[Shard]:
    index, *rest = operands
    branches = eqn.params["branches"]
    specs = [joined(several) for several in zip(*(_specs_of(branch, rest) for branch in branches))]

    def branch(program: Any) -> Callable[..., Any]:
        return lambda *values: _placed_run(program, _again(values, rest), specs)

    out = lax.switch(index.x, [*map(branch, branches)], *(x.x for x in rest))
    return [Shard(x, spec) for x, spec in zip(out, specs)]


def _loop_specs(body: Any, before: list[Shard], carry: list[Shard], after: list[Shard]) -> tuple[list[Shard], Any]:
    """The carry of a loop, divided as its body leaves it, and how all results of the body are divided."""
    while True:
        made = _specs_of(body, [*before, *carry, *after])
        specs = [joined([x.spec, spec]) for x, spec in zip(carry, made)]
        if specs == [x.spec for x in carry]:
            return [placed(x, x.spec) for x in carry], [*specs, *made[len(carry) :]]
        carry = [placed(x, spec) for x, spec in zip(carry, specs)]


def _while(eqn: Any, operands: list[Shard]) -> list[Shard] | None:
    if eqn.params["cond_jaxpr"].out_avals[0].shape:  # of `vmap`: several loops
        return None
    n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_cond, of_body, carry = operands[:n], operands[n : n + m], operands[n + m :]
    carry, specs = _loop_specs(eqn.params["body_jaxpr"], of_body, carry, [])

    def goes_on(values: Any) -> Any:
        return interpreted(eqn.params["cond_jaxpr"], [*of_cond, *_again(values, carry)])[0].x

    def body(values: Any) -> Any:
        return _placed_run(eqn.params["body_jaxpr"], [*of_body, *_again(values, carry)], specs)

    return _again(lax.while_loop(goes_on, body, [x.x for x in carry]), carry)


def _scan(eqn: Any, operands: list[Shard]) -> list[Shard] | None:
    params, body = eqn.params, _opened(eqn.params["jaxpr"])

    def alike(outer: Any, inner: Any) -> int:
        """How many have the shape that they have in the body; the others are rows."""
        return sum(len(x.aval.shape) == len(y.aval.shape) for x, y in zip(outer, inner))

    n, m = alike(eqn.invars, body.invars), alike(eqn.outvars, body.outvars)
    consts, carry, rows = operands[: n - m], operands[n - m : n], operands[n:]
    if not params["length"] or any(x.spec[0] for x in rows):
        return None
    one = [Shard(x.x[0], x.spec[1:]) for x in rows]
    carry, specs = _loop_specs(params["jaxpr"], consts, carry, one)

    def step(values: Any, row: Any) -> Any:
        out = _placed_run(params["jaxpr"], [*consts, *_again(values, carry), *_again(row, one)], specs)
        return out[:m], out[m:]

    start, xs = [x.x for x in carry], [x.x for x in rows]
    end, made = lax.scan(step, start, xs, params["length"], params["reverse"], params["unroll"])
    return [*_again(end, carry), *(Shard(x, ((), *spec)) for x, spec in zip(made, specs[m:]))]


RULES: dict[str, Callable[[Any, list[Shard]], list[Shard] | None]] = {
    **dict.fromkeys(REDUCTIONS, _reduction),
    "broadcast_in_dim": _broadcast,
    "cond": _cond,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "optimization_barrier": _barrier,
    "pad": _pad,
    "reshape": _reshape,
    "scan": _scan,
    "slice": _slice,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "while": _while,
}


# ---------------------------------------------------------------- functions of the user, of shards
function_p = Primitive("function_of_shards")
function_p.multiple_results = True
function_p.def_abstract_eval(lambda *_, out, **__: [jax.core.ShapedArray(x.shape, x.dtype) for x, _ in out])


def function_of_shards(function: Callable[..., Any], specs: Sequence[Spec], out: Sequence[Any]) -> Callable[..., Any]:
    """A function of shards as one of whole arrays, for use in a program that `interpreted` runs.

    `specs` are of its arguments, and `out` has the struct and the spec of each result.
    """
    return lambda *values: function_p.bind(*values, function=function, specs=tuple(specs), out=tuple(out))


def differentiable_by(gradient: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which returns a list of one number, with the derivative that `gradient` has."""

    def derivative(primals: Any, tangents: Any) -> Any:
        products = (jnp.sum(g * t) for g, t in zip(gradient(*primals), tangents))
        return call(*primals), [sum(products)]

    call = jax.custom_jvp(function)
    call.defjvp(derivative)
    return call


def _function(eqn: Any, operands: list[Shard]) -> list[Shard]:
    values = eqn.params["function"](*(placed(x, spec).x for x, spec in zip(operands, eqn.params["specs"])))
    return [Shard(x, spec) for x, (_, spec) in zip(values, eqn.params["out"])]


def _has_function(eqn: Any) -> bool:
    """Whether the operation is a function of shards, or a program that has one."""
    several = [x for value in eqn.params.values() for x in (value if isinstance(value, tuple) else (value,))]
    inner = (eqn for x in several for eqn in getattr(_opened(x), "eqns", ()))
    return eqn.primitive is function_p or any(map(_has_function, inner))


RULES["function_of_shards"] = _function
