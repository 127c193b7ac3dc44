"""CacheSchedule + BlockProgram -> Plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from l2c_rt.plan.ops import Compute, LeaveOut, Op, Plan, Reuse, RunFixed, StepPlan
from l2c_rt.plan.program import BlockProgram, Branch
from l2c_rt.schedule.cache_schedule import CacheSchedule

Table = Sequence[Sequence[bool]]


def liveness(compute: Table, read: Table | None = None) -> tuple[tuple[bool, ...], ...]:
    """live[s][k]: the output of branch k at evaluation s is read before it is computed again.

    `read` are the evaluations that read it: those that do not compute it, unless given.
    """
    steps, width = len(compute), len(compute[0])
    live = [[False] * width for _ in range(steps)]
    for k in range(width):
        read_later = False
        for s in reversed(range(steps)):
            if compute[s][k]:
                live[s][k], read_later = read_later, False
            elif read is None or read[s][k]:
                read_later = True
    return tuple(map(tuple, live))


def build_plan(program: BlockProgram, schedule: CacheSchedule) -> Plan:
    """Plan a schedule for a program: one slot per branch that is ever reused.

    A compute is kept if any evaluation with the same row needs it, so that equal rows stay equal
    plans; what no such evaluation needs is kept nowhere.
    What lies inside a reused branch is left out, and has a slot only if another row reads it.
    Raises ValueError if schedule and program name different branches, or where a row computes a
    branch inside of one that it reuses.
    """
    check_branches(program, schedule)
    rows = [tuple(map(bool, schedule.row(s))) for s in range(schedule.steps)]
    check_nested(rows, program)
    read = [_read(row, program) for row in rows]
    live = liveness(rows, read)
    needed: dict[tuple[bool, ...], list[bool]] = {}
    for row, alive in zip(rows, live, strict=True):
        before = needed.setdefault(row, [False] * len(row))
        needed[row] = [a or b for a, b in zip(before, alive, strict=True)]
    names = program.branch_names
    reused = [k for k in range(len(names)) if any(row[k] for row in read)]
    slot_of = {k: slot for slot, k in enumerate(reused)}
    distinct = tuple(needed)
    nodes = _ops_of_nodes(program, slot_of)
    steps = tuple(_step(nodes, row, needed[row]) for row in distinct)
    index = {row: i for i, row in enumerate(distinct)}
    return Plan(steps, tuple(index[row] for row in rows), tuple(names[k] for k in reused))


def check_branches(program: BlockProgram, schedule: CacheSchedule) -> None:
    want, got = program.branch_names, tuple(schedule.branches)
    if want == got:
        return
    if len(want) != len(got):
        raise ValueError(
            f"schedule: {len(got)} branches, but this model has {len(want)} "
            f"({want[0]} .. {want[-1]}); use a router or schedule made for this depth"
        )
    k = next(i for i, pair in enumerate(zip(want, got, strict=True)) if pair[0] != pair[1])
    raise ValueError(
        f"schedule: branch {k} is {got[k]!r}, but the model's is {want[k]!r}; "
        "rename the schedule's branches to the model's execution order"
    )


def check_nested(rows: Table, program: BlockProgram) -> None:
    branches = program.branches
    for k in range(1, len(branches)):
        if not branches[k].nested:
            continue
        for s, row in enumerate(rows):
            if row[k] and not row[k - 1]:
                inner, outer = branches[k].name, branches[k - 1].name
                raise ValueError(
                    f"schedule: evaluation {s} computes {inner} and reuses {outer}, which {inner} "
                    "lies inside of, so nothing would read it; a row computes the outermost "
                    f"branches up to some depth, as {branches[0].name} .. {outer}, and reuses all "
                    "inside"
                )


def _read(row: Sequence[bool], program: BlockProgram) -> list[bool]:
    """Which branches a row reads from their slots: of nested ones the outermost that it reuses."""
    return [
        not row[k] and not (branch.nested and not row[k - 1])
        for k, branch in enumerate(program.branches)
    ]


class _NodeOps(NamedTuple):
    """The ops that one node can become.  `branch` is its number, or -1 for a fixed node."""

    branch: int
    run: Op
    store: Op | None
    reuse: Op | None
    leave_out: Op | None


def _ops_of_nodes(program: BlockProgram, slot_of: dict[int, int]) -> list[_NodeOps]:
    """Made once, so that the distinct steps of a plan share their ops."""
    nodes: list[_NodeOps] = []
    k = 0
    for node in program.nodes:
        if not isinstance(node, Branch):
            nodes.append(_NodeOps(-1, RunFixed(node.name), None, None, None))
            continue
        slot = slot_of.get(k)
        store = None if slot is None else Compute(node.name, slot)
        reuse = None if slot is None else Reuse(node.name, slot)
        leave_out = LeaveOut(node.name) if node.nested else None
        nodes.append(_NodeOps(k, Compute(node.name, None), store, reuse, leave_out))
        k += 1
    return nodes


def _step(nodes: list[_NodeOps], row: Sequence[bool], needed: Sequence[bool]) -> StepPlan:
    """The ops of a schedule row; `needed` are the outputs that a later evaluation reads."""
    ops: list[Op] = []
    for k, run, store, reuse, leave_out in nodes:
        if k < 0:
            op: Op | None = run
        elif row[k]:
            op = store if needed[k] else run
        elif leave_out is not None and not row[k - 1]:
            op = leave_out
        else:
            op = reuse
        assert op is not None, f"branch {k} has no slot"
        ops.append(op)
    return tuple(ops)
