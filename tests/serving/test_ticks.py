"""The choice of a tick's batch, over random kinds and arrivals."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from l2c_rt.serving.ticks import choose, longest_wait, reach_of


@dataclass(eq=False)
class Run:
    """A request of a made-up engine: the kinds of its evaluations, and the ticks they were done."""

    kinds: list[int]
    since: int
    ticks: list[int] = field(default_factory=list)

    @property
    def kind(self) -> int:
        return self.kinds[len(self.ticks)]

    @property
    def remaining(self) -> int:
        return len(self.kinds) - len(self.ticks)

    @property
    def done(self) -> bool:
        return len(self.ticks) == len(self.kinds)


@dataclass(frozen=True)
class Case:
    kinds: list[int]
    arrivals: list[int]
    max_batch: int
    max_running: int
    max_age: int
    reach: int


cases = st.builds(
    Case,
    kinds=st.lists(st.integers(0, 4), min_size=1, max_size=8),
    arrivals=st.lists(st.integers(0, 40), min_size=1, max_size=25),
    max_batch=st.integers(1, 5),
    max_running=st.integers(1, 12),
    max_age=st.integers(1, 10),
    reach=st.integers(0, 3),
)


def served(case: Case) -> tuple[list[Run], list[list[Run]], int]:
    """All requests, the batches by tick, and the longest wait of one that had begun."""
    waiting, running, ended = sorted(case.arrivals), [], []
    batches: list[list[Run]] = []
    tick, longest = 0, 0
    while waiting or running:
        while waiting and waiting[0] <= tick and len(running) < case.max_running:
            waiting.pop(0)
            running.append(Run(case.kinds, tick))
        batch = list(choose(running, tick, case.max_batch, case.max_age, case.reach))
        assert batch or not running
        assert len({run.kind for run in batch}) <= 1
        batches.append(batch)
        for run in batch:
            longest = max(longest, tick - run.since)
            run.ticks.append(tick)
            run.since = tick + 1
        ended += [run for run in running if run.done]
        running = [run for run in running if not run.done]
        tick += 1
        assert tick < 10_000, "starved"
    return ended, batches, longest


@given(cases)
def test_every_request_gets_all_its_evaluations_one_after_another(case: Case) -> None:
    ended, _, _ = served(case)
    assert len(ended) == len(case.arrivals)
    for run in ended:
        assert run.ticks == sorted(set(run.ticks))
        assert len(run.ticks) == len(case.kinds)


@given(cases)
def test_no_batch_is_above_the_limit_or_names_a_request_twice(case: Case) -> None:
    for batch in served(case)[1]:
        assert len(batch) <= case.max_batch
        assert len({id(run) for run in batch}) == len(batch)


@given(cases)
def test_no_request_waits_longer_than_the_bound(case: Case) -> None:
    assert served(case)[2] <= longest_wait(case.max_age, case.max_running)


def test_the_fullest_kind_goes_first_and_of_equals_that_of_the_first_arrival() -> None:
    runs = [Run([0], 3), Run([1], 3), Run([1], 2), Run([2], 1), Run([2], 3)]
    assert choose(runs, 4, max_batch=8, max_age=9, reach=0) == (runs[1], runs[2])
    assert choose(runs, 4, max_batch=1, max_age=9, reach=0) == (runs[1],)
    assert choose([*runs, Run([2], 4)], 4, max_batch=8, max_age=9, reach=0)[0] is runs[3]


def test_of_equally_full_kinds_the_one_nearer_its_end_goes_first() -> None:
    early, late = Run([0, 1], 2), Run([0, 1], 3, [1])
    assert choose([early, late], 4, max_batch=8, max_age=9, reach=0) == (late,)


def test_who_is_a_little_behind_a_batch_with_room_catches_up_with_it() -> None:
    ahead, behind = Run([0, 1, 2, 3], 3, [1, 2]), Run([0, 1, 2, 3], 3)
    for reach, first in ((0, ahead), (1, ahead), (2, behind)):
        assert choose([ahead, behind], 4, max_batch=2, max_age=9, reach=reach) == (first,)
    # It would find no place in a full batch.
    assert choose([ahead, behind], 4, max_batch=1, max_age=9, reach=2) == (ahead,)


def test_a_request_that_has_waited_long_enough_goes_before_fuller_batches() -> None:
    runs = [Run([0], 4), Run([1], 4), Run([1], 4), Run([0], 0)]
    runs.append(Run([1], 4))
    assert choose(runs, 4, max_batch=8, max_age=5, reach=0) == (runs[1], runs[2], runs[4])
    assert choose(runs, 5, max_batch=8, max_age=5, reach=0) == (runs[3], runs[0])
    assert choose(runs, 5, max_batch=1, max_age=5, reach=0) == (runs[3],)


def test_a_tenth_of_a_run_is_little() -> None:
    assert [reach_of(evaluations) for evaluations in (1, 10, 11, 50, 250)] == [1, 1, 2, 5, 25]
