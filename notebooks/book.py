"""The hook of MkDocs that generates the book's pages: chapters of the notebooks, optimizers, reference.

The reference is not written by mkdocstrings: gradtx's docstrings have formulas in plain Unicode, which Markdown would
take for emphasis, and read statically `gradtx.adam` is the module of this name, not the function.
"""

import ast
import base64
import contextlib
import hashlib
import html
import inspect
import io
import json
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # the pictures mostly wait for compilation
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

import jax
import jax.numpy as jnp
import losses
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

import gradtx as gx
from gradtx import distributed, lab, optimizers, plots, projections, schedules, training
from gradtx import inspect as inspection
from gradtx.core import walk
from gradtx.lab.surfaces import _EXTRA, _descend
from gradtx.plots.paths import ground

plt.switch_backend("agg")
jax.config.update("jax_compilation_cache_dir", str(ROOT / "out" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# ---------------------------------------------------------------- what is public, and where its page is
OPTIMIZERS = list(optimizers.__all__)
TRAINING = ["Sweep", "fit", "fit_seeds", "grid", "stack", "sweep", "train_step", "check_gradient", "log_jsonl"]
TRAINING += ["log_tensorboard", "log_wandb", "minimize", "numeric_gradient", "random_search"]
TRAINING += ["incremental_update", "periodic_update", "private_gradient"]
SAVING = [*gx.serialization.__all__, "as_optax", "from_optax", "from_torch", "to_optax"]
PROTOCOL = ["Transformation", "PerLeaf", "Schedule", "State", "Context", "Scalar", "Decay", "NonNegative", "Positive"]
PROTOCOL += ["apply_updates", "of_step", "pair", "is_linear", "is_matrix"]
# Page: (title, prefix, module, names).
REFERENCE: dict[str, tuple[str, str, Any, list[str]]] = {
    "protocol": ("Protocol", "gx", gx, PROTOCOL),
    "pieces": ("Pieces", "gx", gx, list(gx.pieces.__all__)),
    "combinators": ("Combinators", "gx", gx, list(gx.combinators.__all__)),
    "wrappers": ("Wrappers", "gx", gx, list(gx.wrappers.__all__)),
    "devices": ("Several devices", "gx", gx, list(distributed.__all__)),
    "schedules": ("Schedules", "gx.schedules", schedules, list(schedules.__all__)),
    "projections": ("Projections", "gx.projections", projections, list(projections.__all__)),
    "inspection": ("Inspection", "gx", gx, list(inspection.__all__)),
    "saving": ("Saving, Optax and PyTorch", "gx", gx, SAVING),
    "training": ("Training", "gx", gx, TRAINING),
    "results": ("Results of training", "gx.training", training, [n for n in training.__all__ if n not in gx.__all__]),
    "lab": ("Problems and races", "gx.lab", lab, list(lab.__all__)),
    "plots": ("Pictures", "gx.plots", plots, list(plots.__all__)),
}
PAGES = {f"gx.{name}": f"optimizers/{name}.md" for name in OPTIMIZERS}
PAGES |= {
    f"{prefix}.{name}": f"reference/{page}.md#{prefix}.{name}"
    for page, (_, prefix, _, names) in REFERENCE.items()
    for name in names
}
SOURCES: dict[str, str] = {}  # of generated pages, from the root: for their edit links


# ---------------------------------------------------------------- docstrings as Markdown
def escape(text: str) -> str:
    """Escape what Markdown would read in a docstring, except for code and mathematics."""
    parts = re.split(r"(`[^`]*`|\$\$.*?\$\$|\$[^$\s][^$]*\$)", text, flags=re.DOTALL)
    return "".join(x if i % 2 else re.sub(r"([*_<>|\[\]#~^])", r"\\\1", x) for i, x in enumerate(parts))


def linked(text: str, page: str, own: set[str]) -> str:
    """Make links of the names of gradtx in code, except for a function's own name and arguments."""

    def link(match: re.Match[str]) -> str:
        name = match[1].removeprefix("gx.").removeprefix("gradtx.")
        place = PAGES.get(f"gx.{name}") if name not in own else None
        return f"[{match[0]}]({os.path.relpath(place, Path(page).parent)})" if place else match[0]

    return re.sub(r"(?<!\[)`([\w.]+)(?:\([^`]*\))?`", link, text)


class Doc:
    """The parts of a docstring: paragraphs, `Args:`, `Returns:`, `Raises:` and examples."""

    def __init__(self, thing: Any) -> None:
        text = inspect.getdoc(thing) or ""
        text, mark, example = text.partition(">>> ")
        self.example = f"{mark}{example}".rstrip()
        pattern = r"^(Args|Returns|Yields|Raises|Attributes):\n((?:  .*\n|\n)*)"
        self.sections = {m[1]: m[2] for m in re.finditer(pattern, text + "\n", re.M)}
        text = re.sub(pattern, "", text + "\n", flags=re.M)
        self.first, *self.paragraphs = [x.strip("\n") for x in re.split(r"\n\s*\n", text.strip()) if x.strip()]

    def entries(self, section: str) -> dict[str, str]:
        found: dict[str, str] = {}
        name = ""
        for line in self.sections.get(section, "").splitlines():
            if start := re.match(r"  (\*{0,2}[\w.]+(?:, \*{0,2}\w+)*): (.*)", line):
                name = start[1]
                found[name] = start[2]
            elif name and line.strip():
                found[name] += " " + line.strip()
        return found


def signature(name: str, thing: Any) -> str:
    """The call with its defaults, wrapped by argument."""
    try:
        parameters = [p for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "links")]
    except (TypeError, ValueError):
        return name
    shown, star = [], False
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and not star:
            shown.append("*")
        star |= p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        mark = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        shown.append(f"{mark}{p.name}" + ("" if p.default is p.empty else f"={default(p.default)}"))
    line = f"{name}({', '.join(shown)})"
    return line if len(line) <= 88 else f"{name}(\n    " + ",\n    ".join(shown) + ",\n)"


def default(value: Any) -> str:
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    return re.sub(r" at 0x\w+", "", repr(value))


def arguments(thing: Any, doc: Doc, page: str, own: set[str]) -> str:
    """The table of arguments, from `Args:` and the signature."""
    entries = doc.entries("Args")
    if not entries:
        return ""
    parameters = inspect.signature(thing).parameters
    rows = ["| argument | default | meaning |", "|---|---|---|"]
    for names, text in entries.items():
        ps = [parameters.get(name) for name in names.replace("*", "").split(", ")]
        of = [f"`{default(p.default)}`" for p in ps if p and p.default is not p.empty]
        shown = ", ".join(f"`{name}`" for name in names.split(", "))
        rows.append(f"| {shown} | {', '.join(dict.fromkeys(of))} | {linked(escape(text), page, own)} |")
    return "\n".join(rows)


def body(thing: Any, doc: Doc, page: str, own: set[str]) -> Iterator[str]:
    """The paragraphs after the first, arguments, errors and the example."""
    for paragraph in doc.paragraphs:
        if "$$" in paragraph:
            yield textwrap.dedent(paragraph)
        elif re.search(r"[←√]|^\S+ = |Δ", paragraph) and not re.search(r"[a-z]{3,}\. |`", paragraph):
            yield f'<p class="formula">{"<br>".join(html.escape(x.strip()) for x in paragraph.splitlines())}</p>'
        elif re.match(r"\s*- |    ", paragraph):
            yield linked(paragraph if paragraph.startswith("    ") else escape(paragraph), page, own)
        else:
            source = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", escape(paragraph))
            yield linked(source, page, own)
    if table := arguments(thing, doc, page, own):
        yield table
    if text := doc.sections.get("Returns"):
        yield "**Returns:** " + linked(escape(" ".join(text.split())), page, own)
    if raised := doc.entries("Raises"):
        yield "**Raises:**"
        yield "\n".join(f"- `{name}`: {linked(escape(text), page, own)}" for name, text in raised.items())
    if doc.example:
        yield f"```pycon\n{doc.example}\n```"


def own_names(name: str, thing: Any) -> set[str]:
    try:
        return {name, *inspect.signature(thing).parameters}
    except (TypeError, ValueError):
        return {name}


# ---------------------------------------------------------------- reference
def reference(page: str) -> str:
    title, prefix, module, names = REFERENCE[page]
    path = f"reference/{page}.md"
    parts = [f"# {title}"]
    for name in names:
        thing = getattr(module, name)
        parts.append(f"## `{prefix}.{name}` {{ #{prefix}.{name} data-toc-label='{name}' }}")
        if not (inspect.isroutine(thing) or inspect.isclass(thing)):
            parts.append(constant(name, thing))
            continue
        doc, own = Doc(thing), own_names(name, thing)
        if doc.sections.get("Args"):
            parts.append(f"```{{.python .signature}}\n{signature(f'{prefix}.{name}', thing)}\n```")
        parts.append(linked(escape(doc.first), path, own))
        parts += body(thing, doc, path, own)
        if inspect.isclass(thing) and page in ("protocol", "training", "results", "lab"):
            parts += fields(thing, path, own)
        if page == "schedules" and (curve := CURVES.get(name)):
            parts.append(f"![{curve}](img/{name}.svg)")
    return "\n\n".join(parts)


def constant(name: str, thing: Any) -> str:
    kinds = {"Scalar": "any number", "Decay": "in [0, 1)", "NonNegative": "0 or more", "Positive": "above 0"}
    if name in kinds:
        return f"Annotates a hyperparameter, {kinds[name]}: a number, an array of shape () or a schedule."
    return "A dict with the keys " + ", ".join(f"`{key}`" for key in thing) + "." if isinstance(thing, dict) else ""


def fields(thing: type, page: str, own: set[str]) -> Iterator[str]:
    """The documented public methods of a class that it defines itself."""
    for name, member in vars(thing).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_") or not inspect.isfunction(function) or not inspect.getdoc(function):
            continue
        doc = Doc(function)
        yield f"**`{signature(name, function)}`**"
        yield linked(escape(doc.first), page, own)
        yield from body(function, doc, page, own)


# ---------------------------------------------------------------- schedules
CURVES = {
    "constant": schedules.constant(1.0),
    "cosine": schedules.cosine(1.0, steps=90),
    "cosine_restarts": schedules.cosine_restarts(1.0, steps=15, growth=2),
    "cycle": schedules.cycle(schedules.linear(1.0, 0.0, steps=25), steps=25),
    "cyclic": schedules.cyclic(0.1, 1.0, rise=15),
    "exponential": schedules.exponential(1.0, 0.5, steps=20),
    "inverse_sqrt": schedules.inverse_sqrt(1.0, warmup=10),
    "inverse_time": schedules.inverse_time(1.0, 1.0, steps=20),
    "join": schedules.join((schedules.linear(0.0, 1.0, 10), schedules.cosine(1.0, 80)), boundaries=(10,)),
    "linear": schedules.linear(1.0, 0.0, steps=90),
    "linear_restarts": schedules.linear_restarts(1.0, steps=30),
    "one_cycle": schedules.one_cycle(1.0, steps=90),
    "piecewise_constant": schedules.piecewise_constant((1.0, 0.3, 0.1), boundaries=(40, 70)),
    "piecewise_interpolated": schedules.piecewise_interpolated((0.0, 1.0, 0.2, 0.0), boundaries=(10, 60, 90)),
    "polynomial": schedules.polynomial(1.0, 0.0, steps=90, power=2.0),
    "rex": schedules.rex(1.0, steps=90),
    "warmup": schedules.warmup(1.0, steps=20, then=schedules.linear(1.0, 0.0, steps=70)),
    "warmup_cosine": schedules.warmup_cosine(1.0, warmup=10, steps=90),
    "wsd": schedules.wsd(1.0, warmup=10, stable=60, decay=20),
}


def svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()


def png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=88)
    return data.getvalue()


