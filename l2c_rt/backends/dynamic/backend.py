"""The backend of methods that decide at run time: a model's own forward."""

from __future__ import annotations

from functools import partial

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import Backend
from l2c_rt.backends.cpu.packed_linears import PackedLinears, packed
from l2c_rt.backends.cpu.products import Products
from l2c_rt.backends.dynamic.deciding import DecidingWorkspace
from l2c_rt.backends.own_calls import CallPlans
from l2c_rt.plan.dynamic import RowPlans
from l2c_rt.plan.ops import Plan
from l2c_rt.plan.program import BlockProgram


def deciding_backend(
    model: BoundModel,
    reasons: tuple[str, ...],
    *,
    merge: bool,
    products: Products | None = None,
) -> Backend:
    """The backend for a description with a method that decides; the rest as for `own_backend`."""
    assert model.dynamic is not None
    method = model.dynamic.method
    rows = method.rows(model.program.branch_names)
    row_plans = RowPlans(len(rows), method.history)
    plans = CallPlans(model, merge=merge, prepare=row_plans.prepare)

    def passes(plan: Plan, program: BlockProgram) -> Plan:
        return row_plans.plan(program, rows, plan.num_evaluations)

    def workspace(linears: PackedLinears | None, plan: Plan) -> DecidingWorkspace:
        return DecidingWorkspace(model, plan, plans, row_plans, linears)

    plain = Backend("own", passes, partial(workspace, None), reasons)
    if products is None:
        return plain
    return packed(plain, PackedLinears(model.model, products), workspace)
