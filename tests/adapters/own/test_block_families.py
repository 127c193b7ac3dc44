"""Families of diffusers cut at their blocks."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from block_models import BlockOracle
from diffusers_families import Family, first_tensor
from diffusers_image_families import IMAGE_FAMILIES
from diffusers_more_image_families import MORE_IMAGE_FAMILIES
from diffusers_more_video_families import MORE_VIDEO_FAMILIES
from diffusers_video_families import VIDEO_FAMILIES
from torch import Tensor

import l2c_rt as rt
from l2c_rt.adapters.own.describe import describe_own
from l2c_rt.policies import EveryN, Full, Random

STEPS = 5
TOLERANCE = 1e-5
FAMILIES = IMAGE_FAMILIES | MORE_IMAGE_FAMILIES | VIDEO_FAMILIES | MORE_VIDEO_FAMILIES
ONE, TWO = ("hidden_states",), ("encoder_hidden_states", "hidden_states")
STREAMS = {"DiT": ONE, "Flux": TWO, "HunyuanDiT": ONE, "HunyuanVideo": TWO[::-1], "PixArt": ONE,
           "SD3": TWO, "Wan": ONE}  # fmt: skip
every_family = pytest.mark.parametrize("name", STREAMS)
pytestmark = pytest.mark.usefixtures("shared_probes")


@cache
def built(name: str) -> Any:
    return FAMILIES[name].build()


def run(family: Family, model: Any) -> list[Tensor]:
    with torch.no_grad():
        return [first_tensor(model(**family.at(step))) for step in range(STEPS)]


def compiled(family: Family, model: Any, policy: Any, **options: Any) -> Any:
    begin = describe_own(model).begin
    times = [float(begin(**family.at(step)).t.reshape(-1)[0]) for step in range(STEPS)]
    return rt.compile(model, policy, steps=STEPS, granularity="block", timesteps=times, **options)


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def error(a: list[Tensor], b: list[Tensor]) -> float:
    pairs = zip(a, b, strict=True)
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)


@every_family
def test_the_all_compute_run_is_bitwise_and_the_cached_one_what_plain_hooks_give(name: str) -> None:
    family = FAMILIES[name]
    model = built(name)
    own = run(family, model)
    assert all_equal(run(family, compiled(family, model, Full())), own)
    apart = compiled(family, model, Random(0.5, seed=2), merge=False)
    expected = run(family, BlockOracle(model, apart.schedule, STREAMS[name]))
    assert all_equal(run(family, apart), expected)
    merged = compiled(family, model, Random(0.5, seed=2))
    assert error(run(family, merged), expected) < TOLERANCE
    assert error(expected, own) > TOLERANCE


@every_family
def test_merging_halves_the_slots_of_equal_columns(name: str) -> None:
    family = FAMILIES[name]
    merged = compiled(family, built(name), EveryN(2))
    run(family, merged)
    summary = merged.summary()
    print(f"{name}: {summary.slots_unmerged} slots, merged {summary.slots}")
    assert summary.slots <= summary.slots_unmerged / 2
