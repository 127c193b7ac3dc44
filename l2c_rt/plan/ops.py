"""What a run does: for every evaluation, the ops to run.  Pure data, hashable.

Equal rows of a schedule give equal step plans, so that one captured graph serves all of them.
`build` makes plans, `passes` rewrites them, `verify` proves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from l2c_rt.schedule.halves import HalfSchedule
from l2c_rt.schedule.tokens import TokenRule


@dataclass(frozen=True, slots=True)
class RunFixed:
    """Run a node that is never reused."""

    node: str


@dataclass(frozen=True, slots=True)
class Compute:
    """Run a branch and add it; keep its output in `slot`, or nowhere if nobody reads it again."""

    branch: str
    slot: int | None


@dataclass(frozen=True, slots=True)
class Iterate(Compute):
    """Run a branch `times` times on its own output, from what `slot` holds where it `resumes`."""

    times: int
    resumes: bool


@dataclass(frozen=True, slots=True)
class Reuse:
    """Add what the branch put in `slot`, with the current gate."""

    branch: str
    slot: int


@dataclass(frozen=True, slots=True)
class ReuseRun:
    """Consecutive reuses as one sum.  Accumulated in one go, so not bit-equal to one by one."""

    items: tuple[Reuse, ...]


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """Neither run the branch nor read it: it lies inside a branch that is reused."""

    branch: str


@dataclass(frozen=True, slots=True)
class KeepStream:
    """Keep the residual stream as it is here."""


@dataclass(frozen=True, slots=True)
class RestoreStream:
    """Pass over `nodes`, of which `branches` are branches: the stream is what was kept of it."""

    nodes: tuple[str, ...]
    branches: int


@dataclass(frozen=True, slots=True)
class HalveBatch:
    """From here on only the conditional half of the batch is run."""


@dataclass(frozen=True, slots=True)
class JoinHalves:
    """Give both halves of the output, of which the unconditional one is made of the conditional.

    With `bands`, what they differed by is added, its low and high frequencies times these.
    """

    low: float
    high: float
    bands: bool


@dataclass(frozen=True, slots=True)
class KeepBands:
    """Keep by what the spectra of both halves of the output differ."""


BatchOp = HalveBatch | JoinHalves | KeepBands
"""What is done with a batch of two halves, before and after the nodes."""
Op = RunFixed | Compute | Reuse | ReuseRun | LeaveOut | KeepStream | RestoreStream | BatchOp
StepPlan = tuple[Op, ...]


class PlanError(ValueError):
    """A plan that could read a value which this run has not written, or that skips a node."""


@dataclass(frozen=True, slots=True)
class TokenStates:
    """Beside the slots: state i holds a score and an age for each token of `branches[i]`.

    `rule` says how tokens are chosen by them.
    """

    branches: tuple[str, ...]
    rule: TokenRule


@dataclass(frozen=True)
class Plan:
    """`steps[order[s]]` are the ops of evaluation s; slot i belongs to the branch `slots[i]`."""

    steps: tuple[StepPlan, ...]
    order: tuple[int, ...]
    slots: tuple[str, ...]
    tokens: TokenStates | None = None
    halves: HalfSchedule | None = None

    def at(self, evaluation: int) -> StepPlan:
        return self.steps[self.order[evaluation]]

    @property
    def num_evaluations(self) -> int:
        return len(self.order)

    @property
    def num_slots(self) -> int:
        return len(self.slots)

    @cached_property
    def reuse_count(self) -> int:
        """Branches reused over the whole run, those that lie inside reused ones included."""
        counts = [sum(map(_reused, step)) for step in self.steps]
        return sum(counts[i] for i in self.order)


def reuses(step: StepPlan) -> tuple[Reuse, ...]:
    """The reuses of one evaluation, runs taken apart."""
    found: list[Reuse] = []
    for op in step:
        if isinstance(op, Reuse):
            found.append(op)
        elif isinstance(op, ReuseRun):
            found.extend(op.items)
    return tuple(found)


def _reused(op: Op) -> int:
    if isinstance(op, RestoreStream):
        return op.branches
    return 0 if isinstance(op, RunFixed | Compute) else len(op_nodes(op))


def op_nodes(op: Op) -> tuple[str, ...]:
    """The program nodes that an op stands for, in order."""
    if isinstance(op, RunFixed):
        return (op.node,)
    if isinstance(op, ReuseRun):
        return tuple(item.branch for item in op.items)
    if isinstance(op, RestoreStream):
        return op.nodes
    return () if isinstance(op, KeepStream | BatchOp) else (op.branch,)
