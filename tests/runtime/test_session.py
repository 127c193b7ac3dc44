"""Runs: repeated, abandoned, failed, interleaved, of other shapes, with other weights."""

from __future__ import annotations

import contextlib
import copy
import gc
import threading
from typing import Any

import pytest
import torch
from oracle import Oracle
from torch import Tensor
from toys import call_inputs, drive, random_schedule, timesteps, toy_dit, toy_uvit

from l2c_rt.api import compile
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.runtime.lanes import MAX_SHAPES
from l2c_rt.schedule.cache_schedule import CacheSchedule

STEPS = 6
BACKENDS = ["reference", "fused"]


def fresh(backend: str = "reference", **options: Any) -> Compiled:
    return compile(toy_dit(), random_schedule(STEPS, 6, seed=7), backend=backend, **options)


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_run_equals_the_first_bitwise(backend: str) -> None:
    fast = fresh(backend, timesteps=timesteps(STEPS))
    assert equal(drive(fast, STEPS), drive(fast, STEPS))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("at", range(1, STEPS))
def test_a_run_abandoned_at_any_step_leaves_no_trace(backend: str, known: bool, at: int) -> None:
    grid = timesteps(STEPS)
    fast = fresh(backend, timesteps=grid if known else None)
    clean = drive(fresh(backend, timesteps=grid if known else None), STEPS)
    drive(fast, at, seed=1)
    fast.poison()
    assert equal(drive(fast, STEPS), clean)
    assert fast.summary().abandoned == 1


@pytest.mark.parametrize("at", range(STEPS))
def test_a_run_ended_by_an_exception_inside_the_model_leaves_no_trace(at: int) -> None:
    fast = fresh()
    clean = drive(fresh(), STEPS)
    drive(fast, at, seed=1)
    x, t, y = call_inputs(at, 1)
    with pytest.raises(IndexError):
        fast(x, t, y + 1000)
    assert not fast.run.clock.mid_run
    assert equal(drive(fast, STEPS), clean)


def test_an_error_in_a_callback_ends_the_run_and_the_next_one_is_clean() -> None:
    fast = fresh()
    noise, y = torch.randn(2, 4, 8, 8), [1, 2]
    clean = fast.sample(noise, y)

    def stop(step: int, latents: Tensor) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fast.sample(noise, y, callback=stop)
    assert torch.equal(fast.sample(noise, y), clean)


