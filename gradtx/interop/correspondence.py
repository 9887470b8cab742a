"""Correspondence of gradtx's slots with the states of Optax's and PyTorch's optimizers.

A saved state is read into records, each with arrays for parameters and a count. Arrays are matched with slots for each
parameter alone, by name and order, so that chains, groups, masks and wrappers of any depth need no rules.

Optax's `mu_dtype=jnp.bfloat16` is `store(tx, {"**/direction/**": "bfloat16", "**": None})`: convert the saved state for
`tx`, in float32, then `restore(store(tx, …), params, state, cast=True)`.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradtx.combinators import chain, precondition
from gradtx.core import Context, Schedule, State, Transformation, at_work, leaves_by_path, walk, working_dtype
from gradtx.core.arguments import live
from gradtx.core.errors import describe
from gradtx.core.root import own_slots, pieces, updated
from gradtx.core.trees import widen
from gradtx.pieces import add_momentum, nesterov_ema, scale_by_lbfgs, scale_by_learning_rate
from gradtx.pieces.formulas import safe_divide
from gradtx.serialization.restore import Restored, placed
from gradtx.wrappers import accumulate
from gradtx.wrappers.line_search import LineSearch


class Row(NamedTuple):
    """A slot, and the names of the same array in the other libraries."""

    slot: str  # the end of its path, as a regular expression
    optax: str
    torch: str

    def parameter(self, path: str) -> str | None:
        """The parameter of a slot with this path; None if it is another slot."""
        several = self.slot.replace("/", r"(?:_\d+)?/")  # scale_by_ema_2/mean
        found = re.search(rf"/(?:{several})(?:/(.*))?$", f"/{path}")
        return found and (found[1] or "")


# The readers name some arrays anew: `muon_…` is an average where other momentum is a sum, `damped_…` is SGD's momentum
# with dampening, and `rows` and `columns` are Adafactor's averages, by the axes that they are over.
TABLE = [
    Row("by/factored/rows/running_mean/mean", "rows", "rows"),
    Row("by/factored/columns/running_mean/mean", "columns", "columns"),
    Row("by/factored/whole/running_mean/mean", "v", "variance"),
    Row("by/running_variance/mean", "mu", "grad_avg"),
    Row("by/running_variance/variance", "nu", "square_avg"),  # less the square of the average
    Row("by/running_sum/sum", "sum_of_squares", "sum"),
    Row("by/running_max/max", "nu_max", "max_exp_avg_sq"),
    Row("by/decayed_max/max", "nu", "exp_inf"),
    Row("by/yogi_average/mean", "nu", ""),
    Row("(?:backtracking|zoom)/direction/scale_by_ema/mean", "ema", ""),
    Row("by/scale_by_ema/mean", "nu e_g", "exp_avg_sq square_avg"),
    Row("direction/scale_by_ema/mean", "mu", "exp_avg"),
    Row("nesterov_ema/scale_by_ema/mean", "mu muon_mu", "exp_avg muon_momentum_buffer"),
    Row("blend/inner/scale_by_ema/mean", "mu", "exp_avg"),
    Row("scale_by_ema/mean", "ema", "damped_momentum_buffer muon_momentum_buffer"),
    Row("add_momentum/velocity", "trace muon_mu", "momentum_buffer damped_momentum_buffer muon_momentum_buffer"),
    Row("scale_by_own_rms/mean_square", "e_x", "acc_delta"),
    Row("scale_by_lbfgs/last_params", "params", ""),
    Row("scale_by_lbfgs/last_gradient", "updates", ""),
    Row("scale_by_lbfgs/steps", "diff_params_memory", ""),
    Row("scale_by_lbfgs/changes", "diff_updates_memory", ""),
    Row("evaluated/gradient", "grad", ""),
    Row("accumulate/sum", "acc_grads", ""),
]
# Numbers of a wrapper: the slot, Optax's name.
NUMBERS = {
    "accumulate": {"step": "gradient_step", "count": "mini_step"},
    "apply_if": {},  # conditionally_transform's step is that of the run
    "skip_nonfinite": {"measured/skipped": "total_notfinite", "measured/skipped in a row": "notfinite_count"},
}
# Numbers of a piece, of all parameters together, in the order of the pieces: the slot, Optax's name.
OWN: dict[type, dict[str, str]] = {
    scale_by_lbfgs: {"inverse_curvatures": "weights_memory"},
    LineSearch: {
        "measured/step size": "learning_rate",
        "measured/evaluations": "num_linesearch_steps",
        "evaluated/value": "value",
    },
}


class Leaf(NamedTuple):
    """A leaf of the saved state."""

    path: str
    value: Any


def count(place: str, path: str, value: Any) -> Leaf:
    """A leaf that counts updates. `place` is the function, for errors."""
    if isinstance(value, Tracer):
        raise TypeError(f"{place}: {path!r} is traced: convert the state outside of jax.jit and jax.vmap")
    live(f"{place}: {path!r}", value)
    x = np.asarray(value)
    if x.shape or x.dtype.kind not in "iuf" or not 0 <= x < 2**31:
        got = describe(x) if x.shape or x.dtype.kind not in "iuf" else x
        raise ValueError(
            f"{place}: {path!r}: expected a number of updates, got {got}: convert each member of an ensemble by itself"
        )
    return Leaf(path, x)


class Saved(NamedTuple):
    """The state of one transformation of Optax, or of PyTorch's optimizer."""

    arrays: dict[tuple[str, str], Leaf]  # by name and parameter
    counts: dict[str | None, Leaf]  # the number of updates, of all parameters (None) or of each
    around: tuple[str, ...] = ()  # the paths of the wrappers around it
    has_rate: bool = False  # the learning rate is inside the momentum
    numbers: dict[str, Leaf] = {}  # of all parameters together, by name

    def count_of(self, parameter: str) -> Leaf | None:
        return self.counts.get(None) or self.counts.get(parameter)


