"""Policies of fixed form: Full and EveryN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from strategies import schedules

from l2c_rt.policies import EveryN, Full
from l2c_rt.schedule.cache_schedule import CacheSchedule, default_branches

BRANCHES = default_branches(8)


def full_steps(schedule: CacheSchedule) -> list[int]:
    return np.flatnonzero(schedule.compute.all(axis=1)).tolist()


def reused_steps(schedule: CacheSchedule) -> list[int]:
    return np.flatnonzero(~schedule.compute.any(axis=1)).tolist()


def test_full_computes_everything():
    assert Full().schedule(3, BRANCHES).reuse_share == 0


@pytest.mark.parametrize(
    ("steps", "n", "expected"),
    [
        (50, 3, [0, *range(1, 50, 3)]),
        (50, 2, [0, *range(1, 50, 2)]),
        (20, 5, [0, 4, 9, 14, 19]),
        (7, 3, [0, 3, 6]),
        (5, 1, [0, 1, 2, 3, 4]),
        (5, 9, [0, 4]),
        (1, 3, [0]),
    ],
)
def test_fora_counts_down(steps, n, expected):
    schedule = EveryN(n).schedule(steps, BRANCHES)
    assert full_steps(schedule) == expected == list(EveryN(n).full_steps(steps))
    assert sorted(full_steps(schedule) + reused_steps(schedule)) == list(range(steps))


def test_fora_with_50_steps_and_n_3_is_full_at_0_1_4_7_to_49():
    assert EveryN(3).full_steps(50)[:5] == (0, 1, 4, 7, 10)
    assert EveryN(3).full_steps(50)[-2:] == (46, 49)


@given(schedule=schedules())
def test_every_n_like_is_full_evaluations_evenly_spread_and_one_partial_row(schedule):
    control = EveryN.like(schedule)
    full, partial = divmod(int(schedule.compute.sum()), schedule.num_branches)
    assert len(full_steps(control)) == full
    gaps = np.diff([*full_steps(control), schedule.steps])
    assert gaps.max() - gaps.min() <= 1
    mixed = set(range(schedule.steps)) - {*full_steps(control), *reused_steps(control)}
    assert len(mixed) == bool(partial)
    for step in mixed:
        assert control.row(step) == (True,) * partial + (False,) * (control.num_branches - partial)
        assert step > max(reused_steps(control), default=0)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_every_n_like_an_every_n_schedule_is_that_schedule(n):
    compute = np.zeros((30, len(BRANCHES)), bool)
    compute[::n] = True
    schedule = CacheSchedule(compute, BRANCHES)
    assert EveryN.like(schedule) == schedule
