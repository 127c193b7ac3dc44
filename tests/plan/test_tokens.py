"""Plans with tokens: what the proof accepts, and each kind of damage that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from toys import toy_program

from l2c_rt.methods import DuCa
from l2c_rt.plan.ops import Compute, Op, Plan, PlanError, RunFixed
from l2c_rt.plan.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan.prepare import prepare
from l2c_rt.plan.stream_ops import KeepStream, RestoreStream
from l2c_rt.plan.tokens import Refresh, Scored
from l2c_rt.plan.verify import verify

PROGRAM = toy_program(4)
SCHEDULE = DuCa(fresh_ratio=0.3).schedule(50, PROGRAM.branch_names)
PLAN = prepare(PROGRAM, SCHEDULE, lambda plan, program: plan)[0]

Change = Callable[[Op], Op | None]


def changed(change: Change, *, distinct: int | None = None) -> Plan:
    """The plan with the ops of all steps, or of one, changed; None leaves an op out."""
    steps = []
    for i, step in enumerate(PLAN.steps):
        ops = [change(op) if distinct in (None, i) else op for op in step]
        steps.append(tuple(op for op in ops if op is not None))
    return replace(PLAN, steps=tuple(steps))


def test_rewrites_keep_a_plan_with_tokens_proved() -> None:
    for rewritten in (hoist_conditioning(PLAN, PROGRAM), fuse_reuse_runs(PLAN)):
        verify(rewritten, PROGRAM, SCHEDULE)


def test_the_first_block_may_be_computed_where_all_others_are_passed_over() -> None:
    mixed = PLAN.at(17)
    assert [op.branch for op in mixed if isinstance(op, Compute)] == ["attn-0", "mlp-0"]
    assert [op.branches for op in mixed if isinstance(op, RestoreStream)] == [6]
    assert isinstance(mixed[-1], RunFixed)


def test_a_full_run_of_one_evaluation_keeps_nothing() -> None:
    plan = prepare(PROGRAM, DuCa().schedule(1, PROGRAM.branch_names), lambda p, _: p)[0]
    assert plan.num_slots == 0


def _without_scores(op: Op) -> Op:
    return Compute(op.branch, op.slot) if isinstance(op, Scored) else op


def _another_state(op: Op) -> Op:
    return replace(op, state=(op.state + 1) % 4) if isinstance(op, Refresh) else op


def _too_many(op: Op) -> Op:
    return replace(op, tokens=17) if isinstance(op, Refresh) else op


def _one_less(op: Op) -> Op:
    return replace(op, tokens=op.tokens - 1) if isinstance(op, Refresh) and op.tokens else op


def _never_kept(op: Op) -> Op | None:
    return None if isinstance(op, KeepStream) else op


def _otherwise(op: Op) -> Op:
    return replace(op, score="kv-norm") if isinstance(op, Scored) else op


def _no_state(op: Op) -> Op:
    return replace(op, state=4) if isinstance(op, Scored) else op


def _scored_by_mlp(op: Op) -> Op:
    if type(op) is Compute and op.branch == "mlp-1" and op.slot is not None:
        return Scored(op.branch, op.slot, 1, "attention")
    return op


def _miscounted(op: Op) -> Op:
    return replace(op, branches=op.branches - 1) if isinstance(op, RestoreStream) else op


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without_scores, "reads scores of evaluation None"),
        (_another_state, "by another's state|uses the state of"),
        (_too_many, "by another's state"),
        (_one_less, "tokens chosen"),
        (_never_kept, "what is kept is that of evaluation -1"),
        (_otherwise, "scores otherwise than by 'attention'"),
        (_no_state, "uses state 4 of 4"),
        (_scored_by_mlp, "is no attention"),
        (_miscounted, "counts wrong"),
    ],
)
def test_damage_is_refused(change: Change, reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        verify(changed(change), PROGRAM, SCHEDULE)


def test_a_stream_of_another_evaluation_than_the_one_before_is_refused() -> None:
    last = next(s for s in range(50) if any(isinstance(o, KeepStream) for o in PLAN.at(s)))
    late = next(s for s in range(last + 2, 50)
                if any(isinstance(o, RestoreStream) for o in PLAN.at(s)))  # fmt: skip
    before = PLAN.order[late - 1]
    with pytest.raises(PlanError, match="not of the one before"):
        verify(changed(_never_kept, distinct=before), PROGRAM, SCHEDULE)


def test_a_plan_with_other_tokens_than_its_schedule_is_refused() -> None:
    other = DuCa(fresh_ratio=0.4).schedule(50, PROGRAM.branch_names)
    with pytest.raises(PlanError, match="but the schedule says"):
        verify(PLAN, PROGRAM, other)
