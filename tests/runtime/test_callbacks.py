"""The callback of `sample`: it sees copies and cannot change the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import random_schedule, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.notices import L2CWarning

NOISE, LABELS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), [1, 2]


@pytest.fixture(params=[toy_dit, toy_uvit])
def fast(request: pytest.FixtureRequest) -> rt.Compiled:
    model = request.param()
    program = rt.compile(model, rt.policies.Full(), steps=2).bound_model.program
    return rt.compile(model, random_schedule(4, len(program.branch_names)))


def test_what_a_callback_writes_does_not_change_the_run(fast: rt.Compiled) -> None:
    plain = fast.sample(NOISE, LABELS)

    def spoil(step: int, latents: Tensor) -> None:
        latents.fill_(float("nan"))

    noise = NOISE.clone()
    assert torch.equal(fast.sample(noise, LABELS, callback=spoil), plain)
    assert torch.equal(noise, NOISE)


def test_kept_latents_stay_as_they_were_and_the_last_are_the_result(fast: rt.Compiled) -> None:
    kept: list[tuple[Tensor, Tensor]] = []
    result = fast.sample(NOISE, LABELS, callback=lambda _, x: kept.append((x, x.clone())))
    assert all(torch.equal(now, then) for now, then in kept)
    assert torch.equal(kept[-1][0], result)
    assert kept[-1][0].data_ptr() != result.data_ptr()


def test_previews_are_float32_on_the_host_whatever_the_latents_are(fast: rt.Compiled) -> None:
    seen: list[Tensor] = []
    fast.sample(NOISE.double(), LABELS, callback=lambda _, x: seen.append(x))
    assert {(x.dtype, x.device.type) for x in seen} == {(torch.float32, "cpu")}


@pytest.mark.parametrize(
    "returns",
    [
        torch.zeros_like,
        lambda x: {"latents": x},
        lambda x: (x,),
        lambda x: [torch.zeros(1)],
        lambda x: x.clone(),
    ],
)
def test_returned_latents_are_an_error_at_the_first_step(
    fast: rt.Compiled, returns: Callable[[Tensor], Any]
) -> None:
    steps: list[int] = []

    def callback(step: int, latents: Tensor) -> Any:
        steps.append(step)
        return returns(latents)

    plain = fast.sample(NOISE, LABELS)
    with pytest.raises(TypeError, match="callbacks are for previews"):
        fast.sample(NOISE, LABELS, callback=callback)
    assert steps == [0]
    assert torch.equal(fast.sample(NOISE, LABELS), plain)


@pytest.mark.parametrize("value", [None, True, 3, "text", {"step": 1}, []])
def test_other_values_may_be_returned_as_progress_bars_do(fast: rt.Compiled, value: Any) -> None:
    fast.sample(NOISE, LABELS, callback=lambda *_: value)


def test_the_very_latents_returned_are_warned_of_once_and_change_nothing(
    fast: rt.Compiled,
) -> None:
    plain = fast.sample(NOISE, LABELS)
    with pytest.warns(L2CWarning, match="writing to them does not change the run"):
        got = fast.sample(NOISE, LABELS, callback=lambda _, x: x.clamp_(-1, 1))
    assert torch.equal(got, plain)
    fast.sample(NOISE, LABELS, callback=lambda _, x: x.clamp_(-1, 1))


def test_a_callback_that_cannot_be_called_is_refused_before_the_run(fast: rt.Compiled) -> None:
    with pytest.raises(TypeError, match="callback must be callable.*got int"):
        fast.sample(NOISE, LABELS, callback=3)  # type: ignore[arg-type]
    assert fast.summary().calls == 0
