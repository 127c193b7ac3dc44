"""The timesteps of a pipeline's run, for methods that plan by them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from l2c_rt.schedule.cache_schedule import CacheSchedule

Replan = Callable[[Sequence[float]], CacheSchedule]
"""The timesteps of a run to the schedule of a method for them."""


def needs_timesteps(method: object) -> bool:
    """Whether a method goes by timesteps, and cannot plan without."""
    return bool(getattr(method, "needs_timesteps", False))


def follows_timesteps(method: object) -> bool:
    """Whether a method plans otherwise for other timesteps."""
    return needs_timesteps(method) or bool(getattr(method, "follows_timesteps", False))


def timesteps_of_run(
    pipe: Any, method: object, steps: int | None, given: Sequence[float] | None
) -> tuple[float, ...] | None:
    """What a method that goes by timesteps is told before the first run; None for any other.

    They are those given, or what the pipeline's scheduler has for that many steps, or else evenly
    spaced: how a run's are shifted may depend on the size of its images.  Raises ValueError where
    nothing says how many there are.
    """
    if not needs_timesteps(method):
        return None
    if given is not None:
        return tuple(map(float, given))
    if steps is None:
        raise ValueError(
            f"enable: {type(method).__name__} goes by timesteps; give steps=, or enable those of "
            "the pipeline's run: timesteps=[...]"
        )
    scheduler = copy.deepcopy(pipe.scheduler)
    try:
        scheduler.set_timesteps(steps)
    except (TypeError, ValueError):
        return _evenly(steps)
    timesteps = tuple(map(float, scheduler.timesteps))
    return timesteps if len(timesteps) == steps else _evenly(steps)


def _evenly(steps: int) -> tuple[float, ...]:
    return tuple(np.linspace(1000, 0, steps, endpoint=False).tolist())
