"""Two pipelines with two policies over one model: a run of one in each step of the other."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers_pipelines import PIPELINES, STEPS, draw

import l2c_rt as rt
from l2c_rt.policies import EveryN, Random


@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline"])
def test_two_pipelines_over_one_model_do_not_meet(name: str) -> None:
    tiny = PIPELINES[name]
    first = tiny.build(name)
    parts = dict(first.components) | {"scheduler": copy.deepcopy(first.scheduler)}
    second = type(first)(**parts)
    second.set_progress_bar_config(disable=True)
    assert second.transformer is first.transformer
    model = first.transformer
    with (
        rt.enable(first, EveryN(2), steps=STEPS),
        rt.enable(second, Random(0.5, seed=1), steps=STEPS),
    ):
        alone = draw(first, tiny.inputs), draw(second, tiny.inputs)
        inner = []

        def draw_the_other(*_: Any, **__: Any) -> dict[str, Any]:
            inner.append(draw(second, tiny.inputs))
            return {}

        outer = draw(first, tiny.inputs, callback_on_step_end=draw_the_other)
        assert torch.equal(outer, alone[0])
        assert len(inner) == STEPS
        assert all(torch.equal(latents, alone[1]) for latents in inner)
        assert not torch.equal(alone[0], alone[1])
    assert first.transformer is second.transformer is model
