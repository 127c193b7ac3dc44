"""compile(model, router): the one entry point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import nn

from l2c_rt._deprecated import renamed_keyword
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.arguments import check_arguments
from l2c_rt.backends import select_backend
from l2c_rt.backends.options import Options
from l2c_rt.correctors.corrector import Corrector, corrected
from l2c_rt.fitting import check_calibration, check_schedule, describe_for, planned_by
from l2c_rt.plan.decisions import DynamicMethod
from l2c_rt.policies.policy import Policy
from l2c_rt.policies.router import Router
from l2c_rt.resolve import evaluations, read_spec, resolve_schedule, wants_shells
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.runtime.half_checks import check_calls
from l2c_rt.runtime.known_loop import loop_of, numbers_of
from l2c_rt.runtime.proof import Proof
from l2c_rt.runtime.shared import SelectBackend, SharedModel
from l2c_rt.schedule.cache_schedule import CacheSchedule

__all__ = ["Compiled", "compile"]

Schedulable = Router | CacheSchedule | Policy | str | PathLike[str]
"""What a schedule can be made from."""


@renamed_keyword(lanes="calls_per_step")
def compile(
    model: nn.Module,
    router: Schedulable,
    *,
    steps: int | None = None,
    corrector: Corrector | None = None,
    calls_per_step: int = 1,
    timesteps: Sequence[float] | None = None,
    backend: str = "auto",
    graph: str = "step",
    residual_dtype: torch.dtype | None = None,
    tune: bool = True,
    strict: bool = False,
    check: str = "on",
    adapter: Callable[[Any], BoundModel] | None = None,
    sites: Sequence[str] | None = None,
    granularity: str | None = None,
    merge: bool = True,
    pack: bool = True,
    precision: str | None = None,
    delta_form: bool = False,
) -> Compiled:
    """Plan a schedule for a model, verify the plan, and return a callable to use in its place.

    `router` may also be a schedule, a policy or a method of `rt.methods` (then `steps` is needed),
    a file, or the name of a preset or a method.
    With a `corrector` what stands for a reused branch is predicted from its earlier outputs.
    `calls_per_step` is 2 where the loop calls cond and uncond separately, cond first.
    `timesteps` [steps], as a scheduler has them, are checked at every call, and say how many
    evaluations a policy is asked for.  A schedule that was learned on another model warns
    (`L2CWarning`), and with predictions of its own raises.  With `strict` that raises always, and
    so do changed weights and whatever `summary()` would note as not fused.
    On a GPU: `graph` is "step" (a CUDA graph per distinct step), "trajectory" (one per run of
    `sample`) or "off"; `residual_dtype` is that of the residual stream (None: the model's own);
    with `tune` the fastest products and attention are measured once per machine and remembered.
    On a CPU `precision="bf16"` runs the products of a float32 model in bfloat16, on a copy of its
    weights; the residual stream, inputs and outputs stay float32.
    On a GPU from compute capability 8.9 on `precision="fp8"` runs all four products of a bfloat16
    model's blocks in e4m3, with a scale per token and per output channel.
    With `delta_form`, evaluations of a U-ViT are computed as their difference to an earlier one
    where the long skips then need fewer products (docs/how-it-works.md); equal up to rounding.
    A model that no built-in adapter knows runs its own forward, cut at the attention and MLP
    modules of its blocks, or at `sites`, patterns of module paths such as "blocks.*.attn"; a U-Net
    with the policy DeepCache, or a schedule of shells, at its layers.
    On a CPU its linears take faster products, equal up to rounding; bitwise with `pack=False`.
    A schedule that was learned on whole blocks, or at sites, says so itself.
    With the granularity "block" the schedule is of whole blocks, what is kept is what a block adds
    to its arguments, and with `merge` neighbours that are always reused together are kept as one
    (exact up to rounding; `merge=False` keeps each by itself).
    At the first run one evaluation of an adapter's description is compared with the model's own
    forward.  Where it computes something else, the own forward runs in its place, with a warning;
    `check="off"` is for those who know the difference.  `adapter` gives another description.
    On a GPU that first run also compares every kernel with plain PyTorch, once per machine and
    shape; where one is wrong, `backend="auto"` falls back, and "fused" and `strict` raise.
    Raises TypeError for a model without blocks, ValueError for a schedule that does not fit.
    """
    for name, value in (("tune", tune), ("merge", merge), ("pack", pack),
                        ("delta_form", delta_form), ("strict", strict)):  # fmt: skip
        if not isinstance(value, bool):
            raise TypeError(f"{name}: wanted True or False, got {value!r}")
    forgiving = backend in ("auto", "own") and not strict
    options = Options(graph, residual_dtype, tune, forgiving=forgiving, merge=merge, pack=pack,
                      check=check == "on", precision=precision, delta_form=delta_form)  # fmt: skip
    return build(
        model, router, partial(select_backend, backend, options), steps=steps, corrector=corrector,
        calls_per_step=calls_per_step, timesteps=timesteps, strict=strict, check=check,
        adapter=adapter, sites=sites, granularity=granularity,
    )  # fmt: skip


def build(
    model: nn.Module,
    router: Schedulable,
    select: SelectBackend,
    *,
    steps: int | None = None,
    corrector: Corrector | None = None,
    calls_per_step: int = 1,
    timesteps: Sequence[float] | None = None,
    strict: bool = False,
    check: str = "on",
    adapter: Callable[[Any], BoundModel] | None = None,
    sites: Sequence[str] | None = None,
    granularity: str | None = None,
) -> Compiled:
    """`compile`, with the backend as a function of the described model."""
    check_arguments("compile", calls_per_step=calls_per_step, adapter=adapter)
    timesteps = numbers_of(timesteps)
    spec = read_spec(router)
    describe_again = describe_for(
        spec, model, adapter, sites, granularity, on_shells=wants_shells(spec)
    )
    described = describe_again(model)
    check_calibration(spec, described)
    schedule = resolve_schedule(
        planned_by(spec, described), steps=evaluations(spec, steps, timesteps),
        branches=described.program.branch_names, timesteps=timesteps, program=described.program,
    )  # fmt: skip
    check_schedule(schedule, described, timesteps, strict)
    if corrector is not None:
        if isinstance(spec, DynamicMethod):
            raise ValueError(
                f"compile: {type(spec).__name__} decides at run time, and a corrector is made "
                "before a run; leave corrector= out"
            )
        check_calibration(corrector, described)
        schedule = corrected(
            replace(schedule, timesteps=timesteps or schedule.timesteps), corrector
        )
    check_calls(schedule, calls_per_step)
    shared = SharedModel(
        described, schedule, describe_again, select, strict=strict, proof=Proof(check),
        loop=loop_of(schedule, timesteps),
    )  # fmt: skip
    return Compiled(shared, calls_per_step=calls_per_step)
