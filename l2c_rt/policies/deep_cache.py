"""DeepCache: on most steps only the outermost layers of a U-Net are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2c_rt.policies.policy import full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.shells import is_of_shells


@dataclass(frozen=True, slots=True)
class NonUniform:
    """Full steps that lie densest around a step: quadratic spacing of that power around `center`.

    Source: DeepCache, arXiv 2312.00858, section 3.4, as the published pipelines compute it.
    """

    center: int = 15
    power: float = 1.4

    def __post_init__(self) -> None:
        _check_int("nonuniform: center", self.center, 1)
        number = isinstance(self.power, int | float) and not isinstance(self.power, bool)
        if not number or not 1 < self.power < np.inf:
            raise ValueError(f"nonuniform: power is {self.power!r:.40}, wanted a number above 1")

    def full_steps(self, steps: int, interval: int) -> tuple[int, ...]:
        """ceil(steps / interval) full steps, 0 first.

        Raises ValueError for a center outside of the run, or where rounding leaves another number
        of steps at every power down to 1.
        """
        if self.center >= steps:
            raise ValueError(f"nonuniform: center is {self.center}, and the run is 0..{steps - 1}")
        count = -(-steps // interval)
        if count == 1:
            return (0,)
        power = self.power
        while power > 1:
            # Roots of negative numbers are complex, and of their powers the real part is taken.
            first, last = (
                complex(end) ** (1 / power) for end in (-self.center, steps - self.center)
            )
            points = np.linspace(first, last, count + 1) ** power
            inner = np.unique(points.real.astype(np.int32))[1:-1]
            if len(inner) == count - 1:
                return (0, *(int(point) + self.center for point in inner))
            power -= 0.02
        raise ValueError(
            f"nonuniform(center={self.center}, power={self.power}): no {count} different steps of "
            f"{steps}; give a larger interval than {interval}, a smaller center, or a list of steps"
        )


def nonuniform(center: int = 15, power: float = 1.4) -> NonUniform:
    """For `DeepCache(interval, branch, steps=nonuniform(...))`; the published defaults."""
    return NonUniform(center, power)


@dataclass(frozen=True, slots=True)
class DeepCache:
    """Computes everything at some steps of a U-Net, and at the others shells 0 .. `branch` only.

    `branch` (published: cache_branch_id) counts the up layers from the output; `interval`
    (cache_interval) N is full at steps 0, N, 2N, ...  `steps` are other full steps: a list of
    evaluations, or `nonuniform(center, power)` with 1/N of them.  With the timesteps of the run,
    the step of `interval` is the first evaluation with the same timestep: PNDM evaluates its second
    one twice.
    Raises ValueError for what no U-Net has; `schedule` for what the run's has not.
    Source: DeepCache, arXiv 2312.00858; github horseee/DeepCache, DeepCacheSDHelper.
    """

    interval: int = 1
    branch: int = 0
    steps: Sequence[int] | NonUniform | None = None

    follows_timesteps = True
    """A timestep that comes twice is one step."""

    on_shells = True
    """This policy names depths, so that `compile` cuts the model into shells."""

    def __post_init__(self) -> None:
        _check_int("DeepCache: interval", self.interval, 1)
        _check_int("DeepCache: branch", self.branch, 0)
        if self.steps is not None and not isinstance(self.steps, NonUniform):
            object.__setattr__(self, "steps", _checked_list(self.steps))

    def full_steps(self, steps: int, timesteps: Sequence[float] | None = None) -> tuple[int, ...]:
        """The evaluations that compute everything."""
        if self.interval == 1 and not isinstance(self.steps, tuple):
            return tuple(range(steps))
        places = list(range(steps) if timesteps is None else map(timesteps.index, timesteps))
        if isinstance(self.steps, NonUniform):
            # The published pipelines space the steps that the user asked for and then count calls.
            return self.steps.full_steps(len(set(places)), self.interval)
        if isinstance(self.steps, tuple):
            return self.steps
        return tuple(k for k, place in enumerate(places) if place % self.interval == 0)

    def schedule(
        self, steps: int, branches: tuple[str, ...], timesteps: Sequence[float] | None = None
    ) -> CacheSchedule:
        compute = full_table(steps, branches)
        timesteps = None if timesteps is None else tuple(timesteps)
        self._check(steps, branches)
        full = set(self.full_steps(steps, timesteps))
        if max(full) >= steps:
            raise ValueError(f"DeepCache: steps has {max(full)}, but the run is 0..{steps - 1}")
        cached = [k for k in range(steps) if k not in full]
        compute[cached, self.branch + 1 :] = False
        source = f"DeepCache, {len(full)} of {steps} full, branch {self.branch}"
        return CacheSchedule(compute, branches, source=source, timesteps=timesteps)

    def _check(self, steps: int, branches: tuple[str, ...]) -> None:
        if not is_of_shells(branches):
            raise ValueError(
                f"DeepCache: the model's branches are {branches[0]} .. {branches[-1]}, wanted the "
                "shells of a U-Net, shell-0, shell-1, ..."
            )
        # At the last one everything is computed but what lies innermost.
        most = len(branches) - 2
        if self.branch > most:
            raise ValueError(
                f"DeepCache: branch is {self.branch}, and this U-Net has 0..{most}, counted from "
                "the output"
            )


def _checked_list(steps: Sequence[int]) -> tuple[int, ...]:
    whole = (
        isinstance(steps, Sequence | np.ndarray)
        and not isinstance(steps, str)
        and all(isinstance(step, int | np.integer) and not isinstance(step, bool) for step in steps)
    )
    if not whole:
        raise TypeError(
            f"DeepCache: steps is {steps!r:.80}, wanted None, nonuniform(center, power) or a list "
            "of evaluations, as [0, 4, 9]"
        )
    ordered = tuple(sorted({int(step) for step in steps}))
    if not ordered or ordered[0] != 0:
        raise ValueError(
            f"DeepCache: steps is {steps!r:.80}, wanted 0 as the first: evaluation 0 has "
            "nothing to reuse"
        )
    return ordered


def _check_int(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r:.40}, wanted an int of at least {least}")
