"""The command line: `gradtx race`, `gradtx list`, `gradtx show adam`, `gradtx table`."""

import argparse
import csv
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from inspect import getdoc, isclass, signature
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, cast, get_type_hints

import jax
import jax.numpy as jnp

from gradtx import __version__, optimizers, wrappers
from gradtx.core import Transformation, leaves_by_path
from gradtx.inspect import periodic_table
from gradtx.inspect.tables import aligned
from gradtx.lab import ENTRIES, PROBLEMS, Entry, Problem, Result, check_options, race
from gradtx.serialization import read

if TYPE_CHECKING:
    from rich.table import Table

Value = TypeVar("Value")


def _recipes() -> Iterator[tuple[str, Callable[..., Transformation]]]:
    """Yield the named optimizers, and the wrappers that require only the inner optimizer."""
    for name in (*optimizers.__all__, *wrappers.__all__):
        made: Any = getattr(optimizers, name, None) or getattr(wrappers, name)
        required = [
            x.name
            for x in signature(made).parameters.values()
            if x.default is x.empty and x.kind is not x.VAR_POSITIONAL
        ]
        if (isclass(made) or get_type_hints(made).get("return") is Transformation) and required in ([], ["inner"]):
            yield name, cast(Callable[..., Transformation], made)


RECIPES = dict(_recipes())
FACTORS = (0.1, 0.3, 1, 3, 10, 30, 100)
"""The learning rates that a race tries, by the default of the recipe: small problems need larger rates than papers."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command. Bad options end it with one line on standard error and exit code 2."""
    parser = _Parser(prog="gradtx", description="Composable gradient transformations for JAX.")
    parser.add_argument("--version", action="version", version=f"gradtx {__version__}, jax {jax.__version__}")
    commands = parser.add_subparsers(required=True, metavar="race | list | show | table")

    command = commands.add_parser(
        "race", help="train a problem with every optimizer; print a table and save a picture", allow_abbrev=False
    )
    command.set_defaults(run=_race)
    command.add_argument("--problem", choices=PROBLEMS, default="digits", help="the problem to train (default: digits)")
    command.add_argument(
        "--optimizers",
        metavar="adam,muon,…",
        help="names that `gradtx list` shows, or expressions of their pieces such as 'chain(clip(1.0), adamw(0.01))', "
        "separated by commas (default: of the problem, or of the textbook). A name without a learning rate for the "
        f"problem trains with {len(FACTORS)} rates and reports the best",
    )
    command.add_argument("--epochs", type=int, help="passes over the examples (default: of the problem)")
    command.add_argument("--batch-size", type=batch_size, help="examples in a step: all or a number")
    command.add_argument("--learning-rate", type=float, help="for every optimizer given by its name (default: of each)")
    command.add_argument("--seed", type=int, default=0, help="of the initial parameters and the order of the data")
    command.add_argument("--out", type=Path, default=Path("out"), help="folder of race.png and race.csv (default: out)")

    command = commands.add_parser("list", help="the recipes, with their formulas")
    command.set_defaults(run=_list)

    command = commands.add_parser("show", help="the composition and the state of a recipe")
    command.set_defaults(run=_show)
    command.add_argument("recipe")

    command = commands.add_parser("table", help="every direction with every preconditioner, and the named optimizers")
    command.set_defaults(run=lambda options: print(periodic_table()))

    options = parser.parse_args(argv)
    try:
        options.run(options)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("matplotlib", "rich", "sklearn"):
            raise
        parser.error(f'{package} is missing; pip install "gradtx[race]"')
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the remaining output is flushed at exit
    except OSError as error:
        parser.error(f"{error.strerror}: {error.filename}" if error.filename else str(error))
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        parser.exit(130, "gradtx: interrupted\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def batch_size(text: str) -> int | Literal["all"]:
    """Parse a batch size."""
    return "all" if text == "all" else int(text)


def _pick(name: str, known: Mapping[str, Value]) -> Value:
    """Return the entry of a name; raise `ValueError` with a suggestion if it is unknown."""
    if name in known:
        return known[name]
    close = get_close_matches(name.lower().replace("-", "_"), known)
    hint = f"did you mean {' or '.join(close)}?" if close else "`gradtx list` shows the names"
    raise ValueError(f"unknown optimizer {name!r}; {hint}")


def _split(text: str) -> list[str]:
    """Split at the commas and semicolons outside brackets and quotes.

    >>> _split("chain(clip(1.0), adam(0.1)), muon")
    ['chain(clip(1.0), adam(0.1))', 'muon']
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if letter in "\"'":
            quote = "" if letter == quote else quote or letter
        elif not quote:
            depth += (letter in "([{") - (letter in ")]}")
        if letter in ",;" and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _entries(text: str, problem: Problem) -> dict[str, Entry | Transformation]:
    """Return the participants that `--optimizers` names or writes out."""
    known = {name: _entry(name, recipe) for name, recipe in RECIPES.items()} | ENTRIES | dict(problem.entries or {})
    entries = {}
    for part in _split(text):
        if "(" not in part:
            entries[part] = _pick(part, known)
            if entries[part] is None:
                raise ValueError(f"{part} wraps another optimizer: write {part}(adam(0.01))")
            continue
        try:
            entries[part] = read(part)
        except ValueError as error:
            how = r"read: (this is not how a transformation prints: )?|: pass other names in names=.*| \(<unknown>.*"
            why = re.sub(how, "", str(error))
            raise ValueError(f"cannot read the optimizer {part!r}: {why}") from None
        if not isinstance(entries[part], Transformation):
            raise ValueError(f"{part!r} is a schedule, not an optimizer: write adam({part})")
    return entries


def _entry(name: str, recipe: Callable[..., Transformation]) -> Entry | Transformation | None:
    """Return the participant of a recipe, with several learning rates if it takes one; None for a wrapper."""
    parameters = signature(recipe).parameters
    if "inner" in parameters:
        return None
    rate = parameters["learning_rate"].default if "learning_rate" in parameters else None
    if not isinstance(rate, (int, float)):
        return recipe()
    return Entry(recipe, [float(f"{rate * factor:.3g}") for factor in FACTORS], _family(recipe))


def _list(options: argparse.Namespace) -> None:
    rows = [(name, _family(recipe), _paper(recipe), _formula(recipe)) for name, recipe in RECIPES.items()]
    print(aligned([("recipe", "family", "paper", "formula"), *sorted(rows, key=itemgetter(1, 0))], left=4))


def _formula(recipe: Callable[..., Transformation]) -> str:
    """Return the formula of a recipe, its docstring's second paragraph; its first line if there is none or in LaTeX."""
    first, _, rest = (getdoc(recipe) or "").partition("\n\n")
    line = rest.partition("\n")[0]
    return " ".join((first if not line or line.startswith("$$") else line).split())


def _family(recipe: Callable[..., Transformation]) -> str:
    return recipe.__module__.rpartition(".")[2]


def _paper(recipe: Callable[..., Transformation]) -> str:
    """Return the authors, the year and the arXiv number of a recipe's first source."""
    source = " ".join((getdoc(recipe) or "").partition("Source: ")[2].split())
    who = re.match(r"\D*\d{4}", source)
    number = re.match(r"\D*\d{4}[^;]*?arXiv (\d{4}\.\d{4,5})", source)
    return ", ".join([*([who[0]] if who else []), *([number[1]] if number else [])])


def _show(options: argparse.Namespace) -> None:
    recipe = _pick(options.recipe, RECIPES)
    takes = signature(recipe).parameters
    named = {"where": "w"} if "where" in takes and isinstance(takes["where"].default, str) else {}  # a pattern
    tx = recipe(*[optimizers.sgd()] * ("inner" in takes), **named)
    slots = leaves_by_path(tx.init({"w": jnp.zeros((3, 4))}))
    bytes_of = [sum(x.nbytes for x in slots.values() if bool(x.shape) == array) for array in (True, False)]
    print(f"{_formula(recipe)}\n\n{tx!r}\n\nIts state for one parameter, w: float32[3,4]")
    for path, x in slots.items():
        print(f"  {path}: {x.dtype}[{','.join(map(str, x.shape))}]")
    print(f"{bytes_of[0] / 12:g} bytes per parameter, plus {bytes_of[1]} bytes")


def _race(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from gradtx.plots import panels
    from gradtx.plots.curves import smooth

    problem = PROBLEMS[options.problem]()
    entries = problem.entries or ENTRIES if options.optimizers is None else _entries(options.optimizers, problem)
    how = {name: getattr(options, name) for name in ("epochs", "batch_size", "learning_rate", "seed")}
    check_options(problem, **how)
    options.out.mkdir(parents=True, exist_ok=True)
    columns = TextColumn("{task.description:20}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0)
        results = race(
            problem,
            entries,
            **how,
            progress=lambda name, fraction: bar.update(task, description=_short(name), completed=fraction),
        )
    # A terminal uses its own width; a file or a pipe gets lines that fit the table.
    Console(width=None if sys.stdout.isatty() else 140).print(_table(results))
    for line in _tried(results, entries, options.learning_rate):
        print(line)
    _write(results, options.out / "race.csv")
    in_order = sorted(results, key=lambda r: list(entries).index(r.optimizer))  # colours do not depend on the ranking
    steps, groups = {}, {}
    for r in in_order:
        steps[r.optimizer], losses = smooth(r.losses)
        losses[-1] = r.final_loss  # the line ends where its label says
        groups.setdefault(r.family if len(results) > 8 else "", {})[r.optimizer] = losses
    axes = panels(
        groups,
        steps,
        labels={r.optimizer: f"{_short(r.optimizer)}  {_loss(r)}" for r in in_order},
        title=f"{options.problem}: training loss, ending with the loss over all examples",
        xlabel="step",
    )
    axes[0].figure.savefig(options.out / "race.png")
    print(options.out / "race.png")


def _tried(results: Sequence[Result], entries: Mapping[str, Any], given: float | None) -> Iterator[str]:
    """Report the learning rates of each optimizer that trained with several."""
    for result in results:
        rates = getattr(entries[result.optimizer], "learning_rate", None)
        if given is None and isinstance(rates, Sequence):
            edge = "; the best is at the edge" if result.learning_rate in (min(rates), max(rates)) else ""
            best = f"the best of {len(rates)} from {min(rates):g} to {max(rates):g}{edge}"
            yield f"learning rate of {result.optimizer}: {result.learning_rate:g}, {best}"


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _loss(result: Result) -> str:
    return f"{result.final_loss:.3g}" if math.isfinite(result.final_loss) else "diverged"


COLUMNS: dict[str, Callable[[Result], str]] = {
    "optimizer": lambda r: r.optimizer,
    "learning rate": lambda r: "–" if math.isnan(r.learning_rate) else f"{r.learning_rate:g}",
    "batch size": lambda r: str(r.batch_size),
    "steps": lambda r: str(r.steps),
    "final loss": _loss,
    "test accuracy": lambda r: "–" if math.isnan(r.test_accuracy) else f"{r.test_accuracy:.1%}",
    "ms per step": lambda r: f"{r.ms_per_step:.3f}",
    "state bytes per parameter": lambda r: f"{r.state_bytes_per_parameter:.2f}",
}


def _table(results: Sequence[Result]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in COLUMNS:
        if header == "optimizer":  # on one line, except long expressions
            table.add_column(header, min_width=min(24, max(len(r.optimizer) for r in results)), overflow="fold")
        else:
            table.add_column(header, justify="right")
    for result in results:
        table.add_row(*(cell(result) for cell in COLUMNS.values()))
    return table


def _write(results: Sequence[Result], path: Path) -> None:
    """Write the table in full precision, with a column for each field of `Result`."""
    fields = [field for field in Result._fields if field != "losses"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(fields)
        writer.writerows([getattr(result, field) for field in fields] for result in results)


if __name__ == "__main__":
    main()
