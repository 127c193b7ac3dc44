"""Timesteps that cannot be read without waiting: checked where they are, reported at a later call.

A CPU tensor stands in for a GPU's; only the wait is missing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from three_backends import STEPS, assert_same, every_backend, fresh
from toys import call_inputs, drive, timesteps

from l2c_rt.runtime import timestep_check as timesteps_module
from l2c_rt.runtime.step_clock import StepError
from l2c_rt.runtime.timestep_check import DeferredCheck, host_timestep

CPU = torch.device("cpu")


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every timestep behaves as one on a GPU does."""
    monkeypatch.setattr(timesteps_module, "host_timestep", lambda t: None)


@pytest.mark.parametrize("t", [7, 7.0, torch.tensor(7), torch.tensor([7, 7]), torch.tensor([7.0])])
def test_a_timestep_on_the_host_is_read_in_any_form(t: Any) -> None:
    assert host_timestep(t) == 7.0


def test_a_timestep_on_a_device_is_not_read() -> None:
    assert host_timestep(torch.empty(2, device="meta")) is None


@pytest.mark.usefixtures("unreadable")
@every_backend
def test_right_runs_pass_and_equal_those_of_readable_timesteps(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = fresh(backend, timesteps=timesteps(STEPS))
    outputs = [drive(fast, STEPS) for _ in range(2)]
    assert fast.summary().runs == 2
    monkeypatch.undo()
    for run in outputs:
        assert_same(run, drive(fresh(backend, timesteps=timesteps(STEPS)), STEPS))


@pytest.mark.usefixtures("unreadable")
@every_backend
def test_without_given_timesteps_runs_pass_and_are_alike(backend: str) -> None:
    fast = fresh(backend)
    assert_same(drive(fast, STEPS), drive(fast, STEPS))
    assert fast.summary().runs == 2


@pytest.mark.usefixtures("unreadable")
def test_a_given_timestep_that_does_not_come_is_reported_at_the_next_call_and_resets() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    drive(fast, 1)
    x, _, y = call_inputs(1)
    fast(x, torch.tensor([500, 500]), y)
    with pytest.raises(StepError, match="step 1: expected timestep 983, got 500"):
        fast(*call_inputs(2))
    clean = drive(fresh(timesteps=timesteps(STEPS)), STEPS)
    assert_same(drive(fast, STEPS), clean)


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize("at", range(1, STEPS))
def test_a_run_begun_after_an_abandoned_one_is_refused_not_answered_wrongly(at: int) -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    drive(fast, at)
    with pytest.raises(StepError):
        drive(fast, STEPS)


@pytest.mark.usefixtures("unreadable")
def test_with_nothing_known_a_rise_inside_a_run_is_refused() -> None:
    fast = fresh()
    drive(fast, 3)
    with pytest.raises(StepError, match="got 990"):
        drive(fast, STEPS)


@pytest.mark.usefixtures("unreadable")
@every_backend
@pytest.mark.parametrize("at", [1, STEPS - 1])
def test_with_nothing_known_an_abandoned_run_costs_one_error_and_no_wrong_answer(
    backend: str, at: int
) -> None:
    fast = fresh(backend)
    clean = drive(fresh(backend), STEPS)
    drive(fast, at)
    with pytest.raises(StepError):
        drive(fast, STEPS)
    assert_same(drive(fast, STEPS), clean)


@pytest.mark.usefixtures("unreadable")
def test_the_first_complete_run_is_remembered_until_it_is_forgotten() -> None:
    fast = fresh()
    drive(fast, STEPS)
    x, _, y = call_inputs(0)
    fast(x, torch.tensor([800, 800]), y)
    with pytest.raises(StepError, match="step 0: expected timestep 990, got 800"):
        fast(*call_inputs(1))
    fast.reset(forget_timesteps=True)
    for t in range(800, 800 - STEPS, -1):
        fast(x, torch.tensor([t, t]), y)
    assert fast.summary().runs == 2


@pytest.mark.usefixtures("unreadable")
def test_a_misfit_in_the_last_call_is_reported_at_the_end_of_the_run() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    drive(fast, STEPS - 1)
    x, _, y = call_inputs(0)
    with pytest.raises(StepError, match=f"step {STEPS - 1}"):
        fast(x, torch.tensor([1, 1]), y)


def test_timesteps_that_differ_within_a_batch_are_a_misfit() -> None:
    check = DeferredCheck(3, None, CPU)
    check.add(torch.tensor([9.0, 8.0]), 0)
    with pytest.raises(StepError, match="step 0"):
        check.raise_if_bad()


def test_a_verdict_that_has_not_arrived_is_not_waited_for() -> None:
    check = DeferredCheck(3, (9.0, 8.0, 7.0), CPU)
    check.add(torch.tensor([1.0]), 0)

    class Late:
        def query(self) -> bool:
            return False

    check._copied = Late()  # type: ignore[assignment]
    check.raise_if_bad()
    check._copied = None
    with pytest.raises(StepError):
        check.raise_if_bad()


def test_only_the_first_misfit_is_reported() -> None:
    check = DeferredCheck(3, (9.0, 8.0, 7.0), CPU)
    for step, t in enumerate((9.0, 5.0, 4.0)):
        check.add(torch.tensor([t]), step)
    with pytest.raises(StepError, match="step 1: expected timestep 8, got 5"):
        check.raise_if_bad()
