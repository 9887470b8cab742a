"""Records PyTorch's schedulers in float64 for test_schedules.py and test_plateau.py, which run without PyTorch.

python -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 numpy && /tmp/torch/bin/python record_torch.py
"""

from pathlib import Path
from typing import Any

import numpy as np

STEPS = 120
RUNS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "constant": ("ConstantLR", 0.5, {"factor": 0.25, "total_iters": 10}),
    "linear": ("LinearLR", 0.5, {"start_factor": 0.25, "end_factor": 0.75, "total_iters": 40}),
    "polynomial": ("PolynomialLR", 0.5, {"total_iters": 60, "power": 2.5}),
    "exponential": ("ExponentialLR", 0.5, {"gamma": 0.95}),
    "staircase": ("StepLR", 0.5, {"step_size": 30, "gamma": 0.3}),
    "boundaries": ("MultiStepLR", 0.5, {"milestones": [20, 70], "gamma": 0.1}),
    "cosine": ("CosineAnnealingLR", 0.5, {"T_max": STEPS - 1, "eta_min": 0.05}),
    "cosine restarts": ("CosineAnnealingWarmRestarts", 0.5, {"T_0": 30, "eta_min": 0.05}),
    "growing cosine restarts": ("CosineAnnealingWarmRestarts", 0.5, {"T_0": 10, "T_mult": 2}),
    "one cycle": ("OneCycleLR", 0.5, {"max_lr": 0.5, "total_steps": STEPS, "pct_start": 0.25}),
    "linear one cycle": (
        "OneCycleLR",
        0.5,
        {"max_lr": 0.5, "total_steps": STEPS, "pct_start": 0.25, "anneal_strategy": "linear", "three_phase": True},
    ),
    "cyclic": ("CyclicLR", 0.5, {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 8, "step_size_down": 24}),
    "cyclic, halved": ("CyclicLR", 0.5, {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 10, "mode": "triangular2"}),
    "cyclic, shrinking": (
        "CyclicLR",
        0.5,
        {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 10, "mode": "exp_range", "gamma": 0.98},
    ),
}
PLATEAUS: dict[str, dict[str, Any]] = {
    "plateau": {"factor": 0.5, "patience": 3},
    "plateau, cooldown": {"factor": 0.5, "patience": 2, "cooldown": 4, "threshold": 0.01, "min_lr": 0.05},
    "plateau, absolute": {"factor": 0.7, "patience": 0, "threshold": 0.02, "threshold_mode": "abs"},
}


def losses() -> np.ndarray:
    """A noisy fall to a plateau, and below it again."""
    t = np.arange(STEPS)
    return np.exp(-t / 15) + 0.5 * (t < 80) + 0.1 * np.random.default_rng(5).random(STEPS)


def main() -> None:
    import torch  # pyright: ignore[reportMissingImports]

    recording: dict[str, Any] = {"losses": losses()}
    for name, (scheduler, rate, arguments) in RUNS.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, momentum=0.9)
        schedule = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **arguments)
        rates = []
        for last in range(STEPS):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if last < STEPS - 1:
                schedule.step()
        recording[name] = np.array(rates)
    for name, arguments in PLATEAUS.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, eps=0, **arguments)
        rates = []
        for loss in recording["losses"]:
            schedule.step(loss)
            rates.append(optimizer.param_groups[0]["lr"])
        recording[name] = np.array(rates)
    np.savez_compressed(Path(__file__).with_name("torch_schedules.npz"), **recording)


if __name__ == "__main__":
    main()
