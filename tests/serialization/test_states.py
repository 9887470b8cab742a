"""States that earlier versions saved are restored and continue identically; `states/record.py` recorded them."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest
from flax.serialization import msgpack_restore
from rounding import assert_within
from streams import extra

import gradtx as gx

FILES: dict[str, Any] = {
    path.stem: msgpack_restore(path.read_bytes())
    for path in sorted((Path(__file__).parents[1] / "states").glob("*.msgpack"))
}
SAVED = [(version, name) for version, file in FILES.items() for name in file["cases"]]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("version", FILES)
def test_every_recorded_state_restores_into_its_repr(version):
    for name, case in FILES[version]["cases"].items():
        _, report = gx.restore(gx.read(case["printed"]), FILES[version]["params"], case["state"])
        assert not report.fresh and not report.dropped, name
    assert len(FILES[version]["cases"]) > 150


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("version, name", SAVED, ids=[f"{version}-{name}" for version, name in SAVED])
def test_it_continues_as_recorded(version, name):
    file = jax.tree.map(jax.numpy.asarray, {**FILES[version], "cases": None})
    case, params = FILES[version]["cases"][name], file["params"]
    tx = gx.read(case["printed"])
    state, _ = gx.restore(tx, params, case["state"])
    for i, expected in case["updates"].items():
        arguments, run = (file["gradients"][i], state, params), partial(tx.update, **extra(tx))
        u, state = run(*arguments)
        assert_within(u, lambda *a, run=run: run(*a)[0], arguments, bound=1e-6, expected=expected)
