r"""The displayed formula is executed, and compared with the code."""

import contextlib
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ALL
from families.layers import project_where_orthogonal
from families.matrix import orthogonal
from matplotlib.mathtext import MathTextParser
from streams import assert_near, follow, stream

import gradtx as gx
from gradtx import schedules
from gradtx.core import walk
from gradtx.core.where import chooser
from gradtx.display import mimebundle
from gradtx.inspect.formula import formula
from gradtx.inspect.tex import Tex, tex, typewriter

# Pieces whose formula cannot be executed, and why.
EXCEPTIONS = {
    "store": "what it keeps between updates is rounded",
    "accumulate": "at most updates it releases nothing, and a line of a formula is computed at each",
    "backtracking": "its step s is found by a search on values",
    "scale_by_lbfgs": "its inverse Hessian is a function of all pairs that it keeps",
    "zoom": "its step s is found by a search on values",
    "add_noise": "what is random is drawn with a key",
    "low_rank_momentum": "its vectors start at random",
    "kronecker": "its factors are made of the updates by a decomposition, as its docstring tells",
    "in_basis": "its basis is made of the updates by a decomposition, as its docstring tells",
    "every": "what it holds stays as it is at most updates, and a line of a formula is computed at each",
    "pair": "another library's functions have no formula",
    "emit_displacement": "the parameters that it is executed with stay where they start",
    "lazy": "the state of rows without a gradient stays as it is, and a line of a formula is computed for all",
    "mechanic": "its scale s is found by several tuners, as its docstring tells",
    "qk_clip": "the largest logits are given to its update",
    "apply_if": "a condition decides when its inner optimizer runs",
    "skip_if": "a predicate decides when its inner optimizer runs",
    "reduce_on_plateau": "its factor c is found by a rule on values, which its docstring tells",
}
by_name = dict(ALL)


def sections(text):
    """The formula of each group: its label, or "", and its lines."""
    body = text.removeprefix("$$\\begin{aligned}\n").removesuffix("\n\\end{aligned}$$")
    assert body != text and "begin" not in body
    for section in body.split(" \\\\[1ex]\n"):
        label, *lines = section.split(" \\\\\n")
        labelled = label.startswith("&")
        yield plain(label[1:-1]) if labelled else "", lines if labelled else [label, *lines]


def plain(typed):
    """The text that `\\mathtt{…}` shows."""
    text = typed.removeprefix("\\mathtt{").removesuffix("}")
    return re.sub(r"\\([_{}%#&$ ])|\{([^\\])\}", lambda m: m[1] or m[2], text)


# ---------------------------------------------------------------- LaTeX that computes
TOKEN = re.compile(
    r"\\math(?:rm|tt)\{(?:[^{}]|\{[^{}]*\})*\}|\\hat\{[^}]*\}"  # names
    r"|\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\S"  # words, numbers and signs
)


def threshold(x, total):
    """τ with Σ max(x − τ, 0) = total, by sorting."""
    falling = np.sort(x.ravel())[::-1]
    candidates = (np.cumsum(falling) - total) / np.arange(1, x.size + 1)
    return candidates[np.flatnonzero(falling > candidates)[-1]]


def along(reduce, axis):
    """Apply it to the rows (axis −1) or columns (−2) of a matrix; a vector is one row."""
    return lambda x: reduce(x, axis=axis, keepdims=True) if x.ndim > 1 else x


