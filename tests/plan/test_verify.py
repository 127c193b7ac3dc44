"""What the verification objects to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_programs import (
    PROGRAM,
    plan_of,
    schedules,
)
from toys import random_schedule

from l2c_rt.plan.build import build_plan
from l2c_rt.plan.ops import Compute, Plan, PlanError, Reuse, RunFixed
from l2c_rt.plan.verify import verify
from l2c_rt.schedule.cache_schedule import CacheSchedule

BAD_PLANS = {
    "a read before the write": lambda p: replace(p, order=(1, 0, 2)),
    "a row that is not there": lambda p: replace(p, order=(0, 7, 2)),
    "no evaluation": lambda p: replace(p, order=()),
    "a slot beyond the arena": lambda p: edit(p, 1, Reuse("mlp-0", 9)),
    "another branch's slot": lambda p: edit(p, 1, Reuse("mlp-0", p.slots.index("attn-1"))),
    "a negative slot": lambda p: edit(p, 1, Reuse("mlp-0", -1)),
    "a branch left out": lambda p: edit(p, 1, None),
    "a branch run twice": lambda p: edit(p, 1, Compute("attn-0", None)),
    "a branch run as a fixed node": lambda p: edit(p, 1, RunFixed("mlp-0")),
    "an output that is dropped but read": lambda p: edit(p, 0, Compute("mlp-0", None)),
    "branches out of order": lambda p: reorder(p),
    "a fixed node as a branch": lambda p: swap_node(p, "final", Compute("final", None)),
    "a fixed node left out": lambda p: swap_node(p, "embed", None),
}


def edit(plan: Plan, row: int, op: object) -> Plan:
    """`row` with what it does for mlp-0 replaced."""
    return rewrite(plan, row, "mlp-0", op)


def rewrite(plan: Plan, row: int, name: str, op: object) -> Plan:
    ops = list(plan.steps[row])
    at = next(i for i, o in enumerate(ops) if getattr(o, "branch", getattr(o, "node", "")) == name)
    ops[at : at + 1] = [] if op is None else [op]
    steps = list(plan.steps)
    steps[row] = tuple(ops)
    return replace(plan, steps=tuple(steps))


def swap_node(plan: Plan, name: str, op: object) -> Plan:
    return rewrite(plan, 0, name, op)


def reorder(plan: Plan) -> Plan:
    ops = list(plan.steps[0])
    a, b = (i for i, op in enumerate(ops) if getattr(op, "branch", "") in ("attn-0", "mlp-0"))
    ops[a], ops[b] = ops[b], ops[a]
    return replace(plan, steps=(tuple(ops), *plan.steps[1:]))


@pytest.mark.parametrize("fault", BAD_PLANS)
def test_verify_objects_to(fault: str) -> None:
    plan = plan_of(["####", "#..#", "####"])
    plan = replace(plan, steps=(*plan.steps, plan.steps[0]), order=(0, 1, 2))
    verify(plan, PROGRAM)
    with pytest.raises(PlanError, match=r"evaluation|step plan"):
        verify(BAD_PLANS[fault](plan), PROGRAM)


def test_verify_objects_to_a_value_older_than_the_latest_compute() -> None:
    plan = plan_of(["####", "#.##", "####", "#.##"])
    stale = rewrite(replace(plan, steps=(*plan.steps, plan.steps[0]), order=(0, 1, 2, 1)),
                    2, "mlp-0", Compute("mlp-0", None))  # fmt: skip
    with pytest.raises(PlanError, match="evaluation 3 reuses mlp-0 from slot 0"):
        verify(stale, PROGRAM)


def test_verify_objects_to_a_plan_of_another_schedule() -> None:
    plan = plan_of(["####", "#.##"])
    other = CacheSchedule(np.array([[1, 1, 1, 1], [1, 1, 0, 1]], dtype=bool))
    with pytest.raises(PlanError, match="evaluation 1: mlp-0 is reused, but the schedule says"):
        verify(plan, PROGRAM, other)


@given(schedules(), st.data())
def test_no_random_edit_of_an_op_passes_unless_it_keeps_every_read_right(
    schedule: CacheSchedule, data: st.DataObject
) -> None:
    plan = build_plan(PROGRAM, schedule)
    row = data.draw(st.integers(0, len(plan.steps) - 1))
    ops = list(plan.steps[row])
    at = data.draw(st.integers(0, len(ops) - 1))
    del ops[at]
    steps = list(plan.steps)
    steps[row] = tuple(ops)
    dropped_last_modulation = isinstance(plan.steps[row][at], RunFixed) and not any(
        isinstance(op, RunFixed) and op.node.startswith("modulation") for op in ops
    )
    assert not dropped_last_modulation
    with pytest.raises(PlanError):
        verify(replace(plan, steps=tuple(steps)), PROGRAM)


def test_verify_objects_to_a_plan_of_fewer_evaluations_than_its_schedule() -> None:
    schedule = random_schedule(3, 4)
    plan = build_plan(PROGRAM, schedule)
    with pytest.raises(PlanError, match="2 evaluations of 4 branches, the schedule 3 of 4"):
        verify(replace(plan, order=plan.order[:2]), PROGRAM, schedule)
