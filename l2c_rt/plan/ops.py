"""What a run does: for every evaluation, the ops to run.  Pure data, hashable.

Equal rows of a schedule give equal step plans, so that one captured graph serves all of them.
`build` makes plans, `passes` rewrites them, `verify` proves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from l2c_rt.plan.delta_ops import DeltaOp, FromDelta, KeepAt, LinearParts, ToDelta
from l2c_rt.plan.stream_ops import BatchOp, KeepStream, RestoreStream, TokenStates
from l2c_rt.schedule.halves import HalfSchedule
from l2c_rt.schedule.predictions import Predictions


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
class Predict:
    """Add a sum of what the branch put in `slots`, with the current gate; keep it in `store`.

    The coefficients are those of the evaluation, from its number `at` on: no part of the op, so
    that evaluations that differ in nothing else share a step.  `has_operand`: the sum times one
    plus a scale, plus a shift.
    """

    branch: str
    slots: tuple[int, ...]
    at: int
    store: int | None = None
    has_operand: bool = False


@dataclass(frozen=True, slots=True)
class ReuseRun:
    """Consecutive reuses as one sum.  Accumulated in one go, so not bit-equal to one by one."""

    items: tuple[Reuse | Predict, ...]


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """Neither run the branch nor read it: it lies inside a branch that is reused."""

    branch: str


Op = (
    RunFixed
    | Compute
    | Reuse
    | Predict
    | ReuseRun
    | LeaveOut
    | KeepStream
    | RestoreStream
    | BatchOp
    | DeltaOp
)
StepPlan = tuple[Op, ...]
WITHOUT_NODES = (KeepStream, BatchOp, KeepAt, ToDelta, FromDelta)
Coefficients = tuple[tuple[float, ...], ...]
"""Of the predictions of an evaluation, by their numbers: a row for each lane."""


class PlanError(ValueError):
    """A plan that could read a value which this run has not written, or that skips a node."""


@dataclass(frozen=True)
class Plan:
    """`steps[order[s]]` are the ops of evaluation s; slot i belongs to the branch `slots[i]`.

    `coefficients[s]` are those of the predictions at evaluation s, a row for each lane, and
    `predictions` what they are, in terms of evaluations.
    """

    steps: tuple[StepPlan, ...]
    order: tuple[int, ...]
    slots: tuple[str, ...]
    coefficients: tuple[Coefficients, ...] = ()
    predictions: Predictions | None = None
    tokens: TokenStates | None = None
    halves: HalfSchedule | None = None

    def at(self, evaluation: int) -> StepPlan:
        return self.steps[self.order[evaluation]]

    def coefficients_at(self, evaluation: int) -> Coefficients:
        return self.coefficients[evaluation] if self.coefficients else ()

    @property
    def lanes(self) -> int:
        """Lanes whose predictions have coefficients of their own."""
        return 1 if self.predictions is None else self.predictions.lanes

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


def reuses(step: StepPlan) -> tuple[Reuse | Predict, ...]:
    """The reuses and predictions of one evaluation, runs taken apart."""
    found: list[Reuse | Predict] = []
    for op in step:
        if isinstance(op, Reuse | Predict):
            found.append(op)
        elif isinstance(op, ReuseRun):
            found.extend(op.items)
    return tuple(found)


def _reused(op: Op) -> int:
    if isinstance(op, RestoreStream):
        return op.branches
    return 0 if isinstance(op, RunFixed | Compute | LinearParts) else len(op_nodes(op))


def op_nodes(op: Op) -> tuple[str, ...]:
    """The program nodes that an op stands for, in order."""
    if isinstance(op, RunFixed):
        return (op.node,)
    if isinstance(op, ReuseRun):
        return tuple(item.branch for item in op.items)
    if isinstance(op, RestoreStream | LinearParts):
        return op.nodes
    return () if isinstance(op, WITHOUT_NODES) else (op.branch,)