FUNCTIONS = {
    r"\mathrm{threshold}": threshold,
    r"\mathrm{tangent}": lambda a, w, g, delta: project_where_orthogonal(a, g, w, delta),
    r"\mathrm{row\_mean}": along(np.mean, -1),
    r"\mathrm{row\_max}": along(np.max, -1),
    r"\mathrm{column\_mean}": along(np.mean, -2),
    r"\mathrm{column\_max}": along(np.max, -2),
    r"\mathrm{row\_block\_sum}": lambda x: x.sum(keepdims=True),
    r"\mathrm{leaf\_mean}": np.mean,
    r"\mathrm{leaf\_sum}": np.sum,
    r"\mathrm{polar}": lambda x: orthogonal(x, "svd"),
    r"\mathrm{newton\_schulz}": lambda x, steps: orthogonal(x, "newton_schulz", int(steps)),
    r"\mathrm{polar\_express}": lambda x, steps: orthogonal(x, "polar_express", int(steps)),
    r"\mathrm{inputs}": lambda x: x.shape[-2],
    r"\mathrm{outputs}": lambda x: x.shape[-1],
    r"\mathrm{gradient}": lambda x: x,  # of the loss that streams.py gives, ½‖θ‖²
    r"\mathrm{hvp}": lambda v: v,
    r"\mathrm{signs}": lambda t: np.array([-1.0, 1.0, 1.0, -1.0]),
    r"\mathrm{averaged}": lambda x: x,  # of vectors and matrices
    r"\mathrm{round}": lambda x: x,  # of float64
    r"\mathrm{stochastic\_round}": lambda x: x,
    r"\mathrm{sign}": np.sign,
    r"\mathrm{rms}": lambda x: np.sqrt(np.mean(x**2)),
    r"\mathrm{clip}": np.clip,
    r"\mathrm{exp}": np.exp,
    r"\mathrm{mean}": np.mean,
    r"\mathrm{dot}": lambda x, y: np.sum(x * y),
    r"\mathrm{input\_mean}": lambda x: x.mean(tuple(range(x.ndim - 1)), keepdims=True) if x.ndim > 1 else 0,
    r"\mathrm{atan2}": np.arctan2,
    r"\mathrm{mod}": np.mod,
    r"\mathrm{output\_norm}": lambda x: np.linalg.norm(x, axis=-1, keepdims=True),
    r"\mathrm{input\_norm}": lambda x: np.linalg.norm(x, axis=tuple(range(x.ndim - 1)) or None, keepdims=True),
    r"\mathrm{input\_rms}": lambda x: np.sqrt(np.mean(x**2, tuple(range(x.ndim - 1)) or None, keepdims=True)),
    r"\mathrm{output\_rms}": lambda x: np.sqrt(np.mean(x**2, -1, keepdims=True)),
    r"\mathrm{finite}": lambda x: np.where(np.isfinite(x), x, 0),
    r"\mathrm{unit\_norm}": lambda x: np.sqrt((x**2).sum(tuple(range(x.ndim - 1)) or None)),
    r"\mathrm{sum}": np.sum,
    r"\max": np.maximum,
    r"\min": np.minimum,
}
COMPARISONS = {">": np.greater, "<": np.less, r"\geq": np.greater_equal, r"\leq": np.less_equal}
SPACES = (r"\,", r"\cdot", r"\left", r"\right", r"\quad")


