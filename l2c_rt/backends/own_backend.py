"""The backend of models without a hand-written adapter: their own forward, captured on a GPU."""

from __future__ import annotations

from functools import partial

from l2c_rt.adapters.bound_model import BoundModel, State
from l2c_rt.backends.backend import Backend, Workspace, unchanged
from l2c_rt.backends.cpu.packed_linears import PackedLinears, packed
from l2c_rt.backends.cpu.products import Products
from l2c_rt.backends.graphs.call_graphs import CallGraphs
from l2c_rt.backends.graphs.forward import GraphParts
from l2c_rt.backends.graphs.refusals import why_not_captured
from l2c_rt.backends.graphs.static_inputs import Arguments
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
    products: Products | None = None,
) -> Backend:
    """The backend for a model described by its sites; with `merge`, blocks are merged, with
    `graphs`, what evaluations launch is captured, and with `products`, linears use them."""
    plans = CallPlans(model, merge=merge)

    def batched(plan: Plan, requests: int, most: int) -> BatchedOwn:
        return BatchedOwn(model, plan, plans)

    why_not = why_not_captured(model.model) if graphs is not None else ""
    if graphs is None or why_not:
        reasons = (f"no CUDA graphs: {why_not}", *reasons) if why_not else reasons

        def alone(linears: PackedLinears | None, plan: Plan) -> Workspace:
            return _kind(plan)(model, plan, plans, linears=linears)

        plain = Backend("own", unchanged, partial(alone, None), reasons, batched=batched)
        if products is None:
            return plain
        return packed(plain, PackedLinears(model.model, products), alone)
    units = unit_paths(model.model, model.sites)

    def workspace(plan: Plan) -> Workspace:
        def open_graphs(arguments: Arguments, state: State) -> CallGraphs:
            forward = _kind(plan)(model, plan, plans, units)
            return CallGraphs(forward, model.model, model.device, graphs, arguments, state)

        return GraphWorkspace(model.device, graphs, open_graphs)

    return Backend("own", unchanged, workspace, reasons, batched=batched)


def _kind(plan: Plan) -> type[OwnWorkspace]:
    return OwnWorkspace if plan.halves is None else HalvedWorkspace
