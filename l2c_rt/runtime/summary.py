"""A snapshot of a compiled model: what was planned, and what happened so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from l2c_rt.device.graphs import GraphStats
from l2c_rt.plan.delta import delta_evaluations
from l2c_rt.runtime.run import Run
from l2c_rt.runtime.shared import SharedModel

NO_DELTAS = (
    "delta_form=True changes nothing: no evaluation would need fewer products of long skips for it"
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
    calls_per_step: int
    distinct_steps: int
    reused: int
    runs: int
    abandoned: int
    calls: int
    slots: int
    slot_bytes: int
    table_bytes: int
    copied_bytes: int
    arena_allocations: int
    weight_changes: int
    checked: str
    expected_speedup: float
    estimated_speedup: float | None
    graphs: GraphStats
    reasons: tuple[str, ...]
    counted: bool = True
    slots_unmerged: int | None = None
    delta_evaluations: int = 0
    notes: tuple[str, ...] = ()
    """What of the model stays as it is, such as linears that are not packed: no warning, and
    nothing that `strict` refuses."""

    def __str__(self) -> str:
        total = self.steps * self.branches
        estimated = self.estimated_speedup
        not_counted = "" if self.counted else " (by sizes of weights, not counted yet)"
        lines = [
            f"{self.model} with {self.source or 'a schedule'}",
            f"  backend    {self.backend} on {self.device}",
            f"  plan       {self.steps} evaluations x {self.branches} branches, "
            f"{self.distinct_steps} distinct steps{self._calls_per_step()}{self._deltas()}",
            f"  reuse      {self.reused} of {total} branch calls ({self.reused / total:.1%})",
            f"  memory     {self._slots()}, {self.slot_bytes / 2**20:.1f} MiB, allocated "
            f"{_times(self.arena_allocations)}; tables {self.table_bytes / 2**20:.1f} MiB"
            f"{self._copies()}",
            f"  runs       {self.runs} complete, {self.abandoned} abandoned, {self.calls} calls",
            f"  checked    against the model's own forward: {self.checked}",
            f"  speed-up   expected at most {self.expected_speedup:.3f}x{not_counted}, estimated "
            + ("not yet" if estimated is None else f"{estimated:.3f}x from the steps' times"),
        ]
        if self.graphs.buffer_bytes:
            lines.append(f"  graphs     {self.graphs}")
        if self.weight_changes:
            lines.append(f"  weights    changed {_times(self.weight_changes)}, noticed")
        lines += [f"  note       {text}" for text in self.reasons + self.notes]
        return "\n".join(lines)

    def _calls_per_step(self) -> str:
        return f", {self.calls_per_step} calls per step" if self.calls_per_step > 1 else ""

    def _deltas(self) -> str:
        return f", {self.delta_evaluations} in the delta form" if self.delta_evaluations else ""

    def _copies(self) -> str:
        copied = self.copied_bytes / 2**20
        return f"; copies of weights {copied:.1f} MiB" if copied else ""

    def _slots(self) -> str:
        before = self.slots_unmerged
        unmerged = "" if before in (None, self.slots) else f" ({before} before merging)"
        return f"{self.slots} slots{unmerged}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def summarize(shared: SharedModel, runs: Sequence[Run]) -> Summary:
    """The snapshot of a model whose own run is the first of `runs`; the others are sessions'."""
    version, plan, counts = shared.version, shared.version.plan, shared.counts
    deltas = delta_evaluations(plan)
    no_deltas = (NO_DELTAS,) if version.backend.delta_form and not deltas else ()
    lanes = [lane for run in runs for lane in run.lanes.all()]
    graphs = sum((lane.workspace.graph_stats for lane in lanes), GraphStats())
    return Summary(
        model=type(version.model.model).__name__,
        source=shared.schedule.source,
        backend=version.backend.name,
        device=str(version.model.device),
        steps=shared.schedule.steps, branches=shared.schedule.num_branches,
        calls_per_step=runs[0].lanes.count,
        distinct_steps=len(plan.steps), reused=plan.reuse_count,
        runs=counts.completed, abandoned=counts.abandoned, calls=counts.calls,
        slots=plan.num_slots if shared.counted is None else shared.counted.plan.num_slots,
        slots_unmerged=plan.num_slots, notes=version.backend.notes + no_deltas,
        delta_evaluations=deltas,
        slot_bytes=sum(lane.slots.nbytes for lane in lanes),
        table_bytes=sum(lane.workspace.nbytes for lane in lanes),
        copied_bytes=version.copied_bytes,
        arena_allocations=counts.allocations,
        weight_changes=counts.weight_changes,
        checked=shared.proof.status,
        counted=shared.counted is not None or version.model.open_stage is None,
        expected_speedup=shared.cost.speedup_limit,
        estimated_speedup=counts.speedup(plan.order, plan.order[0]),
        graphs=graphs,
        reasons=version.reasons + shared.loop_notes + graphs.reasons,
    )  # fmt: skip
