"""Times of distinct steps and of whole runs, and the speed-up that follows from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2c_rt.runtime.run_counts import KEPT_SAMPLES, RunCounts


def test_the_speed_up_is_that_of_the_medians_weighted_by_the_plans_order() -> None:
    counts = RunCounts()
    for seconds in (4.0, 4.0, 90.0):
        counts.add_time("shape", 0, seconds)
    for seconds in (1.0, 2.0, 30.0):
        counts.add_time("shape", 1, seconds)
    assert counts.seconds_per_variant() == {0: 4.0, 1: 2.0}
    assert counts.speedup((0, 1, 1, 1), full_variant=0) == 4 * 4.0 / (4.0 + 3 * 2.0)


def test_before_every_distinct_step_was_timed_there_is_no_speed_up() -> None:
    counts = RunCounts()
    assert counts.speedup((0, 1), 0) is None
    counts.add_time("shape", 0, 1.0)
    assert counts.speedup((0, 1), 0) is None


def test_whole_runs_give_a_speed_up_of_their_own() -> None:
    counts = RunCounts()
    counts.add_whole_run(4, [])
    assert counts.speedup((0, 1, 0, 1), 0) is None
    counts.add_whole_run(4, [(1.0, 2.0), (1.0, 4.0), (1.0, 8.0)])
    assert (counts.calls, counts.completed) == (8, 2)
    assert counts.speedup((0, 1, 0, 1), 0) == 1.0


def test_only_the_last_input_shape_counts() -> None:
    counts = RunCounts()
    counts.add_time("small", 0, 1.0)
    counts.add_time("large", 1, 5.0)
    assert counts.seconds_per_variant() == {1: 5.0}
    assert list(counts.times) == ["large"]


@given(st.integers(1, 3 * KEPT_SAMPLES))
def test_only_the_last_samples_are_kept(count: int) -> None:
    counts = RunCounts()
    for k in range(count):
        counts.add_time("shape", 0, float(k))
        counts.add_whole_run(1, [(float(k), 1.0)])
    last = [float(k) for k in range(count)][-KEPT_SAMPLES:]
    assert counts.times["shape"][0] == last
    assert counts.ratios == last
    assert counts.seconds_per_variant()[0] == pytest.approx((last[0] + last[-1]) / 2)
