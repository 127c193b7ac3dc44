"""Programs timed in turn: their order, their ratios, how many rounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from l2c_rt.measure.interleaved import (
    ratios,
    rounds_within,
    side_by_side,
    spread,
    there_and_back,
)


class FakeClock:
    """Time passes only by `spend`."""

    def __init__(self) -> None:
        self.time = 0.0

    def spend(self, seconds: float) -> None:
        self.time += seconds

    def __call__(self, run: Callable[[], object]) -> float:
        before = self.time
        run()
        return self.time - before


def test_programs_are_timed_forwards_and_backwards() -> None:
    clock, order, advanced = FakeClock(), [], []

    def program(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            clock.spend(seconds)

        return run

    programs = {"a": program("a", 1.0), "b": program("b", 2.0)}
    samples = side_by_side(programs, clock, 2, lambda: advanced.append(1))
    assert "".join(order) == "abbaabba"
    assert samples == {"a": [1.0] * 4, "b": [2.0] * 4}
    assert len(advanced) == 8


def test_passes_go_there_and_back() -> None:
    assert list(there_and_back("abc", 3)) == [list("abc"), list("cba"), list("abc")]


def test_a_steady_drift_cancels_in_the_ratio_of_a_round() -> None:
    # A B B A on a machine that slows down by 1 at every run; B takes as long as A.
    assert ratios([1.0, 4.0], [2.0, 3.0]) == [1.0]
    assert ratios([1, 3, 10, 10], [1, 1, 4, 4]) == [2, 2.5]


@pytest.mark.parametrize(("slowest", "rounds"), [(1e-6, 7), (0.5, 2), (100.0, 1)])
def test_rounds_fill_the_time_within_their_limits(slowest: float, rounds: int) -> None:
    assert rounds_within(2.0, slowest, least=1, most=7) == rounds


def test_the_spread_is_the_median_with_quartiles() -> None:
    found = spread([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)
    assert spread([5.0]).low == spread([5.0]).high == 5.0
