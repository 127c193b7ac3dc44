"""What was planned and what happened, for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median


@dataclass(slots=True)
class Timings:
    """Seconds per evaluation, by distinct row; what `summary` measures a speed-up from."""

    per_row: dict[int, list[float]] = field(default_factory=dict)
    keep: int = 64

    def add(self, row: int, seconds: float) -> None:
        samples = self.per_row.setdefault(row, [])
        samples.append(seconds)
        # A bounded window: a service runs for months.
        del samples[: -self.keep]

    def speedup(self, order: tuple[int, ...], full_row: int) -> float | None:
        """Full over cached time of a run, from per-row medians; None before every row has run."""
        if any(row not in self.per_row for row in order):
            return None
        times = {row: median(samples) for row, samples in self.per_row.items()}
        return len(order) * times[full_row] / sum(times[row] for row in order)


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
    arena_allocations: int
    weight_changes: int
    expected_speedup: float
    measured_speedup: float | None
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
            f"{self.arena_allocations} times",
            f"  runs       {self.runs} complete, {self.abandoned} abandoned, {self.calls} calls",
            f"  speed-up   expected at most {self.expected_speedup:.3f}x, measured "
            + ("not yet" if measured is None else f"{measured:.3f}x"),
        ]
        if self.weight_changes:
            lines.append(f"  weights    changed {self.weight_changes} times, noticed")
        lines += [f"  note       {reason}" for reason in self.reasons]
        return "\n".join(lines)
