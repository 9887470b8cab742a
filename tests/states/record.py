"""Records a state of every transformation of the registry, as this version saves it, and its next updates.

PYTHONPATH=tests python tests/states/record.py

A file is never recorded again: later versions add theirs, and test_states.py reads them all.
"""

from importlib.metadata import version
from pathlib import Path

import jax
from cases import ALL
from flax.serialization import msgpack_serialize, to_state_dict
from streams import extra, follow, params_of, stream

import gradtx as gx
from gradtx.core import walk

BEFORE, AFTER = 2, 2  # updates


def main() -> None:
    params = params_of(seed=3)
    gradients = list(stream(params, BEFORE + AFTER, seed=4))
    cases = {}
    with jax.disable_jit():
        for name, case in ALL:
            if any(isinstance(piece, gx.pair) for piece in walk(case.tx)):
                continue  # the state of another library is not ours to keep
            if "at_odd_steps" in repr(case.tx):
                continue  # a function of the tests, which `read` cannot find
            _, saved = follow(case.tx, params, gradients[:BEFORE])
            updates, state = [], saved
            for g in gradients[BEFORE:]:
                u, state = case.tx.update(g, state, params, **extra(case.tx))
                updates.append(u)
            cases[name] = {"printed": repr(case.tx), "state": saved, "updates": updates}
    path = Path(__file__).with_name(f"{version('gradtx')}.msgpack")
    with path.open("xb") as file:
        file.write(
            msgpack_serialize(to_state_dict({"params": params, "gradients": gradients[BEFORE:], "cases": cases}))
        )


if __name__ == "__main__":
    main()
