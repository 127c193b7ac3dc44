"""Whole blocks kept as what they add: each by itself, and neighbours as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from block_models import BlockOracle, OneStream, TwoStreams, built, inputs, times
from torch import Tensor

import l2c_rt as rt
from l2c_rt.backends import own_blocks
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN, Full, Random

STEPS = 6
TOLERANCE = 1e-5


def compiled(model: Any, policy: Any = None, **options: Any) -> Any:
    policy = EveryN(2) if policy is None else policy
    return rt.compile(
        model, policy, steps=STEPS, granularity="block", timesteps=times(STEPS), **options
    )


def run(model: Any, steps: int = STEPS, **sizes: Any) -> list[Tensor]:
    with torch.no_grad():
        return [model(**inputs(step, **sizes)) for step in range(steps)]


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def close(a: list[Tensor], b: list[Tensor]) -> bool:
    errors = [(x - y).abs().max() / y.abs().max() for x, y in zip(a, b, strict=True)]
    return bool(max(errors) < TOLERANCE)


CASES = [(OneStream, ("hidden_states",), {}),
         (TwoStreams, ("encoder_hidden_states", "hidden_states"), {"text": 3})]  # fmt: skip
every_model = pytest.mark.parametrize(("kind", "streams", "sizes"), CASES)


@every_model
def test_computing_everything_is_bitwise_the_model(kind: Any, streams: Any, sizes: Any) -> None:
    model = built(kind)
    assert all_equal(run(compiled(model, Full()), **sizes), run(model, **sizes))


@every_model
@pytest.mark.parametrize("policy", [EveryN(2), Random(0.5, seed=1), Random(0.7, seed=2)])
def test_unmerged_is_bitwise_plain_hooks_and_merged_is_close(
    kind: Any, streams: Any, sizes: Any, policy: Any
) -> None:
    model = built(kind, 5)
    apart, merged = compiled(model, policy, merge=False), compiled(model, policy)
    expected = run(BlockOracle(model, apart.schedule, streams), **sizes)
    assert all_equal(run(apart, **sizes), expected)
    assert close(run(merged, **sizes), expected)
    assert all_equal(run(merged, **sizes), run(merged, **sizes))
    assert not close(expected, run(model, **sizes))


def test_slots_are_what_the_plan_says_and_merging_leaves_one_of_equal_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = built(OneStream, 6)
    apart, merged = compiled(model, merge=False), compiled(model)
    run(apart, tokens=512), run(merged, tokens=512)
    value = 2 * 512 * 8 * 4
    print(apart.summary(), merged.summary(), sep="\n")
    assert (apart.summary().slots, apart.summary().slot_bytes) == (6, 6 * value)
    assert apart.summary().arena_allocations == 1
    assert apart.cost.slot_bytes(batch=2, itemsize=4) == 6 * value
    assert (merged.summary().slots, merged.summary().slot_bytes) == (1, value)
    assert "1 slots (6 before merging)" in capsys.readouterr().out


def test_columns_in_two_halves_take_half_the_slots() -> None:
    compute = np.ones((STEPS, 4), dtype=bool)
    compute[1, :2] = compute[2, 2:] = False
    model = built(OneStream, 4)
    schedule = rt.CacheSchedule(compute, tuple(f"blocks.{i}" for i in range(4)))
    merged = compiled(model, schedule)
    run(merged)
    assert (merged.summary().slots_unmerged, merged.summary().slots) == (4, 2)


def test_what_inner_blocks_hand_on_is_read_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(TwoStreams, 5)
    expected = run(compiled(model), text=3)
    through = own_blocks.BlockVisits._handed_through
    filled: list[int] = []

    def nan(self: Any, *args: Any) -> Any:
        handed = through(self, *args)
        filled.append(len(handed))
        return type(handed)(torch.full_like(part, torch.nan) for part in handed)

    monkeypatch.setattr(own_blocks.BlockVisits, "_handed_through", nan)
    assert all_equal(run(compiled(model), text=3), expected)
    assert filled


def test_a_kept_group_is_poisoned_between_runs_without_effect_and_sleeps() -> None:
    fast = compiled(built(OneStream))
    first = run(fast)
    fast.poison()
    assert all_equal(run(fast), first)
    run(fast, 2)
    fast.reset()
    fast.sleep()
    assert fast.summary().slot_bytes == 0
    fast.wake()
    assert all_equal(run(fast), first)


def test_a_control_that_comes_and_goes_is_another_call() -> None:
    """Residuals of a ControlNet: a gap before every block, but only where they are given."""
    control: list[Tensor] = []
    model = built(OneStream, between=lambda i, x: x + control[0] if control and i else x)
    fast = compiled(model)
    free = run(fast)
    assert fast.summary().slots == 1
    control.append(torch.ones(2, 6, 8))
    with pytest.raises(
        ValueError, match=r"blocks\.1: its hidden_states is not what blocks\.0 gave"
    ):
        run(fast)
    control.clear()
    assert all_equal(run(fast), free)


def test_what_the_code_between_blocks_does_is_a_gap() -> None:
    model = built(OneStream, between=lambda i, x: x * 2 if i == 2 else x)
    apart, merged = compiled(model, merge=False), compiled(model)
    expected = run(apart)
    assert close(run(merged), expected)
    assert (apart.summary().slots, merged.summary().slots) == (4, 2)


def test_a_long_skip_ends_a_group_where_it_begins() -> None:
    model = built(OneStream, 8, skips={5: 2, 6: 1, 7: 0})
    apart, merged = compiled(model, merge=False), compiled(model)
    expected = run(apart)
    assert close(run(merged), expected)
    assert not close(expected, run(model))
    # 0 | 1 | 2 | 3..7: what 0, 1 and 2 give is read again.
    assert merged.summary().slots == 4


def test_a_block_that_writes_to_its_argument_is_kept_by_itself_only() -> None:
    model = built(OneStream, in_place=True)
    with pytest.raises(ValueError, match=r'merge=False or granularity="branch"'):
        run(compiled(model))
    apart = compiled(model, merge=False)
    assert all_equal(run(apart), run(BlockOracle(model, apart.schedule, ("hidden_states",))))
    assert all_equal(run(compiled(model, Full())), run(model))


class WritesOnly(OneStream):
    """Takes what its blocks have written, not what they return."""

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        x, temb = self.proj_in(hidden_states), timestep[:, None].cos() / 2
        for block in self.blocks:
            block(x, temb)
        return x


def test_a_block_that_is_called_for_what_it_writes_writes_on_reuse_as_well() -> None:
    returned, written = built(OneStream, in_place=True), built(WritesOnly, in_place=True)
    returned.proj_out = torch.nn.Identity()
    assert all_equal(run(compiled(written, merge=False)), run(compiled(returned, merge=False)))


class Host(OneStream):
    """Reads a value on the host, which no twin on meta has."""

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        scale = float(hidden_states.abs().max().item())
        return super().forward(hidden_states / scale, timestep)


def test_a_forward_that_meta_stops_is_observed_at_evaluation_0_and_not_merged() -> None:
    model = built(Host)
    fast = compiled(model)
    with pytest.warns(L2CWarning, match="no blocks are merged"):
        first = run(fast)
    assert all_equal(first, run(BlockOracle(model, fast.schedule, ("hidden_states",))))
    assert all_equal(run(fast), first)
    assert fast.summary().slots == 4
    assert fast.cost.full_macs == compiled_cost_of_twin()


def compiled_cost_of_twin() -> int:
    fast = compiled(built(OneStream))
    run(fast, 1)
    return int(fast.cost.full_macs)


def test_another_shape_is_another_lane_and_sessions_are_apart() -> None:
    fast = compiled(built(TwoStreams))
    short, long = run(fast, text=3), run(fast, tokens=9, text=5)
    with fast.session() as one, fast.session() as other, torch.no_grad():
        for step in range(STEPS):
            assert torch.equal(one(**inputs(step, text=3)), short[step])
            assert torch.equal(other(**inputs(step, 9, text=5)), long[step])
    # The same latents with another text: the same lane with another plan.
    assert all_equal(run(fast, text=5), run(compiled(built(TwoStreams)), text=5))
    assert all_equal(run(fast, text=3), short)


def test_branches_may_lie_in_one_model_and_blocks_in_the_other() -> None:
    model = built(OneStream)
    branch = rt.compile(model, EveryN(2), steps=STEPS, timesteps=times(STEPS))
    block = compiled(model)
    assert branch.schedule.num_branches == 2 * block.schedule.num_branches
    a, b = run(branch), run(block)
    assert all_equal(run(branch), a)
    assert all_equal(run(block), b)


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"granularity": "layer"}, ValueError, "'branch', 'block' or 'model'"),
    ({"granularity": "block", "merge": 1}, TypeError, "merge: wanted True or False"),
    ({"granularity": "block", "sites": ["blocks"]}, ValueError, "never called"),
])  # fmt: skip
def test_what_is_asked_wrongly_is_refused(options: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        rt.compile(built(OneStream), EveryN(2), steps=STEPS, **options)


def test_sites_name_the_blocks_of_a_model_that_no_rule_fits() -> None:
    model = built(OneStream)
    fast = compiled(model, sites=["blocks.*"])
    assert fast.schedule.branches == ("blocks.0", "blocks.1", "blocks.2", "blocks.3")
    assert all_equal(run(fast), run(compiled(model)))
    with pytest.raises(TypeError, match="lists of modules: 0 of 3|none"):
        rt.compile(torch.nn.Sequential(torch.nn.Linear(2, 2)), Full(), steps=2,
                   granularity="block")  # fmt: skip