def test_reset_forgets_the_run_under_way() -> None:
    fast = fresh()
    clean = drive(fresh(), STEPS)
    drive(fast, 3, seed=1)
    fast.reset()
    assert equal(drive(fast, STEPS), clean)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_sessions_interleaved_equal_two_runs_in_sequence(backend: str) -> None:
    grid = timesteps(STEPS)
    fast = fresh(backend, timesteps=grid)
    wanted = [drive(fresh(backend, timesteps=grid), STEPS, seed) for seed in (1, 2)]
    got: list[list[Tensor]] = [[], []]
    with fast.session() as a, fast.session() as b:
        for step in range(STEPS):
            for i, session in enumerate((a, b)):
                got[i].append(session(*call_inputs(step, seed=i + 1)))
    assert equal(got[0], wanted[0])
    assert equal(got[1], wanted[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_sessions_in_two_threads_equal_two_runs_in_sequence(backend: str) -> None:
    grid = timesteps(STEPS)
    fast = fresh(backend, timesteps=grid)
    wanted = [drive(fresh(backend, timesteps=grid), STEPS, seed) for seed in (1, 2)]
    got: dict[int, list[list[Tensor]]] = {1: [], 2: []}

    def work(seed: int) -> None:
        with fast.session() as session:
            for _ in range(5):
                got[seed].append(drive(session, STEPS, seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        assert len(got[seed]) == 5
        assert all(equal(run, wanted[seed - 1]) for run in got[seed])


def test_samples_from_threads_do_not_meet() -> None:
    fast = fresh()
    noise = [torch.randn(1, 4, 8, 8) for _ in range(4)]
    wanted = [fast.sample(n, [3]) for n in noise]
    got: dict[int, Tensor] = {}

    def work(i: int) -> None:
        got[i] = fast.sample(noise[i], [3])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(got[i], wanted[i]) for i in range(4))


def test_one_session_called_from_two_threads_at_once_is_refused() -> None:
    fast = fresh()
    seen: list[BaseException] = []

    def call_again(*_: object) -> None:
        try:
            fast(*call_inputs(0))
        except RuntimeError as error:
            seen.append(error)

    handle = fast.bound_model.model.blocks[0].attn.register_forward_hook(
        lambda *_: _in_thread(call_again)
    )
    fast(*call_inputs(0))
    handle.remove()
    assert "open one session per thread" in str(seen[0])


def _in_thread(work: Any) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("change", ["batch", "dtype"])
def test_changing_the_input_inside_a_run_raises_and_resets(change: str) -> None:
    fast = fresh()
    clean = drive(fresh(), STEPS)
    drive(fast, 2)
    x, t, y = call_inputs(2, batch=3 if change == "batch" else 2)
    with pytest.raises(ValueError, match="step 2: input is .* but the run began with"):
        fast(x.double() if change == "dtype" else x, t, y)
    assert equal(drive(fast, STEPS), clean)


def test_changing_the_input_between_runs_is_fine_and_old_shapes_are_dropped() -> None:
    fast = fresh()
    for batch in range(1, MAX_SHAPES + 3):
        assert equal(drive(fast, STEPS, batch=batch), drive(fresh(), STEPS, batch=batch))
    one = drive(fresh(), STEPS, batch=1)
    assert len(fast.run.lanes.all()) == MAX_SHAPES
    assert equal(drive(fast, STEPS, batch=1), one)


def test_no_cache_memory_is_taken_after_the_first_run() -> None:
    fast = fresh()
    drive(fast, STEPS)
    taken = fast.summary().arena_allocations
    for seed in range(3):
        drive(fast, STEPS, seed)
    assert fast.summary().arena_allocations == taken == 1


def test_different_timesteps_within_a_batch_are_refused() -> None:
    x, _, y = call_inputs(0)
    with pytest.raises(ValueError, match="timesteps differ within one batch"):
        fresh()(x, torch.tensor([990, 983]), y)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("sampler", ["", "ddim"])
def test_any_step_count_runs_and_samples(steps: int, sampler: str) -> None:
    fast = compile(toy_dit(), random_schedule(steps, 6, sampler=sampler))
    oracle = Oracle(fast.bound_model.model, fast.schedule.compute)
    for got, want in zip(drive(fast, steps), drive(oracle, steps), strict=True):
        assert torch.equal(got, want)
    noise = torch.randn(1, 4, 8, 8)
    assert fast.sample(noise, [1]).shape == noise.shape


def test_a_loop_with_too_few_steps_is_followed_by_a_right_run() -> None:
    fast = fresh()
    clean = drive(fresh(), STEPS)
    drive(fast, STEPS - 2)
    assert equal(drive(fast, STEPS), clean)


def test_a_loop_with_too_many_steps_is_refused_at_the_first_extra_call() -> None:
    fast = fresh()
    drive(fast, STEPS)
    with pytest.raises(ValueError, match="step 0: expected timestep 990"):
        fast(*call_inputs(STEPS))


@pytest.mark.parametrize("backend", BACKENDS)
def test_lanes_have_slots_of_their_own(backend: str) -> None:
    model = toy_uvit()
    schedule = random_schedule(4, 6, seed=2)
    fast = compile(model, schedule, calls_per_step=2, backend=backend)
    oracle = Oracle(model, schedule.compute, lanes=2)
    for step in range(4):
        x, t, y = call_inputs(step)
        for labels in (y, torch.full_like(y, 10)):
            with torch.no_grad():
                want = oracle(x, t, labels)
            assert torch.allclose(fast(x, t, labels), want, rtol=1e-5, atol=1e-5)
    assert len(fast.run.lanes.all()) == 2


def test_lanes_may_be_named_as_diffusers_does() -> None:
    model, schedule = toy_uvit(), random_schedule(3, 6, seed=2)
    fast, wanted = (compile(model, schedule, calls_per_step=2) for _ in range(2))
    for step in range(3):
        x, t, y = call_inputs(step)
        with fast.cache_context("uncond", step=step, num_steps=3):
            late = fast(x, t, y + 1)
        with fast.cache_context("cond", step=step):
            early = fast(x, t, y)
        assert torch.equal(early, wanted(x, t, y, lane=0))
        assert torch.equal(late, wanted(x, t, y + 1, lane=1))


def test_a_cache_context_of_another_name_or_length_is_refused() -> None:
    fast = fresh()
    match = "'pag', wanted one of cond, uncond"
    with pytest.raises(ValueError, match=match), fast.cache_context("pag"):
        pass
    with fast.cache_context("cond", num_steps=50), pytest.raises(ValueError, match="has 50 steps"):
        fast(*call_inputs(0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_changed_weights_are_noticed_before_the_next_run(backend: str) -> None:
    fast = fresh(backend, timesteps=timesteps(STEPS))
    drive(fast, STEPS)
    with torch.no_grad():
        for parameter in fast.bound_model.model.parameters():
            parameter.mul_(1.1)
    after = compile(
        fast.bound_model.model, fast.schedule, backend=backend, timesteps=timesteps(STEPS)
    )
    assert equal(drive(fast, STEPS), drive(after, STEPS))
    assert fast.summary().weight_changes == 1
    assert "changed once, noticed" in str(fast.summary())


def test_strict_refuses_changed_weights_every_time() -> None:
    fast = fresh(strict=True)
    drive(fast, STEPS)
    fast.bound_model.model.load_state_dict(toy_dit().state_dict())
    for _ in range(2):
        with pytest.raises(ValueError, match="weights changed since compile"):
            fast(*call_inputs(0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sleep_gives_memory_back_and_wake_goes_on_as_before(backend: str) -> None:
    fast = fresh(backend, timesteps=timesteps(STEPS))
    before = drive(fast, STEPS)
    drive(fast, 2)
    fast.sleep()
    with pytest.raises(RuntimeError, match="asleep: call wake"):
        fast(*call_inputs(0))
    fast.wake()
    assert equal(drive(fast, STEPS), before)


def test_nothing_runs_on_memory_that_was_given_back() -> None:
    fast, noise = fresh(), torch.randn(1, 4, 8, 8)
    wanted = fast.sample(noise, [1])
    fast.sleep()
    assert fast.summary().slot_bytes == 0
    with pytest.raises(RuntimeError, match="asleep: call wake"):
        fast.sample(noise, [1])
    with fast.session() as session, pytest.raises(RuntimeError, match="asleep: call wake"):
        session(*call_inputs(0))
    fast.wake()
    assert torch.equal(fast.sample(noise, [1]), wanted)
    with fast.session() as session:
        drive(session, 2)
        session.sleep()
        with pytest.raises(RuntimeError, match="asleep: call wake"):
            session(*call_inputs(0))
        session.wake()
        assert equal(drive(session, STEPS), drive(fresh(), STEPS))


def test_sleep_from_inside_a_call_is_refused_instead_of_waiting_for_ever() -> None:
    fast = fresh()
    seen: list[RuntimeError] = []

    def sleep(*_: object) -> None:
        try:
            fast.sleep()
        except RuntimeError as error:
            seen.append(error)

    handle = fast.bound_model.model.blocks[0].attn.register_forward_hook(sleep)
    fast(*call_inputs(0))
    handle.remove()
    assert "called from inside a call" in str(seen[0])


def test_a_closed_session_is_not_called_again() -> None:
    fast = fresh()
    with fast.session() as session:
        drive(session, 2)
    with pytest.raises(RuntimeError, match="this session is closed"):
        session(*call_inputs(0))


def test_sessions_that_nobody_holds_are_gone_and_their_runs_still_counted() -> None:
    fast = fresh()
    for _ in range(3):
        drive(fast.session(), STEPS)
    gc.collect()
    assert len(fast._sessions.all()) == 0
    assert fast.summary().runs == 3
    assert fast.summary().arena_allocations == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_inference_mode_around_some_runs_changes_nothing(backend: str) -> None:
    fast = fresh(backend)
    noise = torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        first, calls = fast.sample(noise, [1]), drive(fast, STEPS)
    assert torch.equal(fast.sample(noise, [1]), first)
    for got, want in zip(drive(fast, STEPS), calls, strict=True):
        assert torch.allclose(got, want, rtol=1e-5, atol=1e-5)


def test_autocast_may_be_switched_between_runs_and_not_within_one() -> None:
    model, schedule = toy_uvit(), random_schedule(STEPS, 6, seed=7)
    fast = compile(model, schedule)
    plain = drive(fast, STEPS)
    with torch.autocast("cpu", torch.bfloat16):
        drive(fast, STEPS)
    assert equal(drive(fast, STEPS), plain)
    drive(fast, 2)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="under autocast"):
        fast(*call_inputs(2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_writes_that_pytorch_does_not_count_are_used_by_the_next_run(backend: str) -> None:
    grid = timesteps(STEPS)
    fast = fresh(backend, timesteps=grid)
    drive(fast, STEPS)
    for parameter in fast.bound_model.model.parameters():
        parameter.data.mul_(1.1)
    after = compile(fast.bound_model.model, fast.schedule, backend=backend, timesteps=grid)
    assert equal(drive(fast, STEPS), drive(after, STEPS))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_replaced_block_is_used_by_the_next_run(backend: str) -> None:
    grid = timesteps(STEPS)
    fast = fresh(backend, timesteps=grid)
    drive(fast, STEPS)
    model = fast.bound_model.model
    model.blocks[1] = copy.deepcopy(model.blocks[0])
    after = compile(model, fast.schedule, backend=backend, timesteps=grid)
    assert equal(drive(fast, STEPS), drive(after, STEPS))
    assert fast.summary().weight_changes == 1


def test_what_can_no_longer_be_run_is_refused_at_the_next_run() -> None:
    fused, reference = fresh("fused"), fresh()
    drive(fused, STEPS)
    block = fused.bound_model.model.blocks[0]
    block.mlp.fc1 = torch.nn.Sequential(block.mlp.fc1)
    with pytest.raises(ValueError, match=r"blocks.0.mlp.fc1 is Sequential"):
        fused(*call_inputs(0))
    del reference.bound_model.model.blocks[2]
    with pytest.raises(ValueError, match="structure changed since compile"):
        reference(*call_inputs(0))
    dropping = fresh()
    dropping.bound_model.model.train()
    with pytest.raises(ValueError, match="drops at random"):
        dropping(*call_inputs(0))


def test_one_change_seen_by_two_sessions_is_counted_once() -> None:
    fast = fresh()
    with fast.session() as a, fast.session() as b:
        drive(a, STEPS)
        drive(b, STEPS)
        fast.bound_model.model.load_state_dict(toy_dit().state_dict())
        drive(a, STEPS)
        drive(b, STEPS)
    assert fast.summary().weight_changes == 1


def test_a_reset_inside_sample_is_noticed() -> None:
    fast = fresh()
    with fast.session() as session:
        noise = torch.randn(1, 4, 8, 8)

        def disturb(step: int, latents: Tensor) -> None:
            if step == 2:
                session.reset()

        with pytest.raises(ValueError, match="step 3 was announced, but lane 0 is at step 0"):
            session.sample(noise, [1], callback=disturb)


def test_a_loop_that_only_one_run_has_shown_does_not_hold_later_ones_for_ever() -> None:
    fast = fresh()
    x, t, y = call_inputs(0)
    fast(x, t + 100, y)
    drive(fast, STEPS - 1)
    clean = drive(fresh(), STEPS)
    for _ in range(2):
        with contextlib.suppress(ValueError):
            drive(fast, STEPS)
    assert equal(drive(fast, STEPS), clean)


def test_a_lane_is_not_called_inside_the_context_of_another() -> None:
    fast = compile(toy_uvit(), random_schedule(3, 6), calls_per_step=2)
    with fast.cache_context("cond"), pytest.raises(ValueError, match="inside the context of lane"):
        fast(*call_inputs(0), lane=1)


def test_a_closed_session_gives_its_memory_back_and_keeps_its_counts() -> None:
    fast = fresh()
    with fast.session() as session:
        drive(session, STEPS)
        assert fast.summary().slot_bytes > 0
    assert fast.summary().slot_bytes == 0
    assert fast.summary().runs == 1


def test_modulation_follows_labels_that_change_inside_a_run() -> None:
    model, schedule = toy_dit(), random_schedule(STEPS, 6, seed=7)
    fused = compile(model, schedule, backend="fused", timesteps=timesteps(STEPS))
    oracle = Oracle(model, schedule.compute)
    for step in range(STEPS):
        x, t, y = call_inputs(step)
        y = (y + step // 2) % 10
        with torch.no_grad():
            want = oracle(x, t, y)
        assert torch.allclose(fused(x, t, y), want, rtol=1e-4, atol=1e-5)


def test_autocast_runs_on_the_reference_and_is_refused_by_the_fused_backend() -> None:
    model, schedule = toy_uvit(), random_schedule(STEPS, 6, seed=7)
    oracle = Oracle(model, schedule.compute)
    fast = compile(model, schedule)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for got, want in zip(drive(fast, STEPS), drive(oracle, STEPS), strict=True):
            assert torch.equal(got, want)
        with pytest.raises(ValueError, match="does not run under autocast"):
            drive(compile(model, schedule, backend="fused"), STEPS)


def test_memory_does_not_grow_over_many_runs() -> None:
    fast = fresh("fused")
    drive(fast, STEPS)
    before = fast.summary().slot_bytes
    for seed in range(20):
        drive(fast, STEPS, seed)
        fast.sample(torch.randn(1, 4, 8, 8), [seed % 10])
    assert fast.summary().slot_bytes <= 2 * before
    assert len(fast._sessions.all()) == 1


def test_a_session_of_two_lanes_does_not_sample_but_the_model_does() -> None:
    fast = compile(toy_uvit(), CacheSchedule(torch.ones(4, 6).bool().numpy()), calls_per_step=2)
    noise = torch.randn(1, 4, 8, 8)
    with (
        fast.session() as session,
        pytest.raises(ValueError, match="session with one call per step"),
    ):
        session.sample(noise, [1])
    assert fast.sample(noise, [1]).shape == noise.shape
