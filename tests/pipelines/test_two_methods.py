"""Two pipelines with two methods that decide, in one process: interleaved, cancelled, repeated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers_pipelines import PIPELINES, STEPS, draw

import l2c_rt as rt
from l2c_rt.methods import FirstBlockCache, TeaCache

METHODS = (FirstBlockCache(0.2), TeaCache(0.2, (1.0, 0.0)))


class Cancelled(Exception):
    """By the user, from a callback."""


def cancel(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
    if step == 1:
        raise Cancelled
    return {}


def test_runs_interleaved_cancelled_and_repeated_are_each_methods_own() -> None:
    names = ("FluxPipeline", "WanPipeline")
    first, second = (PIPELINES[name].build(name) for name in names)
    given = [PIPELINES[name].inputs for name in names]
    with (
        rt.enable(first, METHODS[0], steps=STEPS),
        rt.enable(second, METHODS[1], steps=STEPS),
    ):
        alone = draw(first, given[0]), draw(second, given[1])
        inner = []

        def draw_the_other(*_: Any, **__: Any) -> dict[str, Any]:
            inner.append(draw(second, given[1]))
            return {}

        outer = draw(first, given[0], callback_on_step_end=draw_the_other)
        assert torch.equal(outer, alone[0])
        assert len(inner) == STEPS
        assert all(torch.equal(latents, alone[1]) for latents in inner)
        for pipe, inputs, expected in zip((first, second), given, alone, strict=True):
            with pytest.raises(Cancelled):
                draw(pipe, inputs, callback_on_step_end=cancel)
            assert torch.equal(draw(pipe, inputs), expected)
