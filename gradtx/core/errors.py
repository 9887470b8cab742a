"""Parts of error messages: how a value, an array or an unknown name is shown."""

import inspect
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer


def unknown(text: str, name: Any, known: Iterable[str], rest: str) -> str:
    """A message about an unknown name, with the closest known one, by its letters or its initials."""
    from difflib import get_close_matches  # only errors need it

    known, name = list(known), str(name)
    alike = [x for x in known if name == "".join(word[:1] for word in x.split("_"))]
    alike += get_close_matches(name, known, n=1, cutoff=0.5)
    alike += [x for x in known if len(name) > 2 and name in x]
    return f"{text} {name!r}" + (f": did you mean {alike[0]!r}? {rest[:1].upper()}{rest[1:]}" if alike else f"; {rest}")


def said(value: Any, most: int = 100) -> str:
    """A value on one line. A class or a recipe comes with the advice to call it."""
    if inspect.isclass(value) or inspect.isfunction(value):
        what = "class" if inspect.isclass(value) else "function"
        ours = hasattr(value, "update_tree") or "Transformation" in str(
            getattr(value, "__annotations__", {}).get("return")
        )
        return f"the {what} {value.__name__}" + (f": call it, {value.__name__}(…)" if ours else "")
    if isinstance(value, (str, Tracer, jax.Array, np.ndarray, tuple, list, dict)):  # arrays by type: few are short
        value = jax.tree.map(
            lambda x: _Text(describe(x)) if getattr(x, "ndim", 0) or isinstance(x, Tracer) else x, value
        )
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


class _Text(str):
    __repr__ = str.__str__


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _plain(signature: inspect.Signature) -> str:
    """The signature without annotations."""
    plain = [x.replace(annotation=x.empty) for x in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def describe(x: Any) -> str:
    """An array's dtype and shape, as `float32[3,4]`."""
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"


TRACEABLE = "jnp.where(x > 0, a, b) for if, jnp.sqrt(x) for math.sqrt(x), x for float(x)"


def place(tree: str, path: str) -> str:
    """A leaf's name in errors."""
    return f"{tree}[{path!r}]" if path else tree


def _listed(paths: Any, most: int = 6) -> str:
    shown = ", ".join(map(repr, list(paths)[:most]))
    return f"{shown}, …" if len(paths) > most else shown or "no leaves"
