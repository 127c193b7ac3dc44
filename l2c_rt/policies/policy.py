"""The interface of a policy, and the tables that policies share."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.checks import check_size

BoolArray = npt.NDArray[np.bool_]


class Policy(Protocol):
    """Anything that makes a schedule for a run of `steps` evaluations of these branches.

    One whose `schedule` also takes `timesteps` is given those of the run where they are known; one
    with a true `on_shells` is given the shells of a U-Net as branches.
    """

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule: ...


def full_table(steps: int, branches: tuple[str, ...]) -> BoolArray:
    """The table that computes everything."""
    check_size(steps, len(branches))
    return np.ones((steps, len(branches)), np.bool_)


def alike(schedule: CacheSchedule, compute: BoolArray, name: str) -> CacheSchedule:
    """A schedule for the same run as `schedule`, with another table."""
    source = f"{name} at the compute of: {schedule.source or 'a schedule'}"
    return replace(schedule, compute=compute, threshold=None, source=source[:1_000])
