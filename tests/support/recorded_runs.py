"""Published schedules at their published depths, recorded.

A narrow model on CPU tensors goes through planning, tuning, warming and capture as on a GPU; every
kernel is compiled and recorded instead of launched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from launch_recorder import (
    Choosing,
    Entry,
    LogRecorder,
)
from published_loops import spaced_timesteps
from recording_driver import recorded_launches

from l2c_rt import presets
from l2c_rt.api import build
from l2c_rt.backends.cuda.call_program import CallProgram
from l2c_rt.backends.cuda.cuda_parts import CudaParts, triton_kernels
from l2c_rt.backends.cuda.run_program import RunProgram
from l2c_rt.backends.cuda.shape_program import ShapeProgram
from l2c_rt.backends.cuda.support import fused_cuda_backend
from l2c_rt.backends.options import Options
from l2c_rt.methods import DuCa, ToCa
from l2c_rt.models import DiT, UViT
from l2c_rt.plan.lowering import Run
from l2c_rt.policies import Full
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.runtime.sample import published_solver

DISTINCT = {
    "dit-xl-2-256/ddim-50": 14,
    "dit-xl-2-256/ddim-20": 7,
    "uvit-h-2-256/dpm-50": 15,
    "uvit-h-2-256/dpm-20": 10,
}


SCHEDULES = (*DISTINCT, "dit full", "uvit full")
"""The published ones, and every branch at each of four evaluations."""


TWENTY_STEPS = ("dit-xl-2-256/ddim-20", "uvit-h-2-256/dpm-20")
TOKEN_METHODS = {
    "dit duca": DuCa(fresh_ratio=0.3),
    "uvit toca": ToCa(fresh_ratio=0.3, cache_type="kv-norm", bonus=0.0),
}
"""Over 20 steps: scores by the attention map and by values, with cells and without."""
IMAGES, WIDTH, FILLS = 2, 64, 3
"""FILLS: the graphs that take the weights, fill the tables, fill one entry; steps come after."""
TAKE, ALL, ONE = range(FILLS)


def model_of(name: str) -> Any:
    """The published depth, 16 tokens of 64 columns."""
    torch.manual_seed(0)
    made = (
        DiT(depth=28, hidden_size=WIDTH, num_heads=4, input_size=8, num_classes=10)
        if name.startswith("dit")
        else UViT(
            depth=28, embed_dim=WIDTH, num_heads=4, img_size=8, patch_size=2, in_chans=4,
            num_classes=11, conv=False,
        )
    )  # fmt: skip
    return made.to(torch.bfloat16).eval()


@dataclass(frozen=True, repr=False)
class Record:
    """A compiled model after one run, and all that was launched for it."""

    compiled: Compiled
    recorder: LogRecorder
    program: RunProgram | CallProgram

    @property
    def shape_program(self) -> ShapeProgram:
        return self.program.shape_program

    def variant(self, number: int) -> list[Entry]:
        """What the graph of the plan's distinct step holds."""
        first, end = self.recorder.captured[FILLS + number]
        return self.recorder.log[first:end]

    def evaluation(self, number: int) -> list[Entry]:
        return self.variant(self.compiled.plan.order[number])

    @property
    def evaluations(self) -> range:
        return range(self.compiled.plan.num_evaluations)

    def alone(self, number: int) -> bool:
        """Whether an evaluation computes no branch."""
        return not any(isinstance(launch, Run) for launch in self.lowered(number))

    def lowered(self, number: int) -> Any:
        return self.shape_program.variants[self.compiled.plan.order[number]]


@cache
def recorded(
    name: str,
    *,
    products: str = "kernels",
    graph: str = "step",
    calls: bool = False,
    delta_form: bool = False,
) -> Record:
    """One run of a schedule, by `sample` or call by call; kept, since nothing changes it."""
    model, steps = model_of(name), 4 if name.endswith("full") else None
    schedule = Full() if steps else TOKEN_METHODS.get(name)
    steps = 20 if name in TOKEN_METHODS else steps
    known = calls and name in TOKEN_METHODS
    timesteps = [float(t) for t in reversed(spaced_timesteps(20))] if known else None
    schedule = schedule or presets.load(f"l2c/{name}")
    options = Options(graph=graph, delta_form=delta_form)
    recorders: list[LogRecorder] = []
    with recorded_launches() as log:

        def recorder(device: torch.device) -> LogRecorder:
            recorders.append(LogRecorder(log))
            return recorders[-1]

        cuda = CudaParts(triton_kernels(), recorder, Choosing(products))
        compiled = build(
            model, schedule,
            lambda described: fused_cuda_backend(described, cuda, options),
            # Recorded kernels compute nothing, so there is nothing to compare.
            steps=steps, timesteps=timesteps, strict=True, check="off",
        )  # fmt: skip
        if calls:
            call_all(compiled)
        else:
            compiled.sample(torch.randn(IMAGES, 4, 8, 8), torch.arange(IMAGES))
    (found,) = recorders
    return Record(compiled, found, program_of(compiled, calls))


def call_all(compiled: Compiled) -> None:
    labels = torch.arange(IMAGES)
    for t in published_solver(compiled.bound_model, compiled.schedule, None).timesteps:
        x = torch.randn(IMAGES, 4, 8, 8, dtype=torch.bfloat16)
        compiled(x, torch.full((IMAGES,), t), labels)


def program_of(compiled: Compiled, calls: bool) -> Any:
    session = compiled if calls else compiled._idle[0]
    (lane,) = session.run.lanes.all()
    if calls:
        return lane.workspace._call
    (program,) = lane.workspace._runs.values()
    return program


WAYS = {
    "sample": {},
    "sample, library products": {"products": "library"},
    "sample, split products": {"products": "split"},
    "calls": {"calls": True},
    "trajectory": {"graph": "trajectory"},
}


SOME = [
    *((name, "sample") for name in SCHEDULES),
    *((name, "calls") for name in SCHEDULES),
    *((name, "trajectory") for name in TWENTY_STEPS),
    *((name, f"sample, {products} products")
      for name in TWENTY_STEPS
      for products in ("library", "split")),
]  # fmt: skip


TOKEN_RUNS = [("dit duca", "sample"), ("uvit toca", "sample"), ("dit duca", "calls")]


every_way = pytest.mark.parametrize(("name", "way"), SOME)


sampled = pytest.mark.parametrize("name", SCHEDULES)
