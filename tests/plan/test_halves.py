"""Plans that halve the batch: each kind of damage is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from toys import toy_program

from l2c_rt.plan.cost import cost
from l2c_rt.plan.halves import check_halves
from l2c_rt.plan.ops import Op, Plan, PlanError, Reuse
from l2c_rt.plan.prepare import prepare
from l2c_rt.plan.stream_ops import HalveBatch, JoinHalves, KeepBands
from l2c_rt.plan.verify import verify
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.halves import HalfSchedule
from l2c_rt.schedule.predictions import Predictions

PROGRAM = toy_program(2)
HALVED = np.array([0, 0, 1, 1, 0, 1], bool)
LOW = np.array([1, 1, 1.1, 1.21, 1, 1.1])


def scheduled(*, reused: int = 3) -> CacheSchedule:
    compute = np.ones((6, 4), bool)
    compute[reused, 0] = False
    halves = HalfSchedule(HALVED, LOW, np.ones(6), bands=True, uncond_first=True)
    return CacheSchedule(compute, PROGRAM.branch_names, halves=halves)


SCHEDULE = scheduled()
PLAN = prepare(PROGRAM, SCHEDULE, lambda plan, program: plan)[0]


def changed(change: Callable[[Op], Op | None], evaluation: int) -> Plan:
    """The plan with the ops of one evaluation changed; None leaves an op out."""
    ops = [change(op) for op in PLAN.at(evaluation)]
    steps = (*PLAN.steps, tuple(op for op in ops if op is not None))
    order = [*PLAN.order]
    order[evaluation] = len(PLAN.steps)
    return replace(PLAN, steps=steps, order=tuple(order))


def test_a_whole_evaluation_keeps_bands_where_the_next_one_reads_them() -> None:
    keeping = [any(isinstance(op, KeepBands) for op in PLAN.at(s)) for s in range(6)]
    assert keeping == [True, True, False, False, True, False]
    assert PLAN.order[0] == PLAN.order[1] == PLAN.order[4]


def without(kind: type) -> Callable[[Op], Op | None]:
    return lambda op: None if isinstance(op, kind) else op


def other_factor(op: Op) -> Op:
    return replace(op, low=1.3) if isinstance(op, JoinHalves) else op


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (changed(without(KeepBands), 4), "bands of evaluation 1, the last whole one is 4"),
        (changed(without(HalveBatch), 2), "halves its batch False, joins 1"),
        (changed(without(JoinHalves), 3), "halves its batch True, joins 0"),
        (changed(other_factor, 3), "reads bands of evaluation 1"),
        (replace(PLAN, halves=None), "no schedule has asked for"),
        (replace(PLAN, steps=tuple(step[::-1] for step in PLAN.steps)), "is op"),
    ],
)  # fmt: skip
def test_damage_is_refused(damaged: Plan, reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        check_halves(damaged)


def test_a_whole_evaluation_that_reads_what_has_half_of_the_rows_is_refused() -> None:
    assert any(isinstance(op, Reuse) for op in PLAN.at(3))
    with pytest.raises(PlanError, match="evaluation 4 reuses attn-0 for a whole batch"):
        prepare(PROGRAM, scheduled(reused=4), lambda plan, program: plan)


def test_half_of_a_batch_costs_half_of_the_arithmetic_and_all_weights() -> None:
    whole, half = cost(PROGRAM, PLAN).cached[0], cost(PROGRAM, PLAN).cached[2]
    assert half.macs == whole.macs // 2
    assert half.weights == whole.weights


def test_tables_that_do_not_fit_are_refused() -> None:
    ones = np.ones(6)
    with pytest.raises(ValueError, match="evaluation 0 has no earlier one"):
        HalfSchedule(~HALVED, ones, ones, bands=True, uncond_first=True)
    with pytest.raises(ValueError, match="wanted 6 numbers"):
        HalfSchedule(HALVED, ones[:5], ones, bands=True, uncond_first=True)
    halves = HalfSchedule(HALVED[:5], ones[:5], ones[:5], bands=False, uncond_first=True)
    with pytest.raises(ValueError, match="5 evaluations, the schedule has 6"):
        prepare(PROGRAM, replace(SCHEDULE, halves=halves), lambda plan, program: plan)
    verify(PLAN, PROGRAM, SCHEDULE)


def test_predictions_with_lanes_are_refused() -> None:
    """Their second lane is the half that is not run."""
    plain = scheduled()
    assert plain.halves is not None
    (s, k), sources = np.argwhere(~plain.compute)[0], np.full((6, 4, 1), -1, np.int16)
    sources[s, k] = s - 1
    lanes = np.stack([np.ones(sources.shape), np.zeros(sources.shape)])
    schedule = replace(plain, predictions=Predictions(sources, lanes))
    with pytest.raises(ValueError, match="fit with lanes=False"):
        prepare(PROGRAM, schedule, lambda plan, program: plan)
