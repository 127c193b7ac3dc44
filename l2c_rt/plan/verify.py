"""The proof that a plan never reads what its own run has not written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from l2c_rt.plan.delta_ops import FromDelta, KeepAt, LinearParts, ToDelta, Unchanged
from l2c_rt.plan.halves import check_halves
from l2c_rt.plan.ops import (
    Compute,
    Iterate,
    LeaveOut,
    Op,
    Plan,
    PlanError,
    Predict,
    Reuse,
    ReuseRun,
    RunFixed,
)
from l2c_rt.plan.program import BlockProgram, Fixed
from l2c_rt.plan.reads import Read, check_predicted, check_predicted_reads, slots_of
from l2c_rt.plan.stream_ops import BatchOp, KeepStream, PassedOver, RestoreStream
from l2c_rt.plan.verify_delta import check_delta, in_node_order
from l2c_rt.plan.verify_tokens import check_tokens
from l2c_rt.schedule.cache_schedule import CacheSchedule

NOT_OF_ONE_NODE = (ReuseRun, RestoreStream, KeepStream, BatchOp, KeepAt, ToDelta, FromDelta,
                   LinearParts)  # fmt: skip
SingleOp = RunFixed | Compute | Reuse | Predict | LeaveOut | PassedOver | Unchanged


def verify(plan: Plan, program: BlockProgram, schedule: CacheSchedule | None = None) -> None:
    """Prove that every read follows a write of the same run and that no node is left out.

    The proof starts from slots full of another run's values.  Every run starts at evaluation 0
    and goes on one by one, whether or not the run before it was finished, so a plan that passes
    cannot give a stale read after any abandoned run.  With `schedule`, also that the plan
    computes and reuses exactly what the schedule says.
    Raises PlanError naming evaluation, op and slot.
    """
    _check_shape(plan)
    nodes = _Nodes.of(program)
    # Steps share their op objects, which live as long as the plan: each is looked at once.
    seen: dict[int, str] = {}
    apart = [_taken_apart(in_node_order(step, program)) for step in plan.steps]
    first_at = {i: s for s, i in reversed(tuple(enumerate(plan.order)))}
    for i, s in first_at.items():
        _check_step(plan, apart[i], nodes, seen, s)
    writes = [[op for op in step if isinstance(op, Compute)] for step in apart]
    reads = [[op for op in step if isinstance(op, Read)] for step in apart]
    check_delta(plan, program)
    predicted = plan.predictions is not None or any(Predict in map(type, ops) for ops in reads)
    (check_predicted_reads if predicted else _check_reads)(plan, writes, reads)
    _check_iterations(plan, writes, program)
    check_tokens(plan, program, schedule)
    check_halves(plan)
    if schedule is not None:
        if plan.predictions != schedule.predictions:
            raise PlanError("the plan's predictions are not those of the schedule")
        if (plan.num_evaluations, program.branch_names) != (schedule.steps, schedule.branches):
            raise PlanError(
                f"the plan has {plan.num_evaluations} evaluations of {len(program.branches)} "
                f"branches, the schedule {schedule.steps} of {schedule.num_branches}, or in "
                "another order"
            )
        computed = [[op.branch for op in ops] for ops in writes]
        for s, i in enumerate(plan.order):
            _check_row(computed[i], program, schedule, s)
            if schedule.predictions is not None:
                check_predicted(reads[i], program, schedule.predictions, s)


def _taken_apart(step: Sequence[Op | PassedOver]) -> list[SingleOp]:
    """The ops of a step, each of one node."""
    ops: list[SingleOp] = []
    for op in step:
        if not isinstance(op, NOT_OF_ONE_NODE):
            ops.append(op)
        elif isinstance(op, ReuseRun):
            ops += op.items
        elif isinstance(op, RestoreStream):
            ops += map(PassedOver, op.nodes)
    return ops


def _check_reads(plan: Plan, writes: list[list[Compute]], reads: list[list[Read]]) -> None:
    """Run the slots symbolically: at which evaluation the one branch of each wrote it last."""
    latest: dict[str, int] = {}
    held: dict[int | None, int] = {}
    for s, i in enumerate(plan.order):
        # A branch is computed or reused once per evaluation, so writes may be taken first.
        for op in writes[i]:
            if isinstance(op, Iterate) and op.resumes:
                _check_read(op, held, latest, s, "resumes")
            latest[op.branch] = s
            if op.slot is not None:
                held[op.slot] = s
        for item in reads[i]:
            # Every slot is of one branch: _check_slot.  What is unchanged is read from none.
            if isinstance(item, Reuse) and held.get(item.slot, -1) != latest.get(item.branch):
                _check_read(item, held, latest, s, "reuses")


def _check_read(
    op: Compute | Reuse, held: dict[int | None, int], latest: dict[str, int], s: int, verb: str
) -> None:
    if op.branch not in latest:
        raise PlanError(f"evaluation {s} {verb} {op.branch}, which this run has not computed yet")
    if held.get(op.slot) != latest[op.branch]:
        holds = f"the output of evaluation {held[op.slot]}" if op.slot in held else "nothing"
        raise PlanError(
            f"evaluation {s} {verb} {op.branch} from slot {op.slot}, which holds {holds} and not "
            f"the output of evaluation {latest[op.branch]}"
        )


def _check_iterations(plan: Plan, writes: list[list[Compute]], program: BlockProgram) -> None:
    """A branch with iterations has those of the evaluation; no other has any."""
    if not any(branch.iterations for branch in program.branches) and not any(
        isinstance(op, Iterate) for ops in writes for op in ops
    ):
        return
    for s, i in enumerate(plan.order):
        for op in writes[i]:
            branch = program.branch_of[op.branch]
            want = (
                (branch.iterations_at(s), branch.resumes and s > 0) if branch.iterations else None
            )
            if ((op.times, op.resumes) if isinstance(op, Iterate) else None) != want:
                raise PlanError(f"evaluation {s}: {op}, but the program wants {want}")


@dataclass(frozen=True, slots=True)
class _Nodes:
    """A program's node names: all, those that may be hoisted, and the branches."""

    all: list[str]
    without_conditioning: list[str]
    conditioning: frozenset[str]
    branches: frozenset[str]
    nested: frozenset[str]

    @staticmethod
    def of(program: BlockProgram) -> _Nodes:
        conditioning = frozenset(
            n.name for n in program.nodes if isinstance(n, Fixed) and n.conditioning
        )
        names = [n.name for n in program.nodes]
        expected = [name for name in names if name not in conditioning]
        nested = frozenset(branch.name for branch in program.branches if branch.nested)
        return _Nodes(names, expected, conditioning, frozenset(program.branch_names), nested)


