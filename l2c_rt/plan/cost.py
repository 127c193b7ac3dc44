"""What a plan costs: multiply-accumulates, bytes and kernels, per evaluation and per run.

Arithmetic only, so that a bound can be printed beside every measured speed-up.  Counts are those
of `lowering`: modulation tabulated before the run, branch outputs written straight to their slot,
one row kernel where a sum is needed, both ends one kernel each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from l2c_rt.plan.delta_ops import LinearParts
from l2c_rt.plan.kernel_counts import CHOICE_KERNELS, SCORE_KERNELS, composed_kernels
from l2c_rt.plan.lowering import can_be_one_kernel
from l2c_rt.plan.ops import Compute, Iterate, Plan, Predict, RunFixed, StepPlan
from l2c_rt.plan.program import BlockProgram, Branch
from l2c_rt.plan.step_walk import Added, walk
from l2c_rt.plan.stream_ops import HalveBatch
from l2c_rt.plan.tokens import Refresh, Scored


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
    one_kernel = can_be_one_kernel(program)
    per_step: list[EvaluationCost] = []
    for step in (*plan.steps, everything):
        counts = LaunchCounts(program, *_always_run(step, program))
        walk(step, program, counts, one_kernel=one_kernel)
        halved = isinstance(step[0], HalveBatch)
        per_step.append(_of_a_half(counts.of_evaluation()) if halved else counts.of_evaluation())
    full = per_step[-1]
    return Cost(
        cached=tuple(per_step[i] for i in plan.order),
        full=(full,) * plan.num_evaluations,
        slot_elements=program.tokens * program.width,
        num_slots=plan.num_slots,
    )


def _always_run(step: StepPlan, program: BlockProgram) -> tuple[int, int]:
    """MACs and weights of the fixed nodes, but for long skips that are composed.

    Hoisted conditioning nodes still cost their MACs once per evaluation of the run.
    """
    composed = {node for op in step if isinstance(op, LinearParts) for node in op.nodes}
    fixed = [node for name, node in program.fixed_of.items() if name not in composed]
    return sum(n.macs for n in fixed), sum(n.weights for n in fixed if not n.conditioning)


def _of_a_half(whole: EvaluationCost) -> EvaluationCost:
    """Of a batch of two halves one is run: half of the arithmetic of a row, all weights."""
    return replace(
        whole, macs=whole.macs // 2, attention_macs=whole.attention_macs // 2,
        activations=whole.activations // 2,
    )  # fmt: skip


def _most(branch: Branch) -> Compute:
    if branch.iterations:
        return Iterate(branch.name, None, max(branch.iterations), False)
    return Compute(branch.name, None)


class LaunchCounts:
    """What the launches of a step cost per image: see `step_walk.Sink`.

    It starts with the `macs` and `weights` of what always runs.  `elements` are those of [T, D]
    tensors and of gate, shift and scale rows that are read or written; the library's splitting of
    products is not counted in `kernels`.
    """

    def __init__(self, program: BlockProgram, macs: int = 0, weights: int = 0) -> None:
        self.elements = self.kernels = self.attention_macs = 0
        self.macs, self.weights = macs, weights
        self._branches, self._fixed = program.branch_of, program.fixed_of
        self._tokens, self._width = program.tokens, program.width
        self._tensor = program.tokens * program.width
        self._modulation_row = program.branches[0].gated * program.width

    def of_evaluation(self) -> EvaluationCost:
        return EvaluationCost(
            self.macs, self.attention_macs, self.weights, self.elements, self.kernels
        )

    def embed(self, target: str, branch: str | None) -> None:
        self._count(1, 0, branch)

    def sum(self, source: str, target: str, terms: Sequence[Added], branch: str | None) -> None:
        written = bool(terms) or source != target
        self._count(1 + _reads(terms) + written, len(terms), branch)

    def final(self, source: str | None, terms: Sequence[Added]) -> None:
        self._count((source is not None) + _reads(terms), len(terms) + 2, None)

    def run(self, op: Compute) -> None:
        branch, times = self._branches[op.branch], op.times if isinstance(op, Iterate) else 1
        self.macs += times * branch.macs
        self.attention_macs += times * branch.attention_macs
        self.weights += times * branch.weights
        self.elements += branch.activations
        self.kernels += branch.kernels

    def score(self, op: Scored) -> None:
        """Of the softmax map both passes multiply q and k again; of values each is read again.
        Numbers per token are not counted."""
        self.kernels += SCORE_KERNELS.get(op.score, 0)
        if op.score == "attention":
            self.attention_macs += self._branches[op.branch].attention_macs
        self.elements += {"attention": 4, "kv-norm": 1}.get(op.score, 0) * self._tensor

    def run_tokens(self, op: Refresh, source: str) -> None:
        """All of the branch's weights, of all else the tokens' share, and so of three tensors that
        are read and written: gathered, normed, scattered.  Numbers per token are not counted."""
        branch = self._branches[op.branch]
        self.macs += branch.macs * op.tokens // self._tokens
        self.weights += branch.weights
        self.elements += (branch.activations + 6 * self._tensor) * op.tokens // self._tokens
        self.elements += 2 * self._modulation_row
        self.kernels += branch.kernels + CHOICE_KERNELS

    def mix(self, op: Predict) -> None:
        self._count(len(op.slots) + 1 + op.has_operand, 0, None)

    def skip_linear(self, node: str, source: str, skip: str, target: str) -> None:
        self.call(node, source)

    def composed(self, op: LinearParts, sources: Sequence[str], target: str) -> None:
        """The first two deltas in one product, which each of the others adds to."""
        kernels = composed_kernels(len(sources))
        self.macs += len(sources) * self._tensor * self._width
        self.weights += len(sources) * self._width**2
        self.elements += (len(sources) + 2 * kernels - 1) * self._tensor
        self.kernels += kernels

    def call(self, node: str, source: str) -> None:
        self.elements += self._fixed[node].activations
        self.kernels += self._fixed[node].kernels

    def _count(self, tensors: int, rows: int, normed: str | None) -> None:
        if normed is not None:
            tensors, rows = tensors + 1, rows + 2
        self.elements += tensors * self._tensor + rows * self._modulation_row
        self.kernels += 1


def _reads(terms: Sequence[Added]) -> int:
    """The tensors that terms are read from: several of a prediction that is not kept."""
    return sum(len(op.slots) if isinstance(op, Predict) and op.store is None else 1 for op in terms)
