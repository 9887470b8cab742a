"""The periodic table: every cell trains, and every name is of the recipe that computes the same."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from streams import assert_near, follow, params_of, stream

import gradtx as gx
from gradtx import optimizers
from gradtx.__main__ import main

TABLE = gx.periodic_table()
CURVATURE = jnp.logspace(-1, 1, 4)  # a condition number of 100
RECIPES: dict[str, gx.Transformation] = {  # with the table's arguments, where they are not the recipe's own
    "sgd": gx.sgd(1e-3),
    "averaged_momentum": gx.averaged_momentum(1e-3),
    "heavy_ball": gx.heavy_ball(1e-3),
    "nesterov": gx.nesterov(1e-3),
    "qhm": gx.qhm(1e-3, 0.9),
    "aggmo": gx.aggmo(1e-3),
    "optimistic_sgd": gx.optimistic_sgd(1e-3),
    "sign_sgd": gx.sign_sgd(),
    "signum": gx.signum(),
    "lion": gx.lion(1e-3, weight_decay=0.0),
    "adagrad": gx.adagrad(1e-3),
    "rmsprop": gx.rmsprop(decay=0.999),
    "rmsprop, centered": gx.rmsprop(decay=0.999, centered=True),
    "adam": gx.adam(),
    "adam, uncorrected": gx.adam(corrected=False),
    "nadam": gx.nadam(1e-3),
    "amsgrad": gx.amsgrad(),
    "adamax": gx.adamax(1e-3),
    "adabelief": gx.adabelief(),
    "yogi": gx.yogi(1e-3),
    "ademamix": gx.ademamix(),
    "simplified_ademamix": gx.simplified_ademamix(1e-3, 0.9, 0.999),
}


RATES = [10.0**exponent for exponent in range(-4, 2)]
BY_RATE = [gx.periodic_table(rate) for rate in RATES]


@jax.jit
def last_losses(batches: Any) -> Any:
    """The losses of each batch of optimizers after 150 steps on ½·Σ cᵢ·wᵢ² from wᵢ = 1, as fractions of the first."""

    def of(tx):
        def step(carry, _):
            w, state = carry
            u, state = tx.update(CURVATURE * w, state, w)
            return (w + u, state), None

        w = jnp.ones(4)
        (w, _), _ = jax.lax.scan(step, (w, tx.init(w)), length=150)
        return CURVATURE @ (w * w) / jnp.sum(CURVATURE)

    return jax.tree.map(jax.vmap(of), batches, is_leaf=lambda x: isinstance(x, gx.Transformation))


@pytest.mark.parametrize("direction", dict.fromkeys(cell.direction for cell in TABLE))
def test_every_cell_trains(direction):
    places = [cell[:2] for cell in TABLE if cell.direction == direction]
    losses = last_losses({place: gx.stack([table[place] for table in BY_RATE]) for place in places})
    best = {place: float(jnp.nanmin(several)) for place, several in losses.items()}
    assert {place: loss for place, loss in best.items() if not loss < 0.02} == {}


def test_every_name_is_of_the_recipe_with_the_same_updates():
    named = {cell.name: cell.tx for cell in TABLE if cell.name}
    assert named.keys() == RECIPES.keys() and len(named) == sum(bool(cell.name) for cell in TABLE)
    params = params_of()
    gradients = list(stream(params, 8))
    for name, tx in named.items():
        assert name.partition(",")[0] in optimizers.__all__
        if tx != RECIPES[name]:  # in another form
            assert_near(follow(tx, params, gradients)[0], follow(RECIPES[name], params, gradients)[0], 2e-6)


def test_cells_are_found_by_direction_and_size():
    assert len(TABLE) == len({cell[:2] for cell in TABLE}) == len(list(TABLE))
    for direction, size, _, tx in TABLE:
        assert TABLE[direction, size] is tx
    assert gx.periodic_table(0.1, 0.8, 0.99, 1e-6)["corrected average", "corrected rms"] == gx.adam(
        0.1, 0.8, 0.99, 1e-6
    )
    for place in (("sum", "weather"), ("rms", "sum"), "adam", 3):
        with pytest.raises(ValueError, match=r"no cell .* directions are gradient, average, .*; sizes 1, "):
            TABLE[place]  # pyright: ignore[reportArgumentType]


def test_the_command_prints_the_table(capsys):
    main(["table"])
    out = capsys.readouterr().out
    assert out == f"{TABLE!r}\n" and repr(TABLE).splitlines()[3].split()[:4] == ["corrected", "average", "·", "·"]
    assert len(out.splitlines()) == 1 + len({cell.direction for cell in TABLE})
    for cell in TABLE:
        (line,) = (line for line in out.splitlines() if line.startswith(cell.direction + "  "))
        assert cell.name in line


BASES = {
    "soap": gx.eigenbasis(2),
    "kl_soap": gx.eigenbasis(2, decay=0.9, whiten=True),
    "eigh": gx.eigenbasis(3, "smaller", method="eigh"),
    "singular": gx.singular_vectors(3),
    "random": gx.random_vectors(3, rank=2),
}


@pytest.mark.parametrize("direction", dict.fromkeys(cell.direction for cell in TABLE))
@pytest.mark.parametrize("basis", BASES)
def test_every_cell_of_every_basis_runs(basis, direction):
    """The steps of a matrix go downhill on average, and those of a vector are those without a basis."""
    table, plain = gx.periodic_table(0.01, basis=BASES[basis]), gx.periodic_table(0.01)
    params = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(4)}
    g = {"w": jax.random.normal(jax.random.key(0), (3, 4)), "b": jnp.arange(4.0)}

    def of(tx, times):
        def step(state, t):
            u, state = tx.update(jax.tree.map(lambda x: x * (1 + 0.1 * t), g), state, params)
            return state, u

        return jax.lax.scan(step, tx.init(params), times)[1]

    @jax.jit
    def steps(cells, times):
        return {place: of(tx, times) for place, tx in cells.items()}

    places = [cell[:2] for cell in table if cell.direction == direction]
    late = basis in ("soap", "kl_soap", "eigh")  # the first update only makes a basis
    made = steps({place: table[place] for place in places}, jnp.arange(6.0))
    bare = steps({place: plain[place] for place in places}, jnp.arange(6.0)[late:])
    for place in places:
        assert jnp.sum(jnp.sum(made[place]["w"], axis=0) * g["w"]) < 0, place
        assert jnp.allclose(made[place]["b"][late:], bare[place]["b"], rtol=1e-5, atol=1e-7), place


@pytest.mark.parametrize("name", ["soap", "kl_soap"])
def test_a_cell_of_a_basis_has_the_name_of_its_recipe(name):
    table, params = gx.periodic_table(0.01, 0.95, 0.9, basis=BASES[name]), params_of()
    (cell,) = (cell for cell in table if cell.name)
    assert cell[:3] == ("corrected average", "corrected rms", name)
    recipe = {
        "soap": gx.soap(0.01, 0.95, 0.9, weight_decay=0.0, every_k=2),
        "kl_soap": gx.kl_soap(0.01, 0.95, 0.9, 0.9, weight_decay=0.0, every_k=2),
    }
    gradients = list(stream(params, 8))
    assert_near(follow(cell.tx, params, gradients)[0], follow(recipe[name], params, gradients)[0], 2e-6)


def test_a_basis_of_the_table_is_a_basis():
    with pytest.raises(TypeError, match=r"periodic_table: basis must be a basis, such as eigenbasis\(\), got chain"):
        gx.periodic_table(basis=gx.adam())  # pyright: ignore[reportArgumentType]
