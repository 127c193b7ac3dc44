"""Choosing by measurement, once per machine and problem, and remembering it between runs.

A choice only ever changes how fast a result comes and how it is rounded: what is chosen is one of
the candidates for that very problem, wherever it was read from.
"""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from l2c_rt.backends.cuda.tuning.cache_file import (
    Choices,
    Problem,
    default_path,
    read_choices,
    write_choices,
)
from l2c_rt.backends.cuda.tuning.candidates import (
    attention_candidates,
    default_attention,
    default_linear,
    linear_candidates,
)
from l2c_rt.backends.cuda.tuning.machine import describe_device, machine_key
from l2c_rt.backends.cuda.tuning.problems import (
    AttentionConfig,
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)
from l2c_rt.backends.cuda.tuning.timer import CaptureInProgress, cuda_measure

__all__ = ["CaptureInProgress", "Tuner", "WrongResult", "cuda_measure", "default_path",
           "describe_device", "machine_key"]  # fmt: skip

MARGIN = 0.02
"""By how much a candidate must beat the default; less may be noise."""

Call = Callable[[], None]
Measure = Callable[[Call], float]
C = TypeVar("C", LinearConfig, AttentionConfig)


class WrongResult(Exception):
    """A candidate computed something else than the default did."""


class Tuner:
    """Finds the fastest candidate for each problem; without `measure` it only looks up.

    `device_name` tells GPUs apart (`describe_device`).  `path` None keeps nothing between runs.
    `device` is "cuda", or "cpu" where kernels.reference stands in.
    `notes` says what went wrong with the file or a whole problem, `skipped` which candidates did
    not run and why, `measured` how many did, `seconds` what all that took.
    """

    def __init__(
        self,
        device_name: str,
        path: Path | None,
        measure: Measure | None,
        *,
        device: str = "cuda",
    ) -> None:
        self.machine = machine_key(device_name)
        self.path, self.device = path, device
        self.notes: list[str] = []
        self.skipped: list[str] = []
        self.measured = 0
        self.seconds = 0.0
        self._measure = measure
        self._known: Choices | None = None
        self._fresh: Choices = {}
        # Two at a time would time each other.
        self._lock = threading.RLock()

    def linear(
        self,
        problem: LinearProblem,
        make: Callable[[LinearConfig], Call],
        check: Callable[[LinearConfig], bool | None] | None = None,
    ) -> LinearConfig:
        """The choice for a linear layer.

        `make` builds a call on real buffers.  For a splittable problem it should include what
        reads the output: adding parts costs that kernel more reads than y would.
        `check` says whether a choice computes the right thing (False refuses it); `make` may raise
        WrongResult instead.
        """
        default = default_linear(problem, self.device)
        return self._choose(problem, default, linear_candidates, make, check)

    def attention(
        self,
        problem: AttentionProblem,
        make: Callable[[AttentionConfig], Call],
        check: Callable[[AttentionConfig], bool | None] | None = None,
    ) -> AttentionConfig:
        """The choice for an attention; `make` and `check` as for `linear`."""
        default = default_attention(problem, self.device)
        return self._choose(problem, default, attention_candidates, make, check)

    def _choose(
        self,
        problem: Problem,
        default: C,
        candidates: Callable[..., tuple[C, ...]],
        make: Callable[[C], Call],
        check: Callable[[C], bool | None] | None,
    ) -> C:
        with self._lock:
            allowed = candidates(problem, self.device)
            kept = self._kept().get(problem)
            for choice in allowed:
                if choice == kept:
                    return choice
            if self._measure is None:
                return default
            begun = time.perf_counter()
            try:
                # PyTorch warns of every reason why an attention of its own does not take a shape.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    winner = self._fastest(problem, default, allowed, make, check)
            finally:
                self.seconds += time.perf_counter() - begun
            return winner

    def _fastest(
        self,
        problem: Problem,
        default: C,
        allowed: tuple[C, ...],
        make: Callable[[C], Call],
        check: Callable[[C], bool | None] | None,
    ) -> C:
        times: dict[C, float] = {}
        for choice in allowed:
            try:
                times[choice] = self._timed(choice, make, check)
            except CaptureInProgress:
                raise
            except _failures() as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                self.skipped.append(f"{problem}: {choice}: {reason}")
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

    def _timed(
        self, choice: C, make: Callable[[C], Call], check: Callable[[C], bool | None] | None
    ) -> float:
        assert self._measure is not None
        call = make(choice)
        if check is not None and check(choice) is False:
            raise WrongResult("not what the default computes")
        seconds = self._measure(call)
        if not math.isfinite(seconds) or seconds <= 0:
            raise ValueError(f"measured {seconds} s")
        self.measured += 1
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


def _failures() -> tuple[type[Exception], ...]:
    """What a candidate may raise that does not fit the problem or the GPU."""
    expected = (RuntimeError, ValueError, WrongResult)
    try:
        from triton.errors import TritonError
    except ImportError:
        return expected
    return (*expected, TritonError)
