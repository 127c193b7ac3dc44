"""The controls: Random and NoisiestFirst."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import schedules

from l2c_rt.families import cached_evaluations
from l2c_rt.policies import NoisiestFirst, Random
from l2c_rt.policies.router import Router
from l2c_rt.schedule.cache_schedule import CacheSchedule, default_branches

BRANCHES = default_branches(8)


def full_steps(schedule: CacheSchedule) -> list[int]:
    return np.flatnonzero(schedule.compute.all(axis=1)).tolist()


def reused_steps(schedule: CacheSchedule) -> list[int]:
    return np.flatnonzero(~schedule.compute.any(axis=1)).tolist()


@given(
    reuse=st.floats(0, 1),
    seed=st.integers(0, 1 << 40),
    steps=st.integers(1, 20),
    blocks=st.integers(1, 6),
)
def test_random_reuses_exactly_its_share_of_the_odd_evaluations(reuse, seed, steps, blocks):
    schedule = Random(reuse, seed).schedule(steps, default_branches(2 * blocks))
    odd = list(range(1, steps, 2))
    reused = ~schedule.compute
    assert reused.sum() == reused[odd].sum() == round(reuse * len(odd) * 2 * blocks)


def test_random_depends_on_the_seed_alone():
    first = Random(0.5, 1).schedule(20, BRANCHES)
    assert first == Random(0.5, 1).schedule(20, BRANCHES)
    assert first != Random(0.5, 2).schedule(20, BRANCHES)


def test_random_is_uniform_over_cells():
    reused = np.zeros((5, 8))
    for seed in range(2_000):
        reused += ~Random(0.25, seed, (2, 4)).schedule(5, BRANCHES).compute
    assert not reused[[0, 1, 3]].any()
    # 2,000 draws of share 0.25: standard deviation 0.0097; five of them are allowed.
    assert np.abs(reused[[2, 4]] / 2_000 - 0.25).max() < 0.05


def test_noisiest_first_reuses_whole_evaluations_from_the_noisy_end():
    schedule = NoisiestFirst(0.5).schedule(10, BRANCHES)
    assert reused_steps(schedule) == [1, 3]
    assert schedule.row(5) == (False,) * 4 + (True,) * 4
    assert schedule.compute[7:].all()


def test_noisiest_first_takes_its_evaluations_in_execution_order():
    assert reused_steps(NoisiestFirst(0.5, (6, 2)).schedule(8, BRANCHES)) == [2]


@given(schedule=schedules(), seed=st.integers(0, 9))
def test_controls_reuse_only_where_the_family_may_or_the_schedule_does(schedule, seed):
    does = np.flatnonzero(~schedule.compute.all(axis=1)).tolist()
    allowed = {*cached_evaluations(schedule.steps, schedule.family), *does}
    for control in (Random.like(schedule, seed), NoisiestFirst.like(schedule)):
        assert set(np.flatnonzero(~control.compute.all(axis=1)).tolist()) <= allowed


def test_random_like_a_learned_schedule_is_random_at_its_share():
    logits = np.random.default_rng(0).normal(size=(20, 8))
    logits[[0, 6]] = 9.0
    learned = Router(logits, "dit", 20).schedule(reuse=0.45)
    assert learned.compute[[13, 19]].all()
    assert Random.like(learned, 7) == Random(0.45, 7).schedule(20, learned.branches)
    assert NoisiestFirst.like(learned) == NoisiestFirst(0.45).schedule(20, learned.branches)


def test_like_keeps_to_the_evaluations_it_is_given():
    schedule = NoisiestFirst(0.25).schedule(9, BRANCHES)
    assert reused_steps(NoisiestFirst.like(schedule, (5, 7))) == [5]
    given_rows = ~Random.like(schedule, 0, (5, 7)).compute
    assert given_rows.sum() == given_rows[[5, 7]].sum() == 8
    with pytest.raises(ValueError, match=r"reuses 8 branches, but evaluations \(\) have only 0"):
        Random.like(schedule, 0, ())
