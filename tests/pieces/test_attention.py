"""QK-Clip, against the logits of an attention layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import assert_near

import gradtx as gx

rng = np.random.default_rng(0)
FEATURES, HEADS, SIZE = 6, 4, 3


def normal(*shape):
    return rng.standard_normal(shape)


X = normal(5, FEATURES)


def logits(query, key):
    """The largest logit of each head: of weights (features, heads, size) and biases (heads, size), grouped or not."""
    q, k = (np.einsum("td,dhs->ths", X, w) + b for w, b in (query, key))
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    return np.max(np.einsum("ihs,jhs->hij", q, k), axis=(1, 2)) / np.sqrt(SIZE)


def factors(largest, threshold, alpha=0.5):
    ratio = threshold / np.maximum(largest, threshold)
    return ratio**alpha, ratio ** (1 - alpha)


WEIGHTS = normal(FEATURES, HEADS, SIZE) * 2, normal(HEADS, SIZE)
KEYS = normal(FEATURES, HEADS, SIZE) * 2, normal(HEADS, SIZE)
LARGEST = logits(WEIGHTS, KEYS)
THRESHOLD = float(np.median(LARGEST))
# How libraries keep the weights: their names, and the arrays of each.
FORMS = {
    "flax": lambda w, b: {"kernel": w, "bias": b},
    "flat": lambda w, b: {"kernel": w.reshape(len(w), -1), "bias": b.reshape(-1)},
    "torch": lambda w, b: {"weight": w.reshape(len(w), -1).T, "bias": b.reshape(-1)},
}
BACK = {
    "flax": lambda p: (p["kernel"], p["bias"]),
    "flat": lambda p: (p["kernel"].reshape(FEATURES, -1, SIZE), p["bias"].reshape(-1, SIZE)),
    "torch": lambda p: (p["weight"].T.reshape(FEATURES, -1, SIZE), p["bias"].reshape(-1, SIZE)),
}


def clipped(params, step, tx, largest):
    tx = gx.chain(gx.scale(-1.0), tx)
    u, _ = jax.jit(tx.update)(step, tx.init(params), params, max_logits=largest)
    return gx.apply_updates(params, u)


@pytest.mark.parametrize("form", FORMS)
def test_the_largest_logits_become_the_threshold(x64, form):
    assert np.sum(LARGEST > THRESHOLD) == HEADS // 2
    make, back = FORMS[form], BACK[form]
    params = {"attention": {"query": make(*WEIGHTS), "key": make(*KEYS), "value": make(*KEYS)}}
    params = jax.tree.map(jnp.asarray, params)
    rest = jax.tree.map(jnp.zeros_like, params)
    new = clipped(params, rest, gx.qk_clip(THRESHOLD), {"attention": jnp.asarray(LARGEST)})
    now = logits(*(map(np.asarray, back(new["attention"][name])) for name in ("query", "key")))
    np.testing.assert_allclose(now, np.minimum(LARGEST, THRESHOLD), rtol=1e-12)
    assert_near(new["attention"]["value"], params["attention"]["value"], 0)
    for name, factor in zip(("query", "key"), factors(LARGEST, THRESHOLD)):
        w, b = WEIGHTS if name == "query" else KEYS
        got_w, got_b = back(new["attention"][name])
        np.testing.assert_allclose(got_w, factor[:, None] * w, rtol=1e-14)
        np.testing.assert_allclose(got_b, factor[:, None] * b, rtol=1e-14)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_the_step_is_taken_before_the_rescaling(x64, alpha):
    w, k, step = jnp.asarray(WEIGHTS[0]), jnp.asarray(KEYS[0]), jnp.asarray(normal(FEATURES, HEADS, SIZE))
    params, g = {"query": {"kernel": w}, "key": {"kernel": k}}, {"query": {"kernel": step}, "key": {"kernel": step}}
    new = clipped(params, g, gx.qk_clip(THRESHOLD, alpha=alpha), jnp.asarray(LARGEST))
    of_query, of_key = factors(LARGEST, THRESHOLD, alpha)
    np.testing.assert_allclose(new["query"]["kernel"], of_query[:, None] * np.asarray(w - step), rtol=1e-12)
    np.testing.assert_allclose(new["key"]["kernel"], of_key[:, None] * np.asarray(k - step), rtol=1e-12)


# Fused projections of (features, heads, size): their arrays, the axes of these by `layout`, and how to take them apart.
FUSED = {
    "PyTorch": (
        {"weight": "(3 out) in", "bias": "(3 out)"},
        lambda w: np.stack(w).reshape(3, FEATURES, -1).mT.reshape(-1, FEATURES),
        lambda b: np.stack(b).reshape(-1),
        lambda w: w.reshape(3, -1, FEATURES).mT.reshape(3, FEATURES, HEADS, SIZE),
        lambda b: b.reshape(3, HEADS, SIZE),
    ),
    "GPT-2": (
        {"kernel": "in (3 out)", "bias": "(3 out)"},
        lambda w: np.stack(w, 1).reshape(FEATURES, -1),
        lambda b: np.stack(b).reshape(-1),
        lambda w: w.reshape(FEATURES, 3, HEADS, SIZE).swapaxes(0, 1),
        lambda b: b.reshape(3, HEADS, SIZE),
    ),
    "GPT-NeoX, head by head": (
        {"weight": f"({HEADS} 3 out) in", "bias": f"({HEADS} 3 out)"},
        lambda w: np.stack(w).transpose(2, 0, 3, 1).reshape(-1, FEATURES),
        lambda b: np.stack(b, 1).reshape(-1),
        lambda w: w.reshape(HEADS, 3, SIZE, FEATURES).transpose(1, 3, 0, 2),
        lambda b: b.reshape(HEADS, 3, SIZE).swapaxes(0, 1),
    ),
    "axes of parts and heads": (
        {"kernel": "in batch out out", "bias": "batch out out"},
        lambda w: np.stack(w, 1),
        np.stack,
        lambda w: w.swapaxes(0, 1),
        lambda b: b,
    ),
}


@pytest.mark.parametrize("threshold, alpha, one", [(20.0, 0.5, False), (5.0, 0.25, False), (10.0, 1.0, True)])
@pytest.mark.parametrize("form", FUSED)
def test_a_fused_projection_is_its_parts(x64, form, threshold, alpha, one):
    """200 steps of momentum and Algorithm 1 of Kimi K2, in NumPy, on separate arrays of queries, keys and values."""
    words, fuse_w, fuse_b, split_w, split_b = FUSED[form]
    name = next(iter(words))
    weights, biases = normal(3, FEATURES, HEADS, SIZE) * 2, normal(3, HEADS, SIZE)
    params = jax.tree.map(jnp.asarray, {"attention": {name: fuse_w(weights), "bias": fuse_b(biases)}})
    tx = gx.layout(
        gx.chain(gx.sgd(0.1, momentum=0.9), gx.qk_clip(threshold, "attention/*", "attention/*", alpha)),
        {f"attention/{leaf}": axes for leaf, axes in words.items()},
    )
    update, state, rescaled = jax.jit(tx.apply), tx.init(params), 0
    momenta = [np.zeros_like(weights), np.zeros_like(biases)]
    for _ in range(200):
        g = [normal(*weights.shape), normal(*biases.shape)]
        largest = logits((weights[0], biases[0]), (weights[1], biases[1]))
        largest = np.max(largest) if one else largest
        step = jax.tree.map(jnp.asarray, {"attention": {name: fuse_w(g[0]), "bias": fuse_b(g[1])}})
        params, state = update(params, state, step, max_logits={"attention": jnp.asarray(largest)})
        momenta = [0.9 * m + x for m, x in zip(momenta, g)]
        weights, biases = (w - 0.1 * m for w, m in zip((weights, biases), momenta))
        of_parts = np.stack([*np.broadcast_arrays(*factors(largest, threshold, alpha)), np.ones_like(largest)])
        of_parts = np.broadcast_to(of_parts.reshape(3, -1), (3, HEADS))
        weights, biases = weights * of_parts[:, None, :, None], biases * of_parts[..., None]
        rescaled += np.min(of_parts) < 1
        np.testing.assert_allclose(split_w(np.asarray(params["attention"][name])), weights, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(split_b(np.asarray(params["attention"]["bias"])), biases, rtol=1e-11, atol=1e-12)
    assert rescaled > 20


def test_fused_projections_of_stacked_layers(x64):
    words, fuse_w, *_ = FUSED["GPT-2"]
    w, largest = normal(2, 3, FEATURES, HEADS, SIZE), normal(2, HEADS) * 4
    layers = [{"kernel": jnp.asarray(fuse_w(x))} for x in w]
    stacked = {"layers": {"kernel": jnp.stack([x["kernel"] for x in layers])}}
    tx = gx.qk_clip(2.0, "**/kernel", "**/kernel")
    new = clipped(
        stacked,
        jax.tree.map(jnp.ones_like, stacked),
        gx.layout(tx, {"**": f"batch {words['kernel']}"}),
        jnp.asarray(largest),
    )
    for i, layer in enumerate(layers):
        one = gx.layout(tx, {"**": words["kernel"]})
        alone = clipped({"x": layer}, {"x": jax.tree.map(jnp.ones_like, layer)}, one, jnp.asarray(largest[i]))
        assert_near(new["layers"]["kernel"][i], alone["x"]["kernel"], 1e-15)


@pytest.mark.parametrize("axes", ["in out", "(2 out) in", "(3 in) out", "(3 3 out) in"])
def test_a_fused_projection_needs_three_parts(axes):
    params = {"qkv": jnp.ones((18, 6))}
    tx = gx.layout(gx.qk_clip(1.0, "qkv", "qkv"), {"qkv": axes})
    with pytest.raises(
        ValueError, match=r"^qk_clip: 'qkv', which queries and keys choose, must have an axis of .*got "
    ):
        tx.init(params)


def test_grouped_queries_take_the_largest_of_their_group(x64):
    keys = KEYS[0][:, :2], KEYS[1][:2]
    of_group = logits(WEIGHTS, keys).reshape(2, 2).max(1)
    threshold = float(of_group.min())
    params = {name: jax.tree.map(jnp.asarray, FORMS["flat"](*x)) for name, x in {"query": WEIGHTS, "key": keys}.items()}
    new = clipped(params, jax.tree.map(jnp.zeros_like, params), gx.qk_clip(threshold), jnp.asarray(of_group))
    now = logits(*(map(np.asarray, BACK["flat"](new[name])) for name in ("query", "key")))
    np.testing.assert_allclose(now.reshape(2, 2).max(1), np.minimum(of_group, threshold), rtol=1e-12)


def test_layers_stacked_and_apart_are_the_same(x64):
    w, k, largest = (
        jnp.asarray(normal(2, FEATURES, 8)),
        jnp.asarray(normal(2, FEATURES, 8)),
        jnp.array([[3.0, 9], [1, 4]]),
    )
    stacked = {"layers": {"attention": {"query": {"kernel": w}, "key": {"kernel": k}}}}
    apart = {f"layer_{i}": {"attention": {"query": {"kernel": w[i]}, "key": {"kernel": k[i]}}} for i in range(2)}
    one = clipped(
        stacked,
        jax.tree.map(jnp.ones_like, stacked),
        gx.layout(gx.qk_clip(2.0), {"layers/**": "batch ..."}),
        {"layers": largest},
    )
    nested = {f"layer_{i}": {"attention": largest[i]} for i in range(2)}
    each = clipped(apart, jax.tree.map(jnp.ones_like, apart), gx.qk_clip(2.0), nested)
    for i in range(2):
        assert_near(jax.tree.map(lambda x, i=i: x[i], one["layers"]), each[f"layer_{i}"], 1e-15)
    by_path = {f"layer_{i}/attention": largest[i] for i in range(2)}
    assert_near(clipped(apart, jax.tree.map(jnp.ones_like, apart), gx.qk_clip(2.0), by_path), each, 0)
    heads = {"layers": {"attention": {"query": {"kernel": w.reshape(2, FEATURES, 2, 4)}, "key": {"kernel": k}}}}
    words = {"**/query/kernel": "batch in batch out", "**/key/kernel": "batch in (2 out)"}  # heads as batches
    split = clipped(heads, jax.tree.map(jnp.ones_like, heads), gx.layout(gx.qk_clip(2.0), words), {"layers": largest})
    for name in ("query", "key"):
        mine, theirs = (x["layers"]["attention"][name]["kernel"] for x in (split, one))
        assert_near(mine.reshape(theirs.shape), theirs, 1e-15)


@pytest.mark.parametrize("largest", [0.5, -3.0, np.inf, np.nan])
def test_nothing_is_rescaled(largest):
    params = {"query": {"kernel": jnp.ones((2, 2))}, "key": {"kernel": jnp.ones((2, 2))}}
    half = jax.tree.map(lambda x: x / 2, params)
    assert_near(clipped(params, half, gx.qk_clip(1.0), largest), half, 0)


def test_one_number_is_for_a_leaf_in_doubt_too():
    params = {"query": {"w3": jnp.ones((2, 3, 4))}, "key": {"w3": jnp.ones((2, 3, 4))}}
    new = clipped(params, jax.tree.map(jnp.zeros_like, params), gx.qk_clip(1.0), 4.0)
    assert_near(new, jax.tree.map(lambda x: x / 2, params))
    with pytest.raises(ValueError, match=r"^qk_clip: the axes of 'key/w3' are in doubt"):
        clipped(params, params, gx.qk_clip(1.0), jnp.ones(2))


FLAT = {"a": {"query": {"kernel": jnp.ones((2, 4))}, "key": {"kernel": jnp.ones((2, 4))}}}
BAD = {
    "no logits": (None, ValueError, r"^qk_clip needs the argument 'max_logits': call .*, max_logits=…\)"),
    "another layer": (
        {"b": 1.0},
        ValueError,
        r"^qk_clip: max_logits\['b'\] is the path of no parameter; there are a/k",
    ),
    "a key alone": (
        {"a/key": 1.0},
        ValueError,
        "^qk_clip: max_logits has nothing for 'a/query/kernel': it has 'a/key'",
    ),
    "heads": (
        {"a": jnp.ones(3)},
        ValueError,
        r"^qk_clip: the max_logits of 'a/key/kernel' must have shape \(\), or \(heads,\), where heads divides its 4 o",
    ),
    "a matrix": ({"a": jnp.ones((2, 2))}, ValueError, r"must have shape .* got shape \(2, 2\)"),
    "text": ({"a": "high"}, TypeError, r"^qk_clip: max_logits\['a'\] must be real numbers, .*, got 'high'"),
    "complex": ({"a": jnp.ones(2, complex)}, TypeError, "must be real numbers, .*, got complex"),
}


@pytest.mark.parametrize("name", BAD)
def test_logits_that_do_not_fit(name):
    largest, error, message = BAD[name]
    tx = gx.qk_clip(1.0)
    with pytest.raises(error, match=message):
        tx.update(FLAT, tx.init(FLAT), FLAT, max_logits=largest)


def test_a_pattern_must_choose():
    with pytest.raises(ValueError, match=r"^qk_clip: keys='\*\*/key/\*\*' chooses no parameter"):
        gx.qk_clip().init({"query": jnp.ones((2, 2))})


@pytest.mark.parametrize("parts", [1, 2])
def test_train_step_takes_the_logits_of_the_loss(parts):
    params = {"query": {"kernel": jnp.array([[4.0]])}, "key": {"kernel": jnp.array([[1.0]])}}

    def loss(params, x):
        q, k = (x @ params[name]["kernel"] for name in ("query", "key"))
        return 0.0 * jnp.mean(q), {"max_logits": jnp.max(q * k)}

    step = gx.train_step(loss, gx.chain(gx.sgd(0.1), gx.qk_clip(1.0)), has_aux=True, micro_batches=parts)
    new, _, metrics = step(params, step.tx.init(params), jnp.array([[1.0], [2.0]]))
    assert float(jnp.max(metrics.aux["max_logits"])) == 16.0
    assert_near(new, {"query": {"kernel": jnp.array([[1.0]])}, "key": {"kernel": jnp.array([[0.25]])}})
    plain = gx.train_step(lambda params, x: 0.0 * jnp.mean(x), step.tx)
    with pytest.raises(ValueError, match=r"^train_step: max_logits is missing: the optimizer takes it; set has_aux"):
        plain(new, plain.tx.init(new), jnp.ones((2, 1)))


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_is_a_fraction(alpha):
    with pytest.raises(ValueError, match=f"^qk_clip: alpha must be from 0 to 1, got {alpha}"):
        gx.qk_clip(alpha=alpha)
