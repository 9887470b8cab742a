"""The command line: `gradtx race`, `gradtx list`, `gradtx show adam`, `gradtx table`."""

import argparse
import csv
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from gradtx.lab import ENTRIES, PROBLEMS, Result, check_options, race

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
        "--optimizers", metavar="adam,sgd,…", help=f"the optimizers (default: all of {', '.join(ENTRIES)})"
    )
    command.add_argument("--epochs", type=int, help="passes over the examples (default: of the problem)")
    command.add_argument("--batch-size", type=batch_size, help="examples in a step: all or a number")
    command.add_argument("--learning-rate", type=float, help="for every optimizer (default: of each)")
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


def _pick(names: Iterable[str], known: Mapping[str, Value]) -> dict[str, Value]:
    """Return the entries of the names; raise `ValueError` with a suggestion for an unknown name."""
    for name in names:
        if name not in known:
            close = get_close_matches(name, known)
            hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
            raise ValueError(f"unknown optimizer {name!r}; {hint}")
    return {name: known[name] for name in names}


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
    recipe = _pick([options.recipe], RECIPES)[options.recipe]
    takes_inner = "inner" in signature(recipe).parameters
    tx = recipe(optimizers.sgd()) if takes_inner else recipe()
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

    entries = ENTRIES if options.optimizers is None else _pick(options.optimizers.split(","), ENTRIES)
    problem = PROBLEMS[options.problem]()
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
            progress=lambda optimizer, fraction: bar.update(task, description=optimizer, completed=fraction),
        )
    # A terminal uses its own width; a file or a pipe gets lines that fit the table.
    Console(width=None if sys.stdout.isatty() else 100).print(_table(results))
    _write(results, options.out / "race.csv")
    in_order = sorted(results, key=lambda r: list(entries).index(r.optimizer))  # colours do not depend on the ranking
    groups = {r.family: {q.optimizer: q.losses for q in in_order if q.family == r.family} for r in in_order}
    labels = {r.optimizer: f"{r.optimizer}  {_loss(r)}" for r in in_order}
    title = f"{options.problem}: training loss, with the final loss by each name"
    panels(groups, points=40, labels=labels, title=title)[0].figure.savefig(options.out / "race.png")
    print(options.out / "race.png")


def _loss(result: Result) -> str:
    return f"{result.final_loss:.2g}" if math.isfinite(result.final_loss) else "diverged"


COLUMNS: dict[str, Callable[[Result], str]] = {
    "optimizer": lambda r: r.optimizer,
    "learning rate": lambda r: f"{r.learning_rate:g}",
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
        table.add_column(header, justify="left" if header == "optimizer" else "right", no_wrap=header == "optimizer")
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
