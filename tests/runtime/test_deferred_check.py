"""Timesteps checked on a GPU that is not the current one, on any stream, and not in captures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_torch_cuda import GPU, FakeCuda, FakeStream, stand_in_for_cuda

from l2c_rt.runtime import timestep_check as timesteps
from l2c_rt.runtime.timestep_check import DeferredCheck


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return stand_in_for_cuda(monkeypatch)


@pytest.fixture
def check(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> DeferredCheck:
    """For a GPU that is not the current one; its tensors are the host's."""

    def launched(t: Any, step: int, *_: Any) -> None:
        cuda.did("check", step, cuda.device_now, cuda.current.name)

    monkeypatch.setattr(timesteps, "_check_for", lambda device: launched)
    for name in ("tensor", "empty"):
        real = getattr(torch, name)

        def made(*args: Any, real: Any = real, name: str = name, **kwargs: Any) -> torch.Tensor:
            if name == "tensor" and torch.device(kwargs["device"]).type == "cuda":
                cuda.did("a copy that waits")
            result: torch.Tensor = real(*args, dtype=kwargs["dtype"])
            return result

        monkeypatch.setattr(torch, name, made)
    return DeferredCheck((9.0, 8.0, 7.0, 6.0), GPU)


def test_what_is_compared_with_comes_to_the_device_without_a_wait(
    cuda: FakeCuda, check: DeferredCheck
) -> None:
    assert check._expected.tolist() == [9.0, 8.0, 7.0, 6.0]
    assert "a copy that waits" not in cuda.log


def test_a_timestep_is_checked_on_its_own_device_whichever_is_the_current_one(
    cuda: FakeCuda, check: DeferredCheck
) -> None:
    check.add(torch.zeros(2, dtype=torch.float32), 0)
    assert ("check", 0, 1, "user") in cuda.log
    assert check._copied is not None
    assert check._copied.device == 1  # type: ignore[comparison-overlap]
    assert cuda.device_now == 0


def test_checks_from_streams_in_turn_are_ordered_and_their_verdict_stays_where_it_is(
    cuda: FakeCuda, check: DeferredCheck
) -> None:
    verdict = check._verdict.data_ptr()
    check.add(torch.zeros(2, dtype=torch.float32), 0)
    cuda.log.clear()
    with cuda.stream(FakeStream(cuda, "other")):
        check.add(torch.zeros(2, dtype=torch.float32), 1)
        check.clear()
    assert cuda.log[:2] == [("wait_event", "other", "user"), ("check", 1, 1, "other")]
    assert check._verdict.data_ptr() == verdict


def test_a_check_is_forgotten_inside_a_capture_without_a_launch(
    cuda: FakeCuda, check: DeferredCheck
) -> None:
    check.add(torch.zeros(2, dtype=torch.float32), 0)
    check._verdict[0] = 0.0
    cuda.log.clear()
    cuda.capturing = cuda.user
    check.raise_if_bad()
    check.clear()
    assert cuda.log == []
    cuda.capturing = None
    check.add(torch.zeros(2, dtype=torch.float32), 1)
    assert check._verdict.tolist() == [-1.0] * 3
