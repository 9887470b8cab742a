"""Random mutants of gradtx: small changes of its code, made by its syntax tree, which a test should catch.

A mutant replaces one place of a file: an operator, a comparison, `and` or `or`, a number, a boolean, a call by its
argument, the branches of a conditional expression, a condition by its negation, or a statement by `pass`. Lines keep
their numbers. Not mutated: strings, annotations, asserts, what only a type checker reads, the arguments of exceptions
and warnings, the numbers of plots and of the surfaces that they show (their appearance), and `EQUIVALENT`.
"""

import ast
import re
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import CodeType
from typing import Any, NamedTuple


class Mutant(NamedTuple):
    """One place of a file, and what replaces it."""

    file: str  # in the package
    start: int  # of the place, in bytes
    stop: int
    wrong: bytes
    kind: str
    ran: tuple[
        range | tuple[int, ...], ...
    ]  # tests that run one of the first lines can see it, or else of the second …

    def of(self, source: bytes) -> bytes:
        return source[: self.start] + self.wrong + source[self.stop :]

    def shown(self, source: bytes) -> tuple[int, str, str]:
        """The first line that differs, before and after."""
        for i, (before, after) in enumerate(zip(source.split(b"\n"), self.of(source).split(b"\n")), 1):
            if before != after:
                return i, before.decode().strip(), after.decode().strip()
        raise ValueError(f"{self} changes nothing")


# Mutants that no test can catch: the file, the line before and after, and why.
EQUIVALENT: list[tuple[str, str, str, str]] = [
    (
        "pieces/measures.py",
        "if few > 1 and jax.typeof(marks).sharding.spec[-1] is None:"
        "  # leave an axis that an explicit mesh divides whole",
        "if few > 2 and jax.typeof(marks).sharding.spec[-1] is None:"
        "  # leave an axis that an explicit mesh divides whole",
        "in how many parts a maximum is taken is speed",
    ),
    (
        "plots/sweep.py",
        'extend=("neither", "min", "max", "both")[(shown.min() < low) + 2 * (shown.max() > high)]',
        'extend=("neither", "min", "max", "both")[(shown.min() < low) - 2 * (shown.max() > high)]',
        "of four words, those at -1 and -2 are those at 3 and 2",
    ),
    (
        "plots/table.py",
        "axes.add_patch(Rectangle(corner, width, height, facecolor=colour, alpha=1.0 if names else 0.35))",
        "axes.add_patch(Rectangle(corner, width, height, facecolor=colour, alpha=0.35 if names else 1.0))",
        "opacity is appearance",
    ),
    (
        "core/trees.py",
        "return lax.gt(x, 2 * jnp.abs(lax.optimization_barrier(x)) + 1)",
        "return lax.gt(x, 4 * jnp.abs(lax.optimization_barrier(x)) + 1)",
        "the margin may be any",
    ),
    (
        "core/trees.py",
        "return lax.gt(x, 2 * jnp.abs(lax.optimization_barrier(x)) + 1)",
        "return lax.gt(x, 2 * jnp.abs(x) + 1)",
        "XLA of today does not fold it either",
    ),
    (
        "core/trees.py",
        "never = _never(jnp.max(lax.stop_gradient(param), others))",
        "never = _never(jnp.max(param, others))",
        "a comparison has no derivative",
    ),
    (
        "pieces/rounding.py",
        "rest, start = jax.lax.stop_gradient((g - (near - p), near))",
        "rest, start = ((g - (near - p), near))",
        "JAX 0.12 differentiates nextafter, to the same derivative; JAX 0.10 does not",
    ),
    (
        "training/seeds.py",
        'done, per_call, stopped = 0, min(capacity, max(1, -(-steps // 20))), "steps"',
        'done, per_call, stopped = 0, min(capacity, max(1, (-steps // 20))), "steps"',
        "how many steps a call runs is speed",
    ),
    (
        "lab/race.py",
        "run(1)  # compiles the program, which the next run shares",
        "run(0)  # compiles the program, which the next run shares",
        "when the program is compiled is speed",
    ),
]

