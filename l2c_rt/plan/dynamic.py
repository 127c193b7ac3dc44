"""Plans of methods that decide at run time: rows, of which any may follow, and their proof.  Pure.

Row 0 computes everything, and every run begins with it.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from l2c_rt.plan.cost import Cost, cost
from l2c_rt.plan.merge import MergedColumns, expand, merge_columns
from l2c_rt.plan.ops import Compute, Op, Plan, PlanError, Reuse, RunFixed, StepPlan, reuses
from l2c_rt.plan.program import BlockProgram, Branch
from l2c_rt.plan.verify import verify
from l2c_rt.schedule.cache_schedule import CacheSchedule

Rows = npt.NDArray[np.bool_]
"""[R, K]: row r computes branch k; row 0 computes all."""


def rows_plan(program: BlockProgram, rows: Rows, steps: int) -> Plan:
    """The plan whose distinct steps are `rows`: one slot per branch that any of them reuses.

    Every row that computes such a branch keeps it.  `order` is that of a run which reuses wherever
    it may, by row 1.
    """
    names = program.branch_names
    reused = [k for k in range(len(names)) if not rows[:, k].all()]
    slots = {names[k]: slot for slot, k in enumerate(reused)}
    order = (0, *[min(1, len(rows) - 1)] * (steps - 1))
    plans = tuple(_step(program, dict(zip(names, row, strict=True)), slots) for row in rows)
    return Plan(plans, order, tuple(slots))


def _step(program: BlockProgram, row: dict[str, bool], slots: dict[str, int]) -> StepPlan:
    ops: list[Op] = []
    for node in program.nodes:
        if not isinstance(node, Branch):
            ops.append(RunFixed(node.name))
        elif row[node.name]:
            ops.append(Compute(node.name, slots.get(node.name)))
        else:
            ops.append(Reuse(node.name, slots[node.name]))
    return tuple(ops)


def worst_schedule(rows: Rows, branches: tuple[str, ...], steps: int, source: str) -> CacheSchedule:
    """The schedule of a run that reuses wherever it may."""
    order = [0, *[min(1, len(rows) - 1)] * (steps - 1)]
    return CacheSchedule(rows[order], branches, source=source)


def verify_any_order(plan: Plan, program: BlockProgram) -> None:
    """Prove that every run which begins with step 0 reads only what it has written itself, and of
    each branch the newest output, whatever steps follow in whatever order.

    What a step reads must be kept by step 0, so that it was written; every step that computes the
    branch must keep it in the same slot, so that it is the newest.
    Raises PlanError naming step, branch and slot; also for what `verify` refuses.
    """
    whole = Plan(plan.steps, tuple(range(len(plan.steps))), plan.slots)
    verify(whole, program)
    if plan.order[:1] != (0,) or reuses(plan.steps[0]):
        raise PlanError("the first evaluation of a run must compute everything")
    kept = [_kept(step) for step in plan.steps]
    for r, step in enumerate(plan.steps):
        for item in reuses(step):
            if kept[0].get(item.branch) != item.slot:
                raise PlanError(
                    f"row {r} reuses {item.branch} from slot {item.slot}, which row 0 leaves "
                    "unwritten"
                )
            for other, slots in enumerate(kept):
                if item.branch in slots and slots[item.branch] != item.slot:
                    raise PlanError(
                        f"row {r} reuses {item.branch} from slot {item.slot}, where row {other} "
                        "does not keep it"
                    )


def _kept(step: StepPlan) -> dict[str, int | None]:
    return {op.branch: op.slot for op in step if isinstance(op, Compute)}


def prepare_rows(
    program: BlockProgram, plan: Plan, gaps: Collection[str]
) -> tuple[MergedColumns, Plan, Cost]:
    """The verified plan that has the rows of `plan`, with neighbours merged where there is no gap.

    Raises PlanError where they are not the same rows.
    """
    table = CacheSchedule(rows_of(plan, program), program.branch_names)
    merged = merge_columns(program, table, gaps)
    merged_plan = rows_plan(merged.program, merged.schedule.compute, plan.num_evaluations)
    verify_any_order(merged_plan, merged.program)
    if expand(merged) != table or merged_plan.order != plan.order:
        raise PlanError("the merged columns are not those of the rows")
    return merged, merged_plan, cost(merged.program, merged_plan)


def rows_of(plan: Plan, program: BlockProgram) -> Rows:
    """The rows of a plan."""
    computed = [set(_kept(step)) for step in plan.steps]
    return np.array([[name in row for name in program.branch_names] for row in computed])
