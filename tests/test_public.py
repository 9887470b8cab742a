"""Public names, completion, versions and imports."""

import importlib
import pkgutil
import subprocess
import sys
from importlib.metadata import version
from types import ModuleType

import pytest

import gradtx as gx
from gradtx.__main__ import main

PACKAGES = ["gradtx.schedules", "gradtx.typing"] + [
    module.name for module in pkgutil.walk_packages(gx.__path__, "gradtx.") if module.ispkg
]


@pytest.mark.parametrize("name", PACKAGES)
def test_completion_shows_the_public_names(name):
    module = importlib.import_module(name)
    assert sorted(dir(module)) == sorted(module.__all__)
    assert all(hasattr(module, public) for public in module.__all__)


def test_completion_of_gradtx():
    assert set(dir(gx)) == {*gx.__all__, "plots", "__version__"}
    assert {"fit", "train_step", "training", "schedules", "adam", "chain"} <= set(gx.__all__)
    assert len(gx.__all__) == len(set(gx.__all__))
    modules = {name for name in gx.__all__ if isinstance(getattr(gx, name), ModuleType)}
    assert modules == {"lab", "schedules", "training"}
    with pytest.raises(AttributeError, match="module 'gradtx' has no attribute 'np'"):
        gx.np  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_a_star_import_and_completion_work_without_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from gradtx import *\nimport gradtx, inspect\n"
        "assert fit and adam and not hasattr(gradtx, 'plots') and 'plots' in dir(gradtx)\n"
        "assert inspect.getmembers(gradtx)\n"
        "try: gradtx.plots\n"
        "except AttributeError as error: assert 'pip install' in str(error)\n"
        "else: raise SystemExit('plots without matplotlib')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gradtx_imports_with_every_warning_an_error():
    subprocess.run([sys.executable, "-W", "error", "-c", "import gradtx; gradtx.fit, gradtx.train_step"], check=True)


def test_the_version(capsys):
    assert gx.__version__ == version("gradtx")
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"gradtx {gx.__version__}, jax ")
