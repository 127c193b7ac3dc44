"""What the fast path launches for a step of a plan: ops joined into kernels.  Pure data.

A branch's output is written straight to its slot, and added to the residual stream only by the
kernel that needs the sum: together with everything else that waits to be added, and with the
LayerNorm of the branch that comes next.  What waits at the end is added by the final kernel.
Buffers are named: "x" is the residual stream, "skip-3" and "slot-3" what is kept of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from l2c_rt.plan.delta_ops import FromDelta, LinearParts, ToDelta
from l2c_rt.plan.ops import Compute, Predict, Reuse, StepPlan
from l2c_rt.plan.program import BlockProgram, Fixed
from l2c_rt.plan.step_walk import STREAM, Added, slot_of_stream, walk
from l2c_rt.plan.tokens import Refresh, Scored


@dataclass(frozen=True, slots=True)
class Term:
    """The output of a branch, waiting in `slot` to be added (times its gate, where it has one).

    `at` is the number of the coefficient that it is added with, where it is one term of a
    prediction.
    """

    branch: str
    slot: int
    at: int | None = None


@dataclass(frozen=True, slots=True)
class BaseTerm:
    """What the base kept of the stream in `slot`: added, or taken away where `sign` is -1."""

    slot: int
    sign: int


Terms = tuple[Term | BaseTerm, ...]


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
    terms: Terms
    branch: str | None


@dataclass(frozen=True, slots=True)
class Mix:
    """`store = sum of coefficients * slots`, times one plus a scale, plus a shift where it
    `has_operand`: a prediction that is kept."""

    branch: str
    slots: tuple[int, ...]
    at: int
    store: int
    has_operand: bool


@dataclass(frozen=True, slots=True)
class Run:
    """The linears of a branch, from its normed input to `slot`."""

    branch: str
    slot: int


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of an attention branch's tokens, right after its run, to `state`."""

    branch: str
    state: int
    score: str


@dataclass(frozen=True, slots=True)
class SkipLinear:
    """A long skip's linear over (source, skip), to `target`."""

    node: str
    source: str
    skip: str
    target: str


@dataclass(frozen=True, slots=True)
class Composed:
    """Neighbouring long skips at once: a product of each source, `op.deltas` in order, summed."""

    op: LinearParts
    sources: tuple[str, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Final:
    """The last sum, norm and linear; source None is the embedding itself, which nothing else read
    (an evaluation that computes no branch is one kernel)."""

    source: str | None
    terms: Terms


@dataclass(frozen=True, slots=True)
class Call:
    """A node that is nothing of the above: the model's own code, on the stream as it stands, which
    it may write over."""

    node: str
    source: str


@dataclass(frozen=True, slots=True)
class RunTokens:
    """A branch on the `tokens` tokens of `source` that `state` says, each written to its place in
    `slot`."""

    branch: str
    slot: int
    source: str
    tokens: int
    state: int


Launch = Embed | Sum | Mix | Run | Score | SkipLinear | Composed | Final | Call | RunTokens
LoweredStep = tuple[Launch, ...]


def lower(
    step: StepPlan, program: BlockProgram, scratch: int, *, one_kernel: bool = False
) -> LoweredStep:
    """The launches of one distinct step; conditioning nodes have none, as they are tabulated.

    Branches that nobody reads later write to the slot `scratch`.  With `one_kernel` an evaluation
    that computes nothing is its `Final` alone.
    """
    launches = _Launches(scratch)
    walk(step, program, launches, one_kernel=one_kernel)
    return tuple(launches.made)


class _Launches:
    """The launches as objects, branches that nobody reads later in the slot `scratch`."""

    def __init__(self, scratch: int) -> None:
        self.made: list[Launch] = []
        self._scratch = scratch

    def embed(self, target: str, branch: str | None) -> None:
        self.made.append(Embed(target, branch))

    def sum(self, source: str, target: str, terms: Sequence[Added], branch: str | None) -> None:
        self.made.append(Sum(source, target, self._terms(terms), branch))

    def run(self, op: Compute) -> None:
        self.made.append(Run(op.branch, self._slot(op)))

    def score(self, op: Scored) -> None:
        self.made.append(Score(op.branch, op.state, op.score))

    def mix(self, op: Predict) -> None:
        assert op.store is not None
        self.made.append(Mix(op.branch, op.slots, op.at, op.store, op.has_operand))

    def run_tokens(self, op: Refresh, source: str) -> None:
        self.made.append(RunTokens(op.branch, op.slot, source, op.tokens, op.state))

    def skip_linear(self, node: str, source: str, skip: str, target: str) -> None:
        self.made.append(SkipLinear(node, source, skip, target))

    def composed(self, op: LinearParts, sources: Sequence[str], target: str) -> None:
        self.made.append(Composed(op, tuple(sources), target))

    def final(self, source: str | None, terms: Sequence[Added]) -> None:
        self.made.append(Final(source, self._terms(terms)))

    def call(self, node: str, source: str) -> None:
        self.made.append(Call(node, source))

    def _terms(self, ops: Sequence[Added]) -> Terms:
        return tuple(term for op in ops for term in self._terms_of(op))

    def _terms_of(self, op: Added) -> Terms:
        if isinstance(op, ToDelta | FromDelta):
            return (BaseTerm(op.slot, 1 if isinstance(op, FromDelta) else -1),)
        if not isinstance(op, Predict):
            return (Term(op.branch, self._slot(op)),)
        if op.store is not None:
            return (Term(op.branch, op.store),)
        return tuple(Term(op.branch, slot, op.at + m) for m, slot in enumerate(op.slots))

    def _slot(self, op: Compute | Reuse) -> int:
        return self._scratch if op.slot is None else op.slot


def buffers(steps: tuple[LoweredStep, ...]) -> tuple[str, ...]:
    """The names of all buffers that lowered steps write, the stream first; slots are none."""
    names = {STREAM: None}
    for step in steps:
        for launch in step:
            if isinstance(launch, Embed | Sum | SkipLinear | Composed):
                names[launch.target] = None
    return tuple(name for name in names if slot_of_stream(name) is None)


def can_be_one_kernel(program: BlockProgram) -> bool:
    """Whether an evaluation that computes nothing is one kernel: no long skips, gated branches."""
    skip_linears = any(
        isinstance(n, Fixed) and n.role in ("skip_linear", "skip_save") for n in program.nodes
    )
    return not skip_linears and all(branch.gated for branch in program.branches)
