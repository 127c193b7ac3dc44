"""Methods on a pipeline: its own results, and the pipeline as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers_pipelines import PIPELINES, STEPS

import l2c_rt as rt
from l2c_rt.comparison.methods import Entry
from l2c_rt.policies import EveryN


@pytest.mark.parametrize("name", ["FluxPipeline", "WanPipeline"])
def test_a_pipeline_is_compared_and_left_as_it_was(name: str) -> None:
    tiny = PIPELINES[name]
    pipe = tiny.build(name)
    transformer = pipe.transformer

    def loop(pipe: Any, seed: int) -> torch.Tensor:
        options = dict(tiny.inputs, num_inference_steps=STEPS, output_type="latent")
        generator = torch.Generator().manual_seed(seed)
        result: torch.Tensor = pipe(**options, generator=generator, return_dict=False)[0]
        return result

    blocks = Entry("whole blocks", EveryN(2), {"granularity": "block"})
    rows = rt.compare(
        pipe, [EveryN(2), blocks], compute=(0.7,), steps=STEPS, loop=loop, seeds=(3, 4),
        progress=False,
    ).rows  # fmt: skip
    assert pipe.transformer is transformer
    for row, options in zip(rows[1:], ({}, {"granularity": "block"}), strict=True):
        assert (row.setting, row.speedup is not None) == ("n=2", True)
        for result in row.results:
            full = loop(pipe, result.seed)
            with rt.enable(pipe, EveryN(2), steps=STEPS, **options) as fast:
                cached = loop(pipe, result.seed)
                limit = fast.models["transformer"].cost.speedup_limit
            error = float((cached - full).norm() / full.norm())
            assert (len(result.error), result.error[-1]) == (STEPS, pytest.approx(error, rel=1e-4))
            assert result.macs / result.full_macs == pytest.approx(1 / limit)
            assert result.error[:2] == (0.0, 0.0)


def test_a_pipeline_needs_a_loop() -> None:
    pipe = PIPELINES["FluxPipeline"].build("FluxPipeline")
    with pytest.raises(ValueError, match="a FluxPipeline needs loop=, a function of"):
        rt.compare(pipe, [EveryN(2)], steps=STEPS)
