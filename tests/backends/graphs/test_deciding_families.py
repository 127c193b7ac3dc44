"""Methods that decide, on families' forwards on tapes: captured as a whole, with no reason left."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from diffusers_families import Family, first_tensor
from diffusers_image_families import IMAGE_FAMILIES
from diffusers_more_image_families import MORE_IMAGE_FAMILIES
from diffusers_more_video_families import MORE_VIDEO_FAMILIES
from diffusers_video_families import VIDEO_FAMILIES
from own_tapes import compile_own
from torch import Tensor

import l2c_rt as rt
from l2c_rt.methods import FirstBlockCache, TeaCache

STEPS = 8
TIMES = [900.0 - 40 * step for step in range(STEPS)]
FAMILIES = IMAGE_FAMILIES | MORE_IMAGE_FAMILIES | VIDEO_FAMILIES | MORE_VIDEO_FAMILIES
NAMES = ("DiT", "Flux", "HunyuanVideo", "Lumina2", "PixArt", "SD3", "Wan", "LTX", "CogVideoX")
METHODS = {"FirstBlockCache": FirstBlockCache(0.05), "TeaCache": TeaCache(0.1, (1.0, 0.0))}

pytestmark = [
    pytest.mark.usefixtures("shared_probes"),
    pytest.mark.filterwarnings("ignore:In CPU autocast"),
    # Reasons, and loops whose timesteps are not those that are announced, are beside the point.
    pytest.mark.filterwarnings("ignore::l2c_rt.notices.L2CWarning"),
]


@cache
def built(name: str) -> Any:
    return FAMILIES[name].build()


def run(family: Family, model: Any, fast: Any) -> list[Tensor]:
    outputs = []
    with torch.no_grad():
        for step in range(STEPS):
            with fast.cache_context(None, step=step):
                outputs.append(first_tensor(fast(**family.at(step))))
    return outputs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_a_family_is_captured_up_to_the_observation_and_from_there(name: str, method: str) -> None:
    family = FAMILIES[name]
    model = built(name)
    try:
        plain = rt.compile(model, METHODS[method], steps=STEPS)
    except ValueError as refusal:
        assert "indicator=" in str(refusal)  # noqa: PT017
        return
    fast = compile_own(model, METHODS[method], steps=STEPS)
    for _ in range(3):
        outputs, expected = run(family, model, fast), run(family, model, plain)
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
        assert (fast.last_run.acts == plain.last_run.acts).all()
    stats = fast.summary().graphs
    assert stats.reasons == ()
    assert stats.replays > 0
