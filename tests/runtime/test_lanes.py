"""Several calls per step, and several input shapes: slots of their own for each."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from oracle import Oracle
from three_backends import STEPS, assert_near, assert_same, compiled, every_backend, fresh
from toys import call_inputs, drive, noise, random_schedule, timesteps, toy_uvit

from l2c_rt.api import compile
from l2c_rt.runtime.lanes import MAX_SHAPES


@every_backend
@pytest.mark.parametrize("known", [False, True])
def test_the_calls_of_a_step_have_slots_of_their_own(backend: str, known: bool) -> None:
    model, schedule = toy_uvit(), random_schedule(4, 6, seed=2)
    fast = compiled(
        backend, model, schedule, calls_per_step=2, timesteps=timesteps(4) if known else None
    )
    oracle = Oracle(model, schedule.compute, lanes=2)
    for step in range(4):
        x, t, y = call_inputs(step)
        for labels in (y, torch.full_like(y, 10)):
            with torch.no_grad():
                expected = oracle(x, t, labels)
            assert_near([fast(x, t, labels)], [expected])


@every_backend
def test_calls_of_a_step_may_say_which_they_are_and_come_in_any_order(backend: str) -> None:
    model, schedule = toy_uvit(), random_schedule(3, 6, seed=2)
    named, in_order = (compiled(backend, model, schedule, calls_per_step=2) for _ in range(2))
    for step in range(3):
        x, t, y = call_inputs(step)
        uncond, cond = named(x, t, y + 1, lane=1), named(x, t, y, lane=0)
        assert_same([cond, uncond], [in_order(x, t, y), in_order(x, t, y + 1)])


@pytest.mark.parametrize("calls", [0, 2.5, "2", True])
def test_calls_per_step_are_a_whole_number_of_at_least_one(calls: object) -> None:
    with pytest.raises(ValueError, match=r"calls_per_step is .*, wanted an int of at least 1"):
        compile(toy_uvit(), random_schedule(2, 6), calls_per_step=calls)  # type: ignore[arg-type]


@every_backend
def test_a_session_of_two_calls_per_step_does_not_sample_but_the_model_does(backend: str) -> None:
    fast = compiled(backend, toy_uvit(), random_schedule(4, 6), calls_per_step=2)
    plain = compiled(backend, toy_uvit(), random_schedule(4, 6))
    with (
        fast.session() as session,
        pytest.raises(ValueError, match="session with one call per step"),
    ):
        session.sample(noise(), [1, 2])
    assert torch.equal(fast.sample(noise(), [1, 2]), plain.sample(noise(), [1, 2]))


@every_backend
@pytest.mark.parametrize("change", ["batch", "dtype"])
def test_another_input_inside_a_run_is_refused_and_resets(backend: str, change: str) -> None:
    fast = fresh(backend, timesteps=timesteps(STEPS))
    clean = drive(fresh(backend), STEPS)
    drive(fast, 2)
    x, t, y = call_inputs(2, batch=3 if change == "batch" else 2)
    with pytest.raises(ValueError, match="step 2: input is .* but the run began with"):
        fast(x.double() if change == "dtype" else x, t, y)
    assert_same(drive(fast, STEPS), clean)


@every_backend
def test_shapes_may_change_between_runs_and_the_oldest_is_dropped_at_once(backend: str) -> None:
    fast = fresh(backend, timesteps=timesteps(STEPS))
    first = drive(fast, STEPS, batch=1)
    workspace = weakref.ref(fast.run.lanes.all()[0].workspace)
    gc.disable()
    try:
        for batch in range(2, MAX_SHAPES + 2):
            drive(fast, STEPS, batch=batch)
        assert workspace() is None
    finally:
        gc.enable()
    assert len(fast.run.lanes.all()) == MAX_SHAPES
    assert_same(drive(fast, STEPS, batch=1), first)
    for batch in (3, 5):
        clean = drive(fresh(backend, timesteps=timesteps(STEPS)), STEPS, batch=batch)
        assert_same(drive(fast, STEPS, batch=batch), clean)


def test_autocast_may_be_switched_between_runs_and_not_within_one() -> None:
    fast = fresh("reference", toy_uvit())
    plain = drive(fast, STEPS)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = drive(fast, STEPS)
    assert not torch.equal(narrow[0], plain[0])
    assert_same(drive(fast, STEPS), plain)
    drive(fast, 2)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="under autocast"):
        fast(*call_inputs(2))


def test_under_autocast_the_reference_is_the_oracle() -> None:
    model, schedule = toy_uvit(), random_schedule(STEPS, 6, seed=7)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        outputs = drive(compile(model, schedule), STEPS)
        assert_same(outputs, drive(Oracle(model, schedule.compute), STEPS))


@pytest.mark.parametrize("backend", ["fused", "cuda"])
def test_fused_backends_refuse_autocast_with_the_remedy(backend: str) -> None:
    fast = fresh(backend)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match="autocast: cast the model"):
            fast(*call_inputs(0))
        with pytest.raises(ValueError, match="autocast: cast the model"):
            fast.sample(noise(), [1, 2])
