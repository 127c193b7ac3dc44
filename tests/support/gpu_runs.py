"""Toys on a GPU, compiled for the fused backend, and runs of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from toys import call_inputs, count_branches, random_schedule, toy_dit
from toys import noise as noise_on_host

from l2c_rt.api import compile
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.sampling.solvers import solver_for

STEPS = 10
PUBLISHED = [float(t) for t in solver_for("ddim", STEPS).timesteps]
"""The timesteps of the toy's own `sample`."""


def fresh(model: Any = None, **options: Any) -> Compiled:
    """A toy of STEPS steps, moved to the GPU; not tuned, which would take seconds."""
    model = (toy_dit() if model is None else model).cuda()
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    return compile(model, schedule, backend="fused", **({"tune": False} | options))


def on_gpu(
    step: int, seed: int = 0, batch: int = 2, loop: Sequence[float] | None = None
) -> list[torch.Tensor]:
    """x, t and y of one call, at the timesteps of `toys.timesteps` or of `loop`."""
    x, t, y = call_inputs(step, seed, batch)
    if loop is not None:
        t = torch.full_like(t, int(loop[step]))
    return [value.cuda() for value in (x, t, y)]


def drive(
    fast: Any,
    seed: int = 0,
    steps: int = STEPS,
    batch: int = 2,
    loop: Sequence[float] | None = None,
) -> list[torch.Tensor]:
    """The outputs of a loop's calls."""
    with torch.no_grad():
        return [fast(*on_gpu(step, seed, batch, loop)) for step in range(steps)]


def noise(seed: int = 0, images: int = 2) -> torch.Tensor:
    """Noise for `sample`."""
    return noise_on_host(seed, images).cuda()


@contextmanager
def waits_refused() -> Iterator[None]:
    """Whatever waits for the device inside is an error."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        _set_sync_debug_mode("error")
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    """PyTorch warns that the mode is a prototype, after it has set it: an error under pytest."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode")
        torch.cuda.set_sync_debug_mode(mode)
