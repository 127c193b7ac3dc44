"""What each family of diffusers does when its own forward is run with and without a cache.

Every family is run once per process: the tests of families and the table of docs/families.md read
the same results.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from cached_oracle import Oracle
from diffusers_families import Family, first_tensor
from diffusers_image_families import IMAGE_FAMILIES
from diffusers_more_image_families import MORE_IMAGE_FAMILIES
from diffusers_more_video_families import MORE_VIDEO_FAMILIES
from diffusers_unet_families import UNET_FAMILIES
from diffusers_video_families import VIDEO_FAMILIES
from probes import Probes, probed_once
from torch import Tensor, nn

import l2c_rt as rt
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.describe import KEY_VALUE_CACHES, argument_names, describe_own
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN, Full, Random

GROUPS: dict[str, dict[str, Family]] = {
    "Images": IMAGE_FAMILIES | MORE_IMAGE_FAMILIES,
    "Video and sound": VIDEO_FAMILIES | MORE_VIDEO_FAMILIES,
    "U-Nets": UNET_FAMILIES,
}
FAMILIES = {name: family for group in GROUPS.values() for name, family in group.items()}
STEPS, BLOCK_STEPS = 5, 3
ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class BranchResult:
    """Of a family cut at its attention and MLP modules.

    `full`: an all-compute run is bitwise the model; `cached`: a run that reuses at random is
    bitwise what plain hooks give, and `differs` from the model; `twice`: after a run that was given
    up and NaN in every slot, the same again; `untouched`: nothing of the model has changed.
    """

    branches: Counter[str]
    full: bool
    cached: bool
    differs: bool
    twice: bool
    untouched: bool


@dataclass(frozen=True, slots=True)
class BlockResult:
    """Of a family cut at its blocks.

    `full`: an all-compute run is bitwise the model; `merged`: one in which neighbours are merged is
    within rounding of one in which they are not; `slots` without merging and with it; `reason` why
    none were merged.
    """

    full: bool
    merged: bool
    slots: tuple[int, int]
    reason: str


PROBES = Probes()


@cache
@probed_once(PROBES)
def branch_result(name: str) -> BranchResult:
    """Run a family, cut at its branches."""
    family, model = FAMILIES[name], _model(name)
    own, before = _run(family, model), _snapshot(model)
    described = describe_own(model)
    loop = {"timesteps": _timesteps(family, described)[:STEPS], "adapter": describe_own}
    full = rt.compile(model, Full(), steps=STEPS, **loop)
    assert full.backend.name == "own"
    policy = Random(0.5, seed=3, evaluations=tuple(range(1, STEPS)))
    schedule = policy.schedule(STEPS, described.program.branch_names)
    fast = rt.compile(model, schedule, **loop)
    is_full = _equal(_run(family, full), own)
    outputs = _run(family, fast)
    paths = {site.name: site.children[-1] for site in described.sites}
    expected = _run(family, Oracle(model, schedule, paths))
    _run(family, fast, 2)
    fast.reset()
    fast.poison()
    again = _run(family, fast)
    return BranchResult(
        branches=Counter(branch.kind for branch in described.program.branches),
        full=is_full, cached=_equal(outputs, expected), differs=not _equal(outputs, own),
        twice=_equal(again, outputs), untouched=_snapshot(model) == before,
    )  # fmt: skip


@cache
@probed_once(PROBES)
def block_result(name: str) -> BlockResult:
    """Run a family, cut at its blocks."""
    family, model = FAMILIES[name], _model(name)
    loop = _timesteps(family, describe_own(model))[:BLOCK_STEPS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", L2CWarning)  # Of those that are not merged.
        full, apart, merged = (
            rt.compile(model, policy, timesteps=loop, steps=BLOCK_STEPS, merge=merge,
                       granularity="block")
            for policy, merge in ((Full(), True), (EveryN(2), False), (EveryN(2), True))
        )  # fmt: skip
        own, outputs, unmerged, together = (
            _run(family, each, BLOCK_STEPS) for each in (model, full, apart, merged)
        )
    pairs = zip(together, unmerged, strict=True)
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    summary = merged.summary()
    return BlockResult(
        full=_equal(outputs, own), merged=error < ROUNDING,
        slots=(summary.slots_unmerged or summary.slots, summary.slots),
        reason="; ".join(r for r in summary.reasons if "no blocks are merged" in r),
    )  # fmt: skip


def refused_arguments(name: str) -> tuple[str, ...]:
    """Arguments of the forward with which a compiled model refuses a call."""
    return tuple(arg for arg in argument_names(_model(name)) if arg in KEY_VALUE_CACHES)


@cache
def _model(name: str) -> Any:
    return FAMILIES[name].build()


def _timesteps(family: Family, described: BoundModel) -> list[float]:
    times = [described.begin(**family.at(step)).t for step in range(STEPS)]
    return [float(t.reshape(-1)[0]) for t in times]


def _run(family: Family, model: Any, steps: int = STEPS) -> list[Tensor]:
    with torch.no_grad():
        return [first_tensor(model(**family.at(step))) for step in range(steps)]


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _snapshot(model: nn.Module) -> list[object]:
    """Everything about a model that a compiled one might touch."""
    return [list(model.state_dict()), *map(_of_module, model.named_modules())]


def _of_module(named: tuple[str, nn.Module]) -> object:
    name, module = named
    tensors = module.named_parameters(recurse=False)
    return (
        name, type(module), {key: id(value) for key, value in vars(module).items()},
        [(key, id(child)) for key, child in module._modules.items()],
        [(key, id(tensor), tensor.data_ptr(), tensor._version) for key, tensor in tensors],
        len(module._forward_hooks), len(module._forward_pre_hooks),
    )  # fmt: skip


def short_names(branches: Counter[str]) -> Iterator[str]:
    """Names of branches, without the numbers at their ends, most frequent first."""
    yield from dict.fromkeys(re.sub(r"\d+$", "", kind) for kind, _ in branches.most_common())
