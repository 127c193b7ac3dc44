from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import schedules

from l2c_rt.families import cached_evaluations
from l2c_rt.policies import EveryN, Full, NoisiestFirst, Policy, Random
from l2c_rt.policies.router import Router
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


def test_full_computes_everything():
    assert Full().schedule(3, BRANCHES).reuse_share == 0


@pytest.mark.parametrize(
    ("steps", "n", "wanted"),
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
def test_fora_counts_down(steps, n, wanted):
    schedule = EveryN(n).schedule(steps, BRANCHES)
    assert full_steps(schedule) == wanted == list(EveryN(n).full_steps(steps))
    assert sorted(full_steps(schedule) + reused_steps(schedule)) == list(range(steps))


def test_fora_with_50_steps_and_n_3_is_full_at_0_1_4_7_to_49():
    assert EveryN(3).full_steps(50)[:5] == (0, 1, 4, 7, 10)
    assert EveryN(3).full_steps(50)[-2:] == (46, 49)


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
        assert (control.family, control.lanes) == (schedule.family, schedule.lanes)
        assert control.timesteps == schedule.timesteps
        assert control.threshold is None


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
