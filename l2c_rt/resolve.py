"""The CacheSchedule that the second argument of `rt.compile` stands for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from l2c_rt import methods, presets
from l2c_rt.plan.program import BlockProgram
from l2c_rt.policies.router import Router
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.shells import is_of_shells

ROUTER_SUFFIXES = (".pt", ".pth", ".safetensors")
ACCEPTED = (
    "a CacheSchedule, a Router, a policy such as EveryN(2), the path of a schedule (.json) or "
    "router (.pt, .pth, .safetensors), a preset name such as l2c/dit-xl-2-256/ddim-50, or a "
    "method's name such as fora"
)


def resolve_schedule(
    spec: Any,
    *,
    steps: int | None = None,
    branches: tuple[str, ...] | None = None,
    timesteps: Sequence[float] | None = None,
    program: BlockProgram | None = None,
) -> CacheSchedule:
    """The schedule that `spec` stands for, checked against `steps` and `branches` where given.

    A policy is also given `timesteps` and `program`, where its `schedule` takes them.

    Raises: TypeError where `spec` cannot make a schedule; ValueError where it does not
    fit, or where a policy comes without `steps` and `branches`.
    """
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(f"steps is {steps!r:.40}, wanted an int of at least 1: the evaluations")
    schedule = _schedule_of(spec, steps, branches, {"timesteps": timesteps, "program": program})
    if steps is not None and schedule.steps != steps:
        raise ValueError(
            f"{_named(spec)} is for {schedule.steps} steps, the run has {steps}; a learned one "
            "fits one number of steps: change the run, or use another schedule or a policy"
        )
    if branches is not None and schedule.branches != tuple(branches):
        raise ValueError(f"{_named(spec)}: {_first_difference(schedule.branches, tuple(branches))}")
    return schedule


def read_spec(spec: Any) -> Any:
    """`spec`, read from its file or preset where it names one, or made where it names a method."""
    if isinstance(spec, str) and spec in methods.names():
        return methods.named(spec)
    return _schedule_at(spec) if isinstance(spec, str | PathLike) else spec


def wants_shells(spec: Any) -> bool:
    """Whether `spec` is for the shells of a U-Net: a policy that says so, or their schedule."""
    if isinstance(spec, CacheSchedule | Router):
        return is_of_shells(spec.branches)
    return bool(getattr(spec, "on_shells", False))


def evaluations(spec: Any, steps: int | None, timesteps: Sequence[float] | None) -> int | None:
    """How many evaluations a policy is asked for.

    A scheduler's timesteps say it; `steps` may then be the number that the scheduler was asked for,
    where it evaluates some timesteps twice.
    """
    fixed = isinstance(spec, CacheSchedule | Router)
    if timesteps is None or fixed or steps not in (None, len(set(timesteps))):
        return steps
    return len(timesteps)


def _schedule_of(
    spec: Any,
    steps: int | None,
    branches: tuple[str, ...] | None,
    known: Mapping[str, Any],
) -> CacheSchedule:
    spec = read_spec(spec)
    if isinstance(spec, CacheSchedule):
        return spec
    if isinstance(spec, Router):
        return spec.schedule()
    if isinstance(spec, type) or not callable(getattr(spec, "schedule", None)):
        raise TypeError(f"got a {_named(spec)}, wanted {ACCEPTED}")
    if steps is None or branches is None:
        raise ValueError(
            f"{_named(spec)} is a policy, which needs to know the run: give steps=, the number of "
            "evaluations, or pass the schedule that it makes: policy.schedule(steps, branches)"
        )
    taken = inspect.signature(spec.schedule).parameters
    passed = {name: value for name, value in known.items() if value is not None and name in taken}
    schedule = spec.schedule(steps, tuple(branches), **passed)
    if not isinstance(schedule, CacheSchedule):
        kind = type(schedule).__name__
        raise TypeError(f"{_named(spec)}.schedule returned a {kind}, wanted a CacheSchedule")
    return schedule


def _schedule_at(name: str | PathLike[str]) -> CacheSchedule:
    if str(name) in presets.names():
        return presets.load(str(name))
    suffix = Path(name).suffix
    if suffix == ".json":
        return CacheSchedule.load(Path(name))
    if suffix in ROUTER_SUFFIXES:
        return Router.load(Path(name)).schedule()
    raise ValueError(
        f"{str(name)!r:.100} is not a preset ({', '.join(presets.names())}) or a method "
        f"({', '.join(methods.names())}) and does not end in .json, {', '.join(ROUTER_SUFFIXES)}"
    )


def _named(spec: Any) -> str:
    return repr(str(spec))[:100] if isinstance(spec, (str, PathLike)) else type(spec).__name__


def _first_difference(got: tuple[str, ...], expected: tuple[str, ...]) -> str:
    if len(got) != len(expected):
        return (
            f"{len(got)} branches, the model has {len(expected)}; use a schedule or router that "
            "was made for this depth"
        )
    k = next(k for k, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b)
    return f"branch {k} is {got[k]!r}, the model's is {expected[k]!r}; names must agree in order"
