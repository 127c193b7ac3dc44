"""What the proof of the delta form objects to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from delta_plans import PROGRAM, planned, table
from hypothesis import given
from hypothesis import strategies as st
from linear_symbols import meaning
from symbolic_run import Symbols

from l2c_rt.plan.build import build_plan
from l2c_rt.plan.delta import in_delta_form
from l2c_rt.plan.delta_ops import FromDelta, KeepAt, LinearParts, ToDelta, Unchanged
from l2c_rt.plan.ops import Compute, Op, Plan, PlanError, Reuse, RunFixed
from l2c_rt.plan.passes import fuse_reuse_runs
from l2c_rt.plan.stream_ops import HalveBatch, KeepStream
from l2c_rt.plan.verify import verify
from l2c_rt.schedule.cache_schedule import CacheSchedule

SCHEDULE = CacheSchedule(
    table("##########", "..#......#", "##########", "..........", "##########")
)
PLAN = in_delta_form(build_plan(PROGRAM, SCHEDULE), PROGRAM)
"""Evaluation 1 computes a branch before the long skips and one after them, 3 none.

The slots are those after embed, mlp-0, attn-1, attn-4 and mlp-4.
"""

Change = Callable[[Sequence[Op]], Sequence[Op]]


def at(kind: type, *new: Op, nth: int = 0) -> Change:
    """The nth op of a kind replaced by others."""

    def change(ops: Sequence[Op]) -> Sequence[Op]:
        i = [i for i, op in enumerate(ops) if type(op) is kind][nth]
        return (*ops[:i], *new, *ops[i + 1 :])

    return change


def of(kind: type, nth: int = 0, **fields: Any) -> Change:
    """The nth op of a kind with other fields."""

    def change(ops: Sequence[Op]) -> Sequence[Op]:
        op = [op for op in ops if type(op) is kind][nth]
        return at(kind, replace(op, **fields), nth=nth)(ops)  # type: ignore[type-var]

    return change


def moved(kind: type, by: int, nth: int = 0) -> Change:
    """The nth op of a kind that many ops further on."""

    def change(ops: Sequence[Op]) -> Sequence[Op]:
        i = [i for i, op in enumerate(ops) if type(op) is kind][nth]
        rest = [*ops[:i], *ops[i + 1 :]]
        return (*rest[: i + by], ops[i], *rest[i + by :])

    return change


def changed(plan: Plan, s: int, change: Change) -> Plan:
    """The plan in which evaluation s alone does something else."""
    steps = (*plan.steps, tuple(change(plan.at(s))))
    return replace(
        plan, steps=steps, order=(*plan.order[:s], len(plan.steps), *plan.order[s + 1 :])
    )


ATTN_0 = Compute("attn-0", None)
BAD_STEPS: dict[str, tuple[int, Change, str]] = {
    "a stream that was not kept": (0, at(KeepAt), "nothing was kept"),
    "a stream kept elsewhere": (0, moved(KeepAt, 1), "slot belongs to|not follow"),
    "a stream kept in another's slot": (0, of(KeepAt, slot=1), "slot belongs to"),
    "a stream kept beyond the arena": (0, of(KeepAt, slot=5), "belongs to nobody"),
    "a stream kept after its skip": (0, moved(KeepAt, 1, nth=1), "not follow"),
    "a delta of another place": (3, of(ToDelta, slot=4), "slot belongs to"),
    "a delta taken twice": (3, at(ToDelta, ToDelta(0), ToDelta(0)), "where only the difference"),
    "a stream that was one already": (1, at(FromDelta, FromDelta(1), FromDelta(1)), "the stream"),
    "a delta never taken": (3, at(ToDelta), "the stream is"),
    "a stream never made": (3, at(FromDelta), "where the difference is"),
    "no stream at the end": (
        3, lambda ops: (*ops[:-2], ops[-1], ops[-2]), "where the difference is"),
    "a branch computed on the delta": (3, at(Unchanged, ATTN_0), "needs the stream"),
    "a branch added to the delta": (3, at(Unchanged, Reuse("attn-0", 0)), "which belongs"),
    "a branch that is computed taken for unchanged": (
        1, at(Compute, Unchanged("attn-1")), "where the stream is|schedule says"),
    "a branch left out": (3, at(Unchanged), "must be"),
    "a branch twice": (3, at(Unchanged, Unchanged("attn-0"), Unchanged("attn-0")), "must be"),
    "a fixed node unchanged": (3, at(Unchanged, Unchanged("final")), "names a fixed node"),
    "a long skip on the delta with its bias": (
        3, at(LinearParts, RunFixed("skip-linear-3"), RunFixed("skip-linear-4")), "must be|where"),
    "a long skip on the stream": (3, moved(LinearParts, 5), "must be"),
    "long skips out of order": (
        3, of(LinearParts, nodes=("skip-linear-4", "skip-linear-3")), "out of order"),
    "long skips out of order, apart": (
        3, at(LinearParts, LinearParts(("skip-linear-4",), ("skip-save-0",), "skip-save-0"),
              LinearParts(("skip-linear-3",), ("skip-save-0",), None)), "out of order"),
    "a long skip twice": (
        3, of(LinearParts, nodes=("skip-linear-3", "skip-linear-3", "skip-linear-4"),
              skips=("skip-save-0",) * 3), "must be"),
    "a long skip left out": (
        3, of(LinearParts, nodes=("skip-linear-3",), skips=("skip-save-0",)), "must be"),
    "a branch as a long skip": (
        3, of(LinearParts, nodes=("skip-linear-3", "attn-3", "skip-linear-4")), "must be|out of"),
    "another delta for a long skip": (
        1, of(LinearParts, skips=("skip-save-0", "skip-save-1")), "takes what"),
    "a delta for a long skip too few": (1, of(LinearParts, skips=("skip-save-1",)), "out of order"),
    "a delta here that was kept by nobody": (3, of(LinearParts, source=None), "here was kept by"),
    "a delta here that was kept by another": (
        1, of(LinearParts, source="skip-save-0"), "here was kept by"),
    "a base in the delta form": (
        3, lambda ops: (ops[0], KeepAt(0), *ops[1:]), "nobody's base"),
    "half of the batch": (3, lambda ops: (HalveBatch(), *ops), "no meaning"),
    "a stream put back": (3, lambda ops: (*ops, KeepStream()), "no meaning"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_STEPS)
def test_verify_objects_to(fault: str) -> None:
    s, change, why = BAD_STEPS[fault]
    verify(PLAN, PROGRAM, SCHEDULE)
    with pytest.raises(PlanError, match=why) as refused:
        verify(changed(PLAN, s, change), PROGRAM, SCHEDULE)
    assert "evaluation" in str(refused.value)


def test_verify_objects_to_a_value_that_the_base_did_not_add() -> None:
    """Evaluation 2 computes anew what 3 takes for unchanged, and only 0 has kept its streams."""
    without = changed(PLAN, 2, lambda ops: [op for op in ops if not isinstance(op, KeepAt)])
    with pytest.raises(PlanError, match="3 takes attn-0 .* of evaluation 0, .* of 2"):
        verify(without, PROGRAM, SCHEDULE)


def test_verify_objects_to_streams_of_two_bases() -> None:
    one = changed(PLAN, 2, at(KeepAt))
    with pytest.raises(PlanError, match="3 reads slot 4 of evaluation 2, and others of evalu.* 0"):
        verify(one, PROGRAM, SCHEDULE)


def test_verify_objects_to_a_step_that_ends_with_a_delta() -> None:
    last = (FromDelta(4), RunFixed("final"))
    steps = tuple(tuple(op for op in step if op not in last) for step in PLAN.steps)
    with pytest.raises(PlanError, match="after which only a difference is left"):
        verify(replace(PLAN, steps=steps), replace(PROGRAM, nodes=PROGRAM.nodes[:-1]))


def test_verify_objects_to_a_gate() -> None:
    nodes = tuple(
        replace(node, gated=True) if node.name == "mlp-2" else node for node in PROGRAM.nodes
    )
    with pytest.raises(PlanError, match="mlp-2.*whose gate is another"):
        verify(PLAN, replace(PROGRAM, nodes=nodes))


@given(planned(), st.booleans())
def test_every_plan_of_the_pass_is_proved(case: Any, fused: bool) -> None:
    program, schedule, plan = case
    delta = in_delta_form(plan, program)
    verify(fuse_reuse_runs(delta) if fused else delta, program, schedule)


@given(planned(), st.data())
def test_no_edit_passes_that_changes_what_a_run_computes(case: Any, data: st.DataObject) -> None:
    program, schedule, plan = case
    delta = in_delta_form(plan, program)
    s = data.draw(st.integers(0, plan.num_evaluations - 1))
    ops = list(delta.at(s))
    others = [op for step in delta.steps for op in step]
    edits = {
        "drop": lambda i, j: [*ops[:i], *ops[i + 1 :]],
        "swap": lambda i, j: [*ops[:i], *reversed(ops[i : i + 2]), *ops[i + 2 :]],
        "replace": lambda i, j: [*ops[:i], others[j], *ops[i + 1 :]],
        "insert": lambda i, j: [*ops[:i], others[j], *ops[i:]],
    }
    edit = edits[data.draw(st.sampled_from(sorted(edits)))]
    i = data.draw(st.integers(0, len(ops) - 1))
    j = data.draw(st.integers(0, len(others) - 1))
    edited = changed(delta, s, lambda _: edit(i, j))
    try:
        verify(edited, program, schedule)
    except PlanError:
        return
    symbols = Symbols()
    assert meaning(edited, program, symbols) == meaning(plan, program, symbols)


@given(planned(), st.data())
def test_no_other_step_passes_in_the_place_of_one(case: Any, data: st.DataObject) -> None:
    program, schedule, plan = case
    delta = in_delta_form(plan, program)
    s = data.draw(st.integers(0, plan.num_evaluations - 1))
    i = data.draw(st.integers(0, len(delta.steps) - 1))
    edited = replace(delta, order=(*delta.order[:s], i, *delta.order[s + 1 :]))
    try:
        verify(edited, program, schedule)
    except PlanError:
        return
    symbols = Symbols()
    assert meaning(edited, program, symbols) == meaning(plan, program, symbols)
