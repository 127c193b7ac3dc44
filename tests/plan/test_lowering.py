"""Lowered steps do what their plans say: both are run on symbols, for random programs and plans."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from random_programs import (
    block,
    lowered,
    planned,
    program_of,
    skip_program,
)
from symbolic_run import OnBuffers, OnPlan, Symbols
from toys import toy_program

from l2c_rt.plan.build import build_plan
from l2c_rt.plan.lowering import (
    STREAM,
    Call,
    Embed,
    LoweredStep,
    Mix,
    SkipLinear,
    Sum,
    buffers,
    can_be_one_kernel,
    lower,
)
from l2c_rt.plan.ops import Compute, StepPlan
from l2c_rt.plan.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan.program import (
    BlockProgram,
    Fixed,
    linear_node,
)
from l2c_rt.schedule.cache_schedule import CacheSchedule


def computes(step: StepPlan) -> bool:
    return any(isinstance(op, Compute) for op in step)


@pytest.mark.parametrize("one_kernel", [False, True])
@settings(max_examples=150, deadline=None)
@given(planned())
def test_a_lowered_step_gives_every_branch_and_the_final_kernel_what_the_plan_gives(
    one_kernel: bool, drawn: Any
) -> None:
    program, plan = drawn
    one_kernel = one_kernel and can_be_one_kernel(program)
    rows = [lower(s, program, plan.num_slots, one_kernel=one_kernel) for s in plan.steps]
    symbols = Symbols()
    meant, done = OnPlan(program, symbols), OnBuffers(plan.num_slots, symbols)
    for evaluation, row in enumerate(plan.order):
        wanted = meant.run(plan.steps[row], evaluation)
        assert done.run(rows[row], evaluation) == wanted
        assert {k: v for k, v in done.slots.items() if k != plan.num_slots} == meant.slots


@settings(max_examples=100, deadline=None)
@given(planned())
def test_a_sum_always_does_something_and_neighbours_could_not_be_one(drawn: Any) -> None:
    program, plan = drawn
    for row in lowered(program, plan):
        for launch, after in pairwise(row):
            if isinstance(launch, Sum):
                moved = launch.source != launch.target
                assert launch.terms or launch.branch is not None or moved, launch
            if isinstance(launch, Sum) and isinstance(after, Sum):
                # Only where the sum so far is kept for a long skip.
                assert launch.branch is None
                assert launch.target != STREAM or after.source != after.target


@settings(max_examples=100, deadline=None)
@given(planned())
def test_only_an_evaluation_that_computes_nothing_is_one_kernel(drawn: Any) -> None:
    program, plan = drawn
    fixed = [node for node in program.nodes if isinstance(node, Fixed)]
    called = any(not (node.role or node.conditioning) for node in fixed)
    skips = any(node.role in ("skip_save", "skip_linear") for node in fixed)
    assert can_be_one_kernel(program) is (program.branches[0].gated and not skips)
    for step, row in zip(plan.steps, lowered(program, plan), strict=True):
        alone = can_be_one_kernel(program) and not computes(step) and not called
        assert (row[-1].source is None) is alone
        mixes = sum(isinstance(launch, Mix) for launch in row)
        assert (len(row) - mixes == 1) is alone
        assert lower(step, program, plan.num_slots)[-1].source is not None


@settings(max_examples=100, deadline=None)
@given(planned())
def test_what_is_allocated_is_what_is_written(drawn: Any) -> None:
    program, plan = drawn
    rows = lowered(program, plan)
    named = buffers(rows)
    assert named[0] == STREAM
    assert len(set(named)) == len(named)
    written = {la.target for row in rows for la in row if isinstance(la, Embed | Sum | SkipLinear)}
    assert set(named) == written | {STREAM}


def lowered_step(program: BlockProgram, cells: str) -> LoweredStep:
    compute = np.array([[True] * len(cells), [c == "#" for c in cells]])
    plan = build_plan(program, CacheSchedule(compute, program.branch_names))
    plan = fuse_reuse_runs(hoist_conditioning(plan, program))
    return lowered(program, plan)[plan.order[1]]


def launch_names(row: LoweredStep) -> list[str]:
    return [type(launch).__name__ for launch in row]


def test_lowered_steps_of_a_dit_by_hand() -> None:
    assert launch_names(lowered_step(toy_program(2), "#..#")) == [
        "Embed",
        "Run",
        "Sum",
        "Run",
        "Final",
    ]
    assert launch_names(lowered_step(toy_program(2), ".#..")) == ["Embed", "Sum", "Run", "Final"]
    assert launch_names(lowered_step(toy_program(2), "....")) == ["Final"]


def test_the_sum_that_a_skip_reads_stays_while_the_stream_goes_on_in_another_buffer() -> None:
    row = lowered_step(skip_program(1), "......")
    assert launch_names(row) == ["Embed", "Sum", "Sum", "SkipLinear", "Final"]
    kept, summed, join = row[1:4]
    assert isinstance(kept, Sum)
    assert isinstance(summed, Sum)
    assert isinstance(join, SkipLinear)
    assert (kept.source, summed.source, summed.target) == (STREAM, kept.target, STREAM)
    assert (join.source, join.skip) == (STREAM, kept.target)


def test_a_node_without_a_role_does_not_write_to_the_sum_that_a_skip_reads() -> None:
    nodes = [*block(0, False), Fixed("save", role="skip_save"), linear_node("adapter", 16, 32, 32)]
    nodes += [*block(1, False), linear_node("join", 16, 64, 32, role="skip_linear")]
    row = lowered_step(program_of(nodes), "....")
    (call,) = (launch for launch in row if isinstance(launch, Call))
    (join,) = (launch for launch in row if isinstance(launch, SkipLinear))
    assert call.source != join.skip
