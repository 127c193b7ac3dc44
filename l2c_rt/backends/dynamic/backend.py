"""The backend of methods that decide at run time: a model's own forward."""

from __future__ import annotations

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import Backend
from l2c_rt.backends.dynamic.deciding import DecidingWorkspace
from l2c_rt.backends.own_calls import CallPlans
from l2c_rt.plan.dynamic import prepare_rows, rows_plan, verify_any_order
from l2c_rt.plan.ops import Plan
from l2c_rt.plan.program import BlockProgram


def deciding_backend(model: BoundModel, reasons: tuple[str, ...], *, merge: bool) -> Backend:
    """The backend for a description with a method that decides; `merge` as for `own_backend`."""
    assert model.dynamic is not None
    method = model.dynamic.method
    plans = CallPlans(model, merge=merge, prepare=prepare_rows)

    def passes(plan: Plan, program: BlockProgram) -> Plan:
        rows = method.rows(program.branch_names)
        plan = rows_plan(program, rows, plan.num_evaluations)
        verify_any_order(plan, program)
        return plan

    return Backend("own", passes, lambda plan: DecidingWorkspace(model, plan, plans), reasons)
