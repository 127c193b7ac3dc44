"""Counts and times over all sessions of a compiled model, also those that are gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from statistics import median

from l2c_rt.plan.run_record import Done

KEPT_SAMPLES = 64
"""Samples kept of each time: a service runs for months."""


@dataclass(slots=True)
class RunCounts:
    """`times[shape][variant]` are seconds of single evaluations, for the last input shape only.

    `variants` are the evaluations of each distinct step of the plan, or of those that were carried
    out together, without runs done in one go.
    """

    calls: int = 0
    completed: int = 0
    abandoned: int = 0
    allocations: int = 0
    weight_changes: int = 0
    variants: Counter[tuple[int, ...]] = field(default_factory=Counter)
    times: dict[Hashable, dict[int, list[float]]] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)
    latest: Hashable = None

    def add_time(self, shape: Hashable, variant: int, seconds: float) -> None:
        """Note how long one evaluation of a distinct step took, for one input shape."""
        if shape not in self.times:
            self.times = {shape: {}}
        samples = self.times[shape].setdefault(variant, [])
        samples.append(seconds)
        del samples[:-KEPT_SAMPLES]
        self.latest = shape

    def add_call(
        self,
        shape: Hashable,
        done: Done,
        host_seconds: float | None,
        ended: Iterable[tuple[int, float]],
    ) -> None:
        """Note a call and what it did, with its seconds on a host, and the (distinct step, seconds)
        of earlier ones that have ended on a device."""
        self.calls += 1
        self.variants[done.variants] += 1
        for step, seconds in ended:
            self.add_time(shape, step, seconds)
        if host_seconds is not None:
            self.add_time(shape, done.variant, host_seconds)

    def add_whole_run(self, steps: int, times: Iterable[tuple[float, float]]) -> None:
        """Note a run done in one go, and the times of those that have ended meanwhile.

        `times` are seconds of the first evaluation, which computes everything, and in all.
        """
        self.calls += steps
        self.completed += 1
        self.ratios += [steps * first / whole for first, whole in times]
        del self.ratios[:-KEPT_SAMPLES]

    def seconds_per_variant(self) -> dict[int, float]:
        """Median seconds of each distinct step, for the last input shape."""
        times = self.times.get(self.latest, {})
        return {variant: median(samples) for variant, samples in times.items()}

    def speedup(self, order: tuple[int, ...], full_variant: int) -> float | None:
        """Full over cached time of a run, estimated: a full run is S times its first evaluation.

        From medians per step, or from runs timed as a whole; None before there is either.
        """
        times = self.seconds_per_variant()
        if any(variant not in times for variant in order):
            return median(self.ratios) if self.ratios else None
        return len(order) * times[full_variant] / sum(times[variant] for variant in order)
