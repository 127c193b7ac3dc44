"""Which evaluation is this?  Counting calls, and checking the count against the timesteps.

Pure Python.  A run is S evaluations, each called once per lane.  State that survives an abandoned
run is the commonest bug of caching libraries; here a rising timestep starts a new run, and
whatever cannot be told apart raises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from l2c_rt.runtime.run_counts import RunCounts
from l2c_rt.sampling.solvers import SOLVERS

STRICTLY_FALLING = tuple(SOLVERS)
"""Samplers whose timesteps fall from evaluation to evaluation."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Where a call belongs.  `first` is set at the first call of a run."""

    step: int
    lane: int
    first: bool


class StepError(ValueError):
    """A call that does not fit the run under way."""


def same_timestep(a: float, b: float) -> bool:
    """Equal up to float32 rounding of the loop that computed it."""
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6)


def _check_loop(steps: int, lanes: int, timesteps: Sequence[float] | None) -> None:
    if isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1:
        raise ValueError(f"calls_per_step: got {lanes!r}, wanted an int of at least 1")
    if timesteps is None:
        return
    if len(timesteps) != steps:
        raise ValueError(
            f"timesteps: got {len(timesteps)}, but the schedule has {steps} evaluations; give one "
            "timestep per evaluation, in execution order"
        )
    if not all(math.isfinite(t) for t in timesteps):
        raise ValueError(f"timesteps: got {tuple(timesteps)}, wanted finite numbers")


