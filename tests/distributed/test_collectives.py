"""The collectives of the update of each optimizer: a table that may only shrink, and never more than Optax's.

`python tests/distributed/test_collectives.py` writes the table, collectives.txt, anew. A row is what XLA makes of the
update alone, on an automatic mesh of two axes, for one version of JAX.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import conftest  # noqa: F401  sets eight devices

import jax
import jax.numpy as jnp
import optax
import pytest
from collectives import KINDS, Traffic, traffic
from distributed.test_optimizers import TXS
from distributed.transformer import SHAPES, mesh_of, specs_of
from jax.sharding import NamedSharding, PartitionSpec

import gradtx as gx
from gradtx.core import walk

pytestmark = pytest.mark.promotes("the arithmetic of Optax")
TABLE = Path(__file__).with_name("collectives.txt")
MESH, SIZE = "data and model", 16  # the sizes of real layers: XLA moves small ones otherwise
OPTAX = {
    "adafactor": optax.adafactor(1e-3),
    "adamw": optax.adamw(1e-3),
    "adan": optax.adan(1e-3),
    "clip_by_global_norm": optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-3)),
    "dadapt_adam": optax.contrib.dadapt_adamw(),
    "dog": optax.contrib.dog(),
    "dowg": optax.contrib.dowg(),
    "fromage": optax.fromage(1e-3),
    "lamb": optax.lamb(1e-3),
    "lars": optax.lars(1e-3),
    "lion": optax.lion(1e-3),
    "mechanic": optax.contrib.mechanize(optax.sgd(0.1)),
    "momo": optax.contrib.momo(),
    "momo_adam": optax.contrib.momo_adam(),
    "muon": optax.contrib.muon(1e-3),
    "novograd": optax.novograd(1e-3),
    "polyak_sgd": optax.polyak_sgd(),
    "prodigy": optax.contrib.prodigy(),
    "schedule_free_adamw": optax.contrib.schedule_free_adamw(1e-3),
    "skip_nonfinite": optax.apply_if_finite(optax.adamw(1e-3), 3),
    "sm3": optax.sm3(1e-3),
}
ALL = TXS | {"mechanic": gx.mechanic(gx.sgd(0.1))}
GIVEN = {"value": 1.0, "grad_fn": lambda x: x, "hvp": lambda x: x, "max_logits": 2.0}


def compiled(update, init, place):
    """The program of an update, from shapes alone."""
    mesh, specs = mesh_of(MESH), specs_of(MESH)
    params = {
        path: jax.ShapeDtypeStruct(
            tuple(SIZE * n for n in shape), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*specs[path]))
        )
        for path, shape in SHAPES.items()
    }
    with jax.set_mesh(mesh):
        state = place(init, params)
        out = jax.tree.map(lambda x: x.sharding, (params, state))
        return jax.jit(update, out_shardings=out).lower(params, state, params).compile()


def ours(name):
    tx = ALL[name]
    needs = {need for piece in walk(tx) for need in piece.needs}
    more = {need: x for need, x in GIVEN.items() if need in needs}
    more |= {"key": jax.random.key(0)} if "key" in needs else {}
    more |= {"value_fn": lambda tree: sum(map(jnp.sum, jax.tree.leaves(tree)))} if "value_fn" in needs else {}
    return traffic(compiled(lambda *args: tx.update(*args, **more), tx.init, lambda init, params: init(params)))


def as_jit_places(init, params):
    places = jax.jit(init).lower(params).compile().output_shardings
    structs = jax.eval_shape(init, params)
    return jax.tree.map(lambda x, on: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on), structs, places)


def rows() -> dict[str, str]:
    """The table: a row for each optimizer, and the version of JAX."""
    return dict(line.split(": ", 1) for line in TABLE.read_text().splitlines())


def of_row(row: str) -> list[dict[str, int]]:
    """The counts of a row: of each run, and of branches."""
    parts = [*row.split("; in branches "), ""][:2]
    return [{kind: int(n) for kind, n in (x.rsplit(" ", 1) for x in part.split(", ") if " " in x)} for part in parts]


def only_with_the_version_of_the_table():
    if jax.__version__ != rows()["jax"]:
        pytest.skip(f"declared: the table is of JAX {rows()['jax']}")


@pytest.mark.parametrize("name", ALL)
def test_an_update_has_the_collectives_of_the_table(name):
    only_with_the_version_of_the_table()
    got, row = ours(name).row(), rows()[name]
    for now, before in zip(of_row(got), of_row(row)):
        for kind in KINDS:
            assert now.get(kind, 0) <= before.get(kind, 0), f"{name}: more collectives than in the table: {got}"
    assert got == row, f"{name}: fewer collectives than in the table: write the row {got!r}"


@pytest.mark.parametrize("name", OPTAX)
def test_an_update_has_no_more_collectives_than_that_of_optax(name):
    only_with_the_version_of_the_table()
    tx = optax.with_extra_args_support(OPTAX[name])
    update = lambda *args: tx.update(*args, value=1.0, loss=1.0)  # noqa: E731
    theirs: Traffic = traffic(compiled(update, tx.init, as_jit_places))
    assert sum(of_row(rows()[name])[0].values()) <= theirs.always.total(), theirs.row()


def test_the_table_has_a_row_for_each_optimizer():
    assert rows().keys() == {"jax", *ALL}
    assert list(rows()) == ["jax", *sorted(ALL)]


@pytest.mark.parametrize("name", ["adamw", "lion", "schedule_free_adamw"])
def test_coordinates_alone_need_no_collective(name):
    assert rows()[name] == "none"


if __name__ == "__main__":
    lines = [f"jax: {jax.__version__}", *(f"{name}: {ours(name).row()}" for name in sorted(ALL))]
    TABLE.write_text("\n".join(lines) + "\n")
