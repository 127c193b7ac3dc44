"""Runs: repeated, abandoned, failed, interleaved, of other shapes, with other weights."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from oracle import Oracle
from torch import Tensor
from toys import call_inputs, drive, random_schedule, timesteps, toy_dit, toy_uvit

from l2c_rt.api import compile
from l2c_rt.compiled import Compiled
from l2c_rt.schedule import CacheSchedule
from l2c_rt.session import MAX_SHAPES

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
    assert not fast._own.clock.mid_run
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

    handle = fast.bound.model.blocks[0].attn.register_forward_hook(
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
    assert len(fast._own.memories) == MAX_SHAPES
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
    oracle = Oracle(fast.bound.model, fast.schedule.compute)
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
    fast = compile(model, schedule, lanes=2, backend=backend)
    oracle = Oracle(model, schedule.compute, lanes=2)
    for step in range(4):
        x, t, y = call_inputs(step)
        for labels in (y, torch.full_like(y, 10)):
            with torch.no_grad():
                want = oracle(x, t, labels)
            assert torch.allclose(fast(x, t, labels), want, rtol=1e-5, atol=1e-6)
    assert len(fast._own.memories) == 2


def test_lanes_may_be_named_as_diffusers_does() -> None:
    model, schedule = toy_uvit(), random_schedule(3, 6, seed=2)
    fast, wanted = (compile(model, schedule, lanes=2) for _ in range(2))
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
    with pytest.raises(ValueError, match="'pag', wanted one of cond, uncond"):
        with fast.cache_context("pag"):
            pass
    with fast.cache_context("cond", num_steps=50), pytest.raises(ValueError, match="has 50 steps"):
        fast(*call_inputs(0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_changed_weights_are_noticed_before_the_next_run(backend: str) -> None:
    fast = fresh(backend, timesteps=timesteps(STEPS))
    drive(fast, STEPS)
    with torch.no_grad():
        for parameter in fast.bound.model.parameters():
            parameter.mul_(1.1)
    after = compile(fast.bound.model, fast.schedule, backend=backend, timesteps=timesteps(STEPS))
    assert equal(drive(fast, STEPS), drive(after, STEPS))
    assert fast.summary().weight_changes == 1
    assert "changed 1 times" in str(fast.summary())


def test_strict_refuses_changed_weights_every_time() -> None:
    fast = fresh(strict=True)
    drive(fast, STEPS)
    fast.bound.model.load_state_dict(toy_dit().state_dict())
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
    with pytest.raises(RuntimeError, match="asleep: call wake"):
        fast.sample(torch.randn(1, 4, 8, 8), [1])
    fast.wake()
    assert equal(drive(fast, STEPS), before)


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
    assert len(fast._sessions) == 2


def test_a_session_of_two_lanes_does_not_sample_but_the_model_does() -> None:
    fast = compile(toy_uvit(), CacheSchedule(torch.ones(4, 6).bool().numpy()), lanes=2)
    noise = torch.randn(1, 4, 8, 8)
    with fast.session() as session, pytest.raises(ValueError, match="session with one lane"):
        session.sample(noise, [1])
    assert fast.sample(noise, [1]).shape == noise.shape
