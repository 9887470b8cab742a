"""Pieces that set the norm of a leaf's update, and pieces that remove a direction from it."""
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families.layers import project_where_orthogonal

import gradtx as gx
from gradtx.core import leaves_by_path


def once(tx, g, params=None):
    params = jnp.zeros_like(g) if params is None else params
    return tx.update(g, tx.init(params), params)[0]


def length(x):
    return float(np.linalg.norm(np.asarray(x, np.float64)))


@pytest.mark.parametrize("of_g", [1e-37, 1e-30, 1.0, 1e30, 1e37])
@pytest.mark.parametrize("of_param", [1e-30, 1.0, 1e30])
def test_norms_are_exact_at_any_scale(of_g, of_param):
    g, params = jnp.array([3.0, -2.0, 1.0]) * of_g, jnp.array([[0.5, 1.0, 2.0]])[0] * of_param
    for tx, expected in (
        (gx.normalize(), 1.0),
        (gx.normalize("both"), 1.0),
        (gx.trust_ratio(), length(params)),
        (gx.graft(gx.emit_params(), gx.identity()), length(params)),
        (gx.project_out(keep_norm=True), length(g)),
        (gx.clip_by_norm(of_g), of_g),
    ):
        assert abs(length(once(tx, g, params)) / expected - 1) < 1e-6, tx


