"""The table of modulations is made on the model's own device."""

from __future__ import annotations

import torch
from taped_graphs import TapedKernels, TapeRecorder
from toys import (
    random_schedule,
    toy_dit,
)

from l2c_rt.adapters import bind
from l2c_rt.backends.backend import fused_passes
from l2c_rt.backends.cuda.cuda_parts import CudaParts, FusedModel
from l2c_rt.backends.cuda.modulation_table import ModulationTable
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.options import Options
from l2c_rt.plan.prepare import prepare


def test_frequencies_that_a_model_makes_without_a_device_are_made_on_its_own() -> None:
    model = toy_dit().to("meta")
    made: list[str] = []

    def published(t: torch.Tensor) -> torch.Tensor:
        frequencies = torch.exp(-torch.arange(0, 16, dtype=torch.float32))
        made.append(frequencies.device.type)
        angles = t[:, None].float() * frequencies.to(device=t.device)[None]
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)

    model.t_embedder.forward = published  # type: ignore[method-assign]
    described = bind(model)
    plan, _ = prepare(described.program, random_schedule(4, 6), fused_passes)
    cuda = CudaParts(TapedKernels(), TapeRecorder, Tuner("tape", None, None, device="cpu"))
    counter = torch.zeros(2, dtype=torch.int32, device="meta")
    ModulationTable(FusedModel(described, plan, cuda, Options()), counter, range(2)).fill(4)
    assert made == ["meta"]
