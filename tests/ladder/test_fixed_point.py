"""Fixed Point Diffusion Models against the published program, evaluation by evaluation."""

from __future__ import annotations

import pytest
import torch
from fixed_point_model import FixedPointDiT, fixed_point_model
from published_loops import ddim_sample_loop, spaced_timesteps
from published_outputs import FOLDER, relative
from safetensors.torch import load_file
from torch import Tensor

import l2c_rt as rt
from l2c_rt.adapters.fixed_point import FixedPoint
from l2c_rt.policies import Full
from l2c_rt.policies.iterations import linear_budget, taken_in_pairs

STEPS = 20
CASES: dict[str, tuple[tuple[int, int], FixedPoint]] = {
    "i6": ((1, 1), FixedPoint(6, warm_start=True)),
    "i6_noreuse": ((1, 1), FixedPoint(6)),
    "pre2post2_nocond": ((2, 2), FixedPoint(4, warm_start=True, outer_timestep=False)),
    "adaptive_decreasing": (
        (1, 1),
        FixedPoint(
            taken_in_pairs(linear_budget(120, STEPS, increasing=False)), warm_start=True
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_every_evaluation_and_its_iterations_are_those_of_the_published_program(case: str) -> None:
    arrays = load_file(FOLDER / "fpdm-ddim-20.safetensors")
    blocks, adapter = CASES[case]
    model: FixedPointDiT = fixed_point_model(*blocks)
    times = list(reversed(spaced_timesteps(STEPS)))
    fast = rt.compile(model, Full(), steps=STEPS, adapter=adapter, timesteps=times)
    iterated: list[int] = [0]
    model.block_fixed_point.register_forward_hook(lambda *_: iterated.append(iterated.pop() + 1))
    outputs: list[Tensor] = []

    def on_output(step: int, out: Tensor) -> None:
        outputs.append(out[0])
        iterated.append(0)

    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    latents = ddim_sample_loop(
        fast.forward_with_cfg, noise, torch.tensor([1, 5]), 10, STEPS, 4.0, on_output
    )
    assert iterated[:-1] == arrays[f"{case}/decisions"].tolist()
    for out, golden in zip(outputs, arrays[f"{case}/outputs"], strict=True):
        assert relative(out, golden) < 1e-5
    assert relative(latents[0], arrays[f"{case}/latents"]) < 1e-5
