"""Every code block of the book's guides runs, in the order of its page; the tables of migration are complete."""

import doctest
import re
from pathlib import Path

import optax
import pytest

import gradtx as gx
from gradtx import lab, plots, projections, schedules, training  # noqa: F401  names of the tables

GUIDES = Path(__file__).parents[2] / "notebooks" / "guides"
PAGES = {path.stem: path for path in sorted(GUIDES.glob("*.md"))}
FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", re.M)
NOT_RUN = {"text", "sh", "toml", "yaml", "{.python .torch}"}  # PyTorch is not installed
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page: Path) -> list[tuple[int, str, str]]:
    """The line, the language and the text of each block."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent, language, code = match.groups()
        lines = [line.removeprefix(indent) for line in code.splitlines(keepends=True)]
        found.append((text.count("\n", 0, match.start()) + 2, language.strip(), "".join(lines)))
    return found


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.promotes("as users write")
def test_the_blocks_of_a_page_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    output: list[str] = []
    for line, language, code in blocks(PAGES[name]):
        if language in NOT_RUN:
            continue
        assert language == "python", f"{name}.md:{line}: a block of {language!r} is neither run nor listed as not run"
        if ">>> " in code:
            test = doctest.DocTestParser().get_doctest(code, names, f"{name}.md", str(PAGES[name]), line - 1)
            runner.run(test, out=output.append, clear_globs=False)
            names.update(test.globs)
        else:
            exec(compile("\n" * (line - 1) + code, str(PAGES[name]), "exec"), names)
    assert not output, "".join(output)
