"""Plan -> Plan rewrites.  Each keeps what a run computes: the rewritten plan is verified."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from l2c_rt.plan.ops import (
    Compute,
    Iterate,
    Op,
    Plan,
    Predict,
    Reuse,
    ReuseRun,
    RunFixed,
    StepPlan,
)
from l2c_rt.plan.program import BlockProgram, Branch, Fixed
from l2c_rt.plan.stream_ops import RestoreStream


def hoist_conditioning(plan: Plan, program: BlockProgram) -> Plan:
    """Take nodes that depend on (timestep, label) only out of the loop.

    For backends that tabulate them before the run.
    """
    names = {n.name for n in program.nodes if isinstance(n, Fixed) and n.conditioning}
    steps = tuple(
        tuple(op for op in step if not (isinstance(op, RunFixed) and op.node in names))
        for step in plan.steps
    )
    if plan.tokens is not None:
        steps = tuple(tuple(_without(op, names) for op in step) for step in steps)
    return replace(plan, steps=steps)


def _without(op: Op, names: Collection[str]) -> Op:
    if isinstance(op, RestoreStream):
        return replace(op, nodes=tuple(node for node in op.nodes if node not in names))
    return op


def fuse_reuse_runs(plan: Plan) -> Plan:
    """Turn each maximal run of neighbouring reuses into one ReuseRun.

    k reuses one by one pass 3k times over the residual stream; a run passes k + 2 times.
    """
    shared: Runs = {}
    return replace(plan, steps=tuple(_fused(step, shared) for step in plan.steps))


def with_iterations(plan: Plan, program: BlockProgram) -> Plan:
    """Give every compute of a branch with iterations as many as its evaluation has.

    Raises ValueError for another number of them than evaluations.
    """
    branches = {branch.name: branch for branch in program.branches if branch.iterations}
    if not branches:
        return plan
    if plan.predictions is not None:
        raise ValueError(
            f"{next(iter(branches))} is iterated, so nothing of it is predicted; leave corrector= "
            "away"
        )
    for branch in branches.values():
        if len(branch.iterations) not in (1, plan.num_evaluations):
            raise ValueError(
                f"{branch.name}: got iterations for {len(branch.iterations)} evaluations, the "
                f"schedule has {plan.num_evaluations}"
            )
    resumed = [name for name, branch in branches.items() if branch.resumes]
    slots = plan.slots + tuple(name for name in resumed if name not in plan.slots)
    steps: dict[StepPlan, int] = {}
    order = []
    for s in range(plan.num_evaluations):
        step = tuple(_iterated(op, branches, slots, s) for op in plan.at(s))
        order.append(steps.setdefault(step, len(steps)))
    return Plan(tuple(steps), tuple(order), slots)


def _iterated(op: Op, branches: Mapping[str, Branch], slots: tuple[str, ...], s: int) -> Op:
    branch = branches.get(op.branch) if isinstance(op, Compute) else None
    if branch is None or not isinstance(op, Compute):
        return op
    slot = slots.index(branch.name) if branch.resumes else op.slot
    return Iterate(branch.name, slot, branch.iterations_at(s), branch.resumes and s > 0)


SUMMED = frozenset({Reuse, Predict})
"""What is added in one go; what computes some tokens is not."""
Runs = dict[tuple[int, ...], ReuseRun]
"""Runs by the identities of their items, which the plan keeps alive: steps share them as they share
all other ops, or a plan of 1000 steps would hold 100 000 of them."""


def _fused(step: StepPlan, shared: Runs) -> StepPlan:
    ops: list[Op] = []
    run: list[Reuse | Predict] = []
    for op in step:
        if type(op) in SUMMED:
            run.append(op)  # type: ignore[arg-type]
            continue
        if run:
            ops.append(_as_one(run, shared))
            run = []
        ops.append(op)
    if run:
        ops.append(_as_one(run, shared))
    return tuple(ops)


def _as_one(run: list[Reuse | Predict], shared: Runs) -> ReuseRun:
    key = tuple(map(id, run))
    if key not in shared:
        shared[key] = ReuseRun(tuple(run))
    return shared[key]
