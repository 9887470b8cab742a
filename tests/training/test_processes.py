"""Several real processes, which talk over loopback, train as one does; any of them may be killed."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import one_process
import orbax.checkpoint
import pytest
from jax.sharding import AxisType

from gradtx.serialization import checkpoint as files
from gradtx.serialization.sharded_checkpoint import Directory

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.promotes("a loss as users write it")


def mesh_of(count):
    return jax.make_mesh((count,), ("data",), devices=jax.devices()[:count], axis_types=(AxisType.Auto,))


def begin(count, do, folder):
    """Start the processes, with two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = re.sub("device_count=[0-9]+", "device_count=2", os.environ["XLA_FLAGS"])
    env = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    env["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a program that JAX 0.12 loads from it may hang in a collective
    children = []
    for index in range(count):
        arguments = {"index": index, "count": count, "port": port, "folder": str(folder), "do": do}
        command = [sys.executable, one_process.__file__, json.dumps(arguments)]
        children.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return children


def end(children, do, folder):
    """Wait for the processes; return what each found, and what each printed."""
    try:
        said = [child.communicate(timeout=90) for child in children]
    except subprocess.TimeoutExpired:
        for child in children:
            child.kill()
        said = [child.communicate() for child in children]
    assert not any(child.returncode for child in children), "\n".join(err[-3000:] for _, err in said)
    names = [folder / f"{do}-{index}-of-{len(children)}.json" for index in range(len(children))]
    return [json.loads(name.read_text()) for name in names], said


@pytest.fixture(scope="module")
def alone():
    """The results of one process with one device."""
    mesh = mesh_of(1)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return {"step": one_process.stepped("dp", mesh), "fit": one_process.fitted("dp", mesh)}


def assert_near(found, expected):
    """Trees of numbers within 1e-6."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, expected)


def check_training(count, alone, folder):
    found, said = end(begin(count, "train", folder), "train", folder)
    for kind in ("dp", "fsdp"):
        for of in found:
            assert_near(of[f"step {kind}"], alone["step"])
            fit = of[f"fit {kind}"]
            assert_near(
                {name: fit[name] for name in ("params", "loss")}, {n: alone["fit"][n] for n in ("params", "loss")}
            )
            assert fit["spec"] == (["data"] if kind == "fsdp" else [])
            assert fit["stopped"] == "steps" and fit["counts"] == found[0][f"fit {kind}"]["counts"]
            assert fit["eval"] == pytest.approx(alone["fit"]["eval"], rel=1e-6, nan_ok=True)
        assert max(found[0][f"fit {kind}"]["counts"]) > 1  # process 0 does not find its calls slow
        lines = (folder / f"{kind}.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [*range(1, one_process.STEPS + 1)]
        assert (folder / kind).is_dir() == (kind == "fsdp")
    for of in found:
        assert of["batches"] == found[0]["batches"] and of["stop"] == ["callback", 12]
        assert_near(of["divided batches"], of["batches"])
        assert of["interrupt"] == found[0]["interrupt"]  # after the call that follows the evaluation at step 6
        assert of["interrupt"][0] == "interrupt" and 6 < of["interrupt"][1] <= 12
        uneven, exists, callback, place = of["errors"]
        numbers = ", ".join(str(2 + i) for i in range(count))
        assert f"ValueError: fit: data must have as many batches in each process, got {numbers[:4]}" in uneven
        first = of is found[0]
        assert (
            "FileExistsError: fit: checkpoint" if first else "RuntimeError: fit: the checkpoint failed in"
        ) in exists
        assert ("ZeroDivisionError" if first else "RuntimeError: fit: a callback failed in process 0") in callback
        assert ("OSError: fit: checkpoint must be" if first else "RuntimeError: fit: the checkpoint failed") in place
    (out, err), *others = said
    assert out.count("callback") == 2 * one_process.STEPS // 6 and "step" in err
    assert not any("callback" in out or "step/s" in err for out, err in others)


def test_two_processes_train_as_one(alone, tmp_path):
    check_training(2, alone, tmp_path)
    # One process, with another mesh, goes on from the checkpoint that two wrote.
    for count in (8, 1):
        folder = shutil.copytree(tmp_path / "fsdp", tmp_path / f"copy {count}")
        again = one_process.fitted("dp", mesh_of(count), checkpoint=folder, resume=True, steps=one_process.STEPS + 12)
        expected = one_process.fitted("dp", mesh_of(count), steps=one_process.STEPS + 12)
        assert_near(again["params"], expected["params"])
        assert_near(again["loss"], expected["loss"])


def test_four_processes_train_as_one(alone, tmp_path):
    check_training(4, alone, tmp_path)


@pytest.mark.parametrize("kind", ["dp", "fsdp"])
def test_a_killed_process_loses_the_steps_since_the_last_checkpoint(kind, tmp_path):
    """Any of them, at any moment: all stop, and go on from the last checkpoint, in another number of processes too."""
    do, path = f"resume {kind}", tmp_path / f"killed {kind}"
    chance = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID", time.time()))
    children, until = begin(2, do, tmp_path), time.monotonic() + 150
    while not (any(x.name.isdigit() for x in path.iterdir()) if path.is_dir() else path.exists()):
        assert all(child.poll() is None for child in children) and time.monotonic() < until
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.5))
    for child in chance.sample(children, 2):  # the other waits for the one that is gone, or finds that it is
        child.kill()
        time.sleep(0.2)
    for child in children:
        child.communicate()
    assert all(child.returncode for child in children) and not [*tmp_path.glob("*.json")]  # before the end
    done: Any = Directory(path).step if path.is_dir() else files.load(path)[1]["step"]
    expected = one_process.fitted("dp", mesh_of(1), eval_every=40, steps=80)
    found, _ = end(begin(2 if kind == "dp" else 4, do, tmp_path), do, tmp_path)
    for of in found:
        assert_near({name: of[name] for name in ("params", "loss")}, {n: expected[n] for n in ("params", "loss")})
        assert of["spec"] == (["data"] if kind == "fsdp" else []) and sum(of["counts"]) == 80 - done


def test_a_checkpoint_of_divided_arrays_needs_orbax(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r'expected Orbax to write it: pip install "gradtx\[orbax\]"'):
        Directory(tmp_path / "run")


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path):
    run = {"checkpoint": tmp_path, "resume": True, "evaluate": None}
    with pytest.raises(OSError, match=r"fit: checkpoint must be a file that can be written, got .*: it is a directory"):
        one_process.fitted("dp", mesh_of(1), **run)
    manager = orbax.checkpoint.CheckpointManager(tmp_path)
    manager.save(3, args=orbax.checkpoint.args.StandardSave({"w": np.ones(2)}))
    manager.wait_until_finished()
    manager.close()
    with pytest.raises(ValueError, match=r"is not a checkpoint of gx\.fit"):
        one_process.fitted("dp", mesh_of(1), **run)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda of: of.name)
@pytest.mark.parametrize("batch_size", [16, 12])
def test_rows_that_are_divided_over_a_mesh(axis_type, batch_size, alone):
    """Also batches whose rows the devices do not divide."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    expected = one_process.fitted("dp", mesh_of(1), batch_size=batch_size, evaluate=None)
    found = one_process.fitted("dp", mesh, batch_size=batch_size, evaluate=None)
    assert_near(found["params"], expected["params"])
