"""Backends: how one evaluation is run, the passes it wants, and what it keeps per lane."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends import reference
from l2c_rt.backends.backend import Backend, fused_passes, run_step
from l2c_rt.backends.cpu import fused as fused_cpu
from l2c_rt.backends.options import Options

__all__ = ["NAMES", "Backend", "Options", "choose"]

NAMES = ("auto", "reference", "fused")


def choose(name: str, options: Options, bound_model: BoundModel) -> Backend:
    """The backend of that name for this model and device.

    "auto" is the reference on a CPU, where it is bitwise the model's own arithmetic, and the fused
    one on a GPU where it can be had.
    Raises ValueError for an unknown name, or for "fused" where it cannot be had, with the reason.
    """
    if name not in NAMES:
        raise ValueError(f"backend: got {name!r}, wanted one of {', '.join(map(repr, NAMES))}")
    if name == "reference" or (name == "auto" and bound_model.device.type == "cpu"):
        return _reference(_idle_options(options))
    why_not = _why_not_fused(bound_model, options)
    if why_not and name == "fused":
        raise ValueError(f'backend="fused": {why_not}; compile with backend="reference"')
    if why_not:
        return _reference((f"fused backend not used: {why_not}", *_idle_options(options)))
    if bound_model.device.type == "cpu":
        return _fused_cpu(bound_model, _idle_options(options))
    found: Backend = _cuda().on_gpu(bound_model, options)
    return found


def _cuda() -> Any:
    """What only a GPU needs is imported only there."""
    return importlib.import_module("l2c_rt.backends.cuda.support")


def _why_not_fused(bound_model: BoundModel, options: Options) -> str:
    if bound_model.fusable is None:
        return bound_model.why_not_fusable
    if bound_model.device.type == "cpu":
        return fused_cpu.custom_forward(bound_model.fusable)
    if bound_model.device.type != "cuda":
        return f"no fused backend for device {bound_model.device}"
    reason: str = _cuda().why_not(bound_model, options)
    return reason


def _idle_options(options: Options) -> tuple[str, ...]:
    """Notes on options that mean nothing to a backend without graphs."""
    default = Options()
    idle = [name for name in ("graph", "residual_dtype") if
            getattr(options, name) != getattr(default, name)]  # fmt: skip
    return tuple(f"{name}= has no effect here: only the fused CUDA backend uses it"
                 for name in idle)  # fmt: skip


def _reference(reasons: tuple[str, ...] = ()) -> Backend:
    return Backend(
        name="reference",
        run=partial(run_step, reference.table()),
        passes=lambda plan, program: plan,
        workspace=lambda plan: None,
        reasons=reasons,
    )


def _fused_cpu(bound_model: BoundModel, reasons: tuple[str, ...] = ()) -> Backend:
    fusable = bound_model.fusable
    assert fusable is not None
    run = partial(run_step, fused_cpu.table())
    return Backend("fused", run, fused_passes, lambda plan: fused_cpu.Workspace(fusable), reasons)
