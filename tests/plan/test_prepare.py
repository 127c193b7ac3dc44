"""A plan is verified as it runs: after the rewrites that a backend asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from random_programs import PROGRAM, plan_of
from toys import random_schedule

from l2c_rt.backends.backend import fused_passes, unchanged
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.cost import cost
from l2c_rt.plan.ops import Plan, PlanError
from l2c_rt.plan.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan.prepare import prepare
from l2c_rt.plan.program import BlockProgram

SCHEDULE = random_schedule(5, 4, seed=2)


def test_without_rewrites_it_is_the_plan_of_the_schedule_and_its_cost() -> None:
    plan = build_plan(PROGRAM, SCHEDULE)
    assert prepare(PROGRAM, SCHEDULE, unchanged) == (plan, cost(PROGRAM, plan))


def test_with_rewrites_plan_and_cost_are_of_the_rewritten_one() -> None:
    rewritten = fuse_reuse_runs(hoist_conditioning(build_plan(PROGRAM, SCHEDULE), PROGRAM))
    assert prepare(PROGRAM, SCHEDULE, fused_passes) == (rewritten, cost(PROGRAM, rewritten))


def test_a_rewrite_into_the_plan_of_another_schedule_is_refused() -> None:
    def of_another_schedule(plan: Plan, program: BlockProgram) -> Plan:
        return plan_of(["####", "#.#.", "####", "####", "####"])

    with pytest.raises(PlanError, match="but the schedule says"):
        prepare(PROGRAM, SCHEDULE, of_another_schedule)


def test_a_rewrite_that_reads_before_the_write_is_refused() -> None:
    def backwards(plan: Plan, program: BlockProgram) -> Plan:
        return replace(plan, order=plan.order[::-1])

    with pytest.raises(PlanError, match="evaluation 0"):
        prepare(PROGRAM, SCHEDULE, backwards)


def test_a_schedule_of_another_depth_is_refused_before_any_rewrite() -> None:
    def never(plan: Plan, program: BlockProgram) -> Plan:
        raise AssertionError

    with pytest.raises(ValueError, match="6 branches, but this model has 4"):
        prepare(PROGRAM, random_schedule(3, 6), never)
