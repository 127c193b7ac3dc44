"""Timing the cached run and the full one side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from l2c_rt.measure.machine import Clock, host_seconds


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of every run, two of each kind per round."""

    full: tuple[float, ...]
    cached: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Full over cached time, one per round, so that a drift of the machine cancels."""
        pairs = zip(_in_twos(self.full), _in_twos(self.cached), strict=True)
        return tuple(f / c for f, c in pairs)

    @property
    def speedup(self) -> float:
        return median(self.ratios)

    def facts(self, bound: float) -> dict[str, Any]:
        """Every sample, and the ratio beside its bound."""
        return {
            "full_seconds": self.full,
            "cached_seconds": self.cached,
            "ratios": self.ratios,
            "speedup": self.speedup,
            "bound": bound,
            "share_of_bound": self.speedup / bound,
        }


def measure(
    full: Callable[[], Any], cached: Callable[[], Any], rounds: int, timed: Clock = host_seconds
) -> Timings:
    """Warm both up, then time them; `timed(run)` gives the seconds of one call."""
    from tqdm import tqdm

    seconds: dict[str, list[float]] = {"full": [], "cached": []}
    order = (("full", full), ("cached", cached), ("cached", cached), ("full", full))
    with tqdm(total=2 + 4 * rounds, desc="bench", unit="run") as bar:
        for _, run in order[:2]:
            run()
            bar.update()
        for _ in range(rounds):
            for name, run in order:
                seconds[name].append(timed(run))
                bar.update()
    return Timings(tuple(seconds["full"]), tuple(seconds["cached"]))


def _in_twos(seconds: tuple[float, ...]) -> list[float]:
    return [a + b for a, b in zip(seconds[::2], seconds[1::2], strict=True)]