# ---------------------------------------------------------------- optimizers
FAMILIES = {
    "sgd": "Descent and momentum",
    "adam": "Adam",
    "adagrad": "AdaGrad and RMSProp",
    "sign": "Signs",
    "matrix": "Orthogonalized matrices",
    "shampoo": "Kronecker factors",
    "soap": "Eigenbases",
    "low_rank": "Low rank",
    "low_memory": "Low memory",
    "large_batch": "Large batches and layers",
    "second_order": "Curvature",
    "parameter_free": "Without a learning rate",
    "dual_averaging": "Dual averaging",
    "averaging": "Averages of parameters",
    "gradient_filters": "Filters of gradients",
    "decay": "Weight decay",
}
OF_MATRICES = ("matrix", "shampoo", "soap", "low_rank")  # whose rule two numbers do not show
RATES = 10.0 ** np.arange(-3, 1.01, 0.5)


def family(name: str) -> str:
    return inspect.unwrap(getattr(gx, name)).__module__.rpartition(".")[2]


@cache
def laws() -> dict[str, tuple[str, str]]:
    """The laws of the tests: what becomes an optimizer when a piece is neutral, as source code."""
    found = {}
    for path in [ROOT / "tests" / "test_laws.py", *sorted((ROOT / "tests" / "families").glob("*.py"))]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if getattr(target, "id", "") in ("FAMILY", "LAWS") and isinstance(getattr(node, "value", None), ast.Dict):
                for key, value in zip(node.value.keys, node.value.values):
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple) and len(value.elts) == 2:
                        one, other = map(ast.unparse, value.elts)
                        found[key.value] = (one, other)
    return found


