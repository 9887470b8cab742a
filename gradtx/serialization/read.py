"""Parser of printed optimizers. It runs nothing except the constructors of gradtx's own records."""

import ast
import inspect
import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, NoReturn

from gradtx.core import PerLeaf, Record, Schedule, Transformation
from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.core.schedule import combined

SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
KNOWN = "names of gradtx and their calls, numbers, strings, True, False, None, tuples, lists and dicts"


@checked
def read(text: str, names: Mapping[str, Any] | None = None) -> Any:
    """Read a transformation or a schedule from its printed form: `read(repr(tx)) == tx`.

    Reading is safe for untrusted input. The string is parsed, never evaluated: a call constructs a record of gradtx or
    is a recipe, and everything else is a literal. Functions print as their names: `read` knows the names of gradtx,
    and `names` gives others.

    Args:
      text: The string, as a record prints or a person types it: `"chain(clip(1.0), adam(lr))"`.
      names: Further names that the string may use, as a dict: `lr` here, custom functions, custom piece classes.

    Returns:
      The transformation or the schedule.

    Raises:
      ValueError: The string is not a printed record, or a transformation refuses an argument. The message has the line
        and the column.
      TypeError: `text` is not a string, or `names` is not a dict.

    >>> import gradtx as gx
    >>> tx = gx.chain(gx.clip(1.0), gx.adam(gx.schedules.cosine(1e-3, steps=100)))
    >>> gx.read(repr(tx)) == tx
    True
    >>> gx.read("__import__('os').remove('thesis.tex')")
    Traceback (most recent call last):
    ValueError: read: line 1, column 1: "__import__('os').remove" may not be called...
    """
    if not isinstance(text, str):
        raise TypeError(f"read: the text must be a string, got {text!r}")
    if not isinstance(names, (Mapping, type(None))):
        raise TypeError(f"read: names must be a dict of the names that the text may use, got {said(names)}")
    text = text.strip()
    try:
        made = _Reader(text, _public() | dict(names or {})).value(_parsed(text))
    except (MemoryError, RecursionError):
        raise ValueError("read: the text is nested too deeply") from None
    if not isinstance(made, Record):
        raise ValueError(f"read: a transformation or a schedule is expected, got {_short(text)}")
    return made


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        if array := re.search(r"<\w+\[[\d,]*\]>", text):
            why = f"{array[0]} gives the shape of a hyperparameter, but not its values"
        elif function := re.search(r"<lambda>|<function", text):
            why = f"{function[0]} is a function without a name: define it with def, and pass it in names"
        else:
            why = str(error)
        raise ValueError(f"read: this is not how a transformation prints: {why}") from None


@cache
def _public() -> dict[str, Any]:
    """The names that a string may use: makers of transformations and schedules, and functions to pass to them."""
    import gradtx
    from gradtx import projections, schedules

    names: dict[str, Any] = {"inf": math.inf, "nan": math.nan}
    for name, thing in (vars(schedules) | vars(projections) | vars(gradtx)).items():
        argument = inspect.isfunction(thing) and thing.__module__.startswith(
            ("gradtx.pieces.", "gradtx.core.where")
        )  # such as `is_matrix`
        if name[0] != "_" and (_makes(thing) or argument) and thing not in (Transformation, PerLeaf, Schedule):
            names[name] = thing
    return names


def _makes(thing: Any) -> bool:
    """Whether a name may be called: a class of records, or a recipe."""
    if inspect.isclass(thing):
        return issubclass(thing, Record)
    recipe = inspect.isfunction(thing) and thing.__annotations__.get("return") in (Transformation, Schedule)
    return recipe and thing.__module__ != "gradtx.inspect.hyperparameters"


def _short(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}…")


class _Reader:
    """Evaluator of one parsed string."""

    def __init__(self, text: str, names: dict[str, Any]) -> None:
        self.text, self.names = text, names

    def refuse(self, node: Any, why: str) -> NoReturn:
        part = _short(ast.get_source_segment(self.text, node) or "")
        raise ValueError(f"read: line {node.lineno}, column {node.col_offset + 1}: {part} {why}") from None

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                return value
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.expr() as operand):
                if type(number := self.value(operand)) in (int, float):
                    return -number if isinstance(sign, ast.USub) else number
            case ast.Name(id=name):
                return self.named(node, name)
            case ast.Tuple(elts=several):
                return tuple(map(self.value, several))
            case ast.List(elts=several):
                return list(map(self.value, several))
            case ast.Dict(keys=keys, values=values):
                return self.dict_of(node, keys, values)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in SIGNS:
                both = self.value(left), self.value(right)
                if any(isinstance(x, Schedule) for x in both):
                    return self.made(node, combined, [both[0], SIGNS[type(sign)], both[1]], {})
                self.refuse(node, "is arithmetic without a schedule: write the number")
            case ast.Call(func=function, args=arguments, keywords=keywords):
                if not (isinstance(function, ast.Name) and _makes(self.named(function, function.id))):
                    self.refuse(function, "may not be called: only transformations, recipes and schedules may")
                given = {word.arg: self.value(word.value) for word in keywords if word.arg}
                if len(given) < len(keywords):
                    self.refuse(node, "has an argument twice, or **")
                return self.made(node, self.names[function.id], list(map(self.value, arguments)), given)
        self.refuse(node, f"cannot be read: only {KNOWN} can")

    def named(self, node: ast.expr, name: str) -> Any:
        if name not in self.names:
            close = get_close_matches(name, self.names)
            hint = f" ({' or '.join(close)}?)" if close else ""
            self.refuse(node, f"is not a name of gradtx{hint}: pass other names in names={{{name!r}: …}}")
        return self.names[name]

    def dict_of(self, node: ast.expr, keys: list[Any], values: list[ast.expr]) -> dict[Any, Any]:
        read = [None if key is None else self.value(key) for key in keys]
        if bad := [key for key in read if not (isinstance(key, (str, int)) or inspect.isfunction(key))]:
            self.refuse(node, f"has the key {bad[0]!r}: a key is a string or a function")
        if len(set(read)) < len(read):
            self.refuse(node, "has a key twice")
        return dict(zip(read, map(self.value, values)))

    def made(self, node: ast.expr, maker: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
        try:
            return maker(*arguments, **named)
        except (TypeError, ValueError, OverflowError) as error:
            self.refuse(node, f"is refused: {error}")
