"""The timesteps of a pipeline's run, for methods that plan by them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any


def needs_timesteps(method: object) -> bool:
    """Whether a method goes by timesteps, and says so."""
    return bool(getattr(method, "needs_timesteps", False))


def timesteps_of_run(
    pipe: Any, method: object, steps: int | None, given: Sequence[float] | None
) -> tuple[float, ...] | None:
    """What a method that goes by timesteps is told; None for any other.

    They are those given, or what the pipeline's scheduler has for that many steps.  Raises
    ValueError where neither says them.
    """
    if not needs_timesteps(method):
        return None
    if given is not None:
        return tuple(map(float, given))
    name, scheduler = type(method).__name__, copy.deepcopy(pipe.scheduler)
    remedy = "give enable those of the pipeline's run: timesteps=[...]"
    if steps is None:
        raise ValueError(f"enable: {name} goes by timesteps; give steps=, or {remedy}")
    try:
        scheduler.set_timesteps(steps)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"enable: {name} goes by timesteps, and {type(scheduler).__name__} has none for "
            f"{steps} steps alone ({error}); {remedy}"
        ) from error
    timesteps = tuple(map(float, scheduler.timesteps))
    if len(timesteps) != steps:
        raise ValueError(
            f"enable: {name} goes by timesteps, and {type(scheduler).__name__} has "
            f"{len(timesteps)} for {steps} steps; {remedy}"
        )
    return timesteps
