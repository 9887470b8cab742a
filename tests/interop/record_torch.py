"""Records states of PyTorch's optimizers after 5 updates, and the next 100 updates, for test_from_torch.py, in float64.

python -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 numpy && /tmp/torch/bin/python record_torch.py
"""

from pathlib import Path
from typing import Any

import numpy as np

BEFORE, AFTER, EVERY = 5, 100, 10
SHAPES = {"bias": (4,), "kernel": (4, 3)}  # of a Linear, (out, in)
RUNS = {
    "adam": ("Adam", {"lr": 0.01}),
    "adamw": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    "amsgrad": ("Adam", {"lr": 0.01, "amsgrad": True}),
    "sgd": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd, Nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd, dampening": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    "sgd, average": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.9}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop, centered, momentum": ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9}),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "adadelta": ("Adadelta", {"lr": 1.0}),
    "adamax": ("Adamax", {"lr": 0.01}),
    "nadam": ("NAdam", {"lr": 0.01}),
    "radam": ("RAdam", {"lr": 0.01}),
    "adafactor": ("Adafactor", {"lr": 0.01}),
    "muon": ("Muon", {"lr": 0.02, "weight_decay": 0.1, "eps": 1e-30}),
}


def main() -> None:
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_default_dtype(torch.float64)  # NAdam keeps its product of μ in the default dtype
    torch.Tensor.bfloat16 = lambda tensor: tensor  # to which Muon rounds before it orthogonalizes
    rng = np.random.default_rng(5)
    recording: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        recording[f"start/{name}"] = rng.standard_normal(shape)
        recording[f"gradients/{name}"] = rng.standard_normal((BEFORE + AFTER, *shape)) * np.logspace(-3, 1, shape[-1])
    for run, (optimizer, arguments) in RUNS.items():
        names = ["kernel"] if optimizer == "Muon" else list(SHAPES)  # Muon is for matrices alone
        leaves = [torch.nn.Parameter(torch.tensor(recording[f"start/{name}"])) for name in names]
        inner = (
            getattr(torch.optim, optimizer)(leaves, foreach=False, **arguments)
            if optimizer != "Muon"
            else (torch.optim.Muon(leaves, **arguments))
        )
        points: dict[str, list[Any]] = {name: [] for name in names}
        for t in range(BEFORE + AFTER + 1):
            if t >= BEFORE:
                for name, leaf in zip(names, leaves):
                    points[name].append(leaf.detach().numpy().copy())
            if t == BEFORE:
                saved = inner.state_dict()
                for i, fields in saved["state"].items():
                    for field, value in fields.items():
                        if value is not None:
                            recording[f"{run}/state/{i}/{field}"] = np.asarray(value).copy()
                for key in ("dampening", "ns_steps"):
                    if key in saved["param_groups"][0]:
                        recording[f"{run}/group/{key}"] = np.array(saved["param_groups"][0][key])
            if t < BEFORE + AFTER:
                for name, leaf in zip(names, leaves):
                    leaf.grad = torch.tensor(recording[f"gradients/{name}"][t])
                inner.step()
        for name, several in points.items():
            recording[f"{run}/updates/{name}"] = np.diff(several, axis=0)[EVERY - 1 :: EVERY]
            recording[f"{run}/params/{name}"] = several[0]
    np.savez_compressed(Path(__file__).with_name("torch_states.npz"), **recording)


if __name__ == "__main__":
    main()