class Reader:
    """Computes an expression in LaTeX, from left to right."""

    def __init__(self, text, values, among):
        self.tokens, self.values, self.among = [t for t in TOKEN.findall(text) if t not in SPACES], values, among

    def take(self, expected=None):
        token = self.tokens.pop(0)
        assert expected in (None, token), f"{token} is not {expected}"
        return token

    def next(self):
        return self.tokens[0] if self.tokens else ""

    def whole(self):
        value = self.sum()
        assert not self.tokens, self.tokens
        return value

    def sum(self):
        sign = -1 if self.next() == "-" and self.take() else 1
        value = sign * self.product()
        while self.next() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value = value + sign * self.product()
        return value

    def product(self):
        value = self.power()
        while self.next() and (self.next() not in (*"+-)]},|=", r"\|", *COMPARISONS)):
            value = value * self.power()
        return value

    def power(self):
        base = self.atom()
        if self.next() != "^":
            return base
        self.take()
        exponent = self.group() if self.next() == "{" else self.atom()
        return np.where(exponent % 1 != 0, np.maximum(base, 0), base) ** exponent  # 0 below 0, as `power` says

    def group(self):
        self.take("{")
        value = self.sum()
        self.take("}")
        return value

    def atom(self):
        token = self.take()
        if token[0].isdigit():
            return float(token)
        if token == r"\frac":  # 0/0 is 0, as `precondition` says
            a, b = np.broadcast_arrays(self.group(), self.group())
            return np.where((a == 0) & (b == 0), 0, a / b)
        if token == r"\sqrt":  # and 0 below 0, as `sqrt` says
            return np.sqrt(np.maximum(self.group(), 0))
        if token in ("|", r"\|", "("):
            value: Any = self.sum()
            self.take(")" if token == "(" else token)
            return value if token == "(" else np.abs(value) if token == "|" else np.linalg.norm(value.ravel())
        if token == "[":  # 1 where it holds, for the parameters that it chooses or for a comparison
            chosen = self.next().startswith(r"\mathtt")
            value = self.among(plain(self.take())) if chosen else self.comparison()
            self.take("]")
            return np.asarray(value, float)
        if token in FUNCTIONS:
            self.take("(")
            arguments = [self.sum()]
            while self.next() == ",":
                self.take()
                arguments.append(self.sum())
            self.take(")")
            return FUNCTIONS[token](*arguments)
        return self.values[token + self.subscript()]

    def comparison(self):
        a, compare, b = self.sum(), COMPARISONS[self.take()], self.sum()
        return compare(a, b)

    def subscript(self):
        if self.next() != "_":
            return ""
        text = self.take()
        while True:
            text += self.take()
            if text.count("{") == text.count("}"):
                return text.replace("{", "").replace("}", "")


LINE = re.compile(r"(?P<name>\S+) &(?P<sign>\\leftarrow|=) (?P<value>.*?)(?:,\\quad \S+ = (?P<start>.*))?")


def execute(lines, params, gradients, among):
    """The updates that the lines compute; state starts at 0, or at the value in its line."""
    parsed = [found.groupdict() for line in lines if (found := LINE.fullmatch(line))]
    assert len(parsed) == len(lines)
    for line in parsed:
        line["name"] = re.sub(r"[{}](?=[^\\]*$)", "", line["name"]) if "_{" in line["name"] else line["name"]
    memory = {line["name"]: np.zeros(params.shape) for line in parsed if line["sign"] == r"\leftarrow"}
    scheduled = {line["name"]: line["value"] for line in parsed if line["value"].startswith(r"\mathtt")}
    out = []
    for t, g in enumerate(gradients, 1):
        values = {
            "g": np.asarray(g),
            r"\theta": np.asarray(params),
            r"\theta_0": np.asarray(params),
            "t": float(t),
            **memory,
        }
        values["f"] = 1.0  # as in `streams.extra`
        for line in parsed:  # a start that needs nothing of this step may be read above its line
            with contextlib.suppress(KeyError):
                if line["start"] and t == 1:
                    values[line["name"]] = Reader(line["start"], values, among).whole()
        for name, text in scheduled.items():
            schedule = gx.read(plain(text.removesuffix("(t - 1)")))
            values[name] = float(schedule(t - 1))
        for line in parsed:
            if line["start"] and t == 1 and not set(TOKEN.findall(line["start"])) & {line["name"] for line in parsed}:
                values[line["name"]] = Reader(line["start"], values, among).whole()
        for name, _, value, start in map(dict.values, parsed):
            if start and t == 1:
                values[name] = Reader(start, values, among).whole()
            if name not in scheduled:
                values[name] = Reader(value, values, among).whole()
        memory = {name: values[name] for name in memory}
        out.append(values[r"\Delta\theta"] + np.zeros(params.shape))
    return out


def check(tx, shape=(4,), bound=1e-9):
    """Check that the formula of a leaf's group computes the leaf's updates."""
    params = {"w": jnp.asarray(np.random.default_rng(0).standard_normal(shape))}
    gradients = list(stream(params))

    def among(label):
        return chooser(vars(gx).get(label, label))("w", params["w"])

    fitting = (lines for label, lines in sections(formula(tx)) if label in ("", "otherwise") or among(label))
    with np.errstate(divide="ignore", invalid="ignore"):
        got = execute(next(fitting), params["w"], [g["w"] for g in gradients], among)
    assert_near(got, [u["w"] for u in follow(tx, params, gradients)[0]], bound)
    return got


