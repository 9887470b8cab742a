"""The table of faults: each applies to the code, and the tests catch one of them, which depends on the code.

`python tests/faults.py` plants them all, and `python tests/faults.py --random N` plants random mutants.
"""

import ast
import subprocess
from collections import Counter
from zlib import crc32

import pytest
from faults import FAULTS, PACKAGE, ROOT, main, planted, seen_by
from mutants import EQUIVALENT, Sites, changed, compiled, mutants


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_it_applies(fault):
    planted(fault, PACKAGE)
    file, _, test = fault.test.partition("::")
    assert f"def {test.partition('[')[0]}(" in (ROOT / file).read_text()


def test_names_are_unique():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 30


def test_the_readme_gives_their_number():
    assert f"it introduces {len(FAULTS)} faults" in " ".join((ROOT / "README.md").read_text().split())


def test_one_is_caught():
    code = b"".join(path.read_bytes() for path in sorted(PACKAGE.rglob("*.py")))
    assert main(["--sample", "1", "--seed", str(crc32(code))]) == 0


SOURCE = b'''
"""A docstring of 1 line."""
from typing import TYPE_CHECKING
import jax.numpy as jnp
if TYPE_CHECKING:
    hidden = 1
RATE: "int | None" = 3
def f(x: "1 + 1", y=0.5):
    if x < 2 and not y:
        raise ValueError(f"expected 1, got {x + 1}", x * 2)
    x += y
    formula = "x + 1"
    return (jnp.sqrt(
        x) if y is None else -jnp.maximum(x, y))
'''
MUTATED = {
    "number": {'RATE: "int | None" = 4', 'RATE: "int | None" = 2', 'RATE: "int | None" = 6'}
    | {f'def f(x: "1 + 1", y={y}):' for y in (1.5, 1.0)}
    | {f"if x < {n} and not y:" for n in (3, 1, 4)},
    "condition": {"if not (x < 2 and not y):"},
    "comparison": {"if x <= 2 and not y:", "if x > 2 and not y:", "x) if y is not None else -jnp.maximum(x, y))"},
    "and, or": {"if x < 2 or not y:"},
    "not": {"if x < 2 and y:"},
    "statement": {"pass"},
    "operator": {"x -= y"},
    "branches": {"return (-jnp.maximum(x, y) if y is None else jnp.sqrt("},
    "sign": {"x) if y is None else jnp.maximum(x, y))"},
    "call": {"return (x", "x) if y is None else -x)", "x) if y is None else -y)"},
}


def test_the_mutants_of_a_file():
    found = [mutant for site in Sites("f.py", SOURCE).sites for mutant in site]
    shown: dict[str, set[str]] = {}
    for mutant in found:
        shown.setdefault(mutant.kind, set()).add(mutant.shown(SOURCE)[2])
        wrong = mutant.of(SOURCE)
        assert compiled(wrong) not in (None, compiled(SOURCE))
        assert wrong.count(b"\n") == SOURCE.count(b"\n")
    assert shown == MUTATED


def test_mutants_compile_and_differ_and_depend_on_the_seed():
    first, again, others = ([*mutants(PACKAGE, 40, seed)] for seed in ("1", "1", "2"))
    assert first == again != others
    assert len({mutant[:3] for mutant in first}) == 40
    for mutant in first:
        source = (PACKAGE / mutant.file).read_bytes()
        ast.parse(mutant.of(source))
        assert mutant.of(source) != source
    lines = {mutant.file: {mutant.shown((PACKAGE / mutant.file).read_bytes())[0]} for mutant in first}
    assert all(mutant.file in lines for mutant in mutants(PACKAGE, 5, "1", lines))


def test_mutants_are_of_the_changed_lines(tmp_path):
    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *author, "-C", str(tmp_path), *words], check=True, capture_output=True)

    (tmp_path / "gradtx").mkdir()
    file = tmp_path / "gradtx" / "a.py"
    file.write_text("a = 1\nb = 2\nc = 3\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    file.write_text("a = 1\nb = 2\nb = 4\nc = 5\n")
    assert changed(tmp_path, "HEAD") == {"a.py": {3, 4}}
    assert changed(tmp_path, "HEAD~7") == {}


def test_the_tests_of_a_mutant_are_those_that_run_its_line():
    tests = [(f"t.py::{name}[{i}]", float(i), {"f.py": {line}}) for name, line in [("a", 9), ("b", 11)] for i in (1, 2)]
    of = [(site[0].kind, seen_by(site[0], tests, "0")) for site in Sites("f.py", SOURCE).sites]
    inside = dict(of)
    assert {*inside["and, or"][:2]} == {"t.py::a[1]", "t.py::a[2]"} == {*inside["operator"][2:]}
    assert {*inside["and, or"][2:]} == {"t.py::b[1]", "t.py::b[2]"} == {*inside["operator"][:2]}
    kind, rate = of[0]
    assert (kind, {*rate}) == ("number", {test[0] for test in tests})
    assert {test.partition("[")[0] for test in rate[:2]} == {"t.py::a", "t.py::b"}  # each once before any twice


def test_equivalent_mutants_are_of_the_code():
    for file, before, after, why in EQUIVALENT:
        lines = [line.strip() for line in (PACKAGE / file).read_text().splitlines()]
        assert lines.count(before) == 1, before
        assert before != after and why
    assert Counter(x[:3] for x in EQUIVALENT).total() == len({x[:3] for x in EQUIVALENT})
