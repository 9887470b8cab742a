"""Formulas of optimizers in LaTeX, as notebooks show them.

A piece declares its mathematics beside its code, in one line of Python; the docstring of `formula` has the grammar.
Names are local to the piece: in a composition, names that would be alike get subscripts.
"""

import ast
import dataclasses
import itertools
import math
import operator
import re
from collections.abc import Iterator
from functools import cache, partial, reduce
from typing import Any

import numpy as np
from jax.core import Tracer

from gradtx.combinators.chain import add, chain, multiply
from gradtx.combinators.partition import Groups, partition
from gradtx.core import Schedule, Transformation
from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.core.transformation import TransformationLike
from gradtx.inspect.tex import ATOM, POWER, Tex, function, tex, typewriter, word

SYMBOLS = {"learning_rate": r"\eta", "decay": r"\beta", "weight_decay": r"\lambda", "eps": r"\varepsilon"}
SYMBOLS |= {"θ": r"\theta", "μ": r"\mu", "ν": r"\nu", "ρ": r"\rho", "σ": r"\sigma", "φ": r"\varphi"}


@checked
def formula(tx: TransformationLike) -> str:
    r"""Return one update of an optimizer as a formula in LaTeX.

    The lines define the state and the intermediate quantities in the order of computation, then Δθ, which is added to
    θ. g is the gradient and t the number of the update, from 1. A hyperparameter that is a schedule, or has no single
    known value, is a symbol. A composition with `partition`, `masked` or `freeze` has one formula per group, below its
    rule. A piece that declares no formula is shown as a function: `name(g)`. In a notebook, an optimizer is displayed
    as its formula.

    A piece declares its mathematics as assignments of Python, separated by semicolons:
    `formula = "m = decay * m + (1 - decay) * g; u = m"`.

    - The last assignment, `u`, is the output for the input `g`. Every other assignment is a line of its own.
    - A name that is read before it is assigned is state. It starts at 0, or at the value of the name with a 0 appended:
      `s0 = start`.
    - A field is a hyperparameter, shown as its value or, for a schedule, a symbol; a flag, `v if nesterov else g`; or a
      transformation, called as a function: `direction(g) / (by(g) + eps)`. A property is a flag or a number.
    - `t` is the number of the update, from 1; `θ` and `θ0` are the parameters and the initial parameters; `value` is
      the loss; `hat` is g with a hat.
    - `(a > 0)` is 1 where it holds, and `among(where)` is 1 for the chosen parameters. Any other name that is called is
      shown as a function: `norm(g)`, `sqrt(v)`, `max(a, b)`.

    Args:
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.

    Returns:
      A string: LaTeX between two `$$`.

    Raises:
      ValueError: The formula of a piece is not valid, or does not define `u`.

    >>> import gradtx as gx
    >>> print(gx.formula(gx.adam()))
    $$\begin{aligned}
    m &\leftarrow 0.9\,m + 0.1\,g \\
    \hat{m} &= \frac{m}{1 - 0.9^t} \\
    s &\leftarrow 0.999\,s + 0.001\,g^2 \\
    \hat{s} &= \frac{s}{1 - 0.999^t} \\
    \Delta\theta &= -0.001\,\frac{\hat{m}}{\sqrt{\hat{s}} + 10^{-8}}
    \end{aligned}$$
    >>> class clipped_momentum(gx.PerLeaf):
    ...     decay: gx.Decay = 0.9
    ...     formula = "v = decay * v + g; u = v / max(1, norm(v))"
    >>> print(gx.formula(clipped_momentum()))
    $$\begin{aligned}
    v &\leftarrow 0.9\,v + g \\
    \Delta\theta &= \frac{v}{\max(1, \|v\|)}
    \end{aligned}$$
    """
    sections, tx = [], Transformation.coerce("formula: tx", tx)
    for chosen in _choices(tx):
        writer = _Writer(chosen)
        update = rf"\Delta\theta &= {writer.emit(tx, Tex('g'))}"
        label = ", ".join(label for label, _ in chosen.values() if label)
        rows = [rf"&{typewriter(label)}:"] if label else []
        sections.append(" \\\\\n".join([*rows, *writer.lines, update, *writer.definitions]))
    return "$$\\begin{aligned}\n" + " \\\\[1ex]\n".join(sections) + "\n\\end{aligned}$$"


