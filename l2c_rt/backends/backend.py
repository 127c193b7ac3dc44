"""The interface between the runtime and a backend: how one evaluation runs, on what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from l2c_rt.adapters.bound_model import BoundModel, State
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.ops import Plan, StepPlan
from l2c_rt.plan.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan.program import BlockProgram


@dataclass(slots=True)
class Evaluation:
    """One evaluation: the model, its running values, its slots, and what a backend prepared.

    `step` counts evaluations, `row` is the plan's distinct row.
    """

    bound_model: BoundModel
    state: State
    slots: Slots
    step: int
    row: int
    prepared: Any = None


OpTable = Mapping[type, Callable[[Any, Evaluation], None]]


def run_step(table: OpTable, step: StepPlan, evaluation: Evaluation) -> Any:
    """Run one evaluation and give the model's own return value."""
    for op in step:
        table[type(op)](op, evaluation)
    return evaluation.bound_model.finish(evaluation.state)


@dataclass(frozen=True, slots=True)
class Backend:
    """How evaluations are run.  `reasons` says why this backend and not a faster one.

    `scratch` slots are taken beside the plan's; `whole_runs` says that workspaces have `sample`.
    """

    name: str
    run: Callable[[StepPlan, Evaluation], Any]
    passes: Callable[[Plan, BlockProgram], Plan]
    workspace: Callable[[Plan], Any]
    reasons: tuple[str, ...] = ()
    scratch: int = 0
    whole_runs: bool = False


def fused_passes(plan: Plan, program: BlockProgram) -> Plan:
    """What every fused backend wants of a plan."""
    return fuse_reuse_runs(hoist_conditioning(plan, program))
