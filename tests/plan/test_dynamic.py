"""Rows that may follow each other in any order: their plan, and its proof."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from random_programs import unit_program

from l2c_rt.plan.dynamic import RowPlans
from l2c_rt.plan.ops import Compute, Plan, PlanError, Predict, Reuse, reuses

NAMES = ("a", "b", "c", "d")
PROGRAM = unit_program(NAMES)
ROWS = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 0, 1]], np.bool_)


def stale_reads(row_plans: RowPlans, plan: Plan, rows: tuple[int, ...]) -> int:
    """Reads of anything but the newest outputs of the branch in this run, each once."""
    written: dict[str, list[int]] = {}
    held: dict[int, tuple[str, int]] = {}
    stale = computed = 0
    for s, row in enumerate(rows):
        ops = plan.steps[row_plans.variant(row, computed)]
        computed += row == 0
        for op in ops:
            if isinstance(op, Compute):
                written.setdefault(op.branch, []).append(s)
                if op.slot is not None:
                    held[op.slot] = (op.branch, s)
        for op in reuses(ops):
            slots = op.slots if isinstance(op, Predict) else (op.slot,)
            newest = {(op.branch, q) for q in written.get(op.branch, [])[-len(slots) :]}
            stale += {held.get(slot) for slot in slots} != newest or len(newest) < len(slots)
    return stale


HISTORIES = [(ROWS, 1), (ROWS[:2], 1), (ROWS[:2], 2), (ROWS[[0, 1, 1]], 3)]


@pytest.mark.parametrize(("rows", "history"), HISTORIES)
def test_every_sequence_of_rows_reads_the_newest_outputs(rows: np.ndarray, history: int) -> None:
    row_plans = RowPlans(len(rows), history)
    plan = row_plans.plan(PROGRAM, rows, 7)
    for rest in product(range(len(rows)), repeat=6):
        assert stale_reads(row_plans, plan, (0, *rest)) == 0


def test_every_sequence_reads_the_newest_outputs_and_predictions() -> None:
    """Of two of each, in rings that do not know of each other."""
    row_plans = RowPlans(2, 2, 2)
    plan = row_plans.plan(PROGRAM, ROWS[:2], 9)
    assert len(plan.steps) == 2 + 6
    for rest in product(range(2), repeat=8):
        held: dict[int, tuple[str, int]] = {}
        done: list[int] = []
        predicted: list[int] = []
        for s, row in enumerate((0, *rest)):
            ops = plan.steps[row_plans.variant(row, len(done), len(predicted))]
            for op in reuses(ops):
                slots = op.slots if isinstance(op, Predict) else (op.slot,)
                newest = done[-2:] + (predicted[-2:] if len(done) > 1 else [])
                assert [held[slot] for slot in slots[len(done[-2:]) :]] == [
                    (op.branch, q) for q in newest[len(done[-2:]) :]
                ]
                assert {held[slot] for slot in slots} == {(op.branch, q) for q in newest}
                # Or an evaluation that is done again would give something else.
                assert getattr(op, "store", None) not in slots
            for op in ops:
                slot = getattr(op, "store", None) if row else getattr(op, "slot", None)
                if slot is not None:
                    held[slot] = op.branch, s
            if row == 0:
                done.append(s)
            elif len(done) > 1:
                predicted.append(s)


@pytest.mark.parametrize(("old", "new"), [(4, 2), (2, 3), (3, 4)])
def test_a_prediction_that_is_kept_in_another_place_is_refused(old: int, new: int) -> None:
    row_plans = RowPlans(2, 2, 2)
    plan = row_plans.plan(PROGRAM, ROWS[:2], 5)
    steps = tuple(
        tuple(replace(op, store=new) if getattr(op, "store", None) == old else op for op in step)
        for step in plan.steps
    )
    with pytest.raises(PlanError, match="b is kept in slot|predicts b from slot|b is read from"):
        row_plans.verify(replace(plan, steps=steps), PROGRAM)


def test_predictions_are_kept_by_methods_of_two_rows() -> None:
    with pytest.raises(ValueError, match="3 rows that keep 2 predictions"):
        RowPlans(3, 2, 2)


def test_neighbours_that_are_always_reused_together_are_one() -> None:
    row_plans = RowPlans(2, 2)
    merged, plan, cost = row_plans.prepare(PROGRAM, row_plans.plan(PROGRAM, ROWS[:2], 5), ())
    assert merged.groups == (("a",), ("b", "c"), ("d",))
    assert plan.slots == ("b..c", "b..c")
    assert cost.num_slots == 2
    assert [len(reuses(step)) for step in plan.steps] == [0, 0, 1, 1]


@pytest.mark.parametrize("row", [0, 2])
def test_a_row_that_computes_and_does_not_keep_is_refused(row: int) -> None:
    row_plans = RowPlans(3)
    plan = row_plans.plan(PROGRAM, ROWS, 5)
    ops = tuple(
        Compute(op.branch, None) if isinstance(op, Compute) and op.branch == "b" else op
        for op in plan.steps[row]
    )
    broken = replace(plan, steps=(*plan.steps[:row], ops, *plan.steps[row + 1 :]))
    with pytest.raises(PlanError, match="1 reuses b from slot 0|row 2 computes b"):
        row_plans.verify(broken, PROGRAM)
    assert any(stale_reads(row_plans, broken, (0, *rest)) for rest in product(range(3), repeat=4))


def test_a_ring_that_is_written_at_the_same_place_twice_is_refused() -> None:
    row_plans = RowPlans(2, 2)
    plan = row_plans.plan(PROGRAM, ROWS[:2], 5)
    broken = replace(plan, steps=(plan.steps[0], plan.steps[0], *plan.steps[2:]))
    with pytest.raises(PlanError, match="after 1 computed|after 2 computed|predicts b"):
        row_plans.verify(broken, PROGRAM)
    assert stale_reads(row_plans, broken, (0, 0, 1))


def test_a_first_evaluation_that_reuses_is_refused() -> None:
    row_plans = RowPlans(3)
    plan = row_plans.plan(PROGRAM, ROWS, 5)
    with pytest.raises(PlanError, match="first evaluation"):
        row_plans.verify(replace(plan, order=(1, 0, 0, 0, 0)), PROGRAM)
    reuse = tuple(Reuse("b", 0) if getattr(op, "branch", "") == "b" else op for op in plan.steps[0])
    with pytest.raises(PlanError, match="0 reuses b, which this run has not computed yet"):
        row_plans.verify(replace(plan, steps=(reuse, *plan.steps[1:])), PROGRAM)


def test_a_branch_with_a_history_is_computed_by_row_0_alone() -> None:
    with pytest.raises(PlanError, match="row 2 computes b, which other rows reuse"):
        RowPlans(3, 2).plan(PROGRAM, ROWS, 5)
