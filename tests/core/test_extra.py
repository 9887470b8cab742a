"""The extra arguments of `update`: value, key, grad_fn, value_fn and hvp."""
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near

import gradtx as gx
from gradtx.core import walk

params = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([2.0, -1.0])}
key = jax.random.key(0)


def loss(params):
    return jnp.sum(jnp.real(params["w"] * jnp.conj(params["w"])) ** 2) + jnp.sum(jnp.real(params["b"] ** 4))


def grad(params):
    return jax.tree.map(jnp.conj, jax.grad(loss)(params))


def product(v):
    return jax.jvp(grad, (params,), (v,))[1]


plateau, sam, diagonal = gx.reduce_on_plateau(), gx.sam(gx.sgd(0.1)), gx.hessian_diagonal()


def update(tx, params=params, **extra):
    return lambda: tx.update(params, tx.init(params), params, **extra)


def returning(result):
    return lambda tree: result


def without_b(params):
    return {"w": params["w"]}


BAD = {
    # missing: the piece, what, and how
    "no value": (update(gx.chain(gx.sgd(), plateau)), ValueError, r"^reduce_on_plateau needs .*'value'.*, value=…\)"),
    "no grad_fn": (update(gx.chain(sam)), ValueError, r"^sam needs the argument 'grad_fn': .*, params, grad_fn=…\)"),
    "no hvp": (update(gx.sophia(), key=key), ValueError, r"^hessian_diagonal needs the argument 'hvp': .*hvp=…\)"),
    "no key": (update(gx.adahessian(), hvp=product), ValueError, r"^hessian_diagonal needs the argument 'key'"),
    "None": (update(sam, grad_fn=None), ValueError, "^sam needs the argument 'grad_fn'"),
    "no params": (
        lambda: sam.update(params, sam.init(params), grad_fn=grad),
        ValueError,
        r"^sam needs the parameters: call update\(updates, state, params\)",
    ),
    # unknown
    "a typo": (
        update(sam, grad_fun=grad),
        TypeError,
        "'grad_fun': did you mean 'grad_fn'. This optimizer takes grad_fn",
    ),
    "one too many": (
        update(gx.sam(gx.sophia()), grad_fn=grad, key=key, hvp=product, value=1.0),
        TypeError,
        "unexpected argument 'value'. This optimizer takes grad_fn, hvp, key",
    ),
    # value and key
    "a string for value": (
        update(plateau, value="low"),
        TypeError,
        "^reduce_on_plateau: value must be one real number",
    ),
    "a key for value": (update(plateau, value=key), TypeError, "^reduce_on_plateau: value must be one real number"),
    "values": (update(plateau, value=jnp.ones(2)), ValueError, r"one real number, got float32\[2\]"),
    "a complex value": (update(plateau, value=1j), ValueError, "one real number, got ~?complex"),
    "a number for key": (update(diagonal, hvp=product, key=0), TypeError, r"^hessian_diagonal: key must be one random"),
    "keys": (update(diagonal, hvp=product, key=jax.random.split(key)), TypeError, "key must be one random key, .*0"),
    "old keys": (update(diagonal, hvp=product, key=jnp.zeros((2, 2), "uint32")), TypeError, "must be one random key"),
    # functions
    "a tree for grad_fn": (update(sam, grad_fn=params), TypeError, "^grad_fn must be a function of a tree like the pa"),
    "a number for hvp": (
        update(diagonal, hvp=1.0, key=key),
        TypeError,
        "^hvp must be a function of a tree like",
    ),
    "grad_fn of nothing": (
        update(sam, grad_fn=returning(None)),
        ValueError,
        r"^grad_fn\(…\) has nothing for params\['b",
    ),
    "hvp without a leaf": (
        update(diagonal, hvp=without_b, key=key),
        ValueError,
        r"^hvp\(…\) has nothing for params\['b'\]: it is {'w': float32",
    ),
    "grad_fn with None": (
        update(sam, grad_fn=lambda params: {**params, "w": None}),
        ValueError,
        r"^grad_fn\(…\) has nothing for params\['w'\]",
    ),
    "the loss too": (
        update(sam, grad_fn=jax.value_and_grad(loss)),
        ValueError,
        r"^grad_fn\(…\) has nothing for params",
    ),
    "the loss instead": (update(sam, grad_fn=loss), ValueError, r"^grad_fn\(…\) has nothing for params\['b'\]"),
    "a leaf too many": (
        update(sam, grad_fn=lambda params: {**params, "c": jnp.ones(1)}),
        ValueError,
        r"^grad_fn\(…\)\['c'\] is unexpected: expected 'b', 'w', got 'b', 'c', 'w'",
    ),
    "a shape": (
        update(diagonal, hvp=lambda v: {**v, "b": jnp.ones(3)}, key=key),
        ValueError,
        r"^hvp\(…\)\['b'\] must have shape \(2,\), got \(3,\)",
    ),
    "integers": (
        update(sam, grad_fn=lambda params: jax.tree.map(lambda x: x.astype(int), params)),
        TypeError,
        r"^grad_fn\(…\)\['b'\] must be float32, got int32",
    ),
    "complex of real": (
        update(sam, grad_fn=lambda params: jax.tree.map(lambda x: x + 0j, params)),
        TypeError,
        r"^grad_fn\(…\)\['b'\] must be float32, got complex64",
    ),
    "other containers": (
        update(sam, params=[jnp.ones(1)], grad_fn=tuple),
        ValueError,
        r"^grad_fn\(…\): the containers of the trees .* differ",
    ),
}


