"""Planning takes time in proportion to steps times branches, and looks nothing up twice."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType

import pytest
from toys import random_schedule, toy_program

from l2c_rt.backends.backend import fused_passes
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.ops import Plan, ReuseRun
from l2c_rt.plan.prepare import prepare

STEPS = 24


def planning(steps: int, branches: int) -> Callable[[], object]:
    program, schedule = toy_program(branches // 2), random_schedule(steps, branches)
    return lambda: prepare(program, schedule, fused_passes)


def calls_of(work: Callable[[], object]) -> int:
    """Calls of functions, C's included, and resumptions of generators."""
    count = 0

    def on_event(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize(("steps", "branches"), [(STEPS, 320), (4 * STEPS, 80)])
def test_four_times_the_cells_take_four_times_the_calls(steps: int, branches: int) -> None:
    small, large = planning(STEPS, 80), planning(steps, branches)
    assert calls_of(large) < 4.4 * calls_of(small)


def test_a_cell_takes_at_most_thirty_calls() -> None:
    assert calls_of(planning(STEPS, 320)) < 30 * STEPS * 320


def test_sixteen_times_the_branches_take_less_than_eighty_times_the_time() -> None:
    small, large = planning(STEPS, 40), planning(STEPS, 640)
    # Of the processor: others may be at work too.  A square would be 256 times.
    assert min(map(seconds, [large] * 3)) < 80 * min(map(seconds, [small] * 5))


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def test_steps_share_their_ops_and_their_runs_of_reuses() -> None:
    program, schedule = toy_program(2), random_schedule(200, 4)
    plan: Plan = fused_passes(build_plan(program, schedule), program)
    runs = [op for step in plan.steps for op in step if isinstance(op, ReuseRun)]
    assert len({id(op) for op in runs}) == len(set(runs)) < len(runs)
