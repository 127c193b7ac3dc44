"""Fixed-point models: iterations are planned, the solution is a slot, no run sees another's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fixed_point_model import fixed_point_model, written_out
from small_models import all_equal
from torch import Tensor
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.adapters.fixed_point import SOLUTION, FixedPoint
from l2c_rt.plan.ops import Iterate, PlanError
from l2c_rt.plan.verify import verify
from l2c_rt.policies import Full
from l2c_rt.schedule.cache_schedule import CacheSchedule

COUNTS = (3, 1, 0, 2, 2)
STEPS = len(COUNTS)
TIMES = [900.0 - 100 * step for step in range(STEPS)]


def call_of(step: int) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(step))
    return x, torch.full((2,), TIMES[step]), torch.tensor([1, 5])


def run_loop(fast: Any, steps: int = STEPS) -> list[Tensor]:
    with torch.no_grad():
        return [fast(*call_of(step)) for step in range(steps)]


def compiled(adapter: FixedPoint, schedule: Any = None) -> Any:
    return rt.compile(
        fixed_point_model(), schedule or Full(), steps=STEPS, timesteps=TIMES, adapter=adapter
    )


def oracle(counts: tuple[int, ...], warm: bool) -> list[Tensor]:
    model, solution, outputs = fixed_point_model(), None, []
    with torch.no_grad():
        for step, count in enumerate(counts):
            start = solution if warm else None
            out, solution = written_out(model, *call_of(step), count, start)
            outputs.append(out)
    return outputs


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("counts", [COUNTS, (2,) * STEPS])
def test_a_run_is_bitwise_the_arithmetic_written_out(counts: tuple[int, ...], warm: bool) -> None:
    fast = compiled(FixedPoint(counts, warm_start=warm))
    outputs = run_loop(fast)
    assert all_equal(outputs, oracle(counts, warm))
    assert fast.plan.num_slots == warm
    run_loop(fast, 2)
    fast.reset()
    fast.poison()
    assert all_equal(run_loop(fast), outputs)


def test_an_evaluation_that_reuses_takes_the_solution_as_it_is() -> None:
    rows = np.array([[True], [True], [False], [True], [True]])
    fast = compiled(FixedPoint((3, 1, 7, 2, 2), True), CacheSchedule(rows, (SOLUTION,)))
    assert all_equal(run_loop(fast), oracle(COUNTS, warm=True))


def test_two_sessions_have_solutions_of_their_own() -> None:
    fast = compiled(FixedPoint(COUNTS, warm_start=True))
    expected = run_loop(fast)
    assert "budget of iterations is not the model's own" in str(fast.summary())
    with fast.session() as session, torch.no_grad():
        pairs = [(fast(*call_of(step)), session(*call_of(step))) for step in range(STEPS)]
    assert all_equal([a for a, _ in pairs], expected)
    assert all_equal([b for _, b in pairs], expected)


def test_the_work_is_that_of_the_iterations() -> None:
    many, few = (compiled(FixedPoint(count)).cost for count in (4, 1))
    each = compiled(FixedPoint(COUNTS)).cost
    (branch,) = compiled(FixedPoint(1)).bound_model.program.branches
    assert many.macs - few.macs == 3 * STEPS * branch.macs
    assert each.macs == few.macs + (sum(COUNTS) - STEPS) * branch.macs
    assert each.full_macs == few.macs + (max(COUNTS) - 1) * STEPS * branch.macs


def test_equal_evaluations_share_a_step_of_the_plan() -> None:
    plan = compiled(FixedPoint(3, warm_start=True)).plan
    assert (plan.order, len(plan.steps)) == ((0, 1, 1, 1, 1), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda op: replace(op, times=op.times + 1), "but the program wants"),
        (lambda op: replace(op, resumes=not op.resumes), "resumes solution|program wants"),
        (lambda op: replace(op, slot=None), "resumes solution from slot None"),
    ],
)
def test_a_plan_with_other_iterations_or_a_start_of_another_run_is_refused(
    change: Any, message: str
) -> None:
    fast = compiled(FixedPoint(COUNTS, warm_start=True))
    steps = [
        tuple(change(op) if isinstance(op, Iterate) else op for op in step)
        for step in fast.plan.steps
    ]
    with pytest.raises(PlanError, match=message):
        verify(replace(fast.plan, steps=tuple(steps)), fast.bound_model.program)


@pytest.mark.parametrize(
    ("iterations", "message"),
    [
        ((1, 2), "iterations for 2 evaluations, the schedule has 5"),
        (-1, "counts of at least 0, got -1"),
        ((1, 2.5, 3, 4, 5), "counts of at least 0"),
        ((), "counts of at least 0"),
    ],
)
def test_iterations_that_do_not_fit_are_refused(iterations: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compiled(FixedPoint(iterations))


def test_another_model_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(TypeError, match="DiT has no blocks_pre, block_pre_projection"):
        rt.compile(toy_dit(), Full(), steps=2, adapter=FixedPoint(3))