class Wrapper(NamedTuple):
    """The state of a wrapper that counts its own updates."""

    path: str
    kind: str  # its name in gradtx
    numbers: dict[str, Leaf]
    around: tuple[str, ...] = ()


class Source(NamedTuple):
    """A saved state of another library, as it was read."""

    library: str
    saved: list[Saved]
    wrappers: list[Wrapper]
    stateless: list[str]  # leaves that hold no state
    unknown: list[str]


class Match(NamedTuple):
    """A slot of a parameter, and the array for it."""

    saved: Saved
    name: str
    parameter: str

    @property
    def leaf(self) -> Leaf:
        return self.saved.arrays[self.name, self.parameter]


class Matching:
    """The slots of an optimizer, the arrays that correspond to them, and the clocks of both."""

    def __init__(self, function: str, tx: Transformation, params: Any, slots: list[str], source: Source) -> None:
        self.function, self.tx, self.source, self.dtype = function, tx, source, working_dtype(params)
        self.pieces = {"/".join(("slots", *names)): piece for names, piece in pieces(tx)}
        order = list(self.pieces)
        ordered = sorted(slots, key=lambda path: order.index(self.place(path)))
        self.matches: dict[str, Match] = {}
        parameters, used = set(leaves_by_path(params)), set()
        for path in ordered:
            for match in self._candidates(path, parameters):
                if match.leaf.path not in used:
                    self.matches[path] = match
                    used.add(match.leaf.path)
                    break
        # Each clock of gradtx, the wrapper that it is of, and the wrapper of the saved state that it corresponds to.
        self.clocks: dict[str, Any] = {"step": None}
        self.clocks |= {f"{place}/step": piece for place, piece in self.pieces.items() if piece.clock}
        self.theirs: dict[str, Wrapper] = {}
        left = list(source.wrappers)
        for clock, piece in self.clocks.items():
            if found := next((w for w in left if w.kind == type(piece).__name__), None):
                self.theirs[clock] = found
                left.remove(found)
        self.unmatched = left
        self._counts: dict[str, Leaf | None] = {}

    def _candidates(self, path: str, parameters: set[str]) -> Iterator[Match]:
        for row in TABLE:
            parameter = row.parameter(path)
            if parameter in parameters:
                names = getattr(row, self.source.library).split()
                for saved in self.source.saved:
                    yield from (Match(saved, n, parameter) for n in names if (n, parameter) in saved.arrays)
                return

    def place(self, path: str) -> str:
        """The path of the slots of the piece that a slot is of."""
        inside = (place for place in self.pieces if f"{path}/".startswith(f"{place}/"))
        return max(inside, key=len, default=next(iter(self.pieces)))

    def piece(self, path: str) -> Transformation:
        """The piece of a slot, also inside a combinator that runs its part several times, as `factored`."""
        outer, (*_, name, _) = self.pieces[self.place(path)], path.split("/")
        return next((part for part in walk(outer) if re.fullmatch(rf"{type(part).__name__}(_\d+)?", name)), outer)

    def near(self, path: str, others: dict[str, Any]) -> list[Any]:
        """The values of the paths that have most names in common with a path, from the left."""

        def common(other: str) -> int:
            same = [a == b for a, b in zip(path.split("/"), other.split("/"))]
            return (*same, False).index(False)

        most = max(map(common, others), default=0)
        return [x for other, x in others.items() if common(other) == most]

    def clock(self, path: str) -> str:
        """The innermost clock of a slot."""
        inside = (c for c in self.clocks if path.startswith(f"{c.removesuffix('step')}inner/"))
        return max(inside, key=len, default="step")

    def around(self, clock: str) -> set[str]:
        """The paths of the wrappers of the saved state that correspond to a clock and to those around it."""
        chosen = (c for c in self.theirs if c == clock or clock.startswith(f"{c.removesuffix('step')}inner/"))
        return {self.theirs[c].path for c in chosen}

    def inside(self, around: tuple[str, ...]) -> set[str]:
        """The wrappers among those around a saved record that correspond to a clock."""
        return {*around} & {w.path for w in self.theirs.values()}

    def count(self, clock: str) -> Leaf | None:
        """The value of a clock of gradtx in the saved state, if it is known."""
        if clock not in self._counts:
            self._counts[clock] = self._count(clock)
        return self._counts[clock]

    def _count(self, clock: str) -> Leaf | None:
        if (theirs := self.theirs.get(clock)) and theirs.kind == "accumulate":
            return theirs.numbers["gradient_step"]
        place, found = self.around(clock), []
        for saved in self.source.saved:  # a schedule's count before that of an average, whose age may be less
            if self.inside(saved.around) == place:
                found += [(len(saved.around), not saved.arrays, int(x.value), x) for x in saved.counts.values()]
        for w in self.unmatched:
            if self.inside(w.around) == place and w.kind == "accumulate":
                leaf = w.numbers["gradient_step"]
                found.append((len(w.around) + 1, True, int(leaf.value), leaf))
        if found:
            return max(found, key=lambda one: one[:3])[-1]
        for c, w in self.theirs.items():  # without one, from that of the wrapper inside
            if self.inside(w.around) == place and c != clock and w.numbers and (leaf := self.count(c)):
                done, piece = int(leaf.value), self.clocks[c]
                before = piece.updates(done) if w.kind == "accumulate" else done
                more = w.numbers["mini_step" if w.kind == "accumulate" else "total_notfinite"]
                return Leaf(leaf.path, before + int(more.value))
        return None

    def ages(self, path: str) -> list[Leaf]:
        """The counts of the averages that a slot `age` belongs to, or of its clock."""
        near = [match.saved.count_of(match.parameter) for match in self.near(path, self.matches)]
        clock = self.count(self.clock(path))
        return [leaf for leaf in near if leaf] or ([clock] if clock else [])

    def owners(self, kind: type) -> list[tuple[str, Saved]]:
        """The places of the pieces of one kind, and the saved records that have their numbers."""
        ours = [place for place, piece in self.pieces.items() if isinstance(piece, kind)]
        theirs = [one for one in self.source.saved if one.numbers.keys() & OWN[kind].values()]
        return list(zip(ours, theirs))

    def numbers(self) -> dict[str, Leaf]:
        """The numbers of the wrappers and pieces that correspond, by their slots."""
        found = {
            f"{clock.removesuffix('step')}{slot}": w.numbers[name]
            for clock, w in self.theirs.items()
            for slot, name in NUMBERS[w.kind].items()
        }
        for kind, names in OWN.items():
            for place, one in self.owners(kind):
                found |= {f"{place}/{slot}": one.numbers[name] for slot, name in names.items() if name in one.numbers}
        return found

    def governing(self, around: tuple[str, ...]) -> str:
        """The clock of gradtx that counts the updates inside these wrappers."""
        place = self.inside(around)
        return next((clock for clock in reversed(self.clocks) if self.around(clock) == place), "step")

    def product(self, path: str) -> Leaf | None:
        """The product of the decays of PyTorch's NAdam, for a slot `mean_log_decay`."""
        if not isinstance(self.piece(path), nesterov_ema):
            return None
        several = (m.saved.arrays.get(("mu_product", m.parameter)) for m in self.near(path, self.matches))
        return next((leaf for leaf in several if leaf), None)

    def held(self, path: str) -> int:
        """The number of gradients in a mean of the saved state that `MultiSteps` keeps; -1 for other leaves."""
        means = (w for w in self.source.wrappers if path.startswith(f"{w.path}acc_grads"))
        return next((int(w.numbers["mini_step"].value) for w in means), -1)

    def reads(self, path: str, slots: list[str]) -> bool:
        """Whether the updates depend on a slot: on a clock with schedules, on an age with averages."""
        if isinstance(self.pieces[self.place(path)], LineSearch):  # the others are handed on, or measured
            return path.endswith("/measured/step size")
        if path in self.clocks:
            return any(isinstance(x, Schedule) for x in jax.tree.leaves(self.tx, is_leaf=_is_schedule))
        if _of_accumulate(path) and path.endswith("/value"):  # of a guard, which needs no loss
            return any("value" in piece.needs for piece in walk(self.piece(path)))
        if _of_accumulate(path):  # what the additions of the sum round off
            return False
        if not path.endswith(("/age", "/mean_log_decay")):
            return True
        holder = path.rsplit("/", 2)[0]  # a group without parameters has ages alone
        return any(x.startswith(f"{holder}/") and not x.endswith(("/age", "/mean_log_decay")) for x in slots)

    def factor(self, path: str, clock: int, held: int = 0) -> float:
        """The factor from the saved array to the slot; `held` is the number of gradients in `acc_grads`."""
        match, piece = self.matches[path], self.piece(path)
        if isinstance(piece, accumulate):  # MultiSteps keeps the mean so far
            return held if piece.mean else 1
        if not isinstance(piece, add_momentum):
            return 1
        if match.name.startswith("muon_"):  # an average, of which add_momentum keeps the sum
            return 1 / (1 - float(at_work(piece, clock, self.dtype).decay))
        if match.saved.has_rate and (rate := self._rate_after(piece)):
            value = rate.learning_rate
            if isinstance(value, Schedule) or float(value) == 0:
                raise ValueError(
                    f"{self.function}: {match.leaf.path!r} for {path!r}: expected a constant learning rate above 0, "
                    f"got {value!r}: Optax's rmsprop has the rate inside its momentum: put scale_by_learning_rate "
                    "before add_momentum in the chain"
                )
            return -1 / float(value)
        return 1

    def _rate_after(self, piece: Transformation) -> Any:
        """The learning rate that multiplies the momentum in the chain of `rmsprop`; None in other chains."""
        for links in (part.links for part in walk(self.tx) if isinstance(part, chain)):
            for before, link, *after in (links[i:] for i in range(len(links) - 1)):
                if link is piece and isinstance(before, precondition):
                    return next((x for x in after if isinstance(x, scale_by_learning_rate)), None)
        return None


