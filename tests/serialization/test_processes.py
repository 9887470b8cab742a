"""Optimizers in other processes, with pieces and schedules that are defined in `__main__`: as in joblib, Ray, spawn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = '''
import multiprocessing, pickle, sys
import gradtx as gx, jax, jax.numpy as jnp


class mine(gx.PerLeaf):
    factor: gx.Scalar = 0.5
    power: int = 1

    def init_leaf(self, param):
        return {"count": jnp.zeros(())}

    def update_leaf(self, g, slots, context):
        return self.factor * g**self.power, {"count": slots["count"] + 1}


class around(gx.Transformation):
    inner: gx.core.Part
    rate: gx.Positive

    def update_tree(self, updates, slots, context):
        new = {}
        out = self.part("inner", updates, slots, context, new)
        return jax.tree.map(lambda u: self.rate * u, out), new


class slower(gx.Schedule):
    start: gx.NonNegative
    name: str = "name"

    def __call__(self, step):
        return self.start * 0.5**step


TX = gx.chain(around(mine(3.0, power=2), rate=slower(2.0, name="x")), gx.scale_by_learning_rate(slower(0.5)))


def trained(tx, steps=2):
    """Report what the other process finds."""
    params = jnp.full(2, 2.0)
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(params, state, params)
    again = jax.tree.map(lambda x: x, tx)
    return {
        "updates": updates.tolist(),
        "leaves": jax.tree.leaves(tx),
        "paths": [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tx)[0]],
        "repr": repr(tx),
        "equal": again == tx and hash(again) == hash(tx) and repr(again) == repr(tx),
        "made": repr(type(tx.links[0].inner)(0.25)),
        "changed": repr(gx.set_hyperparameters(tx, {"factor": 5.0})),
    }
'''
WAYS = {
    "cloudpickle": """
if __name__ == "__main__":
    import cloudpickle, subprocess
    child = "import sys, cloudpickle, pickle; f, tx = cloudpickle.load(sys.stdin.buffer)\\n"
    child += "sys.stdout.buffer.write(pickle.dumps(f(tx)))"
    done = subprocess.run([sys.executable, "-c", child], input=cloudpickle.dumps((trained, TX)), stdout=-1, check=True)
    assert pickle.loads(done.stdout) == trained(TX), (pickle.loads(done.stdout), trained(TX))
    print("same")
""",
    "joblib": """
if __name__ == "__main__":
    import joblib
    for found in joblib.Parallel(n_jobs=2)(joblib.delayed(trained)(TX) for _ in range(2)):
        assert found == trained(TX), (found, trained(TX))
    print("same")
""",
    "spawn": """
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(trained, (TX,))
    assert found == trained(TX), (found, trained(TX))
    print("same")
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_piece_of_main_keeps_its_hyperparameters_in_another_process(way, tmp_path):
    """The updates are 3·2²·(2·0.5)·(0.5·0.5) with the opposite sign at the second step."""
    script = tmp_path / "script.py"
    more = 'assert trained(TX)["updates"] == [-3.0, -3.0], trained(TX)\n' if way == "cloudpickle" else ""
    script.write_text(MAIN + more + WAYS[way])
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path
    )
    assert done.returncode == 0 and done.stdout == "same\n", done.stderr
