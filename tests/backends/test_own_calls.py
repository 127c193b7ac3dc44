"""What calls of the own route cost, and when that is found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from block_models import OneStream, built, inputs, times
from toys import call_inputs, toy_dit

import l2c_rt as rt
from l2c_rt.adapters.own.describe import describe_own
from l2c_rt.adapters.own.probe import probe
from l2c_rt.backends import own_calls
from l2c_rt.policies import EveryN

STEPS = 4


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one at every probe."""
    times: list[int] = []

    def counting(*args: Any) -> Any:
        times.append(1)
        return probe(*args)

    monkeypatch.setattr(own_calls, "probe", counting)
    return times


def compiled(model: Any, **options: Any) -> Any:
    return rt.compile(model, EveryN(2), steps=STEPS, timesteps=times(STEPS), **options)


def call(fast: Any, step: int = 0, tokens: int = 6) -> None:
    with torch.no_grad():
        fast(**inputs(step, tokens))


@pytest.mark.parametrize("granularity", ["branch", "block"])
def test_the_limit_is_counted_at_the_first_call_and_estimated_before(granularity: str) -> None:
    fast = compiled(built(OneStream), granularity=granularity)
    assert "not counted yet" in str(fast.summary())
    before = fast.cost.full_macs
    call(fast)
    # Per image and evaluation: two linears of width 8 in each of four blocks, and both ends.
    assert fast.cost.full_macs == STEPS * 10 * 6 * 8 * 8
    assert fast.cost.full_macs == 6 * before
    assert fast.cost.speedup_limit == pytest.approx(40 / (3 * 10 + 2))
    assert "not counted yet" not in str(fast.summary())


def test_a_dit_costs_on_the_own_route_what_its_adapter_says() -> None:
    model = toy_dit()
    adapter = rt.compile(model, EveryN(2), steps=STEPS)
    branch = rt.compile(model, EveryN(2), steps=STEPS, adapter=describe_own)
    block = rt.compile(model, EveryN(2), steps=STEPS, granularity="block")
    for fast in (branch, block):
        fast(*call_inputs(0))
    assert left_out(branch) == left_out(adapter)
    # A block leaves out its modulation as well.
    pairs = zip(left_out(block), left_out(adapter), strict=True)
    assert all(ours > theirs or ours == theirs == 0 for ours, theirs in pairs)


def left_out(fast: Any) -> list[int]:
    """The arithmetic that each evaluation saves."""
    pairs = zip(fast.cost.full, fast.cost.cached, strict=True)
    return [full.all_macs - cached.all_macs for full, cached in pairs]


def test_a_call_is_probed_once_for_all_lanes_and_sessions(probed: list[int]) -> None:
    fast = compiled(built(OneStream), granularity="block", calls_per_step=2)
    for step in range(STEPS):
        call(fast, step), call(fast, step)
    with fast.session() as session:
        call(session), call(session)
        session.reset()
    assert len(probed) == 1
    fast.reset()
    call(fast, tokens=7)
    assert len(probed) == 2


def test_a_published_loop_runs_over_blocks() -> None:
    model = toy_dit()
    fast = rt.compile(model, EveryN(2), steps=STEPS, granularity="block")
    full = rt.compile(model, rt.policies.Full(), steps=STEPS, backend="reference")
    exact = rt.compile(model, rt.policies.Full(), steps=STEPS, granularity="block")
    noise, labels = torch.randn(2, 4, 8, 8), [1, 2]
    assert torch.equal(exact.sample(noise, labels), full.sample(noise, labels))
    once = fast.sample(noise, labels)
    assert torch.equal(once, fast.sample(noise, labels))
    assert not torch.equal(once, full.sample(noise, labels))


def test_a_call_under_autocast_is_another_one(probed: list[int]) -> None:
    model = built(OneStream)
    fast = compiled(model, granularity="block")
    call(fast)
    fast.reset()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        outputs = [fast(**inputs(step)) for step in range(STEPS)]
        assert torch.equal(outputs[0], model(**inputs(0)))
    assert outputs[0].dtype == torch.bfloat16
    assert len(probed) == 2
    assert fast.summary().slots == 1
