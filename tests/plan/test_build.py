"""Plans built from schedules: invariants over random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from random_programs import (
    PROGRAM,
    plan_of,
    schedules,
)
from toys import random_schedule

from l2c_rt.plan.build import build_plan, liveness
from l2c_rt.plan.ops import Compute, Reuse
from l2c_rt.plan.verify import verify
from l2c_rt.schedule.cache_schedule import CacheSchedule


@given(schedules())
def test_every_schedule_gives_a_plan_that_verifies_and_does_what_it_says(
    schedule: CacheSchedule,
) -> None:
    plan = build_plan(PROGRAM, schedule)
    verify(plan, PROGRAM, schedule)
    assert plan.reuse_count == int((~schedule.compute).sum())


@given(schedules())
def test_every_reuse_reads_the_latest_compute_of_its_branch(schedule: CacheSchedule) -> None:
    plan = build_plan(PROGRAM, schedule)
    slots: dict[int, tuple[str, int]] = {}
    latest: dict[str, int] = {}
    for s in range(plan.num_evaluations):
        for op in plan.at(s):
            if isinstance(op, Compute):
                latest[op.branch] = s
                if op.slot is not None:
                    slots[op.slot] = (op.branch, s)
            elif isinstance(op, Reuse):
                assert slots[op.slot] == (op.branch, latest[op.branch])


@given(schedules())
def test_equal_schedule_rows_share_a_step_plan_and_distinct_ones_do_not(
    schedule: CacheSchedule,
) -> None:
    plan = build_plan(PROGRAM, schedule)
    assert len(plan.steps) == len({schedule.row(s) for s in range(schedule.steps)})
    assert len(set(plan.steps)) == len(plan.steps)


def test_an_output_that_nobody_reads_again_is_not_stored() -> None:
    plan = plan_of(["####", "#.##"])
    kept = [op for op in plan.at(0) if isinstance(op, Compute) and op.slot is not None]
    assert [op.branch for op in kept] == ["mlp-0"]
    assert plan.slots == ("mlp-0",)


def test_a_step_shared_by_evaluations_stores_what_any_of_them_needs() -> None:
    plan = plan_of(["####", "#.##", "####", "##.#"])
    assert plan.order == (0, 1, 0, 2)
    kept = {op.branch for op in plan.at(0) if isinstance(op, Compute) and op.slot is not None}
    assert kept == {"mlp-0", "attn-1"}


@given(schedules(branches=6))
def test_liveness_is_what_a_simulation_finds(schedule: CacheSchedule) -> None:
    compute = schedule.compute.tolist()
    live = liveness(compute)
    for s, row in enumerate(compute):
        for k, computed in enumerate(row):
            later = [compute[n][k] for n in range(s + 1, len(compute))]
            assert live[s][k] == (computed and bool(later) and not later[0])


def test_a_schedule_for_another_depth_is_refused_with_both_depths() -> None:
    with pytest.raises(ValueError, match=r"6 branches, but this model has 4 \(attn-0 .. mlp-1\)"):
        build_plan(PROGRAM, random_schedule(3, 6))


def test_a_schedule_with_other_branch_names_is_refused() -> None:
    schedule = CacheSchedule(np.ones((2, 4), dtype=bool), ("a", "b", "c", "d"))
    with pytest.raises(ValueError, match="branch 0 is 'a', but the model's is 'attn-0'"):
        build_plan(PROGRAM, schedule)
