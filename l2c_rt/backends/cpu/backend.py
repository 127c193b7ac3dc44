"""The fused backend of a model on a CPU: its products, its attention, its workspaces."""

from __future__ import annotations

import torch

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import Backend, fused_passes
from l2c_rt.backends.cpu.attention import Attention
from l2c_rt.backends.cpu.branches import linears_of
from l2c_rt.backends.cpu.composed_skips import ComposedSkips
from l2c_rt.backends.cpu.delta import DeltaCpu
from l2c_rt.backends.cpu.fused import FusedCpu
from l2c_rt.backends.cpu.products import Products, product_chooser, unmeasured
from l2c_rt.backends.delta_form import with_delta_form
from l2c_rt.backends.options import Options
from l2c_rt.plan.ops import Plan


def fused_cpu_backend(
    model: BoundModel, options: Options, reasons: tuple[str, ...] = ()
) -> Backend:
    """The fused backend for a described model on a CPU."""
    fusable = model.fusable
    assert fusable is not None
    dtype = None if options.precision is None else torch.bfloat16
    chooser = product_chooser() if options.tune else unmeasured()
    packs = options.tune and options.pack
    products = Products(chooser if packs else unmeasured(), dtype=dtype)
    attention = Attention(chooser)
    notes = products.reasons(linears_of(model.model, fusable)) if packs else ()
    if options.delta_form:
        return _in_delta_form(model, products, attention, reasons, notes)

    def workspace(plan: Plan, requests: int | None = None, most: int = 1) -> FusedCpu:
        return FusedCpu(model, fusable, products, attention, plan, requests)

    return Backend("fused", fused_passes, workspace, reasons, copies=products, notes=notes,
                   dtype=dtype, batched=workspace)  # fmt: skip


def _in_delta_form(
    model: BoundModel,
    products: Products,
    attention: Attention,
    reasons: tuple[str, ...],
    notes: tuple[str, ...],
) -> Backend:
    fusable = model.fusable
    assert fusable is not None
    assert fusable.outer is not None
    skips = ComposedSkips(fusable.outer.skip_linears, products, products.chooser)

    def workspace(plan: Plan, requests: int | None = None, most: int = 1) -> DeltaCpu:
        skips.plan(plan)
        return DeltaCpu(skips, model, fusable, products, attention, plan, requests)

    return Backend("fused", with_delta_form(fused_passes), workspace, reasons, copies=skips,
                   notes=notes, batched=workspace, delta_form=True)  # fmt: skip
