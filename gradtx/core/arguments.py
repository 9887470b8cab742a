"""Checks of arguments: calls that do not fit a signature, and values of the wrong kind."""

import functools
import inspect
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradtx.core.errors import INSTEAD, TRACEABLE, _name, _plain, renamed, said, unknown

Function = TypeVar("Function", bound=Callable[..., Any])


def checked(function: Function) -> Function:
    """Raise gradtx's own errors for calls that do not fit the signature of a function, a method or an `__init__`.

    An argument annotated as `bool` must be True or False. One annotated as `Callable[[Any], Any]` must be a function of
    so many arguments.
    """
    hints = function.__annotations__.items()
    hinted = {n: x for n, x in hints if x is bool or callable_of(x)}
    names = function.__code__.co_varnames[: function.__code__.co_argcount] if hinted else ()
    place = _place(function)

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if hinted:
            for name, value in (dict(zip(names, args)) | named).items():
                if name in hinted and (hinted[name] is not bool or type(value) is not bool):
                    check_hint(f"{place(args)}: {name}", value, hinted[name])
        try:
            return function(*args, **named)
        except (TypeError, ValueError) as error:
            if hasattr(error, "about"):
                raise renamed(error, place(args), dict(zip(function.__code__.co_varnames, args)) | named) from None
            if str(error).startswith("Comparator raised exception"):
                given = inspect.signature(function).bind(*args, **named).arguments
                where = "".join([f"in {name}, " for name, x in given.items() if not _sortable(x)][:1])
                raise ValueError(f"{place(args)}: {where}a dict must have keys of one type, such as strings") from error
            if not isinstance(error, TypeError) or not (why := misfit(place(args), function, args, named)):
                raise
        raise TypeError(why)

    return cast(Function, call)


def _sortable(tree: Any) -> bool:
    """Whether the keys of every dict in the tree can be sorted."""
    try:
        jax.tree.leaves(tree)
    except ValueError:
        return False
    return True


def _place(function: Any) -> Callable[[Any], str]:
    """The function's name in errors: for a method, the class of its first argument; for a class, its name."""
    name = function.__name__
    if function.__code__.co_varnames[:1] != ("self",):
        return lambda args: name
    return lambda args: type(args[0]).__name__ + (f".{name}" if name[0] != "_" else "")


def callable_of(hint: Any) -> Any:
    """The `Callable` of an annotation that is one, or one or None; else None."""
    hint = or_none(hint) or hint
    return hint if get_origin(hint) is Callable else None


def or_none(hint: Any) -> Any:
    """The other type of an optional annotation; None if the annotation is not `X | None`."""
    either = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    some = [x for x in either if x is not type(None)]
    return some[0] if len(some) == 1 < len(either) else None


def check_hint(place: str, value: Any, hint: Any) -> Any:
    """Return the value of an argument annotated as `bool` or as a `Callable`, or raise."""
    if hint is bool:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{place} must be True or False, got {said(value)}")
    elif value is not None or get_origin(hint) is Callable:
        takes = (get_args(callable_of(hint)) or (...,))[0]
        function_of(place, value, *(["one argument"] if takes is not ... and len(takes) == 1 else []))
    return value


def function_of(place: str, value: Any, *takes: str) -> Any:
    """Return the function if it takes these arguments, in this order, or raise. Without `takes`, any function does."""
    of = f" of {takes[0] if len(takes) == 1 else '(' + ', '.join(takes) + ')'}" if takes else ""
    if not callable(value) or hasattr(type(value), "update_tree"):
        raise TypeError(f"{place} must be a function{of}, got {said(value)}")
    if takes and isinstance(value, type) and hasattr(value, "_kinds"):
        raise TypeError(f"{place} must be a function{of}, got the class {_name(value)}: make one, {_name(value)}(…)")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # a built-in function without a signature
        return value
    if takes and not _fits(signature, takes, {}):
        raise TypeError(f"{place} must be a function{of}, got {_name(value)}{_plain(signature)}")
    return value


