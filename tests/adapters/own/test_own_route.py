"""Models without an adapter: their own forward, cut at their attention and MLP modules."""

from __future__ import annotations

import pytest
import torch
from cached_oracle import Oracle
from small_models import all_equal, call_of, run_loop, times, two_stream_model
from toys import call_inputs, timesteps, toy_dit

import l2c_rt as rt
from l2c_rt.adapters.own.describe import describe_own
from l2c_rt.policies import EveryN, Full, Random

STEPS = 6
BRANCHES = (
    "blocks.0.attn", "blocks.0.ff", "blocks.1.attn", "blocks.1.ff",
    "single_blocks.0.proj_out", "single_blocks.1.proj_out", "single_blocks.2.proj_out",
)  # fmt: skip


def test_the_branches_are_the_attention_and_mlp_modules_of_the_blocks() -> None:
    fast = rt.compile(two_stream_model(), Full(), steps=2)
    assert fast.backend.name == "own"
    assert fast.schedule.branches == BRANCHES


def test_computing_everything_is_bitwise_the_model() -> None:
    net = two_stream_model()
    fast = rt.compile(net, Full(), steps=STEPS, timesteps=times(STEPS))
    assert all_equal(run_loop(fast, STEPS), run_loop(net, STEPS))
    assert fast.summary().slot_bytes == 0


def test_cached_runs_equal_plain_hooks_and_each_other() -> None:
    net = two_stream_model()
    policy = Random(0.5, seed=1, evaluations=tuple(range(1, STEPS)))
    fast = rt.compile(net, policy, steps=STEPS, timesteps=times(STEPS))
    outputs = run_loop(fast, STEPS)
    oracle = Oracle(net, fast.schedule, dict(zip(BRANCHES, BRANCHES, strict=True)))
    assert all_equal(outputs, run_loop(oracle, STEPS))
    assert all_equal(outputs, run_loop(fast, STEPS))
    assert not all_equal(outputs, run_loop(net, STEPS))


def test_memory_is_taken_in_the_first_run_only_and_its_contents_never_matter() -> None:
    fast = rt.compile(two_stream_model(), EveryN(2), steps=STEPS, timesteps=times(STEPS))
    first = run_loop(fast, STEPS)
    taken = fast.summary().arena_allocations
    assert 0 < taken <= len(BRANCHES) + 2
    fast.poison()
    assert all_equal(first, run_loop(fast, STEPS))
    assert fast.summary().arena_allocations == taken
    fast.sleep()
    assert fast.summary().slot_bytes == 0
    fast.wake()
    assert all_equal(first, run_loop(fast, STEPS))
    assert fast.summary().arena_allocations == 2 * taken


def test_other_shapes_are_other_runs_and_no_memory_is_left_of_those_that_were_replaced() -> None:
    fast = rt.compile(two_stream_model(), EveryN(2), steps=STEPS, timesteps=times(STEPS))
    first, other = run_loop(fast, STEPS), run_loop(fast, STEPS, tokens=7)
    assert all_equal(first, run_loop(fast, STEPS))
    assert all_equal(other, run_loop(fast, STEPS, tokens=7))
    nbytes = fast.summary().slot_bytes
    for text in (900, 3, 1800, 3):
        longer = run_loop(fast, STEPS, text=text)
        assert all_equal(longer, run_loop(fast, STEPS, text=text))
    assert all_equal(first, run_loop(fast, STEPS))
    assert fast.summary().slot_bytes == nbytes


def test_an_aborted_run_and_another_session_leave_nothing() -> None:
    net = two_stream_model()
    fast, other = (
        rt.compile(net, EveryN(2), steps=STEPS, timesteps=times(STEPS)),
        rt.compile(net, EveryN(3), steps=STEPS, timesteps=times(STEPS)),
    )
    first, second = run_loop(fast, STEPS), run_loop(other, STEPS)
    run_loop(fast, 3)
    fast.reset()
    outputs: list[list[torch.Tensor]] = [[], [], []]
    with fast.session() as session, torch.no_grad():
        for step in range(STEPS):
            for called, given in zip((fast, other, session), outputs, strict=True):
                given.append(called(**call_of(step)))
    assert all_equal(outputs[0], first)
    assert all_equal(outputs[1], second)
    assert all_equal(outputs[2], first)


def test_positional_timesteps_place_the_calls() -> None:
    fast = rt.compile(two_stream_model(), EveryN(2), steps=2, timesteps=[900.0, 899.0])
    x, _, text = call_of(0).values()
    with pytest.raises(ValueError, match="expected timestep 900 .*, got 5"):
        fast(x, torch.tensor([5.0, 5.0]), text)


def test_the_own_route_is_bitwise_the_hand_written_adapter() -> None:
    net = toy_dit()
    loop = timesteps(STEPS)
    hand = rt.compile(net, Random(0.5, 1), steps=STEPS, timesteps=loop, backend="reference")
    own = rt.compile(net, Random(0.5, 1), steps=STEPS, timesteps=loop, adapter=describe_own)
    assert (hand.backend.name, own.backend.name) == ("reference", "own")
    for step in range(STEPS):
        assert torch.equal(hand(*call_inputs(step)), own(*call_inputs(step)))


@pytest.mark.parametrize(
    ("backend", "remedy"), [("reference", "pack=False"), ("fused", "leave backend= out$")]
)
def test_a_backend_that_needs_an_adapter_is_refused(backend: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"TwoStreamModel is described by its sites.*{remedy}"):
        rt.compile(two_stream_model(), Full(), steps=2, backend=backend)
    with pytest.raises(ValueError, match="DiT is described by an adapter"):
        rt.compile(toy_dit(), Full(), steps=2, backend="own")


def test_sample_is_refused_where_no_loop_was_published() -> None:
    fast = rt.compile(two_stream_model(), Full(), steps=2)
    with pytest.raises(ValueError, match="no published loop for TwoStreamModel"):
        fast.sample(torch.randn(1, 4, 8, 8))