def relatives(name: str) -> Iterator[str]:
    for law, sides in laws().items():
        if any(side.startswith(f"gx.{name}(") for side in sides) and max(map(len, sides)) < 160:
            yield f"- {escape(law)}: `{sides[0]}` = `{sides[1]}`"


def best_path(name: str, surface: Any, steps: int) -> tuple[float | None, np.ndarray] | None:
    """The path with the best of several learning rates; None where a surface does not give what the optimizer needs."""
    rated = any(p in inspect.signature(getattr(gx, name)).parameters for p in ("learning_rate", "inner"))
    try:
        if not rated:
            return None, lab.descend(surface, losses.made(name), steps)
        paths = jax.vmap(lambda rate: program(surface, losses.made(name, rate), steps))(jnp.asarray(RATES, float))
        paths = np.asarray(paths)
    except ValueError as error:
        if "which a surface does not give" in str(error):
            return None
        raise
    ends = np.array([[float(surface.function(w)) for w in path[-20:]] for path in paths])
    worst = np.where(np.isfinite(ends), ends, np.inf).max(axis=1)  # of the last steps, so that few oscillate
    best = int(np.argmin(worst))
    return float(RATES[best]), paths[best]


def program(surface: Any, tx: Any, steps: int) -> Any:
    for piece in walk(tx):
        if unknown := [n for n in piece.needs if n not in (*_EXTRA, "params", "**")]:
            raise ValueError(f"{unknown[0]}, which a surface does not give")
    start = jnp.asarray(surface.start, jnp.float32)
    path = _descend(surface.function, steps, tx, start, surface.noise, jax.random.key(0))
    return jnp.concatenate([start[None], path])


