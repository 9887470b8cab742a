"""States of PyTorch's optimizers, as `state_dict` gives them. PyTorch is not needed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradtx.core import State, Transformation, leaves_by_path
from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.core.kinds import integer
from gradtx.interop.correspondence import Leaf, Saved, Source, converted, count
from gradtx.serialization.restore import Restored

Convert = Mapping[str, Callable[[Any], Any]] | Callable[[str, Any], Any]
"""The changes of arrays between the layouts of two libraries: by path, or a function of (path, array)."""


@checked
def from_torch(
    tx: Any,
    params: Any,
    state_dict: Any,
    names: Mapping[str, int] | Sequence[str],
    *,
    convert: Convert | None = None,
    step: int | None = None,
    strict: bool = True,
) -> tuple[State, Restored]:
    """Convert the state of a PyTorch optimizer to the state of the same optimizer of gradtx.

    The next updates of `tx` are those that the PyTorch optimizer would have made. It converts the states of `Adam`,
    `AdamW`, `SGD`, `RMSprop`, `Adagrad`, `Adadelta`, `Adafactor`, `Adamax`, `NAdam`, `RAdam` and `Muon`. PyTorch is not
    imported: the arrays may be tensors on the CPU, or NumPy arrays.

    Hyperparameters are not converted: those of `tx` count. PyTorch's form is `amsgrad(correct_first=False)`,
    `nadam(warmup=True)` and `layout(muon(), library="torch")` for kernels (out, in). SGD with a dampening d is
    `chain(scale(1 − d), add_momentum(β), scale_by_learning_rate(η))`, or `averaged_momentum` if d = β: only its first
    momentum, which is g, is another. A `weight_decay` of optimizers other than AdamW and Muon is
    `chain(add_weight_decay(λ), tx)`. RAdam's ε is divided by √(1 − β₂ᵗ): pass a schedule.

    Args:
      tx: The optimizer that will use the state: a transformation of gradtx, or a pair (init, update) such as Optax's.
      params: The parameters of the optimizer.
      state_dict: The result of `optimizer.state_dict()`: a dict with `"state"` and `"param_groups"`.
      names: A dict from the paths of the parameters to PyTorch's indices, `{"dense/kernel": 0}`, or the paths in
        PyTorch's order: of the parameters that the optimizer was given.
      convert: A function of (path, array), or a dict from paths to functions of an array, which are applied to every
        array of these parameters: `{"dense/kernel": np.transpose}` if PyTorch's kernel is (out, in) and this one is
        (in, out). None to change nothing.
      step: The number of updates of the run; None to take the largest number of the state. SGD and Muon keep none,
        which a schedule would need.
      strict: If True, raise if a leaf would be fresh, or an array of the PyTorch state would be dropped.

    Returns:
      The state and a `Restored` report, which says for each leaf which one of the PyTorch state it is from.

    Raises:
      ValueError: With `strict`, a leaf would be fresh or dropped, as with another optimizer, or parameters that share
        an average have different numbers of updates. Always: `names` has an unknown path or index, an array has
        another shape, or `step` is below 0. The message has the paths.
      TypeError: `tx` is not a transformation, or `state_dict`, `names` or `convert` is of another type.

    >>> import gradtx as gx, jax.numpy as jnp, numpy as np
    >>> saved = {  # torch.optim.SGD([weight], lr=0.1, momentum=0.9).state_dict(), with arrays of NumPy
    ...     "state": {0: {"momentum_buffer": np.array([[1.0, 2.0]])}},
    ...     "param_groups": [{"lr": 0.1, "momentum": 0.9, "dampening": 0, "params": [0]}],
    ... }
    >>> tx, params = gx.sgd(0.1, momentum=0.9), {"kernel": jnp.ones((2, 1))}
    >>> state, report = gx.from_torch(tx, params, saved, ["kernel"], convert={"kernel": np.transpose})
    >>> state.slots["add_momentum"]["velocity"]["kernel"].T
    Array([[1., 2.]], dtype=float32)
    """
    tx = Transformation.coerce("from_torch: tx", tx)
    step = None if step is None else integer(0).convert("from_torch: step", step)
    source = _read(params, state_dict, names, convert)
    fix = ": convert={'path': np.transpose} transposes the arrays of a parameter, and names says whose they are"
    return converted("from_torch", tx, params, source, strict, step, fix)


def _read(params: Any, state_dict: Any, names: Any, convert: Any) -> Source:
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise TypeError(
            "from_torch: state_dict must be a dict with 'state' and 'param_groups', as optimizer.state_dict() returns, "
            f"got {said(state_dict)}"
        )
    shapes = {path: jnp.shape(leaf) for path, leaf in leaves_by_path(params).items()}
    groups = {int(i): group for group in state_dict["param_groups"] for i in group["params"]}
    paths = _paths(names, list(groups), list(shapes))
    source = Source("torch", [], [], [], [])
    arrays: dict[tuple[str, str], Leaf] = {}
    counts: dict[str | None, Leaf] = {}
    for key, fields in state_dict["state"].items():
        for name, value in fields.items():
            place, i = f"state/{key}/{name}", int(key)
            if value is None:
                continue
            if i not in paths:
                source.unknown.append(place)
                continue
            path = paths[i]
            x = _array(place, value)
            if name == "step":
                counts[path] = count("from_torch", place, x)
                continue
            if x.ndim or not shapes[path]:
                x = _changed(path, x, convert)
            if name == "momentum_buffer":
                muon, damped = "ns_steps" in groups[i], np.asarray(groups[i].get("dampening", 0)) != 0
                name = f"{'muon_' if muon else 'damped_' if damped else ''}{name}"
            if name in ("row_var", "col_var"):
                name, x = _factor(name, x, shapes[path])
            arrays[name, path] = Leaf(place, x)
    source.saved.append(Saved(arrays, counts))
    return source


def _paths(names: Any, indices: list[int], known: list[str]) -> dict[int, str]:
    """The path of each of PyTorch's parameters."""
    if isinstance(names, Mapping):
        pairs = [(i, path) for path, i in names.items()]
    elif isinstance(names, Sequence) and not isinstance(names, (str, bytes)):
        if len(names) != len(indices):
            raise ValueError(
                f"from_torch: names: expected a path for each of the {len(indices)} parameters of param_groups, got "
                f"{len(names)}"
            )
        pairs = list(zip(indices, names))
    else:
        raise TypeError(f"from_torch: names must be a dict of paths to indices or a list of paths, got {said(names)}")
    for i, path in pairs:
        if path not in known:
            raise ValueError(f"from_torch: names: expected a path of params ({', '.join(known[:6])}), got {path!r}")
        if i not in indices:
            raise ValueError(
                f"from_torch: names[{path!r}]: expected an index in param_groups ({', '.join(map(str, indices[:6]))}), "
                f"got {i!r}"
            )
    return dict(pairs)


