"""Checks of arguments: calls that do not fit a signature, and values of the wrong kind."""

import functools
import inspect
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import keystr, tree_flatten_with_path

from gradtx.core.errors import INSTEAD, TRACEABLE, place, renamed, said, unknown

Function = TypeVar("Function", bound=Callable[..., Any])


def checked(function: Function) -> Function:
    """Raise gradtx's own errors for calls that do not fit the signature of a function, a method or an `__init__`.

    An argument annotated as `bool` must be True or False. One annotated as `Callable[[Any], Any]` must be a function of
    so many arguments.
    """
    names, own = function.__code__.co_varnames[: function.__code__.co_argcount], function.__name__
    hints = {n: x for n, x in function.__annotations__.items() if x is bool or get_origin(x) is Callable}

    def place_of(args: Any) -> str:  # for a method, the class of its first argument; for a class, its name
        if names[:1] != ("self",):
            return own
        return type(args[0]).__name__ + (f".{own}" if own[0] != "_" else "")

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        given = dict(zip(names, args)) | named
        for name, hint in hints.items():
            if name in given:
                check_hint(f"{place_of(args)}: {name}", given[name], hint)
        try:
            return function(*args, **named)
        except (TypeError, ValueError, RuntimeError) as error:
            if hasattr(error, "about"):
                raise renamed(error, place_of(args), given) from None
            if isinstance(error, jax.errors.UnexpectedTracerError) or "has been deleted" in str(error):
                _refuse_dead(place_of(args), given, error)
            if str(error).startswith("Comparator raised exception"):
                given = inspect.signature(function).bind(*args, **named).arguments
                where = "".join([f"in {name}, " for name, x in given.items() if not _sortable(x)][:1])
                raise ValueError(
                    f"{place_of(args)}: {where}a dict must have keys of one type, such as strings"
                ) from error
            if not isinstance(error, TypeError) or not (why := misfit(place_of(args), function, args, named)):
                raise
        raise TypeError(why)

    return cast(Function, call)


def _refuse_dead(where: str, given: dict[str, Any], error: Exception) -> None:
    """Raise for a leaked tracer or a deleted array in the arguments of a call, or in what their functions read."""
    for name, x in given.items():
        for keys, leaf in tree_flatten_with_path(x)[0]:
            path = keystr(keys, simple=True, separator="/")
            try:
                live(f"{where}: {path if name == 'self' else place(name, path)}", leaf)
            except ValueError as dead:
                raise dead from error
    if isinstance(error, jax.errors.UnexpectedTracerError):
        raise ValueError(f"{where}: {LEAKED}") from error
    raise ValueError(f"{where}: expected live arrays, got one that was deleted or donated: copy it before") from error


def _sortable(tree: Any) -> bool:
    """Whether the keys of every dict in the tree can be sorted."""
    try:
        jax.tree.leaves(tree)
    except ValueError:
        return False
    return True


def check_hint(place: str, value: Any, hint: Any) -> Any:
    """Return the value of an argument annotated as `bool`, `str` or a `Callable`, or raise."""
    if get_origin(hint) is Callable:
        takes = get_args(hint)[0]
        return function_of(place, value, *(["one argument"] if takes is not ... and len(takes) == 1 else []))
    if not isinstance(value, str if hint is str else (bool, np.bool_)):
        raise TypeError(f"{place} must be {'a string' if hint is str else 'True or False'}, got {said(value)}")
    return value


def function_of(place: str, value: Any, *takes: str) -> Any:
    """Return the function if it takes these arguments, in this order, or raise. Without `takes`, any function does."""
    of = f" of {takes[0] if len(takes) == 1 else '(' + ', '.join(takes) + ')'}" if takes else ""
    uncalled = takes and isinstance(value, type) and hasattr(value, "_kinds")
    if not callable(value) or hasattr(type(value), "update_tree") or uncalled:
        raise TypeError(f"{place} must be a function{of}, got {said(value)}")
    if takes and misfit(place, value, takes, {}):
        name = getattr(value, "__name__", type(value).__name__)
        raise TypeError(f"{place} must be a function{of}, got {name}{_plain(inspect.signature(value))}")
    return value


