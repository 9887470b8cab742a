"""The recorded losses on digits, which the optimizers' pages show, are today's, and leave out no optimizer."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from gradtx import optimizers

PATH = Path(__file__).parents[2] / "notebooks" / "losses.py"
spec = importlib.util.spec_from_file_location("losses", PATH)
assert spec and spec.loader
losses = importlib.util.module_from_spec(spec)
spec.loader.exec_module(losses)


def test_every_optimizer_is_recorded_or_has_a_reason():
    record = losses.recorded()
    assert {*record, *losses.UNFIT} == {*optimizers.__all__}, "python notebooks/losses.py NAME records an optimizer"
    for name, run in record.items():
        assert len(run["loss"]) == losses.EPOCHS * 44 // losses.EACH and np.isfinite(run["loss"]).all(), name
        assert (run["rate"] in losses.RATES) == losses.rated(name), name


@pytest.mark.parametrize("name", ["sgd", "adam", "rprop"])
def test_a_part_of_the_record_is_repeated(name):
    recorded = losses.recorded()[name]
    run = losses.run(name, [recorded["rate"]], epochs=2)  # of ten: later, rounding is amplified
    np.testing.assert_allclose(run["loss"], recorded["loss"][: len(run["loss"])], rtol=1e-2)
