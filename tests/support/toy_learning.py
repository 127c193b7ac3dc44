"""Short learning runs of the toys, shared by the tests and the processes that they start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2c_rt import adapters
from l2c_rt.learning import learn
from l2c_rt.learning.options import resolve_options
from l2c_rt.learning.published_loop import published_task
from l2c_rt.learning.task import Task
from l2c_rt.policies.router import Router

TEST_PATHS = [str(Path(__file__).parents[2] / folder) for folder in ("tests/support", "bench")]
"""What pytest puts on the path, for processes of their own."""
"""What a process of its own puts on its path to import this module."""


def learn_briefly(model: Any, **options: Any) -> Router:
    """A few iterations, silently."""
    return learn(model, **({"steps": 6, "iterations": 4, "progress": False} | options))


def task_of(model: Any, **options: Any) -> Task:
    """The task that `learn` would make."""
    bound_model = adapters.bind(model)
    defaults = {
        "steps": 6,
        "iterations": 10,
        "batch_size": 2,
        "lam": 0.01,
        "reuse": None,
        "lr": 0.1,
        "seed": 0,
        "straight_through": None,
        "cfg_scale": None,
    }
    data = options.pop("data", None)
    resolved = resolve_options(bound_model, **(defaults | options), data=data is not None)
    return published_task(bound_model, resolved, data)


def toy_latents(batches: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Batches of latents and labels, the same every time."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([k, k + 1]))
        for k in range(batches)
    ]
