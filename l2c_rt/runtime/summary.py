"""What was planned and what happened, counted for a program's life and printed for people."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, fields
from statistics import median

KEPT_SAMPLES = 64


@dataclass(slots=True)
class RunCounts:
    """Counts over all sessions of a compiled model, also those that are gone."""

    calls: int = 0
    completed: int = 0
    abandoned: int = 0
    allocations: int = 0
    weight_changes: int = 0
    times: dict[Hashable, dict[int, list[float]]] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)
    latest: Hashable = None

    def time(self, shape: Hashable, row: int, seconds: float) -> None:
        """Note how long one evaluation of a distinct row took, for one input shape."""
        if shape not in self.times:
            self.times = {shape: {}}
        samples = self.times[shape].setdefault(row, [])
        samples.append(seconds)
        # A bounded window: a service runs for months.
        del samples[:-KEPT_SAMPLES]
        self.latest = shape

    def whole_runs(self, steps: int, times: Iterable[tuple[float, float]]) -> None:
        """Note a run done in one go, and the times of those that have ended meanwhile: seconds of
        the first evaluation, which computes everything, and in all."""
        self.calls += steps
        self.completed += 1
        self.ratios += [steps * first / whole for first, whole in times]
        del self.ratios[:-KEPT_SAMPLES]

    def seconds_per_row(self) -> dict[int, float]:
        """Median seconds of each distinct row, for the last input shape."""
        rows = self.times.get(self.latest, {})
        return {row: median(samples) for row, samples in rows.items()}

    def speedup(self, order: tuple[int, ...], full_row: int) -> float | None:
        """Full over cached time of a run, from per-row medians or from runs timed as a whole; None
        before there is either."""
        times = self.seconds_per_row()
        if any(row not in times for row in order):
            return median(self.ratios) if self.ratios else None
        return len(order) * times[full_row] / sum(times[row] for row in order)


@dataclass(frozen=True, slots=True)
class GraphStats:
    """What a backend has captured and replayed; bytes are those of graph pools and of buffers."""

    graphs: int = 0
    nodes: int = 0
    graph_bytes: int = 0
    buffer_bytes: int = 0
    seconds: float = 0.0
    replays: int = 0
    reasons: tuple[str, ...] = ()

    def __add__(self, other: GraphStats) -> GraphStats:
        """Counts added; reasons once each."""
        numbers = [f.name for f in fields(self) if f.name != "reasons"]
        added = {name: getattr(self, name) + getattr(other, name) for name in numbers}
        return GraphStats(**added, reasons=tuple(dict.fromkeys(self.reasons + other.reasons)))

    def __str__(self) -> str:
        if not self.graphs:
            return "nothing captured"
        return (
            f"{self.graphs} graphs of {self.nodes} kernels in {self.seconds:.2f} s, "
            f"{self.replays} evaluations replayed; {self.graph_bytes / 2**20:.1f} MiB, buffers "
            f"{self.buffer_bytes / 2**20:.1f} MiB"
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """A snapshot; print it, or read the fields."""

    model: str
    source: str
    backend: str
    device: str
    steps: int
    branches: int
    lanes: int
    distinct_rows: int
    reused: int
    runs: int
    abandoned: int
    calls: int
    slots: int
    slot_bytes: int
    table_bytes: int
    arena_allocations: int
    weight_changes: int
    expected_speedup: float
    measured_speedup: float | None
    captured: GraphStats
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        total = self.steps * self.branches
        measured = self.measured_speedup
        lines = [
            f"{self.model} with {self.source or 'a schedule'}",
            f"  backend    {self.backend} on {self.device}",
            f"  plan       {self.steps} evaluations x {self.branches} branches, "
            f"{self.distinct_rows} distinct rows, lanes {self.lanes}",
            f"  reuse      {self.reused} of {total} branch calls ({self.reused / total:.1%})",
            f"  memory     {self.slots} slots, {self.slot_bytes / 2**20:.1f} MiB, taken "
            f"{self.arena_allocations} times; tables {self.table_bytes / 2**20:.1f} MiB",
            f"  runs       {self.runs} complete, {self.abandoned} abandoned, {self.calls} calls",
            f"  speed-up   expected at most {self.expected_speedup:.3f}x, measured "
            + ("not yet" if measured is None else f"{measured:.3f}x"),
        ]
        if self.captured.buffer_bytes:
            lines.append(f"  graphs     {self.captured}")
        if self.weight_changes:
            lines.append(f"  weights    changed {self.weight_changes} times, noticed")
        lines += [f"  note       {reason}" for reason in self.reasons]
        return "\n".join(lines)
