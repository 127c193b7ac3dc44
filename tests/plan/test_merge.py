"""Neighbouring columns that are equal become one, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2c_rt.plan.build import build_plan
from l2c_rt.plan.cost import cost
from l2c_rt.plan.merge import expand, merge_columns, schedule_of
from l2c_rt.plan.ops import PlanError
from l2c_rt.plan.program import BlockProgram, Branch, Fixed, Node
from l2c_rt.plan.verify import verify
from l2c_rt.schedule.cache_schedule import CacheSchedule


def block(i: int) -> Branch:
    return Branch(f"blocks.{i}", "block", i, False, 10 + i, 5, 0, 0, attention_macs=i)


def program(blocks: int, fixed_before: int | None = None) -> BlockProgram:
    nodes: list[Node] = [Fixed("before", macs=3)]
    for i in range(blocks):
        nodes += [Fixed("between")] if i == fixed_before else []
        nodes.append(block(i))
    return BlockProgram("any", (*nodes, Fixed("after")), tokens=1, width=1)


def schedule(*columns: str) -> CacheSchedule:
    compute = np.array([[row == "c" for row in column] for column in columns]).T
    return CacheSchedule(compute, tuple(f"blocks.{i}" for i in range(len(columns))))


def test_equal_neighbours_are_one_column() -> None:
    merged = merge_columns(program(4), schedule("cc", "cr", "cr", "cc"), ())
    assert merged.groups == (("blocks.0",), ("blocks.1", "blocks.2"), ("blocks.3",))
    assert merged.program.branch_names == ("blocks.0", "blocks.1..blocks.2", "blocks.3")
    assert merged.schedule.compute.tolist() == [[True, True, True], [True, False, True]]


def test_equal_columns_that_are_no_neighbours_stay_apart() -> None:
    merged = merge_columns(program(3), schedule("cr", "cc", "cr"), ())
    assert len(merged.groups) == 3


@pytest.mark.parametrize("between", [{"gaps": ["blocks.1"]}, {"fixed_before": 1}])
def test_nothing_is_merged_across_what_happens_between(between: dict[str, object]) -> None:
    fixed = between.get("fixed_before")
    assert fixed is None or isinstance(fixed, int)
    gaps = ["blocks.1"] if "gaps" in between else []
    merged = merge_columns(program(3, fixed), schedule("cr", "cr", "cr"), gaps)
    assert merged.groups == (("blocks.0",), ("blocks.1", "blocks.2"))


@st.composite
def cases(draw: st.DrawFn) -> tuple[CacheSchedule, list[str]]:
    blocks, steps = draw(st.integers(1, 7)), draw(st.integers(2, 5))
    row = st.lists(st.booleans(), min_size=blocks, max_size=blocks)
    rows = [[True] * blocks, *draw(st.lists(row, min_size=steps - 1, max_size=steps - 1))]
    names = tuple(f"blocks.{i}" for i in range(blocks))
    return CacheSchedule(np.array(rows), names), draw(st.lists(st.sampled_from(names)))


@given(cases())
def test_a_merged_plan_is_verified_costs_the_same_and_expands_to_the_schedule(
    case: tuple[CacheSchedule, list[str]],
) -> None:
    original, gaps = case
    whole = program(original.num_branches)
    merged = merge_columns(whole, original, gaps)
    plan, before = build_plan(merged.program, merged.schedule), build_plan(whole, original)
    verify(plan, merged.program, merged.schedule)
    assert expand(merged) == original
    # The same steps in the same order, so that a variant of one plan is the other's.
    assert plan.order == before.order
    assert plan.num_slots <= before.num_slots
    ours, theirs = cost(merged.program, plan), cost(whole, before)
    assert [e.all_macs for e in ours.cached] == [e.all_macs for e in theirs.cached]


@given(cases())
def test_the_schedule_of_a_plan_is_the_one_that_it_was_built_from(
    case: tuple[CacheSchedule, list[str]],
) -> None:
    whole = program(case[0].num_branches)
    assert schedule_of(build_plan(whole, case[0]), whole) == case[0]


def test_a_plan_for_other_columns_is_refused() -> None:
    original = schedule("cr", "cr", "cc")
    merged = merge_columns(program(3), original, ())
    with pytest.raises(PlanError):
        verify(build_plan(merged.program, merged.schedule), program(3), original)
