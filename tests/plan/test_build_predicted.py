"""Plans of schedules with predictions: every value where it is read, in as few slots as can be."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import random_schedule, toy_program

from l2c_rt.correctors import Goc, Taylor, corrected
from l2c_rt.plan.cost import cost
from l2c_rt.plan.ops import Compute, Plan, PlanError, Predict, Reuse
from l2c_rt.plan.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan.prepare import plan_of
from l2c_rt.plan.verify import verify
from l2c_rt.policies.static import EveryN
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions

PROGRAM = toy_program(2)
STEPS, BRANCHES = 8, 4


@st.composite
def predicted_schedules(draw: st.DrawFn) -> CacheSchedule:
    schedule = random_schedule(STEPS, BRANCHES, seed=draw(st.integers(0, 9_999)))
    terms: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for s, k in np.argwhere(~schedule.compute).tolist():
        sources = draw(st.lists(st.integers(0, s - 1), max_size=3, unique=True))
        if sources:
            terms[s, k] = [(q, float(draw(st.integers(-4, 4)))) for q in sources]
    predictions = Predictions.from_terms(STEPS, BRANCHES, terms)
    factors = draw(st.sampled_from([(1.0,), (1.0, -2.0), (1.0, 1.0, 3.0)]))
    coefficients = np.stack([factor * predictions.coefficients[0] for factor in factors])
    predictions = replace(predictions, coefficients=coefficients)
    return CacheSchedule(schedule.compute, predictions=predictions)


def values(schedule: CacheSchedule, lane: int = 0) -> np.ndarray[Any, Any]:
    """What every branch adds in a lane, if its output at evaluation s is s + 1 plus a 1024th of its
    number: from the definition of a prediction alone."""
    assert schedule.predictions is not None
    table = np.zeros((schedule.steps, schedule.num_branches))
    for s in range(schedule.steps):
        for k in range(schedule.num_branches):
            terms = schedule.predictions.at(s, k, lane)
            if schedule.compute[s, k]:
                table[s, k] = s + 1 + k / 1024
            elif terms:
                table[s, k] = sum(c * table[q, k] for q, c in terms)
            else:
                table[s, k] = table[s - 1, k]
    return table


def run(plan: Plan, lane: int = 0) -> np.ndarray[Any, Any]:
    """The same by the ops of the plan, on slots full of NaN."""
    number = {name: k for k, name in enumerate(PROGRAM.branch_names)}
    slots = np.full(plan.num_slots + 1, np.nan)
    table = np.zeros((plan.num_evaluations, len(number)))
    for s in range(plan.num_evaluations):
        for op in plan.at(s):
            if isinstance(op, Compute):
                table[s, number[op.branch]] = s + 1 + number[op.branch] / 1024
                slots[-1 if op.slot is None else op.slot] = table[s, number[op.branch]]
            elif isinstance(op, Reuse):
                table[s, number[op.branch]] = slots[op.slot]
            elif isinstance(op, Predict):
                numbers = plan.coefficients[s][lane][op.at : op.at + len(op.slots)]
                value = sum(c * slots[i] for i, c in zip(op.slots, numbers, strict=True))
                table[s, number[op.branch]] = value
                slots[-1 if op.store is None else op.store] = value
    return table


@given(predicted_schedules())
def test_a_plan_gives_the_values_that_its_predictions_say(schedule: CacheSchedule) -> None:
    plan = plan_of(PROGRAM, schedule)
    verify(plan, PROGRAM, schedule)
    for lane in range(plan.lanes):
        np.testing.assert_array_equal(run(plan, lane), values(schedule, lane))


@given(predicted_schedules())
def test_lanes_that_were_swapped_or_lost_do_not_pass(schedule: CacheSchedule) -> None:
    plan = plan_of(PROGRAM, schedule)
    swapped = tuple(rows[::-1] for rows in plan.coefficients)
    lost = tuple(rows[:1] for rows in plan.coefficients)
    for rows in (swapped, lost):
        same = rows == plan.coefficients or not any(map(any, plan.coefficients))
        with nullcontext() if same else pytest.raises(PlanError, match="lane"):
            verify(replace(plan, coefficients=rows), PROGRAM, schedule)


def test_lanes_cost_no_arithmetic_no_bytes_and_no_steps() -> None:
    schedule = corrected(EveryN(3).schedule(STEPS, PROGRAM.branch_names), Goc(0.8, None))
    assert schedule.predictions is not None
    both = np.stack([schedule.predictions.coefficients[0] * factor for factor in (1.0, 0.5)])
    two = replace(schedule, predictions=replace(schedule.predictions, coefficients=both))
    plans = [plan_of(PROGRAM, one) for one in (schedule, two)]
    assert plans[0].steps == plans[1].steps
    assert cost(PROGRAM, plans[0]) == cost(PROGRAM, plans[1])


@given(predicted_schedules())
def test_passes_keep_a_predicted_plan_valid(schedule: CacheSchedule) -> None:
    plan = fuse_reuse_runs(hoist_conditioning(plan_of(PROGRAM, schedule), PROGRAM))
    verify(plan, PROGRAM, schedule)


@given(predicted_schedules(), st.data())
def test_no_edit_of_a_prediction_passes(schedule: CacheSchedule, data: st.DataObject) -> None:
    plan = plan_of(PROGRAM, schedule)
    places = [
        (s, i) for s in range(STEPS) for i, op in enumerate(plan.at(s)) if isinstance(op, Predict)
    ]
    if not places:
        return
    s, i = data.draw(st.sampled_from(places))
    op = plan.at(s)[i]
    assert isinstance(op, Predict)
    edited = data.draw(
        st.sampled_from(
            [
                replace(op, slots=op.slots[:-1]),
                replace(op, slots=(*op.slots[:-1], op.slots[-1] + 1)),
                replace(op, at=op.at + 1),
                replace(op, at=-1),
                replace(op, has_operand=True),
                Reuse(op.branch, op.slots[0]),
            ]
        )
    )
    steps = (*plan.steps, (*plan.at(s)[:i], edited, *plan.at(s)[i + 1 :]))
    order = (*plan.order[:s], len(plan.steps), *plan.order[s + 1 :])
    changed = replace(plan, steps=steps, order=order)
    try:
        verify(changed, PROGRAM, schedule)
    except PlanError:
        return
    np.testing.assert_array_equal(run(changed), values(schedule))


def test_a_prediction_whose_store_is_lost_is_found_where_it_is_read() -> None:
    schedule = corrected(EveryN(4).schedule(9, PROGRAM.branch_names), Goc(0.8, None))
    plan = plan_of(PROGRAM, schedule)
    s = next(
        s
        for s in range(9)
        if any(isinstance(op, Predict) and op.store is not None for op in plan.at(s))
    )
    lost = tuple(replace(op, store=None) if isinstance(op, Predict) else op for op in plan.at(s))
    order = (*plan.order[:s], len(plan.steps), *plan.order[s + 1 :])
    with pytest.raises(PlanError, match="evaluation"):
        verify(replace(plan, steps=(*plan.steps, lost), order=order), PROGRAM, schedule)


@pytest.mark.parametrize(("order", "slots"), [(1, 2), (2, 3), (4, 5)])
def test_a_taylor_prediction_keeps_one_output_more_than_its_order(order: int, slots: int) -> None:
    schedule = corrected(EveryN(4).schedule(50, PROGRAM.branch_names), Taylor(order))
    plan = plan_of(PROGRAM, schedule)
    assert plan.num_slots == slots * BRANCHES
    # A full step for each slot that it writes to and one that writes none, and the predictions by
    # the number of outputs that they read.
    assert len(plan.steps) <= 2 * slots + 2
    most = max(len(op.slots) for step in plan.steps for op in step if isinstance(op, Predict))
    assert most == slots


def test_evaluations_that_differ_in_coefficients_alone_share_a_step() -> None:
    schedule = corrected(EveryN(5).schedule(21, PROGRAM.branch_names), Taylor(1))
    plan = plan_of(PROGRAM, schedule)
    predicted = [s for s in range(21) if any(isinstance(op, Predict) for op in plan.at(s))]
    assert len({plan.order[s] for s in predicted}) == 1
    assert len({plan.coefficients[s] for s in predicted}) > 1


def test_iterated_branches_are_not_predicted() -> None:
    nodes = tuple(
        replace(node, iterations=(2,)) if node.name == "mlp-0" else node for node in PROGRAM.nodes
    )
    program = replace(PROGRAM, nodes=nodes)
    schedule = corrected(EveryN(2).schedule(6, program.branch_names), Taylor(1))
    from l2c_rt.plan.prepare import prepare

    with pytest.raises(ValueError, match="mlp-0 is iterated"):
        prepare(program, schedule, lambda plan, program: plan)


@given(predicted_schedules())
def test_an_evaluation_done_twice_gives_the_same(schedule: CacheSchedule) -> None:
    """As it is where a graph is captured: no prediction is made in a slot that it reads."""
    plan = plan_of(PROGRAM, schedule)
    for step in plan.steps:
        for op in step:
            assert not isinstance(op, Predict) or op.store not in op.slots
