"""Imports point down the layers, without a cycle; and each module imports by itself."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import gradtx

PACKAGE = Path(gradtx.__file__).parent
# From the ground up. A module may import from its own layer and from those before it.
LAYERS = [
    "core",
    "typing",
    "codecs",
    "schedules",
    "pieces",
    "projections",
    "combinators",
    "wrappers",
    "distributed",
    "optimizers",
    "inspect",
    "serialization",
    "interop",
    "training",
    "lab",
    "plots",
    "display",
    "__init__",
    "__main__",
]
CORE = [
    "errors",
    "arguments",
    "kinds",
    "record",
    "schedule",
    "programs",
    "trees",
    "axes",
    "layers",
    "checks",
    "apply",
    "where",
    "owners",
    "root",
    "transformation",
    "__init__",
]
LATE = {("display", "gradtx.plots.schedules"), ("serialization/read", "gradtx"), ("__main__", "gradtx.plots")}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE).with_suffix(""))


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def module_of(name: str) -> str:
    return ".".join(["gradtx", *name.removesuffix("__init__").rstrip("/").split("/")]).rstrip(".")


NAMES = {module_of(name): name for name in FILES}


def imports(name: str) -> set[str]:
    """The modules of gradtx that a file imports, within functions too, but not for type checkers alone."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    typed = {
        x
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for part in node.body
        for x in ast.walk(part)
    }
    found = set()
    for node in ast.walk(tree):
        if node in typed:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "gradtx"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gradtx":
            assert node.level == 0 and node.module
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {full if full in NAMES else node.module for full in whole}
    return found


def layer_of(name: str) -> int:
    return LAYERS.index(name.split("/")[0])


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_from_its_own_layer_and_those_below(name):
    for module in imports(name):
        if (name, module) not in LATE:
            assert layer_of(NAMES[module]) <= layer_of(name), f"{name} imports {module}"
    if name.startswith("core/"):
        below = [CORE.index(NAMES[module].split("/")[1]) for module in imports(name)]
        assert all(place < CORE.index(name.split("/")[1]) for place in below), imports(name)


def test_imports_have_no_cycle():
    state: dict[str, int] = {}

    def visit(name: str, path: list[str]) -> None:
        assert state.get(name) != 1, f"a circle: {' → '.join([*path, name])}"
        if name not in state:
            state[name] = 1
            for module in imports(name):
                if (name, module) not in LATE and not (module == "gradtx" or NAMES[module] == name):
                    visit(NAMES[module], [*path, name])
            state[name] = 2

    for name in FILES:
        visit(name, [])


def test_nothing_private_or_experimental_of_jax():
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                assert not module.startswith(("jax._src", "jax.experimental", "jax.interpreters")), name


def test_each_module_imports_by_itself():
    """Without `gradtx/__init__.py`, whose order of imports could hide a cycle."""
    above = ("display", "__init__", "__main__")
    names = [module for module, name in NAMES.items() if name not in above]
    names = [name for name in names if find_spec("matplotlib") or not name.startswith("gradtx.plots")]
    code = (
        "import importlib, sys, types\n"
        f"for name in {names}:\n"
        "    for module in [m for m in sys.modules if m.split('.')[0] == 'gradtx']: del sys.modules[module]\n"
        "    sys.modules['gradtx'] = types.ModuleType('gradtx')\n"
        f"    sys.modules['gradtx'].__path__ = [{str(PACKAGE)!r}]\n"
        "    importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
