"""`orthogonalize` on matrices of any shape, scale, rank, layout and precision."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families.matrix import orthogonal
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from streams import assert_near

import gradtx as gx
from gradtx.pieces.matrix import POLAR_EXPRESS


def apply(tx, tree):
    return tx.update(tree, tx.init(tree), tree)[0]


def with_singular_values(shape, s, seed=0):
    u, _, vt = np.linalg.svd(np.random.default_rng(seed).standard_normal(shape), full_matrices=False)
    return (u * s) @ vt


def singular_values(x):
    return np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)


# ---------------------------------------------------------------- the singular values
SHAPES = [(1, 1), (1, 7), (4, 4), (33, 8), (48, 64), (3, 2, 5, 4)]
BANDS = [  # the least singular value of g/‖g‖, and where they come in float32 and, with what rounding adds, bfloat16
    ("newton_schulz", 5, 1 / 500, (0.681, 1.203), (0.64, 1.22)),
    ("polar_express", 5, 1 / 900, (0.870, 1.124), (0.80, 1.14)),
    ("polar_express", 8, 1 / 900, (0.99999, 1.00001), (0.98, 1.02)),
    ("svd", 5, 1e-4, (0.99999, 1.00001), None),
]


@pytest.mark.parametrize("method, steps, floor, band, rough_band", BANDS)
def test_the_singular_values_reach_the_band(method, steps, floor, band, rough_band):
    matrices = {}
    for shape in SHAPES:
        values = np.geomspace(1, floor, min(shape[-2:]))
        values = np.maximum(values / np.linalg.norm(values), 1.01 * floor)
        assert values.min() > floor * np.linalg.norm(values)
        matrices[str(shape)] = with_singular_values(shape, values)
    for dtype, (low, high) in {"float32": band, "bfloat16": rough_band}.items() if rough_band else [(None, band)]:
        tx = gx.layout(gx.orthogonalize(method, steps, dtype=dtype), {"(3, 2, 5, 4)": "batch batch in out"})
        for scale in (1e-20, 1.0, 1e20):
            made = apply(tx, {name: jnp.asarray(scale * g, jnp.float32) for name, g in matrices.items()})
            for name, u in made.items():
                got = singular_values(u)
                assert u.dtype == jnp.float32 and low < got.min() and got.max() < high, (name, dtype, scale, got)


@pytest.mark.parametrize("steps", range(1, 9))
def test_each_step_of_polar_express_is_the_best_after_those_before(steps):
    """Of the singular values from 1e-3 to 1, the farthest from 1 on either side are equally far."""
    x = np.geomspace(1e-3, 1, 1_000_001)
    for a, b, c in POLAR_EXPRESS[:steps]:
        x = a * x + b * x**3 + c * x**5
    assert abs(x.min() + x.max() - 2) < 1e-10


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (6, 6), (40, 64)])
def test_it_is_the_nearest_orthogonal_matrix(shape, x64):
    g = np.random.default_rng(1).standard_normal(shape)
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    for method, steps in (("svd", 1), ("polar_express", 10)):
        tx = gx.orthogonalize(method, steps)  # pyright: ignore[reportArgumentType]
        assert np.abs(apply(tx, g) - u @ vt).max() < 1e-12
    for method in ("newton_schulz", "polar_express"):
        assert np.abs(apply(gx.orthogonalize(method), g) - orthogonal(g, method)).max() < 1e-12


@pytest.mark.parametrize("method", ["newton_schulz", "polar_express", "svd"])
def test_zero_stays_zero(method):
    tx, random = gx.orthogonalize(method, steps=8), np.random.default_rng(2)
    low = (random.standard_normal((6, 2)) @ random.standard_normal((2, 9))).astype(np.float32)
    out = apply(tx, {"zero": jnp.zeros((6, 9)), "low": jnp.asarray(low), "empty": jnp.zeros((0, 9))})
    assert not out["zero"].any() and out["empty"].shape == (0, 9)
    got = singular_values(out["low"])
    assert (got[:2] > 0.65).all() and (got[2:] < 2e-3).all()
    u, _, vt = np.linalg.svd(low, full_matrices=False)
    if method != "newton_schulz":
        assert np.abs(out["low"] - u[:, :2] @ vt[:2]).max() < 2e-3
    one = apply(tx, jnp.zeros((5, 3)).at[2, 1].set(-1e-30))
    assert abs(float(one[2, 1]) + 1) < 0.35 and jnp.count_nonzero(one) == 1


@pytest.mark.parametrize("method", ["newton_schulz", "svd"])
def test_a_matrix_with_a_non_finite_entry_becomes_nan(method):
    for bad in (jnp.nan, jnp.inf):
        out = apply(gx.orthogonalize(method), {"v": jnp.ones((3, 4)).at[1, 2].set(bad), "w": jnp.eye(3, 4)})
        assert jnp.isnan(out["v"]).all() and jnp.isfinite(out["w"]).all()


# ---------------------------------------------------------------- the axes
@pytest.mark.parametrize(
    "axes, shape, order, matrix",
    [
        ("batch batch in out", (2, 3, 5, 4), (0, 1, 2, 3), (5, 4)),
        ("batch out in", (2, 5, 4), (0, 1, 2), (5, 4)),
        ("in out batch", (5, 4, 3), (2, 0, 1), (5, 4)),
        ("out batch in", (4, 3, 5), (1, 2, 0), (5, 4)),
        ("out in in in", (6, 2, 3, 3), (0, 1, 2, 3), (6, 18)),
        ("in in in out", (3, 3, 2, 6), (0, 1, 2, 3), (18, 6)),
        ("out in batch in", (6, 2, 4, 3), (2, 1, 3, 0), (6, 6)),
    ],
)
def test_any_axes_are_a_matrix(axes, shape, order, matrix):
    g = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    stack = g.transpose(order).reshape(-1, *matrix)
    expected = np.stack([orthogonal(x.astype(np.float64)) for x in stack])
    expected = expected.reshape(np.array(shape)[list(order)]).transpose(np.argsort(order))
    assert_near(apply(gx.layout(gx.orthogonalize(), axes), g), expected, 1e-4)


@pytest.mark.parametrize(
    "axes, shape, parts",
    [
        ("in (3 out)", (5, 12), [np.s_[:, :4], np.s_[:, 4:8], np.s_[:, 8:]]),
        ("(3 out) in", (12, 5), [np.s_[:4], np.s_[4:8], np.s_[8:]]),
        ("(out 2) in", (8, 5), [np.s_[::2], np.s_[1::2]]),
        ("batch (2 out) in", (2, 8, 5), [np.s_[0, :4], np.s_[0, 4:], np.s_[1, :4], np.s_[1, 4:]]),
    ],
)
def test_parts_of_an_axis_are_matrices_of_their_own(axes, shape, parts):
    g = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    expected = np.empty(shape)
    for part in parts:
        expected[part] = orthogonal(g[part].astype(np.float64))
    assert_near(apply(gx.layout(gx.orthogonalize(), axes), g), expected, 1e-4)


@pytest.mark.parametrize(
    "rule, jax_factor, torch_factor",
    [("original", 1, 1.5), ("adam", 0.6, 0.6), ("spectral", 2 / 3, 1.5), ("sign", 1 / 9, 1 / 4)],
)
def test_the_factor_of_a_shape(rule, jax_factor, torch_factor):
    g = {"kernel": jnp.ones((9, 4)), "empty": jnp.ones((0, 4))}
    for axes, factor in (("in out", jax_factor), ("out in", torch_factor)):
        out = apply(gx.layout(gx.scale_by_shape(rule), axes), g)
        assert_near(out["kernel"], factor * g["kernel"])
    kernel = jnp.ones((3, 3, 4))
    assert_near(apply(gx.layout(gx.scale_by_shape(rule), "in in out"), kernel), jax_factor * kernel)


# ---------------------------------------------------------------- one batch
def products(tx, tree):
    """The shapes of the products of matrices."""

    def inside(jaxpr):
        for e in jaxpr.eqns:
            if e.primitive.name == "dot_general":
                yield e
            elif "jaxpr" in e.params:  # of a nested jit, which some versions of JAX do not inline here
                yield from inside(e.params["jaxpr"])

    return list(inside(jax.make_jaxpr(lambda g: tx.update(g, tx.init(g))[0])(tree)))


def test_matrices_of_equal_shape_are_one_batch_on_their_longer_side():
    tree = {"a": jnp.ones((3, 8)), "u": jnp.ones((8, 3)), "c": jnp.ones((5, 3, 8)), "d": [jnp.ones((3, 8)), None]}
    one = gx.orthogonalize(steps=4)
    tx = gx.layout(one, {"c": "batch in out"})
    made = products(tx, tree)
    assert len(made) == 3 * 4 == len(products(one, tree["a"]))
    assert {e.outvars[0].aval.shape for e in made} == {(8, 3, 3), (8, 3, 8)}
    assert len(products(tx, {**tree, "e": jnp.ones((3, 7))})) == 2 * 3 * 4
    random = np.random.default_rng(4)
    tree = jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape), jnp.float32), tree)
    got = apply(tx, tree)
    apart = {**tree, "c": [*tree["c"]]}
    assert_near({**got, "c": [*got["c"]]}, jax.tree.map(lambda g: apply(one, g), apart), 1e-5)


def test_products_have_the_requested_dtype(x64):
    for dtype, working, of in ((None, "float32", "float32"), ("bfloat16", "float32", "bfloat16")):
        for e in products(gx.orthogonalize(dtype=dtype), jnp.ones((3, 4), working)):
            assert {x.aval.dtype.name for x in e.invars} == {of} and e.outvars[0].aval.dtype == jnp.float32
    for dtype, working in ((jnp.float32, "float64"), (None, "float64"), (None, "float32")):
        for e in products(gx.orthogonalize(dtype=dtype), jnp.ones((3, 4), working)):
            assert {x.aval.dtype.name for x in (*e.invars, *e.outvars)} == {"float32" if dtype else working}
            assert {x.name for x in e.params["precision"]} == {"HIGHEST"}
    assert repr(gx.orthogonalize(dtype=jnp.bfloat16)) == "orthogonalize(dtype='bfloat16')"


@pytest.mark.parametrize("method", ["newton_schulz", "svd"])
def test_on_an_explicit_mesh_each_leaf_keeps_its_sharding(method):
    rules = {"layers": "batch in out", "two": "batch batch in out", "one and columns": "batch in out"}
    random, tx = np.random.default_rng(5), gx.layout(gx.orthogonalize(method), rules)
    specs = {"rows": (("x", None), (8, 4)), "columns": ((None, "y"), (4, 8)), "both": (("x", "y"), (8, 4))}
    specs |= {"layers": (("x", None, None), (4, 4, 8)), "two": (("x", "y", None, None), (4, 2, 4, 8))}
    specs |= {"whole": ((), (8, 4)), "one and columns": (("y", None, "x"), (2, 8, 4))}
    tree = {name: jnp.asarray(random.standard_normal(shape), jnp.float32) for name, (_, shape) in specs.items()}
    expected = apply(tx, tree)
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        put = {name: NamedSharding(mesh, PartitionSpec(*spec)) for name, (spec, _) in specs.items()}
        got = apply(tx, jax.device_put(tree, put))
        for name, x in got.items():
            assert x.sharding.is_equivalent_to(put[name], x.ndim), name
    assert_near(jax.device_get(got), expected, 1e-5)


# ---------------------------------------------------------------- derivatives
@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (5, 3)])
@pytest.mark.parametrize("equal", [False, True])
def test_the_exact_matrix_has_its_derivative(shape, equal, x64):
    tx = gx.orthogonalize("svd")
    g = with_singular_values(shape, np.ones(3) if equal else np.array([1.0, 0.5, 0.1]))
    d = np.random.default_rng(6).standard_normal(shape)
    value, slope = jax.jvp(lambda g: apply(tx, g), (jnp.asarray(g),), (jnp.asarray(d),))
    h = 1e-6
    exact = lambda g: np.matmul(*np.linalg.svd(g, full_matrices=False)[::2])  # noqa: E731
    assert np.abs(value - exact(g)).max() < 1e-12
    assert np.abs(slope - (exact(g + h * d) - exact(g - h * d)) / (2 * h)).max() < 1e-7 * np.abs(slope).max()
    low = jax.jacobian(lambda g: apply(tx, g))(jnp.zeros(shape).at[0, 0].set(2.0))
    assert jnp.isfinite(low).all() and abs(low[0, 1, 0, 1] - 0.5) < 1e-12
    with jax.disable_jit(), jax.debug_nans(True):  # nor is there a NaN that is discarded
        jax.jvp(lambda g: apply(tx, g), (jnp.zeros(shape).at[0, 0].set(2.0),), (jnp.asarray(d),))


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: gx.orthogonalize("qr"), "orthogonalize: method must be 'newton_schulz', 'polar_express' or 'svd'"),  # pyright: ignore
        (lambda: gx.orthogonalize(steps=0), "orthogonalize: steps must be an integer, 1 or more, got 0"),
        (lambda: gx.orthogonalize(steps=True), "orthogonalize: steps must be an integer, 1 or more, got True"),
        (lambda: gx.orthogonalize(dtype="float16"), "orthogonalize: dtype must be 'bfloat16', 'float32' or None"),
        (lambda: gx.orthogonalize(dtype="wide"), "orthogonalize: dtype must be 'bfloat16', 'float32' or None"),
        (lambda: gx.scale_by_shape("wide"), "rule must be 'original', 'spectral', 'adam', 'sign' or 'mean'"),  # pyright: ignore
        (
            lambda: gx.orthogonalize().init({"w": jnp.ones((2, 2)), "b": jnp.ones(4)}),
            r"orthogonalize: 'b' must be a linear map, with inputs and outputs, got shape \(4,\), axes 'out': give it",
        ),
        (lambda: gx.scale_by_shape().init(jnp.ones(())), r"scale_by_shape: '' must be a linear map"),
        (
            lambda: gx.orthogonalize().init({"w": jnp.ones((2, 2, 2))}),
            r"orthogonalize: the axes of 'w' are in doubt \(3 axes: a convolution, heads or stacked layers\?\): write",
        ),
        (lambda: gx.muon(exclude="embed*").init({"w": jnp.ones((2, 2))}), "the rule 'embed*' chooses no parameter"),
        (lambda: gx.muon(where="w*").init({"b": jnp.ones((2, 2))}), "the rule 'w*' chooses no parameter"),
    ],
)
def test_errors(make, message):
    with pytest.raises((TypeError, ValueError), match=message.replace("*", r"\*")):
        make()


@pytest.mark.parametrize("tx", [gx.orthogonalize(), gx.scale_by_shape()])
def test_complex_numbers_are_refused(tx):
    with pytest.raises(TypeError, match="'w' must be a real matrix, got complex numbers: keep the real"):
        tx.init({"w": jnp.ones((2, 2), complex)})


# ---------------------------------------------------------------- the groups of muon and scion
def test_explain_shows_the_groups_of_muon():
    params = {
        "embed": jnp.ones((9, 4)),
        "layers": [{"w": jnp.ones((4, 4)), "b": jnp.ones(4)}],
        "head": jnp.ones((4, 9)),
    }
    got = {row.parameter: row.group for row in gx.explain(gx.muon(exclude=("embed", "head")), params).rows}
    assert got == {
        "embed": "partition.embed",
        "head": "partition.head",
        "layers/0/b": "partition.default",
        "layers/0/w": "partition.is_linear",
    }
    tx = gx.muon(where="layers/*/w", default=gx.freeze())
    assert {row.parameter for row in gx.explain(tx, params).rows if "layers" in row.group} == {"layers/0/w"}


def test_scions_weights_stay_in_their_balls():
    """Each layer in the ball of its norm, from a start within it, whatever the gradients."""
    tx = gx.scion(0.5, 0.5, radius=2.0, outer_radius=3.0, heads="head", embeddings="embed")
    random = np.random.default_rng(7)
    shapes = {"w": (4, 9), "b": (5,), "head": (4, 6), "embed": (6, 4)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    state, seen = tx.init(params), []
    for scale in np.geomspace(1e-9, 1e9, 30):
        g = {name: jnp.asarray(scale * random.standard_normal(shape) + scale) for name, shape in shapes.items()}
        updates, state = tx.update(g, state, params)
        params = gx.apply_updates(params, updates)
        sizes = {
            "w": np.linalg.norm(params["w"], 2) / np.sqrt(9 / 4) / 2.0 / 1.21,  # as far as the iteration overshoots
            "b": np.sqrt(np.mean(params["b"] ** 2)) / 2.0,
            "head": 4 * np.abs(params["head"]).max() / 3.0,
            "embed": np.abs(params["embed"]).max() / 3.0,
        }
        seen.append(max(sizes.values()))
    assert 0.9 < max(seen) <= 1 + 1e-5 and all(b > 0 for _, b in pairwise(seen))
