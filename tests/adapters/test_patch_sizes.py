"""Patches of any size: DiT/2, /4, /8 and down to single pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers_families import first_tensor
from diffusers_image_families import IMAGE_FAMILIES
from torch import Tensor
from toys import toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.adapters.own.describe import describe_own
from l2c_rt.policies import EveryN, Full

STEPS = 4
TIMES = [900.0 - 100 * step for step in range(STEPS)]
every_patch = pytest.mark.parametrize("patch", [1, 2, 4, 8])


def run(model: Any, **labels: Tensor) -> list[Tensor]:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return [model(x, torch.full((2,), t), *labels.values()) for t in TIMES]


@every_patch
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_every_backend_takes_patches_of_any_size(make: Any, patch: int) -> None:
    size = {"img_size": 8} if make is toy_uvit else {"input_size": 8}
    model, labels = make(patch_size=patch, **size), torch.tensor([1, 5])
    own = run(model, y=labels)
    for policy in (Full(), EveryN(2)):
        reference, fused, by_own = (
            rt.compile(model, policy, steps=STEPS, timesteps=TIMES, **options)
            for options in (
                {"backend": "reference"}, {"backend": "fused"}, {"adapter": describe_own}
            )
        )  # fmt: skip
        outputs = run(reference, y=labels)
        if policy == Full():
            assert all(torch.equal(a, b) for a, b in zip(outputs, own, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(run(by_own, y=labels), outputs, strict=True))
        torch.testing.assert_close(run(fused, y=labels), outputs, rtol=1e-3, atol=1e-3)
    assert reference.bound_model.program.tokens == (8 // patch) ** 2 + 2 * (make is toy_uvit)


@every_patch
def test_the_transformer_of_diffusers_takes_patches_of_any_size(patch: int) -> None:
    family = IMAGE_FAMILIES["DiT"]
    family = replace(family, config={**family.config, "patch_size": patch})
    model = family.build()
    full = rt.compile(model, Full(), steps=STEPS, timesteps=TIMES, backend="reference")
    for step in range(STEPS):
        call = family.at(step) | {"timestep": torch.full((2,), int(TIMES[step]))}
        with torch.no_grad():
            assert torch.equal(first_tensor(full(**call)), first_tensor(model(**call)))
