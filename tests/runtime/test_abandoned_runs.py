"""A run that was abandoned, failed or cancelled leaves no trace in the next one."""

from __future__ import annotations

import contextlib

import pytest
import torch
from three_backends import STEPS, assert_same, every_backend, fresh
from torch import Tensor
from toys import call_inputs, drive, noise, timesteps


class Cancelled(Exception):
    """What a user's callback raises."""


@every_backend
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("at", [1, 3, STEPS - 1])
def test_a_run_abandoned_at_any_step_leaves_no_trace(backend: str, known: bool, at: int) -> None:
    grid = timesteps(STEPS) if known else None
    fast = fresh(backend, timesteps=grid)
    clean = drive(fresh(backend, timesteps=grid), STEPS)
    drive(fast, at, seed=1)
    fast.poison()
    assert_same(drive(fast, STEPS), clean)
    assert fast.summary().abandoned == 1


@every_backend
@pytest.mark.parametrize("at", [0, 3])
def test_a_call_that_fails_ends_the_run_and_the_next_one_is_clean(backend: str, at: int) -> None:
    fast = fresh(backend)
    clean = drive(fresh(backend), STEPS)
    drive(fast, at, seed=1)
    x, t, y = call_inputs(at, 1)
    with pytest.raises(ValueError, match="y has the label"):
        fast(x, t, y + 1000)
    assert fast.summary().abandoned == 1
    fast.poison()
    assert_same(drive(fast, STEPS), clean)


@every_backend
@pytest.mark.parametrize("at", [0, STEPS - 2])
def test_a_sample_cancelled_by_its_callback_leaves_no_trace(backend: str, at: int) -> None:
    def stop(step: int, latents: Tensor) -> None:
        if step == at:
            raise Cancelled

    fast, undisturbed = fresh(backend), fresh(backend)
    with fast.session() as session, undisturbed.session() as other:
        for sample, clean in ((fast.sample, undisturbed.sample), (session.sample, other.sample)):
            with pytest.raises(Cancelled):
                sample(noise(1), [3, 4], callback=stop)
            fast.poison()
            assert torch.equal(sample(noise(), [1, 2]), clean(noise(), [1, 2]))


@every_backend
def test_reset_forgets_the_run_under_way(backend: str) -> None:
    fast = fresh(backend)
    clean = drive(fresh(backend), STEPS)
    drive(fast, 3, seed=1)
    fast.reset()
    fast.poison()
    assert_same(drive(fast, STEPS), clean)


@every_backend
def test_a_loop_of_too_many_steps_is_refused_at_the_first_extra_call(backend: str) -> None:
    fast = fresh(backend)
    drive(fast, STEPS)
    with pytest.raises(ValueError, match="step 0: expected timestep 990"):
        fast(*call_inputs(STEPS))


@every_backend
def test_a_sample_of_a_session_ends_the_run_of_its_calls(backend: str) -> None:
    fast = fresh(backend)
    with fast.session() as session, fresh(backend).session() as other:
        drive(session, 2)
        latents = session.sample(noise(), [1, 2])
        assert torch.equal(latents, other.sample(noise(), [1, 2]))
        assert fast.summary().abandoned == 1
        # Step by step a sample is a run like any other, whose timesteps are remembered.
        session.reset(forget_timesteps=True)
        assert_same(drive(session, STEPS), drive(fresh(backend), STEPS))


def test_a_loop_that_only_one_run_has_shown_does_not_hold_later_ones_for_ever() -> None:
    fast = fresh()
    x, t, y = call_inputs(0)
    fast(x, t + 100, y)
    drive(fast, STEPS - 1)
    clean = drive(fresh(), STEPS)
    for _ in range(2):
        with contextlib.suppress(ValueError):
            drive(fast, STEPS)
    assert_same(drive(fast, STEPS), clean)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_a_reset_inside_a_sample_is_noticed_at_its_next_step(backend: str) -> None:
    # The CUDA backend queues whole runs: they have no next call that a reset could disturb.
    def disturb(step: int, latents: Tensor) -> None:
        if step == 2:
            session.reset()

    with (
        fresh(backend).session() as session,
        pytest.raises(ValueError, match="step 3 was announced, but lane 0 is at step 0"),
    ):
        session.sample(noise(), [1, 2], callback=disturb)
