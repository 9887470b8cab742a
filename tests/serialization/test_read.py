"""Printed optimizers are read back: accepted and refused strings, and that no code runs.

That every transformation and schedule is read as it prints, test_contract and test_schedules test.
"""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from cases import CASES

import gradtx as gx
from gradtx import schedules
from gradtx.__main__ import RECIPES


def halving(step):
    return 0.5**step


class twice(gx.PerLeaf):
    """A user's piece."""

    factor: gx.Scalar = 2.0

    def update_leaf(self, g, slots, context):
        return g * self.factor, slots


def fast(rate: float = 1.0) -> gx.Transformation:
    return gx.sgd(rate)


OWN: dict[str, Any] = {"halving": halving, "twice": twice, "fast": fast, "lr": 0.5}
RIGHT: dict[str, tuple[str, Any]] = {
    "recipes": ("chain(clip(1.0), adamw(3e-4, weight_decay=1e-2))", gx.chain(gx.clip(1.0), gx.adamw(3e-4))),
    "schedules": ("sgd(warmup(0.1, 5, then=cosine(0.1, steps=10)))", None),
    "arithmetic": ("sgd(2 * cosine(0.1, steps=10) - 0.01 / linear(1.0, 2.0, 3))", None),
    "signs": ("scale(-+-2)", gx.scale(2.0)),
    "white space": ("\n  scale(\n 2.0)  # twice\n", gx.scale(2.0)),
    "a batch of one number": (repr(gx.scale(jnp.float32(0.1))), gx.scale(jnp.float32(0.1))),
    "patterns": (repr(gx.freeze("**/w\\'\"\n")), gx.freeze("**/w\\'\"\n")),
    "a tree of booleans": (repr(gx.freeze({"a": [True, False]})), gx.freeze({"a": [True, False]})),
    "labels": (
        repr(gx.partition({"x": gx.sgd(), "y": gx.sign()}, labels={"w": "x", "b": {"c": "y"}})),
        gx.partition({"x": gx.sgd(), "y": gx.sign()}, labels={"w": "x", "b": {"c": "y"}}),
    ),
    "functions": (
        "partition({is_matrix: monitor('size', global_norm)}, default=freeze(), optional=(is_matrix,))",
        gx.partition({gx.is_matrix: gx.monitor("size", gx.global_norm)}, default=gx.freeze(), optional=gx.is_matrix),
    ),
    "an infinite bound": (repr(gx.trust_ratio(bounds=(0.0, float("inf")))), gx.trust_ratio(bounds=(0.0, float("inf")))),
    "a user's names": (
        "chain(twice(3), fast(lr), sgd(of_step(halving)))",
        gx.chain(twice(3), fast(0.5), gx.sgd(halving)),
    ),
}


@pytest.mark.parametrize("text, expected", RIGHT.values(), ids=RIGHT)
def test_reads(text, expected):
    made = gx.read(text, OWN)
    assert expected is None or made == expected
    assert gx.read(repr(made), OWN) == made


def test_a_schedule_alone():
    assert gx.read("cosine(0.1, steps=10)") == schedules.cosine(0.1, steps=10)


@pytest.mark.parametrize("name", [*CASES, *RECIPES])
def test_every_public_transformation_may_be_named(name):
    try:
        gx.read(f"{name}()")
    except ValueError as error:  # an argument is missing
        assert str(error).startswith(f"read: line 1, column 1: '{name}()' is refused: ")


