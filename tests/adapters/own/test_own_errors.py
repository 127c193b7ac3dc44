"""Forwards that do other things than at evaluation 0: refused, with values, the model untouched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import all_equal, call_of, run_loop, times, two_stream_model
from torch import Tensor, nn

import l2c_rt as rt
from l2c_rt.policies import EveryN, Full
from l2c_rt.schedule.cache_schedule import CacheSchedule

STEPS = 4


class Returns(nn.Module):
    """A branch that gives whatever it is told to give."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.value = nn.Linear(8, 8), lambda out: out

    def forward(self, x: Tensor) -> Any:
        return self.value(self.linear(x))


class InPlace(nn.Module):
    """A block that scales its attention's output where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.in_place = Returns(), False

    def forward(self, x: Tensor) -> Tensor:
        out = self.attn(x)
        if isinstance(out, Tensor):
            out = out.mul_(0.5) if self.in_place else out * 0.5
        return x + out if isinstance(out, Tensor) else x


class InPlaceModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([InPlace()])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.blocks[0](x)
        return out


def table(*rows: bool) -> CacheSchedule:
    return CacheSchedule(torch.tensor([[row] for row in rows]).numpy(), ("blocks.0.attn",))


def x_and_t(step: int) -> tuple[Tensor, Tensor]:
    return call_of(step)["hidden_states"], torch.full((2,), 900.0 - step)


@pytest.mark.parametrize("at", [1, 2])
def test_a_layer_that_is_skipped_at_a_later_evaluation_is_named(at: int) -> None:
    net = two_stream_model()
    fast = rt.compile(net, EveryN(2), steps=STEPS, timesteps=times(STEPS))
    expected = run_loop(fast, STEPS)
    run_loop(fast, at)
    message = "blocks.1.attn was called not and once at evaluation 0"
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        fast(**call_of(at), skip=(1,))
    assert all_equal(run_loop(fast, STEPS), expected)


@pytest.mark.parametrize("at", [1, 2])
def test_a_layer_that_is_called_at_a_later_evaluation_only_is_named(at: int) -> None:
    fast = rt.compile(two_stream_model(), EveryN(2), steps=STEPS, timesteps=times(STEPS))
    with torch.no_grad():
        for step in range(at):
            fast(**call_of(step), skip=(1,))
        with pytest.raises(
            ValueError, match="blocks.1.attn was called once and not at evaluation 0"
        ):
            fast(**call_of(at))


@pytest.mark.parametrize("at", [1, 2])
def test_a_layer_that_is_called_more_often_is_named(at: int) -> None:
    net = two_stream_model()
    fast = rt.compile(net, EveryN(2), steps=STEPS, timesteps=times(STEPS))
    run_loop(fast, at, text=5)
    for twin in stages(fast):
        twin.blocks[1].repeats = 2
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="blocks.1.ff was called 3 times and twice"),
    ):
        fast(**call_of(at, text=5))
    assert net.blocks[1].repeats == 1


def stages(fast: Any) -> list[Any]:
    return [lane.workspace._stage.root for lane in fast.run.lanes.all()]


def test_another_number_of_calls_in_another_run_is_fine() -> None:
    net = two_stream_model()
    fast = rt.compile(net, EveryN(2), steps=STEPS, timesteps=times(STEPS))
    once = run_loop(fast, STEPS)
    for block in net.blocks:
        block.repeats = 2
    again = rt.compile(net, EveryN(2), steps=STEPS, timesteps=times(STEPS))
    twice = run_loop(fast, STEPS)
    assert all_equal(twice, run_loop(again, STEPS))
    assert not all_equal(twice, once)


def test_an_output_of_another_shape_within_a_run_is_refused_with_both() -> None:
    fast = rt.compile(two_stream_model(), EveryN(2), steps=STEPS, timesteps=times(STEPS))
    run_loop(fast, 3)
    message = (
        r"output of blocks.0.attn: \[2, 5, 8\] float32, \[2, 4, 8\] float32, but earlier in the "
        r"run \[2, 5, 8\] float32, \[2, 3, 8\] float32"
    )
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        fast(**call_of(3, text=4))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda out: {"sample": out}, "output of blocks.0.attn: got a dict, wanted a tensor"),
        (lambda out: (out, (out,)), "output of blocks.0.attn: got a tuple, wanted a tensor"),
    ],
)
def test_an_output_that_is_not_made_of_tensors_is_refused(value: Any, message: str) -> None:
    net = InPlaceModel().eval()
    net.blocks[0].attn.value = value
    fast = rt.compile(net, table(True, False), timesteps=times(2))
    with torch.no_grad(), pytest.raises(TypeError, match=message):
        fast(*x_and_t(0))


def test_a_write_to_a_kept_output_is_noticed_before_it_is_read_again() -> None:
    net = InPlaceModel().eval()
    net.blocks[0].in_place = True
    fast = rt.compile(net, table(True, False, False), timesteps=times(3))
    with torch.no_grad():
        fast(*x_and_t(0))
        fast(*x_and_t(1))
        with pytest.raises(ValueError, match="blocks.0.attn: .*wrote to a kept output in place"):
            fast(*x_and_t(2))


def test_a_site_that_the_user_named_must_be_called() -> None:
    net = two_stream_model()
    fast = rt.compile(net, Full(), steps=2, sites=["blocks.*.attn.proj", "blocks.*.ff"])
    with torch.no_grad():
        fast(**call_of(0))
        fast.reset()
        message = "blocks.1.attn.proj, blocks.1.ff: not called by the model's forward"
        with pytest.raises(ValueError, match=message):
            fast(**call_of(0), skip=(1,))


def test_a_model_none_of_whose_branches_is_called_is_refused() -> None:
    net = two_stream_model()
    net.single_blocks = nn.ModuleList()
    fast = rt.compile(net, Full(), steps=2)
    message = r"blocks.0.attn, blocks.0.ff, blocks.1.attn, blocks.1.ff: not called"
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        fast(**call_of(0), skip=(0, 1))


def test_a_branch_with_nothing_to_do_is_no_error_where_the_rule_found_it() -> None:
    net = two_stream_model()
    fast = rt.compile(net, EveryN(2), steps=STEPS, timesteps=times(STEPS))
    with torch.no_grad():
        outputs = [fast(**call_of(step), skip=(0,)) for step in range(STEPS)]
        own = [net(**call_of(step), skip=(0,)) for step in range(STEPS)]
    assert [torch.equal(a, b) for a, b in zip(outputs, own, strict=True)] == [
        True, True, False, True
    ]  # fmt: skip
