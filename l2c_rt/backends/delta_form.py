"""The delta form in a backend: whether a model can be run in it, and the passes that do."""

from __future__ import annotations

import torch

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.options import Options
from l2c_rt.plan.delta import in_delta_form, why_no_delta_form
from l2c_rt.plan.prepare import Passes


def require_delta_form(model: BoundModel, options: Options) -> None:
    """Raise ValueError where evaluations of a model cannot be differences to others."""
    if why_not := _why_not(model, options):
        raise ValueError(f"delta_form: {why_not}; leave delta_form= out")


def with_delta_form(passes: Passes) -> Passes:
    """Passes that begin with the delta form."""
    return lambda plan, program: passes(in_delta_form(plan, program), program)


def _why_not(model: BoundModel, options: Options) -> str:
    if model.dynamic is not None:
        return "the method decides at run time, so no evaluation is known to be another's base"
    if model.open_stage is not None:
        return "the model runs its own forward, of whose long skips nothing is known"
    if why_not := why_no_delta_form(model.program):
        return why_not
    known = None if model.fusable is None else model.fusable.outer
    linears = {n.name for n in model.program.fixed_of.values() if n.role == "skip_linear"}
    if known is None or not linears <= known.skip_linears.keys():
        why = model.why_not_fusable or "the adapter does not name them"
        return f"the weights of the long skips are not known: {why}"
    dtype = known.linear.weight.dtype
    if options.residual_dtype not in (None, dtype):
        return f"residual_dtype={options.residual_dtype}, but the streams are kept in {dtype}"
    if options.precision == "bf16":
        return 'precision="bf16" keeps bfloat16, and the residual stream is float32'
    if model.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return "under autocast the residual stream has one dtype here and another there"
    return ""
