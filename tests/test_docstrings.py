"""Every public function and class documents itself: name, formula, arguments, source and example, in plain English."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from argument_lines import LINES, OTHERWISE

import gradtx as gx
from gradtx import lab, plots, projections, schedules, training

PACKAGE = Path(gx.__file__).parent
MODULES = {
    "gx": gx,
    "schedules": schedules,
    "projections": projections,
    "training": training,
    "lab": lab,
    "plots": plots,
}
PUBLIC = {
    f"{where}.{name}": thing
    for where, module in MODULES.items()
    for name in module.__all__
    if inspect.isroutine(thing := getattr(module, name)) or inspect.isclass(thing)
}
PROTOCOL = {
    "gx.Context",
    "gx.State",
    "gx.PerLeaf",
    "gx.Schedule",
    "gx.Transformation",
}  # of these a user makes no calls
RESULTS = {
    "gx.Sweep",
    "training.Fit",
    "training.Fits",
    "training.Metrics",
    "training.Minimum",
    "training.Sweep",
    "lab.Batch",
    "lab.Entry",
    "lab.Problem",
    "lab.Result",
    "lab.Surface",
}
CALLED = {name: thing for name, thing in PUBLIC.items() if name not in PROTOCOL | RESULTS}
RECIPES = {f"gx.{name}": getattr(gx, name) for name in gx.optimizers.__all__}

HEADS = re.compile(r"(?:^|[.:;]\s+)(What|That of|Those of)\s(?!follows)")
WORDS = re.compile(
    r"\b(goes by|go by|went by|is told|are told|was told|one's own|of your own|a text|hangs on|but for|"
    r"is no (?:float|array|number|function|matrix)|what is remembered|remembers|mends|mended|by its place|is dear|"
    r"are dear|is said|are said)\b"
)


def entries(doc: str) -> dict[str, str]:
    """The arguments that a docstring documents."""
    match = re.search(r"^Args:\n((?:  .*\n|\n)*)", doc + "\n", re.M)
    found: dict[str, str] = {}
    name = ""
    for line in (match[1] if match else "").splitlines():
        if start := re.match(r"  (\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)", line):
            for name in start[1].replace("*", "").split(", "):
                found[name] = start[2]
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found


def arguments(thing: object) -> list[str]:
    parameters = inspect.signature(thing).parameters  # pyright: ignore[reportArgumentType]
    return [name for name in parameters if name not in ("self", "links", "members")]


def doc_of(thing: object) -> str:
    return inspect.getdoc(thing) or ""


@pytest.mark.parametrize("name", CALLED)
def test_every_argument_is_documented_and_no_other(name):
    assert list(entries(doc_of(CALLED[name]))) == arguments(CALLED[name])


@pytest.mark.parametrize("name", CALLED)
def test_an_argument_that_means_the_same_has_the_same_line(name):
    for argument, text in entries(doc_of(CALLED[name])).items():
        if argument in LINES and argument not in OTHERWISE.get(name.partition(".")[2], ()):
            assert text.startswith(LINES[argument]), f"{argument}: {text}"


@pytest.mark.parametrize("name", PUBLIC)
def test_it_has_an_example(name):
    assert ">>> " in doc_of(PUBLIC[name]) or name in RESULTS | {"gx.Context", "gx.State"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_itself_its_formula_and_its_source(name):
    doc = doc_of(RECIPES[name])
    first, _, rest = doc.partition("\n\n")
    assert first[0].isupper() and first.endswith(".") and "\n" not in first and not re.search(r"[←·√]", first)
    assert re.search(r"[←=−+]", rest.partition("\n\n")[0]) or "$$" in rest, "no formula in the second paragraph"
    assert "Source: " in doc


def prose():
    """Docstrings, comments and error texts, by place."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value
        for i, line in enumerate(text.splitlines(), 1):
            if comment := re.search(r"(?:^|\s)# (.*)$", line):
                yield f"{path.relative_to(PACKAGE)}:{i}", comment[1]
    root = Path(__file__).parents[1]
    for path in [root / "README.md", *sorted((root / "notebooks" / "guides").glob("*.md"))]:
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield f"{path.name}:{i}", line


def test_the_prose_is_plain():
    hits = [(place, text, hit) for place, text in prose() for rule in (HEADS, WORDS) for hit in rule.finditer(text)]
    found = [f"{place}: {hit[0].strip()!r} in {text.strip()[:70]!r}" for place, text, hit in hits]
    assert not found, "\n".join([f"{len(found)} places", *found])


def test_no_docstring_of_a_test_begins_with_a_headless_clause():
    found = []
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        documented = (node for node in nodes if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)))
        texts = (ast.get_docstring(node) or "" for node in documented)
        found += [f"{path.name}: {text}" for text in texts if HEADS.match(text)]
    assert not found, "\n".join(found)