@pytest.mark.parametrize("name", by_name)
@pytest.mark.usefixtures("eager")
def test_the_formula_computes_the_same_as_the_code(name, x64):
    tx = by_name[name].tx
    if excepted := [type(piece).__name__ for piece in walk(tx) if type(piece).__name__ in EXCEPTIONS]:
        pytest.skip(f"declared: {EXCEPTIONS[excepted[0]]}")
    if any(isinstance(piece, gx.lookahead) and piece.outer is not None for piece in walk(tx)):
        pytest.skip("declared: its outer optimizer runs every k updates, and a line of a formula is computed at each")
    if any(isinstance(piece, (gx.sm3_sum, gx.factored, gx.reduced)) for piece in walk(tx)):
        shapes = ((3, 4),)  # what they are to matrices
    else:
        shapes = ((4,), (3, 4)) if re.search("is_matrix|centralize|project_if|puts'", repr(tx)) else ((4,),)
    for shape in shapes:
        updates = check(tx, shape)
        assert np.any(updates) or isinstance(tx, gx.freeze)


class off(gx.scale_by_ema):
    formula = "m = decay * m + 1.000001 * (1 - decay) * g; u = m"


def test_a_wrong_formula_is_found(x64):
    check(gx.scale_by_ema(0.9))
    with pytest.raises(AssertionError):
        check(off(0.9))


@pytest.mark.parametrize(
    "tx",
    [
        gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3)),
        gx.scale_by_ema(0.8, from_first=True, before=True),
        gx.chain(gx.scale_by_ema(0.5), gx.square(), gx.scale_by_ema(0.8), gx.running_sum(0.3), gx.scale(-3e-7)),
        gx.chain(gx.add(gx.scale(2.0), gx.scale_by_ema(0.5)), gx.add_momentum(0.9, nesterov=True), gx.scale(-1.0)),
        gx.precondition(
            gx.sgd(0.1, 0.9), by=gx.chain(gx.add_constant(-0.5), gx.rms(0.9), gx.add_constant(0.1)), eps=0.1
        ),
        gx.chain(gx.scale(-1e6), gx.square(), gx.square(), gx.scale(1 / 3), gx.clip(1e30)),
        gx.chain(*[gx.chain(gx.running_sum(0.1 * i), gx.bias_correction(0.1 * i)) for i in range(1, 6)]),
    ],
    ids=["clipped", "before, from first", "reused symbols", "sums", "nested", "powers", "subscripts"],
)
def test_compositions(tx, x64):
    assert np.any(check(tx, bound=1e-6))


def test_schedules_are_functions_of_the_step_and_are_defined_below(x64):
    rate = schedules.wsd(0.1, warmup=2, stable=1, decay=3, shape="1-sqrt")
    tx = gx.adamw(rate, b1=schedules.linear(0.5, 0.9, 3), weight_decay=schedules.linear(0.5, 0.9, 3))
    assert np.any(check(tx, bound=1e-6))
    text = formula(tx)
    assert text.count(r"\eta_t &= \mathtt{wsd(") == text.count(r"\beta_t &=") == text.count(r"\lambda_t &=") == 1
    two = formula(gx.chain(gx.sgd(rate), gx.sgd(schedules.linear(0.1, 0.2, 3)), gx.sgd(rate)))
    assert two.count("&=") == 3 and r"\eta_{2,t} &= \mathtt{linear(" in two
    assert r"-\eta_t\,(-\eta" not in two and two.count(r"\eta_t") == 3