class StepClock:
    """Turns calls into (step, lane).

    `timesteps` [S] is checked at every call; without it the first complete run is remembered and
    later ones are checked against it.  Every StepError leaves the clock reset.
    """

    def __init__(
        self,
        steps: int,
        lanes: int = 1,
        timesteps: Sequence[float] | None = None,
        sampler: str = "",
        counts: RunCounts | None = None,
    ) -> None:
        _check_loop(steps, lanes, timesteps)
        self.steps = steps
        self.lanes = lanes
        self.timesteps = None if timesteps is None else tuple(map(float, timesteps))
        self.abandoned = 0
        self.completed = 0
        self._run_counts = counts or RunCounts()
        self._given = timesteps is not None
        self._confirmed = False
        self._falling = sampler in STRICTLY_FALLING
        self._repeats = 0
        self._clear()

    def reset(self, *, forget_timesteps: bool = False) -> None:
        """Forget the run under way; with `forget_timesteps`, also what earlier runs looked like."""
        self._abandon()
        if forget_timesteps and not self._given:
            self.timesteps = None
        self._repeats = 0

    @property
    def given_timesteps(self) -> tuple[float, ...] | None:
        """The timesteps that the loop must have; None where they were learned from a run."""
        return self.timesteps if self._given else None

    @property
    def mid_run(self) -> bool:
        return any(self._counts)

    def tick(
        self,
        t: float | None,
        lane: int | None = None,
        step: int | None = None,
        num_steps: int | None = None,
    ) -> Tick:
        """Place one call.  `t` is None where it cannot be read without waiting for the GPU.

        Raises StepError naming step, expected and got.
        """
        try:
            self._check_arguments(lane, step, num_steps)
            if self.mid_run and self._starts_over(t, lane, step):
                self._abandon()
            return self._place(t, lane, step)
        except StepError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        if self.mid_run:
            self.abandoned += 1
            self._run_counts.abandoned += 1
        self._clear()

    def _clear(self) -> None:
        self._counts = [0] * self.lanes
        self._seen: list[float | None] = []
        self._last: float | None = None
        self._calls = 0

    def _check_arguments(self, lane: int | None, step: int | None, num_steps: int | None) -> None:
        if lane is not None and not 0 <= lane < self.lanes:
            raise StepError(
                f"lane {lane} of {self.lanes}: compile with calls_per_step={lane + 1} to call it"
            )
        if num_steps is not None and num_steps != self.steps:
            raise StepError(
                f"this loop has {num_steps} steps, but the schedule was made for {self.steps}; "
                "use a schedule for this number of steps"
            )

    def _next(self, lane: int | None) -> tuple[int, int]:
        lane = self._calls % self.lanes if lane is None else lane
        return lane, self._counts[lane]

    def _starts_over(self, t: float | None, lane: int | None, step: int | None) -> bool:
        """Whether this call begins a new run although the last one was not finished."""
        lane, k = self._next(lane)
        if step is not None:
            return step == 0 and k > 0
        if t is None or self._last is None:
            return False
        if k < len(self._seen):
            # Another lane was here already: only a higher timestep means a new run.
            return t > self._last and not same_timestep(t, self._last)
        if self.timesteps is not None and k < self.steps:
            if same_timestep(t, self.timesteps[k]):
                return False
            # Of a loop that rises, the start is the only sign of a new run.
            start = same_timestep(t, self.timesteps[0])
            return start or t >= self._last or same_timestep(t, self._last)
        if same_timestep(t, self._last):
            return self._repeated(t, k)
        return t > self._last

    def _repeated(self, t: float, k: int) -> bool:
        """The same timestep twice, with nothing known about the loop."""
        if k == 1 and self._repeats == 0:
            # A run abandoned after its first evaluation looks like this.
            self._repeats += 1
            return True
        if k == 1 or self._falling:
            raise StepError(
                f"step {k}: timestep {t:g} again, but this sampler's timesteps fall. If the loop "
                "calls cond and uncond separately, compile with calls_per_step=2; otherwise pass "
                "timesteps= or call reset() before each run"
            )
        return False

    def _place(self, t: float | None, lane: int | None, step: int | None) -> Tick:
        lane, k = self._next(lane)
        first = not self.mid_run
        if step is not None and step != k:
            raise StepError(f"step {step} was announced, but lane {lane} is at step {k}")
        if k > min(self._counts):
            behind = self._counts.index(min(self._counts))
            raise StepError(
                f"step {k}: lane {lane} was called again before lane {behind} was at step {k - 1}; "
                "every lane must be called once per step"
            )
        self._check_timestep(t, k)
        if k == len(self._seen):
            self._seen.append(t)
        if t is not None and self._last is not None and not same_timestep(t, self._last):
            self._repeats = 0
        self._last = t if t is not None else self._last
        self._counts[lane] += 1
        self._calls += 1
        return Tick(k, lane, first)

    def _check_timestep(self, t: float | None, k: int) -> None:
        if t is None:
            return
        expected = self._seen[k] if k < len(self._seen) else None
        if self.timesteps is not None:
            expected = self.timesteps[k]
        if expected is None or same_timestep(t, expected):
            return
        source = "timesteps=" if self._given else "earlier calls"
        cause = _likely_cause(t, k, self.timesteps or ())
        if not self._given and not self._confirmed:
            # One run alone may have been the odd one: do not hold later loops to it for ever.
            self.timesteps = None
        raise StepError(
            f"step {k}: expected timestep {expected:g} (from {source}), got {t:g}{cause}. The run "
            "was reset; call reset(forget_timesteps=True) before a loop with other timesteps, or "
            "use a schedule made for this loop"
        )

    def done(self) -> bool:
        """The call just placed has succeeded; True where it completes the run."""
        if min(self._counts) < self.steps:
            return False
        self._confirmed = self.timesteps is not None
        if self.timesteps is None and all(t is not None for t in self._seen):
            self.timesteps = tuple(t for t in self._seen if t is not None)
        self.completed += 1
        self._run_counts.completed += 1
        self._repeats = 0
        self._clear()
        return True


def _likely_cause(t: float, k: int, timesteps: Sequence[float]) -> str:
    """What a call at step k with another timestep usually is, as the end of a clause."""
    steps = len(timesteps)
    places = [s for s, expected in enumerate(timesteps) if same_timestep(t, expected)]
    if not timesteps:
        return ""
    # The last timestep once more is the second stage of a solver, rather than a run of one step.
    if k == 0 and places and places[0] < steps - 1:
        return f": a loop that starts at step {places[0]} of {steps} (strength, img2img)?"
    falls = timesteps[0] > timesteps[-1]
    beyond = t < timesteps[-1] if falls else t > timesteps[-1]
    if k == 0 or beyond:
        return (
            f": does the loop make more calls than the {steps} evaluations of the schedule (a "
            "second-order solver; or cond and uncond apart, which takes calls_per_step=2)?"
        )
    if places:
        return ": two requests on one session? Open one session each"
    return ""
