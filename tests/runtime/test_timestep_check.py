"""Timesteps that cannot be read without waiting: checked where they are, reported at a later call.

A CPU tensor stands in for a GPU's; only the wait is missing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from three_backends import STEPS, assert_same, every_backend, fresh
from toys import call_inputs, drive, timesteps

from l2c_rt.notices import L2CWarning
from l2c_rt.runtime import timestep_check as timesteps_module
from l2c_rt.runtime.calls import StepError
from l2c_rt.runtime.timestep_check import DeferredCheck, host_timestep, on_host

CPU = torch.device("cpu")
GRID = timesteps(STEPS)


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every timestep behaves as one on a GPU does; the list has those that were waited for."""
    waited: list[float] = []

    def read(t: Any) -> float:
        waited.append(host_timestep(t))
        return waited[-1]

    monkeypatch.setattr(timesteps_module, "on_host", lambda t: False)
    monkeypatch.setattr(timesteps_module, "host_timestep", read)
    return waited


@pytest.mark.parametrize("t", [7, 7.0, torch.tensor(7), torch.tensor([7, 7]), torch.tensor([7.0])])
def test_a_timestep_on_the_host_is_read_in_any_form(t: Any) -> None:
    assert on_host(t)
    assert host_timestep(t) == 7.0


def test_a_timestep_on_a_device_is_one_to_wait_for() -> None:
    assert not on_host(torch.empty(2, device="meta"))


def test_timesteps_that_differ_within_a_batch_are_refused() -> None:
    with pytest.raises(StepError, match="differ within one batch"):
        host_timestep(torch.tensor([9.0, 8.0]))


@every_backend
def test_a_known_loop_waits_at_its_first_call_only_and_gives_the_same(
    backend: str, on_device: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = fresh(backend, timesteps=GRID)
    outputs = [drive(fast, STEPS) for _ in range(2)]
    assert on_device == [990.0, 990.0]
    assert fast.summary().runs == 2
    monkeypatch.undo()
    for run in outputs:
        assert_same(run, drive(fresh(backend, timesteps=GRID), STEPS))


@every_backend
def test_an_unknown_loop_waits_until_one_complete_run_has_shown_it(
    backend: str, on_device: list[float]
) -> None:
    fast = fresh(backend)
    assert_same(drive(fast, STEPS), drive(fast, STEPS))
    assert on_device == [*map(float, GRID), 990.0]
    assert fast.summary().runs == 2


@pytest.mark.usefixtures("on_device")
def test_inside_a_capture_timesteps_are_neither_read_nor_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = fresh()
    clean = drive(fast, STEPS)
    monkeypatch.setattr(timesteps_module, "capturing", lambda device: True)
    for name in ("host_timestep", "DeferredCheck"):
        monkeypatch.setattr(timesteps_module, name, None)
    assert_same(drive(fast, STEPS), clean)


@pytest.mark.usefixtures("on_device")
def test_a_given_timestep_that_does_not_come_is_reported_at_the_next_call_and_resets() -> None:
    fast = fresh(timesteps=GRID)
    drive(fast, 1)
    x, _, y = call_inputs(1)
    fast(x, torch.tensor([500, 500]), y)
    with pytest.raises(StepError, match="step 1: expected timestep 983, got 500"):
        fast(*call_inputs(2))
    clean = drive(fresh(timesteps=GRID), STEPS)
    assert_same(drive(fast, STEPS), clean)


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("at", range(1, STEPS))
def test_a_run_begun_over_a_known_one_is_refused_not_answered_wrongly(at: int) -> None:
    fast = fresh(timesteps=GRID)
    drive(fast, at)
    with pytest.raises(StepError):
        drive(fast, STEPS)


@pytest.mark.usefixtures("on_device")
@every_backend
@pytest.mark.parametrize("at", [1, STEPS - 1])
def test_with_nothing_known_a_run_begun_over_another_is_right(backend: str, at: int) -> None:
    fast = fresh(backend)
    clean = drive(fresh(backend), STEPS)
    drive(fast, at, seed=1)
    with pytest.warns(L2CWarning, match=f"after {at} of {STEPS} evaluations"):
        assert_same(drive(fast, STEPS), clean)


@pytest.mark.usefixtures("on_device")
def test_a_misfit_in_the_last_call_is_reported_at_the_end_of_the_run() -> None:
    fast = fresh(timesteps=GRID)
    drive(fast, STEPS - 1)
    x, _, y = call_inputs(0)
    with pytest.raises(StepError, match=f"step {STEPS - 1}"):
        fast(x, torch.tensor([1, 1]), y)


def test_timesteps_that_differ_within_a_batch_are_a_misfit() -> None:
    check = DeferredCheck((9.0, 8.0, 7.0), CPU)
    check.add(torch.tensor([9.0, 8.0]), 0)
    with pytest.raises(StepError, match="step 0"):
        check.raise_if_bad()


def test_a_verdict_that_has_not_arrived_is_not_waited_for() -> None:
    check = DeferredCheck((9.0, 8.0, 7.0), CPU)
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
    check = DeferredCheck((9.0, 8.0, 7.0), CPU)
    for step, t in enumerate((9.0, 5.0, 4.0)):
        check.add(torch.tensor([t]), step)
    with pytest.raises(StepError, match="step 1: expected timestep 8, got 5"):
        check.raise_if_bad()
