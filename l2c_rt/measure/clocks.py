"""How long one call takes, the device's work included."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Run = Callable[[], object]
Clock = Callable[[Run], float]
"""Seconds of one call."""


def clock_for(device: torch.device) -> Clock:
    """CUDA events on a GPU, the host's clock elsewhere."""
    return partial(event_seconds, device) if device.type == "cuda" else host_seconds


def host_seconds(run: Run) -> float:
    """Seconds of work that is done when the call returns."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def event_seconds(device: torch.device, run: Run) -> float:
    """Seconds between two CUDA events around the call, on the current stream of `device`.

    Waits for the device before and after, so it must not be called during a capture.
    """
    import torch

    # Of that device, which need not be the current one.
    stream = torch.cuda.current_stream(device)
    event: Callable[..., Any] = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize(device)
    start.record(stream)
    run()
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def median_seconds(clock: Clock, run: Run, repeats: int = 7) -> float:
    """The median of several calls, after one that is not timed."""
    run()
    return median(clock(run) for _ in range(repeats))
