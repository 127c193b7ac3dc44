"""Plan -> Plan rewrites.  Each keeps what a run computes; `verify` holds before and after."""

from __future__ import annotations

from dataclasses import replace

from l2c_rt.plan.ops import Op, Plan, Reuse, ReuseRun, RunFixed, StepPlan
from l2c_rt.plan.program import BlockProgram, Fixed


def hoist_conditioning(plan: Plan, program: BlockProgram) -> Plan:
    """Take nodes that depend on (timestep, label) only out of the loop.

    For backends that tabulate them before the run.
    """
    names = {n.name for n in program.nodes if isinstance(n, Fixed) and n.conditioning}
    steps = tuple(
        tuple(op for op in step if not (isinstance(op, RunFixed) and op.node in names))
        for step in plan.steps
    )
    return replace(plan, steps=steps)


def fuse_reuse_runs(plan: Plan) -> Plan:
    """Turn each maximal run of neighbouring reuses into one ReuseRun.

    k reuses one by one pass 3k times over the residual stream; a run passes k + 2 times.
    """
    return replace(plan, steps=tuple(_fused(step) for step in plan.steps))


def _fused(step: StepPlan) -> StepPlan:
    ops: list[Op] = []
    run: list[Reuse] = []
    for op in step:
        if isinstance(op, Reuse):
            run.append(op)
            continue
        _close(run, ops)
        ops.append(op)
    _close(run, ops)
    return tuple(ops)


def _close(run: list[Reuse], ops: list[Op]) -> None:
    if run:
        ops.append(ReuseRun(tuple(run)))
        run.clear()
