"""Groups of parameters: a transformation for each."""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import treedef_is_leaf

from gradtx.core import Context, Kind, Part, PerLeaf, Slots, Transformation, init_slots, leaves_by_path, path_of, run
from gradtx.core.arguments import function_of, sequence
from gradtx.core.axes import given, leaf_of
from gradtx.core.checks import FUNCTIONS
from gradtx.core.errors import said
from gradtx.core.root import distinct
from gradtx.core.transformation import TransformationLike
from gradtx.core.trees import Owned, differentiable, flatten_with_path, is_leaf
from gradtx.core.where import Paths, Where, chooser, within
from gradtx.pieces.elementwise import identity

WHOLE = ("value", "key", *FUNCTIONS)  # extra arguments that are the same for every group, whatever their shapes


class Rule(NamedTuple):
    """A group: the leaves that `where` chooses and no earlier rule chose."""

    name: str  # of its slots
    where: Any
    tx: Transformation
    optional: bool  # True if it may match no leaf
    said: str  # its name in errors


def _leaf(path: str, leaf: Any) -> Any:
    """The leaf that a function of (path, leaf) sees, as the user has it; None if it is absent."""
    array = leaf.content if isinstance(leaf, Owned) else leaf
    present = array is not None and differentiable(f"params[{path!r}]", array)
    return given(path, leaf_of(leaf)) if present else None


class Cut(NamedTuple):
    """The leaves of a tree, None included, and the name of the rule for each."""

    tree: Any
    leaves: list[Any]
    names: list[str | None]

    def to(self, name: str, like: Any) -> Any:
        """Return a tree of this structure, with None for the leaves of other groups."""
        return self.tree.unflatten(x if n == name else None for x, n in zip(self.tree.flatten_up_to(like), self.names))

    def argument(self, name: str, x: Any) -> Any:
        """Return an extra argument, cut to the group if it has the structure of this tree."""
        if treedef_is_leaf(self.tree):  # any argument has this structure, `value` too: compare shapes
            leaf, shape = self.leaves[0], getattr(x, "shape", ())
            return self.to(name, x) if leaf and shape in (leaf.shape, (*leaf.shape, 2)) else x
        try:
            return self.to(name, x)
        except ValueError:
            return x


def cut(place: str, rules: list[Rule], params: Any, check: bool = True) -> Cut:
    """Assign each leaf to the first rule that chooses it; an absent leaf (None, or an integer) has no rule.

    With `check`, raise if a rule that is not optional matches no leaf. Absent leaves may belong to another group: a
    pattern that matches only such leaves is accepted, and so is a function that matches none, if there are absent
    leaves.
    """
    flat, tree = flatten_with_path(params, is_leaf)
    leaves = {path_of(path): _leaf(path_of(path), leaf) for path, leaf in flat}
    here = [path for path, leaf in leaves.items() if leaf]
    names: dict[str, str | None] = dict.fromkeys(leaves)

    def chosen(rule: Rule, paths: Iterable[str]) -> list[str]:
        chooses = chooser(rule.where)
        answers = {path: chooses(path, leaves[path]) for path in paths}
        for path, answer in answers.items():
            if not isinstance(answer, (bool, np.bool_)):
                raise TypeError(f"{rule.said} must return True or False for {path!r}, got {said(answer)}")
        return [path for path, answer in answers.items() if answer]

    for rule in rules:
        if check and isinstance(rule.where, Paths) and not isinstance(rule.where, Labels):
            rule.where.check(rule.said, leaves)
        new = chosen(rule, [path for path in here if names[path] is None])
        names |= dict.fromkeys(new, rule.name)
        if new or rule.optional or not (here and check):
            continue
        absent = [path for path, leaf in leaves.items() if not leaf]
        if not (chosen(rule, absent) if isinstance(rule.where, str) else absent):
            taken = chosen(rule, here)
            why = f"earlier rules chose {', '.join(taken)}" if taken else f"there are {', '.join(here)}"
            raise ValueError(f"{rule.said} chooses no parameter; {why}")
    if left := [path for path in here if names[path] is None]:
        raise ValueError(f"{place}: no rule chooses {', '.join(left)}: pass a default")
    return Cut(tree, list(leaves.values()), list(names.values()))


def _text(where: Any) -> str:
    return getattr(where, "__name__", repr(where))


