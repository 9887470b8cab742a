"""The registry: every public transformation, with the configurations in which all general tests run it.

A new piece is tested for everything by one line here. `test_contract.py` fails for a public name that has no line.
"""

from typing import Any, NamedTuple

import optax

import gradtx as gx
from gradtx import optimizers


class Case(NamedTuple):
    """A transformation under test."""

    tx: Any
    moves_at_rest: bool = False
    """Whether a zero gradient gives an update that is not zero, from the start."""
    elementwise: bool = True
    """Whether a coordinate's update depends on that coordinate alone."""
    reads_updates: bool = True
    """Whether the first update depends on what comes in."""


def only_matrices(tx):
    """A piece that refuses vectors, on the matrices of a tree that has both."""
    return gx.masked(tx, gx.is_matrix, otherwise="identity")


def at_odd_steps(step):
    return step % 2 == 1


CASES: dict[str, list[Case]] = {
    # pieces
    "abs": [Case(gx.abs())],
    "add_constant": [Case(gx.add_constant(0.5), moves_at_rest=True)],
    "add_momentum": [Case(gx.add_momentum(0.8)), Case(gx.add_momentum(0.8, nesterov=True))],
    "emit_displacement": [Case(gx.emit_displacement(), reads_updates=False)],
    "ones": [Case(gx.ones(), moves_at_rest=True, reads_updates=False)],
    "polyak_step": [Case(gx.polyak_step(0.5, lowest=0.1), elementwise=False)],
    "scale_by_total_norm": [Case(gx.scale_by_total_norm(0.1), elementwise=False)],
    "coin_betting": [Case(gx.coin_betting(10.0))],
    "add_noise": [Case(gx.add_noise(0.1, power=0.5), moves_at_rest=True, elementwise=False)],
    "add_weight_decay": [
        Case(gx.add_weight_decay(0.1, where=gx.is_matrix), moves_at_rest=True),
        Case(gx.add_weight_decay(0.1, cautious=True), moves_at_rest=True),
    ],
    "yogi_average": [Case(gx.yogi_average(0.8, initial_value=0.1), moves_at_rest=True)],
    "blend": [Case(gx.blend(gx.scale_by_ema(0.8, before=True), 0.7))],
    "cautious": [
        Case(gx.cautious(gx.adam()), elementwise=False),
        Case(gx.cautious(gx.adafactor()), elementwise=False),
    ],
    "difference": [Case(gx.difference()), Case(gx.difference(from_first=True), reads_updates=False)],
    "lower_bound": [Case(gx.lower_bound(0.5), moves_at_rest=True)],
    "box": [Case(gx.projections.box(-0.5, 0.25))],
    "centralize": [Case(gx.centralize(), elementwise=False)],
    "bias_correction": [Case(gx.bias_correction(0.8))],
    "clip": [Case(gx.clip(0.5)), Case(gx.clip(None))],
    "clip_by_norm": [Case(gx.clip_by_norm(0.5), elementwise=False), Case(gx.clip_by_norm(None))],
    "limit_growth": [Case(gx.limit_growth(1.01), elementwise=False)],
    "low_rank_momentum": [Case(only_matrices(gx.low_rank_momentum(rank=2, decay=0.8)), elementwise=False)],
    "clip_by_global_norm": [
        Case(gx.clip_by_global_norm(0.5), elementwise=False),
        Case(gx.clip_by_global_norm(None)),
    ],
    "decayed_max": [Case(gx.decayed_max(0.8))],
    "delay": [Case(gx.delay(), reads_updates=False), Case(gx.delay(from_first=True))],
    "emit_params": [Case(gx.emit_params(), moves_at_rest=True, reads_updates=False)],
    "ftrl_proximal": [Case(gx.ftrl_proximal(0.1, l1=0.1, l2=0.1), moves_at_rest=True)],
    "from_start": [Case(gx.from_start())],
    "adopt_clip": [Case(gx.adopt_clip(0.5))],
    "covariance_roots": [
        Case(gx.covariance_roots(every_k=2, eps=0.01)),
        Case(gx.covariance_roots(1, "inputs", 1.0, root=2, eps=0.1, whiten=True, method="newton")),
    ],
    "whitening": [Case(gx.whitening(every_k=2))],
    "eigenbasis": [
        Case(gx.eigenbasis(every_k=2)),
        Case(gx.eigenbasis(which="smaller", whiten=True, method="eigh")),
    ],
    "singular_vectors": [Case(gx.singular_vectors(every_k=2, rank=2))],
    "random_vectors": [Case(gx.random_vectors(every_k=2, rank=2))],
    "hessian_diagonal": [
        Case(gx.hessian_diagonal(), moves_at_rest=True, reads_updates=False),
        Case(gx.hessian_diagonal("first"), moves_at_rest=True, reads_updates=False),
    ],
    "identity": [Case(gx.identity())],
    "kahan_summation": [Case(gx.kahan_summation())],
    "initial_norm": [Case(gx.projections.initial_norm(), elementwise=False)],
    "l1_ball": [Case(gx.projections.l1_ball(0.5), elementwise=False)],
    "adabound_clip": [Case(gx.adabound_clip(0.1, speed=0.5), moves_at_rest=True)],
    "nesterov_ema": [Case(gx.nesterov_ema(0.8)), Case(gx.nesterov_ema(0.8, warmup=True, warmup_rate=0.1))],
    "normalize": [
        Case(gx.normalize(), elementwise=False),
        Case(gx.normalize("outputs"), elementwise=False),
        Case(gx.normalize("both"), elementwise=False),
    ],
    "orthogonalize": [
        Case(only_matrices(gx.orthogonalize()), elementwise=False),
        Case(only_matrices(gx.orthogonalize("polar_express", steps=8)), elementwise=False),
        Case(only_matrices(gx.orthogonalize("svd")), elementwise=False),
    ],
    "pair": [Case(gx.pair(*optax.scale_by_adam(b1=0.8)))],
    "project_out": [
        Case(gx.project_out(), elementwise=False),
        Case(gx.project_out(keep_norm=True), elementwise=False),
    ],
    "qk_clip": [
        Case(gx.qk_clip(0.5, queries=gx.is_matrix, keys=False, alpha=0.25), moves_at_rest=True),
        Case(gx.qk_clip(0.5, queries=False, keys=None, alpha=0.25), moves_at_rest=True),
    ],
    "power": [Case(gx.power(0.3))],
    "rectify": [Case(gx.rectify(0.9, threshold=4.0), moves_at_rest=True, reads_updates=False)],
    "reduce_on_plateau": [Case(gx.reduce_on_plateau(0.5, patience=1)), Case(gx.reduce_on_plateau(every_k=2))],
    "running_max": [Case(gx.running_max())],
    "running_variance": [Case(gx.running_variance(0.8))],
    "running_sum": [Case(gx.running_sum(0.0)), Case(gx.running_sum(0.5), moves_at_rest=True)],
    "scale": [Case(gx.scale(-2.0))],
    "scale_by_step": [Case(gx.scale_by_step(-0.5))],
    "scale_by_ema": [Case(gx.scale_by_ema(0.8)), Case(gx.scale_by_ema(0.8, from_first=True))],
    "scale_by_lbfgs": [Case(gx.scale_by_lbfgs(3), elementwise=False)],
    "scale_by_learning_rate": [Case(gx.scale_by_learning_rate(0.1))],
    "scale_by_shape": [Case(only_matrices(gx.scale_by_shape("spectral")), elementwise=False)],
    "scale_by_own_rms": [Case(gx.scale_by_own_rms(0.8, eps=1e-4))],
    "fromage_rescale": [Case(gx.fromage_rescale(0.5), moves_at_rest=True)],
    "simplex": [Case(gx.projections.simplex(0.5), moves_at_rest=True, elementwise=False)],
    "sigmoid": [Case(gx.sigmoid(), moves_at_rest=True)],
    "sign": [Case(gx.sign())],
    "rprop_steps": [Case(gx.rprop_steps(0.1)), Case(gx.rprop_steps(0.1, shrink=0.5, wait_on_flip=True))],
    "sqrt": [Case(gx.sqrt())],
    "square": [Case(gx.square())],
    "norm_spike": [Case(gx.norm_spike(0.9, decay=0.8, warmup=1), elementwise=False)],
    "loss_spike": [Case(gx.loss_spike(2.0, decay=0.8, warmup=1))],
    "zero_nonfinite": [Case(gx.zero_nonfinite())],
    "adaptive_clip": [Case(gx.adaptive_clip(0.5, floor=0.1), elementwise=False)],
    "zclip": [Case(gx.zclip(0.5, decay=0.8, warmup=2), elementwise=False)],
    "stochastic_rounding": [Case(gx.stochastic_rounding(), elementwise=False)],
    "trust_ratio": [
        Case(gx.trust_ratio(0.1, weight_decay=0.5, where="w"), moves_at_rest=True, elementwise=False),
        Case(gx.trust_ratio(0.1, eps=0.1, bounds=(0.5, 1.5)), elementwise=False),
    ],
    "clip_by_rms": [Case(gx.clip_by_rms(0.5), elementwise=False), Case(gx.clip_by_rms(None))],
    "sm3_sum": [Case(gx.sm3_sum(), elementwise=False)],
    "running_mean": [Case(gx.running_mean(0.8))],
    "scale_by_param_rms": [Case(gx.scale_by_param_rms(), elementwise=False)],
    "unit_rms": [Case(gx.unit_rms(), elementwise=False), Case(gx.unit_rms("inputs"), elementwise=False)],
    # combinators
    "add": [Case(gx.add(gx.scale_by_ema(0.5), gx.scale_by_ema(0.8), gx.scale(0.1)))],
    "atan2_precondition": [Case(gx.atan2_precondition(gx.scale_by_ema(0.8), by=gx.rms(0.8), width=2.0))],
    "chain": [Case(gx.chain()), Case(gx.chain(gx.scale_by_ema(0.5), gx.clip(0.1), gx.scale_by_ema(0.8)))],
    "clipped_precondition": [
        Case(gx.clipped_precondition(gx.scale_by_ema(0.8), by=gx.rms(0.8), then=gx.scale(2.0)), elementwise=False),
        Case(
            gx.clipped_precondition(gx.identity(), by=gx.factored(gx.rms(0.8)), then=gx.scale(2.0)), elementwise=False
        ),
    ],
    "factored": [Case(gx.factored(gx.scale_by_ema(0.8)), elementwise=False)],
    "dadapt_distance": [
        Case(gx.dadapt_distance(gx.scale_by_ema(0.8), by=gx.rms(0.8), decay=0.8), elementwise=False),
    ],
    "prodigy_distance": [
        Case(
            gx.prodigy_distance(gx.sign(), by=gx.ones(), pull=gx.add_weight_decay(0.1), decay=0.8),
            moves_at_rest=True,
            elementwise=False,
        ),
    ],
    "layout": [
        Case(gx.layout(gx.adam(), "...")),
        Case(gx.layout(gx.lamb(), library="torch"), moves_at_rest=True, elementwise=False),
    ],
    "in_basis": [
        Case(
            gx.in_basis(gx.precondition(gx.momentum(0.8), by=gx.rms(0.8)), gx.eigenbasis(every_k=2)),
            elementwise=False,
            reads_updates=False,
        ),
        Case(
            gx.in_basis(gx.scale_by_rms(0.8), gx.singular_vectors(2, "inputs", 1), gx.scale_by_ema(0.5), gx.identity()),
            elementwise=False,
        ),
        Case(
            gx.in_basis(
                gx.chain(gx.scale_by_ema(0.8), gx.sign()), gx.eigenbasis(method="eigh"), carry=False, skip_first=False
            ),
            elementwise=False,
        ),
        Case(gx.in_basis(gx.scale_by_rms(0.8), gx.random_vectors(2, "inputs"), emit="scaled"), elementwise=False),
        Case(gx.in_basis(gx.scale_by_rms(0.8), gx.random_vectors(2, rank=2), emit="scaled_whole"), elementwise=False),
    ],
    "kronecker": [
        Case(gx.kronecker(gx.momentum(0.8), gx.covariance_roots(every_k=2, eps=0.1)), elementwise=False),
        Case(gx.kronecker(gx.identity(), gx.whitening()), elementwise=False),
    ],
    "in_blocks": [Case(gx.in_blocks(gx.lamb(), largest=2), moves_at_rest=True, elementwise=False)],
    "leafwise": [Case(gx.leafwise(gx.clip_by_global_norm(0.5)), elementwise=False)],
    "lazy": [
        Case(gx.lazy(gx.adam()), elementwise=False),
        Case(gx.masked(gx.lazy(gx.rowwise(gx.adamw())), gx.is_matrix, otherwise="identity"), elementwise=False),
    ],
    "rowwise": [Case(only_matrices(gx.rowwise(gx.adam())))],
    "momo_step": [Case(gx.momo_step(gx.momentum(0.8), by=gx.rms(0.8), eps=0.1, lowest=0.1), elementwise=False)],
    "dog_distance": [
        Case(gx.dog_distance(gx.sign(), initial_value=0.1, relative=False), elementwise=False),
        Case(gx.dog_distance(gx.scale_by_total_norm(), weighted=True), elementwise=False),
    ],
    # wrappers
    "mechanic": [Case(gx.mechanic(gx.sgd(0.1), tuners=2, initial_value=0.1), elementwise=False)],
    "freeze": [Case(gx.freeze(gx.is_matrix))],
    "graft": [
        Case(gx.graft(gx.scale_by_ema(0.8), gx.rms(0.8)), elementwise=False),
        Case(gx.graft(gx.sgd(0.1), gx.adafactor()), elementwise=False),
    ],
    "masked": [
        Case(gx.masked(gx.adam(), gx.is_matrix, otherwise="identity")),
        Case(gx.masked(gx.clip_by_global_norm(0.5), None, otherwise="zero"), elementwise=False),
    ],
    "monitor": [
        Case(gx.monitor("size", gx.global_norm), elementwise=False),
        Case(gx.monitor("turn", gx.cosine_similarity, gx.momentum(0.8), gx.delay()), elementwise=False),
        Case(gx.monitor("step", gx.norm_ratio, gx.adam(), gx.emit_params()), elementwise=False),
    ],
    "monitor_layers": [
        Case(gx.monitor_layers(), elementwise=False),
        Case(gx.monitor_layers("all", "**", cosine_to=gx.delay()), elementwise=False),
    ],
    "partition": [
        Case(gx.partition({gx.is_matrix: gx.adam()}, default=gx.sgd(momentum=0.9), optional=gx.is_matrix)),
        Case(gx.partition({"**": gx.sgd(momentum=0.9)})),
    ],
    "multiply": [Case(gx.multiply(gx.abs(), gx.scale_by_ema(0.5), gx.scale_by_ema(0.8)))],
    "momentum": [Case(gx.momentum(0.8))],
    "precondition": [
        Case(gx.precondition(gx.scale_by_ema(0.8), by=gx.rms(0.8), eps=0.0)),
        Case(gx.precondition(gx.identity(), by=gx.abs(), eps=0.1, eps_in_sqrt=True)),
    ],
    "project_if_orthogonal": [Case(gx.project_if_orthogonal(gx.scale_by_ema(0.8), threshold=2.0), elementwise=False)],
    "reduced": [
        Case(gx.reduced(gx.scale_by_ema(0.8), "rows", blocks=1, how="sum"), elementwise=False),
        Case(gx.reduced(gx.running_sum()), elementwise=False),
    ],
    "rms": [Case(gx.rms(0.8))],
    "scale_by_rms": [Case(gx.scale_by_rms(0.8, eps=1e-3)), Case(gx.scale_by_rms(0.8, corrected=True))],
    # wrappers
    "in_shard_map": [Case(gx.in_shard_map(gx.adam(0.01)))],
    "shard_state": [Case(gx.shard_state(gx.adam(0.01)))],
    "offload": [Case(gx.offload(gx.adam(0.01)))],
    "projected": [Case(gx.projected(gx.sgd(0.1), gx.projections.box(-0.5, 0.25)), moves_at_rest=True)],
    "accumulate": [
        Case(gx.accumulate(gx.adam(), 2), reads_updates=False),
        Case(gx.accumulate(gx.polyak_step(0.5), 2, mean=False), elementwise=False, reads_updates=False),
        Case(gx.accumulate(gx.momentum(0.8), 1)),
        Case(gx.accumulate(gx.adam(), gx.schedules.piecewise_constant((2, 3), (1,))), reads_updates=False),
    ],
    "average_params": [
        Case(gx.average_params(gx.adam(), decay=0.8)),
        Case(gx.average_params(gx.sgd(0.1), decay=1.0, start=2, every_k=2)),
    ],
    "lookahead": [
        Case(gx.lookahead(gx.adam(), every_k=2)),
        Case(gx.lookahead(gx.sgd(0.1), every_k=2, outer=gx.adam(0.1))),
    ],
    "master_weights": [Case(gx.master_weights(gx.adamw(0.1, weight_decay=0.5)), moves_at_rest=True)],
    "split_weights": [Case(gx.split_weights(gx.adamw(0.1, weight_decay=0.5)), moves_at_rest=True)],
    # Random bits depend on the step and the path: tests/wrappers/test_storage.py.
    "store": [
        Case(gx.store(gx.adamw(), stochastic=False), moves_at_rest=True, elementwise=False),
        Case(gx.store(gx.lamb(), "bfloat16", stochastic=False), moves_at_rest=True, elementwise=False),
        Case(gx.store(gx.amsgrad(), "float16", stochastic=False), elementwise=False),
    ],
    "schedule_free": [
        Case(gx.schedule_free(gx.adam(b1=0.0), b1=0.8, weight=0.5)),
        Case(gx.schedule_free(gx.sgd(0.1), b1=0.8, decay=0.5)),
    ],
    "asam": [Case(gx.asam(gx.adam()), moves_at_rest=True, elementwise=False)],
    "backtracking": [
        Case(gx.backtracking(gx.momentum(0.8)), elementwise=False),
        Case(gx.backtracking(gx.scale_by_lbfgs(3), max_rate=0.5, grow=None), elementwise=False),
    ],
    "zoom": [Case(gx.zoom(gx.momentum(0.8), c2=0.1), elementwise=False)],
    "every": [Case(gx.every(gx.momentum(0.8), 2)), Case(gx.every(gx.momentum(0.8), 1))],
    "apply_if": [Case(gx.apply_if(gx.momentum(0.8), at_odd_steps))],
    "skip_nonfinite": [
        Case(gx.skip_nonfinite(gx.adam()), elementwise=False),
        Case(gx.skip_nonfinite(gx.sam(gx.sgd(0.1))), moves_at_rest=True, elementwise=False),
        Case(gx.skip_nonfinite(gx.adam(), outgoing=False), elementwise=False),
    ],
    "skip_if": [
        Case(gx.skip_if(gx.adam(), gx.norm_spike(0.9, decay=0.8, warmup=1)), elementwise=False),
        Case(gx.skip_if(gx.adam(), gx.loss_spike(2.0, warmup=1))),
    ],
    "sam": [Case(gx.sam(gx.adam()), moves_at_rest=True, elementwise=False)],
    # optimizers
    "adafactor": [Case(gx.adafactor(), elementwise=False)],
    "adam_mini": [Case(gx.adam_mini(over="rows"), elementwise=False)],
    "came": [Case(gx.came(eps=1e-24), elementwise=False)],  # at 1e-30 derivatives at no gradient leave float32
    "novograd": [Case(gx.novograd(weight_decay=0.1), moves_at_rest=True, elementwise=False)],
    "sm3": [Case(gx.sm3(), elementwise=False)],
    "acprop": [Case(gx.acprop())],
    "adabound": [Case(gx.adabound())],
    "adabelief": [Case(gx.adabelief())],
    "adadelta": [Case(gx.adadelta())],
    "adagrad": [Case(gx.adagrad()), Case(gx.adagrad(0.1, eps=0.01, eps_in_sqrt=True, initial_value=0.1))],
    "adahessian": [Case(gx.adahessian(hessian_power=0.5))],
    "adam": [Case(gx.adam()), Case(gx.adam(eps=0.0)), Case(gx.adam(corrected=False, eps_in_sqrt=True))],
    "adam_atan2": [Case(gx.adam_atan2())],
    "adamax": [Case(gx.adamax())],
    "adamaxw": [Case(gx.adamaxw(), moves_at_rest=True)],
    "adamc": [Case(gx.adamc(), moves_at_rest=True)],
    "adamp": [Case(gx.adamp(), elementwise=False)],
    "adamw": [Case(gx.adamw(), moves_at_rest=True), Case(gx.adamw(where="w"), moves_at_rest=True)],
    "adopt": [Case(gx.adopt())],
    "amsgrad": [Case(gx.amsgrad())],
    "asgd": [Case(gx.asgd(), moves_at_rest=True)],
    "averaged_momentum": [Case(gx.averaged_momentum())],
    "ademamix": [Case(gx.ademamix())],
    "adan": [Case(gx.adan())],
    "aggmo": [Case(gx.aggmo(decays=(0.0, 0.9)))],
    "fromage": [Case(gx.fromage(), moves_at_rest=True, elementwise=False)],
    "cocob": [Case(gx.cocob())],
    "dadapt_adam": [Case(gx.dadapt_adam(), elementwise=False)],
    "dog": [Case(gx.dog(), elementwise=False), Case(gx.dog(per_leaf=True), elementwise=False)],
    "dowg": [Case(gx.dowg(), elementwise=False)],
    "momo": [Case(gx.momo(), elementwise=False)],
    "momo_adam": [Case(gx.momo_adam(), elementwise=False)],
    "polyak_sgd": [Case(gx.polyak_sgd(), elementwise=False)],
    "prodigy": [Case(gx.prodigy(), elementwise=False)],
    "diffgrad": [Case(gx.diffgrad())],
    "ftrl": [Case(gx.ftrl(0.1, initial_value=0.0), moves_at_rest=True)],
    "gpa": [Case(gx.gpa(gx.adam()))],
    "grokfast": [Case(gx.grokfast(gx.sgd(0.1)))],
    "independent_decay": [
        Case(gx.independent_decay(gx.adam(), 0.1), moves_at_rest=True),
        Case(gx.independent_decay(gx.sgd(0.1), 0.1, where=gx.is_matrix), moves_at_rest=True),
    ],
    "hyperball": [Case(gx.hyperball(gx.momentum(0.8), 0.1), elementwise=False)],
    "lamb": [Case(gx.lamb(), moves_at_rest=True, elementwise=False)],
    "lars": [Case(gx.lars(), moves_at_rest=True, elementwise=False)],
    "lbfgs": [Case(gx.lbfgs(3), elementwise=False)],
    "lion": [Case(gx.lion(), moves_at_rest=True)],
    "lora_plus": [Case(gx.lora_plus(gx.adam(), where="w"))],
    "madgrad": [Case(gx.madgrad(eps=0.0))],
    "mars": [Case(gx.mars(gx.sgd(0.1)), elementwise=False)],
    "noisy_sgd": [Case(gx.noisy_sgd(), moves_at_rest=True, elementwise=False)],
    "padam": [Case(gx.padam())],
    "pid": [Case(gx.pid())],
    "simplified_ademamix": [Case(gx.simplified_ademamix(alpha=1.0))],
    "optimistic_adam": [Case(gx.optimistic_adam())],
    "optimistic_sgd": [Case(gx.optimistic_sgd())],
    "orthograd": [Case(gx.orthograd(gx.adam()), elementwise=False)],
    "qhadam": [Case(gx.qhadam(weight2=0.9))],
    "qhm": [Case(gx.qhm())],
    "sgdp": [Case(gx.sgdp(), elementwise=False)],
    "sgdw": [Case(gx.sgdw(), moves_at_rest=True)],
    "sign_sgd": [Case(gx.sign_sgd())],
    "signum": [Case(gx.signum())],
    "heavy_ball": [Case(gx.heavy_ball())],
    "laprop": [Case(gx.laprop())],
    "muon": [Case(gx.muon(), elementwise=False), Case(gx.muon(balanced="inputs"), elementwise=False)],
    "nadam": [Case(gx.nadam())],
    "nadamw": [Case(gx.nadamw(warmup=True), moves_at_rest=True)],
    "nesterov": [Case(gx.nesterov())],
    "radam": [Case(gx.radam(threshold=4.0))],
    "ranger": [Case(gx.ranger(every_k=2), elementwise=False)],
    "rate_inside_momentum": [Case(gx.rate_inside_momentum())],
    "rmsprop": [Case(gx.rmsprop()), Case(gx.rmsprop(centered=True, momentum=0.9, eps_in_sqrt=True))],
    "rolling_ball": [Case(gx.rolling_ball())],
    "rprop": [Case(gx.rprop())],
    "schedule_free_adamw": [Case(gx.schedule_free_adamw())],
    "scale_sgd": [Case(gx.scale_sgd(heads=gx.is_linear), elementwise=False)],
    "scion": [Case(gx.scion(0.01), moves_at_rest=True, elementwise=False)],
    "sgd": [Case(gx.sgd(momentum=0.9, nesterov=True))],
    "kl_soap": [Case(gx.kl_soap(every_k=2), moves_at_rest=True, elementwise=False, reads_updates=False)],
    "sinkgd": [Case(gx.sinkgd(), elementwise=False)],
    "snoo": [Case(gx.snoo(gx.adam(), every_k=2))],
    "soap": [Case(gx.soap(every_k=2), moves_at_rest=True, elementwise=False, reads_updates=False)],
    "splus": [Case(gx.splus(every_k=2), moves_at_rest=True, elementwise=False)],
    "adamuon": [Case(gx.adamuon(weight_decay=0.0), elementwise=False)],
    "apollo": [Case(gx.apollo(rank=2, every_k=2), elementwise=False)],
    "apollo_mini": [Case(gx.apollo_mini(every_k=2), elementwise=False)],
    "conda": [Case(gx.conda(every_k=2), elementwise=False)],
    "dion": [Case(gx.dion(weight_decay=0.0, rank=2), elementwise=False)],
    "fira": [Case(gx.fira(rank=2, every_k=2), elementwise=False)],
    "galore": [Case(gx.galore(rank=2, every_k=2), elementwise=False)],
    "normuon": [Case(gx.normuon(), elementwise=False)],
    "kl_shampoo": [Case(gx.kl_shampoo(every_k=2, root_eps=0.01), elementwise=False)],
    "psgd_kron": [Case(gx.psgd_kron(every_k=2), elementwise=False)],
    "shampoo": [Case(gx.shampoo(every_k=2, root_eps=0.01), elementwise=False)],
    "sophia": [Case(gx.sophia(every_k=2), moves_at_rest=True)],
    "stable_adamw": [Case(gx.stable_adamw(where="w"), moves_at_rest=True, elementwise=False)],
    "swa": [Case(gx.swa(gx.adam(), every_k=2))],
    "yogi": [Case(gx.yogi())],
}

ALL = [(f"{name}-{i}", case) for name, several in CASES.items() for i, case in enumerate(several)]
# What the root and each piece's slots decide, a composition does not decide again: of the recipes, two stand for all.
# (Every recipe runs jitted and scanned against its reference, and vmapped on three problems, in tests/optimizers.)
PARTS = [(name, case) for name, case in ALL if name[:-2] not in {*optimizers.__all__} - {"adam", "adamw"}]
