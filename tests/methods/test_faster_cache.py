"""FasterCache and guidance intervals: halves of a batch left out, recovered, and refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from own_tapes import compile_own
from small_diffusers import SMALL, cogvideox, cogvideox_calls, cogvideox_timesteps, drawn
from torch import Tensor
from toys import noise, timesteps, toy_dit

import l2c_rt as rt
from l2c_rt.methods import FasterCache, GuidanceInterval
from l2c_rt.methods.faster_cache import compounded
from l2c_rt.notices import L2CWarning

STEPS = 20
TIMES = cogvideox_timesteps(STEPS)
METHOD = FasterCache(tensor_format="BFCHW")


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def compiled(method: Any = METHOD, **options: Any) -> Any:
    return rt.compile(cogvideox(), method, steps=STEPS, timesteps=TIMES, **options)


def run(fast: Any) -> list[Tensor]:
    return list(cogvideox_calls(fast, STEPS))


def differs(outputs: list[Tensor], others: list[Tensor]) -> float:
    pairs = zip(outputs, others, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def test_a_second_run_and_one_after_an_abandoned_run_are_bitwise_the_first() -> None:
    fast = compiled()
    first = run(fast)
    fast.poison()
    assert all(map(torch.equal, run(fast), first))
    calls = cogvideox_calls(fast, STEPS)
    for _ in range(12):
        next(calls)
    fast.reset()
    fast.poison()
    assert all(map(torch.equal, run(fast), first))


def test_slots_hold_the_conditional_rows_of_two_outputs_and_a_prediction() -> None:
    fast = compiled()
    run(fast)
    assert fast.plan.num_slots == 3 * 4
    assert all(len(tensor) == 1 for tensor in _kept(fast))


def _kept(fast: Any) -> list[Tensor]:
    values = fast.run.lanes.all()[0].slots.values
    return [tensor for kept in values._kept.values() for tensor in kept.tensors]


def test_graphs_replay_halved_evaluations_bitwise() -> None:
    plain = run(compiled())
    fast = compile_own(cogvideox(), METHOD, steps=STEPS, timesteps=TIMES, adapter=None)
    for _ in range(3):
        assert all(map(torch.equal, run(fast), plain))
    graphs = fast.summary().graphs
    assert graphs.reasons == ()
    assert graphs.graphs == len(fast.plan.steps)


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha_low_frequency": 1.0},
        {"attention_weight": 0.0},
        {"unconditional_batch_skip_range": 4},
        {"spatial_attention_block_skip_range": 3},
        {"low_frequency_weight_update_timestep_range": (99, 500)},
        {"high_frequency_weight_update_timestep_range": (-1, 201)},
    ],
)  # fmt: skip
def test_every_option_changes_the_outputs(wrong: dict[str, Any]) -> None:
    assert differs(run(compiled(replace(METHOD, **wrong))), run(compiled())) > 1e-5


def test_the_factors_compound_and_begin_anew_at_a_whole_evaluation() -> None:
    halved = np.array([0, 1, 1, 0, 1, 1, 1], bool)
    factors = np.array([1.1, 1.1, 1.1, 1.1, 1.0, 1.1, 1.1])
    expected = [1, 1.1, 1.21, 1, 1, 1.1, 1.21]
    np.testing.assert_allclose(compounded(factors, halved), expected)


def test_a_model_without_guidance_extrapolates_attention_from_evaluation_one_on() -> None:
    method = FasterCache(
        is_guidance_distilled=True, spatial_attention_timestep_skip_range=(-1, 1001)
    )
    make, calls, times = SMALL["flux"]
    fast = rt.compile(make(), method, steps=6, timesteps=times(6))
    assert fast.schedule.compute[:, 0].tolist() == [True, False, True, False, True, False]
    assert all(out.isfinite().all() for out in calls(fast, 6))


def test_cond_and_uncond_in_separate_calls_are_refused_at_compile() -> None:
    make, _, times = SMALL["wan"]
    with pytest.raises(ValueError, match="cond and uncond are separate calls"):
        rt.compile(make(), METHOD, steps=STEPS, timesteps=times(STEPS), calls_per_step=2)


def test_a_batch_that_is_not_two_halves_is_refused_at_its_first_call() -> None:
    x, text, t = torch.randn(2, 3, 4, 8, 8), torch.randn(2, 8, 24), torch.full((2,), int(TIMES[0]))
    arguments = {"encoder_hidden_states": text, "timestep": t, "return_dict": False}
    with pytest.raises(ValueError, match="of different latents"):
        compiled()(hidden_states=x, **arguments)
    with pytest.raises(ValueError, match="has 1 rows, wanted two halves"):
        compiled()(hidden_states=x[:1], encoder_hidden_states=text[:1], timestep=t[:1])
    same = torch.cat([x[:1], x[:1]])
    with pytest.raises(ValueError, match="wanted 4 dimensions, height and width last"):
        compiled(FasterCache(tensor_format="BCHW"))(hidden_states=same, **arguments)


def test_timesteps_are_needed() -> None:
    for method in (FasterCache(), GuidanceInterval()):
        with pytest.raises(ValueError, match="give compile those of the run"):
            rt.compile(cogvideox(), method, steps=STEPS)


@pytest.mark.parametrize(
    "options",
    [
        {"unconditional_batch_skip_range": 0}, {"unconditional_batch_skip_range": None},
        {"spatial_attention_block_skip_range": 1.5}, {"alpha_low_frequency": float("nan")},
        {"attention_weight": "linear"}, {"tensor_format": "BHWC"},
        {"spatial_attention_timestep_skip_range": (5, 5)},
        {"unconditional_batch_timestep_skip_range": 641},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"FasterCache: {next(iter(options))} is .* wanted"):
        FasterCache(**options)


def test_a_guidance_interval_gives_the_conditional_prediction_outside_of_it() -> None:
    low, high = 200, 801
    fast = compiled(GuidanceInterval((low, high)))
    model = cogvideox()

    def naive(hidden_states: Tensor, timestep: Tensor, **others: Any) -> tuple[Tensor]:
        (out,) = model(hidden_states=hidden_states, timestep=timestep, **others)
        if low < float(timestep[0]) < high:
            return (out,)
        return (torch.cat([out[1:], out[1:]]),)

    assert differs(run(fast), run(naive)) < 2e-6
    assert fast.cost.macs < fast.cost.full_macs
    assert fast.plan.num_slots == 0


def test_a_loop_that_nobody_has_shown_keeps_its_guidance() -> None:
    model, branches = cogvideox(), tuple(compiled().schedule.branches)
    method = GuidanceInterval((200, 801))
    schedule = replace(method.schedule(STEPS, branches, timesteps=TIMES), timesteps=None)
    fast = rt.compile(model, schedule)
    text = torch.randn(2, 8, 24)
    for n, t in enumerate(TIMES[:3]):
        x = drawn(n, 1, 3, 4, 8, 8).repeat(2, 1, 1, 1, 1)
        arguments = {"encoder_hidden_states": text, "timestep": torch.full((2,), int(t))}
        arguments |= {"hidden_states": x, "return_dict": False}
        with pytest.warns(L2CWarning, match="computed in full") if n == 1 else nullcontext():
            (out,) = fast(**arguments)
        (expected,) = model(**arguments)
        if n == 0:
            expected = torch.cat([expected[1:], expected[1:]])
        assert torch.equal(out, expected)


def test_a_dit_runs_by_its_own_forward_conditional_half_first() -> None:
    model, times = toy_dit(2), [float(t) for t in timesteps(6)]
    x, y = torch.cat([noise(), noise()]), torch.tensor([1, 5, 10, 10])
    with pytest.warns(L2CWarning, match="half of a batch is left out"):
        fast = rt.compile(
            model, GuidanceInterval((950, 971), uncond_first=False), steps=6, timesteps=times
        )
    for n, t in enumerate(times):
        full = model(x * (1 + n), torch.full((4,), t), y)
        expected = full if 950 < t < 971 else torch.cat([full[:2], full[:2]])
        out = fast(x * (1 + n), torch.full((4,), t), y)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
