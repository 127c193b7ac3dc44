"""Predictions with coefficients for each lane: cond and uncond of guidance, on every backend."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from block_models import OneStream, built, inputs, times
from oracle import Oracle
from own_tapes import compile_own
from published_outputs import relative
from taped_graphs import compile_taped
from three_backends import compiled, every_backend
from torch import Tensor, nn
from toys import count_branches, noise, random_schedule, timesteps, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.adapters import describe
from l2c_rt.correctors import Goc, corrected
from l2c_rt.policies import EveryN
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions

STEPS, IMAGES, LANES = 9, 2, 2


def two_lanes(
    model: nn.Module, *, terms: int = 3, swapped: bool = False, steps: int = STEPS
) -> CacheSchedule:
    """Every reused branch is predicted, by other coefficients in each lane."""
    plain = random_schedule(steps, count_branches(model), seed=3)
    random = np.random.default_rng(0)
    sources = np.full((*plain.compute.shape, terms), -1, np.int16)
    for s, k in np.argwhere(~plain.compute).tolist():
        sources[s, k, : min(s, terms)] = range(s - 1, max(s - 1 - terms, -1), -1)
    coefficients = random.normal(0.3, 0.4, (LANES, *sources.shape))
    order = slice(None, None, -1) if swapped else slice(None)
    predictions = Predictions(sources, coefficients[order])
    return CacheSchedule(plain.compute, predictions=predictions)


class LaneOracle(Oracle):
    """Keeps every value of every branch, and predicts each half of the batch as the definition
    says of its lane."""

    def __init__(self, model: nn.Module, schedule: CacheSchedule, lanes: list[int]) -> None:
        self.predictions, self.sample_lanes = schedule.predictions, lanes
        super().__init__(model, schedule.compute)

    def _branch(self, k: int, f: nn.Module, x: Tensor) -> Tensor:
        s = self.calls
        if self.row[k]:
            value = f(x)
        else:
            parts = [self._predicted(s, k, b, lane) for b, lane in enumerate(self.sample_lanes)]
            value = torch.stack(parts)
        self.kept[s, k] = value
        return value

    def _predicted(self, s: int, k: int, b: int, lane: int) -> Tensor:
        (first, c), *others = self.predictions.at(s, k, lane)
        total = self.kept[first, k][b] * c
        for q, number in others:
            total.add_(self.kept[q, k][b], alpha=number)
        return total


def guided_run(f: Any, *, twice: bool = True) -> list[Tensor]:
    """Calls on noise that moves on by what a call gave, both halves of the same latents."""
    x, labels = noise(7), torch.tensor([1, 2, 3, 3])
    outputs = []
    for t in timesteps(STEPS):
        batch = torch.cat([x, x]) if twice else torch.cat([x, x.flip(0)])
        with torch.no_grad():
            outputs.append(f(batch, torch.full((len(batch),), t), labels))
        x = 0.9 * x + 0.1 * outputs[-1][:IMAGES, : x.shape[1]]
    return outputs


@every_backend
@pytest.mark.parametrize("toy", [toy_dit, toy_uvit])
def test_each_half_of_a_guided_batch_takes_the_coefficients_of_its_lane(
    toy: Any, backend: str
) -> None:
    model = toy()
    fast = compiled(backend, model, two_lanes(model), timesteps=timesteps(STEPS))
    outputs = guided_run(fast)
    expected = guided_run(LaneOracle(model, two_lanes(model), [0, 0, 1, 1]))
    other = guided_run(LaneOracle(model, two_lanes(model, swapped=True), [0, 0, 1, 1]))
    for a, b in zip(outputs, expected, strict=True):
        assert relative(a, b) < 2e-6
    assert max(relative(a, b) for a, b in zip(outputs, other, strict=True)) > 1e-3


@pytest.mark.parametrize("toy", [toy_dit, toy_uvit])
def test_the_reference_is_the_naive_run_bitwise(toy: Any) -> None:
    """With sums of one term, which have no order."""
    model = toy()
    schedule = two_lanes(model, terms=1)
    fast = rt.compile(model, schedule, backend="reference", timesteps=timesteps(STEPS))
    expected = guided_run(LaneOracle(model, schedule, [0, 0, 1, 1]))
    for a, b in zip(guided_run(fast), expected, strict=True):
        assert torch.equal(a, b)


@every_backend
def test_all_of_a_batch_without_guidance_is_in_the_first_lane(backend: str) -> None:
    model = toy_dit()
    fast = compiled(backend, model, two_lanes(model), timesteps=timesteps(STEPS))
    outputs = guided_run(fast, twice=False)
    expected = guided_run(LaneOracle(model, two_lanes(model), [0] * 4), twice=False)
    for a, b in zip(outputs, expected, strict=True):
        assert relative(a, b) < 2e-6


@every_backend
def test_the_calls_of_a_step_are_lanes(backend: str) -> None:
    model = toy_dit()
    schedule = two_lanes(model)
    fast = compiled(backend, model, schedule, timesteps=timesteps(STEPS), calls_per_step=2)
    oracles = [LaneOracle(model, schedule, [lane] * IMAGES) for lane in range(LANES)]
    x, labels = noise(7), torch.tensor([1, 2])
    for t in timesteps(STEPS):
        times = torch.full((IMAGES,), t)
        both = (labels, labels + 1)
        with torch.no_grad():
            outputs = [fast(x, times, y) for y in both]
            expected = [f(x, times, y) for f, y in zip(oracles, both, strict=True)]
        for a, b in zip(outputs, expected, strict=True):
            assert relative(a, b) < 2e-6
        x = 0.9 * x + 0.1 * outputs[0][:, : x.shape[1]]


def test_lanes_that_are_not_the_calls_of_a_step_are_refused() -> None:
    model = toy_dit()
    with pytest.raises(ValueError, match="2 lanes, the loop has 3 calls per step; fit anew"):
        rt.compile(model, two_lanes(model), calls_per_step=3)


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("window", [1 << 30, 20_000])
@pytest.mark.parametrize("toy", [toy_dit, toy_uvit])
def test_whole_runs_on_a_gpu_take_each_half_its_own_coefficients(
    toy: Any, window: int, graph: str
) -> None:
    model = toy()
    schedule = two_lanes(model, steps=10)
    taped = compile_taped(model, schedule, graph=graph, table_bytes=window)
    reference = rt.compile(model, schedule, backend="reference")
    for scale in (1.5, reference.bound_model.sampling.guidance.neutral):
        expected = reference.sample(noise(0), [1, 2], cfg_scale=scale)
        assert relative(taped.sample(noise(0), [1, 2], cfg_scale=scale), expected) < 1e-5


@pytest.mark.parametrize("granularity", ["branch", "block"])
@pytest.mark.parametrize("taped", [False, True])
def test_the_own_forward_tells_lanes_apart_also_in_merged_blocks(
    granularity: str, taped: bool
) -> None:
    """Each half gives what it gives where its coefficients are those of all."""
    net = built(OneStream)
    names = describe(net, granularity=granularity).program.branch_names
    schedule = corrected(EveryN(3).schedule(STEPS, names), Goc(0.5, None))
    first = schedule.predictions.coefficients[0]
    options = {"timesteps": times(STEPS), "granularity": granularity}
    make = partial(compile_own, adapter=None) if taped else rt.compile

    def halves(fast: Any) -> list[Tensor]:
        with torch.no_grad():
            return [
                fast(**{name: torch.cat([x, x]) for name, x in inputs(step).items()}).clone()
                for step in range(STEPS)
            ]

    def compiled_with(*factors: float) -> Any:
        lanes = np.stack([factor * first for factor in factors])
        predictions = replace(schedule.predictions, coefficients=lanes)
        return make(net, replace(schedule, predictions=predictions), **options)

    fast = compiled_with(1.0, 0.7)
    alone = [halves(compiled_with(factor)) for factor in (1.0, 0.7)]
    for _ in range(3):
        for out, cond, uncond in zip(halves(fast), *alone, strict=True):
            expected = torch.cat([cond.chunk(2)[0], uncond.chunk(2)[1]])
            assert torch.equal(out, expected)
    assert max(relative(a, b) for a, b in zip(*alone, strict=True)) > 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("toy", [toy_dit, toy_uvit])
def test_a_gpu_tells_lanes_apart_in_calls_and_whole_runs(toy: Any) -> None:
    schedule = two_lanes(toy(), steps=10)
    options = {"backend": "fused", "tune": False}
    fused = rt.compile(toy().cuda(), schedule, **options)
    swapped = rt.compile(toy().cuda(), two_lanes(toy(), swapped=True, steps=10), **options)
    reference = rt.compile(toy(), schedule, backend="reference")
    expected = reference.sample(noise(0), [1, 2], cfg_scale=1.5)
    assert relative(fused.sample(noise(0).cuda(), [1, 2], cfg_scale=1.5).cpu(), expected) < 1e-4
    other = swapped.sample(noise(0).cuda(), [1, 2], cfg_scale=1.5).cpu()
    assert relative(other, expected) > 1e-3
    calls = rt.compile(toy().cuda(), two_lanes(toy()), timesteps=timesteps(STEPS), **options)
    expected = guided_run(rt.compile(toy(), two_lanes(toy()), timesteps=timesteps(STEPS)))

    def on_the_gpu(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return calls(x.cuda(), t.cuda(), y.cuda()).cpu()

    for a, b in zip(guided_run(on_the_gpu), expected, strict=True):
        assert relative(a, b) < 1e-4
