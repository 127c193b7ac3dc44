"""A run as the device saw it: when it stood idle, and how long each step took.

From a profile of kernels, since what marks steps from outside would hold up a run that is launched
ahead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

LAST_KERNELS = re.compile("final_update|guided_update")
"""Names of the kernels that end a step: the solver's update."""


@dataclass(frozen=True, slots=True)
class Span:
    """A kernel, copy or fill on the device; times in microseconds."""

    name: str
    start: float
    end: float


def idle(spans: Sequence[Span]) -> dict[str, float]:
    """Share of the time from the first start to the last end that no span covers."""
    ordered = sorted(spans, key=lambda span: span.start)
    first, reached = ordered[0].start, ordered[0].start
    busy = 0.0
    for span in ordered:
        busy += max(0.0, span.end - max(span.start, reached))
        reached = max(reached, span.end)
    whole = reached - first
    return {
        "kernels": len(ordered),
        "seconds": whole * 1e-6,
        "busy_seconds": busy * 1e-6,
        "idle_share": 1.0 - busy / whole,
    }


def step_seconds(spans: Sequence[Span]) -> list[float]:
    """Seconds from the end of one step to the end of the next.

    The first also holds what comes before it: the table of modulations.
    """
    ends = sorted(span.end for span in spans if LAST_KERNELS.search(span.name))
    starts = [min(span.start for span in spans), *ends[:-1]]
    return [(end - start) * 1e-6 for start, end in zip(starts, ends, strict=True)]


def longest(spans: Sequence[Span], count: int = 25) -> list[dict[str, Any]]:
    """The kernels that take the longest in all, with how often and how long."""
    seconds: dict[str, list[float]] = {}
    for span in spans:
        seconds.setdefault(span.name[:120], []).append((span.end - span.start) * 1e-6)
    by_sum = sorted(seconds.items(), key=lambda item: -sum(item[1]))[:count]
    return [{"name": name, "count": len(s), "seconds": sum(s)} for name, s in by_sum]


def profiled(run: Callable[[], object]) -> list[Span]:
    """What one call has the device do."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    return [
        Span(event.name, event.time_range.start, event.time_range.end)
        for event in recorded.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]


def profile_of(run: Callable[[], object], steps: int, repeats: int = 3) -> dict[str, Any]:
    """Idle share of the last of several profiled runs, and every run's steps where the profile
    tells them apart."""
    runs = [profiled(run) for _ in range(repeats)]
    if not all(runs):
        return {"missing": "the profiler recorded no kernels on this machine"}
    facts: dict[str, Any] = idle(runs[-1]) | {"longest": longest(runs[-1])}
    seconds = [step_seconds(spans) for spans in runs]
    if any(len(per_step) != steps for per_step in seconds):
        return facts | {"steps_missing": f"{len(seconds[-1])} ends seen, {steps} expected"}
    return facts | {"step_seconds": seconds}
