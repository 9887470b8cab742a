"""Records the steps of PyTorch's optimizers in float64 for test_torch.py, which runs without PyTorch.

python -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 numpy && /tmp/torch/bin/python record_torch.py
"""

from pathlib import Path
from typing import Any

import numpy as np

STEPS, SIZE, EVERY = 200, 17, 10
RUNS = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd with momentum": ("SGD", {"lr": 0.01, "momentum": 0.9}),
    "sgd with Nesterov's momentum": ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "adagrad": ("Adagrad", {"lr": 0.01, "eps": 1e-10}),
    "adagrad with a start": ("Adagrad", {"lr": 0.01, "eps": 1e-10, "initial_accumulator_value": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "alpha": 0.99, "eps": 1e-8}),
    "rmsprop with momentum": ("RMSprop", {"lr": 0.01, "alpha": 0.95, "eps": 1e-8, "momentum": 0.9}),
    "rmsprop, centered": ("RMSprop", {"lr": 0.01, "alpha": 0.99, "eps": 1e-8, "centered": True}),
    "adadelta": ("Adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-6}),
    "adam": ("Adam", {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8}),
    "adam with L2": ("Adam", {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}),
    "adamw": ("AdamW", {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}),
    "amsgrad": ("Adam", {"lr": 0.001, "betas": (0.9, 0.9), "eps": 1e-8, "amsgrad": True}),
    "adamax": ("Adamax", {"lr": 0.002, "betas": (0.9, 0.999), "eps": 1e-8}),
    "nadam": ("NAdam", {"lr": 0.002, "betas": (0.9, 0.999), "eps": 1e-8, "momentum_decay": 0.004}),
    "radam": ("RAdam", {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8}),
    "adafactor": ("Adafactor", {"lr": 0.01, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0}),
    "asgd": ("ASGD", {"lr": 0.01, "lambd": 1e-4, "alpha": 0.75, "t0": 100}),
    "muon": ("Muon", {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True, "eps": 1e-7}),
    "muon by the size of adam": ("Muon", {"lr": 0.01, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}),
    "rprop": ("Rprop", {"lr": 0.01, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50)}),
}


def main() -> None:
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_default_dtype(torch.float64)  # NAdam keeps its product of μ in the default dtype
    torch.Tensor.bfloat16 = lambda tensor: tensor  # to which Muon rounds before it orthogonalizes
    rng = np.random.default_rng(2)
    start = rng.standard_normal(SIZE)
    gradients = (rng.standard_normal((STEPS, SIZE)) + np.linspace(-2, 2, SIZE)) * np.logspace(-3, 2, SIZE)
    gradients[:, -2:] *= rng.random((STEPS, 2)) < (0, 0.3)  # never anything, and seldom

    recording: dict[str, Any] = {"start": start, "gradients": gradients}
    for name, (optimizer, arguments) in RUNS.items():
        bias, kernel = (
            torch.nn.Parameter(torch.tensor(start[:5])),
            torch.nn.Parameter(torch.tensor(start[5:]).view(3, 4)),
        )
        if optimizer == "Muon":  # for matrices alone
            inner = torch.optim.Muon([kernel], **arguments)
        else:
            inner = getattr(torch.optim, optimizer)([bias, kernel], foreach=False, **arguments)
        points = [start]
        for g in gradients:
            bias.grad, kernel.grad = torch.tensor(g[:5]), torch.tensor(g[5:]).view(3, 4)
            inner.step()
            points.append(np.concatenate([bias.detach().numpy(), kernel.detach().numpy().ravel()]))
        recording[name] = np.diff(points, axis=0)[EVERY - 1 :: EVERY]
    np.savez_compressed(Path(__file__).with_name("torch_vectors.npz"), **recording)


if __name__ == "__main__":
    main()
