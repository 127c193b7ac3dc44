"""A snapshot of a compiled model: what was planned, and what happened so far."""

from __future__ import annotations

from dataclasses import dataclass

from l2c_rt.device.graphs import GraphStats


@dataclass(frozen=True, slots=True)
class Summary:
    """A snapshot; print it, or read the fields."""

    model: str
    source: str
    backend: str
    device: str
    steps: int
    branches: int
    calls_per_step: int
    distinct_steps: int
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
    graphs: GraphStats
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        total = self.steps * self.branches
        measured = self.measured_speedup
        lines = [
            f"{self.model} with {self.source or 'a schedule'}",
            f"  backend    {self.backend} on {self.device}",
            f"  plan       {self.steps} evaluations x {self.branches} branches, "
            f"{self.distinct_steps} distinct steps{self._calls_per_step()}",
            f"  reuse      {self.reused} of {total} branch calls ({self.reused / total:.1%})",
            f"  memory     {self.slots} slots, {self.slot_bytes / 2**20:.1f} MiB, allocated "
            f"{_times(self.arena_allocations)}; tables {self.table_bytes / 2**20:.1f} MiB",
            f"  runs       {self.runs} complete, {self.abandoned} abandoned, {self.calls} calls",
            f"  speed-up   expected at most {self.expected_speedup:.3f}x, measured "
            + ("not yet" if measured is None else f"{measured:.3f}x"),
        ]
        if self.graphs.buffer_bytes:
            lines.append(f"  graphs     {self.graphs}")
        if self.weight_changes:
            lines.append(f"  weights    changed {_times(self.weight_changes)}, noticed")
        lines += [f"  note       {reason}" for reason in self.reasons]
        return "\n".join(lines)

    def _calls_per_step(self) -> str:
        return f", {self.calls_per_step} calls per step" if self.calls_per_step > 1 else ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
