"""EasyCache and SeaCache against their formulas written out on a small model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from small_diffusers import SMALL
from torch import Tensor, nn
from toys import noise, toy_dit

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
    """Calls of a model for cond and uncond in turn, or one, the published rule in plain words."""

    def __init__(self, model: nn.Module, threshold: float, first: int, lanes: int = 2) -> None:
        self.model, self.threshold, self.first, self.lanes = model, threshold, first, lanes
        self.calls, self.sum, self.k = 0, 0.0, 0.0
        self.before: Tensor | None = None
        self.computed: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self.decisions: list[list[bool]] = []

    def __call__(self, hidden_states: Tensor, *args: Any, **given: Any) -> tuple[Tensor]:
        (step, lane), x = divmod(self.calls, self.lanes), hidden_states
        self.calls += 1
        if lane == 0:
            self.decisions.append([self.decide(step, x)] * self.lanes)
            self.before = x
        if not self.decisions[-1][0]:
            kept_x, kept_v, variances = self.computed[lane]
            return (torch.cat([x + (kept_v - kept_x), variances], dim=1),)
        out = self.model(x, *args, **given)
        out = out if isinstance(out, Tensor) else out[0]
        v, variances = out[:, : x.shape[1]], out[:, x.shape[1] :]
        if lane == 0 and self.computed:
            kept_x, kept_v, _ = self.computed[0]
            self.k = float((v - kept_v).abs().mean() / (x - kept_x).abs().mean())
        self.computed[lane] = x, v, variances
        return (torch.cat([v, variances], dim=1),)

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


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_easycache_compares_the_first_half_of_an_output_that_predicts_variances(
    threshold: float,
) -> None:
    """Its other half decides nothing, and is that of the last computed call."""
    model = toy_dit(learn_sigma=True)
    # Variances that hardly change, beside which the output would seem to change little.
    model.final_layer.linear.bias.view(-1, 8)[:, 4:].fill_(100.0)
    times = [950.0 - 50 * k for k in range(STEPS)]
    plain = PlainEasyCache(model, threshold, 2, lanes=1)
    fast = rt.compile(model, EasyCache(threshold, 2), steps=STEPS, timesteps=times)
    x, label = noise(), torch.tensor([1, 2])
    for t in times:
        at = torch.full((len(x),), t)
        out, (expected,) = fast(x, at, label), plain(x, at, label)
        assert out.shape == expected.shape
        for half, wanted in zip(out.chunk(2, 1), expected.chunk(2, 1), strict=True):
            assert (half - wanted).abs().max() < 1e-5 * wanted.abs().max()
        x = 0.98 * x + 0.02 * expected[:, :4]
    last = fast.last_run
    assert last.computed.tolist() == plain.decisions
    assert 3 < last.computed.sum() < STEPS


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
