"""Named optimizers: each a function whose one return expression is the composition.

The first line of each says its formula, with η for `learning_rate`, β₁ and β₂ for `b1` and `b2`, β for `decay` or
`momentum`, ε for `eps`, λ for `weight_decay`; θ or w are the parameters. An argument is documented where it goes: on
its piece, or on the recipe that this one varies. `where` says which parameters decay, as in `add_weight_decay`.

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

from gradtx.optimizers.adagrad import adadelta, adagrad, rmsprop
from gradtx.optimizers.adam import adam, adamax, adamw, amsgrad, nadam
from gradtx.optimizers.averages import asgd, ranger, schedule_free_adamw, swa
from gradtx.optimizers.by_values import check_gradient, numeric_gradient, random_search
from gradtx.optimizers.curvature import adahessian, sophia
from gradtx.optimizers.directions import (
    adan,
    ademamix,
    aggmo,
    grokfast,
    lion,
    optimistic_adam,
    optimistic_sgd,
    qhadam,
    qhm,
    sgdw,
    sign_sgd,
    signum,
)
from gradtx.optimizers.layers import adamc, adamp, fromage, lamb, lars, orthograd, sgdp
from gradtx.optimizers.matrix import muon, scion
from gradtx.optimizers.memory import adafactor, adam_mini, came, novograd, sm3
from gradtx.optimizers.sgd import (
    averaged_momentum,
    heavy_ball,
    nesterov,
    rate_inside_momentum,
    rolling_ball,
    rprop,
    sgd,
)
from gradtx.optimizers.sizes import adabelief, adamaxw, adopt, laprop, nadamw, radam, stable_adamw, yogi
from gradtx.optimizers.table import periodic_table
from gradtx.optimizers.targets import (
    acprop,
    adabound,
    diffgrad,
    ftrl,
    madgrad,
    mars,
    noisy_sgd,
    padam,
    pid,
    simplified_ademamix,
)
from gradtx.optimizers.untuned import cocob, dadapt_adam, dog, dowg, momo, momo_adam, polyak_sgd, prodigy

__all__ = [
    "acprop",
    "adabelief",
    "adabound",
    "adadelta",
    "adafactor",
    "adagrad",
    "adahessian",
    "adam",
    "adam_mini",
    "adamax",
    "adamaxw",
    "adamc",
    "adamp",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "aggmo",
    "amsgrad",
    "asgd",
    "averaged_momentum",
    "came",
    "check_gradient",
    "cocob",
    "dadapt_adam",
    "diffgrad",
    "dog",
    "dowg",
    "fromage",
    "ftrl",
    "grokfast",
    "heavy_ball",
    "lamb",
    "laprop",
    "lars",
    "lion",
    "madgrad",
    "mars",
    "momo",
    "momo_adam",
    "muon",
    "nadam",
    "nadamw",
    "nesterov",
    "noisy_sgd",
    "novograd",
    "numeric_gradient",
    "optimistic_adam",
    "optimistic_sgd",
    "orthograd",
    "padam",
    "periodic_table",
    "pid",
    "polyak_sgd",
    "prodigy",
    "qhadam",
    "qhm",
    "radam",
    "random_search",
    "ranger",
    "rate_inside_momentum",
    "rmsprop",
    "rolling_ball",
    "rprop",
    "schedule_free_adamw",
    "scion",
    "sgd",
    "sgdp",
    "sgdw",
    "sign_sgd",
    "signum",
    "simplified_ademamix",
    "sm3",
    "sophia",
    "stable_adamw",
    "swa",
    "yogi",
]


def __dir__() -> list[str]:
    return __all__
