"""The slots of a plan run symbolically: what each one holds, and what is read from it."""

from __future__ import annotations

import math

from l2c_rt.plan.ops import Compute, Iterate, Plan, PlanError, Predict, Reuse, reuses
from l2c_rt.schedule.predictions import Predictions

Value = tuple[str, int]
"""The branch whose value it is, and the evaluation that made it."""


def check_reads(plan: Plan) -> None:
    """Prove that every read finds the value that it means, made by this run.

    Raises PlanError naming evaluation, branch and slot.
    """
    _Reads(plan).check()


def slots_of(op: Reuse | Predict) -> tuple[int, ...]:
    """All slots that an op reads or writes."""
    if isinstance(op, Reuse):
        return (op.slot,)
    return op.slots if op.store is None else (*op.slots, op.store)


class _Reads:
    """Who wrote each slot last, and the values of every branch so far."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._held: dict[int, Value] = {}
        self._latest: dict[str, int] = {}
        self._history: dict[str, dict[int, int]] = {}

    def check(self) -> None:
        plan = self._plan
        if plan.coefficients and len(plan.coefficients) != plan.num_evaluations:
            raise PlanError(
                f"coefficients of {len(plan.coefficients)} evaluations, the plan has "
                f"{plan.num_evaluations}"
            )
        number = {}
        if plan.predictions is not None:
            number = {name: k for k, name in enumerate(_branches(plan))}
        writes = [[op for op in step if isinstance(op, Compute)] for step in plan.steps]
        reads = [reuses(step) for step in plan.steps]
        for s, i in enumerate(plan.order):
            # A branch is computed or reused once per evaluation, so writes may be taken first.
            for op in writes[i]:
                self._write(op, s)
            for item in reads[i]:
                if isinstance(item, Predict):
                    self._predict(item, s, number)
                else:
                    self._reuse(item, s)
                self._note(item.branch, s)

    def _note(self, branch: str, s: int) -> None:
        if self._plan.predictions is not None:
            self._history.setdefault(branch, {})[s] = self._latest[branch]

    def _write(self, op: Compute, s: int) -> None:
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

    def _predict(self, op: Predict, s: int, number: dict[str, int]) -> None:
        values = [self._held.get(slot) for slot in op.slots]
        for slot, value in zip(op.slots, values, strict=True):
            if value is None or value[0] != op.branch:
                raise PlanError(
                    f"evaluation {s} predicts {op.branch} from slot {slot}, which holds {value} "
                    "and no value of this run's"
                )
        coefficients = self._plan.coefficients_at(s)[op.at : op.at + len(op.slots)]
        if len(coefficients) != len(op.slots) or op.at < 0:
            raise PlanError(f"evaluation {s}: {op} has no coefficients from number {op.at} on")
        predictions = self._plan.predictions
        if predictions is not None:
            self._check_meaning(op, s, number[op.branch], predictions, coefficients)
        self._latest[op.branch] = s
        if op.store is not None:
            self._held[op.store] = (op.branch, s)

    def _check_meaning(
        self, op: Predict, s: int, k: int, predictions: Predictions, found: tuple[float, ...]
    ) -> None:
        """That slots and coefficients are the terms of the schedule's prediction."""
        history = self._history.get(op.branch, {})
        wanted: dict[int, float] = {}
        for q, coefficient in predictions.at(s, k):
            if q not in history:
                raise PlanError(f"evaluation {s} predicts {op.branch} from evaluation {q}, where "
                                "it has no value")  # fmt: skip
            wanted[history[q]] = wanted.get(history[q], 0.0) + coefficient
        read = {self._held[slot][1]: c for slot, c in zip(op.slots, found, strict=True)}
        same = read.keys() == wanted.keys() and len(read) == len(op.slots)
        if not same or not all(math.isclose(read[q], wanted[q]) for q in read):
            raise PlanError(
                f"evaluation {s} predicts {op.branch} as {read} of earlier values, but the "
                f"schedule says {wanted}"
            )
        if op.has_operand != predictions.has_operand(s, k):
            raise PlanError(f"evaluation {s}: {op}, but its operand is another")


def _branches(plan: Plan) -> list[str]:
    """The branches of a plan in their order: evaluation 0 computes all of them."""
    return [op.branch for op in plan.at(0) if isinstance(op, Compute)]
