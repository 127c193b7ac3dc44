"""Several decisions in one forward: their plan, put together from plans that know nothing of each
other, and its proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from random import Random

import pytest
from random_programs import unit_program

from l2c_rt.plan.dynamic import RowPlans
from l2c_rt.plan.ops import Compute, Plan, PlanError, Predict, Reuse, StepPlan, reuses
from l2c_rt.plan.part_plans import PartPlans, together

NAMES = ("a", "b", "c", "d", "e")
PROGRAM = unit_program(NAMES)
PARTS = PartPlans((RowPlans(2), RowPlans(2, 3), RowPlans(2, 2, 2)), (("b", "c"), ("d",), ("e",)))
PLAN = PARTS.plan(PROGRAM, 6)


class Run:
    """The slots of a run, and what each branch has computed or predicted, the newest last."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[str, str, int]] = {}
        self.counts: dict[tuple[str, str], int] = {}

    def stale_reads(self, step: StepPlan, history: dict[str, tuple[int, int]]) -> int:
        """Reads of anything but the newest values of the branch, of this evaluation."""
        reads = {op.branch: op for op in reuses(step)}
        stale = 0
        for branch, op in reads.items():
            slots = op.slots if isinstance(op, Predict) else (op.slot,)
            newest = {
                (branch, kind, self.counts.get((branch, kind), 0) - i)
                for kind, most in zip(("computed", "predicted"), history[branch], strict=True)
                for i in range(min(most, self.counts.get((branch, kind), 0)))
            }
            stale += {self.held.get(slot) for slot in slots} != newest
        for op in step:
            if isinstance(op, Compute) and op.slot is not None:
                self._keep(op.branch, "computed", op.slot)
            if isinstance(op, Predict) and op.store is not None:
                self._keep(op.branch, "predicted", op.store)
        return stale

    def _keep(self, branch: str, kind: str, slot: int) -> None:
        self.counts[branch, kind] = self.counts.get((branch, kind), 0) + 1
        self.held[slot] = branch, kind, self.counts[branch, kind]


HISTORY = {"b": (1, 0), "c": (1, 0), "d": (3, 0), "e": (2, 2)}


def steps_of(rows: Sequence[Sequence[int]]) -> list[StepPlan]:
    """The evaluations of a run in which the decisions take these rows."""
    computed, predicted = [0, 0, 0], [0, 0, 0]
    steps = []
    for row in rows:
        counts = zip(PARTS.plans, row, computed, predicted, strict=True)
        variants = [
            PARTS.first(p) + plans.variant(r, done, told)
            for p, (plans, r, done, told) in enumerate(counts)
        ]
        steps.append(together(PLAN, variants))
        for p, r in enumerate(row):
            computed[p] += r == 0
            predicted[p] += r == 1 and computed[p] >= PARTS.plans[p].history
    return steps


def test_whatever_each_decision_does_every_read_is_of_the_newest_values() -> None:
    draw, rows = Random(0), list(product((0, 1), repeat=3))
    for _ in range(300):
        run = Run()
        for step in steps_of([(0, 0, 0), *(draw.choice(rows) for _ in range(12))]):
            assert run.stale_reads(step, HISTORY) == 0


def test_the_planned_run_reuses_wherever_it_may() -> None:
    assert PLAN.order == (0, *[PARTS.all_reused] * 5)
    assert PLAN.reuse_count == 5 * 4
    assert PLAN.steps[-1] == steps_of([(0, 0, 0), (1, 1, 1)])[1]


def test_neighbours_of_one_decision_are_merged_and_those_of_two_are_not() -> None:
    merged, plan, cost = PARTS.prepare(PROGRAM, PLAN, ())
    assert merged.groups == (("a",), ("b", "c"), ("d",), ("e",))
    assert plan.order == PLAN.order
    assert plan.num_slots == PLAN.num_slots - 1
    assert len(cost.cached) == PLAN.num_evaluations


def damaged(variant: int, branch: str, op: Compute | Reuse) -> Plan:
    ops = [op if getattr(o, "branch", "") == branch else o for o in PLAN.steps[variant]]
    return replace(PLAN, steps=(*PLAN.steps[:variant], tuple(ops), *PLAN.steps[variant + 1 :]))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (damaged(1, "b", Reuse("b", 1)), "slot 1"),
        (damaged(1, "d", Compute("d", None)), "does not leave the others as they were"),
        (damaged(PARTS.first(1) + 3, "d", Reuse("d", 4)), "reuses d from slot 4, which holds None"),
        (damaged(PARTS.all_reused, "b", Compute("b", 0)), "is not that of every decision"),
        (replace(PLAN, steps=PLAN.steps[:-1], order=(0,) * 6), "distinct steps, wanted"),
    ],
)
def test_a_plan_that_departs_from_any_decision_is_refused(plan: Plan, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        PARTS.verify(plan, PROGRAM)


@pytest.mark.parametrize("blocks", [(("b",), ("b",)), (("b",), ()), (("b",), ("x",))])
def test_decisions_about_the_same_blocks_or_none_are_refused(
    blocks: tuple[tuple[str, ...], ...],
) -> None:
    with pytest.raises(PlanError, match="no other decision is about"):
        PartPlans((RowPlans(2), RowPlans(2)), blocks).plan(PROGRAM, 4)
