"""The slots of a plan with predictions run symbolically: what each one holds, what is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from l2c_rt.plan.delta_ops import Unchanged
from l2c_rt.plan.ops import Compute, Iterate, Plan, PlanError, Predict, Reuse
from l2c_rt.plan.program import BlockProgram
from l2c_rt.schedule.predictions import Predictions

Value = tuple[str, int]
"""The branch whose value it is, and the evaluation that made it."""

Read = Reuse | Predict | Unchanged
"""What adds an earlier value, be it that nothing is read for it."""


def check_predicted_reads(
    plan: Plan, writes: Sequence[Sequence[Compute]], reads: Sequence[Sequence[Read]]
) -> None:
    """Prove that every read finds the value that it means, made by this run.

    `writes` and `reads` are the ops of each distinct step.  Raises PlanError naming evaluation,
    branch and slot.
    """
    if plan.coefficients and len(plan.coefficients) != plan.num_evaluations:
        raise PlanError(
            f"coefficients of {len(plan.coefficients)} evaluations, the plan has "
            f"{plan.num_evaluations}"
        )
    # Evaluation 0 computes every branch, in their order.
    number = {op.branch: k for k, op in enumerate(writes[plan.order[0]])}
    run = _Reads(plan, number)
    for s, i in enumerate(plan.order):
        # A branch is computed or reused once per evaluation, so writes may be taken first.
        for op in writes[i]:
            run.write(op, s)
        for item in reads[i]:
            run.read(item, s)


def check_predicted(
    reads: Sequence[Read], program: BlockProgram, predictions: Predictions, s: int
) -> None:
    """Prove that an evaluation predicts those branches, and no others, that the schedule says."""
    predicted = {op.branch for op in reads if isinstance(op, Predict)}
    for k, name in enumerate(program.branch_names):
        if (name in predicted) != bool(predictions.at(s, k)):
            found = "" if name in predicted else "not "
            raise PlanError(f"evaluation {s}: {name} is {found}predicted, against the schedule")


def slots_of(op: Compute | Read) -> tuple[int, ...]:
    """All slots that an op reads or writes."""
    if isinstance(op, Unchanged):
        return ()
    if isinstance(op, Predict):
        return op.slots if op.store is None else (*op.slots, op.store)
    return () if op.slot is None else (op.slot,)


class _Reads:
    """Who wrote each slot last, and the values of every branch so far."""

    def __init__(self, plan: Plan, number: dict[str, int]) -> None:
        self._plan, self._number = plan, number
        self._held: dict[int, Value] = {}
        self._latest: dict[str, int] = {}
        self._history: dict[str, dict[int, int]] = {}

    def read(self, item: Read, s: int) -> None:
        if isinstance(item, Predict):
            self._predict(item, s)
        elif isinstance(item, Reuse):
            self._reuse(item, s)
        self._note(item.branch, s)

    def _note(self, branch: str, s: int) -> None:
        self._history.setdefault(branch, {})[s] = self._latest[branch]

    def write(self, op: Compute, s: int) -> None:
        held = self._held.get(-1 if op.slot is None else op.slot)
        if isinstance(op, Iterate) and op.resumes:
            last = self._latest.get(op.branch)
            if (None if held is None or held[0] != op.branch else held[1]) != last:
                raise PlanError(
                    f"evaluation {s} resumes {op.branch} from slot {op.slot}, which holds {held} "
                    "and not its last output"
                )
        self._latest[op.branch] = s
        self._note(op.branch, s)
        if op.slot is not None:
            self._held[op.slot] = (op.branch, s)

    def _reuse(self, item: Reuse, s: int) -> None:
        latest = self._latest.get(item.branch)
        if latest is None:
            raise PlanError(
                f"evaluation {s} reuses {item.branch}, which this run has not computed yet"
            )
        if self._held.get(item.slot) != (item.branch, latest):
            raise PlanError(
                f"evaluation {s} reuses {item.branch} from slot {item.slot}, which holds "
                f"{self._held.get(item.slot)} and not the output of evaluation {latest}"
            )

    def _predict(self, op: Predict, s: int) -> None:
        values = [self._held.get(slot) for slot in op.slots]
        for slot, value in zip(op.slots, values, strict=True):
            if value is None or value[0] != op.branch:
                raise PlanError(
                    f"evaluation {s} predicts {op.branch} from slot {slot}, which holds {value} "
                    "and no value of this run's"
                )
        rows = [row[op.at : op.at + len(op.slots)] for row in self._plan.coefficients_at(s)]
        whole = all(len(row) == len(op.slots) for row in rows)
        if not whole or len(rows) != self._plan.lanes or op.at < 0:
            raise PlanError(
                f"evaluation {s}: {op} has no coefficients from number {op.at} on, in each of "
                f"{self._plan.lanes} lanes"
            )
        predictions = self._plan.predictions
        for lane, row in enumerate(rows if predictions is not None else ()):
            self._check_meaning(op, s, lane, row)
        self._latest[op.branch] = s
        if op.store is not None:
            self._held[op.store] = (op.branch, s)

    def _check_meaning(self, op: Predict, s: int, lane: int, row: tuple[float, ...]) -> None:
        """That slots and coefficients are the terms of the schedule's prediction in a lane."""
        predictions = self._plan.predictions
        assert predictions is not None
        k, history = self._number[op.branch], self._history.get(op.branch, {})
        wanted: dict[int, float] = {}
        for q, coefficient in predictions.at(s, k, lane):
            if q not in history:
                raise PlanError(f"evaluation {s} predicts {op.branch} from evaluation {q}, where "
                                "it has no value")  # fmt: skip
            wanted[history[q]] = wanted.get(history[q], 0.0) + coefficient
        read = {self._held[slot][1]: c for slot, c in zip(op.slots, row, strict=True)}
        if predictions.rounding is not None and list(read) != sorted(read):
            raise PlanError(f"evaluation {s} takes differences of {op.branch} in the order {read}")
        same = read.keys() == wanted.keys() and len(read) == len(op.slots)
        if not same or not all(math.isclose(read[q], wanted[q]) for q in read):
            raise PlanError(
                f"evaluation {s} predicts {op.branch} in lane {lane} as {read} of earlier values, "
                f"but the schedule says {wanted}"
            )
        if op.has_operand != predictions.has_operand(s, k):
            raise PlanError(f"evaluation {s}: {op}, but its operand is another")