DEEP = 10_000
REFUSED: dict[str, tuple[str, str]] = {
    "an import": ("__import__('os').system('touch trap')", "may not be called"),
    "eval": ("eval('1')", "'eval' is not a name of gradtx"),
    "an attribute": ("chain.__init__.__globals__", "cannot be read"),
    "a call of an attribute": ("chain().init(open('trap', 'w'))", "'chain.*init' may not be called"),
    "a call of a call": ("chain()()", r"'chain\(\)' may not be called"),
    "a call of a string": ("'chain'()", "may not be called"),
    "a function that is not a recipe": ("chain(global_norm({}))", "'global_norm' may not be called"),
    "another function of gradtx": ("fit()", "'fit' is not a name of gradtx"),
    "a base class": ("PerLeaf()", "'PerLeaf' is not a name"),
    "dunder names": ("__builtins__", "is not a name of gradtx"),
    "an argument": ("scale(__import__('os').mkdir('trap'))", "may not be called"),
    "a comprehension": ("[c for c in ().__class__.__base__.__subclasses__()]", "cannot be read"),
    "a function": ("sgd(lambda step: open('trap', 'w'))", "lambda step.*cannot be read"),
    "a function by name": ("sgd(of_step(halvin))", "'halvin' is not a name of gradtx.*in names="),
    "a slip": ("adm(0.1)", "is not a name of gradtx .*adam.*"),
    "a printed lambda": (repr(gx.sgd(lambda step: 0.1)), "<lambda> is a function without a name"),
    "a printed batch": (repr(jax.vmap(gx.scale)(jnp.ones(2))), r"<float32\[2\]> gives the shape"),
    "an f-string": ('freeze(f\'{open("trap", "w")}\')', "cannot be read"),
    "an assignment": ("scale(x := 3)", "cannot be read"),
    "two statements": ("scale(1); import os", "is not how a transformation prints"),
    "a statement": ("import os", "is not how a transformation prints"),
    "a condition": ("scale(1) if 1 else scale(2)", "cannot be read"),
    "a slice": ("[scale(1)][0]", "cannot be read"),
    "a set": ("freeze({'a'})", "cannot be read"),
    "stars": ("chain(*[scale(1)])", "cannot be read"),
    "two stars": ("scale(**{'factor': 1})", "an argument twice"),
    "stars in a dict": ("partition({**{}})", "a key is a string"),
    "an argument twice": ("sgd(learning_rate=1, learning_rate=2)", "an argument twice"),
    "a key twice": ("partition({'a': scale(1), 'a': scale(2)})", "a key twice"),
    "a key of another kind": ("partition({(): scale(1)})", "a key is a string"),
    "a literal": ("0.1", "a transformation or a schedule is expected"),
    "a class": ("chain", "a transformation or a schedule is expected"),
    "a recipe": ("adam", "a transformation or a schedule is expected"),
    "bytes": ("freeze(b'w')", "cannot be read"),
    "a complex number": ("scale(1j)", "cannot be read"),
    "an ellipsis": ("scale(...)", "cannot be read"),
    "nothing": ("", "is not how a transformation prints"),
    "a null byte": ("scale(\0)", "is not how a transformation prints"),
    "half a character": ("\ud800", "is not how a transformation prints"),
    "a power": ("scale(9**9**9)", r"'9\*\*9\*\*9' cannot be read"),
    "a shift": ("scale(1 << 10 ** 10)", "cannot be read"),
    "a long string": ("freeze('w' * 10 ** 10)", "cannot be read"),
    "a product": ("freeze('w' * 10000000000)", "is arithmetic without a schedule"),
    "a long number": (f"scale({'9' * 5000})", "is not how a transformation prints"),
    "a large number": (f"scale({'9' * 4000})", "is refused"),
    "a large number in base 16": (f"scale(0x{'f' * 100_000})", "is refused"),
    "a large count": (f"chain(linear(0, 1, 0x{'f' * 100_000}))", "is refused"),
    "infinity": ("scale(1e999)", "must be a finite number, got inf"),
    "a value that a piece refuses": (
        "chain(\n  scale_by_ema(2.0))",
        "line 2, column 3: .*decay must be at least 0 and below 1",
    ),
    "an unknown argument": ("scale(facto=1)", "is refused: .*'facto'"),
    "code that a formula would run": ('reduced(scale(1), over=\'[open("trap", "w")]\')', "over must be 'leaf', 'rows'"),
    "and how": ('reduced(scale(1), how=\'mean(open("trap", "w"))\')', "how must be 'mean', 'sum' or 'max'"),
    "brackets": ("(" * DEEP + ")" * DEEP, "is not how a transformation prints"),
    "open brackets": ("[" * DEEP, "is not how a transformation prints"),
    "calls": ("chain(" * DEEP + ")" * DEEP, "is not how a transformation prints"),
    "minus": (f"scale({'-' * DEEP}1)", "is nested too deeply"),
    "a sum": ("+".join(["constant(1)"] * DEEP), "is nested too deeply"),
    "attributes": ("a" + ".a" * DEEP, "is nested too deeply"),
    "calls of calls": ("chain" + "()" * DEEP, "is nested too deeply"),
}