@cache
def canvas() -> tuple[Any, list[Any]]:
    """A figure with the contours of two surfaces, which all optimizers share."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    for ax, surface in zip(axes, SHOWN):
        ground(ax, surface)
        plots.style.dress(ax, surface.title, "w₁", "w₂", xlim=surface.xlim, ylim=surface.ylim)
        ax.grid(False)
    return figure, list(axes)


SHOWN = [lab.SURFACES["elongated_bowl"], lab.SURFACES["rosenbrock"]]


def picture(name: str) -> bytes | None:
    if family(name) in OF_MATRICES:
        return None
    figure, axes = canvas()
    drawn = []
    for ax, surface in zip(axes, SHOWN):
        found = best_path(name, surface, 100)
        if found is None:
            return None
        rate, path = found
        path = np.where(np.abs(path) < 1e6, path, np.nan)
        style = plots.style.styles([name])[name]
        drawn += ax.plot(*path.T, "-", marker=".", markersize=4, linewidth=1.4, color=style.color, zorder=3)
        drawn += ax.plot(*path[-1:].T, "o", markersize=8, color=style.color, markeredgecolor="white", zorder=4)
        drawn += ax.plot(*path[:1].T, "o", markersize=8, color="white", markeredgecolor="black", zorder=4)
        plots.style.entitle(ax, f"{surface.title}" + (f", η = {rate:.2g}" if rate is not None else ""))
    data = png(figure)
    for line in drawn:
        line.remove()
    return data


def digits(name: str) -> Iterator[str]:
    """The losses of an optimizer on digits against Adam and SGD, from the record."""
    yield "## Loss on digits"
    if name in losses.UNFIT:
        yield losses.UNFIT[name]
        return
    runs = {other: losses.recorded()[other] for other in dict.fromkeys(["sgd", "adam", name])}
    yield f"![Training loss of {' and '.join(runs)} on digits](img/{name}_digits.svg)"
    rows = ["| optimizer | learning rate | final training loss | test accuracy |", "|---|---|---|---|"]
    for other, run in reversed(runs.items()):
        rate = "none: its defaults" if run["rate"] is None else f"{run['rate']:g}" + losses.whose(other)
        rows.append(f"| `gx.{other}` | {rate} | {run['final_loss']:.2g} | {run['test_accuracy']:.1%} |")
    yield "\n".join(rows)
    text = (
        f"`gx.lab.race` on `gx.lab.digits()`: {losses.EPOCHS} epochs of batches of 32 images from the same start, each "
        f"optimizer with the constant rate of the lowest final loss of a sweep, two rates a decade. Each point of a "
        f"curve is the mean of {losses.EACH} steps."
    )
    if name in losses.WHOLE:
        text += f" Each step of {name} has the gradient of all 1,437 images, and costs as much as 44 of the others."
    if name in losses.FITTED:
        text += " " + losses.FITTED[name][1]
    yield text


def digits_picture(name: str) -> str:
    record = losses.recorded()
    curves = {other: np.array(record[other]["loss"]) for other in dict.fromkeys(["sgd", "adam", name])}
    steps = losses.EACH * np.arange(1, len(curves["sgd"]) + 1)
    figure = Figure(figsize=(8, 3.4), dpi=120, layout="constrained")
    plots.curves(curves, steps, figure.subplots(), title="Training loss on digits", xlabel="step")
    return svg(figure)


@cache
def store() -> Path:
    """A folder for the pictures of this version of gradtx, so that editing a guide does not draw them again."""
    digest = hashlib.sha256(
        b"".join(
            p.read_bytes() for p in [*sorted((ROOT / "gradtx").rglob("*.py")), *Path(__file__).parent.glob("*.py")]
        )
    )
    folder = ROOT / "out" / "pictures" / digest.hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def kept(name: str) -> bytes | None:
    path = store() / f"{name}.png"
    if not path.exists():
        path.write_bytes(picture(name) or b"")
    return path.read_bytes() or None


def optimizer(name: str) -> tuple[str, bytes | None]:
    """The page of one optimizer, and the picture of its path."""
    function, path = getattr(gx, name), f"optimizers/{name}.md"
    doc, own, tx = Doc(function), own_names(name, function), losses.made(name)
    shown = kept(name)
    parts = [f"# gx.{name}", f"**{escape(doc.first)}**", *before_arguments(function, doc, path, own)]
    parts += ["## Signature", f"```python\n{signature(f'gx.{name}', function)}\n```"]
    parts += [arguments(function, doc, path, own)]
    if raised := doc.entries("Raises"):
        parts += ["\n".join(f"- Raises `{error}`: {escape(text)}" for error, text in raised.items())]
    if name in PLAYS:
        parts += ["## Try it", play(name)]
    parts += ["## Update", "With the default arguments, from the code that runs:", tex(tx)]
    parts += ["## Composition", f"```python\n{tx!r}\n```"]
    if shown:
        parts += [
            "## Path",
            f"![The path of {name} on an elongated bowl and in Rosenbrock's valley](img/{name}.png)",
            "100 steps from the white dot, each with the best of nine learning rates from 0.001 to 10 where the "
            "optimizer has one.",
        ]
    parts += digits(name)
    weights = {"kernel": jax.ShapeDtypeStruct((1000, 1000), "float32")}
    of = "a float32 matrix of 1000 × 1000"
    if name == "lora_plus":  # needs adapters
        weights = {
            f"lora_{x}": jax.ShapeDtypeStruct(shape, "float32") for x, shape in [("a", (1000, 8)), ("b", (8, 1000))]
        }
        of = "the float32 adapter of rank 8 of a matrix of 1000 × 1000"
    table = gx.summary(tx, weights)
    parts += [
        "## State",
        f"**{table.bytes / table.parameters:.2f} bytes a parameter** on {of}:",
        f"```text\n{table}\n```",
    ]
    if related := list(relatives(name)):
        parts += ["## Relatives", "These hold to rounding, and are tested:", "\n".join(related)]
    if doc.example:
        parts += ["## Example", f"```pycon\n{doc.example}\n```"]
    return "\n\n".join(parts), shown


def before_arguments(function: Any, doc: Doc, path: str, own: set[str]) -> Iterator[str]:
    rest = Doc(function)
    rest.sections, rest.example = {}, ""
    yield from body(function, rest, path, own)


def tex(tx: Any) -> str:
    return gx.formula(tx).replace("\n\n", "\n")


def index() -> str:
    """The periodic table and all optimizers by family."""
    table = gx.periodic_table()
    sizes = list(dict.fromkeys(cell.size for cell in table))
    head = "".join(f"<th>{html.escape(size)}</th>" for size in ["direction \\ denominator", *sizes])
    rows = []
    for direction in dict.fromkeys(cell.direction for cell in table):
        cells = [cell for cell in table if cell.direction == direction]
        row = "".join(
            f'<td><a href="{cell.name}/">{cell.name}</a></td>'
            if cell.name in OPTIMIZERS
            else f'<td title="{html.escape(repr(cell.tx))}">{cell.name or "·"}</td>'
            for cell in cells
        )
        rows.append(f"<tr><th>{html.escape(direction)}</th>{row}</tr>")
    parts = [
        "---\nhide: [toc]\n---\n\n# Optimizers",
        "The periodic table: each row is a direction, each column a denominator. A dot is an optimizer without a name; "
        "`gx.periodic_table()[direction, size]` makes any of them.",
        f'<div class="periodic"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>',
    ]
    for module, title in FAMILIES.items():
        parts.append(f"## {title}")
        lines = [
            f"| [`{n}`]({n}.md) | {escape(Doc(getattr(gx, n)).first)} |" for n in OPTIMIZERS if family(n) == module
        ]
        parts.append("\n".join(["| name | optimizer |", "|---|---|", *lines]))
    return "\n\n".join(parts)


# ---------------------------------------------------------------- gallery
def gallery() -> Iterator[tuple[str, str | bytes]]:
    """The pictures of the gallery, by the code on its page: each shows the Axes, or the file, of the block above."""
    text = (ROOT / "notebooks" / "guides" / "gallery.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        pattern = r"^```python\n((?!>>>)(?:.*\n)*?)```\n(?:\n!\[.*\]\(gallery/(\S+)\)\n)?"
        for code, name in re.findall(pattern, text, re.M):
            exec(code, names)
            if name:
                saved = Path(name)
                yield (
                    f"gallery/{name}",
                    saved.read_bytes() if saved.exists() else svg(np.ravel(names["axes"])[0].figure),
                )


# ---------------------------------------------------------------- interactive figures
PLAYS = {"averaged_momentum": "momentum", "heavy_ball": "heavy_ball", "adam": "adam", "rmsprop": "rmsprop"}


def play(rule: str) -> str:
    return f'<div class="play" data-rule="{PLAYS.get(rule, rule)}"></div>'


# ---------------------------------------------------------------- chapters
IN_CHAPTERS = {"03_averages": "average", "04_momentum": "heavy_ball", "06_adam_from_pieces": "adam"}


def chapter(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """A notebook as Markdown, with its stored outputs, and its pictures."""
    parts, pictures = [], 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            source = re.sub(r"\]\((\w+)\.ipynb", r"](\1.md", source)
            parts.append(re.sub(r"^\$\$(.+)\$\$$", r"\n$$\1$$\n", source, flags=re.M))
            if len(parts) == 1 and path.stem in IN_CHAPTERS:
                parts.append(play(IN_CHAPTERS[path.stem]))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                pictures += 1
                parts.append(f"![Figure {pictures}](img/{path.stem}_{pictures}.png)")
                yield f"course/img/{path.stem}_{pictures}.png", base64.b64decode(data["image/png"])
            elif "image/svg+xml" in data:
                pictures += 1
                parts.append(f"![Figure {pictures}](img/{path.stem}_{pictures}.svg)")
                yield f"course/img/{path.stem}_{pictures}.svg", "".join(data["image/svg+xml"])
            elif "text/latex" in data:
                parts.append("".join(data["text/latex"]))
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    yield f"course/{path.stem}.md", "\n\n".join(parts)


# ---------------------------------------------------------------- the hook
def generated() -> Iterator[tuple[str, str | bytes, str]]:
    """The path of each generated file, its content, and its source from the root."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for name, content in chapter(path):
            yield name, content, f"notebooks/{path.name}"
    yield "course/index.md", COURSE, "notebooks/book.py"
    yield "optimizers/index.md", index(), "gradtx/inspect/periodic_table.py"
    for name in OPTIMIZERS:
        page, shown = optimizer(name)
        yield f"optimizers/{name}.md", page, f"gradtx/optimizers/{family(name)}.py"
        if shown:
            yield f"optimizers/img/{name}.png", shown, ""
        if name not in losses.UNFIT:
            yield f"optimizers/img/{name}_digits.svg", digits_picture(name), ""
    for page in REFERENCE:
        yield f"reference/{page}.md", reference(page), "gradtx/__init__.py"
    for name, curve in CURVES.items():
        yield f"reference/img/{name}.svg", svg(plots.schedule(curve).figure), ""
    for path, content in gallery():
        yield path, content, ""
    rows = [
        f"| [{title}]({page}.md) | {', '.join(f'`{n}`' for n in names)} |"
        for page, (title, _, _, names) in REFERENCE.items()
    ]
    yield (
        "reference/index.md",
        "\n".join(["# Reference", "", "| page | names |", "|---|---|", *rows]),
        "notebooks/book.py",
    )
    changes = (ROOT / ".github" / "CHANGELOG.md").read_text(encoding="utf-8")
    yield "changelog.md", changes, ".github/CHANGELOG.md"


