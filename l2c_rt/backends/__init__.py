"""Backends: how one evaluation is run, the passes it wants, and what it keeps per lane."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from l2c_rt.adapters.bound import Bound
from l2c_rt.arena import SlotMemory
from l2c_rt.backends import fused_cpu, reference
from l2c_rt.backends.cuda import rows, workspace
from l2c_rt.backends.cuda.tools import Options, Tools, tools_for
from l2c_rt.backends.frame import Frame
from l2c_rt.executor import run_step
from l2c_rt.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan import Plan, StepPlan
from l2c_rt.program import BlockProgram, Fixed

NAMES = ("auto", "reference", "fused")
OLDEST_GPU = (8, 0)
TRITON = ((3, 6), (3, 9))


@dataclass(frozen=True, slots=True)
class Backend:
    """How evaluations are run.  `reasons` says why this backend and not a faster one.

    `scratch` slots are taken beside the plan's; `whole_runs` says that workspaces have `sample`.
    """

    name: str
    run: Callable[[StepPlan, Frame], Any]
    passes: Callable[[Plan, BlockProgram], Plan]
    workspace: Callable[[Plan], Any]
    reasons: tuple[str, ...] = ()
    scratch: int = 0
    whole_runs: bool = False


def choose(name: str, options: Options, bound: Bound) -> Backend:
    """The backend of that name for this model and device.

    "auto" is the reference on a CPU, where it is bitwise the model's own arithmetic, and the fused
    one on a GPU where it can be had.
    Raises ValueError for an unknown name, or for "fused" where it cannot be had, with the reason.
    """
    if name not in NAMES:
        raise ValueError(f"backend: got {name!r}, wanted one of {', '.join(map(repr, NAMES))}")
    if name == "reference" or (name == "auto" and bound.device.type == "cpu"):
        return _reference(_idle_options(options))
    why_not = _why_not_fused(bound, options)
    if why_not and name == "fused":
        raise ValueError(f'backend="fused": {why_not}; compile with backend="reference"')
    if why_not:
        return _reference((f"fused backend not used: {why_not}", *_idle_options(options)))
    if bound.device.type == "cpu":
        return _fused_cpu(bound, _idle_options(options))
    return fused_cuda(bound, tools_for(bound.device, options), options)


def fused_cuda(bound: Bound, tools: Tools, options: Options) -> Backend:
    """The fused backend of a GPU, with these tools."""

    def made(plan: Plan) -> workspace.Workspace:
        return workspace.Workspace(bound, plan, tools, options)

    return Backend("fused", workspace.run, _passes, made, scratch=1, whole_runs=True)


def _why_not_fused(bound: Bound, options: Options) -> str:
    if bound.parts is None:
        return bound.why_no_parts
    if bound.device.type == "cpu":
        return fused_cpu.not_the_whole(bound.parts)
    if bound.device.type != "cuda":
        return f"no fused backend for device {bound.device}"
    return _why_not_here(bound.device) or why_not_cuda(bound, options)


def _why_not_here(device: torch.device) -> str:
    """What this machine lacks."""
    have = torch.cuda.get_device_capability(device)
    if have < OLDEST_GPU:
        return f"the GPU has compute capability {have[0]}.{have[1]}, wanted 8.0 or higher"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; pip install l2c_rt[gpu]"
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if not TRITON[0] <= version <= TRITON[1]:
        return f"triton is {triton.__version__}, wanted 3.6 to 3.9; pip install l2c_rt[gpu]"
    try:
        SlotMemory(1, (8,), torch.float32, device)
    except (MemoryError, RuntimeError) as error:
        return f"the driver gives no cache memory: {error}"
    return ""


def why_not_cuda(bound: Bound, options: Options) -> str:
    """What of the model the fused CUDA backend cannot run; empty where it can run all."""
    parts = bound.parts
    if parts is None or parts.ends is None:
        return bound.why_no_parts or "the adapter does not describe the model's ends"
    nodes = [node for node in bound.program.nodes if isinstance(node, Fixed)]
    unknown = [n.name for n in nodes if not n.role and not n.conditioning]
    if unknown:
        return f"node {unknown[0]!r} has no role (embed, final, save, join)"
    model_dtype = parts.ends.linear.weight.dtype
    if model_dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"the model is {model_dtype}, wanted bfloat16, float16 or float32"
    if parts.ends.joins and options.residual_dtype not in (None, model_dtype):
        return f"residual_dtype={options.residual_dtype} is not for models with long skips"
    return rows.why_not(parts, parts.ends) or fused_cpu.not_the_whole(parts)


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


def _fused_cpu(bound: Bound, reasons: tuple[str, ...] = ()) -> Backend:
    parts = bound.parts
    assert parts is not None
    run = partial(run_step, fused_cpu.table())
    return Backend("fused", run, _passes, lambda plan: fused_cpu.Workspace(parts), reasons)


def _passes(plan: Plan, program: BlockProgram) -> Plan:
    return fuse_reuse_runs(hoist_conditioning(plan, program))
