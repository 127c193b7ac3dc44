"""Short learning runs of the toys, shared by the tests and the processes that they start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2c_rt import adapters
from l2c_rt.learning import learn
from l2c_rt.learning.options import LearnOptions, LoopOptions, resolve_options
from l2c_rt.learning.published_loop import published_task
from l2c_rt.learning.task import Task
from l2c_rt.policies.router import Router

TEST_PATHS = [str(Path(__file__).parents[2] / folder) for folder in ("tests/support", "bench")]
"""What pytest puts on the path, for processes of their own."""
"""What a process of its own puts on its path to import this module."""


def learn_briefly(model: Any, **options: Any) -> Router:
    """A few iterations, silently, without the fit report, which would take longer."""
    short = {"steps": 6, "iterations": 4, "progress": False, "report": 0}
    return learn(model, **(short | options))


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


def toy_inputs(step: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """What a DiT is given at an evaluation of `toy_loop`."""
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return x * (1 + step / 4), torch.full((2,), 900 - 100 * step), torch.tensor([1, 2])


def toy_loop(m: Any, seed: int) -> Tensor:
    """Four evaluations of a DiT, without a solver."""
    return torch.stack([m(*toy_inputs(step, seed)) for step in range(4)])[-1]


def toy_loop_options(**options: Any) -> LearnOptions:
    """The options that `learn` would make for a loop."""
    given: dict[str, Any] = dict.fromkeys(
        ("iterations", "batch_size", "lam", "reuse", "lr", "straight_through", "cfg_scale")
    )
    given |= {"steps": 4, "seed": 0, "data": False, "own_loop": LoopOptions()}
    return resolve_options(None, **(given | options))
