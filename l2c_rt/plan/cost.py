"""What a plan costs: multiply-accumulates, bytes and kernels, per evaluation and per run.

Arithmetic only, so that a bound can be printed beside every measured speed-up.  Counts are those
of `lowering`: modulation tabulated before the run, branch outputs written straight to their slot,
one row kernel where a sum is needed, both ends one kernel each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from l2c_rt.plan.lowering import (
    Embed,
    Final,
    Launch,
    Run,
    Sum,
    can_be_one_kernel,
    launch_kernels,
    lower,
)
from l2c_rt.plan.ops import Compute, HalveBatch, Iterate, Plan, RunFixed, StepPlan
from l2c_rt.plan.passes import hoist_conditioning
from l2c_rt.plan.program import BlockProgram, Branch, Fixed
from l2c_rt.plan.tokens import Refresh, RunTokens


@dataclass(frozen=True, slots=True)
class EvaluationCost:
    """One evaluation of one image.  `macs` counts linear layers only (the L2C paper's way).

    `activations` are elements read and written by all kernels, the float32 latents left out.
    """

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
    def speedup_limit(self) -> float:
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
    everything: StepPlan = tuple(
        _most(n) if isinstance(n, Branch) else RunFixed(n.name) for n in program.nodes
    )
    hoisted = hoist_conditioning(Plan((*plan.steps, everything), plan.order, plan.slots), program)
    *per_step, full = (_evaluation(step, program, plan.num_slots) for step in hoisted.steps)
    return Cost(
        cached=tuple(per_step[i] for i in plan.order),
        full=(full,) * plan.num_evaluations,
        slot_elements=program.tokens * program.width,
        num_slots=plan.num_slots,
    )


def _most(branch: Branch) -> Compute:
    if branch.iterations:
        return Iterate(branch.name, None, max(branch.iterations), False)
    return Compute(branch.name, None)


def _evaluation(step: StepPlan, program: BlockProgram, scratch: int) -> EvaluationCost:
    nodes = {node.name: node for node in program.nodes}
    # Hoisted conditioning nodes still cost their MACs once per evaluation of the run.
    done: list[Fixed | Branch] = [n for n in nodes.values() if _tabulated(n)]
    for op in step:
        if isinstance(op, RunFixed):
            done.append(nodes[op.node])
        elif isinstance(op, Compute):
            done += [nodes[op.branch]] * (op.times if isinstance(op, Iterate) else 1)
        elif isinstance(op, Refresh) and op.tokens:
            done.append(_on_tokens(nodes[op.branch], op.tokens, program))
    launches = lower(step, program, scratch, one_kernel=can_be_one_kernel(program))
    # Of a batch of two halves one is run: half of the arithmetic of a row.
    share = 2 if any(isinstance(op, HalveBatch) for op in step) else 1
    return EvaluationCost(
        macs=sum(n.macs for n in done) // share,
        attention_macs=sum(n.attention_macs for n in done if isinstance(n, Branch)) // share,
        weights=sum(n.weights for n in done if not _tabulated(n)),
        activations=sum(launch_elements(launch, program) for launch in launches) // share,
        kernels=sum(launch_kernels(launch, nodes) for launch in launches),
    )


def launch_elements(launch: Launch, program: BlockProgram) -> int:
    """Elements of [T, D] tensors and of gate, shift and scale rows that a launch reads or writes,
    per image."""
    tensor, modulation_row = program.tokens * program.width, program.width
    gated = program.branches[0].gated
    if isinstance(launch, Embed):
        normed = launch.branch is not None
        return (1 + normed) * tensor + 2 * normed * gated * modulation_row
    if isinstance(launch, Sum):
        normed, written = launch.branch is not None, bool(launch.terms)
        passes = 1 + len(launch.terms) + (written or launch.source != launch.target) + normed
        return passes * tensor + (len(launch.terms) + 2 * normed) * gated * modulation_row
    if isinstance(launch, Final):
        passes = (launch.source is not None) + len(launch.terms)
        return passes * tensor + (len(launch.terms) + 2) * gated * modulation_row
    if isinstance(launch, RunTokens):
        branch = next(branch for branch in program.branches if branch.name == launch.branch)
        # Gathered before the branch, scattered after it; scores and ages are read and written.
        moved = 4 * launch.tokens * program.width + 3 * program.tokens
        return _on_tokens(branch, launch.tokens, program).activations + moved
    name = launch.branch if isinstance(launch, Run) else launch.node
    return next(node for node in program.nodes if node.name == name).activations


def _on_tokens(branch: Fixed | Branch, tokens: int, program: BlockProgram) -> Fixed | Branch:
    """The branch on some of its tokens: all of its weights, its other counts in proportion."""
    share = Fraction(tokens, program.tokens)
    return replace(
        branch, macs=int(branch.macs * share), activations=int(branch.activations * share)
    )


def _tabulated(node: Fixed | Branch) -> bool:
    return isinstance(node, Fixed) and node.conditioning
