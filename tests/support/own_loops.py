"""Small models in loops of their users: pipelines of diffusers, and a U-Net in a loop by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers_pipelines import PIPELINES
from probes import Probes, probed_once
from torch import Tensor, nn

from l2c_rt.api import compile
from l2c_rt.comparison.loop_runs import Loop, LoopRuns
from l2c_rt.comparison.runs import relative_error
from l2c_rt.learning import learn
from l2c_rt.policies.router import Router
from l2c_rt.schedule.cache_schedule import CacheSchedule

STEPS = 6
LAST = ("to_out.0.weight", "to_add_out.weight", "net.2.weight", "proj_out.weight")
"""Names of the last linears of branches."""


@dataclass(frozen=True)
class Case:
    """A model, a loop that calls it, and the guidance that the loop applies."""

    model: nn.Module
    loop: Loop
    calls_per_step: int = 1
    cfg_scale: float | None = None
    pipe: Any = None

    def learned(self, **options: Any) -> Router:
        """A short learning run, silent."""
        given = {"steps": STEPS, "iterations": 20, "progress": False, "cfg_scale": self.cfg_scale}
        own = {"loop": self.loop, "calls_per_step": self.calls_per_step}
        return learn(self.model, **(given | own | options))

    def errors(self, schedules: Sequence[CacheSchedule]) -> list[float]:
        """The relative error of the latents at the end, two runs of each schedule."""
        runs = LoopRuns(self.loop, 900, 2, self.calls_per_step)
        full = replace(schedules[0], compute=np.ones_like(schedules[0].compute))
        calls = self.calls_per_step
        with probed_once(Probes()):
            ends = [
                runs.latents(compile(self.model, schedule, calls_per_step=calls))[0][-1]
                for schedule in (full, *schedules)
            ]
        return [relative_error(end, ends[0]) for end in ends[1:]]

    def at_equal_compute(self, schedule: CacheSchedule, seeds: range) -> list[CacheSchedule]:
        """Random schedules that leave out as much arithmetic as this one, or a little less."""
        macs = self.macs(schedule)
        return [drawn(schedule, macs, np.random.default_rng(seed)) for seed in seeds]

    def macs(self, schedule: CacheSchedule) -> npt.NDArray[np.int64]:
        """Multiply-accumulates of every branch, counted in a run of the compiled model."""
        fast = compile(self.model, schedule, calls_per_step=self.calls_per_step, merge=False)
        LoopRuns(self.loop, 0, 1, self.calls_per_step).latents(fast)
        counted = fast.run.shared.counted
        assert counted is not None
        return np.array([b.macs + b.attention_macs for b in counted.program.branches])


def drawn(
    schedule: CacheSchedule, macs: npt.NDArray[np.int64], generator: np.random.Generator
) -> CacheSchedule:
    """Branches of the same evaluations in a random order, as long as they fit."""
    budget = (~schedule.compute * macs).sum()
    compute, rows = np.ones_like(schedule.compute), range(1, schedule.steps, 2)
    for cell in generator.permutation(len(rows) * len(macs)):
        row, k = rows[cell // len(macs)], cell % len(macs)
        if macs[k] <= budget:
            compute[row, k], budget = False, budget - macs[k]
    return replace(schedule, compute=compute, threshold=None)


def pipeline_case(name: str, cfg_scale: float | None = None) -> Case:
    """A tiny pipeline of diffusers, some of whose branches matter more than others."""
    tiny = PIPELINES[name]
    pipe = tiny.build(name)
    model = uneven(pipe.transformer)

    def loop(m: nn.Module, seed: int) -> Tensor:
        before, pipe.transformer = pipe.transformer, m
        generator = torch.Generator().manual_seed(seed)
        given = dict(tiny.inputs, num_inference_steps=STEPS, output_type="latent")
        out = pipe(**given, return_dict=False, generator=generator)[0]
        pipe.transformer = before
        return out

    return Case(model, loop, tiny.calls, cfg_scale, pipe=pipe)


def unet_case() -> Case:
    """Stable Diffusion's U-Net in small, guided in one call with cond in the second half."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), norm_num_groups=4,
        layers_per_block=1, cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    text = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3))

    @torch.no_grad()
    def loop(m: nn.Module, seed: int) -> Tensor:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        # Steps of equal length, since the objective weighs all evaluations alike.
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        for t in scheduler.timesteps:
            out: Any = m(torch.cat([x, x]), t, encoder_hidden_states=text, return_dict=False)[0]
            uncond, cond = out.chunk(2)
            x = scheduler.step(uncond + 3.0 * (cond - uncond), t, x).prev_sample
        return x

    return Case(uneven(model), loop, cfg_scale=3.0)


def uneven(model: nn.Module) -> nn.Module:
    """The model with branches scaled at random, as in a trained model some matter more."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(LAST):
                weight *= float(torch.exp(1.2 * torch.randn((), generator=generator)))
    return model
