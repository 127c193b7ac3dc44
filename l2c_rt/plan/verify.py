"""The proof that a plan never reads what its own run has not written."""

from __future__ import annotations

from dataclasses import dataclass

from l2c_rt.plan.halves import check_halves
from l2c_rt.plan.ops import (
    Compute,
    Iterate,
    LeaveOut,
    Op,
    Plan,
    PlanError,
    RestoreStream,
    RunFixed,
    StepPlan,
    op_nodes,
    reuses,
)
from l2c_rt.plan.program import BlockProgram, Fixed
from l2c_rt.plan.verify_tokens import check_tokens
from l2c_rt.schedule.cache_schedule import CacheSchedule


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
    seen: dict[int, tuple[str, ...]] = {}
    for i in sorted(set(plan.order)):
        _check_step(plan, plan.steps[i], nodes, seen, plan.order.index(i))
    _check_reads(plan)
    _check_iterations(plan, program)
    check_tokens(plan, program, schedule)
    check_halves(plan)
    if schedule is not None:
        if (plan.num_evaluations, program.branch_names) != (schedule.steps, schedule.branches):
            raise PlanError(
                f"the plan has {plan.num_evaluations} evaluations of {len(program.branches)} "
                f"branches, the schedule {schedule.steps} of {schedule.num_branches}, or in "
                "another order"
            )
        for s in range(plan.num_evaluations):
            _check_row(plan.at(s), program, schedule, s)


def _check_reads(plan: Plan) -> None:
    """Run the slots symbolically: who wrote each one last, and at which evaluation."""
    latest: dict[str, int] = {}
    held: dict[int, tuple[str, int]] = {}
    writes = [[op for op in step if isinstance(op, Compute)] for step in plan.steps]
    reads = [reuses(step) for step in plan.steps]
    for s, i in enumerate(plan.order):
        # A branch is computed or reused once per evaluation, so writes may be taken first.
        for op in writes[i]:
            if isinstance(op, Iterate) and op.resumes and _held(held, op) != latest.get(op.branch):
                raise PlanError(
                    f"evaluation {s} resumes {op.branch} from slot {op.slot}, which holds "
                    f"{held.get(-1 if op.slot is None else op.slot)} and not its last output"
                )
            latest[op.branch] = s
            if op.slot is not None:
                held[op.slot] = (op.branch, s)
        for item in reads[i]:
            if item.branch not in latest:
                raise PlanError(
                    f"evaluation {s} reuses {item.branch}, which this run has not computed yet"
                )
            if held.get(item.slot) != (item.branch, latest[item.branch]):
                raise PlanError(
                    f"evaluation {s} reuses {item.branch} from slot {item.slot}, which holds "
                    f"{held.get(item.slot)} and not the output of evaluation {latest[item.branch]}"
                )


def _held(held: dict[int, tuple[str, int]], op: Compute) -> int:
    """The evaluation whose output of the op's branch its slot holds, or -1."""
    branch, evaluation = held.get(-1 if op.slot is None else op.slot, ("", -1))
    return evaluation if branch == op.branch else -1


def _check_iterations(plan: Plan, program: BlockProgram) -> None:
    """A branch with iterations has those of the evaluation; no other has any."""
    branches = {branch.name: branch for branch in program.branches}
    for s in range(plan.num_evaluations):
        for op in plan.at(s):
            if not isinstance(op, Compute):
                continue
            branch = branches[op.branch]
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
    plan: Plan, ops: StepPlan, nodes: _Nodes, seen: dict[int, tuple[str, ...]], s: int
) -> None:
    """Every node once, in order, by an op of its kind, in a slot of its own."""
    got: list[str] = []
    for op in ops:
        names = seen.get(id(op))
        if names is None:
            names = seen[id(op)] = _check_op(plan, op, nodes, s)
        got += names
    want = nodes.all if nodes.conditioning.intersection(got) else nodes.without_conditioning
    if got != want:
        pairs = enumerate(zip(got, want, strict=False))
        bad = next((i for i, (a, b) in pairs if a != b), min(len(got), len(want)))
        raise PlanError(
            f"evaluation {s}: op {bad} must be {want[bad : bad + 1] or 'none'}, "
            f"got {got[bad : bad + 1] or 'none'}"
        )
    _check_nested(ops, nodes, s)


def _check_nested(ops: StepPlan, nodes: _Nodes, s: int) -> None:
    """A branch is left out inside of a reused one, and only there."""
    outside = True
    for op in ops:
        if isinstance(op, RunFixed | RestoreStream):
            continue
        for name in op_nodes(op):
            inside = name in nodes.nested and not outside
            if inside != isinstance(op, LeaveOut):
                where = "inside" if inside else "outside"
                raise PlanError(f"evaluation {s}: {op}, but {name} lies {where} of a reused branch")
            outside = isinstance(op, Compute)


def _check_op(plan: Plan, op: Op, nodes: _Nodes, s: int) -> tuple[str, ...]:
    """The nodes an op stands for, if they are of its kind and its slots are their own."""
    names = op_nodes(op)
    if isinstance(op, RunFixed):
        if op.node in nodes.branches:
            raise PlanError(f"evaluation {s}: {op.node} is a branch, not a fixed node")
    elif isinstance(op, RestoreStream):
        if op.branches != len(nodes.branches.intersection(names)):
            raise PlanError(f"evaluation {s}: {op} counts its branches wrong")
    elif not nodes.branches.issuperset(names):
        raise PlanError(f"evaluation {s}: {op} names a fixed node as a branch")
    elif isinstance(op, Compute) and op.slot is not None:
        _check_slot(plan, op.branch, op.slot, s)
    for item in reuses((op,)):
        _check_slot(plan, item.branch, item.slot, s)
    return names


def _check_slot(plan: Plan, branch: str, slot: int, s: int) -> None:
    if not 0 <= slot < plan.num_slots:
        raise PlanError(f"evaluation {s}: {branch} uses slot {slot} of {plan.num_slots}")
    if plan.slots[slot] != branch:
        raise PlanError(
            f"evaluation {s}: {branch} uses slot {slot}, which belongs to {plan.slots[slot]}"
        )


def _check_row(ops: StepPlan, program: BlockProgram, schedule: CacheSchedule, s: int) -> None:
    computed = {op.branch for op in ops if isinstance(op, Compute)}
    for name, want in zip(program.branch_names, schedule.row(s), strict=True):
        if (name in computed) != bool(want):
            raise PlanError(
                f"evaluation {s}: {name} is {'computed' if name in computed else 'reused'}, "
                f"but the schedule says {'compute' if want else 'reuse'}"
            )