def _of_accumulate(path: str) -> bool:
    """Whether a slot is one of `accumulate` that `MultiSteps` lacks: the sum of the losses, or what the sum lost."""
    return path.endswith("accumulate/value") or "/accumulate/lost/" in f"{path}/"


def _is_schedule(x: Any) -> bool:
    return isinstance(x, Schedule)


def converted(
    function: str, tx: Transformation, params: Any, source: Source, strict: bool, step: int | None = None, fix: str = ""
) -> tuple[State, Restored]:
    """The state of `tx` that has the values of the saved state, and a report."""
    state = tx.init(params)
    new, structure = leaves_by_path(state), jax.tree.structure(state)
    matching, kept = Matching(function, tx, params, list(new), source), {}

    def put(path: str, leaf: Leaf, value: Any) -> None:
        kept[path], new[path] = leaf.path, _placed(f"{function}: {leaf.path!r} for {path!r}", value, new[path], fix)

    numbers = matching.numbers()
    for path in new:
        if match := matching.matches.get(path):
            at = matching.count(matching.clock(path))
            value = widen(match.leaf.value)
            factor = matching.factor(path, int(at.value) if at else 0, matching.held(match.leaf.path))
            if (mean := _mean_of(path)) in matching.matches:
                value = value - widen(matching.matches[mean].leaf.value) ** 2
            put(path, match.leaf, value if factor == 1 else value * factor)
        elif path == "step" and step is not None:
            put(path, Leaf("step", step), step)
        elif path in matching.clocks and (at := matching.count(path)):
            put(path, at, at.value)
        elif path in numbers:
            value = numbers[path].value
            if path.endswith("/evaluated/value"):  # Optax's is infinite before the first update
                value = np.minimum(value, np.finfo(new[path].dtype).max)
            put(path, numbers[path], value)
        elif path.endswith("/age") and describe(new[path]) == "int32[]" and (ages := matching.ages(path)):
            if strict and len({int(leaf.value) for leaf in ages}) > 1:
                some = ", ".join(f"{leaf.path!r}: {int(leaf.value)}" for leaf in ages[:6])
                raise ValueError(
                    f"{function}: {path!r}: expected one number of updates for all its parameters, got {some}: give "
                    "the parameters that are younger to another group of partition, or pass strict=False to take the "
                    "largest number"
                )
            leaf = max(ages, key=lambda leaf: int(leaf.value))
            put(path, leaf, leaf.value)
    for place, one in matching.owners(scale_by_lbfgs):
        (counted,), weights = one.counts.values(), one.numbers["weights_memory"]
        memory = new[f"{place}/inverse_curvatures"]
        newest = (int(counted.value) - 2) % len(memory)
        changes = (x[newest] for path, x in new.items() if path.startswith(f"{place}/changes"))
        scale = safe_divide(jnp.ones(()), memory[newest] * sum((jnp.sum(y * y) for y in changes), jnp.zeros(())))
        put(f"{place}/next", counted, np.asarray(max(int(counted.value) - 1, 0) % len(memory)))
        put(f"{place}/scale", weights, jnp.where(memory[newest] > 0, scale, 0))
    for path in new:  # after the ages
        if path.endswith("/mean_log_decay") and (age := f"{path.removesuffix('mean_log_decay')}age") in kept:
            product, piece = matching.product(path), matching.piece(path)
            if product:
                put(path, product, np.log(np.asarray(product.value, np.float64)) / max(int(new[age]), 1))
            else:
                at = new[matching.clock(path)]
                put(path, Leaf(kept[age], None), _log_decay(piece, new[age], at, matching.dtype))

    used = {*kept.values()}
    counts = {leaf.path: int(leaf.value) for one in source.saved for leaf in one.counts.values()}
    values = {n for path, n in counts.items() if path in used}
    left = [path for path, n in counts.items() if values and n not in values]  # the others say the same
    stateless = list(source.stateless)
    for one in source.saved:
        names = {name for (name, _), leaf in one.arrays.items() if leaf.path in used}
        for (name, _), leaf in one.arrays.items():
            if leaf.path not in used and not (name == "mu_product" and name in names):  # it is the same for all
                (stateless if matching.held(leaf.path) == 0 else left).append(leaf.path)
    several = [x.numbers for x in (*source.wrappers, *source.saved)]
    stateless += [leaf.path for numbers in several for leaf in numbers.values() if leaf.path not in used]
    left += source.unknown
    fresh = [path for path in new if path not in kept]
    kept = {path: kept[path] for path in new if path in kept}
    report = Restored(kept, fresh, [*left, *stateless], list(leaves_by_path(params)), {})
    _check(function, report, [path for path in fresh if matching.reads(path, list(new))], left, strict)
    return structure.unflatten(new.values()), report


