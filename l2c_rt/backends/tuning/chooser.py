"""Choosing by measurement, once per machine and problem, and remembering it between runs.

A choice only ever changes how fast a result comes and how it is rounded: what is chosen is one of
the candidates for that very problem, wherever it was read from.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from l2c_rt.backends.tuning.cache_file import Choices, Problem, read_choices, write_choices
from l2c_rt.backends.tuning.problems import AttentionConfig, LinearConfig
from l2c_rt.measure.interleaved import there_and_back

MARGIN = 0.02
"""By how much a candidate must beat the default; less may be noise."""

Call = Callable[[], None]
Measure = Callable[[Call], float]
C = TypeVar("C", LinearConfig, AttentionConfig)


class WrongResult(Exception):
    """A candidate computed something else than the default did."""


class CaptureInProgress(RuntimeError):
    """Timing was asked for while a graph was being captured, which would end that capture."""


class Chooser:
    """Finds the fastest candidate for each problem; without `measure` it only looks up.

    `machine` is the key of what times depend on.  `path` None keeps nothing between runs.  In each
    of the `rounds` every candidate is timed once, and its least time counts: where other programs
    run, a busy moment then hits all of them or is outlived.
    `notes` says what went wrong with the file or a whole problem, `skipped` which candidates did
    not run and why, `measured` how many did, `seconds` what all that took.
    """

    def __init__(
        self, machine: str, path: Path | None, measure: Measure | None, *, rounds: int = 1
    ) -> None:
        self.machine, self.path, self.rounds = machine, path, rounds
        self.notes: list[str] = []
        self.skipped: list[str] = []
        self.measured = 0
        self.seconds = 0.0
        self._measure = measure
        self._known: Choices | None = None
        self._fresh: Choices = {}
        # Two at a time would time each other.
        self._lock = threading.RLock()

    def choose(
        self,
        problem: Problem,
        allowed: tuple[C, ...],
        make: Callable[[C], Call],
        check: Callable[[C], bool | None] | None = None,
    ) -> C:
        """The fastest of the `allowed` candidates, whose first is the default.

        `make` builds a call on real buffers.  `check` says whether a candidate computes the right
        thing (False refuses it); `make` may raise WrongResult instead.
        """
        with self._lock:
            kept = self._kept().get(problem)
            for choice in allowed:
                if choice == kept:
                    return choice
            if self._measure is None:
                return allowed[0]
            begun = time.perf_counter()
            try:
                winner = self._fastest(problem, allowed, make, check)
            finally:
                self.seconds += time.perf_counter() - begun
            return winner

    def failures(self) -> tuple[type[Exception], ...]:
        """What a candidate may raise that does not fit the problem or the device."""
        return (RuntimeError, ValueError, WrongResult)

    def _fastest(
        self,
        problem: Problem,
        allowed: tuple[C, ...],
        make: Callable[[C], Call],
        check: Callable[[C], bool | None] | None,
    ) -> C:
        default, times = allowed[0], self._times(problem, allowed, make, check)
        if not times:
            self.notes.append(f"{problem}: no candidate ran; {default} stays, unmeasured")
            # Not tried again, nor told to other runs, where it may work.
            self._kept()[problem] = default
            return default
        best = min(times, key=lambda choice: times[choice])
        if default in times and times[best] >= (1 - MARGIN) * times[default]:
            best = default
        self._keep(problem, best)
        return best

    def _times(
        self,
        problem: Problem,
        allowed: tuple[C, ...],
        make: Callable[[C], Call],
        check: Callable[[C], bool | None] | None,
    ) -> dict[C, float]:
        """Seconds of each candidate that runs, in their order."""
        times, calls = dict.fromkeys(allowed, math.inf), dict[C, Call]()
        for order in there_and_back(allowed, self.rounds):
            for choice in order:
                if choice not in times:
                    continue
                try:
                    call = calls.get(choice) or self._checked(choice, make, check)
                    times[choice] = min(times[choice], self._timed(call))
                except CaptureInProgress:
                    raise
                except self.failures() as error:
                    reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                    self.skipped.append(f"{problem}: {choice}: {reason}")
                    del times[choice]
                    continue
                if self.rounds > 1:
                    # Of a single round each call goes before the next one takes memory.
                    calls[choice] = call
        self.measured += len(times)
        return times

    @staticmethod
    def _checked(
        choice: C, make: Callable[[C], Call], check: Callable[[C], bool | None] | None
    ) -> Call:
        call = make(choice)
        if check is not None and check(choice) is False:
            raise WrongResult("not what the default computes")
        return call

    def _timed(self, call: Call) -> float:
        assert self._measure is not None
        seconds = self._measure(call)
        if not math.isfinite(seconds) or seconds <= 0:
            raise ValueError(f"measured {seconds} s")
        return seconds

    def _kept(self) -> Choices:
        if self._known is None:
            self._known = {}
            if self.path is not None:
                try:
                    self._known = read_choices(self.path, self.machine)
                except (OSError, ValueError) as error:
                    self.notes.append(f"what was tuned before is ignored: {error}")
        return self._known

    def _keep(self, problem: Problem, choice: LinearConfig | AttentionConfig) -> None:
        self._kept()[problem] = self._fresh[problem] = choice
        if self.path is None:
            return
        try:
            write_choices(self.path, self.machine, self._fresh)
        except (OSError, ValueError) as error:
            self.notes.append(f"what was tuned is not kept: {error}")
            self.path = None
