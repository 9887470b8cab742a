"""`check_laws` refuses a piece for each law that it breaks, and accepts pieces that satisfy all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES
from jax.core import Tracer
from streams import extra

import gradtx as gx


class branches(gx.PerLeaf):
    def update_leaf(self, g, slots, context):
        return (g if isinstance(g, Tracer) else 2 * g), slots


class asks(gx.PerLeaf):
    def update_leaf(self, g, slots, context):
        return (g if float(g.sum()) > 0 else -g), slots


@jax.custom_batching.custom_vmap
def double(x):
    return 2 * x


@double.def_vmap
def _(size, batched, x):
    return 3 * x, batched[0]


class triples(gx.PerLeaf):
    def update_leaf(self, g, slots, context):
        return double(g), slots


@jax.custom_batching.custom_vmap
def alone(x):
    return 1.0 * x


@alone.def_vmap
def _(size, batched, x):
    return jnp.broadcast_to(x.mean(0), x.shape), batched[0]


class mixes_rows(gx.PerLeaf):
    def update_leaf(self, g, slots, context):
        return alone(g), slots


class calls_out(gx.PerLeaf):
    def update_leaf(self, g, slots, context):
        return jax.pure_callback(np.sign, g, g), slots


class fills(gx.Transformation):
    def update_tree(self, updates, slots, context):
        return jax.tree.map(lambda g: jnp.zeros(4) if g is None else g, updates, is_leaf=lambda x: x is None), slots


class divides(gx.PerLeaf):
    def update_leaf(self, g, slots, context):
        return g / jnp.linalg.norm(g), slots


class roots(gx.PerLeaf):
    share: gx.NonNegative = 0.0

    def update_leaf(self, g, slots, context):
        return g * jnp.sqrt(self.share), slots


class splits(roots):
    def update_leaf(self, g, slots, context):
        return jax.lax.cond(jnp.any(g), lambda: g * jnp.sqrt(self.share), lambda: g), slots


class steepens(gx.PerLeaf):
    power: gx.Positive = 0.5

    def update_leaf(self, g, slots, context):
        return jnp.where(g == 0, 0, jnp.exp(self.power * jnp.log(jnp.abs(g)))), slots


class searches(gx.PerLeaf):
    factor: gx.Decay = 0.5

    def update_leaf(self, g, slots, context):
        return jax.lax.while_loop(lambda u: jnp.max(jnp.abs(u)) > 1, lambda u: self.factor * u, g), slots


@jax.custom_vjp
def same(x):
    return x


same.defvjp(lambda x: (x, None), lambda _, g: (g,))


class backward(gx.PerLeaf):
    factor: gx.Decay = 0.5

    def update_leaf(self, g, slots, context):
        return same(self.factor * g), slots


class shakes(gx.PerLeaf):
    needs = ("key",)

    def update_leaf(self, g, slots, context):
        return g + jax.random.normal(context.extra["key"], g.shape, g.dtype), slots


class shakes_alike(shakes):
    def update_leaf(self, g, slots, context):
        key = jax.random.fold_in(context.extra["key"], context.step)
        return g + jax.random.normal(key, g.shape, g.dtype), slots


class shakes_each(shakes):
    def update_leaf(self, g, slots, context):
        return g + jax.random.normal(context.key, g.shape, g.dtype), slots


def test_random_numbers_differ_for_each_leaf_and_step():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"updates\['b'\] has the same noise at two steps: draw them with context.key"):
        gx.check_laws(shakes(), key=key)
    with pytest.raises(
        ValueError, match=r"updates\['v'\] and updates\['w'\] have one noise: draw them with context.key"
    ):
        gx.check_laws(shakes_alike(), key=key)
    gx.check_laws(shakes_each(), key=key)


@pytest.mark.parametrize(
    "tx, law, why",
    [
        (branches(), "compiled in a scan", "'updates/0/b' is .* off, more than"),
        (asks(), "compiled in a scan", "asks: its update must be one that JAX can trace"),
        (triples(), "under vmap", "'updates/0/b' is .* off, more than"),
        (mixes_rows(), "under vmap", "'updates/0/b' is .* off, more than"),
        (calls_out(), "under vmap", "pure_callback"),
        (fills(), "gradient of one leaf is None", r"fills: updates\['b'\] must be None, got float32\[4\]"),
        (divides(), "at zero gradients, the updates are finite", r"updates\['b'\] in step 0 is not finite"),
        (
            roots(),
            "at zero gradients, the forward-mode derivatives are finite",
            r"the derivative of updates\['b'\] with respect to 'share' in step 0 is not finite: guard square roots",
        ),
        (
            steepens(),
            "at zero gradients, the reverse-mode derivatives are finite",
            r"the derivative of updates\['b'\] with respect to 'power' in step 0 is not finite",
        ),
        (searches(), "reverse-mode derivatives are finite", "Reverse-mode"),
        (backward(), "forward-mode derivatives are finite", "custom_vjp"),
    ],
)
def test_a_piece_that_breaks_a_law_is_refused_by_it(tx, law, why):
    with pytest.raises(ValueError, match=f"^{type(tx).__name__}: .*{law}.*: .*{why}"):
        gx.check_laws(tx)


def test_derivatives_are_checked_away_from_zero_too():
    with pytest.raises(
        ValueError, match=r"^splits: .*: the forward-mode derivatives are finite: .* respect to 'share'"
    ):
        gx.check_laws(splits())


LAWFUL = ["adamw", "muon", "polyak_sgd", "noisy_sgd", "skip_nonfinite", "partition"]
LAWFUL += ["atan2_precondition", "hyperball", "sinkgd", "snoo", "gpa", "qk_clip", "apply_if", "apollo_mini"]


@pytest.mark.parametrize("name", LAWFUL)
def test_the_pieces_of_gradtx_satisfy_the_laws(name):
    tx = CASES[name][0].tx
    gx.check_laws(tx, **extra(tx))


def test_laws_on_given_parameters():
    gx.check_laws(gx.adam(), {"w": jnp.ones((2, 3)), "n": jnp.arange(3), "z": jnp.ones(2, complex)})
    gx.check_laws(gx.scale(2.0), np.ones(3, np.float32))


def test_a_given_bound():
    gx.check_laws(triples(), bound=0.6)
    with pytest.raises(ValueError, match="off, more than"):
        gx.check_laws(triples(), bound=0.4)


def test_another_librarys_pair():
    gx.check_laws(optax.scale(2.0))
    with pytest.raises(
        ValueError, match=r"one leaf is None: .*slots\['state/trace/b'\] .*return slots like those received"
    ):
        gx.check_laws(optax.trace(0.9))


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: gx.check_laws(3), TypeError, "check_laws: tx must be a transformation or a pair"),  # pyright: ignore
        (lambda: gx.check_laws(gx.sgd(), {}), ValueError, "params must hold a floating point array, and holds none"),
        (lambda: gx.check_laws(gx.polyak_sgd()), ValueError, "needs the argument 'value'"),
        (lambda: gx.check_laws(gx.sgd(), value=1.0), TypeError, "unexpected argument 'value'"),
    ],
)
def test_bad_arguments_are_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