def _array(place: str, value: Any) -> np.ndarray:
    try:
        x = np.asarray(value)
    except (TypeError, RuntimeError) as error:  # a tensor of another device or of bfloat16, or one that has a gradient
        why = "tensor.detach().cpu().float().numpy() makes one"
        raise TypeError(f"from_torch: {place!r}: expected an array of NumPy, got {said(value)}: {why}") from error
    if x.dtype.kind not in "biufc":
        raise TypeError(f"from_torch: {place!r}: expected an array of numbers, got {said(value)}")
    return x


def _changed(path: str, x: np.ndarray, convert: Any) -> np.ndarray:
    if isinstance(convert, Mapping):
        return np.asarray(convert[path](x)) if path in convert else x
    if convert is None:
        return x
    if not callable(convert):
        raise TypeError(
            f"from_torch: convert must be a function of (path, array), or a dict of functions, got {said(convert)}"
        )
    return np.asarray(convert(path, x))


def _factor(name: str, x: np.ndarray, shape: tuple[int, ...]) -> tuple[str, np.ndarray]:
    """The name and the numbers of one of Adafactor's averages, by the axis that it is over, also once transposed."""
    if x.shape == (*shape[:-1], 1):
        return "rows", x[..., 0]
    if x.shape == (*shape[:-2], 1, *shape[-1:]):
        return "columns", x[..., 0, :]
    return name, x
