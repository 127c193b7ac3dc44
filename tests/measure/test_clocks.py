"""How one call is timed."""

from __future__ import annotations

import pytest
import torch

from l2c_rt.measure.clocks import clock_for, host_seconds, median_seconds

GPU = torch.device("cuda", 1)


def test_a_gpu_is_timed_by_events_on_its_own_stream_after_all_work_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            log.append(f"record on {stream}")

        def synchronize(self) -> None:
            log.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return 12.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append(f"drain {device}"))
    assert clock_for(GPU)(lambda: log.append("run")) == 0.0125
    recorded = "record on stream of cuda:1"
    assert log == ["drain cuda:1", recorded, "run", recorded, "wait"]


def test_a_cpu_is_timed_by_the_hosts_clock() -> None:
    assert clock_for(torch.device("cpu")) is host_seconds
    assert 0 <= host_seconds(lambda: None) < 1


def test_the_median_leaves_the_first_call_out() -> None:
    seconds = iter([1.0, 9.0, 2.0])
    calls: list[int] = []
    assert median_seconds(lambda run: run() or next(seconds), lambda: calls.append(1), 3) == 2.0
    assert len(calls) == 4
