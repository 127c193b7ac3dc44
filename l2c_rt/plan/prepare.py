"""From a schedule to the plan that a backend runs: rewritten, verified, counted."""

from __future__ import annotations

from collections.abc import Callable, Collection

from l2c_rt.plan.build import build_plan
from l2c_rt.plan.build_predicted import build_predicted_plan
from l2c_rt.plan.cost import Cost, cost
from l2c_rt.plan.halves import with_halves
from l2c_rt.plan.merge import MergedColumns, expand, merge_columns, schedule_of
from l2c_rt.plan.ops import Plan, PlanError
from l2c_rt.plan.passes import with_iterations
from l2c_rt.plan.program import BlockProgram
from l2c_rt.plan.tokens import with_tokens
from l2c_rt.plan.verify import verify
from l2c_rt.schedule.cache_schedule import CacheSchedule

Passes = Callable[[Plan, BlockProgram], Plan]
"""The rewrites that a backend asks for."""

PrepareMerged = Callable[[BlockProgram, Plan, Collection[str]], tuple[MergedColumns, Plan, Cost]]
"""(program, plan, gaps) -> the program and plan with neighbours merged, verified and counted."""


def prepare(program: BlockProgram, schedule: CacheSchedule, passes: Passes) -> tuple[Plan, Cost]:
    """The verified plan for a backend, and what a run of it costs.

    Raises ValueError where schedule and program name different branches, and PlanError, a
    ValueError, for a plan that could read a stale value or departs from the schedule.
    """
    plan = with_iterations(plan_of(program, schedule), program)
    plan = with_halves(with_tokens(plan, program, schedule), schedule.halves)
    plan = passes(plan, program)
    verify(plan, program, schedule)
    return plan, cost(program, plan)


def plan_of(program: BlockProgram, schedule: CacheSchedule) -> Plan:
    """The plan of a schedule, with its predictions where it has any."""
    if schedule.predictions is None:
        return build_plan(program, schedule)
    return build_predicted_plan(program, schedule, schedule.predictions)


def prepare_merged(
    program: BlockProgram, plan: Plan, gaps: Collection[str]
) -> tuple[MergedColumns, Plan, Cost]:
    """The verified plan that does what `plan` does, with neighbours merged where there is no gap.

    Its steps are those of `plan` in the same order.  Raises PlanError where they are not.
    """
    schedule = schedule_of(plan, program)
    merged = merge_columns(program, schedule, gaps)
    merged_plan = with_halves(plan_of(merged.program, merged.schedule), plan.halves)
    verify(merged_plan, merged.program, merged.schedule)
    if expand(merged) != schedule or merged_plan.order != plan.order:
        raise PlanError("the merged columns are not those of the schedule")
    return merged, merged_plan, cost(merged.program, merged_plan)
