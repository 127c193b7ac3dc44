"""What a plan costs: multiply-accumulates, bytes and kernels, per evaluation and per run.

Arithmetic only, so that a bound can be printed beside every measured speed-up.  Counts are for
the fused path: modulation tabulated before the run, branch outputs written straight to their slot,
one row kernel per computed branch, reuse runs folded into the next row kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from l2c_rt.plan import Compute, Plan, Reuse, ReuseRun, RunFixed, StepPlan
from l2c_rt.program import BlockProgram, Branch, Fixed

ROW_KERNEL_ACCESSES = 4
"""Reads of x and of the branch, writes of x and of the normalised row, in units of T * D."""


@dataclass(frozen=True, slots=True)
class EvaluationCost:
    """One evaluation of one image.  `macs` counts linear layers only (the L2C paper's way)."""

    macs: int
    attention_macs: int
    weights: int
    activations: int
    kernels: int

    @property
    def all_macs(self) -> int:
        return self.macs + self.attention_macs

    def moved_bytes(self, *, batch: int, itemsize: int) -> int:
        """Bytes read and written: weights once, activations once per image."""
        return (self.weights + batch * self.activations) * itemsize


@dataclass(frozen=True)
class Cost:
    """Per-evaluation costs of a run with its cache (`cached`) and without (`full`)."""

    cached: tuple[EvaluationCost, ...]
    full: tuple[EvaluationCost, ...]
    slot_elements: int
    num_slots: int

    @property
    def macs(self) -> int:
        """Linear-layer MACs of the cached run, per image, without a guidance factor."""
        return sum(e.macs for e in self.cached)

    @property
    def full_macs(self) -> int:
        return sum(e.macs for e in self.full)

    @property
    def speedup_bound(self) -> float:
        """Full over cached MACs, attention products included: what caching alone can give."""
        return sum(e.all_macs for e in self.full) / sum(e.all_macs for e in self.cached)

    @property
    def kernels(self) -> int:
        return sum(e.kernels for e in self.cached)

    def slot_bytes(self, *, batch: int, itemsize: int) -> int:
        """Memory of all slots for `batch` rows (two per image where guidance doubles it)."""
        return self.num_slots * self.slot_elements * batch * itemsize

    def floor_seconds(
        self, *, batch: int, itemsize: int, macs_per_second: float, bytes_per_second: float
    ) -> float:
        """Lower bound of the cached run at given ceilings: the slower of arithmetic and memory,
        evaluation by evaluation."""
        return sum(
            max(
                batch * e.all_macs / macs_per_second,
                e.moved_bytes(batch=batch, itemsize=itemsize) / bytes_per_second,
            )
            for e in self.cached
        )


def cost(program: BlockProgram, plan: Plan) -> Cost:
    """Count a verified plan of `program`, and the same run without a cache."""
    nodes = {node.name: node for node in program.nodes}
    row_elements = program.tokens * program.width
    per_step = [_evaluation(step, nodes, row_elements) for step in plan.steps]
    everything: StepPlan = tuple(
        Compute(n.name, None) if isinstance(n, Branch) else RunFixed(n.name) for n in program.nodes
    )
    full = _evaluation(everything, nodes, row_elements)
    return Cost(
        cached=tuple(per_step[i] for i in plan.order),
        full=(full,) * plan.num_evaluations,
        slot_elements=row_elements,
        num_slots=plan.num_slots,
    )


def _evaluation(
    step: StepPlan, nodes: dict[str, Fixed | Branch], row_elements: int
) -> EvaluationCost:
    # Hoisted conditioning nodes still cost their MACs once per evaluation of the run.
    done: list[Fixed | Branch] = [
        n for n in nodes.values() if isinstance(n, Fixed) and n.conditioning
    ]
    accesses = 0
    for op in step:
        if isinstance(op, RunFixed):
            if (node := nodes[op.node]) not in done:
                done.append(node)
        elif isinstance(op, Compute):
            done.append(nodes[op.branch])
            accesses += ROW_KERNEL_ACCESSES
        else:
            accesses += _reused(op)
    computed = sum(isinstance(op, Compute) for op in step)
    return EvaluationCost(
        macs=sum(n.macs for n in done),
        attention_macs=sum(n.attention_macs for n in done if isinstance(n, Branch)),
        weights=sum(n.weights for n in done if not _tabulated(n)),
        activations=sum(n.activations for n in done) + accesses * row_elements,
        kernels=sum(n.kernels for n in done) + computed,
    )


def _reused(op: Reuse | ReuseRun) -> int:
    return len(op.items) if isinstance(op, ReuseRun) else 1


def _tabulated(node: Fixed | Branch) -> bool:
    return isinstance(node, Fixed) and node.conditioning