def misfit(place: str, function: Any, args: Any, named: Any) -> str | None:
    """Explain why a call does not fit the function; None if it does."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a built-in function without a signature
        return None
    if _fits(signature, args, named):
        return None
    all_names = list(signature.parameters.values())
    method = bool(all_names) and all_names[0].name == "self"
    takes, args = all_names[method:], args[method:]
    by_place = [x.name for x in takes if x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)]
    known = [x.name for x in takes if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)]
    variadic = {x.kind for x in takes}
    listed = ", ".join(str(x.replace(annotation=x.empty, default=x.empty)) for x in takes) or "no argument"
    for name in named:
        if name not in known and inspect.Parameter.VAR_KEYWORD not in variadic:
            if instead := INSTEAD.get((place, name)):
                return f"{place} has no argument {name!r}: use {instead}"
            return unknown(f"{place} has no argument", name, known, f"it takes {listed}")
        if name in by_place[: len(args)]:
            return f"{place}() got multiple values for argument {name!r}; it takes {listed}"
    if len(args) > len(by_place) and inspect.Parameter.VAR_POSITIONAL not in variadic:
        some = f"{len(by_place)} positional argument{'s' * (len(by_place) != 1)} ({', '.join(by_place)})"
        return f"{place}() takes {some if by_place else 'no positional argument'}, got {len(args)}"
    needed = [x.name for x in takes if x.default is x.empty and x.kind not in (x.VAR_POSITIONAL, x.VAR_KEYWORD)]
    absent = [name for name in needed if name not in (*by_place[: len(args)], *named)]
    return f"{place} needs the argument {absent[0]!r}; it takes {listed}"


def check_fields(cls: Any, kinds: dict[str, Any], hints: dict[str, Any]) -> dict[str, Any]:
    """Return the kinds of the fields, or raise for a field of a transformation that cannot be what it seems to be."""
    methods = ("init", "update", "apply", "at", "init_tree", "update_tree", "finish_tree", "parts", "part")
    for name in kinds:
        if name in methods and hasattr(cls, "update_tree"):
            raise TypeError(f"{cls.__name__}: a field cannot be called {name!r}, the name of a method")
        if hints[name] is float:
            raise TypeError(
                f"{cls.__name__}: the field {name!r} is annotated as float, which would make it a constant: annotate "
                "it as gx.Scalar"
            )
    return kinds


def _fits(signature: inspect.Signature, args: Any, named: Any) -> bool:
    try:
        signature.bind(*args, **named)
    except TypeError:
        return False
    return True


def sequence(place: str, values: Any, least: int = 0) -> list[Any]:
    """Return the values of an iterable other than a string, a dict or a set, or raise; `least` is how many it needs."""
    if isinstance(values, (str, bytes, dict, set)) or hasattr(values, "update_tree") or not np.iterable(values):
        raise TypeError(f"{place} must be a sequence, got {said(values)}")
    if len(values := list(values)) < least:
        raise ValueError(f"{place} must have {least} or more, got none")
    return values


def is_array(x: Any) -> bool:
    """Whether x is an array of numbers or random keys, or describes one, as a `ShapeDtypeStruct` does."""
    dtype = getattr(x, "dtype", None)
    numeric = isinstance(dtype, np.dtype) and (dtype.kind == "b" or jnp.issubdtype(dtype, jnp.number))
    return numeric or isinstance(x, jax.Array)


def is_real(x: Any) -> bool:
    """Whether an array holds real numbers or integers."""
    return jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)


@functools.cache
def trace_state() -> tuple[Callable[[], Any], Any]:
    """The function that identifies the current trace, and what it returns outside every trace."""
    from jax.extend.core import get_opaque_trace_state  # late: it takes as long to import as half of gradtx

    with ThreadPoolExecutor(1) as elsewhere:  # a new thread is outside every trace
        return get_opaque_trace_state, elsewhere.submit(get_opaque_trace_state).result()


def live(place: str, x: Any) -> None:
    """Raise for a leaked tracer, an array whose memory was donated, and an integer that overflows."""
    if isinstance(x, Tracer):
        current_trace, none = trace_state()
        if current_trace() == none:
            raise ValueError(f"{place} is a leaked tracer: return it from the function that JAX traces")
    elif isinstance(x, int) and x.bit_length() >= jnp.iinfo(dtype := jnp.result_type(int)).bits:
        raise ValueError(f"{place} is {x}, which overflows {dtype}")
    elif isinstance(x, jax.Array) and x.is_deleted():
        how = "use the arrays that step returned, or pass donate=False"
        raise ValueError(f"{place} was donated to an earlier step, which reused its memory: {how}")


def check_number(place: str, number: float, low: float, high: float, closed: bool, text: str) -> None:
    """Raise for a number that is not finite or out of range, before or after rounding to JAX's default precision."""
    with np.errstate(over="ignore"):
        seen = float(np.asarray(number, jax.dtypes.canonicalize_dtype(float)))
    good = [math.isfinite(x) and (low <= x <= high if closed else low < x < high) for x in (number, seen)]
    if not all(good):
        raise ValueError(f"{place} must be {text}, got {number!r}{f', {seen!r} in float32' if good[0] else ''}")


def hashable(place: str, value: Any) -> Any:
    """Return the value of a static field, or raise."""
    try:
        hash(value)
    except TypeError:
        raise TypeError(f"{place} is static (part of the treedef) and must be hashable, got {said(value)}") from None
    return value


def traced(place: str, function: Any, *args: Any) -> Any:
    """Call a user's function with arguments that may be traced."""
    try:
        return function(*args)
    except ZeroDivisionError as error:
        raise ValueError(f"{place}: {said(function)} divides by 0") from error
    except TypeError as error:
        if not isinstance(error, jax.errors.JAXTypeError) and not re.match("unhashable type.*Tracer", str(error)):
            raise
        raise TypeError(f"{place}: {said(function)} must be one that JAX can trace: {TRACEABLE}") from error


def scheduled(place: str, schedule: Any, step: Any) -> Any:
    """Return the value of a schedule at a step."""
    value = traced(place, schedule, step)
    if callable(value):
        raise TypeError(f"{place}: a schedule must return a number, got {said(value)}")
    return value