def _check_shape(plan: Plan) -> None:
    if not plan.order:
        raise PlanError("a plan needs at least one evaluation")
    for s, i in enumerate(plan.order):
        if not 0 <= i < len(plan.steps):
            raise PlanError(f"evaluation {s} has step plan {i}, but there are {len(plan.steps)}")


def _check_step(
    plan: Plan, ops: list[SingleOp], nodes: _Nodes, seen: dict[int, str], s: int
) -> None:
    """Every node once, in order, by an op of its kind, in a slot of its own."""
    got = list(map(seen.get, map(id, ops)))
    for i, op in enumerate(ops if None in got else ()):
        got[i] = seen[id(op)] = seen.get(id(op)) or _check_op(plan, op, nodes, s)
    want = nodes.all if nodes.conditioning.intersection(got) else nodes.without_conditioning
    if got != want:
        pairs = enumerate(zip(got, want, strict=False))
        bad = next((i for i, (a, b) in pairs if a != b), min(len(got), len(want)))
        raise PlanError(
            f"evaluation {s}: op {bad} must be {want[bad : bad + 1] or 'none'}, "
            f"got {got[bad : bad + 1] or 'none'}"
        )
    if nodes.nested:
        _check_nested(ops, nodes, s)


def _check_nested(ops: list[SingleOp], nodes: _Nodes, s: int) -> None:
    """A branch is left out inside of a reused one, and only there; see _check_op for the rest."""
    outside = True
    for op in ops:
        if isinstance(op, RunFixed | PassedOver):
            continue
        inside = op.branch in nodes.nested and not outside
        if inside != isinstance(op, LeaveOut):
            where = "inside" if inside else "outside"
            raise PlanError(
                f"evaluation {s}: {op}, but {op.branch} lies {where} of a reused branch"
            )
        outside = isinstance(op, Compute)


def _check_op(plan: Plan, op: SingleOp, nodes: _Nodes, s: int) -> str:
    """The node an op stands for, if it is of its kind and its slot is its own."""
    if isinstance(op, RunFixed):
        if op.node in nodes.branches:
            raise PlanError(f"evaluation {s}: {op.node} is a branch, not a fixed node")
        return op.node
    if isinstance(op, PassedOver):
        return op.node
    if op.branch not in nodes.branches:
        raise PlanError(f"evaluation {s}: {op} names a fixed node as a branch")
    if isinstance(op, LeaveOut) and op.branch not in nodes.nested:
        raise PlanError(f"evaluation {s}: {op}, but {op.branch} lies outside of a reused branch")
    for slot in () if isinstance(op, LeaveOut) else slots_of(op):
        _check_slot(plan, op.branch, slot, s)
    return op.branch


def _check_slot(plan: Plan, branch: str, slot: int, s: int) -> None:
    if not 0 <= slot < plan.num_slots:
        raise PlanError(f"evaluation {s}: {branch} uses slot {slot} of {plan.num_slots}")
    if plan.slots[slot] != branch:
        raise PlanError(
            f"evaluation {s}: {branch} uses slot {slot}, which belongs to {plan.slots[slot]}"
        )


def _check_row(computed: list[str], program: BlockProgram, schedule: CacheSchedule, s: int) -> None:
    row = schedule.row(s)
    if computed == list(compress(program.branch_names, row)):
        return
    for name, want in zip(program.branch_names, row, strict=True):
        if (name in computed) != bool(want):
            raise PlanError(
                f"evaluation {s}: {name} is {'computed' if name in computed else 'reused'}, "
                f"but the schedule says {'compute' if want else 'reuse'}"
            )
