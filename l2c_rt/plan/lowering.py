"""What the fast path launches for a step of a plan: ops joined into kernels.  Pure data.

A branch's output is written straight to its slot, and added to the residual stream only by the
kernel that needs the sum: together with everything else that waits to be added, and with the
LayerNorm of the branch that comes next.  What waits at the end is added by the final kernel.
Buffers are named: "x" is the residual stream, "skip-3" what a long skip keeps of it, "x-kept" what
is kept of it for the next evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from l2c_rt.plan.ops import (
    BatchOp,
    Compute,
    KeepStream,
    LeaveOut,
    Op,
    RestoreStream,
    Reuse,
    ReuseRun,
    RunFixed,
    StepPlan,
)
from l2c_rt.plan.program import BlockProgram, Branch, Fixed
from l2c_rt.plan.tokens import Refresh, RunTokens

STREAM, JOINED, RESTORED = "x", "x-joined", "x-kept"


@dataclass(frozen=True, slots=True)
class Term:
    """The output of a branch, waiting in `slot` to be added (times its gate, where it has one)."""

    branch: str
    slot: int


@dataclass(frozen=True, slots=True)
class Embed:
    """The latents' tokens, to `target`; with `branch`, also the normed input of that branch."""

    target: str
    branch: str | None


@dataclass(frozen=True, slots=True)
class Sum:
    """`target = source + terms`; with `branch`, also the normed input of that branch.

    Without terms and into the same buffer only the norm remains.
    """

    source: str
    target: str
    terms: tuple[Term, ...]
    branch: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """The linears of a branch, from its normed input to `slot`."""

    branch: str
    slot: int


@dataclass(frozen=True, slots=True)
class SkipLinear:
    """A long skip's linear over (source, skip), to `target`."""

    node: str
    source: str
    skip: str
    target: str


@dataclass(frozen=True, slots=True)
class Final:
    """The last sum, norm and linear; source None is the embedding itself, which nothing else read
    (an evaluation that computes no branch is one kernel)."""

    source: str | None
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A node that is nothing of the above: the model's own code, on the stream as it stands, which
    it may write over."""

    node: str
    source: str


Launch = Embed | Sum | Run | SkipLinear | Final | Call | RunTokens
LoweredStep = tuple[Launch, ...]


def lower(
    step: StepPlan, program: BlockProgram, scratch: int, *, one_kernel: bool = False
) -> LoweredStep:
    """The launches of one distinct step; conditioning nodes must have been hoisted.

    Branches that nobody reads later write to the slot `scratch`.  With `one_kernel` an evaluation
    that computes nothing is its `Final` alone.
    """
    nodes = {node.name: node for node in program.nodes}
    lowering = _Lowering(nodes, scratch, one_kernel)
    for op in step:
        lowering.take(op)
    return tuple(lowering.launches)


class _Lowering:
    """The launches so far, and what still waits: terms to be added, a sum to be kept."""

    def __init__(self, nodes: dict[str, Fixed | Branch], scratch: int, one_kernel: bool) -> None:
        self.launches: list[Launch] = []
        self._nodes, self._scratch, self._one_kernel = nodes, scratch, one_kernel
        self._at = STREAM
        self._embedded = False
        self._waiting: list[Term] = []
        self._keep: str | None = None
        self._kept: list[str] = []

    def take(self, op: Op) -> None:
        if isinstance(op, Compute):
            slot = self._scratch if op.slot is None else op.slot
            self._sum(op.branch)
            self.launches.append(Run(op.branch, slot))
            self._waiting.append(Term(op.branch, slot))
        elif isinstance(op, KeepStream):
            self._settle()
            self._keep = RESTORED
        elif isinstance(op, RestoreStream):
            self._at, self._embedded, self._keep = RESTORED, False, None
            self._waiting.clear()
        elif isinstance(op, Reuse | ReuseRun):
            self._settle()
            if isinstance(op, Refresh) and op.tokens:
                self._sum(None)
                self.launches.append(RunTokens(op.branch, op.slot, self._at, op.tokens))
            items = op.items if isinstance(op, ReuseRun) else (op,)
            self._waiting += [Term(item.branch, item.slot) for item in items]
        elif not isinstance(op, LeaveOut | BatchOp):
            self._fixed(op)

    def _fixed(self, op: RunFixed) -> None:
        node = self._nodes[op.node]
        role = node.role if isinstance(node, Fixed) else ""
        if role == "embed":
            self._embedded = True
        elif role == "skip_save":
            self._settle()
            self._keep = f"skip-{len(self._kept)}-{op.node}"
        elif role == "skip_linear":
            self._settle()
            self._sum(None)
            # A product cannot be written over what it reads.
            target = JOINED if self._at == STREAM else STREAM
            self.launches.append(SkipLinear(op.node, self._at, self._kept.pop(), target))
            self._at = target
        elif role == "final":
            self._final()
        else:
            self._settle()
            self._sum(None)
            self._leave_kept()
            self.launches.append(Call(op.node, self._at))

    def _settle(self) -> None:
        """Write the sum that a long skip keeps, before anything more is added to it."""
        if self._keep is not None:
            self._sum(None)

    def _leave_kept(self) -> None:
        """Copy the stream out of a buffer that a long skip keeps: a node may write over it."""
        if self._at in self._kept:
            self.launches.append(Sum(self._at, STREAM, (), None))
            self._at = STREAM

    def _sum(self, branch: str | None) -> None:
        """Add what waits; `branch` is the one whose normed input is wanted, if any."""
        if self._embedded:
            self._embed(branch)
            if not self._waiting:
                self._note_kept()
                return
        elif not self._waiting and self._keep is None and branch is None:
            return
        # What a long skip keeps is never written over.
        moved = STREAM if self._waiting and self._at in self._kept else self._at
        target = self._keep or moved
        self.launches.append(Sum(self._at, target, tuple(self._waiting), branch))
        self._waiting.clear()
        self._at = target
        self._note_kept()

    def _embed(self, branch: str | None) -> None:
        self._embedded = False
        first = not self._waiting
        self._at = self._keep if first and self._keep is not None else STREAM
        self.launches.append(Embed(self._at, branch if first else None))

    def _note_kept(self) -> None:
        if self._keep is not None:
            self._kept.append(self._keep)
            self._keep = None

    def _final(self) -> None:
        self._settle()
        if self._embedded and not self._one_kernel:
            self._embed(None)
        source = None if self._embedded else self._at
        self.launches.append(Final(source, tuple(self._waiting)))


def buffers(steps: tuple[LoweredStep, ...]) -> tuple[str, ...]:
    """The names of all buffers that lowered steps write, the stream first."""
    names = {STREAM: None}
    for step in steps:
        for launch in step:
            if isinstance(launch, Embed | Sum | SkipLinear):
                names[launch.target] = None
    return tuple(names)


def can_be_one_kernel(program: BlockProgram) -> bool:
    """Whether an evaluation that computes nothing is one kernel: no long skips, gated branches."""
    skip_linears = any(
        isinstance(n, Fixed) and n.role in ("skip_linear", "skip_save") for n in program.nodes
    )
    return not skip_linears and all(branch.gated for branch in program.branches)


def launch_kernels(launch: Launch, nodes: Mapping[str, Fixed | Branch]) -> int:
    """Kernels of one launch; the library's splitting of products not counted."""
    if isinstance(launch, RunTokens):
        # The scores' sum, the choice, the gathering and the scattering are one each.
        return nodes[launch.branch].kernels + 4
    if isinstance(launch, Run):
        return nodes[launch.branch].kernels
    return nodes[launch.node].kernels if isinstance(launch, Call | SkipLinear) else 1
