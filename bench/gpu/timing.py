"""Time whole runs side by side: warm-up, A B B A order, device clock, every sample kept.

Nothing is timed before its result was compared with a reference (`check`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, quantiles
from typing import Any, Protocol

import torch
from torch import Tensor

Samples = dict[str, list[float]]
"""Seconds of every timed run, by variant, in the order in which they were taken."""


class Clock(Protocol):
    """Marks points in the work of a device and tells the time between two of them."""

    def mark(self) -> Any:
        """A point after all work submitted so far."""

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds from one mark to another, waiting until both are reached."""


class CudaClock:
    """CUDA events on the current stream."""

    def mark(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3


class HostClock:
    """The host's own clock, for work that is done when the call returns."""

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        return end - start


def clock_for(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else HostClock()


def timed(run: Callable[[], object], clock: Clock) -> float:
    """Seconds of one call."""
    start = clock.mark()
    run()
    return clock.seconds(start, clock.mark())


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to time: about `seconds` per variant, `least` to `most` rounds of two runs each."""

    seconds: float = 2.0
    least: int = 2
    most: int = 20
    warmups: int = 2

    def rounds(self, slowest: float) -> int:
        """Rounds that fit, where one run of the slowest variant takes `slowest` seconds."""
        fit = int(self.seconds / (2 * max(slowest, 1e-9)))
        return max(self.least, min(self.most, fit))


def side_by_side(
    variants: Mapping[str, Callable[[], object]], clock: Clock, effort: Effort
) -> Samples:
    """Time all variants in turn, forwards and then backwards in every round.

    A B B A for two: each variant stands as often before as after the other, so that a drift of the
    clocks cancels in the ratio of a round.
    """
    for run in variants.values():
        for _ in range(effort.warmups - 1):
            run()
    rounds = effort.rounds(max(timed(run, clock) for run in variants.values()))
    samples: Samples = {name: [] for name in variants}
    names = list(variants)
    for _ in range(rounds):
        for name in (*names, *reversed(names)):
            samples[name].append(timed(variants[name], clock))
    return samples


def ratios(slower: list[float], faster: list[float]) -> list[float]:
    """How many times as fast, one ratio per round of two samples each."""
    pairs = zip(_in_twos(slower), _in_twos(faster), strict=True)
    return [a / b for a, b in pairs]


def _in_twos(samples: list[float]) -> list[float]:
    return [a + b for a, b in zip(samples[::2], samples[1::2], strict=True)]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, and the quartiles around it."""

    median: float
    low: float
    high: float


def spread(samples: list[float]) -> Spread:
    if len(samples) < 2:
        return Spread(samples[0], samples[0], samples[0])
    low, _, high = quantiles(samples, n=4, method="inclusive")
    return Spread(median(samples), low, high)


def relative_difference(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want| in float64; NaN where either has one."""
    want = want.double().cpu()
    return float((got.double().cpu() - want).norm() / want.norm())


def check(name: str, got: Tensor, want: Tensor, bound: float) -> float:
    """The relative difference.

    Raises AssertionError, before anything is timed, where it is above the bound or not a number.
    """
    difference = relative_difference(got, want)
    if not difference <= bound:
        raise AssertionError(
            f"{name}: differs from the reference by {difference:.2e}, at most {bound:.2e} allowed; "
            "not timed"
        )
    return difference


def per_evaluation(
    run: Callable[[Callable[[int, Tensor], None]], object], clock: Clock, repeats: int
) -> list[list[float]]:
    """Seconds between the ends of successive evaluations, for `repeats` runs.

    `run(callback)` must call back after every evaluation in the order of the device's work.
    Shapes: [repeats][S].
    """
    found = []
    for _ in range(repeats):
        marks = [clock.mark()]
        run(lambda step, latents, marks=marks: marks.append(clock.mark()))
        found.append([clock.seconds(a, b) for a, b in pairwise(marks)])
    return found
