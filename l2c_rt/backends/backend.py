"""What a backend is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from l2c_rt.backends.frame import Frame
from l2c_rt.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan import Plan, StepPlan
from l2c_rt.program import BlockProgram


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


def fused_passes(plan: Plan, program: BlockProgram) -> Plan:
    """What every fused backend wants of a plan."""
    return fuse_reuse_runs(hoist_conditioning(plan, program))
