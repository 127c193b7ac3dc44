"""Branches that lie inside one another: what lies inside a reused one is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2c_rt.plan.build import build_plan
from l2c_rt.plan.cost import cost
from l2c_rt.plan.ops import Compute, LeaveOut, Plan, PlanError, Reuse, RunFixed, reuses
from l2c_rt.plan.program import BlockProgram, Branch, Fixed
from l2c_rt.plan.verify import verify
from l2c_rt.schedule.cache_schedule import CacheSchedule

SHELLS = 5
NAMES = tuple(f"shell-{q}" for q in range(SHELLS))
BRANCHES = tuple(
    Branch(name, "shell", q, gated=False, macs=2**q, weights=1, activations=0, kernels=0,
           nested=q > 0)
    for q, name in enumerate(NAMES)
)  # fmt: skip
PROGRAM = BlockProgram("shells", (Fixed("before"), *BRANCHES, Fixed("after")), 1, 1)

depths = st.lists(st.integers(-1, SHELLS - 1), max_size=12).map(lambda d: (SHELLS - 1, *d))


def schedule_of(depths: tuple[int, ...]) -> CacheSchedule:
    return CacheSchedule(np.array([[q <= d for q in range(SHELLS)] for d in depths]), NAMES)


@given(depths)
def test_a_row_reads_one_slot_and_slots_are_the_distinct_depths(depths: tuple[int, ...]) -> None:
    schedule = schedule_of(depths)
    plan = build_plan(PROGRAM, schedule)
    verify(plan, PROGRAM, schedule)
    assert set(plan.slots) == {NAMES[d + 1] for d in depths if d < SHELLS - 1}
    assert plan.reuse_count == int((~schedule.compute).sum())
    for s, depth in enumerate(depths):
        read = [item.branch for item in reuses(plan.at(s))]
        assert read == list(NAMES[depth + 1 : depth + 2])


@given(depths)
def test_an_output_is_kept_exactly_where_a_later_row_reads_it(depths: tuple[int, ...]) -> None:
    plan = build_plan(PROGRAM, schedule_of(depths))
    needed: dict[int, set[str]] = {}
    for s, i in enumerate(plan.order):
        for q in range(depths[s] + 1):
            later = depths[s + 1 :]
            until = next((n for n, d in enumerate(later) if d >= q), len(later))
            if q - 1 in later[:until]:
                needed.setdefault(i, set()).add(NAMES[q])
    for i, step in enumerate(plan.steps):
        kept = {op.branch for op in step if isinstance(op, Compute) and op.slot is not None}
        assert kept == needed.get(i, set())


@given(depths)
def test_the_macs_of_a_row_are_those_of_its_computed_branches(depths: tuple[int, ...]) -> None:
    counted = cost(PROGRAM, build_plan(PROGRAM, schedule_of(depths)))
    assert [e.macs for e in counted.cached] == [2 ** (d + 1) - 1 for d in depths]


def test_a_branch_computed_inside_a_reused_one_is_refused_with_the_reason() -> None:
    compute = np.ones((3, SHELLS), bool)
    compute[2, 1] = False
    text = "evaluation 2 computes shell-2 and reuses shell-1, which shell-2 lies inside of"
    with pytest.raises(ValueError, match=text):
        build_plan(PROGRAM, CacheSchedule(compute, NAMES))


def with_op(step: int, q: int, op: object) -> Plan:
    """Rows of depth 4 and 1 with one op of a row replaced."""
    plan = build_plan(PROGRAM, schedule_of((4, 1)))
    ops = list(plan.steps[step])
    ops[q + 1] = op  # type: ignore[call-overload]
    return replace(plan, steps=tuple(tuple(ops) if i == step else s
                                     for i, s in enumerate(plan.steps)))  # fmt: skip


@pytest.mark.parametrize(
    ("step", "q", "op", "text"),
    [
        (0, 2, LeaveOut("shell-2"), "shell-2 lies outside of a reused branch"),
        (1, 0, LeaveOut("shell-0"), "shell-0 lies outside of a reused branch"),
        (1, 2, LeaveOut("shell-2"), "shell-2 lies outside of a reused branch"),
        (1, 3, Compute("shell-3", None), "shell-3 lies inside of a reused branch"),
        (1, 3, Reuse("shell-3", 0), "shell-3 uses slot 0, which belongs to shell-2"),
        (1, 3, RunFixed("shell-3"), "shell-3 is a branch, not a fixed node"),
        (1, 3, LeaveOut("after"), "names a fixed node as a branch"),
        (0, 2, Compute("shell-2", None), "from slot 0, which holds nothing"),
    ],
)
def test_plans_that_leave_out_too_much_or_too_little_are_refused(
    step: int, q: int, op: object, text: str
) -> None:
    with pytest.raises(PlanError, match=text):
        verify(with_op(step, q, op), PROGRAM)
