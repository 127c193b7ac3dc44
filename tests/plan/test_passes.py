"""Rewrites keep a plan valid and its reuses the same."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from random_programs import (
    PROGRAM,
    plan_of,
    schedules,
)

from l2c_rt.plan.build import build_plan
from l2c_rt.plan.ops import Reuse, ReuseRun, RunFixed, reuses
from l2c_rt.plan.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan.verify import verify
from l2c_rt.schedule.cache_schedule import CacheSchedule


@given(schedules())
def test_passes_keep_the_plan_valid_and_the_reuses_the_same(schedule: CacheSchedule) -> None:
    plan = build_plan(PROGRAM, schedule)
    hoisted = hoist_conditioning(plan, PROGRAM)
    fused = fuse_reuse_runs(hoisted)
    for other in (hoisted, fused):
        verify(other, PROGRAM, schedule)
        for s in range(plan.num_evaluations):
            assert reuses(other.at(s)) == reuses(plan.at(s))
    for step in fused.steps:
        kinds = [isinstance(op, Reuse | ReuseRun) for op in step]
        assert not any(a and b for a, b in pairwise(kinds))


def test_conditioning_is_hoisted_so_that_runs_cross_blocks() -> None:
    plan = fuse_reuse_runs(hoist_conditioning(plan_of(["####", "...."]), PROGRAM))
    assert [type(op) for op in plan.at(1)] == [RunFixed, ReuseRun, RunFixed]