OPERATORS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.MatMult: ("@", "*"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
    ast.BitXor: ("^", "|"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
COMPARISONS = {
    ast.Lt: ("<", "<=", ">"),
    ast.LtE: ("<=", "<", ">"),
    ast.Gt: (">", ">=", "<"),
    ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
FIRST = {"asarray", "astype", "broadcast_to", "clip", "nan_to_num", "reshape"}  # f(x, …) -> x
EITHER = {"max", "maximum", "min", "minimum"}  # f(x, y) -> x or y
TYPES = {"NewType", "ParamSpec", "TypeVar", "super"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Sites(ast.NodeVisitor):
    """The places of a file that can be mutated: for each, its mutants."""

    def __init__(self, file: str, source: bytes):
        self.file, self.source = file, source
        self.starts = [0, *(i + 1 for i, byte in enumerate(source) if byte == ord("\n"))]
        tree = ast.parse(source)
        self.modules = {(x.asname or x.name).split(".")[0] for x in ast.walk(tree) if isinstance(x, ast.alias)}
        self.sites: list[list[Mutant]] = []
        self.ran = [body_lines(tree)]  # innermost last
        self.inside = False  # a function
        self.visit(tree)

    # ---------------------------------------------------------------- places
    def span(self, node: Any) -> tuple[int, int]:
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: Any) -> bytes:
        start, stop = self.span(node)
        return self.source[start:stop]

    def add(self, node: Any, kind: str, *variants: tuple[int, int, bytes]):
        """A site with these replacements, in or around `node`."""
        ran = (*([range(node.lineno, node.end_lineno + 1)] if self.inside else []), *self.ran[::-1])
        made = []
        for start, stop, wrong in variants:
            if gone := self.source.count(b"\n", start, stop) - wrong.count(b"\n"):
                wrong = wrong[:-1] + b"\n" * gone + wrong[-1:] if wrong.endswith(b")") else wrong + b"\n" * gone
            if wrong != self.source[start:stop]:
                made.append(Mutant(self.file, start, stop, wrong, kind, ran))
        if made:
            self.sites.append(made)

    def between(self, node: Any, left: Any, right: Any, kind: str, old: str, *new: str):
        """A site at the operator between two operands."""
        start, stop = self.span(left)[1], self.span(right)[0]
        gap = self.source[start:stop].decode()
        found = re.search(re.escape(old).replace(r"\ ", r"\s+"), gap)
        if found and "#" not in gap:
            start, stop = start + len(gap[: found.start()].encode()), start + len(gap[: found.end()].encode())
            self.add(left, kind, *((start, stop, x.encode()) for x in new))

    # ---------------------------------------------------------------- scopes
    def scoped(self, node: Any, children: list[Any], inside: bool):
        before = self.inside
        self.ran.append(body_lines(node))
        self.inside = inside
        for child in children:
            self.visit(child)
        self.inside = before
        self.ran.pop()

    def visit_FunctionDef(self, node: Any):
        defaults = [x for x in (*node.args.defaults, *node.args.kw_defaults) if x is not None]
        self.scoped(node, defaults, False)  # evaluated with the definition, and seen by those who call it
        self.scoped(node, node.body, True)

    def visit_Lambda(self, node: ast.Lambda):
        for child in (*node.args.defaults, *node.args.kw_defaults, node.body):
            if child is not None:
                self.visit(child)

    def visit_ClassDef(self, node: ast.ClassDef):
        self.scoped(node, [*node.body], False)

    # ---------------------------------------------------------------- not mutated
    def visit_JoinedStr(self, node: ast.JoinedStr):
        pass

    def visit_Assert(self, node: ast.Assert):
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign):
        if node.value is not None and "TypeAlias" not in ast.dump(node.annotation):
            self.visit(node.value)

    def visit_If(self, node: ast.If):
        names = {x.id for x in ast.walk(node.test) if isinstance(x, ast.Name)}
        if names & {"TYPE_CHECKING", "MYPY"}:
            for child in node.body if isinstance(node.test, ast.UnaryOp) else node.orelse:
                self.visit(child)
        elif "__name__" not in names:
            self.negated(node.test)
            self.generic_visit(node)

    # ---------------------------------------------------------------- statements
    def removed(self, node: Any):
        self.add(node, "statement", (*self.span(node), b"pass"))

    def visit_Expr(self, node: ast.Expr):
        if isinstance(node.value, ast.Call):
            self.removed(node)
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise):
        self.removed(node)

    def visit_Assign(self, node: ast.Assign):
        names = {x.id for x in node.targets if isinstance(x, ast.Name)}
        if not names & {"formula", "__all__"}:
            if not any(isinstance(x, ast.Name | ast.Tuple) for x in node.targets):
                self.removed(node)
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign):
        self.removed(node)
        self.between(node, node.target, node.value, "operator", *OPERATORS[type(node.op)])
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue | ast.Break | ast.Delete):
        self.removed(node)

    visit_Break = visit_Delete = visit_Continue  # noqa: N815

    # ---------------------------------------------------------------- expressions
    def negated(self, test: ast.expr):
        start, stop = self.span(test)
        self.add(test, "condition", (start, stop, b"not (" + self.source[start:stop] + b")"))

    def visit_comprehension(self, node: ast.comprehension):
        for test in node.ifs:
            self.negated(test)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp):
        self.between(node, node.left, node.right, "operator", *OPERATORS[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp):
        swap = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:]):
            self.between(node, left, right, "and, or", *swap)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare):
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators):
            self.between(node, left, right, "comparison", *COMPARISONS[type(op)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp):
        start, _ = self.span(node)
        signs = {ast.Not: b"not", ast.USub: b"-", ast.Invert: b"~"}
        if sign := signs.get(type(node.op)):
            stop = start + len(sign)
            stop += self.source[stop : stop + 1] == b" "
            self.add(node, "not" if sign != b"-" else "sign", (start, stop, b""))
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp):
        start, stop = self.span(node)
        (a, b), (c, d) = self.span(node.body), self.span(node.orelse)
        text = self.source
        self.add(node, "branches", (start, stop, text[start:a] + text[c:d] + text[b:c] + text[a:b] + text[d:stop]))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant):
        value, place = node.value, self.span(node)
        if isinstance(value, bool):
            self.add(node, "boolean", (*place, str(not value).encode()))
        elif isinstance(value, int | float) and not self.file.startswith("plots/"):
            near = [value + 1, value - 1] if isinstance(value, int) else [value + 1]
            others = [x for x in dict.fromkeys([*near, 2 * value]) if x != value]
            self.add(node, "number", *((*place, (repr(x) if x >= 0 else f"({x!r})").encode()) for x in others))

    def visit_Call(self, node: ast.Call):
        called = ast.unparse(node.func)
        name, parts, plain = called.split(".")[-1], called.split("."), not node.keywords
        if name in TYPES:
            return
        if name in ("Surface", "assert_never", "warn"):
            return
        if name == "cast":
            return self.visit(node.args[1])
        kept: list[ast.expr] = []
        if any(isinstance(x, ast.Starred) for x in node.args):
            pass
        elif name in EITHER and len(node.args) == 2 and plain:
            kept = node.args
        elif name == "where" and len(node.args) == 3:
            kept = node.args[1:]
        elif isinstance(node.func, ast.Attribute) and parts[0] not in {*self.modules, "self"}:
            if (len(node.args) + len(node.keywords)) <= 1 or name in FIRST:  # x.f(y) -> x
                kept = [node.func.value]
        elif node.args and ((len(node.args) == 1 and plain) or name in FIRST):  # f(x) -> x
            kept = node.args[:1]
        start, stop = self.span(node)
        if kept:
            texts = [self.text(x) for x in kept]
            alone = [x if isinstance(a, ast.Name) else b"(" + x.strip() + b")" for a, x in zip(kept, texts)]
            self.add(node, "call", *((start, stop, x) for x in alone))
        self.visit(node.func)
        for child in (*node.args, *(x.value for x in node.keywords if x.arg not in {"formula", "stacklevel"})):
            self.visit(child)

    def visit_arguments(self, node: ast.arguments):
        pass


