"""The proof that a plan never reads what its own run has not written."""

from __future__ import annotations

from l2c_rt.plan import Compute, Plan, PlanError, RunFixed, StepPlan, op_nodes, reuses
from l2c_rt.program import BlockProgram, Branch
from l2c_rt.schedule import CacheSchedule


def verify(plan: Plan, program: BlockProgram, schedule: CacheSchedule | None = None) -> None:
    """Prove that every read follows a write of the same run and that no node is left out.

    The proof starts from slots full of another run's values.  Every run starts at evaluation 0
    and goes on one by one, whether or not the run before it was finished, so a plan that passes
    cannot give a stale read after any abandoned run.  With `schedule`, also that the plan
    computes and reuses exactly what the schedule says.
    Raises PlanError naming evaluation, op and slot.
    """
    _check_shape(plan)
    latest: dict[str, int] = {}
    held: dict[int, tuple[str, int]] = {}
    for s in range(plan.num_evaluations):
        ops = plan.at(s)
        _check_nodes(ops, program, s)
        for op in ops:
            if isinstance(op, Compute):
                latest[op.branch] = s
                if op.slot is not None:
                    _check_slot(plan, op.branch, op.slot, s)
                    held[op.slot] = (op.branch, s)
        # A branch is computed or reused once per evaluation, so writes may be taken first.
        for reuse in reuses(ops):
            _check_slot(plan, reuse.branch, reuse.slot, s)
            if reuse.branch not in latest:
                raise PlanError(
                    f"evaluation {s} reuses {reuse.branch}, which this run has not computed yet"
                )
            if held.get(reuse.slot) != (reuse.branch, latest[reuse.branch]):
                raise PlanError(
                    f"evaluation {s} reuses {reuse.branch} from slot {reuse.slot}, which holds "
                    f"{held.get(reuse.slot)} and not the output of evaluation "
                    f"{latest[reuse.branch]}"
                )
        if schedule is not None:
            _check_row(ops, program, schedule, s)


def _check_shape(plan: Plan) -> None:
    if not plan.order:
        raise PlanError("a plan needs at least one evaluation")
    for s, i in enumerate(plan.order):
        if not 0 <= i < len(plan.steps):
            raise PlanError(f"evaluation {s} has step plan {i}, but there are {len(plan.steps)}")


def _check_nodes(ops: StepPlan, program: BlockProgram, s: int) -> None:
    got = [name for op in ops for name in op_nodes(op)]
    conditioning = {n.name for n in program.nodes if not isinstance(n, Branch) and n.conditioning}
    want = [n.name for n in program.nodes]
    if not conditioning.intersection(got):
        want = [name for name in want if name not in conditioning]
    if got != want:
        bad = next(
            (i for i, pair in enumerate(zip(got, want, strict=False)) if pair[0] != pair[1]),
            min(len(got), len(want)),
        )
        raise PlanError(
            f"evaluation {s}: op {bad} must be {want[bad : bad + 1] or 'none'}, "
            f"got {got[bad : bad + 1] or 'none'}"
        )
    branches = set(program.branch_names)
    for op in ops:
        if isinstance(op, RunFixed) and op.node in branches:
            raise PlanError(f"evaluation {s}: {op.node} is a branch, not a fixed node")
        if not isinstance(op, RunFixed) and not branches.issuperset(op_nodes(op)):
            raise PlanError(f"evaluation {s}: {op} names a fixed node as a branch")


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
