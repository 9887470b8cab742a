"""Compiled programs that do not keep the user's functions, and all that these close over, alive for ever."""

import functools
import weakref
from collections.abc import Callable, Hashable
from inspect import isbuiltin, isclass, isfunction, ismethod
from typing import Any, TypeVar

import jax

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
