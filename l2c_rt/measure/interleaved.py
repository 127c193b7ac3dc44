"""Timing programs side by side, A B B A, so that a drift of the machine cancels in their ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TypeVar

from l2c_rt.measure.clocks import Clock, Run

Samples = dict[str, list[float]]
"""Seconds of every timed run, by program, in the order in which they were taken."""

T = TypeVar("T")


def there_and_back(items: Iterable[T], passes: int) -> Iterator[list[T]]:
    """The order of each pass: forwards, backwards, forwards, ..."""
    forwards = list(items)
    for number in range(passes):
        yield forwards[::-1] if number % 2 else forwards


def side_by_side(
    programs: Mapping[str, Run],
    clock: Clock,
    rounds: int,
    advance: Callable[[], object] = lambda: None,
) -> Samples:
    """Time every program twice a round: A B B A for two.  They must have been warmed up.

    `advance` is called after every run.
    """
    samples: Samples = {name: [] for name in programs}
    for names in there_and_back(programs, 2 * rounds):
        for name in names:
            samples[name].append(clock(programs[name]))
            advance()
    return samples


def rounds_within(seconds: float, slowest: float, *, least: int = 2, most: int = 20) -> int:
    """Rounds of two runs each that fit into about `seconds`, one run taking `slowest` seconds."""
    return max(least, min(most, int(seconds / (2 * max(slowest, 1e-9)))))


def ratios(slower: Sequence[float], faster: Sequence[float]) -> list[float]:
    """How many times as fast the second is, one ratio per round of two samples each."""
    pairs = zip(_round_sums(slower), _round_sums(faster), strict=True)
    return [a / b for a, b in pairs]


def _round_sums(samples: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(samples[::2], samples[1::2], strict=True)]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """Median and quartiles; of a single sample it is all three."""
    several = list(samples) * (1 if len(samples) > 1 else 2)
    low, middle, high = quantiles(several, n=4, method="inclusive")
    return Spread(middle, low, high)