# ---------------------------------------------------------------- how it reads
def test_golden():
    assert formula(gx.adam()) == (
        "$$\\begin{aligned}\n"
        "m &\\leftarrow 0.9\\,m + 0.1\\,g \\\\\n"
        "\\hat{m} &= \\frac{m}{1 - 0.9^t} \\\\\n"
        "s &\\leftarrow 0.999\\,s + 0.001\\,g^2 \\\\\n"
        "\\hat{s} &= \\frac{s}{1 - 0.999^t} \\\\\n"
        "\\Delta\\theta &= -0.001\\,\\frac{\\hat{m}}{\\sqrt{\\hat{s}} + 10^{-8}}\n"
        "\\end{aligned}$$"
    )
    assert formula(gx.sgd(0.1)) == "$$\\begin{aligned}\n\\Delta\\theta &= -0.1\\,g\n\\end{aligned}$$"


@pytest.mark.parametrize(
    "number, text",
    [
        (0.1 + 0.2, "0.3"),
        (1 - 0.999, "0.001"),
        (1e-8, "10^{-8}"),
        (-0.0003, r"-3 \cdot 10^{-4}"),
        (1.5e6, r"1.5 \cdot 10^{6}"),
        (100_000, "100000"),
        (0.9999999, "0.9999999"),
        (np.float32(0.9), "0.9"),
        (0.0, "0"),
        (float("inf"), r"\infty"),
    ],
)
def test_numbers(number, text):
    assert str(tex(number)) == text


def test_parentheses_and_signs():
    a, b = Tex("a"), Tex("b")
    for got, expected in [
        (a * (a + b), r"a\,(a + b)"),
        (a - (a - b), r"a - (a - b)"),
        (-(a + b) * -a, r"(a + b)\,a"),
        ((a * b) ** 2, r"(a\,b)^2"),
        ((-a) ** (b + 1), "(-a)^{b + 1}"),
        ((a / b) ** 2, r"\left(\frac{a}{b}\right)^2"),
        (-a / -(b * a), r"\frac{a}{b\,a}"),
        (tex(2e-8) ** a, r"(2 \cdot 10^{-8})^a"),
        (a * 3e-4, r"3 \cdot 10^{-4}\,a"),
        (a * 1 + 0 - 0 * b, "a"),
    ]:
        assert str(got) == expected


def test_unknown_values_are_symbols():
    seen = []

    @jax.jit
    def inside(tx):
        seen.append(formula(tx))
        assert mimebundle(tx) == {"text/latex": seen[-1]}
        return 0

    inside(gx.adamw())
    assert seen[0].count(r"\eta") == seen[0].count(r"\varepsilon") == seen[0].count(r"\lambda") == 1
    batch = jax.vmap(gx.sgd)(jnp.array([0.1, 0.2]), jnp.array([0.8, 0.9]))
    assert r"\beta\,v + g" in formula(batch) and r"-\eta\,v" in formula(batch)
    leaves, structure = jax.tree.flatten(gx.rprop())
    assert r"\mathrm{smallest}" in formula(jax.tree.unflatten(structure, [object() for _ in leaves]))


class twice(gx.Transformation):
    """A wrapper with a formula."""

    inner: gx.Transformation
    share: gx.Scalar = 0.5

    formula = "v = inner(g) - share * v; u = v * tanh(inner(g), 2)"


class silent(gx.PerLeaf):
    """A piece without a formula."""

    def update_leaf(self, g, slots, context):
        return g, slots


class wrong(silent):
    formula = "v = g"


@pytest.mark.parametrize(
    "text, said",
    [
        ("u = = g", "'u = = g'"),
        ("m = g; u := m", "'u := m'"),
        ("u = v = g", "'u = v = g'"),
        ("g", "'g'"),
        ("u = g;", "''"),
        ("u = g if g > 0 else -g", "'u = g if g > 0 else -g'"),
        ("u = g.T", "'u = g.T'"),
        ("u = 'g'", "\"u = 'g'\""),
        (3, "3"),
    ],
)
def test_a_formula_that_is_not_valid(text, said):
    class own(silent):
        formula = text

    words = "own: formula: expected assignments of arithmetic such as 'm = decay * m + (1 - decay) * g; u = m', got "
    with pytest.raises(ValueError, match=f"^{re.escape(words + said)}$"):
        formula(gx.chain(own(), gx.sgd()))


