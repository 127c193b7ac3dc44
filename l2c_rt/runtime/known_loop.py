"""The timesteps of a loop, and where the runtime knows them from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from l2c_rt.sampling.solvers import SOLVERS, solver_for
from l2c_rt.schedule.cache_schedule import CacheSchedule

Source = Literal["timesteps=", "the schedule", "earlier runs"]


def same_timestep(a: float, b: float) -> bool:
    """Equal up to float32 rounding of the loop that computed it."""
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6)


def direction(timesteps: Sequence[float]) -> int:
    """-1 where they fall, 1 where they rise, 0 where there are not two different ones."""
    for t in timesteps[1:]:
        if not same_timestep(t, timesteps[0]):
            return 1 if t > timesteps[0] else -1
    return 0


def goes_on(t: float, timesteps: Sequence[float]) -> bool:
    """Whether `t` lies beyond the last timestep or repeats it, which is not the first as well."""
    first, last = timesteps[0], timesteps[-1]
    if same_timestep(t, first):
        return False
    return same_timestep(t, last) or (t - last) * direction(timesteps) > 0


@dataclass(frozen=True, slots=True)
class KnownLoop:
    """One timestep per evaluation, in execution order.

    Only `timesteps=` is the user's word on the loop at hand; the others are dropped where a loop
    turns out to be another one.
    """

    timesteps: tuple[float, ...]
    source: Source

    @property
    def given(self) -> bool:
        return self.source == "timesteps="

    def place(self, t: float) -> int | None:
        """The first evaluation at this timestep, or None."""
        places = (k for k, expected in enumerate(self.timesteps) if same_timestep(t, expected))
        return next(places, None)

    def repeats(self, t: float, places: range) -> bool:
        """Whether there are any of these places, all at this timestep."""
        return bool(places) and all(same_timestep(t, self.timesteps[k]) for k in places)


def checked_loop(steps: int, timesteps: Sequence[float], source: Source) -> KnownLoop:
    """Raises ValueError for a wrong number of timesteps, or one that is not finite."""
    if len(timesteps) != steps:
        raise ValueError(
            f"timesteps: got {len(timesteps)}, but the schedule has {steps} evaluations; give one "
            "timestep per evaluation, in execution order"
        )
    if not all(math.isfinite(t) for t in timesteps):
        raise ValueError(f"timesteps: got {tuple(timesteps)}, wanted finite numbers")
    return KnownLoop(tuple(map(float, timesteps)), source)


def numbers_of(timesteps: Iterable[float] | None) -> tuple[float, ...] | None:
    """What `timesteps=` holds as numbers.  Raises ValueError where they are none."""
    if timesteps is None:
        return None
    try:
        return tuple(map(float, timesteps))
    except (TypeError, ValueError):
        raise ValueError(
            f"timesteps: got {timesteps!r:.60}, wanted a number for each evaluation, such as "
            "scheduler.timesteps"
        ) from None


def loop_of(schedule: CacheSchedule, timesteps: Sequence[float] | None) -> KnownLoop | None:
    """What is known of the loop before its first call; None where nothing is.

    A schedule knows its own timesteps, or those of the published sampler that it was learned for.
    """
    if timesteps is not None:
        return checked_loop(schedule.steps, timesteps, "timesteps=")
    if schedule.timesteps is not None:
        return checked_loop(schedule.steps, schedule.timesteps, "the schedule")
    if schedule.sampler in SOLVERS:
        solver = solver_for(schedule.sampler, schedule.steps)
        return checked_loop(schedule.steps, solver.timesteps, "the schedule")
    return None
