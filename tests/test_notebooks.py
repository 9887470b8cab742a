"""Every notebook runs from top to bottom, asserts what its text claims, and is stored as it ran; none of the textbook's
systems and experiments is left out."""

import inspect
import os
import re
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))}
each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)

LONGEST = 120  # seconds: a reader waits for all of it
# What the teaching texts ask for; bold in a notebook, and asserted before the next of them.
TEXTBOOK = {
    "01_fitting_a_line": [
        "fitting a line by least squares",
        "random search",
        "numeric gradient",
        "analytic gradient",
        "gradient check",
        "random search against gradient descent",
    ],
    "02_batch_minibatch_stochastic": [
        "batch gradient descent",
        "stochastic gradient descent",
        "mini-batch gradient descent",
        "the XOR network",
        "loss curves of the three kinds",
    ],
    "03_averages": ["exponentially weighted moving average", "why bias correction"],
    "04_momentum": [
        "momentum, averaged form",
        "momentum, heavy-ball form",
        "momentum, rate-inside form",
        "a rolling ball with friction",
        "Nesterov, look-ahead form",
        "Nesterov, rewritten at the look-ahead point",
        "the effect of β on momentum",
        "zigzag in a narrow valley",
        "a local minimum",
        "a saddle point",
        "gradient noise",
        "Keras' and PyTorch's SGD arguments",
    ],
    "05_one_size_per_coordinate": [
        "AdaGrad",
        "RMSProp",
        "Rprop",
        "the elongated bowl of a sparse feature",
        "why AdaGrad stalls",
    ],
    "06_adam_from_pieces": [
        "Adam without bias correction",
        "Adam with bias correction",
        "AdaDelta",
        "AdaMax",
        "Nadam",
        "AMSGrad",
        "summary table of the methods",
    ],
    "07_learning_rates": ["learning-rate schedules"],
    "08_digits": ["the homework: real images in several classes"],
}


def check_hyperparameters(names: dict[str, Any]) -> None:
    """In a cell of its own, behind the last."""
    import jax
    import numpy as np

    assert names["found"].results.shape == (18,)
    assert 0.003 < float(names["best"].links[1].learning_rate) < 0.1
    assert np.min(names["scheduled"].results) < np.min(names["found"].results)

    history = names["history"]
    assert history.keys() == {"gradient norm", "step / parameters", "cosine with the step before"}
    assert all(values.shape == (300,) and np.isfinite(values).all() for values in history.values())

    assert names["outer_losses"][-1] < 0.2 < 2.0 < names["outer_losses"][0]
    assert 0.003 < names["learned"]["learning_rate"] < 0.3
    loss_and_slope = jax.jit(jax.value_and_grad(names["outer_loss"]))
    meta = {"log rate": np.log(1e-4), "log (1 - b2)": np.log(1e-2)}  # where the loss is smooth
    for name, slope in loss_and_slope(meta)[1].items():  # by finite differences too
        high, low = (loss_and_slope(meta | {name: meta[name] + h})[0] for h in (0.02, -0.02))
        difference = float(high - low) / 0.04
        assert abs(float(slope) - difference) <= 0.1 * abs(difference)

    assert names["losses"].shape == (10, 8) and names["population"].links[1].learning_rate.shape == (10, 8)
    assert names["losses"][-1].max() < names["alone"].min()  # the worst that evolves, the best of those that do not


CHECKS = {"10_hyperparameters": check_hyperparameters}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS[name], as_version=4)


@each_notebook
def test_it_runs_from_top_to_bottom(name):
    notebook = read(name)
    if check := CHECKS.get(name):
        call = f"{check.__name__}(globals())"
        notebook.cells.append(nbformat.v4.new_code_cell(f"from typing import Any\n{inspect.getsource(check)}\n{call}"))
    flags = os.environ["XLA_FLAGS"]
    if name == "08_digits":  # which computes for longer than it compiles
        flags = flags.replace("optimization_level=0", "optimization_level=1")
    begun = time.monotonic()
    NotebookClient(notebook, timeout=LONGEST, kernel_name="python3").execute(env=os.environ | {"XLA_FLAGS": flags})
    assert time.monotonic() - begun < LONGEST


@each_notebook
def test_it_is_stored_as_it_ran(name):
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert NOTEBOOKS[name].stat().st_size < 1e6


@pytest.mark.parametrize("name", TEXTBOOK)
def test_all_of_the_textbook_is_named_and_asserted(name):
    everywhere = {system for systems in TEXTBOOK.values() for system in systems}
    asserted: dict[str, bool] = {}
    now = ""
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            for system in re.findall(r"\*\*(.+?)\*\*", cell.source):
                if system in everywhere:
                    assert system not in asserted, f"{system} is bold twice"
                    asserted[now := system] = False
        elif now and re.search(r"^\s*assert ", cell.source, re.MULTILINE):
            asserted[now] = True
    assert asserted == dict.fromkeys(TEXTBOOK[name], True)


def test_population_based_training_is_short():
    sources = [cell.source for cell in read("10_hyperparameters").cells]
    (evolution,) = (source for source in sources if "def evolve" in source)
    assert len(evolution.splitlines()) < 40
