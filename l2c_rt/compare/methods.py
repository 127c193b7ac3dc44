"""What a schedule is compared with: methods that compute as much, chosen otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from l2c_rt.api import Schedulable
from l2c_rt.policies import EveryN, NoisiestFirst, Random
from l2c_rt.schedule.cache_schedule import CacheSchedule

Method = Callable[[CacheSchedule], Schedulable]
"""What `compile` is to take for a run that computes about as much as this schedule."""


def equal_compute(name: str, seed: int) -> Mapping[str, Method]:
    """The schedule itself under `name`, then the controls; a further method is one more entry."""
    return {
        name: lambda schedule: schedule,
        "random": partial(Random.like, seed=seed),
        "every-N": EveryN.like,
        "noisiest first": NoisiestFirst.like,
    }
