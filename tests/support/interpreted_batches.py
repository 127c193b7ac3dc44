"""Batches of requests by the kernels themselves, in Triton's interpreter."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from float64_bound import WARNINGS
from published_outputs import relative
from served import at_ticks, by_calls
from taped_graphs import TapedKernels, compile_taped
from torch import Tensor
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.backends.cuda.cuda_parts import triton_kernels

pytestmark = WARNINGS
KEPT = (True, True)
PREDICTED = (False, True)


def image(seed: int) -> Tensor:
    return torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def compiled(kernels: Any) -> rt.Compiled:
    """One block and four tokens, of which the attention is computed every second time."""
    model = toy_dit(depth=1, input_size=4, hidden_size=24, num_heads=1)
    schedule = rt.CacheSchedule(np.array([KEPT, PREDICTED, KEPT, PREDICTED]))
    schedule = rt.correctors.corrected(schedule, rt.correctors.Taylor(1))
    return compile_taped(model, schedule, kernels=kernels)


def test_batches_by_kernels_are_those_by_references_and_one_alone_is_a_loop_of_calls() -> None:
    outs: list[list[Future[Tensor]]] = []
    for kernels in (TapedKernels(triton_kernels()), TapedKernels()):
        fast = compiled(kernels)
        with rt.Engine(fast, max_batch=2) as engine:

            def submit(i: int, engine: rt.Engine = engine) -> Future[Tensor]:
                return engine.submit(image(i), i, cfg_scale=0.0)

            outs.append(at_ticks(engine, [0, 2], submit, image(9))[1])
            assert 2 in engine.stats().batch_sizes
            alone = submit(3).result(60)
        assert torch.equal(alone, by_calls(fast, image(3), 3, 0.0))
    for a, b in zip(*outs, strict=True):
        assert relative(a.result(0), b.result(0)) < 1e-5
