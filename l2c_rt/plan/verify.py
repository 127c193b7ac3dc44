"""The proof that a plan never reads what its own run has not written."""

from __future__ import annotations

from dataclasses import dataclass

from l2c_rt.plan.ops import (
    Compute,
    Iterate,
    LeaveOut,
    Op,
    Plan,
    PlanError,
    Predict,
    RunFixed,
    StepPlan,
    op_nodes,
    reuses,
)
from l2c_rt.plan.program import BlockProgram, Fixed
from l2c_rt.plan.reads import check_reads, slots_of
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
    check_reads(plan)
    _check_iterations(plan, program)
    if schedule is not None:
        if plan.predictions != schedule.predictions:
            raise PlanError("the plan's predictions are not those of the schedule")
        if (plan.num_evaluations, program.branch_names) != (schedule.steps, schedule.branches):
            raise PlanError(
                f"the plan has {plan.num_evaluations} evaluations of {len(program.branches)} "
                f"branches, the schedule {schedule.steps} of {schedule.num_branches}, or in "
                "another order"
            )
        for s in range(plan.num_evaluations):
            _check_row(plan.at(s), program, schedule, s)
            _check_predicted(plan.at(s), program, schedule, s)


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
        if isinstance(op, RunFixed):
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
    elif not nodes.branches.issuperset(names):
        raise PlanError(f"evaluation {s}: {op} names a fixed node as a branch")
    elif isinstance(op, Compute) and op.slot is not None:
        _check_slot(plan, op.branch, op.slot, s)
    for item in reuses((op,)):
        for slot in slots_of(item):
            _check_slot(plan, item.branch, slot, s)
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


def _check_predicted(ops: StepPlan, program: BlockProgram, schedule: CacheSchedule, s: int) -> None:
    predictions = schedule.predictions
    if predictions is None:
        return
    predicted = {op.branch for op in reuses(ops) if isinstance(op, Predict)}
    for k, name in enumerate(program.branch_names):
        if (name in predicted) != bool(predictions.at(s, k)):
            raise PlanError(f"evaluation {s}: {name} is {'' if name in predicted else 'not '}"
                            "predicted, against the schedule")  # fmt: skip
