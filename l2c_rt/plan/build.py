"""CacheSchedule + BlockProgram -> Plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from l2c_rt.plan.ops import Compute, LeaveOut, Plan, Reuse, RunFixed, StepPlan
from l2c_rt.plan.program import BlockProgram, Branch
from l2c_rt.schedule.cache_schedule import CacheSchedule

Table = Sequence[Sequence[bool]]
Flags = npt.NDArray[np.bool_]
Choices = npt.NDArray[np.int_]

RUN, STORED, REUSED, LEFT_OUT = range(4)
"""What a row does with a node: run it, also keep its output, read that, or neither run nor read."""


def liveness(compute: Table, read: Table | None = None) -> tuple[tuple[bool, ...], ...]:
    """live[s][k]: the output of branch k at evaluation s is read before it is computed again.

    `read` are the evaluations that read it: those that do not compute it, unless given.
    """
    computes = np.array(compute, dtype=bool)
    live = _live(computes, ~computes if read is None else np.array(read, dtype=bool))
    return tuple(map(tuple, live.tolist()))


def _live(compute: Flags, read: Flags) -> Flags:
    live = np.zeros_like(compute)
    read_later = np.zeros_like(compute[0])
    for s in reversed(range(len(compute))):
        live[s] = compute[s] & read_later
        read_later = ~compute[s] & (read_later | read[s])
    return live


def build_plan(program: BlockProgram, schedule: CacheSchedule) -> Plan:
    """Plan a schedule for a program: one slot per branch that is ever reused.

    A compute is kept if any evaluation with the same row needs it, so that equal rows stay equal
    plans; what no such evaluation needs is kept nowhere.
    What lies inside a reused branch is left out, and has a slot only if another row reads it.
    Raises ValueError if schedule and program name different branches, or where a row computes a
    branch inside of one that it reuses.
    """
    check_branches(program, schedule)
    compute = schedule.compute
    check_nested(compute, program)
    left_out = _left_out(compute, program)
    read = ~compute & ~left_out
    distinct: dict[bytes, int] = {}
    order = [distinct.setdefault(row.tobytes(), len(distinct)) for row in compute]
    firsts = [order.index(i) for i in range(len(distinct))]
    needed = np.zeros((len(distinct), schedule.num_branches), dtype=bool)
    np.logical_or.at(needed, order, _live(compute, read))
    reused = np.flatnonzero(read.any(axis=0)).tolist()
    choice = np.select([left_out[firsts], read[firsts], needed], [LEFT_OUT, REUSED, STORED], RUN)
    steps = _steps(program, {k: slot for slot, k in enumerate(reused)}, choice)
    return Plan(steps, tuple(order), tuple(program.branch_names[k] for k in reused))


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


def check_nested(compute: Flags, program: BlockProgram) -> None:
    branches = program.branches
    for k in range(1, len(branches)):
        if not branches[k].nested:
            continue
        unread = np.flatnonzero(compute[:, k] & ~compute[:, k - 1])
        if unread.size:
            inner, outer = branches[k].name, branches[k - 1].name
            raise ValueError(
                f"schedule: evaluation {unread[0]} computes {inner} and reuses {outer}, which "
                f"{inner} lies inside of, so nothing would read it; a row computes the outermost "
                f"branches up to some depth, as {branches[0].name} .. {outer}, and reuses all "
                "inside"
            )


def _left_out(compute: Flags, program: BlockProgram) -> Flags:
    """What is neither run nor read: all inside of the outermost branch that a row reuses."""
    nested = np.array([branch.nested for branch in program.branches])
    left_out = np.zeros_like(compute)
    left_out[:, 1:] = nested[1:] & ~compute[:, :-1] & ~compute[:, 1:]
    return left_out


def _steps(program: BlockProgram, slot_of: dict[int, int], choice: Choices) -> tuple[StepPlan, ...]:
    """The ops of distinct rows, which share them; `choice` [rows, branches] says which op each is.

    One lookup for all of them: a loop over 1000 rows of 400 branches would take a second.
    """
    ops = np.empty((4, len(program.nodes)), dtype=object)
    columns: list[int] = []
    for i, node in enumerate(program.nodes):
        if not isinstance(node, Branch):
            ops[RUN, i] = RunFixed(node.name)
            continue
        slot = slot_of.get(len(columns))
        columns.append(i)
        ops[RUN, i], ops[LEFT_OUT, i] = Compute(node.name, None), LeaveOut(node.name)
        if slot is not None:
            ops[STORED, i], ops[REUSED, i] = Compute(node.name, slot), Reuse(node.name, slot)
    picked = np.full((len(choice), len(program.nodes)), RUN)
    picked[:, columns] = choice
    return tuple(map(tuple, ops[picked, np.arange(len(program.nodes))].tolist()))
