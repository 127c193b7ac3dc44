"""The setting of a method whose compute is nearest to a share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import random_schedule

from l2c_rt.comparison.knobs import Knob, as_given, knob_of, nearest
from l2c_rt.policies import DeepCache, EveryN, Random
from l2c_rt.schedule.cache_schedule import CacheSchedule


def knob(*start: float) -> Knob:
    return Knob(lambda value: value, start, str)


@given(st.floats(0.05, 0.95), st.floats(0.5, 4))
def test_a_range_is_halved_to_the_share_whichever_way_it_runs(share: float, power: float) -> None:
    for shares in (lambda v: v**power, lambda v: 1 - v**power):
        known: dict[float, float] = {}
        value = nearest(knob(0.0, 1.0), share, known, shares, most=14)
        assert abs(shares(value) - share) < 0.02 * power
        assert len(known) <= 16


@given(st.lists(st.integers(1, 99), min_size=1, max_size=9), st.floats(0, 1))
def test_of_a_list_the_nearest_is_taken(shares: list[int], share: float) -> None:
    known: dict[float, float] = {}
    of_list = Knob(lambda k: shares[int(k)] / 100, tuple(range(len(shares))), str)
    value = nearest(of_list, share, known, lambda k: shares[int(k)] / 100, most=14)
    assert abs(known[value] - share) == min(abs(s / 100 - share) for s in shares)
    assert known.keys() == set(range(len(shares)))


def test_whole_values_stay_whole_and_known_ones_are_not_measured_again() -> None:
    measured: list[float] = []

    def share_of(n: float) -> float:
        measured.append(n)
        return 1 / n

    known: dict[float, float] = {}
    assert nearest(knob(1, 64), 0.21, known, share_of, most=14) == 5
    assert all(isinstance(n, int) for n in measured)
    count = len(measured)
    assert nearest(knob(1, 64), 0.21, known, share_of, most=14) == 5
    assert len(measured) == count == len(set(measured))


def test_the_full_run_is_no_setting_unless_there_is_no_other() -> None:
    assert nearest(knob(1, 64), 0.9, {}, lambda n: 1 / n, most=14) == 2
    assert nearest(knob(0), 0.5, {}, lambda _: 1.0, most=14) == 0


@dataclass(frozen=True)
class Declaring:
    """A method that names its knob."""

    threshold: float = 0.1
    n: int = 3

    knob = ("threshold", 0.01, 1.0)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        return random_schedule(steps, len(branches))


def test_a_method_names_its_knob_or_has_a_well_known_one() -> None:
    own = knob_of(Declaring())
    assert (own.start, own.at(0.2), own.label(0.2)) == (
        (0.01, 1.0), replace(Declaring(), threshold=0.2), "threshold=0.2",
    )  # fmt: skip
    assert own.between(0.01, 1.0) == pytest.approx(0.1)
    assert knob_of(EveryN(5)).at(2) == EveryN(2)
    assert knob_of(DeepCache(3, branch=1)).at(2) == DeepCache(2, branch=1)
    assert knob_of(Random(0.5, 7)).at(0.25) == Random(0.25, 7)


def test_a_schedule_has_one_setting_and_so_has_what_is_run_as_given() -> None:
    schedule = random_schedule(4, 6)
    assert knob_of(schedule).start == (0,)
    assert knob_of(schedule).at(0) is schedule
    assert as_given(EveryN(5)).at(0) == EveryN(5)
    assert [as_given([EveryN(2), EveryN(3)]).at(k) for k in (0, 1)] == [EveryN(2), EveryN(3)]


def test_of_a_list_each_setting_is_named_by_what_is_not_its_default() -> None:
    knob = as_given([Declaring(n=4), Declaring(), EveryN(2)])
    assert [*map(knob.label, knob.start)] == ["Declaring(n=4)", "Declaring()", "EveryN(n=2)"]
