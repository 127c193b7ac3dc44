"""Products cut in parts: who sums them, and parts that nobody summed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from published_outputs import relative
from taped_graphs import TapedKernels, compile_taped
from three_backends import assert_near, assert_same
from toys import (
    count_branches,
    drive,
    random_schedule,
    timesteps,
    toy_dit,
    toy_uvit,
)

from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.tuning.problems import LinearConfig
from l2c_rt.device.graphs import Eager
from l2c_rt.runtime.compiled import Compiled

STEPS = 8


def fresh(model: Any = None, **options: Any) -> Compiled:
    """A toy of STEPS steps on tapes."""
    model = toy_dit() if model is None else model
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    return compile_taped(model, schedule, **options)


class SplitsEverything(Tuner):
    """Cuts every product that may be cut."""

    def linear(self, problem: Any, make: Any, check: Any = None) -> Any:
        if problem.splittable:
            return LinearConfig("split", (16, 16, 16, 4, 1, 8), splits=3)
        return super().linear(problem, make, check)


@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_split_products_are_summed_by_the_kernel_that_needs_the_sum(make: Any) -> None:
    model, kernels = make(), TapedKernels()
    tuner = SplitsEverything("tape", None, None, device="cpu")
    fast, plain = fresh(model, kernels=kernels, tuner=tuner), fresh(model)
    fast.poison()
    assert_near(drive(fast, STEPS), drive(plain, STEPS))
    ran = Counter(name for name, _, _ in kernels.log)
    assert ran["split_linear"] > 0
    assert (
        ran["split_gate_residual_norm_modulate" if make is toy_dit else "split_residual_norm"] > 0
    )
    # Where a reuse is added in the same kernel, or the end follows.
    assert ran["split_sum"] > 0
    noise = torch.randn(2, 4, 8, 8)
    assert relative(fast.sample(noise, [1, 2]), plain.sample(noise, [1, 2])) < 1e-5


def test_partial_sums_that_a_failed_step_left_behind_are_forgotten() -> None:
    kernels, tuner = TapedKernels(), SplitsEverything("tape", None, None, device="cpu")
    options: Any = {"recorder": Eager, "graph": "off", "timesteps": timesteps(STEPS)}
    fast = fresh(kernels=kernels, tuner=tuner, **options)
    want = drive(fast, STEPS)
    (lane,) = fast.run.lanes.all()
    branches = lane.workspace.programs[0].branches
    # As where a capture, or a call, ends between a product and the sum of its parts.
    branches._pending[0] = torch.full_like(next(iter(branches._splits.values())), float("nan"))
    before = len(kernels.log)
    assert_same(drive(fast, STEPS), want)
    names = [name for name, _, _ in kernels.log[before:]]
    assert names.index("split_linear") < names.index("split_sum")