def back(
    function: str, tx: Transformation, params: Any, state: State, template: Any, source: Source, strict: bool
) -> tuple[Any, Restored]:
    """The state of the other library with the structure of `template` and the values of `state`, and a report."""
    new, structure = leaves_by_path(template), jax.tree.structure(template)
    ours = leaves_by_path(state)
    matching, kept = Matching(function, tx, params, list(ours), source), {}
    ages = [path for path in ours if path.endswith("/age") and path not in matching.matches]

    def put(leaf: Leaf, path: str, value: Any) -> None:
        place = f"{function}: {path!r} for {leaf.path!r}"
        kept[leaf.path], new[leaf.path] = path, _placed(place, value, new[leaf.path])

    for clock in matching.clocks:
        count(function, clock, ours[clock])
    for one in source.saved:
        averages = [path for path, match in matching.matches.items() if match.saved is one]
        age = _age_of(averages[0], ages) if averages else None
        for leaf in one.counts.values():
            path = age or matching.governing(one.around)
            put(leaf, path, ours[path])
    numbers = matching.numbers()
    for place, _ in matching.owners(scale_by_lbfgs):  # Optax writes a pair at each update, where its count says
        ours |= _rolled(place, ours)
    for path, leaf in numbers.items():
        value = ours[path]
        unknown = path.endswith("/evaluated/value") and value >= jnp.finfo(value.dtype).max
        put(leaf, path, jnp.where(unknown, jnp.inf, value) if path.endswith("/evaluated/value") else value)
        if path.endswith("skipped in a row"):
            finite = Leaf(leaf.path.replace("notfinite_count", "last_finite"), None)
            put(finite, path, ours[path] == 0)
    for w in matching.unmatched:
        if w.kind == "accumulate":
            path = matching.governing(w.around)
            put(w.numbers["gradient_step"], path, ours[path])
    for path, match in matching.matches.items():
        clock, value = int(ours[matching.clock(path)]), ours[path]
        held = ours.get(f"{matching.place(path)}/count", 0)
        factor = matching.factor(path, clock, int(held))
        if (mean := _mean_of(path)) in ours:
            value = value + ours[mean] ** 2
        value = value if factor == 1 else value / factor if factor else jnp.zeros_like(value)
        if jnp.iscomplexobj(new[match.leaf.path]):
            value = jax.lax.complex(value[..., 0], value[..., 1])
        put(match.leaf, path, value)

    used = {*kept.values(), *ages, *matching.clocks}
    used |= {f"{place}/{name}" for place, _ in matching.owners(scale_by_lbfgs) for name in ("next", "scale")}
    left = [path for path in ours if path not in used and not path.endswith("/mean_log_decay")]
    left = [path for path in left if not _is_derived(path, matching) or matching.reads(path, left)]
    fresh = [path for path in new if path not in kept]
    several = [x.numbers for x in (*source.wrappers, *source.saved)]
    stateless = {*source.stateless, *(leaf.path for numbers in several for leaf in numbers.values())}
    needed = [path for path in fresh if path not in stateless and matching.held(path) < 0]
    kept = {path: kept[path] for path in new if path in kept}
    report = Restored(kept, fresh, left, list(leaves_by_path(params)), {})
    _check(function, report, needed, left, strict)
    return structure.unflatten(new.values()), report


