"""The lines of arguments that mean the same wherever they stand: a docstring's entry begins with its line."""

LINES = {
    "learning_rate": "η, the step size, 0 or more. A number, an array of shape () or a schedule.",
    "b1": "β₁, the decay of the average of gradients, in [0, 1).",
    "b2": "β₂, the decay of the average of squared gradients, in [0, 1).",
    "eps": "ε, added to the denominator, 0 or more.",
    "eps_in_sqrt": "If True, add ε inside the square root instead.",
    "weight_decay": "λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.",
    "where": "The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.",
    "momentum": "β, the decay of the momentum, in [0, 1).",
    "nesterov": "If True, use Nesterov's form of momentum.",
    "inner": "The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.",
    "every_k": "k, an integer, 1 or more.",
    "max_rate": "The upper bound of the learning rate, above 0.",
    "diagonal": "The transformation that estimates the diagonal of the Hessian.",
    "min_size": "The smallest size of both axes of a leaf that is factored; smaller leaves keep their full shape.",
}
# Where an argument of this name means something else, in which functions.
OTHERWISE = {}
