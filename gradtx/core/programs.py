"""Compiled programs: kept without keeping the user's functions alive for ever, and divided, to run a part once."""

import functools
import weakref
from collections.abc import Callable, Hashable, Sequence
from inspect import isbuiltin, isclass, isfunction, ismethod
from typing import Any, TypeVar

import jax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

Program = TypeVar("Program")
KEPT = 32  # of the programs that hold functions of the user, so many are kept: of one loss, and of all optimizers
_PROGRAMS: dict[int, dict[Any, Any]] = {}  # by the id of the function, or of a method's object; the last used is last


def program_of(function: Callable[..., Any], key: Hashable, make: Callable[[Callable[[], Any]], Program]) -> Program:
    """Return `make(of)`, made once for each function and `key`; `of()` is the function.

    A program that held the function itself would keep it alive for ever.
    """
    owner, method = (function.__self__, function.__func__) if ismethod(function) else (function, None)
    try:
        of = weak(function)
        if id(owner) not in _PROGRAMS:
            weakref.finalize(owner, _PROGRAMS.pop, id(owner)).atexit = False
            _PROGRAMS[id(owner)] = {}
    except TypeError:  # no weak references to it: its caller alone keeps the program
        return make(lambda: function)
    programs = _PROGRAMS[id(owner)]
    program = programs.pop((method, key), None) or make(of)
    programs[method, key] = program
    if len(programs) > KEPT:  # a key may hold an optimizer, and the functions in it
        del programs[next(iter(programs))]
    return program


def weak(function: Callable[..., Any]) -> Callable[[], Any]:
    """A weak reference to a function or a bound method."""
    return weakref.WeakMethod(function) if ismethod(function) else weakref.ref(function)


def program_for(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Return `function` compiled, and its arguments, of which the first may be an optimizer.

    JAX keeps the structure of an argument, and so the functions in it, for ever. An optimizer that holds functions of
    the user is therefore passed as its leaves, to a program made for its structure, one of the last `KEPT`.
    """
    if not args or not hasattr(args[0], "_kinds") or not holds(args[0]):
        return _program(function), args
    leaves, structure = jax.tree.flatten(args[0])
    return _program_of_leaves(function, structure), (leaves, *args[1:])


@functools.cache
def _program(function: Callable[..., Any]) -> Any:
    return jax.jit(function, inline=True)


@functools.lru_cache(maxsize=KEPT)
def _program_of_leaves(function: Callable[..., Any], structure: Any) -> Any:
    def program(leaves, *rest, **named):
        return function(structure.unflatten(leaves), *rest, **named)

    return jax.jit(program, inline=True)


def holds(x: Any) -> bool:
    """Whether a structure has functions that hold other objects: closures, methods, callable objects."""
    if isinstance(x, tuple):
        return any(map(holds, x))
    if hasattr(x, "_kinds"):
        return any(holds(getattr(x, name)) for name in x._kinds)
    if not callable(x) or isclass(x) or isbuiltin(x):
        return False
    return not isfunction(x) or bool(x.__closure__ or x.__defaults__ or x.__kwdefaults__)


def split(function: Callable[..., Any], args: Any, shared: Sequence[bool]) -> Callable[..., Any]:
    """Return `function` compiled, for arguments of the types of `args`, some of whose leaves are `shared` by all calls.

    It computes here, once, all that depends on these and on the variables of the function's scope alone: XLA would
    compile it for each call, and find only later that all compute the same.
    """
    closed, made = jax.make_jaxpr(function, return_shape=True)(*args)
    jaxpr, form = closed.jaxpr, jax.tree.structure(made)
    given = {v: x for v, x, same in zip(jaxpr.invars, jax.tree.leaves(args), shared) if same}
    known = dict(zip(jaxpr.constvars, closed.consts)) | given
    values, once, each = dict.fromkeys(known), [], []  # the variables that are known, in order, and the equations
    for eqn in jaxpr.eqns:
        if not eqn.effects and all(isinstance(x, Literal) or x in values for x in eqn.invars):
            once.append(eqn)
            values |= dict.fromkeys(eqn.outvars)
        else:
            each.append(eqn)
    read = {x for xs in (jaxpr.outvars, *(eqn.invars for eqn in each)) for x in xs if not isinstance(x, Literal)}
    passed = [v for v in values if v in read]
    own = [v for v, same in zip(jaxpr.invars, shared) if not same]
    first = _function(jaxpr, [*known], passed, once)(*known.values())
    of_leaf = _function(jaxpr, passed + own, jaxpr.outvars, each)

    @jax.jit
    def program(*args: Any) -> Any:  # its name, which profilers show
        return of_leaf(*args)

    def call(*args: Any) -> Any:
        return form.unflatten(program(*first, *(x for x, same in zip(jax.tree.leaves(args), shared) if not same)))

    return call


def _function(jaxpr: Any, invars: list[Any], outvars: list[Any], eqns: list[Any]) -> Callable[..., Any]:
    return jaxpr_as_fun(ClosedJaxpr(jaxpr.replace(constvars=[], invars=invars, outvars=outvars, eqns=eqns), []))