@pytest.mark.parametrize("act, error, words", BAD.values(), ids=BAD)
@pytest.mark.promotes("its models, as users write them")
def test_bad_extra_arguments(act, error, words):
    with pytest.raises(error, match=words):
        act()


def test_an_error_in_a_users_function_is_not_changed():
    def broken(params):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        update(sam, grad_fn=broken)()


# ---------------------------------------------------------------- the arguments of the functions
def seen_by(tx, params, updates, out=None):
    """The arguments of grad_fn and hvp in one update, and the update; the functions return the dtype `out`."""
    seen = {}

    def recording(name):
        def function(tree):
            seen[name] = tree
            return jax.tree.map(lambda x: x.astype(out or x.dtype), tree)

        return function

    names = {name for piece in walk(tx) for name in piece.needs} & {"grad_fn", "hvp"}
    extra = {"key": key} if "hvp" in names else {}
    extra |= {name: recording(name) for name in names}
    return seen, tx.update(updates, tx.init(params), params, **extra)[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64"])
@pytest.mark.parametrize("out", [None, "float32"])
def test_a_function_receives_trees_of_the_users_dtype(dtype, out):
    if dtype == "complex64":
        out = None
    mine = {"w": jnp.ones((2, 3), dtype), "rest": [jnp.ones(2, "float32"), None]}
    updates = jax.tree.map(jnp.ones_like, mine)
    seen, u = seen_by(gx.chain(gx.sam(gx.sgd(0.1)), gx.adahessian()), mine, updates, out)
    for tree in (*seen.values(), u):
        assert jax.tree.structure(tree) == jax.tree.structure(mine)
        assert jax.tree.map(lambda x: (x.dtype, x.shape), tree) == jax.tree.map(lambda x: (x.dtype, x.shape), mine)


@pytest.mark.promotes("its models, as users write them")
def test_a_leaf_without_a_gradient_is_the_parameter_for_grad_fn_and_zero_for_hvp():
    mine = {"w": jnp.array([3.0]), "n": jnp.array([7]), "frozen": jnp.array([5.0])}

    def of_mine(params):
        return jnp.sum(params["w"] ** 2 * params["frozen"] * params["n"])

    gradient = jax.grad(of_mine, allow_int=True)
    hvp = lambda v: jax.jvp(gradient, (mine,), (v,))[1]  # noqa: E731
    updates = {**gradient(mine), "frozen": None}
    u, _ = gx.sam(gx.scale(1.0), radius=1.0).update(updates, gx.sgd().init(mine), mine, grad_fn=gradient)
    assert u["frozen"] is None and u["n"].dtype == jax.dtypes.float0
    assert_near(u["w"], jnp.array([2 * 4.0 * 5 * 7]))
    u, _ = diagonal.update(updates, diagonal.init(mine), mine, hvp=hvp, key=key)
    assert u["frozen"] is None and u["n"].dtype == jax.dtypes.float0
    assert_near(u["w"], jnp.array([2.0 * 5 * 7]))


@pytest.mark.parametrize("wrap", ["partition", "masked", "partition of one array"])
def test_inside_groups_the_other_parameters_stay(wrap):
    if wrap == "partition of one array":  # whose shape is that of a value
        mine, tx = jnp.array(2.0), gx.partition({"x": sam, "y": plateau}, default=gx.identity(), optional=("x", "y"))
        u, _ = tx.update(mine, tx.init(mine), mine, grad_fn=lambda x: x, value=1.0)
        assert_near(u, mine)
        return
    inner = gx.chain(gx.sam(gx.identity(), radius=1.0), gx.scale(2.0))
    make = {
        "partition": lambda: gx.partition({"w": inner}, default=gx.hessian_diagonal()),
        "masked": lambda: gx.masked(inner, "w", otherwise="identity"),
    }
    tx = make[wrap]()
    extra = {"hvp": product, "key": key} if wrap == "partition" else {}
    u, _ = tx.update(grad(params), tx.init(params), params, grad_fn=grad, **extra)
    away = grad(params)["w"] / jnp.linalg.norm(grad(params)["w"])
    assert_near(u["w"], 2 * grad({**params, "w": params["w"] + away})["w"], 2e-6)
    if wrap == "partition":
        assert_near(u["b"], 12 * params["b"] ** 2)


def test_complex_parameters_are_pairs_of_reals():
    """The functions take the convention of the updates: the conjugate of what jax.grad returns."""
    z = {"w": jnp.array([1 + 2j, -0.5 + 1j]), "b": jnp.ones(1)}
    pairs = {"w": jnp.array([[1.0, 2.0], [-0.5, 1.0]]), "b": jnp.ones(1)}

    def of_pairs(pairs):
        return loss({**pairs, "w": jax.lax.complex(pairs["w"][:, 0], pairs["w"][:, 1])})

    for tx in (gx.sam(gx.sgd(1.0)), gx.asam(gx.sgd(1.0)), gx.adahessian(b1=0.0)):
        results = []
        for mine, gradient in ((z, grad), (pairs, jax.grad(of_pairs))):
            hvp = lambda v: jax.jvp(gradient, (mine,), (v,))[1]  # noqa: B023, E731
            needs = {name for piece in walk(tx) for name in piece.needs}
            extra = {"grad_fn": gradient, "hvp": hvp, "key": key}
            extra = {name: x for name, x in extra.items() if name in needs}
            results.append(tx.update(gradient(mine), tx.init(mine), mine, **extra)[0])
        assert results[0]["w"].dtype == jnp.complex64
        assert_near(jnp.stack([results[0]["w"].real, results[0]["w"].imag], -1), results[1]["w"], 2e-6)


@pytest.mark.parametrize("jitted", [True, False])
def test_functions_are_closed_over_in_jit_scan_and_vmap(jitted):
    tx = gx.sam(gx.sophia(0.1, every_k=2), radius=0.1)
    traces = 0

    def step(state, scale):
        nonlocal traces
        traces += 1
        gradient = lambda params: jax.tree.map(lambda x: scale * x, grad(params))  # noqa: E731
        hvp = lambda v: jax.jvp(gradient, (params,), (v,))[1]  # noqa: E731
        u, state = tx.update(gradient(params), state, params, grad_fn=gradient, hvp=hvp, key=key)
        return state, u

    scales = jnp.array([1.0, 0.5, 2.0])
    expected, state = [], tx.init(params)
    with jax.disable_jit(not jitted):
        for scale in scales:
            state, u = (jax.jit(step) if jitted else step)(state, scale)
            expected.append(u)
    last, scanned = jax.lax.scan(step, tx.init(params), scales)
    assert_near(scanned, jax.tree.map(lambda *x: jnp.stack(x), *expected))
    assert_near(last, state)
    many = jax.vmap(step, (None, 0))(tx.init(params), scales)[1]
    for i, scale in enumerate(scales):
        assert_near(jax.tree.map(lambda x: x[i], many), step(tx.init(params), scale)[1])  # noqa: B023


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_functions_of_sharded_parameters(axis_type):
    tx, mine = gx.sam(gx.adahessian()), {"w": jnp.arange(64.0).reshape(16, 4)}
    gradient = jax.grad(lambda params: jnp.sum(params["w"] ** 3))

    def step(mine, state):
        def hvp(v):
            assert jax.typeof(v["w"]) == jax.typeof(mine["w"])  # the layout too
            return jax.jvp(gradient, (mine,), (v,))[1]

        return tx.update(gradient(mine), state, mine, grad_fn=gradient, hvp=hvp, key=key)[0]

    expected = step(mine, tx.init(mine))
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        mine = jax.device_put(mine, NamedSharding(mesh, PartitionSpec("x")))
        assert_near(jax.jit(step)(mine, tx.init(mine)), expected, 3e-6)


# ---------------------------------------------------------------- other libraries' pieces
@pytest.mark.promotes("Optax's arithmetic")
def test_another_librarys_functions_see_the_users_dtypes_and_give_numbers():
    mine = {"w": jnp.array([3.0, -4.0], "bfloat16")}
    seen = []

    def value_fn(params):
        seen.append(params["w"].dtype)
        return jnp.sum(params["w"].astype("float32") ** 2)

    tx = gx.chain(gx.sgd(1.0), optax.scale_by_backtracking_linesearch(15, increase_factor=1.0))
    g = jax.grad(value_fn)(mine)
    u, _ = tx.update(g, tx.init(mine), mine, value=value_fn(mine), grad=g, value_fn=value_fn)
    assert set(seen) == {jnp.dtype("bfloat16")}
    assert float(value_fn(gx.apply_updates(mine, u))) < 25 and u["w"].dtype == jnp.bfloat16


def test_functions_go_through_as_optax():
    tx = gx.as_optax(gx.chain(gx.sam(gx.sgd(0.1), radius=0.5)))
    both = optax.chain(optax.scale(1.0), tx)
    u, _ = both.update(grad(params), both.init(params), params, grad_fn=grad, value=1.0)
    assert_near(u, sam_by_hand(0.1, 0.5), 2e-6)


def sam_by_hand(rate, radius):
    g = grad(params)
    norm = np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(g)))
    away = jax.tree.map(lambda p, x: p + radius * x / norm, params, g)
    return jax.tree.map(lambda x: -rate * x, grad(away))