def body_lines(node: ast.AST) -> tuple[int, ...]:
    """The lines inside functions."""
    found: set[int] = set()
    for x in ast.walk(node):
        if isinstance(x, FUNCTIONS) and not isinstance(x, ast.Lambda):
            found.update(range(x.body[0].lineno, (x.end_lineno or 0) + 1))
    return tuple(sorted(found))


def _plain(code: CodeType) -> Any:
    """The instructions of a code object, without its lines and columns."""
    constants = [_plain(x) if isinstance(x, CodeType) else repr(x) for x in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_exceptiontable


def compiled(source: bytes) -> Any:
    """The instructions of a file, or None if it is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _plain(compile(source, "mutant", "exec"))
        except SyntaxError:
            return None


def mutants(
    package: Path,
    number: int,
    seed: str,
    lines: dict[str, set[int]] | None = None,
    within: list[str] | None = None,
) -> Iterator[Mutant]:
    """So many mutants of different places, on these lines of these files, or in these folders, if they are given."""
    paths = [path for path in sorted(package.rglob("*.py")) if within is None or path.parent.name in within]
    files = {path.relative_to(package).as_posix(): path.read_bytes() for path in paths}
    sites = [site for file, source in files.items() for site in Sites(file, source).sites]
    random = Random(seed)
    random.shuffle(sites)
    if lines is not None:
        sites = [
            site
            for site in sites
            if files[site[0].file].count(b"\n", 0, site[0].start) + 1 in lines.get(site[0].file, ())
        ]
    equivalent, right = {x[:3] for x in EQUIVALENT}, {file: compiled(source) for file, source in files.items()}
    for site in sites:
        mutant = random.choice(site)
        source = files[mutant.file]
        _, *shown = mutant.shown(source)
        if compiled(mutant.of(source)) not in (None, right[mutant.file]) and (mutant.file, *shown) not in equivalent:
            number -= 1
            yield mutant
            if not number:
                return


def last_revision(root: Path) -> str:
    """The last tag, or the parent commit if there is none."""
    command = ["git", "-C", str(root), "describe", "--tags", "--abbrev=0"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "HEAD~1"


def changed(root: Path, revision: str) -> dict[str, set[int]]:
    """The lines of gradtx that differ from a revision; none if there is no such revision."""
    command = ["git", "-C", str(root), "diff", "--unified=0", "--no-color", "--no-ext-diff", revision, "--", "gradtx"]
    out: dict[str, set[int]] = {}
    lines: set[int] = set()
    for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines():
        if line.startswith("+++ "):
            lines = out.setdefault(line.removeprefix("+++ b/gradtx/"), set())
        elif found := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            start, count = int(found[1]), int(found[2] or 1)
            lines.update(range(start, start + count))
    return out
