"""The backend of models without a hand-written adapter: their own forward, captured on a GPU."""

from __future__ import annotations

from functools import partial

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import Backend, Workspace, unchanged
from l2c_rt.backends.graphs.forward import GraphParts
from l2c_rt.backends.graphs.refusals import why_not_captured
from l2c_rt.backends.graphs.workspace import GraphWorkspace, unit_paths
from l2c_rt.backends.own import OwnWorkspace
from l2c_rt.backends.own_batched import BatchedOwn
from l2c_rt.backends.own_calls import CallPlans
from l2c_rt.backends.own_halves import HalvedWorkspace
from l2c_rt.plan.ops import Plan


def own_backend(
    model: BoundModel,
    reasons: tuple[str, ...] = (),
    *,
    merge: bool = True,
    graphs: GraphParts | None = None,
) -> Backend:
    """The backend for a model described by its sites; with `merge`, blocks are merged, and with
    `graphs`, what evaluations launch is captured."""
    plans = CallPlans(model, merge=merge)

    def batched(plan: Plan, requests: int) -> BatchedOwn:
        return BatchedOwn(model, plan, plans)

    why_not = why_not_captured(model.model) if graphs is not None else ""
    if graphs is None or why_not:
        reasons = (f"no CUDA graphs: {why_not}", *reasons) if why_not else reasons
        return Backend("own", unchanged, lambda plan: _kind(plan)(model, plan, plans), reasons,
                       batched=batched)  # fmt: skip
    units = unit_paths(model.model, model.sites)

    def workspace(plan: Plan) -> Workspace:
        forward = partial(_kind(plan), model, plan, plans, units)
        return GraphWorkspace(model.model, model.device, graphs, forward)

    return Backend("own", unchanged, workspace, reasons, batched=batched)


def _kind(plan: Plan) -> type[OwnWorkspace]:
    return OwnWorkspace if plan.halves is None else HalvedWorkspace