def number_of(x: Any) -> float:
    """Return the single known value of a hyperparameter; NaN for a schedule, a tracer or a batch."""
    try:
        return math.nan if isinstance(x, Tracer) or np.shape(x) else float(x)
    except (TypeError, ValueError):
        return math.nan


def _choices(tx: Transformation) -> list[dict[int, tuple[str, Transformation]]]:
    """Return every choice of one rule in each `Groups` of `tx`: by its id, the rule's label and transformation."""
    if isinstance(tx, Groups):
        return [{id(tx): (label, inner)} | rest for label, inner in _rules(tx) for rest in _choices(inner)]
    columns = [_choices(part) for part in tx.parts().values()]
    return [reduce(operator.or_, several, {}) for several in itertools.product(*columns)]


def _rules(tx: Groups) -> Iterator[tuple[str, Transformation]]:
    for i, (name, where, inner, *_) in enumerate(tx.groups()):
        if where is None:
            yield "otherwise" if i else "", inner
            return
        yield name if isinstance(tx, partition) else _text(where), inner


def _assignments(tx: Transformation) -> Iterator[tuple[str, str]]:
    """Yield the assignments of a piece's formula, each as its name and its expression."""
    if not isinstance(tx.formula, str):
        raise ValueError(_refused(tx, tx.formula))
    for statement in (tx.formula or f"u = {type(tx).__name__}(g)").split(";"):
        try:
            (assignment,) = ast.parse(statement.strip()).body
            (target,) = assignment.targets  # pyright: ignore[reportAttributeAccessIssue]
            yield target.id, ast.unparse(assignment.value)  # pyright: ignore[reportAttributeAccessIssue]
        except (SyntaxError, ValueError, AttributeError) as error:
            raise ValueError(_refused(tx, statement.strip())) from error


def _refused(tx: Transformation, statement: Any) -> str:
    how = "expected assignments of arithmetic such as 'm = decay * m + (1 - decay) * g; u = m'"
    return f"{type(tx).__name__}: formula: {how}, got {said(statement)}"


def _text(where: Any) -> str:
    return where if isinstance(where, str) else getattr(where, "__name__", repr(where))


def _among(where: Any) -> Tex:
    return tex(1) if where is None else Tex(f"[{typewriter(_text(where))}]")


class _Names(dict[str, Any]):
    """The meanings of the names in a piece's formula; a name that is read before it is assigned is state."""

    def __init__(self, writer: "_Writer", tx: Transformation, g: Tex) -> None:
        super().__init__(
            g=g, t=Tex("t", fixed=True), θ=Tex(r"\theta"), θ0=Tex(r"\theta_0"), value=Tex("f"), among=_among
        )
        self.writer, self.tx, self.remembered = writer, tx, set[str]()

    def __missing__(self, name: str) -> Any:
        if name in self.tx._kinds:
            self[name] = self.writer.field(self.tx, name)
        elif isinstance(vars(type(self.tx)).get(name), property):
            self[name] = getattr(self.tx, name)
        else:
            self.remembered.add(name)
            self[name] = self.symbol(name)
        return self[name]

    def symbol(self, name: str) -> Tex:
        """Return a new symbol for a state or an intermediate quantity."""
        g = self["g"].text
        plain = re.fullmatch(r"(\\?[a-zA-Z]+)(?:_\{?(\w+)\}?)?", g)
        if name == "hat" and plain:
            return self.writer.symbol(rf"\hat{{{plain[1]}}}", *filter(None, [plain[2]]))
        # An input without a symbol for the hat; and an average of squares, which is a denominator.
        name = {"hat": "u", "m": "s" if g.endswith("^2") else "m"}.get(name, name)
        return self.writer.symbol(SYMBOLS.get(name, word(name)))


