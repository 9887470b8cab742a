"""The accelerator script runs on a CPU, on gradtx and JAX alone too, and writes what it measures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "benchmarks" / "accelerator.py"


@pytest.mark.parametrize("hidden", [[], ["optax", "torch", "flax", "chex"]], ids=["all", "jax alone"])
def test_it_measures_and_writes(tmp_path, hidden):
    code = (
        "import sys, runpy, importlib.util\n"
        f"hidden, find = {hidden}, importlib.util.find_spec\n"
        "sys.modules.update(dict.fromkeys(hidden))\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in hidden else find(name, *rest)\n"
        f"sys.argv = ['', '--out', {str(tmp_path)!r}, '--scale', '0.0002', '--sections', 'parts', 'matrices']\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    found = json.loads((tmp_path / "accelerator.json").read_text())
    assert {row["who"] for row in found["parts"]} >= {"gradtx", "gradtx clipped", "gradtx guarded", "gradtx in 4 parts"}
    assert any(row["who"].startswith("optax") for row in found["parts"]) == (not hidden)
    assert all(row["ms"] > 0 and row["ratio"] > 0 for name in ("parts", "matrices") for row in found[name])
    assert all(row["kernels"] > 0 and row["compile_s"] > 0 and row["peak_bytes"] > 0 for row in found["parts"])
    assert "gradtx clipped" in (tmp_path / "accelerator.md").read_text()