def _is_derived(path: str, matching: Matching) -> bool:
    """Whether the other library lacks a slot, which its state determines or which no update depends on."""
    piece = matching.pieces[matching.place(path)]
    return _of_accumulate(path) or isinstance(piece, LineSearch)


def _rolled(place: str, ours: dict[str, Any]) -> dict[str, Any]:
    """The pairs of `scale_by_lbfgs` with the next one at age − 1, where Optax would write it."""
    memory = len(ours[f"{place}/inverse_curvatures"])
    shift = (jnp.maximum(ours[f"{place}/age"] - 1, 0) - ours[f"{place}/next"]) % memory
    stacked = ("steps", "changes", "inverse_curvatures")
    return {p: jnp.roll(x, shift, 0) for p, x in ours.items() if p.startswith(tuple(f"{place}/{s}" for s in stacked))}


def _mean_of(path: str) -> str:
    """The slot of the average that belongs to a slot of `running_variance`; else an empty string."""
    found = re.fullmatch(r"(.*/running_variance(?:_\d+)?)/variance((?:/.*)?)", path)
    return f"{found[1]}/mean{found[2]}" if found else ""


def _age_of(path: str, ages: list[str]) -> str | None:
    """The age of an average: of its piece, or of a piece of the same chain."""
    holders = {age: age.rsplit("/", 2)[0] for age in ages}
    return max(
        (age for age in ages if path.startswith(f"{holders[age]}/")), key=lambda x: len(holders[x]), default=None
    )


