"""compile(model, router): the one entry point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import nn

from l2c_rt import adapters, backends
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends import Backend
from l2c_rt.backends.options import Options
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.cost import cost
from l2c_rt.plan.verify import verify
from l2c_rt.policies import Policy
from l2c_rt.policies.router import Router
from l2c_rt.resolve import resolve_schedule
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.runtime.fingerprint import check_bypassed, check_mode
from l2c_rt.schedule.cache_schedule import CacheSchedule


def compile(
    model: nn.Module,
    router: Router | CacheSchedule | Policy | str | PathLike[str],
    *,
    steps: int | None = None,
    lanes: int = 1,
    timesteps: Sequence[float] | None = None,
    backend: str = "auto",
    graph: str = "step",
    residual_dtype: torch.dtype | None = None,
    tune: bool = True,
    strict: bool = False,
    adapter: Callable[[Any], BoundModel] | None = None,
) -> Compiled:
    """Plan a schedule for a model, prove the plan, and return a callable to use in its place.

    `router` may also be a schedule, a policy (then `steps` is needed), a file, or a preset's name.
    `lanes` is the number of calls per step in the loop (2 where cond and uncond are called
    separately, cond first).  `timesteps` [steps] are checked at every call.  With `strict`,
    whatever would be noted in `summary()` as not fused, and changed weights, raise instead.
    On a GPU: `graph` is "step" (a CUDA graph per distinct row), "trajectory" (one per run of
    `sample`) or "off"; `residual_dtype` is that of the residual stream (None: the model's own);
    with `tune` the fastest products and attention are measured once per machine and remembered.
    `adapter` describes a model that none of the built-in adapters knows.
    Raises TypeError for a model without adapter, ValueError for a schedule that does not fit.
    """
    if not isinstance(tune, bool):
        raise TypeError(f"tune: wanted True or False, got {tune!r}")
    options = Options(graph, residual_dtype, tune, forgiving=backend == "auto" and not strict)
    return build(
        model, router, partial(backends.choose, backend, options), steps=steps, lanes=lanes,
        timesteps=timesteps, strict=strict, bind=adapters.bind if adapter is None else adapter,
    )  # fmt: skip


def build(
    model: nn.Module,
    router: Router | CacheSchedule | Policy | str | PathLike[str],
    choose: Callable[[BoundModel], Backend],
    *,
    steps: int | None,
    lanes: int,
    timesteps: Sequence[float] | None,
    strict: bool,
    bind: Callable[[Any], BoundModel],
) -> Compiled:
    """`compile`, with the backend as a function of the described model."""
    bound_model = bind(model)
    if not isinstance(bound_model, BoundModel):
        raise TypeError(f"adapter: wanted a Bound, got {type(bound_model).__name__}")
    check_mode(model)
    schedule = resolve_schedule(router, steps=steps, branches=bound_model.program.branch_names)
    _check_family(schedule, bound_model)
    unfused = build_plan(bound_model.program, schedule)
    chosen = choose(bound_model)
    reasons = chosen.reasons + check_bypassed(bound_model.bypassed)
    if strict and reasons:
        raise ValueError(f"strict: {'; '.join(reasons)}")
    plan = chosen.passes(unfused, bound_model.program)
    verify(plan, bound_model.program, schedule)
    given = schedule.timesteps if timesteps is None else tuple(map(float, timesteps))
    return Compiled(
        bound_model, schedule, unfused, plan, cost(bound_model.program, plan), chosen, bind, choose,
        lanes=lanes, timesteps=given, strict=strict,
    )  # fmt: skip


def _check_family(schedule: CacheSchedule, bound_model: BoundModel) -> None:
    family = bound_model.program.family
    if schedule.family not in ("", family):
        raise ValueError(
            f"compile: the schedule is for the family {schedule.family!r}, the model is {family!r}"
        )


__all__ = ["Compiled", "compile"]