def test_normalized_over_both_sides():
    """Of rank 1, signs; of any scale, also where one vector is far below the others; zeros stay."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(3), rng.standard_normal(4)
    tx = gx.normalize("both")
    for scale in (1e-30, 1.0, 1e30):
        u = once(tx, jnp.asarray(scale * np.outer(a, b), jnp.float32))
        assert np.allclose(u, np.sign(np.outer(a, b)), rtol=1e-6)
    g = rng.standard_normal((3, 4)) * np.array([1.0, 1e-25, 0.0])[:, None]
    norms = np.linalg.norm(g, axis=0) * np.linalg.norm(g, axis=1, keepdims=True)
    assert np.allclose(once(tx, jnp.asarray(g, jnp.float32)), np.linalg.norm(g) * g / np.where(norms, norms, 1))


@pytest.mark.parametrize("tx", [gx.clip_by_rms(), gx.unit_rms(), gx.scale_by_param_rms()], ids=repr)
def test_without_coordinates_nothing_is_divided_by_0(tx):
    with jax.disable_jit(), jax.debug_nans(True):
        assert once(tx, jnp.zeros((0, 3)), jnp.zeros((0, 3))).shape == (0, 3)


def test_the_ratio_is_1_where_a_norm_is_0():
    g = jnp.array([3.0, 4.0])
    tx = gx.trust_ratio(0.1, eps=0.5)
    assert (once(tx, g) == g).all()
    assert (once(tx, 0 * g, g) == 0).all()
    assert (once(gx.trust_ratio(0.1, weight_decay=0.5), 0 * g, g) == 0.5 * g).all()
    assert abs(length(once(gx.trust_ratio(0.1, bounds=(2.0, 3.0)), g)) - 0.2) < 1e-7  # φ(0) is 2


@pytest.mark.parametrize("of_param, reckoned", [(0.5, 2.0), (2.5, 2.5), (50.0, 3.0)])
def test_bounds_apply_to_the_norm_of_the_parameter(of_param, reckoned):
    u = once(gx.trust_ratio(0.1, bounds=(2.0, 3.0)), jnp.array([3.0, 4.0]), jnp.array([of_param, 0.0]))
    assert abs(length(u) - 0.1 * reckoned) < 1e-6


def test_lars_and_optax_weigh_the_decay_differently():
    g, params = jnp.array([3.0, 4.0]), jnp.array([0.0, -8.0])
    ours = once(gx.trust_ratio(weight_decay=0.5), g, params)
    theirs = optax.chain(optax.add_decayed_weights(0.5), optax.scale_by_trust_ratio())
    assert np.allclose(ours, (g + params / 2) * 8 / (5 + 4))
    assert np.allclose(theirs.update(g, theirs.init(params), params)[0], (g + params / 2) * 8 / 3)


def test_fromage_rescale_keeps_the_norm_and_does_not_cancel():
    w, c = np.array([3.0, 4.0]), np.float32(1e-3)
    u = once(gx.fromage_rescale(1e-3), jnp.array([-4.0, 3.0]) * c, jnp.asarray(w, jnp.float32))
    exact = (w + np.array([-4.0, 3.0]) * np.float64(c)) / np.sqrt(1 + np.float64(c) ** 2) - w
    assert np.max(np.abs(u - exact)) < 1e-6 * np.max(np.abs(exact))
    assert abs(length(w + np.asarray(u, np.float64)) - 5) < 1e-8
    alone = once(gx.fromage_rescale(1e-3), jnp.zeros(2), jnp.asarray(w, jnp.float32))  # −5e-7 of w: 1 − 1/√ is 6% off
    assert np.allclose(alone, w * np.expm1(-0.5 * np.log1p(np.float64(c) ** 2)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), ()])
def test_the_remainder_is_orthogonal(shape):
    rng = np.random.default_rng(0)
    g, params = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(2))
    for tx in (gx.project_out(), gx.project_out(keep_norm=True)):
        assert abs(np.vdot(once(tx, g, params), params)) < 1e-6
    for keep in (False, True):
        assert np.allclose(once(gx.project_out(keep), 3 * params, params), 0, atol=1e-6)
        assert (once(gx.project_out(keep), g, 0 * params) == g).all()
    assert (once(gx.project_out(keep_norm=True), 3 * params, params) == 0).all()  # and no rounding made long


@pytest.mark.parametrize("axes", ["in in out", "out in in", "in out in"])
def test_the_mean_over_inputs(axes):
    g = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)), jnp.float32)
    u = once(gx.layout(gx.centralize(), axes), g)
    inputs = tuple(i for i, role in enumerate(axes.split()) if role == "in")
    assert np.allclose(np.mean(u, inputs), 0, atol=1e-6)
    assert np.allclose(g - u, np.mean(g, inputs, keepdims=True), atol=1e-6)
    assert (once(gx.centralize(), g[0, 0]) == g[0, 0]).all()
    z, expected = jnp.array([[1 + 0j, 2], [3, 8]]), jnp.array([[-0.5 + 0j, 0.5], [-2.5, 2.5]])
    assert (once(gx.layout(gx.centralize(), "out in"), z) == expected).all()


def test_channels_then_the_layer_then_nothing():
    """A gradient orthogonal to each column, to the matrix alone, and to neither."""
    w = np.array([[3.0, 1.0], [4.0, 2.0]])
    columns, layer, neither = (
        np.array([[4.0, -2.0], [-3.0, 1.0]]),
        np.array([[1.0, -5.0], [1.0, -1.0]]),
        np.ones((2, 2)),
    )
    a = np.array([[1.0, 2.0], [3.0, 5.0]])
    for g, expected in (
        (columns, a - w * (a * w).sum(0) / (w * w).sum(0)),
        (layer, a - w * (a * w).sum() / (w * w).sum()),
        (neither, a),
    ):
        tx = gx.project_if_orthogonal(gx.chain(gx.scale(0.0), gx.add_constant(1.0), emit(a)))
        assert np.allclose(once(tx, jnp.asarray(g, jnp.float32), jnp.asarray(w, jnp.float32)), expected, atol=1e-5)
        assert np.allclose(project_where_orthogonal(a, g, w, 0.1), expected)


def emit(a):
    """A piece that multiplies by `a`."""
    return gx.pair(lambda params: (), lambda updates, state, params=None: (updates * a.astype("float32"), state))


matrix = jnp.ones((3, 4))


@pytest.mark.parametrize(
    "act, error, words",
    [
        (lambda: gx.trust_ratio(bounds=3.0), TypeError, "trust_ratio: bounds must be None or two numbers"),
        (lambda: gx.trust_ratio(bounds=(1.0, 2.0, 3.0)), TypeError, "bounds must be None or two numbers"),
        (lambda: gx.trust_ratio(bounds=(2.0, 1.0)), ValueError, "bounds must be two numbers, 0 or more and in order"),
        (lambda: gx.trust_ratio(bounds=(-1.0, 1.0)), ValueError, "0 or more and in order"),
        (lambda: gx.trust_ratio(bounds=(0.0, float("nan"))), ValueError, "0 or more and in order"),
        (lambda: gx.trust_ratio(0.0), ValueError, "trust_ratio: coefficient must be a finite number above 0"),
        (lambda: gx.trust_ratio(where="x").init({"w": matrix}), ValueError, "trust_ratio: where='x' chooses no"),
        (
            lambda: gx.centralize().init({"a": jnp.ones((2, 3, 4))}),
            ValueError,
            r"^centralize: the axes of 'a' are in doubt \(3 axes: a convolution, heads or stacked layers\?\): write",
        ),
        (
            lambda: gx.sgdp().init({"a": jnp.ones((2, 3, 4))}),
            ValueError,
            "^project_if_orthogonal: the axes of 'a' are in doubt",
        ),
        (lambda: gx.graft(gx.adam(), "sgd"), TypeError, "graft: direction must be a transformation"),
        (lambda: gx.orthograd(3), TypeError, r"chain: links\[1\] must be a transformation"),
        (lambda: gx.lamb().update(matrix, gx.lamb().init(matrix)), ValueError, "needs the parameters"),
        (
            lambda: gx.normalize().update({}, gx.adam().init({}), {}, value=1.0),
            TypeError,
            "unexpected argument 'value'",
        ),
    ],
)
def test_bad_input(act, error, words):
    with pytest.raises(error, match=words):
        act()


VECTORS = {  # (path, shape, layout, over): the axes of each vector
    ("dense/kernel", (3, 4), None, "inputs"): (0,),
    ("dense/weight", (3, 4), None, "inputs"): (1,),
    ("dense/kernel", (3, 4), None, "outputs"): (1,),
    ("dense/kernel", (3, 4), None, "rows"): (1,),
    ("dense/weight", (3, 4), None, "columns"): (0,),
    ("embed/embedding", (5, 4), None, "inputs"): (1,),
    ("embed/embedding", (5, 4), None, "outputs"): (0,),
    ("dense/bias", (4,), None, "inputs"): (0,),
    ("dense/bias", (4,), None, "outputs"): (0,),
    ("dense/bias", (4,), None, "columns"): (0,),
    ("conv/kernel", (2, 3, 4, 5), None, "inputs"): (0, 1, 2),
    ("conv/kernel", (2, 3, 4, 5), None, "outputs"): (3,),
    ("layers/kernel", (2, 3, 4), "batch in out", "inputs"): (1,),
    ("layers/kernel", (2, 3, 4), "batch in out", "rows"): (2,),
    ("layers/kernel", (2, 3, 4), "batch in out", "leaf"): (1, 2),
}


@pytest.mark.parametrize("chosen", VECTORS, ids=lambda chosen: f"{chosen[0]}-{chosen[3]}")
def test_the_vectors_of_a_leaf(chosen):
    path, shape, axes, over = chosen
    g = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    size = np.sqrt(np.mean(g.astype(np.float64) ** 2, VECTORS[chosen], keepdims=True))
    count = np.prod([shape[axis] for axis in VECTORS[chosen]])
    reduced = gx.chain(gx.square(), gx.reduced(gx.identity(), over), gx.sqrt())
    for tx, expected in {
        gx.unit_rms(over): g / size,
        gx.normalize(over): g / size / np.sqrt(count),
        reduced: np.broadcast_to(size, shape),
    }.items():
        tx = gx.layout(tx, {path: axes} if axes else {})
        u, _ = tx.update({path: jnp.asarray(g)}, tx.init({path: jnp.asarray(g)}))
        np.testing.assert_allclose(u[path], expected, rtol=1e-6)


@pytest.mark.parametrize("piece", [gx.normalize, gx.unit_rms])
def test_vectors_of_a_leaf_in_doubt(piece):
    params = {"kernel": jnp.ones((2, 3, 4))}
    piece("rows").init(params)
    with pytest.raises(ValueError, match=f"^{piece.__name__}: the axes of 'kernel' are in doubt"):
        piece("outputs").init(params)


def test_scale_sgd_of_a_network():
    rng = np.random.default_rng(0)
    shapes = {"embed/embedding": (5, 4), "dense/kernel": (4, 3), "head/kernel": (4, 5), "head/bias": (5,)}
    params = {path: jnp.zeros(shape) for path, shape in shapes.items()}
    gradients = [{path: rng.standard_normal(shape) for path, shape in shapes.items()} for _ in range(3)]
    tx = gx.scale_sgd(1.0, momentum=0.5, heads="head/kernel")
    state = tx.init(params)
    assert {path for path in leaves_by_path(state.slots) if "head/kernel" in path}
    assert not any("embed" in path or "dense" in path for path in leaves_by_path(state.slots))
    m = np.zeros((4, 5))
    for g in gradients:
        u, state = tx.update(jax.tree.map(lambda x: jnp.asarray(x, "float32"), g), state, params)
        m = 0.5 * m + 0.5 * g["head/kernel"]
        for path, x in {**g, "head/kernel": m}.items():
            if path != "head/bias":
                np.testing.assert_allclose(u[path], -x / np.sqrt(np.mean(x**2, 0)), rtol=2e-6)
