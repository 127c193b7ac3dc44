"""compile(model, router): the one entry point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

from torch import nn

from l2c_rt import adapters, backends
from l2c_rt.adapters.bound import Bound
from l2c_rt.build import build_plan
from l2c_rt.compiled import Compiled, model_device
from l2c_rt.cost import cost
from l2c_rt.policies import Policy
from l2c_rt.resolve import resolve_schedule
from l2c_rt.router import Router
from l2c_rt.schedule import CacheSchedule
from l2c_rt.verify import verify


def compile(
    model: nn.Module,
    router: Router | CacheSchedule | Policy | str | PathLike[str],
    *,
    steps: int | None = None,
    lanes: int = 1,
    timesteps: Sequence[float] | None = None,
    backend: str = "auto",
    strict: bool = False,
    adapter: Callable[[Any], Bound] | None = None,
) -> Compiled:
    """Plan a schedule for a model, prove the plan, and return a callable to use in its place.

    `router` may also be a schedule, a policy (then `steps` is needed), a file, or a preset's name.
    `lanes` is the number of calls per step in the loop (2 where cond and uncond are called
    separately, cond first).  `timesteps` [steps] are checked at every call.  With `strict`,
    whatever would be noted in `summary()` as not fused, and changed weights, raise instead.
    `adapter` describes a model that none of the built-in adapters knows.
    Raises TypeError for a model without adapter, ValueError for a schedule that does not fit.
    """
    bound = adapters.bind(model) if adapter is None else adapter(model)
    _check_mode(model)
    schedule = resolve_schedule(router, steps=steps, branches=bound.program.branch_names)
    plan = build_plan(bound.program, schedule)
    chosen = backends.choose(backend, bound, model_device(bound))
    if strict and chosen.reasons:
        raise ValueError(f"strict: {'; '.join(chosen.reasons)}")
    plan = chosen.passes(plan, bound.program)
    verify(plan, bound.program, schedule)
    return Compiled(
        bound=bound,
        schedule=schedule,
        plan=plan,
        cost=cost(bound.program, plan),
        backend=chosen,
        lanes=lanes,
        timesteps=_timesteps(timesteps, schedule),
        strict=strict,
    )


def _timesteps(
    timesteps: Sequence[float] | None, schedule: CacheSchedule
) -> tuple[float, ...] | None:
    return schedule.timesteps if timesteps is None else tuple(map(float, timesteps))


def _check_mode(model: nn.Module) -> None:
    """Refuse a model whose forward is random: what is reused would not be what was computed."""
    if not model.training:
        return
    acts: list[Any] = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Dropout) and module.p > 0)
        or getattr(module, "dropout_prob", 0) > 0
    ]
    if acts:
        raise ValueError(
            f"compile: the model is in training mode and {acts[0]!r} drops at random; "
            "call model.eval() first"
        )


__all__ = ["Compiled", "compile"]
