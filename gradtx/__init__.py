"""Composable gradient transformations for JAX: an optimizer is a composition of small pure pieces, and it is data.

>>> import gradtx as gx
>>> def adam(learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8):
...     return gx.chain(
...         gx.precondition(gx.momentum(b1), by=gx.rms(b2), eps=eps),  # a direction, divided by a size
...         gx.scale_by_learning_rate(learning_rate),
...     )
>>> adam() == gx.adam()
True

A piece of your own is a class, and so is a schedule; the annotations of its fields say what may stand there. A pair of
functions is a transformation too.

>>> import jax.numpy as jnp
>>> class halving(gx.Schedule):  # start · 2^(−t/steps)
...     start: gx.NonNegative
...     steps: gx.Positive
...     def __call__(self, step):
...         return self.start * 0.5 ** (step / self.steps)
>>> gx.sgd(halving(0.1, steps=100)).at(200)
chain(identity(), scale_by_learning_rate(0.025))

>>> class pull(gx.PerLeaf):  # u = g + c·θ/t
...     factor: gx.Scalar
...     needs = ("params",)
...     def update_leaf(self, g, slots, context: gx.Context):
...         return g + self.factor * context.params / context.step, slots
>>> halved = gx.pair(lambda params: (), lambda updates, state, params: (updates / 2, state))
>>> tx, params = gx.chain(pull(0.5), halved), jnp.array([4.0])
>>> tx.update(jnp.array([1.0]), tx.init(params), params)
(Array([1.5], dtype=float32), State(step=Array(1, dtype=int32), slots={'pair': {'state': ()}}))
"""

from typing import TYPE_CHECKING, Any

# Schedules; combinators: transformations made of transformations; the core: what a transformation is.
from gradtx import schedules
from gradtx.apply import apply_updates
from gradtx.combinators import (
    add,
    blend,
    cautious,
    chain,
    clipped_precondition,
    estimate_distance,
    explain,
    factored,
    freeze,
    graft,
    grow_distance,
    leafwise,
    masked,
    measurements,
    model_step,
    momentum,
    monitor,
    multiply,
    partition,
    precondition,
    project_if_orthogonal,
    reduced,
    rms,
    scale_by_distance,
    scale_by_rms,
)
from gradtx.core import (
    Context,
    Decay,
    NonNegative,
    PerLeaf,
    Positive,
    Scalar,
    Schedule,
    State,
    Transformation,
    of_step,
)

# Hyperparameters by name, the formula, and other libraries.
from gradtx.display import formula
from gradtx.inspection import hyperparameters, set_hyperparameters, summary
from gradtx.interop import as_optax, pair
from gradtx.laws import check_laws

# Optimizers.
from gradtx.optimizers import (
    acprop,
    adabelief,
    adabound,
    adadelta,
    adafactor,
    adagrad,
    adahessian,
    adam,
    adam_mini,
    adamax,
    adamaxw,
    adamc,
    adamp,
    adamw,
    adan,
    ademamix,
    adopt,
    aggmo,
    amsgrad,
    asgd,
    averaged_momentum,
    came,
    check_gradient,
    cocob,
    dadapt_adam,
    diffgrad,
    dog,
    dowg,
    fromage,
    ftrl,
    grokfast,
    heavy_ball,
    lamb,
    laprop,
    lars,
    lion,
    madgrad,
    mars,
    momo,
    momo_adam,
    muon,
    nadam,
    nadamw,
    nesterov,
    noisy_sgd,
    novograd,
    numeric_gradient,
    optimistic_adam,
    optimistic_sgd,
    orthograd,
    padam,
    periodic_table,
    pid,
    polyak_sgd,
    prodigy,
    qhadam,
    qhm,
    radam,
    random_search,
    ranger,
    rate_inside_momentum,
    rmsprop,
    rolling_ball,
    rprop,
    schedule_free_adamw,
    scion,
    sgd,
    sgdp,
    sgdw,
    sign_sgd,
    signum,
    simplified_ademamix,
    sm3,
    sophia,
    stable_adamw,
    swa,
    yogi,
)

# Pieces: transformations that do one thing.
from gradtx.pieces import (
    absolute,
    add_constant,
    add_momentum,
    add_noise,
    add_weight_decay,
    additive_average,
    at_least,
    bet_coins,
    bias_correction,
    box,
    centralize,
    clip,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_rms,
    cosine_similarity,
    covered_sum,
    decayed_max,
    delay,
    difference,
    emit_displacement,
    emit_one,
    emit_params,
    follow_the_leader,
    from_start,
    global_norm,
    growing_clip,
    hessian_diagonal,
    identity,
    is_matrix,
    kahan_summation,
    l1_ball,
    narrowing_clip,
    nesterov_ema,
    norm_ratio,
    normalize,
    orthogonalize,
    polyak_step,
    power,
    project_out,
    rectify,
    reduce_on_plateau,
    running_max,
    running_mean,
    running_sum,
    running_variance,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    scale_by_own_rms,
    scale_by_param_rms,
    scale_by_shape,
    scale_by_step,
    scale_by_total_norm,
    shrink,
    sigmoid,
    sign,
    sign_steps,
    simplex,
    sqrt,
    square,
    stochastic_rounding,
    trust_ratio,
    unit_rms,
)

# What is saved, put back: an optimizer as it prints, and its state.
from gradtx.reading import read
from gradtx.restoring import restore

# Many optimizers at once.
from gradtx.sweeps import Sweep, grid, stack, sweep

# Wrappers: when, where or on what an inner transformation runs; and the parameters to evaluate.
from gradtx.wrappers import (
    accumulate,
    asam,
    average_params,
    eval_params,
    every,
    lookahead,
    master_weights,
    mechanic,
    retract,
    sam,
    schedule_free,
    skip_nonfinite,
)

if TYPE_CHECKING:
    from gradtx.training import fit, train_step


def __getattr__(name: str) -> Any:  # what imports more than the core does, when it is first asked for
    if name == "fit":
        from gradtx.training.fit import fit as found
    elif name == "train_step":
        from gradtx.training.step import train_step as found
    else:
        raise AttributeError(f"module 'gradtx' has no attribute {name!r}")
    return found
