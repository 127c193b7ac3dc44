"""Programs with long skips, and schedules for them whose rows come again."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from random_programs import odd_programs, predicted, skip_program

from l2c_rt.plan.delta import why_no_delta_form
from l2c_rt.plan.ops import Plan
from l2c_rt.plan.prepare import plan_of
from l2c_rt.plan.program import BlockProgram
from l2c_rt.schedule.cache_schedule import CacheSchedule

PROGRAM = skip_program(2)
"""Ten branches in five blocks, two long skips."""

uvits = st.one_of(
    st.builds(skip_program, st.integers(1, 3), st.integers(0, 2)),
    odd_programs().filter(lambda program: not why_no_delta_form(program)),
)


@st.composite
def planned(draw: st.DrawFn) -> tuple[BlockProgram, CacheSchedule, Plan]:
    """A program, a schedule for it, and its plan in the ordinary form."""
    program = draw(uvits)
    names = program.branch_names
    share = draw(st.sampled_from([0.5, 0.8, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 9_999)))
    rows = [np.ones(len(names), dtype=bool)]
    rows += [random.random(len(names)) >= share for _ in range(draw(st.integers(1, 3)))]
    order = draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    schedule = CacheSchedule(np.array([rows[i] for i in (0, *order)]), names)
    if draw(st.booleans()):
        schedule = draw(predicted(schedule))
    return program, schedule, plan_of(program, schedule)


def table(*rows: str) -> np.ndarray[Any, Any]:
    """ "#" for computed."""
    return np.array([[cell == "#" for cell in row] for row in rows])
