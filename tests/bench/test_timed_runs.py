"""How the CPU benchmarks time a run beside another."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from timed_runs import paired


class FakeBenchmark:
    """What pytest-benchmark's `pedantic` does, without a clock: every run takes two seconds."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(
        self, run: Callable[[], object], setup: Callable[[], None], rounds: int, iterations: int
    ) -> None:
        for _ in range(rounds):
            setup()
            run()
            self.stats.stats.data.append(2.0)


def test_two_programs_are_run_a_b_b_a_after_warm_up() -> None:
    order: list[str] = []
    benchmark = FakeBenchmark()
    found = paired(benchmark, lambda: order.append("b"), lambda: order.append("a"), rounds=2)
    assert "".join(order) == "ba" + "abba" * 2
    others = benchmark.extra_info["against_seconds"]
    assert found == [(others[0] + others[1]) / 4, (others[2] + others[3]) / 4]