class _Writer:
    """Writes the lines of one composition, with one choice of groups."""

    def __init__(self, chosen: dict[int, tuple[str, Transformation]]) -> None:
        self.chosen = chosen
        self.lines: list[str] = []
        self.definitions: list[str] = []  # of schedules
        self.taken = {"g", "t", "f", r"\theta", r"\theta_0"}
        self.symbols: dict[Any, Tex] = {}  # of hyperparameters

    def emit(self, tx: Transformation, g: Tex) -> Tex:
        """Return the output of `tx` for the input `g`, and write the lines that define it."""
        if isinstance(tx, chain):
            return reduce(lambda u, link: self.emit(link, u), tx.links, g)
        if isinstance(tx, Groups):
            return self.emit(self.chosen[id(tx)][1], g)
        if g.level < ATOM and self.uses(tx) > 1:
            g = self.line(self.symbol("u"), "=", g)
        if isinstance(tx, add):
            return sum((self.emit(link, g) for link in tx.links), tex(0))
        if isinstance(tx, multiply):
            return math.prod((self.emit(link, g) for link in tx.links), start=tex(1))
        names = _Names(self, tx, g)
        for name, expression in _assignments(tx):
            for called in re.findall(r"(\w+)\(", expression):
                if called not in tx._kinds:
                    names.setdefault(called, function(called))
            try:
                value = tex(eval(expression, {}, names))
            except (TypeError, AttributeError) as error:
                raise ValueError(_refused(tx, f"{name} = {expression}")) from error
            if name in names.remembered:
                self.line(names[name], r"\leftarrow", value, names.get(f"{name}0"))
            elif name == "u" or name[-1] == "0" or (value.fixed and value.level >= POWER):
                names[name] = value
            else:
                names[name] = self.line(names.symbol(name), "=", value)
        if "u" not in names:
            raise ValueError(
                f"{type(tx).__name__}: the formula must define u, got {said(tx.formula)}: end it with 'u = …'"
            )
        return names["u"]

    def field(self, tx: Transformation, name: str) -> Any:
        value = getattr(tx, name)
        if isinstance(value, Transformation):
            return cache(partial(self.emit, value))  # a second call with the same input writes no lines
        return self.hyperparameter(name, value) if tx._kinds[name].data and value is not None else value

    def hyperparameter(self, field: str, value: Any) -> Tex:
        if not math.isnan(number := number_of(value)):
            return tex(number)
        scheduled = isinstance(value, Schedule)
        key = field, value if scheduled else id(value) if isinstance(value, Tracer) else np.asarray(value).tobytes()
        if key not in self.symbols:
            symbol = self.symbol(SYMBOLS.get(field, word(field)), *"t" * scheduled)
            self.symbols[key] = dataclasses.replace(symbol, fixed=True)
            if scheduled:
                self.definitions.append(f"{symbol} &= {typewriter(' '.join(repr(value).split()))}(t - 1)")
        return self.symbols[key]

    def symbol(self, base: str, *subscripts: str) -> Tex:
        """Return a new symbol, with a number among the subscripts if it needs one."""
        numbered = (reduce(_subscript, (*n, *subscripts), base) for n in ((), *((str(i),) for i in range(2, 1000))))
        text = next(text for text in numbered if text not in self.taken)
        self.taken.add(text)
        return Tex(text)

    def line(self, symbol: Tex, sign: str, value: Tex, start: Tex | None = None) -> Tex:
        begins = rf",\quad {_subscript(symbol.text, '0')} = {start}" if start is not None and start.number != 0 else ""
        self.lines.append(f"{symbol} &{sign} {value}{begins}")
        return symbol

    def uses(self, tx: Transformation) -> int:
        """Count the uses of the input in the formula of `tx`."""
        trial = _Writer(self.chosen)
        return f"{trial.emit(tx, Tex('@'))} {trial.lines}".count("@")


def _subscript(text: str, more: str) -> str:
    base, *subscripts = re.split(r"(?<!\\)_", text)
    several = ",".join([*(s.strip("{}") for s in subscripts), more])
    return f"{base}_{several}" if len(several) == 1 else f"{base}_{{{several}}}"
