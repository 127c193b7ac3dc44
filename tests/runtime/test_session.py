"""Sessions: runs that repeat, interleave, end, and give their memory back."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from three_backends import STEPS, again, assert_near, assert_same, compiled, every_backend, fresh
from toys import call_inputs, drive, noise, random_schedule, timesteps, toy_dit


@every_backend
def test_a_second_run_equals_the_first_bitwise(backend: str) -> None:
    fast = fresh(backend, timesteps=timesteps(STEPS))
    assert_same(drive(fast, STEPS), drive(fast, STEPS))


@every_backend
def test_runs_are_bitwise_alike_from_the_second_on_where_timesteps_were_not_given(
    backend: str,
) -> None:
    fast, known = fresh(backend), fresh(backend, timesteps=timesteps(STEPS))
    first, second, third = (drive(fast, STEPS) for _ in range(3))
    # Fused backends tabulate the modulation of the first run step by step, of later ones at once:
    # products of more rows sum in another order.
    (assert_same if backend == "reference" else assert_near)(second, first)
    assert_same(third, second)
    assert_same(second, drive(known, STEPS))


@every_backend
def test_two_sessions_interleaved_equal_two_runs_in_sequence(backend: str) -> None:
    grid = timesteps(STEPS)
    fast = fresh(backend, timesteps=grid)
    expected = [drive(fresh(backend, timesteps=grid), STEPS, seed) for seed in (1, 2)]
    outputs: list[list[torch.Tensor]] = [[], []]
    with fast.session() as a, fast.session() as b:
        for step in range(STEPS):
            for i, session in enumerate((a, b)):
                outputs[i].append(session(*call_inputs(step, seed=i + 1)))
    assert_same(outputs[0], expected[0])
    assert_same(outputs[1], expected[1])


@every_backend
def test_the_tensors_that_calls_and_samples_return_are_the_callers(backend: str) -> None:
    fast = fresh(backend)
    outputs = [*drive(fast, STEPS), fast.sample(noise(), [1, 2])]
    copies = [out.clone() for out in outputs]
    drive(fast, STEPS, seed=1)
    fast.sample(noise(1), [1, 2])
    assert_same(outputs, copies)


@every_backend
def test_inputs_of_any_memory_layout_are_taken(backend: str) -> None:
    x, t, y = call_inputs(0)
    channels_last = torch.empty(4, 8, 8, 2).permute(3, 0, 1, 2).copy_(x)
    assert_same([fresh(backend)(channels_last, t[:1].expand(2), y)], [fresh(backend)(x, t, y)])


@every_backend
def test_inference_mode_around_some_runs_changes_nothing(backend: str) -> None:
    fast = fresh(backend)
    with torch.inference_mode():
        latents, outputs = fast.sample(noise(), [1, 2]), drive(fast, STEPS)
    assert torch.equal(fast.sample(noise(), [1, 2]), latents)
    assert_near(drive(fast, STEPS), outputs)
    outside = drive(fast, STEPS)
    with torch.inference_mode():
        assert_same(drive(fast, STEPS), outside)


@every_backend
def test_a_model_may_be_compiled_and_change_inside_inference_mode(backend: str) -> None:
    with torch.inference_mode():
        fast = fresh(backend)
        fast.sample(noise(), [1, 2])
        fast.to(torch.bfloat16)
        latents = fast.sample(noise(), [1, 2])
    assert torch.equal(latents, fast.sample(noise(), [1, 2]))
    assert fast.summary().weight_changes == 1


@every_backend
def test_results_carry_no_autograd_graph(backend: str) -> None:
    fast = fresh(backend)
    assert not fast(*call_inputs(0)).requires_grad
    assert not fast.sample(noise(), [1, 2]).requires_grad


@every_backend
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_any_step_count_runs_and_samples(backend: str, steps: int) -> None:
    fast = compiled(backend, toy_dit(), random_schedule(steps, 6))
    reference = again("reference", fast)
    assert_near(drive(fast, steps), drive(reference, steps))
    assert_near([fast.sample(noise(), [1, 2])], [reference.sample(noise(), [1, 2])])


@every_backend
def test_no_memory_is_taken_after_the_first_runs(backend: str) -> None:
    fast = fresh(backend)
    # The second knows the timesteps, and a fused backend makes its table for all of them.
    for _ in range(2):
        drive(fast, STEPS)
    fast.sample(noise(), [1, 2])
    before = fast.summary()
    for seed in range(5):
        drive(fast, STEPS, seed)
        fast.sample(noise(seed), [seed, 7])
    after = fast.summary()
    assert after.arena_allocations == before.arena_allocations == 2
    assert (after.slot_bytes, after.table_bytes) == (before.slot_bytes, before.table_bytes)
    assert after.graphs.buffer_bytes == before.graphs.buffer_bytes


@every_backend
def test_a_closed_session_is_not_called_again_gives_its_memory_back_and_keeps_its_counts(
    backend: str,
) -> None:
    fast = fresh(backend)
    gc.disable()
    try:
        with fast.session() as session:
            drive(session, STEPS)
            assert fast.summary().slot_bytes > 0
            workspace = weakref.ref(session.run.lanes.all()[0].workspace)
        assert workspace() is None
    finally:
        gc.enable()
    assert fast.summary().slot_bytes == 0
    assert fast.summary().runs == 1
    with pytest.raises(RuntimeError, match="this session is closed"):
        session(*call_inputs(0))
    with pytest.raises(RuntimeError, match="this session is closed"):
        session.sample(noise(), [1, 2])


def test_sessions_that_nobody_holds_are_gone_at_once_and_their_runs_still_counted() -> None:
    fast = fresh()
    gc.disable()
    try:
        for _ in range(3):
            drive(fast.session(), STEPS)
        assert fast.summary().slot_bytes == 0
    finally:
        gc.enable()
    assert fast.summary().runs == 3
    assert fast.summary().arena_allocations == 3