COURSE = """# Course

Ten notebooks. Each starts from a question, shows the formula, the composition that implements it and a figure that
answers the question, and asserts its claims. They are shown here as they ran; open them in Jupyter to change them. The
questions come from four teaching texts: the book *Optim*, the blog post *Optimizers: a deep dive into their evolution*,
the lecture slides *L07 Optimizers*, and course notes.

| chapter | topic |
|---|---|
| [Fitting a line](01_fitting_a_line.md) | the gradient, the gradient check, the largest stable step |
| [Batch, mini-batch, stochastic](02_batch_minibatch_stochastic.md) | the number of examples in a step |
| [Averages](03_averages.md) | the memory of a moving average, and bias correction |
| [Momentum](04_momentum.md) | why momentum passes points where gradient descent stops |
| [One size per coordinate](05_one_size_per_coordinate.md) | the denominators of AdaGrad, RMSProp and Rprop |
| [Adam from pieces](06_adam_from_pieces.md) | the effect of removing each piece of Adam |
| [Learning rates](07_learning_rates.md) | schedules, 64 rates in one compilation, the gradient of a training run |
| [Digits](08_digits.md) | a fair comparison of optimizers on real images |
| [Your own optimizer](09_your_own_optimizer.md) | how to write, test and benchmark a new piece |
| [Hyperparameters](10_hyperparameters.md) | four methods of finding a learning rate, evolution among them |
"""
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2/")


