"""Check that gradtx was installed with jax, jaxlib and what these need, and that it works."""

from importlib.metadata import distributions, requires

import jax.numpy as jnp

import gradtx as gx


def needed(name: str, seen: set[str]) -> set[str]:
    """The distribution and all that it requires, without extras."""
    if name not in seen:
        seen.add(name)
        for line in requires(name) or []:
            if ";" not in line:
                needed("".join(c if c.isalnum() or c in "-_." else " " for c in line).split()[0].lower(), seen)
    return seen


installed = {one.name.lower().replace("_", "-") for one in distributions()} - {"pip", "setuptools", "wheel"}
allowed = {name.replace("_", "-") for name in needed("jax", set()) | needed("jaxlib", set())} | {"gradtx"}
assert installed <= allowed, f"gradtx brings {sorted(installed - allowed)}"
params = jnp.ones(3)
tx = gx.adam(0.1)
params, state = tx.apply(params, tx.init(params), params)
assert jnp.allclose(params, 0.9), params
assert "adam" in dir(gx) and "plots" in dir(gx) and not hasattr(gx, "plots")  # which needs matplotlib
print("installed:", *sorted(installed))
