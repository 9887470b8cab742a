"""Optimizers by name: each is a function that returns a composition of pieces and combinators.

In the formulas g is the gradient, w the parameters, t the step from 1, η the learning rate, β, β₁ and β₂ the decays of
averages and momentum, ε the constant in the denominator and λ the weight decay. ema(x) is the exponential moving
average of x, and a hat marks an average corrected for its start at 0. Printing an optimizer shows its composition:

>>> import gradtx as gx
>>> gx.laprop(0.1)
chain(
    precondition(
        identity(),
        by=chain(square(), scale_by_ema(0.999), bias_correction(0.999), sqrt()),
        eps=1e-15,
    ),
    scale_by_ema(0.9),
    bias_correction(0.9),
    scale_by_learning_rate(0.1),
)
"""

from typing import TYPE_CHECKING

from gradtx.optimizers.adagrad import adadelta, adagrad, rmsprop
from gradtx.optimizers.adam import (
    acprop,
    adabelief,
    adabound,
    adam,
    adam_atan2,
    adamax,
    adamaxw,
    adamc,
    adamw,
    adan,
    ademamix,
    adopt,
    amsgrad,
    diffgrad,
    laprop,
    nadam,
    nadamw,
    optimistic_adam,
    padam,
    qhadam,
    radam,
    simplified_ademamix,
    stable_adamw,
    yogi,
)
from gradtx.optimizers.averaging import asgd, gpa, ranger, schedule_free_adamw, snoo, swa
from gradtx.optimizers.decay import independent_decay
from gradtx.optimizers.dual_averaging import ftrl, madgrad
from gradtx.optimizers.gradient_filters import grokfast, mars, orthograd, pid
from gradtx.optimizers.large_batch import adamp, fromage, hyperball, lamb, lars, sgdp
from gradtx.optimizers.low_memory import adafactor, adam_mini, came, novograd, sm3
from gradtx.optimizers.low_rank import apollo, apollo_mini, conda, fira, galore, lora_plus
from gradtx.optimizers.matrix import adamuon, dion, muon, normuon, scale_sgd, scion, sinkgd
from gradtx.optimizers.parameter_free import cocob, dadapt_adam, dog, dowg, momo, momo_adam, polyak_sgd, prodigy
from gradtx.optimizers.second_order import adahessian, lbfgs, sophia
from gradtx.optimizers.sgd import (
    aggmo,
    averaged_momentum,
    heavy_ball,
    nesterov,
    noisy_sgd,
    optimistic_sgd,
    qhm,
    rate_inside_momentum,
    rolling_ball,
    sgd,
    sgdw,
)
from gradtx.optimizers.shampoo import kl_shampoo, psgd_kron, shampoo
from gradtx.optimizers.sign import lion, rprop, sign_sgd, signum
from gradtx.optimizers.soap import kl_soap, soap, splus

__all__ = [
    "acprop",
    "adabelief",
    "adabound",
    "adadelta",
    "adafactor",
    "adagrad",
    "adahessian",
    "adam",
    "adam_atan2",
    "adam_mini",
    "adamax",
    "adamaxw",
    "adamc",
    "adamp",
    "adamuon",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "aggmo",
    "amsgrad",
    "apollo",
    "apollo_mini",
    "asgd",
    "averaged_momentum",
    "came",
    "cocob",
    "conda",
    "dadapt_adam",
    "diffgrad",
    "dion",
    "dog",
    "dowg",
    "fira",
    "fromage",
    "ftrl",
    "galore",
    "gpa",
    "grokfast",
    "heavy_ball",
    "hyperball",
    "independent_decay",
    "kl_shampoo",
    "kl_soap",
    "lamb",
    "laprop",
    "lars",
    "lbfgs",
    "lion",
    "lora_plus",
    "madgrad",
    "mars",
    "momo",
    "momo_adam",
    "muon",
    "nadam",
    "nadamw",
    "nesterov",
    "noisy_sgd",
    "normuon",
    "novograd",
    "optimistic_adam",
    "optimistic_sgd",
    "orthograd",
    "padam",
    "pid",
    "polyak_sgd",
    "prodigy",
    "psgd_kron",
    "qhadam",
    "qhm",
    "radam",
    "ranger",
    "rate_inside_momentum",
    "rmsprop",
    "rolling_ball",
    "rprop",
    "scale_sgd",
    "schedule_free_adamw",
    "scion",
    "sgd",
    "sgdp",
    "sgdw",
    "shampoo",
    "sign_sgd",
    "signum",
    "simplified_ademamix",
    "sinkgd",
    "sm3",
    "snoo",
    "soap",
    "sophia",
    "splus",
    "stable_adamw",
    "swa",
    "yogi",
]


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # a type checker would take any name for one of the module

    def __getattr__(name):
        from gradtx.core.errors import public

        raise AttributeError(public("gradtx.optimizers", name, __all__))
