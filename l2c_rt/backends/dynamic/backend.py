"""The backend of methods that decide at run time: a model's own forward, captured on a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel, State
from l2c_rt.backends.backend import Backend, Workspace
from l2c_rt.backends.cpu.attention import Attention
from l2c_rt.backends.cpu.packed_linears import PackedLinears, packed
from l2c_rt.backends.cpu.products import Products
from l2c_rt.backends.dynamic.deciding import DecidingWorkspace
from l2c_rt.backends.dynamic.deciding_forward import DecidingForward
from l2c_rt.backends.dynamic.deciding_graphs import DecidingGraphs, DecidingGraphWorkspace
from l2c_rt.backends.dynamic.fused import DecidingFused
from l2c_rt.backends.dynamic.gauge import Change
from l2c_rt.backends.dynamic.parts_forward import PartsForward
from l2c_rt.backends.dynamic.parts_graphs import PartsGraphs
from l2c_rt.backends.graphs.call_graphs import CallGraphs
from l2c_rt.backends.graphs.forward import GraphParts
from l2c_rt.backends.graphs.refusals import why_not_captured
from l2c_rt.backends.graphs.static_inputs import Arguments
from l2c_rt.backends.graphs.workspace import unit_paths
from l2c_rt.backends.own_calls import CallPlans
from l2c_rt.kernels._check import FLOATS
from l2c_rt.kernels.reference import relative_change
from l2c_rt.plan.dynamic import RowPlans
from l2c_rt.plan.ops import Plan
from l2c_rt.plan.part_plans import PartPlans
from l2c_rt.plan.passes import hoist_conditioning
from l2c_rt.plan.program import BlockProgram


def deciding_backend(
    model: BoundModel,
    reasons: tuple[str, ...],
    *,
    merge: bool,
    graphs: GraphParts | None = None,
    change: Change | None = None,
    products: Products | None = None,
) -> Backend:
    """The backend for a description with a method that decides; `change` as for `gauge_for`, the
    rest as for `own_backend`."""
    assert model.dynamic is not None
    why_not = why_not_captured(model.model) if graphs is not None else ""
    reasons = (f"no CUDA graphs: {why_not}", *reasons) if why_not else reasons
    graphs = None if why_not else graphs
    make = _parts_backend if model.dynamic.is_in_turn else _one_backend
    return make(model, reasons, merge, graphs, change, products)


def _one_backend(
    model: BoundModel,
    reasons: tuple[str, ...],
    merge: bool,
    graphs: GraphParts | None,
    change: Change | None,
    products: Products | None,
) -> Backend:
    """For a method that takes one decision in a forward."""
    assert model.dynamic is not None
    method = model.dynamic.parts[0].method
    rows = model.dynamic.method.rows(model.program.branch_names)
    row_plans = RowPlans(len(rows), method.history, method.stores)
    plans = CallPlans(model, merge=merge, prepare=row_plans.prepare)
    units = unit_paths(model.model, model.sites)

    def passes(plan: Plan, program: BlockProgram) -> Plan:
        return row_plans.plan(program, rows, plan.num_evaluations)

    def alone(linears: PackedLinears | None, plan: Plan) -> Workspace:
        return DecidingWorkspace(model, plan, plans, row_plans, change=change, linears=linears)

    def open_graphs(
        plan: Plan, graphs: GraphParts, arguments: Arguments, state: State
    ) -> CallGraphs:
        forward = DecidingForward(model, plan, plans, row_plans, units,
                                  change=change, for_graphs=True)  # fmt: skip
        return DecidingGraphs(forward, model.model, model.device, graphs, arguments, state)

    return _routed(model, reasons, graphs, products, passes, alone, open_graphs)


def _parts_backend(
    model: BoundModel,
    reasons: tuple[str, ...],
    merge: bool,
    graphs: GraphParts | None,
    change: Change | None,
    products: Products | None,
) -> Backend:
    """For one that takes several."""
    assert model.dynamic is not None
    parts = model.dynamic.parts
    row_plans = tuple(RowPlans(2, part.method.history, part.method.stores) for part in parts)
    part_plans = PartPlans(row_plans, tuple(part.blocks for part in parts))
    plans = CallPlans(model, merge=merge, prepare=part_plans.prepare)
    units = unit_paths(model.model, model.sites)

    def passes(plan: Plan, program: BlockProgram) -> Plan:
        return part_plans.plan(program, plan.num_evaluations)

    def alone(linears: PackedLinears | None, plan: Plan) -> Workspace:
        return PartsForward(model, plan, plans, part_plans, change=change, linears=linears)

    def open_graphs(
        plan: Plan, graphs: GraphParts, arguments: Arguments, state: State
    ) -> CallGraphs:
        forward = PartsForward(model, plan, plans, part_plans, units, change=change)
        return PartsGraphs(forward, model.model, model.device, graphs, arguments, state)

    return _routed(model, reasons, graphs, products, passes, alone, open_graphs)


def _routed(
    model: BoundModel,
    reasons: tuple[str, ...],
    graphs: GraphParts | None,
    products: Products | None,
    passes: Callable[[Plan, BlockProgram], Plan],
    alone: Callable[[PackedLinears | None, Plan], Workspace],
    open_graphs: Callable[[Plan, GraphParts, Arguments, State], CallGraphs],
) -> Backend:
    """By the graphs that `open_graphs` gives, or without any, on packed weights or none."""
    if graphs is None:
        plain = Backend("own", passes, partial(alone, None), reasons)
        return packed(plain, PackedLinears(model.model, products), alone) if products else plain

    def workspace(plan: Plan) -> Workspace:
        return DecidingGraphWorkspace(model.device, graphs, partial(open_graphs, plan, graphs))

    return Backend("own", passes, workspace, reasons)


def fused_deciding_backend(
    model: BoundModel, reasons: tuple[str, ...], *, merge: bool, products: Products
) -> Backend:
    """The adapter's description, where `can_be_fused`, in place of the own forward, which runs
    where it is wrong."""
    assert model.dynamic is not None
    method, attention = model.dynamic.method, Attention(products.chooser)
    rows = method.rows(model.program.branch_names)
    row_plans = RowPlans(len(rows), method.history, method.stores)
    plain = deciding_backend(model, reasons, merge=merge)

    def workspace(plan: Plan) -> Workspace:
        return DecidingFused(model, plan, row_plans, products, attention)

    def passes(plan: Plan, program: BlockProgram) -> Plan:
        return hoist_conditioning(plain.passes(plan, program), program)

    return replace(
        plain, name="fused", passes=passes, workspace=workspace, copies=products,
        without_copies=plain,
    )  # fmt: skip


def change_on(device: torch.device) -> Change | None:
    """The kernel for the relative change, where a device has one."""
    if device.type != "cuda":
        return None
    toolchain = importlib.import_module("l2c_rt.backends.cuda.toolchain")
    if toolchain.why_not_triton() or toolchain.why_no_launchers():
        return None
    kernel: Change = importlib.import_module("l2c_rt.kernels.relative_change").relative_change

    def change(now: Tensor, before: Tensor) -> Tensor:
        return (kernel if now.dtype in FLOATS else relative_change)(now, before)

    return change