@cache
def everything() -> list[tuple[str, str | bytes, str]]:
    return list(generated())


def on_config(config: Any) -> Any:
    names = {"Course": [f"course/{p.stem}.md" for p in sorted((ROOT / "notebooks").glob("*.ipynb"))]}
    names["Optimizers"] = [{name: f"optimizers/{name}.md"} for name in OPTIMIZERS]
    names["Reference"] = [{title: f"reference/{page}.md"} for page, (title, *_) in REFERENCE.items()]
    for section in config.nav:
        (title,) = section
        if title in names:
            section[title] = [f"{title.lower()}/index.md", *names[title]]
    return config


def on_files(files: Any, config: Any) -> Any:
    for path, content, source in everything():
        files.append(File.generated(config, path, content=content))
        SOURCES[path] = source
    import mathjax  # a package of the registry that holds the files of MathJax

    static = Path(next(iter(mathjax.__path__))) / "static" / "mathjax" / "es5"
    for path in sorted(static.rglob("*")):
        name = path.relative_to(static).as_posix()
        if path.is_file() and name.startswith(MATHJAX):
            files.append(File.generated(config, f"assets/mathjax/{name}", abs_src_path=str(path)))
    return files


def on_page_context(context: Any, page: Any, config: Any, nav: Any) -> Any:
    base = config.edit_uri
    source = SOURCES.get(page.file.src_uri, f"notebooks/guides/{page.file.src_uri}")
    page.edit_url = f"{base}{source}" if base else None
    return context


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Link the names of gradtx in code, wherever they are not within a link, a heading or a block already."""

    def link(match: re.Match[str]) -> str:
        place = PAGES.get(match[2]) if match[2] else None
        if not place:
            return match[0]
        target, _, anchor = place.partition("#")
        if target == page.file.src_uri and not anchor:
            return match[0]
        url = get_relative_url(files.get_file_from_path(target).url, page.url)
        return f'<a href="{url}{"#" + anchor if anchor else ""}">{match[0]}</a>'

    skipped = r"<a\b.*?</a>|<h\d.*?</h\d>|<pre.*?</pre>"
    return re.sub(rf"({skipped})|<code>(gx\.[\w.]+)(?:\([^<]*\))?</code>", link, content, flags=re.DOTALL)
