"""Every code block of the book's guides runs, in the order of its page; the tables of migration are complete."""

import doctest
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx as gx
from gradtx import lab, plots, projections, schedules, training  # noqa: F401  names of the tables

GUIDES = Path(__file__).parents[2] / "notebooks" / "guides"
PAGES = {path.stem: path for path in sorted(GUIDES.glob("*.md"))}
FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", re.M)
# PyTorch is not installed, and there is one process.
NOT_RUN = {"text", "sh", "toml", "yaml", "{.python .torch}", "{.python .processes}"}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page: Path) -> list[tuple[int, str, str]]:
    """The line, the language and the text of each block."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent, language, code = match.groups()
        lines = [line.removeprefix(indent) for line in code.splitlines(keepends=True)]
        found.append((text.count("\n", 0, match.start()) + 2, language.strip(), "".join(lines)))
    return found


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.promotes("as users write")
def test_the_blocks_of_a_page_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    output: list[str] = []
    for line, language, code in blocks(PAGES[name]):
        if language in NOT_RUN:
            continue
        assert language == "python", f"{name}.md:{line}: a block of {language!r} is neither run nor listed as not run"
        if ">>> " in code:
            test = doctest.DocTestParser().get_doctest(code, names, f"{name}.md", str(PAGES[name]), line - 1)
            runner.run(test, out=output.append, clear_globs=False)
            names.update(test.globs)
        else:
            exec(compile("\n" * (line - 1) + code, str(PAGES[name]), "exec"), names)
    assert not output, "".join(output)


def test_the_gallery_has_every_picture():
    text = PAGES["gallery"].read_text(encoding="utf-8")
    assert set(re.findall(r"\bplots\.(\w+)\(", text)) == {*plots.__all__}
    assert f"```\n\n{gx.formula(gx.heavy_ball(0.1))}\n" in text  # the typeset one


# ---------------------------------------------------------------- migration
CODE = re.compile(r"`([^`]+)`")


def rows(page: str) -> list[list[str]]:
    """The cells of all tables of a page."""
    lines = PAGES[page].read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]


def names_of(text: str, module: str) -> set[str]:
    return set(re.findall(rf"\b{module}((?:\.\w+)+)", text))


def test_no_name_of_optax_is_missing():
    text = PAGES["from_optax"].read_text(encoding="utf-8")
    named = names_of(text, "optax")
    public = {f".{name}" for name in dir(optax) if not name.startswith("_") and not name.endswith("State")}
    contrib = {f".contrib.{name}" for name in dir(optax.contrib) if not name.startswith("_") and "State" not in name}
    assert not (public | contrib) - named
    for name in named:  # and none is wrong
        thing = optax
        for part in name.strip(".").split("."):
            thing = getattr(thing, part)


@pytest.mark.parametrize("page", PAGES)
def test_every_name_of_gradtx_exists(page):
    text = FENCE.sub("", PAGES[page].read_text(encoding="utf-8"))  # blocks run, and those of errors have wrong names
    for name in names_of(text, "gx"):
        thing = gx
        for part in name.strip(".").split("."):
            if not hasattr(thing, part) and thing is not gx:
                break  # an attribute of a value
            thing = getattr(thing, part)


# The `__all__` of these modules in PyTorch 2.13, which is not installed here; of clip_grad two functions more.
TORCH = {
    "torch.optim": """Adadelta Adafactor Adagrad Adam AdamW Adamax ASGD LBFGS Muon NAdam Optimizer RAdam RMSprop Rprop
        SGD SparseAdam swap_in_optimizer_params_and_state""",
    "lr_scheduler": """ChainedScheduler ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR
        LRScheduler LambdaLR LinearLR MultiStepLR MultiplicativeLR OneCycleLR PolynomialLR ReduceLROnPlateau
        SequentialLR StepLR""",
    "swa_utils": """AveragedModel SWALR get_ema_avg_fn get_ema_multi_avg_fn get_swa_avg_fn get_swa_multi_avg_fn
        update_bn""",
    "torch.nn.utils": "clip_grad_norm clip_grad_norm_ clip_grad_value_ clip_grads_with_norm_ get_total_norm",
    "optimizer": "add_param_group load_state_dict param_groups state_dict step zero_grad",
}


@pytest.mark.parametrize("module", TORCH)
def test_no_name_of_pytorch_is_missing(module):
    code = " ".join(re.findall(r"`([^`\n]+)`", PAGES["from_torch"].read_text(encoding="utf-8")))
    assert not {name for name in TORCH[module].split() if not re.search(rf"\b{name}\b", code)}


SAME = [
    (theirs[0], ours[0])
    for row in rows("from_optax")
    if len(row) == 3 and row[2].strip("| ") == ""
    for theirs, ours in [(CODE.findall(row[0]), CODE.findall(row[1]))]
    if len(theirs) == len(ours) == 1 and theirs[0].endswith(")")
]


def test_a_row_that_says_that_both_are_the_same_is_compared():
    silent = [row[0] for row in rows("from_optax") if len(row) == 3 and row[2].strip("| ") == ""]
    assert len(SAME) == len(silent) > 40, {*silent} - {f"`{theirs}`" for theirs, _ in SAME}


@pytest.mark.parametrize(("theirs", "ours"), SAME, ids=[theirs for theirs, _ in SAME])
@pytest.mark.promotes("Optax's arithmetic")
def test_both_are_the_same(theirs, ours):
    here = {"optax": optax, "gx": gx, "jnp": jnp}
    one, other = eval(theirs, here), eval(ours, here)
    if not isinstance(other, gx.Transformation):
        steps = np.arange(60)
        np.testing.assert_allclose(jax.vmap(other)(steps), jax.vmap(one)(steps), rtol=1e-5, atol=1e-7)
        return
    params = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, 0.2])}
    states = one.init(params), other.init(params)
    with jax.disable_jit():
        for t in range(4):
            g = jax.tree.map(lambda p, t=t: jnp.cos(3 * p + t), params)
            expected, first = one.update(g, states[0], params)
            got, second = other.update(g, states[1], params)
            states = first, second
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), got, expected)
