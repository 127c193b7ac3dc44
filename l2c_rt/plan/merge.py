"""Neighbouring branches that are always computed together, as one branch with one slot.

For branches that are whole blocks: what a run of blocks adds to the residual stream is one tensor.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from l2c_rt.plan.ops import Compute, Plan
from l2c_rt.plan.program import BlockProgram, Branch, Node
from l2c_rt.schedule.cache_schedule import CacheSchedule


@dataclass(frozen=True, slots=True)
class MergedColumns:
    """A program and its schedule with fewer branches: `groups[k]` are the names of those that
    branch k stands for."""

    program: BlockProgram
    schedule: CacheSchedule
    groups: tuple[tuple[str, ...], ...]


def schedule_of(plan: Plan, program: BlockProgram) -> CacheSchedule:
    """The schedule that a verified plan carries out."""
    computed = [{op.branch for op in step if isinstance(op, Compute)} for step in plan.steps]
    names = program.branch_names
    rows = [[name in computed[variant] for name in names] for variant in plan.order]
    return CacheSchedule(np.array(rows), names, predictions=plan.predictions)


def merge_columns(
    program: BlockProgram, schedule: CacheSchedule, gaps: Collection[str]
) -> MergedColumns:
    """Make one branch of neighbours whose columns are equal in every row.

    `gaps` names the branches before which something else happens: none of them is merged with the
    branch before it, nor is one that a fixed node stands before.
    """
    columns = {name: _column(schedule, k) for k, name in enumerate(schedule.branches)}
    nodes: list[Node | list[Branch]] = []
    for node in program.nodes:
        group = nodes[-1] if nodes else None
        if not isinstance(node, Branch):
            nodes.append(node)
        elif (
            isinstance(group, list)
            and node.name not in gaps
            and columns[node.name] == columns[group[-1].name]
        ):
            group.append(node)
        else:
            nodes.append([node])
    groups = [node for node in nodes if isinstance(node, list)]
    merged = tuple(_as_one(node) if isinstance(node, list) else node for node in nodes)
    first_of = [schedule.branches.index(group[0].name) for group in groups]
    names = tuple(_as_one(group).name for group in groups)
    old = schedule.predictions
    predictions = None if old is None else old.of_branches(first_of)
    compute = schedule.compute[:, first_of]
    return MergedColumns(
        replace(program, nodes=merged),
        replace(schedule, compute=compute, branches=names, predictions=predictions),
        tuple(tuple(branch.name for branch in group) for group in groups),
    )


def expand(merged: MergedColumns) -> CacheSchedule:
    """The schedule with a column for each of the branches again."""
    sizes = [len(group) for group in merged.groups]
    names = tuple(name for group in merged.groups for name in group)
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    old = merged.schedule.predictions
    predictions = None if old is None else old.of_branches(numbers.tolist())
    compute = merged.schedule.compute[:, numbers]
    return replace(merged.schedule, compute=compute, branches=names, predictions=predictions)


def _column(schedule: CacheSchedule, k: int) -> bytes:
    """Equal for branches that one may stand for: tensors of a corrector are a branch's own."""
    column = schedule.compute[:, k].tobytes()
    predictions = schedule.predictions
    if predictions is None:
        return column
    own = any(predictions.has_operand(s, k) for s in range(schedule.steps))
    return column + predictions.column(k) + (f"only {k}".encode() if own else b"")


def _as_one(group: list[Branch]) -> Branch:
    first, *others = group
    if not others:
        return first
    return replace(
        first,
        name=f"{first.name}..{others[-1].name}",
        macs=sum(branch.macs for branch in group),
        attention_macs=sum(branch.attention_macs for branch in group),
        weights=sum(branch.weights for branch in group),
        activations=sum(branch.activations for branch in group),
        kernels=sum(branch.kernels for branch in group),
    )
