"""Parts of error messages: how a value, an array or an unknown name is shown."""

import inspect
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer


def unknown(text: str, name: Any, known: Iterable[str], rest: str) -> str:
    """A message about an unknown name, with the closest known one, by its letters or its initials."""
    from difflib import get_close_matches  # only errors need it

    known, name = list(known), str(name)
    ours = ALIASES.get(name.lower(), "")
    alike = [ours] if ours and ours.split(" and ")[0] in known else []
    alike += [x for x in known if name == "".join(word[:1] for word in x.split("_"))]
    alike += get_close_matches(name, known, n=1, cutoff=0.5)
    alike += [x for x in known if len(name) > 2 and name in x]
    if not alike:
        return f"{text} {name!r}; {rest}"
    meant = " and ".join(map(repr, alike[0].split(" and ")))
    return f"{text} {name!r}: did you mean {meant}? {rest[:1].upper()}{rest[1:]}"


# Names in PyTorch, Keras and Optax, and ours.
ALIASES = {
    "lr": "learning_rate",
    "betas": "b1 and b2",
    "beta": "decay",
    "beta1": "b1",
    "beta_1": "b1",
    "beta2": "b2",
    "beta_2": "b2",
    "beta3": "b3",
    "rho": "decay",
    "epsilon": "eps",
    "eps_root": "eps_in_sqrt",
    "wd": "weight_decay",
    "mask": "where",
    "every": "every_k",
    "interval": "every_k",
    "sync_period": "every_k",
    "every_k_schedule": "every_k",
    "initial_accumulator_value": "initial_value",
    "d0": "initial_value",
    "warmup_steps": "warmup",
    "opt": "inner",
    "optimizer": "inner",
}
# Arguments of a recipe elsewhere that another recipe has here.
INSTEAD = {
    ("adam", "weight_decay"): "gx.adamw",
    ("adamax", "weight_decay"): "gx.adamaxw",
    ("nadam", "weight_decay"): "gx.nadamw",
    ("sgd", "weight_decay"): "gx.sgdw",
    ("adam", "amsgrad"): "gx.amsgrad",
    ("adam", "nesterov"): "gx.nadam",
}
# Names of PyTorch, Keras and Optax, in lower case and without underscores, and ours.
NAMES = {
    "steplr": "schedules.exponential(…, staircase=True)",
    "multisteplr": "schedules.piecewise_constant",
    "exponentiallr": "schedules.exponential",
    "exponentialdecay": "schedules.exponential",
    "linearlr": "schedules.linear",
    "cosineannealinglr": "schedules.cosine",
    "cosinedecay": "schedules.cosine",
    "cosinedecayschedule": "schedules.cosine",
    "cosineannealingwarmrestarts": "schedules.cosine_restarts",
    "onecyclelr": "schedules.one_cycle",
    "cycliclr": "schedules.cyclic",
    "linearschedule": "schedules.linear",
    "reducelronplateau": "reduce_on_plateau",
    "multisteps": "accumulate",
    "applyiffinite": "skip_nonfinite",
    "ema": "scale_by_ema",
    "trace": "add_momentum",
    "adddecayedweights": "add_weight_decay",
    "multitransform": "partition",
    "settozero": "freeze",
    "injecthyperparams": "set_hyperparameters",
    "clipgradnorm": "clip_by_global_norm",
    "averagedmodel": "average_params",
}


def public(module: str, name: str, known: Iterable[str]) -> str:
    """A message about a name that a module lacks, with ours for a name of another library."""
    plain = {x.replace("_", "").lower(): x for x in known} | {other: f"gx.{ours}" for other, ours in NAMES.items()}
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
    place, value = getattr(error, "about", (None, None))
    names = [name for name, given in arguments.items() if given is value]
    if place is None or len(names) != 1:
        return error
    place_now = f"{function}: {names[0]}"
    return about(type(error)(place_now + str(error)[len(place) :]), place_now, value)


def said(value: Any, most: int = 100) -> str:
    """A value on one line. A class or a recipe comes with the advice to call it."""
    if inspect.isclass(value) or inspect.isfunction(value):
        what = "class" if inspect.isclass(value) else "function"
        ours = hasattr(value, "update_tree") or "Transformation" in str(
            getattr(value, "__annotations__", {}).get("return")
        )
        return f"the {what} {value.__name__}" + (f": call it, {value.__name__}(…)" if ours else "")
    if isinstance(value, (str, Tracer, jax.Array, np.ndarray, tuple, list, dict)):  # arrays by type: few are short
        value = jax.tree.map(
            lambda x: _Text(describe(x)) if getattr(x, "ndim", 0) or isinstance(x, Tracer) else x, value
        )
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


class _Text(str):
    __repr__ = str.__str__


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _plain(signature: inspect.Signature) -> str:
    """The signature without annotations."""
    plain = [x.replace(annotation=x.empty) for x in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def describe(x: Any) -> str:
    """An array's dtype and shape, as `float32[3,4]`."""
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"


TRACEABLE = "jnp.where(x > 0, a, b) for if, jnp.sqrt(x) for math.sqrt(x), x for float(x)"


def place(tree: str, path: str) -> str:
    """A leaf's name in errors."""
    return f"{tree}[{path!r}]" if path else tree


def _listed(paths: Any, most: int = 6, none: str = "no leaves") -> str:
    shown = ", ".join(map(repr, list(paths)[:most]))
    return f"{shown}, …" if len(paths) > most else shown or none
