"""A toy compiled for each of the three backends, and the outputs of runs compared.

"cuda" is the fused CUDA backend on a CPU: references for kernels, tapes for graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from published_outputs import relative
from taped_graphs import compile_taped
from torch import Tensor
from toys import count_branches, random_schedule, toy_dit

from l2c_rt.api import compile
from l2c_rt.runtime.compiled import Compiled

BACKENDS = ("reference", "fused", "cuda")
every_backend = pytest.mark.parametrize("backend", BACKENDS)
STEPS = 6


def compiled(backend: str, model: Any, schedule: Any, **options: Any) -> Compiled:
    """`compile` for one of BACKENDS."""
    if backend == "cuda":
        return compile_taped(model, schedule, **options)
    return compile(model, schedule, backend=backend, **options)


def fresh(backend: str = "reference", model: Any = None, **options: Any) -> Compiled:
    """A toy of STEPS steps, half of its branches reused; made anew, equal at every call."""
    model = toy_dit() if model is None else model
    schedule = random_schedule(STEPS, count_branches(model), seed=7)
    return compiled(backend, model, schedule, **options)


def again(backend: str, fast: Compiled, **options: Any) -> Compiled:
    """The model as it is now and the same schedule, compiled once more."""
    return compiled(backend, fast.bound_model.model, fast.schedule, **options)


def assert_same(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Bitwise equal, step by step."""
    for step, (a, b) in enumerate(zip(outputs, expected, strict=True)):
        assert torch.equal(a, b), f"step {step}"


def assert_near(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Equal but for the order of float32 sums, step by step."""
    for step, (a, b) in enumerate(zip(outputs, expected, strict=True)):
        assert relative(a, b) < 2e-5, f"step {step}"
