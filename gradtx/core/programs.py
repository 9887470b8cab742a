"""Compiled programs that live as long as the user's function they are made from."""

import weakref
from collections.abc import Callable, Hashable
from inspect import ismethod
from typing import Any, TypeVar

Program = TypeVar("Program")
_PROGRAMS: dict[int, dict[Any, Any]] = {}  # by the id of the function, or of a method's object


def program_of(function: Callable[..., Any], key: Hashable, make: Callable[[Callable[[], Any]], Program]) -> Program:
    """Return `make(of)`, made once for each function and `key`; `of()` is the function.

    A program that held the function itself would keep it, and all that it closes over, alive for ever.
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
    if (method, key) not in programs:
        programs[method, key] = make(of)
    return programs[method, key]


def weak(function: Callable[..., Any]) -> Callable[[], Any]:
    """A weak reference to a function or a bound method."""
    return weakref.WeakMethod(function) if ismethod(function) else weakref.ref(function)
