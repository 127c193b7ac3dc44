"""What every method does on tiny models: compiled and run, cached or refused, and why.

Every pair of a method and a model is run once per process.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from family_results import FAMILIES, PROBES
from probes import probed_once
from taped_graphs import compile_taped
from torch.utils._pytree import tree_leaves, tree_map
from toys import call_inputs, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt import methods
from l2c_rt.adapters.own.describe import describe_own
from l2c_rt.policies import Full
from l2c_rt.runtime.last_run import Act

STEPS = 6
MASK = (1, 1, 0, 1, 0, 1)
TOYS = {"dit": toy_dit(), "uvit": toy_uvit()}
STEPS_OF = {"fastercache-script": 24}
"""What begins later than the other runs end."""
HALVED = ("fastercache-script", "guidance-interval")
"""What runs half of a batch: its calls have every input twice, as those with guidance have."""
ALL_TIMES = (-1, 1001)
CALIBRATED = {"block-caching": "block", "smoothcache": "branch"}
Made = Callable[[tuple[str, ...], tuple[str, ...]], Any]
"""(branches, kinds of branches) of a model cut as the method wants -> the method."""


def _tables(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: np.full((2, STEPS - 1), 0.01) for name in names}


SMALL: Mapping[str, Made] = {
    "duca": lambda branches, kinds: methods.DuCa(fresh_ratio=0.3),
    "fastercache": lambda branches, kinds: methods.FasterCache(
        is_guidance_distilled=True,
        tensor_format="BCHW",
        spatial_attention_timestep_skip_range=ALL_TIMES,
    ),
    "fastercache-script": lambda branches, kinds: methods.FasterCacheScript(),
    "guidance-interval": lambda branches, kinds: methods.GuidanceInterval((250, 800)),
    "toca": lambda branches, kinds: methods.ToCa(fresh_ratio=0.3),
    "block-caching": lambda branches, kinds: methods.BlockCaching(_tables(branches), 0.015),
    "dbcache": lambda branches, kinds: methods.DBCache(1, 0, 10.0, 2),
    "dbprune": lambda branches, kinds: methods.DBPrune(1, 0, 0.9, 2),
    "deepcache": lambda branches, kinds: methods.DeepCache(2),
    "delta-dit": lambda branches, kinds: methods.DeltaDiT(2, 1, 3),
    "easycache": lambda branches, kinds: methods.EasyCache(10.0, 2),
    "every-n": lambda branches, kinds: methods.PlainEveryN(),
    "first-block-cache": lambda branches, kinds: methods.FirstBlockCache(10.0),
    "fora": lambda branches, kinds: methods.FORA(),
    "hicache": lambda branches, kinds: methods.HiCache(2),
    "magcache": lambda branches, kinds: methods.MagCache([1.0] * STEPS),
    "pab": lambda branches, kinds: methods.PAB(2, spatial_attention_timestep_skip_range=ALL_TIMES),
    "seacache": lambda branches, kinds: methods.SeaCache(10.0),
    "smoothcache": lambda branches, kinds: methods.SmoothCache(_tables(kinds), 0.1, 2),
    "speca": lambda branches, kinds: methods.SpeCa(),
    "steps-mask": lambda branches, kinds: methods.StepsMask(MASK, 1),
    "taylorseer": lambda branches, kinds: methods.TaylorSeer(2, 1),
    "taylorseer-diffusers": lambda branches, kinds: methods.DiffusersTaylorSeer(2),
    "teacache": lambda branches, kinds: methods.TeaCache(10.0, (1.0, 0.0)),
}
"""Every method with what a run of six evaluations of a model of two blocks needs; those of
`HALVED` are made for the times and arguments of a family's calls."""


@dataclass(frozen=True, slots=True)
class MethodResult:
    """`cached`: at some evaluation less was computed; `reason` why the pair is refused; `backend`
    that ran it."""

    cached: bool
    reason: str = ""
    backend: str = ""


@cache
@probed_once(PROBES)
def on_family(name: str, family: str) -> MethodResult:
    """A method on a model of diffusers, by its own forward."""
    found, model = FAMILIES[family], _family(family)
    described = describe_own(model)
    steps = STEPS_OF.get(name, STEPS)
    calls = [found.at(step) for step in range(steps)]
    times = [float(described.begin(**call).t.reshape(-1)[0]) for call in calls]
    method = None
    if name in HALVED:
        rows = len(described.begin(**calls[0]).x)
        doubled = tuple(k for k, v in calls[0].items() if _has_rows(v, rows))
        calls = [tree_map(partial(_twice, rows), call) for call in calls]
        try:
            with torch.no_grad():
                model(**calls[0])
        except (RuntimeError, ValueError, IndexError):
            return MethodResult(False, NO_HALVES)
        method = _halving(name, times, doubled)

    def run(fast: Any) -> None:
        for call in calls:
            fast(**call)

    return _result(lambda: _compiled(name, model, times, method=method), run)


