"""The periodic table of optimizers: every direction divided by every denominator, in every basis."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from gradtx.combinators import add, blend, chain, in_basis, momentum, precondition, rms
from gradtx.combinators.averages import average
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.inspect.tables import aligned
from gradtx.optimizers.adagrad import adagrad
from gradtx.optimizers.adam import adam, adamax, amsgrad, nadam, yogi
from gradtx.optimizers.sgd import aggmo, averaged_momentum, heavy_ball, nesterov, optimistic_sgd, qhm, sgd
from gradtx.optimizers.sign import signum
from gradtx.pieces import (
    abs,
    add_constant,
    add_momentum,
    bias_correction,
    decayed_max,
    difference,
    eigenbasis,
    identity,
    nesterov_ema,
    running_max,
    running_sum,
    running_variance,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    sign,
    sqrt,
    square,
    yogi_average,
)
from gradtx.pieces.bases import Basis


class Cell(NamedTuple):
    """A direction divided by a denominator (its size), times the learning rate."""

    direction: str
    size: str
    name: str  # of the recipe that computes the same, or "" for none
    tx: Transformation


@dataclasses.dataclass(frozen=True, repr=False)
class PeriodicTable:
    """The cells of `periodic_table`, row by row: `table["average", "rms"]` is the transformation of one cell."""

    cells: tuple[Cell, ...]

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, place: tuple[str, str]) -> Transformation:
        by_place = {(cell.direction, cell.size): cell.tx for cell in self.cells}
        if place not in by_place:
            raise ValueError(
                f"the table has no cell {place!r}; index it with a direction and a size: directions are "
                f"{', '.join(self._names(0))}; sizes {', '.join(self._names(1))}"
            )
        return by_place[place]

    def __repr__(self) -> str:
        sizes, names = self._names(1), {cell[:2]: cell.name for cell in self.cells}
        rows = ([direction, *(names[direction, size] or "·" for size in sizes)] for direction in self._names(0))
        return aligned([["", *sizes], *rows], left=len(sizes) + 1)

    def _names(self, which: int) -> list[str]:
        return list(dict.fromkeys(str(cell[which]) for cell in self.cells))


@checked
def periodic_table(
    learning_rate: Any = 1e-3, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, basis: Basis | None = None
) -> PeriodicTable:
    """Return every direction divided by every denominator: the named optimizers and those between them.

    d/(s + ε), times the learning rate

    Rows are directions, columns denominators ("sizes"); a dot is an optimizer without a name. Iterating gives the
    cells, with `direction`, `size`, `name` and `tx`; `table[direction, size]` is the transformation of one cell. A
    named cell computes the same as the recipe of that name with these arguments and the recipe's defaults for others,
    but without weight decay.

    With a basis, each cell runs on the coordinates of each matrix in that basis: a third axis of the table. Vectors
    are updated as without it.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
        All cells use it; the best value differs between cells.
      b1: β₁, the decay of the average of gradients, in [0, 1).
        Directions with several averages have decays of their own too.
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
        The columns of AdaMax, AdaBelief and Yogi have their own ε.
      basis: `eigenbasis()`, `singular_vectors()` or `random_vectors()`, as for `in_basis`. None for the coordinates as
        they are.

    Raises:
      TypeError: `basis` is not a basis.
      ValueError: The table is indexed with a cell that does not exist.

    >>> import gradtx as gx
    >>> table = gx.periodic_table(0.01)
    >>> table["corrected average", "corrected rms"] == gx.adam(0.01)
    True
    >>> [cell.name for cell in table if cell.size == "1"][:5]
    ['sgd', 'averaged_momentum', '', 'heavy_ball', 'nesterov']
    >>> [(*cell[:2], cell.name) for cell in gx.periodic_table(basis=gx.eigenbasis()) if cell.name]
    [('corrected average', 'corrected rms', 'soap')]
    """
    if basis is not None:
        basis = Basis.coerce("periodic_table: basis", basis)
    change = difference(from_first=True)
    away = add(identity(), chain(scale_by_ema(b1), scale(-1.0)))
    directions = {
        "gradient": identity(),
        "average": momentum(b1, corrected=False),
        "corrected average": momentum(b1),
        "sum": add_momentum(b1),
        "sum, ahead": add_momentum(b1, nesterov=True),
        "average, ahead": nesterov_ema(b1),
        "average and gradient": blend(scale_by_ema(b1), 0.7),
        "Lion's blend": blend(scale_by_ema(0.99, before=True), b1),
        "three sums": chain(add(add_momentum(0.0), add_momentum(0.9), add_momentum(0.99)), scale(1 / 3)),
        "two averages": add(momentum(b1), chain(scale_by_ema(0.9999), scale(6.0))),
        "average and change": add(momentum(b1), chain(change, momentum(b1), scale(b1))),
        "gradient and change": add(identity(), chain(change, scale(1.0))),
    }
    sizes = {  # the denominator, made of the gradient; and its ε
        "sum": (chain(square(), running_sum(0.0), sqrt()), eps),
        "rms": (rms(b2, corrected=False), eps),
        "corrected rms": (rms(b2), eps),
        "max": (chain(square(), average(b2), running_max(), sqrt()), eps),
        "fading max": (chain(abs(), add_constant(eps), decayed_max(b2)), 0.0),
        "deviation": (chain(running_variance(b2), sqrt()), eps),
        "surprise": (chain(away, square(), add_constant(1e-13), average(b2), sqrt()), 1e-16),
        "Yogi's": (chain(square(), yogi_average(b2, 1e-6), bias_correction(b2), sqrt()), 1e-3),
    }
    named = {
        sgd(learning_rate): "sgd",
        averaged_momentum(learning_rate, b1): "averaged_momentum",
        heavy_ball(learning_rate, b1): "heavy_ball",
        nesterov(learning_rate, b1): "nesterov",
        qhm(learning_rate, b1): "qhm",
        aggmo(learning_rate): "aggmo",
        optimistic_sgd(learning_rate): "optimistic_sgd",
        signum(learning_rate, b1): "signum",
        adagrad(learning_rate, eps): "adagrad",
        adam(learning_rate, b1, b2, eps): "adam",
        adam(learning_rate, b1, b2, eps, corrected=False): "adam, uncorrected",
        nadam(learning_rate, b1, b2, eps): "nadam",
        amsgrad(learning_rate, b1, b2, eps): "amsgrad",
        adamax(learning_rate, b1, b2, eps): "adamax",
        yogi(learning_rate, b1, b2): "yogi",
    }
    names = _IN_ANOTHER_FORM
    if basis is not None:
        plain = isinstance(basis, eigenbasis) and basis.method == "qr"
        soap = "kl_soap" if getattr(basis, "whiten", False) else "soap"
        named, names = {}, {("corrected average", "corrected rms"): soap} if plain else {}
    rate = scale_by_learning_rate(learning_rate)
    cells = []
    for row, direction in directions.items():
        columns = {"1": direction, "|d|": chain(direction, sign())}
        columns |= {column: precondition(direction, by=size, eps=of_size) for column, (size, of_size) in sizes.items()}
        for column, step in columns.items():
            tx = chain(step if basis is None else in_basis(step, basis), rate)
            cells.append(Cell(row, column, named.get(tx) or names.get((row, column), ""), tx))
    return PeriodicTable(tuple(cells))


_IN_ANOTHER_FORM = {
    ("gradient", "|d|"): "sign_sgd",
    ("gradient", "rms"): "rmsprop",
    ("gradient", "deviation"): "rmsprop, centered",
    ("Lion's blend", "|d|"): "lion",
    ("two averages", "corrected rms"): "ademamix",
    ("sum", "corrected rms"): "simplified_ademamix",
    ("corrected average", "surprise"): "adabelief",
}
