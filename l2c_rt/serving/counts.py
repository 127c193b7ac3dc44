"""What an engine has done so far; standard library only."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Outcome = Literal["finished", "failed", "cancelled", "expired"]
OUTCOMES: tuple[Outcome, ...] = ("finished", "failed", "cancelled", "expired")

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TICKS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(slots=True)
class Histogram:
    """How many values were at most each of `bounds`, or above them all; their sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def copy(self) -> Histogram:
        return Histogram(self.bounds, list(self.counts), self.total)


@dataclass(frozen=True, slots=True)
class ResultStats:
    """Of a cache of results: `hits` were served from it, `misses` and `refreshes` computed.

    `replaced` entries were beyond the bound at a refresh, `evicted` ones made room.  The errors are
    those found by refreshes, |difference| / |latents|: of their mean, and the largest.
    """

    hits: int = 0
    misses: int = 0
    refreshes: int = 0
    replaced: int = 0
    evicted: int = 0
    entries: int = 0
    nbytes: int = 0
    mean_error: float = 0.0
    largest_error: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts since the engine was made; `waiting` and `running` are those of now.

    submitted = finished + failed + cancelled + expired + waiting + running; `refused` were not
    taken on.  `evaluations` [ticks by size of the batch], `branches` and `reused` are counted per
    request; `kinds` are evaluations by kind; `graphs` were captured of the current weights, and
    launched for `replays` ticks.  Times in seconds, `tick_waits` in ticks.
    """

    submitted: int
    refused: int
    outcomes: dict[Outcome, int]
    waiting: int
    running: int
    ticks: int
    batch_sizes: dict[int, int]
    kinds: dict[int, int]
    branches: int
    reused: float
    longest_wait_ticks: int
    begin_seconds: Histogram
    total_seconds: Histogram
    tick_waits: Histogram
    nbytes: int
    results: ResultStats
    graphs: int
    replays: int

    @property
    def evaluations(self) -> int:
        """Evaluations of single requests."""
        return sum(size * count for size, count in self.batch_sizes.items())

    @property
    def reuse_share(self) -> float:
        """The share of branch calls that were reused or predicted."""
        return self.reused / self.branches if self.branches else 0.0


class Tick(NamedTuple):
    """A batch: its kind, branch calls of one request and how many of them were reused, and for how
    many ticks each request had waited."""

    kind: int
    branches: int
    reused: float
    waits: tuple[int, ...]


NOTED = 64
"""Ticks that are counted at once: one by one they would delay each tick."""


class Counts:
    """The same while it grows.  `lock` is held by who writes or reads it, other than by `note`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.submitted = self.refused = self.ticks = self.branches = 0
        self.reused = 0.0
        self.longest_wait_ticks = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.batch_sizes: Counter[int] = Counter()
        self.kinds: Counter[int] = Counter()
        self.begin_seconds, self.total_seconds = Histogram(SECONDS), Histogram(SECONDS)
        self.tick_waits = Histogram(TICKS)
        self._noted: deque[Tick] = deque()

    def note(self, tick: Tick) -> None:
        """One more tick; for the thread that does them."""
        self._noted.append(tick)
        if len(self._noted) >= NOTED:
            with self.lock:
                self._count_noted()

    def _count_noted(self) -> None:
        while self._noted:
            tick = self._noted.popleft()
            size = len(tick.waits)
            self.ticks += 1
            self.batch_sizes[size] += 1
            self.kinds[tick.kind] += size
            self.branches += tick.branches * size
            self.reused += tick.reused * size
            for wait in tick.waits:
                self.tick_waits.add(wait)
            self.longest_wait_ticks = max(self.longest_wait_ticks, *tick.waits)

    def stats(
        self,
        *,
        waiting: int,
        running: int,
        nbytes: int,
        results: ResultStats,
        graphs: tuple[int, int],
    ) -> EngineStats:
        """A copy, which stays as it is."""
        self._count_noted()
        return EngineStats(
            self.submitted, self.refused, {name: self.outcomes[name] for name in OUTCOMES},
            waiting, running, self.ticks, dict(self.batch_sizes), dict(self.kinds),
            self.branches, self.reused, self.longest_wait_ticks, self.begin_seconds.copy(),
            self.total_seconds.copy(), self.tick_waits.copy(), nbytes, results, *graphs,
        )  # fmt: skip

    @property
    def unfinished(self) -> int:
        return self.submitted - sum(self.outcomes.values())