def _twice(rows: int, value: Any) -> Any:
    """An input for the conditional and for the unconditional half."""
    return torch.cat([value, value]) if _has_rows(value, rows) else value


def _has_rows(value: Any, rows: int) -> bool:
    return any(
        isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and len(leaf) == rows
        for leaf in tree_leaves(value)
    )


def _halving(name: str, times: list[float], arguments: tuple[str, ...]) -> Any:
    """The method with guidance in the first half of the run, as far as that is its to say."""
    if name == "fastercache-script":
        return methods.FasterCacheScript(halved_arguments=arguments)
    scale = 1000 if max(times) <= 1 else 1
    window = (scale * times[len(times) // 2], scale * times[0] + 1)
    return methods.GuidanceInterval(window, halved_arguments=arguments)


@cache
def on_toy(name: str, kind: str, backend: str) -> MethodResult:
    """A method on a DiT ("dit") or U-ViT ("uvit"); the backend "cuda" is of graph rows as tapes."""
    steps = STEPS_OF.get(name, STEPS)
    times = [float(round(900 - 800 * step / (steps - 1))) for step in range(steps)]

    def run(fast: Any) -> None:
        for step, t in enumerate(times):
            x, _, y = call_inputs(step)
            fast(torch.cat([x[:1], x[:1]]), torch.full((2,), t), y)

    return _result(lambda: _compiled(name, TOYS[kind], times, backend), run)


def _result(make: Callable[[], Any], run: Callable[[Any], None]) -> MethodResult:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fast = make()
            run(fast)
        except (ValueError, TypeError) as error:
            return MethodResult(False, short(str(error)))
    acts, halves = fast.last_run.acts, fast.schedule.halves
    cached = bool((acts != Act.COMPUTED).any()) or (halves is not None and halves.halved.any())
    return MethodResult(bool(cached), "", fast.backend.name)


def _compiled(
    name: str, model: Any, times: list[float], backend: str = "auto", method: Any = None
) -> Any:
    loop = {"steps": len(times), "timesteps": times}
    branches: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    if name in CALIBRATED:
        full = rt.compile(model, Full(), granularity=CALIBRATED[name], **loop)
        program = full.bound_model.program
        branches, kinds = program.branch_names, tuple({b.kind for b in program.branches})
    method = method or SMALL[name](branches, kinds)
    fast = rt.compile(model, method, **loop)
    if backend == "auto" or fast.backend.name == "own":
        return fast
    if fast.bound_model.dynamic is not None and backend != "fused":
        return rt.compile(model, method, backend="own", **loop)
    if backend != "cuda":
        return rt.compile(model, method, backend=backend, **loop)
    if fast.bound_model.unfused_on_gpu:
        raise ValueError(fast.bound_model.unfused_on_gpu)
    return compile_taped(model, method, **loop)


@cache
def _family(name: str) -> Any:
    return FAMILIES[name].build()


def short(message: str) -> str:
    """The reason in a message, without its place, its remedy and names of the one model."""
    reason = re.sub(r"^(compile: |\w+: )+", "", message.partition("; ")[0])
    for pattern, text in ALIKE.items():
        reason = re.sub(pattern, text, reason)
    return reason


NO_HALVES = "the calls of the tiny model have no two halves"
ALIKE = {
    r".*: not called by the model's forward .*": "a module is not called by the forward",
    r"the batch has \d+ rows.*": NO_HALVES,
    r"the two halves of the batch are of different.*": NO_HALVES,
    r".* forward does not take the conditional half.*": "the forward does not take half a batch",
    r"the output of .* for the conditional half .*": "its attention has no part for each image",
    r"the model gives another result for the conditional .*": "half a batch gives another result",
    r"the model's branches are .*": "no branches attn, mlp, attn, ... as DiT and U-ViT have them",
    r".* match no module of .*": "the published patterns match no module",
    r"\S+ of \w+ has none of .*": "its first block has no attention of a known name",
    r"(blocks, and )the model has \d+": r"\1the model has fewer",
    r"the model has \d+ blocks": "the model has too few blocks",
    r"got latents .*": "latents are not [B, C, H, W] or [B, C, T, H, W]",
}
