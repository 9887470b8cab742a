"""The oracles of each family of optimizers, one module each; what a module may define is collected here.

A reference is a function with the name, the arguments and the defaults of its recipe (see references.py).

CONFIGURATIONS: recipe → the arguments of at least three runs against its reference.
OPTAX: name → a gradtx and an Optax transformation of the same definition.
DIFFERENT: name → a gradtx and an Optax transformation of different definitions, and the cause.
TORCH: name of a recording in torch_vectors.npz → the gradtx transformation of the same definition.
LAWS: what is said → two transformations that are the same.
CURVED: recipe → True, where its reference, with its defaults, is also run on gradients that depend on the parameters;
or a list of the arguments of such runs.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

MODULES = [import_module(f"families.{module.name}") for module in iter_modules(__path__)]


def collected(name: str) -> dict[str, Any]:
    """All entries of this name in the modules, which may have none."""
    return {key: x for module in MODULES for key, x in getattr(module, name, {}).items()}


def reference_of(recipe: str) -> Any:
    return next(getattr(module, recipe) for module in MODULES if recipe in getattr(module, "CONFIGURATIONS", {}))