def test_spaces_in_a_formula():
    class own(silent):
        formula = "u=2*g"

    assert formula(own()) == formula(gx.scale(2.0))


def test_the_formula_of_a_users_piece():
    assert formula(twice(gx.scale_by_ema(0.9))).splitlines()[1:-1] == [
        r"m &\leftarrow 0.9\,m + 0.1\,g \\",
        r"v &\leftarrow m - 0.5\,v \\",
        r"\Delta\theta &= v\,\mathrm{tanh}(m, 2)",
    ]
    assert r"-0.1\,\mathrm{silent}(\mathrm{silent}(g))" in formula(gx.chain(silent(), silent(), gx.scale(-0.1)))
    with pytest.raises(ValueError, match="wrong: the formula must define u"):
        formula(wrong())
    assert r"\mathrm{pair}(g)" in formula((lambda params: (), lambda *args: args))
    with pytest.raises(TypeError, match="formula: tx must be a transformation"):
        formula(3)  # pyright: ignore[reportArgumentType]


def test_groups_have_a_formula_each_below_their_rule():
    def labels(tx):
        return [label for label, _ in sections(formula(tx))]

    groups = {"a b/**": gx.sgd(), gx.is_matrix: gx.adam()}
    assert labels(gx.partition(groups, default=gx.sgd())) == ["a b/**", "is_matrix", "otherwise"]
    assert labels(gx.partition({"x": gx.sgd()}, labels={"w": "x"})) == ["x"]
    assert labels(gx.freeze()) == labels(gx.masked(gx.sgd(), None, otherwise="zero")) == [""]
    both = gx.chain(gx.partition({"w": gx.masked(gx.sgd(), "x", otherwise="zero")}, default=gx.sgd()), gx.freeze("y"))
    inner = ["w, x, y", "w, x, otherwise", "w, otherwise, y", "w, otherwise, otherwise"]
    assert labels(both) == [*inner, "otherwise, y", "otherwise, otherwise"]
    assert labels(gx.masked(gx.sgd(), {"w": True}, otherwise="zero")) == ["{'w': True}", "otherwise"]


@pytest.mark.parametrize("text", ["**/bias_1", "a {b} 'c' \\ ^~%#$", "f(x=1, y:[2]) -> <lambda>", "naïve λ"])
def test_any_text_can_be_shown(text):
    MathTextParser("path").parse(f"${typewriter(text)}$")


@pytest.mark.parametrize("name", by_name)
def test_every_piece_declares_its_formula_and_every_line_is_latex(name):
    text = formula(by_name[name].tx)
    for piece in {type(piece).__name__ for piece in walk(by_name[name].tx)} - {"pair"}:
        assert rf"\mathrm{{{piece.replace('_', chr(92) + '_')}}}(" not in text or piece in ("sign", "clip")
    parser = MathTextParser("path")
    for _, lines in sections(text):
        for line in lines:
            parser.parse(f"${line.replace('&', '')}$")


def test_every_exception_is_needed():
    assert not gx.pair.formula and "c" in gx.reduce_on_plateau.formula
    pieces = {type(piece).__name__ for case in by_name.values() for piece in walk(case.tx)}
    assert EXCEPTIONS.keys() <= pieces


# ---------------------------------------------------------------- in a notebook
def test_a_notebook_shows_a_formula_a_curve_and_the_repr():
    assert gx.adam()._repr_mimebundle_(include=None, exclude=None) == {"text/latex": formula(gx.adam())}
    shown = schedules.cosine(0.1, steps=10)._repr_mimebundle_()
    assert list(shown) == ["image/svg+xml"] and "</svg>" in shown["image/svg+xml"]
    assert jax.vmap(lambda peak: schedules.cosine(peak, 10))(jnp.ones(2))._repr_mimebundle_() == {}


def test_without_matplotlib_a_schedule_shows_as_its_repr(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert schedules.cosine(0.1, steps=10)._repr_mimebundle_() == {}


def test_neither_the_import_nor_a_formula_imports_matplotlib():
    code = "import sys, gradtx as gx; gx.adam()._repr_mimebundle_(); assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
