"""The length of the catalogue: a recipe is one expression of pieces."""

import ast
from pathlib import Path
from statistics import median

import gradtx.optimizers

FILES = sorted(Path(gradtx.optimizers.__file__).parent.glob("*.py"))
# What else in Optax is a row of the catalogue; of the others there, none is.
CONTRIB = "acprop ademamix adopt cocob dadapt_adamw dog madgrad mechanic momo muon prodigy sam schedule_free sophia"


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def code_lines(function):
    """Lines of the body without the docstring."""
    first = function.body[1 if ast.get_docstring(function) else 0]
    return function.end_lineno - first.lineno + 1


def recipes():
    """The functions of `gradtx.optimizers`."""
    for path in FILES:
        if path.stem != "__init__":
            for x in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(x, ast.FunctionDef) and not x.name.startswith("_"):
                    yield x


def test_a_recipe_has_four_lines_of_code_or_fewer():
    """The median of them."""
    lengths = {x.name: code_lines(x) for x in recipes()}
    assert len(lengths) >= 70 and median(lengths.values()) <= 3