class Groups(Transformation):
    """Base of combinators by group: each rule's transformation runs on its group as if there were no other leaves."""

    elementwise = True

    def groups(self) -> list[Rule]:
        """Return the rules in their order."""
        raise NotImplementedError(f"{type(self).__name__} must define groups")

    @property
    def fed(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(self.parts())

    @property
    def linear(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(rule.tx.linear for rule in self.groups())

    def cut(self, params: Any, check: bool = True) -> Cut:
        """Assign each leaf to a rule. With `check`, as in init, raise if a rule matches no leaf."""
        return cut(type(self).__name__, self.groups(), params, check)

    def init_tree(self, params: Any) -> Slots:
        parts = self.cut(params)
        slots = {rule.name: init_slots(rule.tx, parts.to(rule.name, params)) for rule in self.groups()}
        return {name: kept for name, kept in slots.items() if kept}

    def params_of(self, name: str, params: Any, slots: Slots) -> Any:
        return self.cut(params, check=False).to(name, params)

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        parts, new = self.cut(updates, check=False), {}
        out = [None] * len(parts.names)
        for name, _, tx, *_ in self.groups():
            params = None if context.params is None else parts.to(name, context.params)
            extra = {key: x if key in WHOLE else parts.argument(name, x) for key, x in context.extra.items()}
            own = context._replace(params=params, extra=extra)
            theirs, new[name] = run(tx, parts.to(name, updates), slots.get(name, {}), own)
            out = [u if n == name else o for u, n, o in zip(parts.tree.flatten_up_to(theirs), parts.names, out)]
        return parts.tree.unflatten(out), {name: kept for name, kept in new.items() if kept}


class Labels(Paths):
    """The label of a path, or of the branch that holds it; prints as the dict that makes it."""

    def __call__(self, path: str, leaf: Any) -> Any:
        return next((label for branch, label in self.items() if within(path, branch)), None)

    def bearing(self, label: str) -> Callable[[str, Any], bool]:
        return lambda path, leaf: self(path, leaf) == label


def _labels(place: str, value: Any) -> Any:
    if value is None or isinstance(value, Labels):
        return value
    if any(not isinstance(leaf, str) for leaf in jax.tree.leaves(value)):
        fix = ": call it with the parameters" if callable(value) else ""
        raise TypeError(f"{place} must be a tree of strings, got {said(value)}{fix}")
    return Labels(leaves_by_path(value))


class partition(Groups, init=False):
    """Run a transformation on each group of parameters; the first rule that chooses a parameter has it.

    u = a₁(g₁), a₂(g₂), …, with g₁, g₂, … the updates of the groups

    Each transformation sees its group alone: norms, parameters, and extra arguments shaped like the parameters are cut
    to the group. Its state is kept under the name of its rule.

    Args:
      rules: A dict of transformations. A key is a pattern of paths, `"*/bias"` or `"layers/*/attn/**"` (`*` is any
        name, `**` any number of names); a function of (path, leaf), such as `is_matrix`, where the leaf has `shape`,
        `ndim`, `size` and `dtype`; or, with `labels`, a label.
      default: The transformation for the parameters that no rule chooses. None to raise if there are any.
      labels: A tree of strings, whose leaves may stand for whole branches of the parameters.
      optional: The keys of the rules that may choose no parameter.

    Raises:
      ValueError: A parameter has no rule; a rule chooses no parameter, or only parameters of earlier rules; or a label
        belongs to no rule or to no parameter.
      TypeError: A function does not return a boolean.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = partition({"b": gx.scale(-1.0)}, default=gx.clip_by_global_norm(1.0))
    >>> params = {"w": jnp.zeros(2), "b": jnp.zeros(1)}
    >>> tx.update({"w": jnp.array([3.0, 4.0]), "b": jnp.array([12.0])}, tx.init(params))[0]
    {'b': Array([-12.], dtype=float32), 'w': Array([0.6, 0.8], dtype=float32)}
    >>> partition({"hot": gx.scale(-1.0), "cold": gx.scale(-0.1)}, labels={"w": "cold", "b": "hot"})
    partition(
        {'hot': scale(-1.0), 'cold': scale(-0.1)},
        labels={'b': 'hot', 'w': 'cold'},
    )
    """

    rules: tuple[Any, ...]  # the keys, then None for the default
    members: tuple[Transformation, ...]
    labels: Annotated[Any, Kind(_labels)] = None
    optional: tuple[Any, ...] = ()

    def __init__(
        self,
        rules: Mapping[Any, TransformationLike] | tuple[Any, ...],
        default: TransformationLike | None = None,
        *,
        labels: Any = None,
        optional: Any = (),
        members: tuple[Transformation, ...] = (),
    ) -> None:
        if isinstance(rules, Mapping):  # otherwise the fields, from dataclasses.replace
            if bad := [key for key in rules if not isinstance(key, str) and (labels is not None or not callable(key))]:
                raise TypeError(f"partition: a rule must be a pattern, a function, or a label, got {said(bad[0])}")
            for key in filter(callable, rules):
                function_of(f"partition: the rule {_text(key)}", key, "path", "leaf")
            members = tuple(self.coerce(f"partition: rules[{_text(key)}]", tx) for key, tx in rules.items())
            rules = tuple(rules.keys())
            if isinstance(default, Mapping):
                raise TypeError(
                    f"partition: default must be a transformation, got {said(default)}. Pass labels as labels=…"
                )
            if default is not None:
                rules, members = (*rules, None), (*members, self.coerce("partition: default", default))
        if not isinstance(rules, tuple) or len(members) != len(rules):
            raise TypeError(f"partition: rules must be a dict of transformations, got {said(rules)}")
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "optional", optional)
        self.__post_init__()

    def __post_init__(self) -> None:
        one = isinstance(self.optional, str) or callable(self.optional)
        several = (self.optional,) if one else tuple(sequence("partition: optional", self.optional))
        object.__setattr__(self, "optional", several)
        super().__post_init__()
        keys = [key for key in self.rules if key is not None]
        labels = self.labels.values() if self.labels else ()
        for name, key in [*(("optional", key) for key in self.optional), *(("labels", label) for label in labels)]:
            if key not in keys:
                known = ", ".join(map(_text, keys)) or "none"
                raise ValueError(f"partition: {name} has {_text(key)}, which is not a rule; the rules are {known}")

    def _arguments(self) -> list[str]:
        shown = {key: f"{_text(key)}: {tx!r}" for key, tx in zip(self.rules, self.members)}
        default = [f"default={self.members[-1]!r}"] if shown.pop(None, "") else []
        rules = ", ".join(shown.values())
        if len(rules) > 70 or "\n" in rules:
            rules = "\n" + textwrap.indent("".join(f"{rule},\n" for rule in shown.values()), "    ")
        labels = [f"labels={self.labels!r}"] if self.labels else []
        optional = [f"optional=({', '.join(map(_text, self.optional))},)"] if self.optional else []
        return [f"{{{rules}}}", *default, *labels, *optional]

    def parts(self) -> dict[str, Transformation]:
        return {group.name: group.tx for group in self.groups()}

    def groups(self) -> list[Rule]:
        def called(key: Any) -> str:
            return key if isinstance(key, str) else "default" if key is None else getattr(key, "__name__", "function")

        out = []
        for name, key, tx in zip(distinct([*map(called, self.rules)]), self.rules, self.members):
            where = self.labels.bearing(key) if self.labels and key is not None else key
            out.append(Rule(name, where, tx, key is None or key in self.optional, f"partition: the rule {_text(key)}"))
        return out

    def cut(self, params: Any, check: bool = True) -> Cut:
        paths = [path_of(path) for path, _ in flatten_with_path(params, is_leaf)[0]]
        if self.labels and check:
            self.labels.check("partition: labels", paths)
        return super().cut(params, check)


class zero(PerLeaf):
    """Replace the updates by 0, including NaN."""

    linear = True
    formula = "u = 0"

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return jnp.zeros_like(g), slots


class masked(Groups):
    """Run a transformation on some of the parameters; it does not see the others.

    u = inner(g) where chosen; elsewhere g, or 0

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      where: The parameters that `inner` updates: a path pattern, which must match a parameter; a function of (path,
        leaf), where the leaf has `shape`, `ndim`, `size` and `dtype`; a tree of booleans, whose leaves may stand for
        whole branches; or None for all.
      otherwise: The updates of all other parameters: `"identity"` leaves them unchanged, and `"zero"` makes them 0.

    Raises:
      ValueError: A pattern matches no parameter, or `otherwise` is another string.
      TypeError: A function does not return a boolean.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = masked(gx.scale(-0.5), "b", otherwise="zero")
    >>> tx.update({"w": jnp.ones(2), "b": jnp.ones(1)}, tx.init({"w": jnp.zeros(2), "b": jnp.zeros(1)}))[0]
    {'b': Array([-0.5], dtype=float32), 'w': Array([0., 0.], dtype=float32)}
    """

    inner: Part
    where: Where
    otherwise: Literal["identity", "zero"]

    def groups(self) -> list[Rule]:
        said = f"masked: where={_text(self.where)}"
        others = identity() if self.otherwise == "identity" else zero()
        return [
            Rule("inner", self.where, self.inner, not isinstance(self.where, str), said),
            Rule("otherwise", None, others, True, ""),
        ]


class freeze(Groups):
    """Zero the updates of some parameters, NaN included, and leave the others unchanged.

    u = 0 where frozen; elsewhere g

    Put it last in a chain to freeze these parameters. Pieces before it still keep state for their gradients;
    `partition({where: freeze()}, default=…)` keeps none.

    Args:
      where: The parameters to freeze: a path pattern, which must match a parameter; a function of (path, leaf), where
        the leaf has `shape`, `ndim`, `size` and `dtype`; a tree of booleans, whose leaves may stand for whole branches;
        or None for all.

    Raises:
      ValueError: A pattern matches no parameter.
      TypeError: A function does not return a boolean.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.chain(gx.sgd(0.5), freeze("b"))
    >>> tx.update({"w": jnp.ones(2), "b": jnp.ones(1)}, tx.init({"w": jnp.zeros(2), "b": jnp.zeros(1)}))[0]
    {'b': Array([0.], dtype=float32), 'w': Array([-0.5, -0.5], dtype=float32)}
    """

    where: Where = None

    def groups(self) -> list[Rule]:
        said = f"freeze: where={_text(self.where)}"
        return [
            Rule("frozen", self.where, zero(), not isinstance(self.where, str), said),
            Rule("otherwise", None, identity(), True, ""),
        ]