def _log_decay(piece: Transformation, age: Any, at: Any, dtype: Any) -> jax.Array:
    """The mean of log b over as many updates as `age`, up to the step `at`: as the piece itself computes it."""
    zero, first = jnp.zeros((), dtype), jnp.maximum(at - age, 0)

    def update(i: Any, slots: Any) -> Any:
        return updated(at_work(piece, first + i, dtype), zero, slots, Context(first + i + 1, None, {}))[1]

    return jax.lax.fori_loop(0, age, update, own_slots(piece, zero))["mean_log_decay"]


def _placed(place: str, value: Any, like: Any, fix: str = "") -> jax.Array:
    """The value in the dtype and on the devices of `like`. Raises `ValueError` if it has another shape."""
    live(place, value)
    x = value if isinstance(value, jax.Array) else np.asarray(value)
    if x.shape != like.shape:
        raise ValueError(f"{place}: expected {describe(like)}, got {describe(x)}{fix}")
    return placed(place, x.astype(like.dtype), like)


def _check(function: str, report: Restored, needed: list[str], left: list[str], strict: bool) -> None:
    """With `strict`, raise for leaves without a value and for values without a leaf."""
    if not strict or not (needed or left):
        return
    needed = sorted(needed, key=lambda path: path.endswith(("/age", "/mean_log_decay")))
    expected = f"expected a value for {_listed(needed)}" if needed else "expected only values that have a slot"
    got = f"got {_listed(left)}" if left else "got none"
    fix = "Pass the optimizer that the state is of, or strict=False to keep the slots that fit and drop the rest"
    if "step" in needed:
        how = "step=…" if function == "from_torch" else "state._replace(step=…) afterwards"
        fix += f". The saved state has no count: {how} sets the number of updates"
    raise ValueError(f"{function}: the saved state does not fit this optimizer: {expected}, {got}:\n{report}\n{fix}")


def _listed(paths: list[str], most: int = 3) -> str:
    return ", ".join([*map(repr, paths[:most]), *(["…"] if len(paths) > most else [])])
