"""Named optimizers: each a function whose one return expression is the composition."""

from gradtx.optimizers.adagrad import adadelta, adagrad, rmsprop
from gradtx.optimizers.adam import adam, adamax, adamw, amsgrad, nadam
from gradtx.optimizers.by_values import check_gradient, numeric_gradient, random_search
from gradtx.optimizers.sgd import (
    averaged_momentum,
    heavy_ball,
    nesterov,
    rate_inside_momentum,
    rolling_ball,
    rprop,
    sgd,
)

__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "amsgrad",
    "averaged_momentum",
    "check_gradient",
    "heavy_ball",
    "nadam",
    "nesterov",
    "numeric_gradient",
    "random_search",
    "rate_inside_momentum",
    "rmsprop",
    "rolling_ball",
    "rprop",
    "sgd",
]
