"""Expressions that print as LaTeX: Python's arithmetic on them gives the mathematics shown."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

SUM, PRODUCT, POWER, ATOM = range(4)  # how tightly an expression binds


def _both_ways(rule: Callable[[Any, Any], "Tex"]) -> tuple[Any, Any]:
    """Return an operator on expressions and numbers, and its reflection."""

    def apply(a: Any, b: Any) -> "Tex":
        a, b = tex(a), tex(b)
        return dataclasses.replace(rule(a, b), fixed=a.fixed and b.fixed)

    return apply, lambda a, b: apply(b, a)


def _sum(a: "Tex", b: "Tex") -> "Tex":
    if not math.isnan(a.number + b.number):
        return tex(a.number + b.number)
    if 0 in (a.number, b.number):
        return b if a.number == 0 else a
    return Tex(f"{a} {'-' if b.minus else '+'} {b.text}", SUM)


def _product(a: "Tex", b: "Tex") -> "Tex":
    if not math.isnan(a.number * b.number):
        return tex(a.number * b.number)
    a, b = (a, b) if math.isnan(b.number) else (b, a)  # numbers first
    if a.number in (0, 1, -1):
        return {0: a, 1: b, -1: -b}[int(a.number)]
    left, right = a.within(PRODUCT), b.within(PRODUCT)
    return Tex(left + (r" \cdot " if right[0].isdigit() else r"\,") + right, PRODUCT, a.minus != b.minus)


def _quotient(a: "Tex", b: "Tex") -> "Tex":
    return a if b.number == 1 else Tex(rf"\frac{{{a.text}}}{{{b.text}}}", PRODUCT, a.minus != b.minus)


def _power(a: "Tex", b: "Tex") -> "Tex":
    if b.number == 2 and a.root is not None:
        return a.root
    if b.number == 1:
        return a
    exponent = str(b) if len(str(b)) == 1 else f"{{{b}}}"
    return Tex(f"{parentheses(str(a)) if a.minus else a.within(ATOM)}^{exponent}", POWER)


def _compared(sign: str) -> Callable[[Any, Any], "Tex"]:
    return lambda a, b: Tex(f"[{tex(a)} {sign} {tex(b)}]")  # Iverson's bracket


@dataclasses.dataclass(frozen=True, eq=False)
class Tex:
    """An expression in LaTeX, with the properties that the expressions around it need.

    >>> m, g = Tex("m"), Tex("g")
    >>> print(0.9 * m + (1 - 0.9) * (g - 2e-8) ** 2)
    0.9\\,m + 0.1\\,(g - 2 \\cdot 10^{-8})^2
    """

    text: str  # without its sign
    level: int = ATOM
    minus: bool = False
    number: float = math.nan  # its value, if it is a number
    fixed: bool = False  # whether it consists of hyperparameters and t alone
    root: "Tex | None" = None  # the expression under the square root, if it is one

    __add__, __radd__ = _both_ways(_sum)
    __sub__, __rsub__ = _both_ways(lambda a, b: a + -b)
    __mul__, __rmul__ = _both_ways(_product)
    __truediv__, __rtruediv__ = _both_ways(_quotient)
    __pow__, __rpow__ = _both_ways(_power)
    __gt__, __ge__, __lt__, __le__ = map(_compared, (">", r"\geq", "<", r"\leq"))

    def __neg__(self) -> "Tex":
        minus, level = not self.minus and self.number != 0, max(self.level, PRODUCT)
        return dataclasses.replace(self, text=self.within(PRODUCT), level=level, minus=minus, number=-self.number)

    def __bool__(self) -> bool:
        raise TypeError("an expression is neither true nor false: multiply by a bracket, as in (g > 0) * g")

    def __str__(self) -> str:
        return "-" * self.minus + self.text

    def within(self, level: int) -> str:
        """Return the text, in parentheses if it binds less tightly than `level`."""
        return self.text if self.level >= level else parentheses(self.text)


def parentheses(text: str) -> str:
    return rf"\left({text}\right)" if r"\frac" in text else f"({text})"


def tex(x: Any) -> Tex:
    """Return a number as an expression, in seven digits, the precision of float32, or as 1/n."""
    if isinstance(x, Tex):
        return x
    if 1e-3 < abs(x) < 1 and x != float(f"{x:.7g}") and x == 1 / (n := round(1 / x)):
        return Tex(rf"\frac{{1}}{{{abs(n)}}}", PRODUCT, x < 0, float(x), fixed=True)
    x = float(f"{x:.7g}")
    digits, _, exponent = f"{abs(x):.6e}".partition("e")
    if not math.isfinite(x):
        return Tex(r"\infty", minus=x < 0, number=x, fixed=True)
    if -3 <= int(exponent) < 6:
        return Tex(f"{abs(x):.7g}", ATOM, x < 0, x, fixed=True)
    factor = "" if float(digits) == 1 else rf"{float(digits):.7g} \cdot "
    return Tex(rf"{factor}10^{{{int(exponent)}}}", PRODUCT if factor else POWER, x < 0, x, fixed=True)


def word(name: str) -> str:
    """Return a name of one letter unchanged, a longer one upright."""
    return name if len(name) == 1 else rf"\mathrm{{{name.replace('_', chr(92) + '_')}}}"


def function(name: str) -> Callable[..., Tex]:
    """Return the expression for calls of a function."""
    if name == "sqrt":
        return lambda x: Tex(rf"\sqrt{{{tex(x)}}}", root=tex(x))
    if name in ("abs", "norm"):
        bar = "|" if name == "abs" else r"\|"
        return lambda x: Tex(f"{bar}{tex(x)}{bar}")
    shown = rf"\{name}" if name in ("max", "min") else word(name)
    return lambda *several: Tex(shown + parentheses(", ".join(str(tex(x)) for x in several)))


def typewriter(text: str) -> str:
    """Return any text for use within mathematics, where signs would be spaced; quotes are primes."""
    special = {" ": r"\ ", "'": "{'}", '"': "{''}", "\\": r"{\backslash}", "^": r"{\wedge}", "~": r"{\sim}"}
    special |= {c: rf"\{c}" for c in "_{}%#&$"} | {c: f"{{{c}}}" for c in "+-*/=<>,:;"}
    return rf"\mathtt{{{''.join(special.get(c, c) for c in text)}}}"
