"""What holds for every policy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import schedules

from l2c_rt.policies import EveryN, Full, NoisiestFirst, Policy, Random
from l2c_rt.schedule.cache_schedule import CacheSchedule, default_branches

BRANCHES = default_branches(8)
policies = st.one_of(
    st.just(Full()),
    st.builds(EveryN, st.integers(1, 12)),
    st.builds(Random, st.floats(0, 1), st.integers(0, 99)),
    st.builds(NoisiestFirst, st.floats(0, 1)),
)


def full_steps(schedule: CacheSchedule) -> list[int]:
    return np.flatnonzero(schedule.compute.all(axis=1)).tolist()


def reused_steps(schedule: CacheSchedule) -> list[int]:
    return np.flatnonzero(~schedule.compute.any(axis=1)).tolist()


@given(policy=policies, steps=st.integers(1, 30))
def test_every_policy_makes_a_schedule_of_the_run(policy: Policy, steps: int):
    schedule = policy.schedule(steps, BRANCHES)
    assert (schedule.steps, schedule.branches) == (steps, BRANCHES)
    assert schedule == policy.schedule(steps, BRANCHES)
    assert schedule.source


@given(schedule=schedules(), seed=st.integers(0, 9))
def test_controls_compute_exactly_as_much_as_the_schedule(schedule, seed):
    controls = [
        Random.like(schedule, seed),
        NoisiestFirst.like(schedule),
        EveryN.like(schedule),
    ]
    for control in controls:
        assert control.compute.sum() == schedule.compute.sum()
        assert control.compute[0].all()
        assert control.branches == schedule.branches
        assert (control.family, control.calls_per_step) == (
            schedule.family,
            schedule.calls_per_step,
        )
        assert control.timesteps == schedule.timesteps
        assert control.threshold is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EveryN(0), "n is 0, wanted an int of at least 1"),
        (lambda: EveryN(2.5), r"n is 2\.5"),
        (lambda: Random(1.5, 0), r"Random: reuse is 1\.5"),
        (lambda: Random(float("nan"), 0), "Random: reuse is nan"),
        (lambda: NoisiestFirst(-1), "NoisiestFirst: reuse is -1"),
        (lambda: Random(0.5, 0, (0, 1)).schedule(4, BRANCHES), r"evaluations are \(0, 1\)"),
        (lambda: Random(0.5, 0, (1, 4)).schedule(4, BRANCHES), r"wanted different ones in 1\.\.3"),
        (lambda: NoisiestFirst(0.5, (1, 1)).schedule(4, BRANCHES), r"evaluations are \(1, 1\)"),
        (lambda: Full().schedule(0, BRANCHES), "0 steps"),
        (lambda: Full().schedule(1 << 40, BRANCHES), "1099511627776 steps"),
        (lambda: Full().schedule(4, ()), "0 branches"),
    ],
)
def test_bad_policies_are_rejected_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
