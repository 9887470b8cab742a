"""`monitor`: it changes nothing, keeps its state's structure, and measures what NumPy measures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from streams import assert_near, follow, params_of, stream, types

import gradtx as gx
from gradtx.core import leaves_by_path


def flat(tree):
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def test_updates_pass_unchanged_and_measures_equal_numpy():
    plain = gx.adam(0.1)
    tx = gx.chain(
        gx.monitor("gradient", gx.global_norm),
        plain,
        gx.monitor("ratio", gx.norm_ratio, gx.identity(), gx.emit_params()),
        gx.monitor("turn", gx.cosine_similarity, gx.identity(), gx.delay()),
        gx.monitor("largest", lambda u: jnp.max(jnp.abs(u["w"]))),
        gx.monitor("smoothed", gx.global_norm, gx.momentum(0.5)),
    )
    params = params_of()
    gradients = list(stream(params))
    expected, _ = follow(plain, params, gradients)
    state, last, average = tx.init(params), 0 * flat(params), 0 * flat(params)
    kinds = types(state)
    assert set(map(float, gx.measurements(state).values())) == {0.0}
    for i, (g, e) in enumerate(zip(gradients, expected)):
        u, state = tx.update(g, state, params)
        assert_near(u, e)
        assert types(state) == kinds
        now, theta = flat(u), flat(params)
        average = 0.5 * average + 0.5 * now
        assert {name: float(x) for name, x in gx.measurements(state).items()} == pytest.approx(
            {
                "gradient": np.linalg.norm(flat(g)),
                "ratio": np.linalg.norm(now) / np.linalg.norm(theta),
                "turn": now @ last / np.linalg.norm(now) / np.linalg.norm(last) if i else 0.0,
                "largest": np.abs(np.asarray(u["w"])).max(),
                "smoothed": np.linalg.norm(average) / (1 - 0.5 ** (i + 1)),
            },
            rel=1e-5,
            abs=1e-6,
        )
        last = now


def test_measurements_are_readable_inside_scan_and_vmap():
    params = params_of()
    tx = gx.chain(gx.monitor("gradient", gx.global_norm), gx.sgd(0.1))
    gradients = jax.tree.map(lambda *x: jnp.stack(x), *stream(params))

    def step(state, g):
        _, state = tx.update(g, state)
        return state, gx.measurements(state)

    _, history = jax.lax.scan(step, tx.init(params), gradients)
    norms = [np.linalg.norm(flat(g)) for g in stream(params)]
    np.testing.assert_allclose(history["gradient"], norms, rtol=1e-6)
    many = jax.vmap(lambda g: gx.measurements(tx.update(g, tx.init(params))[1]))(gradients)
    np.testing.assert_allclose(many["gradient"], norms, rtol=1e-6)


def layers_by_hand(u, params, other, layers):
    """The measures of layers, each given by the paths of its leaves, in NumPy."""
    found = {"norm": {}, "ratio": {}, "cosine": {}}
    for layer, paths in layers.items():
        a, b, c = (flat({path: tree[path] for path in paths}) for tree in (u, params, other))
        norms = [np.linalg.norm(x) for x in (a, b, c)]
        found["norm"][layer], found["ratio"][layer] = norms[0], norms[0] / norms[1]
        found["cosine"][layer] = a @ c / (norms[0] * norms[2]) if norms[2] else 0.0
    return found


def near(got, expected):
    got, expected = leaves_by_path(got), leaves_by_path(expected)
    assert got.keys() == expected.keys()
    for path, x in got.items():  # a cosine near 0 is a sum that cancels
        np.testing.assert_allclose(x, expected[path], rtol=1e-5, atol=1e-6 if "cosine" in path else 0, err_msg=path)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize(
    "patterns, layers",
    [((), {"b": ["b"], "w": ["w"]}), (("**", "w"), {"**": ["b", "w"], "w": ["w"]})],
    ids=["leaves", "patterns"],
)
def test_the_measures_of_layers_equal_numpy(patterns, layers, scale):
    """In a loop, under jit and scan, and for a batch under vmap; the updates pass unchanged."""
    params = params_of()
    gradients = [jax.tree.map(lambda g: g * scale, g) for g in stream(params)]
    tx = gx.chain(gx.scale(-0.5), gx.monitor_layers("layer", patterns, cosine_to=gx.delay()))
    state, last, expected = tx.init(params), jax.tree.map(jnp.zeros_like, params), []
    kinds = types(state)
    assert set(map(float, jax.tree.leaves(gx.measurements(state)))) == {0.0}
    for g in gradients:
        u, state = tx.update(g, state, params)
        assert types(state) == kinds
        assert_near(u, jax.tree.map(lambda g: -0.5 * g, g))
        expected.append(layers_by_hand(u, params, last, layers))
        near(gx.measurements(state)["layer"], expected[-1])
        last = u
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)

    def step(state, g):
        _, state = tx.update(g, state, params)
        return state, gx.measurements(state)["layer"]

    _, scanned = jax.jit(lambda state: jax.lax.scan(step, state, stacked))(tx.init(params))
    near(scanned, jax.tree.map(lambda *x: np.stack(x), *expected))
    many = jax.jit(jax.vmap(lambda g: step(tx.init(params), g)[1]))(stacked)
    alone = [layers_by_hand(jax.tree.map(lambda g: -0.5 * g, g), params, params, layers) for g in gradients]
    near(many["ratio"], jax.tree.map(lambda *x: np.stack(x), *(x["ratio"] for x in alone)))


def test_layers_are_measured_in_a_donated_step_and_without_a_cosine():
    params = {"a": {"kernel": jnp.full((2, 2), 2.0)}, "bias": jnp.ones(2), "count": jnp.array(3)}
    tx = gx.chain(gx.sgd(0.5), gx.monitor_layers(patterns=("**/kernel", "bias")))
    step = gx.train_step(lambda p, x: jnp.sum(p["a"]["kernel"]) * x + jnp.sum(p["bias"]), tx)
    params, state, _ = step(params, tx.init(params), jnp.array(2.0))
    near(
        gx.measurements(state)["layers"],
        {"norm": {"**/kernel": 2.0, "bias": 0.5**0.5}, "ratio": {"**/kernel": 0.5, "bias": 0.5}},
    )


def test_a_layer_of_zeros_has_a_finite_ratio_and_passes_a_guard():
    params = {"bias": jnp.zeros(2), "kernel": jnp.ones(2)}
    tx = gx.skip_nonfinite(gx.chain(gx.sgd(0.5), gx.monitor_layers()))
    _, state = tx.update({"bias": jnp.ones(2), "kernel": jnp.ones(2)}, tx.init(params), params)
    assert gx.measurements(state)["skipped"] == 0
    near(gx.measurements(state)["layers"]["ratio"], {"bias": 0.0, "kernel": 0.5})


def test_a_layer_without_a_gradient_keeps_its_numbers_and_one_array_is_a_layer():
    params = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([2.0])}
    tx = gx.monitor_layers()
    _, state = tx.update(params, tx.init(params), params)
    _, state = tx.update({"a": None, "b": jnp.array([1.0])}, state, params)
    near(gx.measurements(state)["layers"], {"norm": {"a": 5.0, "b": 1.0}, "ratio": {"a": 1.0, "b": 0.5}})
    _, state = tx.update(params["a"], tx.init(params["a"]), params["a"])
    near(gx.measurements(state)["layers"], {"norm": {"params": 5.0}, "ratio": {"params": 1.0}})


def test_monitors_of_one_name_are_distinguished_by_path():
    params = params_of()
    tx = gx.partition(
        {"b": gx.monitor("norm", gx.global_norm)},
        default=gx.chain(gx.monitor("norm", gx.global_norm), gx.scale(2.0), gx.monitor("norm", gx.global_norm)),
    )
    _, state = tx.update(params, tx.init(params))
    b, w = (float(np.linalg.norm(params[name])) for name in "bw")
    assert {name: float(x) for name, x in gx.measurements(state).items()} == pytest.approx(
        {"partition.b.monitor.norm": b, "partition.default.monitor.norm": w, "partition.default.monitor_2.norm": 2 * w}
    )


def test_a_measure_within_optax_is_found():
    params = params_of()
    tx = optax.chain(optax.scale(2.0), gx.as_optax(gx.monitor("norm", gx.global_norm)))
    _, state = tx.update(params, tx.init(params), params)
    assert float(gx.measurements(state)["norm"]) == pytest.approx(2 * np.linalg.norm(flat(params)))
    assert gx.measurements(gx.adam().init(params)) == {}


BAD_MEASURES = {
    "a vector": lambda u: u["w"],
    "a complex number": lambda u: jnp.sum(u["w"]) * 1j,
    "nothing": lambda u: None,
    "a string": lambda u: "norm",
}


@pytest.mark.parametrize("measure", BAD_MEASURES.values(), ids=BAD_MEASURES)
@pytest.mark.promotes("its models, as users write them")
def test_a_measure_gives_one_real_number(measure):
    params = params_of()
    tx = gx.monitor("what", measure)
    with pytest.raises(ValueError, match="monitor 'what': the measure must return one real number, got "):
        tx.update(params, tx.init(params))


def test_bad_arguments():
    with pytest.raises(TypeError, match="monitor: name must be a string, got 1"):
        gx.monitor(1, gx.global_norm)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="monitor 'norm': measure must be a function of trees, got 'norm'"):
        gx.monitor("norm", "norm")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"links\[0\] must be a transformation or a pair"):
        gx.monitor("norm", gx.global_norm, 3)
    with pytest.raises(TypeError, match=r"monitor_layers: patterns must be path patterns such as '\*\*/kernel', got 1"):
        gx.monitor_layers(patterns=[1])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="monitor_layers: name must be a string, got 1"):
        gx.monitor_layers(1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"monitor_layers: patterns='\*/x' chooses no parameter; there are b, w"):
        gx.monitor_layers(patterns="*/x").init(params_of())


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_measures_at_any_scale(scale):
    a, b = params_of(seed=1), params_of(seed=2)
    x, y = flat(a), flat(b)
    a = jax.tree.map(lambda z: z * scale, a)
    assert float(gx.cosine_similarity(a, b)) == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-5)
    assert float(gx.norm_ratio(a, b)) == pytest.approx(scale * np.linalg.norm(x) / np.linalg.norm(y), rel=1e-5)
    zero = jax.tree.map(jnp.zeros_like, a)
    assert gx.cosine_similarity(a, zero) == gx.cosine_similarity(zero, zero) == 0
    assert gx.norm_ratio(zero, b) == gx.norm_ratio(zero, zero) == 0
    assert np.isinf(gx.norm_ratio(a, zero)) and gx.cosine_similarity({}, {}) == 0
    slopes = jax.grad(lambda a, b: gx.cosine_similarity(a, b) + gx.norm_ratio(a, b), argnums=(0, 1))(zero, b)
    assert all(bool(jnp.isfinite(s).all()) for s in jax.tree.leaves(slopes))
