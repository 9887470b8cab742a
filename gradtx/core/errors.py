"""Parts of error messages: how a value, an array or an unknown name is shown."""

import inspect
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

# Names of arguments in PyTorch, Keras and Optax that are not like ours, which `unknown` would find.
ALIASES = {
    "beta": "decay",
    "betas": "b1 and b2",
    "d0": "initial_value",
    "decay_steps": "steps",
    "end_value": "floor",
    "eta_min": "floor",
    "init_value": "start",
    "interval": "every_k",
    "mask": "where",
    "max_lr": "peak",
    "opt": "inner",
    "optimizer": "inner",
    "pct_start": "rise",
    "peak_value": "peak",
    "rho": "decay",
    "sync_period": "every_k",
    "t_max": "steps",
    "total_steps": "steps",
    "warmup_steps": "warmup",
}
# Arguments of a recipe elsewhere that another recipe has here.
INSTEAD = {(recipe, "weight_decay"): f"gx.{recipe}w" for recipe in ("adam", "adamax", "nadam", "sgd")}
INSTEAD |= {("adam", "amsgrad"): "gx.amsgrad", ("adam", "nesterov"): "gx.nadam"}
# Our names, and those in PyTorch, Keras and Optax, in lower case and without underscores.
NAMES = {
    "accumulate": "multisteps",
    "adaptive_clip": "adaptivegradclip",
    "add_momentum": "trace",
    "add_weight_decay": "adddecayedweights",
    "apply_if": "conditionallytransform conditionallymask",
    "average_params": "averagedmodel",
    "backtracking": "scalebybacktrackinglinesearch",
    "clip_by_global_norm": "clipgradnorm",
    "freeze": "settozero",
    "partition": "multitransform",
    "scale_by_ema": "ema",
    "schedules.constant": "constantschedule",
    "schedules.cosine": "cosineannealinglr cosinedecay cosinedecayschedule",
    "schedules.cosine_restarts": "cosineannealingwarmrestarts",
    "schedules.cyclic": "cycliclr",
    "schedules.exponential": "exponentiallr exponentialdecay",
    "schedules.exponential(…, staircase=True)": "steplr",
    "schedules.join": "joinschedules sequentiallr",
    "schedules.linear": "linearlr linearschedule",
    "schedules.one_cycle": "onecyclelr cosineonecycleschedule",
    "schedules.piecewise_constant": "multisteplr piecewiseconstantschedule",
    "schedules.polynomial": "polynomiallr polynomialschedule",
    "schedules.warmup_cosine": "warmupcosinedecayschedule",
    "skip_nonfinite": "applyiffinite",
    "zero_nonfinite": "zeronans",
    "zoom": "scalebyzoomlinesearch",
}


def unknown(text: str, name: Any, known: Iterable[str], rest: str) -> str:
    """A message about an unknown name, with the closest known one, by its letters or its initials."""
    from difflib import get_close_matches  # only errors need it

    known, name = list(known), str(name)
    ours = ALIASES.get(name.lower(), "")
    alike = [ours] if ours.split(" and ")[0] in known else []
    alike += [x for x in known if name == "".join(word[:1] for word in x.split("_"))]
    alike += get_close_matches(name, known, n=1, cutoff=0.5)
    alike += [x for x in known if len(name) > 2 and name in x]
    meant = " and ".join(map(repr, alike[0].split(" and "))) if alike else ""
    return f"{text} {name!r}{f': did you mean {meant}?' if meant else '.'} {rest}"


def public(module: str, name: str, known: Iterable[str]) -> str:
    """A message about a name that a module lacks, with ours for a name of another library."""
    plain = {x.replace("_", "").lower(): x for x in known}
    plain |= {theirs: f"gx.{ours}" for ours, several in NAMES.items() for theirs in several.split()}
    if meant := plain.get(name.replace("_", "").lower()):
        return f"module {module!r} has no attribute {name!r}: did you mean {meant!r}?"
    return unknown(f"module {module!r} has no attribute", name, known, f"dir({module}) lists the names")


def about(error: Exception, place: str, value: Any) -> Exception:
    """Note which value of which place an error is about, so that a recipe can name the argument that was passed."""
    if not hasattr(error, "about") and str(error).startswith(place):
        error.__dict__["about"] = place, value
    return error


def renamed(error: Exception, function: str, arguments: dict[str, Any]) -> Exception:
    """The error in terms of the argument of `function` that holds the value that it is about, if there is one."""
    place, value = error.__dict__["about"]
    names = [name for name, given in arguments.items() if given is value]
    if len(names) != 1:
        return error
    place_now = f"{function}: {names[0]}"
    return about(type(error)(place_now + str(error)[len(place) :]), place_now, value)


def said(value: Any, most: int = 100) -> str:
    """A value on one line. A class or a recipe comes with the advice to call it."""
    if inspect.isclass(value) or inspect.isfunction(value):
        what = "class" if inspect.isclass(value) else "function"
        ours = hasattr(value, "_kinds") or "Transformation" in str(inspect.get_annotations(value).get("return"))
        return f"the {what} {value.__name__}" + (f": call it, {value.__name__}(…)" if ours else "")
    if isinstance(value, (str, Tracer, jax.Array, np.ndarray, tuple, list, dict)):  # arrays by type: few are short
        value = jax.tree.map(
            lambda x: _Text(describe(x)) if getattr(x, "ndim", 0) or isinstance(x, Tracer) else x, value
        )
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


class _Text(str):
    __repr__ = str.__str__


def describe(x: Any) -> str:
    """An array's dtype and shape, as `float32[3,4]`."""
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"


TRACEABLE = "jnp.where(x > 0, a, b) for if, jnp.sqrt(x) for math.sqrt(x), x for float(x)"


def place(tree: str, path: str) -> str:
    """A leaf's name in errors."""
    return f"{tree}[{path!r}]" if path else tree


def _listed(paths: Any, most: int = 6) -> str:
    shown = ", ".join(map(repr, list(paths)[:most]))
    return f"{shown}, …" if len(paths) > most else shown or "no leaves"