def misfit(place: str, function: Any, args: Any, named: Any) -> str | None:
    """Explain why a call does not fit the function; None if it does."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a built-in function without a signature
        return None
    try:
        signature.bind(*args, **named)
    except TypeError as error:
        why, takes = str(error), signature.parameters.values()
    else:
        return None
    known = [x.name for x in takes if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)]
    wrong = [name for name in named if name not in known and not any(x.kind is x.VAR_KEYWORD for x in takes)]
    if wrong and (place, wrong[0]) in INSTEAD:
        return f"{place} has no argument {wrong[0]!r}: use {INSTEAD[place, wrong[0]]}"
    if wrong:
        return unknown(f"{place} has no argument", wrong[0], known, f"It takes {_plain(signature)}")
    return f"{place}: {why}. It takes {_plain(signature)}"


def _plain(signature: inspect.Signature) -> str:
    """The signature without `self`, annotations and defaults."""
    plain = [x.replace(annotation=x.empty, default=x.empty) for x in signature.parameters.values() if x.name != "self"]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def sequence(place: str, values: Any, least: int = 0) -> list[Any]:
    """Return the values of an iterable other than a string, a dict or a set, or raise; `least` is how many it needs."""
    if isinstance(values, (str, bytes, dict, set)) or hasattr(values, "update_tree") or not np.iterable(values):
        raise TypeError(f"{place} must be a sequence, got {said(values)}")
    if len(values := list(values)) < least:
        raise ValueError(f"{place} must have {least} or more, got none")
    return values


def one_key(place: str, key: Any) -> jax.Array:
    """Return `key` if it is one random key, typed or raw (uint32[2]); else raise a TypeError that names the place."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    raw = None if typed else jax.eval_shape(jax.random.PRNGKey, 0).shape  # it differs between implementations
    if shape != () if typed else (dtype, shape) != (jnp.uint32, raw):
        raise TypeError(f"{place}: key must be one random key, jax.random.key(0), got {said(key)}")
    return key


def is_array(x: Any) -> bool:
    """Whether JAX takes x as an array of numbers or random keys, or x describes one, as a `ShapeDtypeStruct` does."""
    return isinstance(x, jax.Array) or (_is_numeric(x) and not foreign(x))


def _is_numeric(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    return isinstance(dtype, np.dtype) and (dtype.kind == "b" or jnp.issubdtype(dtype, jnp.number))


def foreign(x: Any) -> str:
    """How to convert an array of numbers of NumPy that JAX does not take; an empty string for any other value."""
    if isinstance(x, (jax.Array, jax.ShapeDtypeStruct)) or not _is_numeric(x):
        return ""
    if isinstance(x, np.ma.MaskedArray):
        return "JAX takes no masked arrays: call its filled(0)"
    if not x.dtype.isnative:
        return f"JAX takes no other byte order than the machine's: write x.astype({x.dtype.newbyteorder('=').name!r})"
    if x.dtype.kind in "fc" and x.dtype.itemsize > (8 if x.dtype.kind == "f" else 16):
        return f"JAX has no such dtype: write x.astype({'float32' if x.dtype.kind == 'f' else 'complex64'!r})"
    return ""


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


def hashable(place: str, value: Any) -> Any:
    """Return the value of a static field, or raise."""
    try:
        hash(value)
    except TypeError:
        raise TypeError(f"{place} is static (part of the treedef) and must be hashable, got {said(value)}") from None
    return value


LEAKED = (
    "a function or a field holds a tracer that leaked from an earlier trace: pass the value as an argument, or return "
    "it from the function that JAX traces"
)


def outside_traces(function: str) -> None:
    """Raise inside `jax.jit` and the other transformations of JAX."""
    current_trace, none = trace_state()
    if current_trace() != none:
        raise ValueError(f"{function}: expected a call outside of jax.jit, jax.vmap and jax.grad, got one inside")


def traced(place: str, function: Any, *args: Any) -> Any:
    """Call a user's function with arguments that may be traced."""
    try:
        return function(*args)
    except jax.errors.UnexpectedTracerError as error:
        raise ValueError(f"{place}: {said(function)}: {LEAKED}") from error
    except ZeroDivisionError as error:
        raise ValueError(f"{place}: {said(function)} divides by 0") from error
    except TypeError as error:
        if not isinstance(error, jax.errors.JAXTypeError) and not re.match("unhashable type.*Tracer", str(error)):
            raise
        raise TypeError(f"{place}: {said(function)} must be one that JAX can trace: {TRACEABLE}") from error


def scheduled(place: str, schedule: Any, step: Any) -> Any:
    """Return the value of a schedule at a step."""
    try:
        value = traced(place, schedule, step)
    except AttributeError:  # it may be written for arrays, such as the step of an update
        if type(step) is not int or step.bit_length() > 31:
            raise
        value = traced(place, schedule, jnp.asarray(step, jnp.int32))
    if callable(value):
        raise TypeError(f"{place}: a schedule must return a number, got {said(value)}")
    return value
