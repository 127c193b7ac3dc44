"""Two calls timed in turn, and the ratio that is told of them."""

from __future__ import annotations

from l2c_rt.measure.interleaved import Timings, measure


def test_bench_runs_full_cached_cached_full() -> None:
    order: list[str] = []
    measured = measure(lambda: order.append("f"), lambda: order.append("c"), rounds=2)
    assert "".join(order) == "fc" + "fccf" * 2
    assert len(measured.full) == len(measured.cached) == 4


def test_the_speedup_is_the_median_over_rounds() -> None:
    measured = Timings(full=(1, 3, 10, 10, 4, 4), cached=(1, 1, 4, 4, 1, 1))
    assert measured.ratios == (2, 2.5, 4)
    assert measured.speedup == 2.5
