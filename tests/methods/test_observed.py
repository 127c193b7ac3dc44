"""EasyCache and SeaCache against their formulas written out on a small model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from small_diffusers import SMALL
from torch import Tensor, nn

import l2c_rt as rt
from l2c_rt.backends.dynamic.filtered import gain
from l2c_rt.methods import EasyCache, SeaCache

STEPS = 20


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def wan_run(method: Any) -> tuple[list[Tensor], Any]:
    make, calls, timesteps = SMALL["wan"]
    fast = rt.compile(make(), method, steps=STEPS, timesteps=timesteps(STEPS), calls_per_step=2)
    return list(calls(fast, STEPS)), fast.last_run


class PlainEasyCache:
    """Calls of a model for cond and uncond in turn, the published rule in plain words."""

    def __init__(self, model: nn.Module, threshold: float, first: int) -> None:
        self.model, self.threshold, self.first = model, threshold, first
        self.calls, self.sum, self.k = 0, 0.0, 0.0
        self.before: Tensor | None = None
        self.computed: dict[int, tuple[Tensor, Tensor]] = {}
        self.decisions: list[list[bool]] = []

    def __call__(self, hidden_states: Tensor, **given: Any) -> tuple[Tensor]:
        (step, lane), x = divmod(self.calls, 2), hidden_states
        self.calls += 1
        if lane == 0:
            self.decisions.append([self.decide(step, x)] * 2)
            self.before = x
        if not self.decisions[-1][0]:
            kept_x, kept_v = self.computed[lane]
            return (x + (kept_v - kept_x),)
        (v,) = self.model(hidden_states=x, **given)
        if lane == 0 and self.computed:
            kept_x, kept_v = self.computed[0]
            self.k = float((v - kept_v).abs().mean() / (x - kept_x).abs().mean())
        self.computed[lane] = x, v
        return (v,)

    def decide(self, step: int, x: Tensor) -> bool:
        if self.first <= step < STEPS - 1:
            assert self.before is not None
            change = float((x - self.before).abs().mean())
            self.sum += self.k * change / float(self.computed[0][1].abs().mean())
            if self.sum < self.threshold:
                return False
        self.sum = 0.0
        return True


@pytest.mark.parametrize("threshold", [0.12, 0.2])
def test_easycache_is_its_formula(threshold: float) -> None:
    make, calls, _ = SMALL["wan"]
    plain = PlainEasyCache(make(), threshold, 5)
    expected = list(calls(plain, STEPS))
    outputs, last = wan_run(EasyCache(threshold, 5))
    assert last.computed.tolist() == plain.decisions
    assert 6 < last.computed[:, 0].sum() < STEPS
    for a, b in zip(outputs, expected, strict=True):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


def test_the_filter_has_a_mean_of_1_and_passes_less_of_high_frequencies_with_more_noise() -> None:
    clean, noisy = gain((3, 8, 8), 0.05, 3.0), gain((3, 8, 8), 0.95, 3.0)
    assert clean.mean().item() == pytest.approx(1.0)
    assert noisy.mean().item() == pytest.approx(1.0)
    assert noisy[0, 0, 4] / noisy[0, 0, 1] < clean[0, 0, 4] / clean[0, 0, 1]


def test_both_calls_of_seacache_see_the_same_latents_and_decide_alike() -> None:
    _, last = wan_run(SeaCache(0.4, max_consecutive_cached=3, cache_end_steps=2))
    assert (last.computed[:, 0] == last.computed[:, 1]).all()
    assert last.computed[[0, -2, -1], 0].all()
    runs = "".join("x" if c else "." for c in last.computed[:, 0]).split("x")
    assert max(map(len, runs)) == 3


def test_noise_levels_given_are_those_of_the_timesteps() -> None:
    timesteps = SMALL["wan"][2](STEPS)
    given, taken = (
        wan_run(SeaCache(0.3, sigmas=sigmas))[1] for sigmas in ([t / 1000 for t in timesteps], None)
    )
    np.testing.assert_allclose(given.metric, taken.metric, rtol=1e-5)


def test_a_residual_of_order_1_is_a_line_through_the_last_two() -> None:
    from l2c_rt.plan.decisions import At

    method = SeaCache()
    assert method.prediction((0, 3, 5), At(7, 9)) == pytest.approx({3: -1.0, 5: 2.0})
    assert SeaCache(residual_order=0).history == 1


def test_a_noise_level_that_the_loop_announces_takes_the_place_of_the_timesteps() -> None:
    make, calls, timesteps = SMALL["wan"]
    sigmas = [0.9 - 0.02 * step for step in range(STEPS)]
    _, given = wan_run(SeaCache(0.3, sigmas=sigmas))
    times = timesteps(STEPS)
    fast = rt.compile(make(), SeaCache(0.3), steps=STEPS, timesteps=times, calls_per_step=2)
    numbers = iter(range(2 * STEPS))

    def announced(**arguments: Any) -> Any:
        step, lane = divmod(next(numbers), 2)
        with fast.cache_context(("cond", "uncond")[lane], sigma=sigmas[step]):
            return fast(**arguments)

    list(calls(announced, STEPS))
    np.testing.assert_array_equal(fast.last_run.metric, given.metric)
    assert not np.isnan(given.metric[1:-1]).all()
