"""A run that was abandoned, failed or cancelled leaves no trace in the next one."""

from __future__ import annotations

import warnings

import pytest
import torch
from three_backends import STEPS, assert_same, every_backend, fresh
from torch import Tensor
from toys import call_inputs, drive, noise, timesteps

from l2c_rt.notices import L2CWarning


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
    with pytest.warns(L2CWarning, match=f"after {at} of {STEPS} evaluations"):
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
    with pytest.raises(ValueError, match=f"goes on after the {STEPS} evaluations"):
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


@every_backend
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("calls", [[0, 1, 3, 4, 5], [0, 1, 2, 4, 5], [2, 3, 4, 5]])
def test_what_an_abandoned_run_computed_is_in_no_output_of_a_run_that_starts_late(
    backend: str, known: bool, calls: list[int]
) -> None:
    """Two histories that differ in the abandoned image only; the first gap is where it ends."""
    cut = next(k for k, c in enumerate(calls) if c - k not in (0, 2)) if calls[0] == 0 else 2
    outputs = []
    for other in (1, 2):
        fast = fresh(backend)
        if known:
            drive(fast, STEPS, seed=5)
        seeds = [other] * cut + [7] * (len(calls) - cut)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", L2CWarning)
            results = [fast(*call_inputs(c, seed)) for c, seed in zip(calls, seeds, strict=True)]
        outputs.append(results[cut:])
    assert_same(*outputs)


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
