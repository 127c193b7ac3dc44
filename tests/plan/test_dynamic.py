"""Rows that may follow each other in any order: their plan, and its proof."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from l2c_rt.plan.dynamic import prepare_rows, rows_plan, verify_any_order
from l2c_rt.plan.ops import Compute, Plan, PlanError, Reuse, reuses
from l2c_rt.plan.program import BlockProgram, Branch, Fixed

NAMES = ("a", "b", "c", "d")
PROGRAM = BlockProgram(
    "toy",
    (Fixed("in"),
     *(Branch(name, "block", i, gated=False, macs=1, weights=1, activations=1, kernels=1)
       for i, name in enumerate(NAMES)),
     Fixed("out")),
    tokens=1, width=1,
)  # fmt: skip
ROWS = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 0, 1]], np.bool_)


def stale_reads(plan: Plan, order: tuple[int, ...]) -> int:
    """Reads of anything but the newest output of the branch in this run."""
    newest: dict[str, int] = {}
    held: dict[int, tuple[str, int]] = {}
    stale = 0
    for s, r in enumerate(order):
        for op in plan.steps[r]:
            if isinstance(op, Compute):
                newest[op.branch] = s
                if op.slot is not None:
                    held[op.slot] = (op.branch, s)
        stale += sum(held.get(op.slot) != (op.branch, newest.get(op.branch))
                     for op in reuses(plan.steps[r]))  # fmt: skip
    return stale


def test_every_sequence_of_rows_reads_the_newest_output() -> None:
    plan = rows_plan(PROGRAM, ROWS, 5)
    verify_any_order(plan, PROGRAM)
    assert all(stale_reads(plan, (0, *rest)) == 0 for rest in product(range(3), repeat=4))


def test_neighbours_that_are_always_reused_together_are_one() -> None:
    merged, plan, cost = prepare_rows(PROGRAM, rows_plan(PROGRAM, ROWS[:2], 5), ())
    assert merged.groups == (("a",), ("b", "c"), ("d",))
    assert plan.slots == ("b..c",)
    assert cost.num_slots == 1
    assert [len(reuses(step)) for step in plan.steps] == [0, 1]


@pytest.mark.parametrize("row", [0, 2])
def test_a_row_that_computes_and_does_not_keep_is_refused(row: int) -> None:
    plan = rows_plan(PROGRAM, ROWS, 5)
    ops = tuple(
        Compute(op.branch, None) if isinstance(op, Compute) and op.branch == "b" else op
        for op in plan.steps[row]
    )
    broken = replace(plan, steps=(*plan.steps[:row], ops, *plan.steps[row + 1 :]))
    with pytest.raises(PlanError, match="(row|evaluation) 1 reuses b from slot 0"):
        verify_any_order(broken, PROGRAM)
    assert any(stale_reads(broken, (0, *rest)) for rest in product(range(3), repeat=4))


def test_a_first_evaluation_that_reuses_is_refused() -> None:
    plan = rows_plan(PROGRAM, ROWS, 5)
    with pytest.raises(PlanError, match="first evaluation"):
        verify_any_order(replace(plan, order=(1, 0, 0, 0, 0)), PROGRAM)
    reuse = tuple(Reuse("b", 0) if getattr(op, "branch", "") == "b" else op for op in plan.steps[0])
    with pytest.raises(PlanError, match="0 reuses b, which this run has not computed yet"):
        verify_any_order(replace(plan, steps=(reuse, *plan.steps[1:])), PROGRAM)