@pytest.mark.parametrize("text, message", REFUSED.values(), ids=REFUSED)
def test_everything_else_is_refused(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^read: ") as error:
        gx.read(text)
    assert error.match(f"(?s){message}")
    assert not list(tmp_path.iterdir())


def test_a_string_is_read_as_a_string():
    read: Any = gx.read
    with pytest.raises(TypeError, match="the text must be a string"):
        read(gx.sgd())


def test_formulas_are_class_attributes_and_not_fields():
    """A formula is evaluated, so it must not come from data that is read."""
    for name in CASES:
        thing = getattr(gx, name)
        if isinstance(thing, type):
            assert isinstance(inspect.getattr_static(thing, "formula"), str) or thing in (gx.reduced, gx.schedule_free)
            assert not {"formula", "needs", "flat"} & {field.name for field in dataclasses.fields(thing)}


WATCHED = """
import sys
import gradtx as gx
from test_read import REFUSED, RIGHT, OWN

for text, _ in RIGHT.values():  # imports at first use
    gx.read(text, OWN)
ALLOWED = {"compile", "builtins.id"}  # of ast.parse, and of inspect, which asks for a signature and for no more
SIGNATURE = {"__code__", "__defaults__", "__kwdefaults__"}

def refuse(event, arguments):
    asks = event == "object.__getattr__" and arguments[1] in SIGNATURE
    if watching and event not in ALLOWED and not asks:
        seen.append((event, str(arguments)[:200]))

seen, watching = [], False
sys.addaudithook(refuse)
for text, _ in (*RIGHT.values(), *REFUSED.values()):
    watching = True
    try:
        gx.read(text, OWN)
    except ValueError:
        pass
    watching = False
assert not seen, seen
watching = True
eval("1")  # such as this is seen
watching = False
assert [event for event, _ in seen] == ["exec"], seen
"""


def python(code):
    """The output of a new interpreter, which must exit with 0."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_reading_runs_opens_and_imports_nothing():
    """Python's own audit events, of which `exec`, `open`, `import`, `os.system` and `pickle.find_class` are some."""
    path = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
    ended = python(path + WATCHED)
    assert ended.returncode == 0, ended.stderr


OFFLINE = """
import sys

def refuse(event, arguments):
    assert not event.startswith("socket."), (event, arguments)

sys.addaudithook(refuse)
import gradtx as gx, jax, jax.numpy as jnp

params = {"w": jnp.ones(3)}
tx = gx.read(repr(gx.adam(0.1)))
run = gx.fit(params, tx, lambda p, x: jnp.sum(p["w"] ** 2) * x[0], jnp.ones(4), 2, progress=False)
gx.restore(tx, params, run.state)
gx.formula(tx), gx.summary(tx, params), gx.hyperparameters(tx)
import gradtx.__main__
gradtx.__main__.main(["show", "adam"])
import socket
try:
    socket.socket()
except AssertionError:
    print("seen")
"""


def test_no_socket_is_opened():
    ended = python(OFFLINE)
    assert ended.stdout.endswith("seen\n"), ended.stderr
