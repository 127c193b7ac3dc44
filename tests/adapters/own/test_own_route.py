"""Models without an adapter: their own forward, cut at their attention and MLP modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import call_inputs, toy_dit

import l2c_rt as rt
from l2c_rt.adapters.own.describe import describe_own
from l2c_rt.policies import EveryN, Full, Random

STEPS = 6


class Block(nn.Module):
    """Attention that gives a tuple, and an MLP that is called once per stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = TwoStreams(width)
        self.ff = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        attended, text_attended = self.attn(x, text)
        x, text = x + gate * attended, text + text_attended
        return x + gate * self.ff(x), text + self.ff(text)


class TwoStreams(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        both = self.proj(torch.cat([x, text], dim=1)).softmax(dim=1)
        return both[:, : x.shape[1]], both[:, x.shape[1] :]


class SingleBlock(nn.Module):
    """Attention and MLP side by side through one linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.Linear(width, width)
        self.proj_mlp = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(3 * width, width)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        hidden = torch.cat([self.attn(x), self.proj_mlp(x).tanh()], dim=2)
        return x + gate * self.proj_out(hidden)


class TwoStreamModel(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.single_blocks = nn.ModuleList(SingleBlock(width) for _ in range(3))

    def forward(self, hidden_states: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        gate = timestep.cos()[:, None, None]
        for block in self.blocks:
            hidden_states, text = block(hidden_states, text, gate)
        joined = torch.cat([hidden_states, text], dim=1)
        for block in self.single_blocks:
            joined = block(joined, gate)
        return joined


def model() -> TwoStreamModel:
    torch.manual_seed(0)
    return TwoStreamModel().eval()


def inputs(step: int, tokens: int = 5) -> dict[str, Any]:
    g = torch.Generator().manual_seed(step)
    return {
        "hidden_states": torch.randn(2, tokens, 8, generator=g),
        "timestep": torch.full((2,), 900.0 - step),
        "text": torch.randn(2, 3, 8, generator=g),
    }


def run(fast: Any, steps: int = STEPS, tokens: int = 5) -> list[Tensor]:
    with torch.no_grad():
        return [fast(**inputs(step, tokens)) for step in range(steps)]


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_branches_are_the_attention_and_mlp_modules_of_the_blocks() -> None:
    fast = rt.compile(model(), Full(), steps=2)
    assert fast.backend.name == "own"
    assert fast.schedule.branches == (
        "blocks.0.attn", "blocks.0.ff", "blocks.1.attn", "blocks.1.ff",
        "single_blocks.0.proj_out", "single_blocks.1.proj_out", "single_blocks.2.proj_out",
    )  # fmt: skip


def test_computing_everything_is_bitwise_the_model() -> None:
    net = model()
    assert all_equal(run(rt.compile(net, Full(), steps=STEPS)), run(net))


def test_cached_runs_equal_each_other_and_differ_from_the_model() -> None:
    net = model()
    fast = rt.compile(net, EveryN(2), steps=STEPS)
    first = run(fast)
    assert all_equal(first, run(fast))
    full_rows = fast.schedule.compute.all(axis=1)
    assert [torch.equal(a, b) for a, b in zip(first, run(net), strict=True)] == full_rows.tolist()


def test_memory_is_taken_at_the_first_evaluation_only_and_is_poisoned_without_effect() -> None:
    fast = rt.compile(model(), EveryN(2), steps=STEPS)
    run(fast, 1)
    taken = fast.summary().arena_allocations
    assert taken > 0
    fast.reset()
    first = run(fast)
    fast.poison()
    assert all_equal(first, run(fast))
    fast.sleep()
    assert fast.summary().slot_bytes == 0
    fast.wake()
    assert all_equal(first, run(fast))
    assert fast.summary().arena_allocations == 2 * taken


def test_another_shape_of_the_inputs_is_another_lane() -> None:
    fast = rt.compile(model(), EveryN(2), steps=STEPS)
    first, other = run(fast), run(fast, tokens=7)
    assert all_equal(first, run(fast))
    assert all_equal(other, run(fast, tokens=7))


def test_an_aborted_run_leaves_nothing() -> None:
    fast = rt.compile(model(), EveryN(2), steps=STEPS)
    first = run(fast)
    run(fast, 2)
    fast.reset()
    assert all_equal(first, run(fast))


def test_positional_timesteps_place_the_calls() -> None:
    fast = rt.compile(model(), EveryN(2), steps=2, timesteps=[900.0, 899.0])
    x, _, text = inputs(0).values()
    with pytest.raises(ValueError, match="900"):
        fast(x, torch.tensor([5.0, 5.0]), text)


def test_the_own_route_is_bitwise_the_hand_written_adapter() -> None:
    net = toy_dit()
    hand = rt.compile(net, Random(0.5, 1), steps=STEPS)
    own = rt.compile(net, Random(0.5, 1), steps=STEPS, adapter=describe_own)
    assert (hand.backend.name, own.backend.name) == ("reference", "own")
    for step in range(STEPS):
        assert torch.equal(hand(*call_inputs(step)), own(*call_inputs(step)))
