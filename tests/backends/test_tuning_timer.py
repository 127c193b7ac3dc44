"""GPU time of a call, on a stand-in for torch.cuda whose clock the calls move."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from l2c_rt.backends.cuda.tuning import timer as timing
from l2c_rt.backends.cuda.tuning.timer import cuda_measure
from l2c_rt.backends.tuning.chooser import CaptureInProgress


class Stream:
    def __init__(self, gpu: Gpu, device: Any, priority: int) -> None:
        self.gpu = gpu
        gpu.log.append(f"stream on {device} of priority {priority}")

    def wait_stream(self, other: str) -> None:
        self.gpu.log.append(f"wait for {other}")

    def synchronize(self) -> None:
        self.gpu.log.append("synchronize")


class Event:
    def __init__(self, gpu: Gpu, enable_timing: bool) -> None:
        assert enable_timing
        self.gpu = gpu
        self.at = float("nan")

    def record(self, stream: Any) -> None:
        assert self.gpu.current is stream
        self.at = self.gpu.now

    def synchronize(self) -> None:
        self.gpu.log.append("synchronize")

    def elapsed_time(self, later: Event) -> float:
        return 1e3 * (later.at - self.at)


class CUDAGraph:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def capture_begin(self, capture_error_mode: str) -> None:
        self.gpu.log.append(f"capture {capture_error_mode}")
        self.gpu.recording = self.nodes = []

    def capture_end(self) -> None:
        self.gpu.recording = None
        self.gpu.log.append(f"captured {len(self.nodes)}")
        if self.gpu.refuses:
            raise RuntimeError("operation failed due to a previous error during capture")

    def replay(self) -> None:
        assert self.gpu.recording is None
        self.gpu.log.append("replay")
        self.gpu.now += sum(self.nodes)

    def reset(self) -> None:
        self.gpu.log.append("reset")


class Gpu:
    """What timing asks of torch.cuda.  Launching costs the host `launch_s` where no graph does it,
    and the GPU waits for the host."""

    def __init__(self, launch_s: float = 0.0) -> None:
        self.now, self.launch_s = 0.0, launch_s
        self.log: list[str] = []
        self.recording: list[float] | None = None
        self.outer_capture = self.refuses = False
        self.current = "the caller's"
        self.Stream, self.Event = partial(Stream, self), partial(Event, self)
        self.CUDAGraph = partial(CUDAGraph, self)

    def is_current_stream_capturing(self) -> bool:
        return self.outer_capture

    def current_stream(self, device: Any) -> Any:
        self.log.append(f"current on {device}")
        return self.current

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def launch(self, seconds: float) -> None:
        if self.recording is not None:
            if self.refuses:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.recording.append(seconds)
        else:
            self.now += max(seconds, self.launch_s)

    def kernel(self, seconds: float) -> Callable[[], None]:
        return lambda: self.launch(seconds)


@pytest.fixture(autouse=True)
def _short_spin_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SPIN_UP_S", 0.001)


@pytest.mark.parametrize("seconds", [2e-6, 5e-5, 1e-3, 4e-3, 0.1])
def test_the_time_is_the_gpus_and_not_that_of_launching(seconds: float) -> None:
    gpu = Gpu(launch_s=1e-5)
    assert cuda_measure(cuda=gpu)(gpu.kernel(seconds)) == pytest.approx(seconds)
    assert "capture thread_local" in gpu.log
    assert gpu.log[-1] == "reset"


def test_twenty_launches_make_a_group_and_five_groups_a_time() -> None:
    gpu = Gpu()
    cuda_measure(cuda=gpu)(gpu.kernel(5e-6))
    assert "captured 20" in gpu.log
    # One more, so that the GPU is busy while the host queues those that count.
    assert gpu.log.count("replay") == 6


def test_one_slow_group_does_not_move_the_median() -> None:
    gpu, replays = Gpu(), list[int]()

    class Disturbed(CUDAGraph):
        def replay(self) -> None:
            replays.append(1)
            super().replay()
            gpu.now += 1.0 if len(replays) == 3 else 0.0

    gpu.CUDAGraph = partial(Disturbed, gpu)
    assert cuda_measure(cuda=gpu)(gpu.kernel(5e-6)) == pytest.approx(5e-6)


@pytest.mark.parametrize("seconds", [1e-4, 1e-3, 4e-3, 0.018])
def test_a_call_is_given_about_20_ms(seconds: float) -> None:
    gpu = Gpu()
    measure = cuda_measure(cuda=gpu)
    measure(gpu.kernel(1e-6))
    begun = gpu.now
    measure(gpu.kernel(seconds))
    # Four for a rough time, and one group more than those that count.
    assert gpu.now - begun <= 0.021 + 6 * seconds


def test_a_call_that_cannot_be_captured_is_timed_as_it_is_launched() -> None:
    gpu = Gpu(launch_s=1e-5)
    gpu.refuses = True
    assert cuda_measure(cuda=gpu)(gpu.kernel(5e-6)) == pytest.approx(1e-5)
    assert "replay" not in gpu.log
    assert gpu.recording is None


def test_it_refuses_to_run_inside_a_capture() -> None:
    gpu = Gpu()
    gpu.outer_capture = True
    with pytest.raises(CaptureInProgress, match="tune before the capture"):
        cuda_measure(cuda=gpu)(gpu.kernel(1e-6))
    assert gpu.log == []
    assert issubclass(CaptureInProgress, RuntimeError)


def test_it_runs_on_one_stream_of_its_own_after_the_callers_work() -> None:
    gpu = Gpu()
    measure, streams = cuda_measure(cuda=gpu, device="cuda:3"), set()

    def call() -> None:
        streams.add(gpu.current)
        gpu.launch(1e-6)

    measure(call)
    measure(call)
    assert len(streams) == 1
    assert gpu.current == "the caller's" not in streams
    # Sessions capture on streams of priority 0, so theirs can never be this one.
    assert gpu.log[:2] == ["stream on cuda:3 of priority -1", "current on cuda:3"]
    assert gpu.log[2] == "wait for the caller's"
    assert gpu.log.count("wait for the caller's") == 2


def test_a_call_has_run_before_it_is_captured() -> None:
    gpu, captured = Gpu(), []

    def call() -> None:
        captured.append(gpu.recording is not None)
        gpu.launch(0.1)

    measure = cuda_measure(cuda=gpu)
    for _ in range(2):
        captured.clear()
        measure(call)
        assert captured.index(True) >= 2


@pytest.mark.parametrize("refuses", [False, True])
def test_no_garbage_is_collected_during_a_capture_but_again_afterwards(refuses: bool) -> None:
    gpu, collecting = Gpu(), set()
    gpu.refuses = refuses

    def call() -> None:
        collecting.add((gpu.recording is not None, gc.isenabled()))
        gpu.launch(1e-6)

    cuda_measure(cuda=gpu)(call)
    assert collecting == {(False, True), (True, False)}
    assert gc.isenabled()


def test_what_the_call_raises_is_passed_on() -> None:
    def broken() -> None:
        raise ValueError("tile")

    gpu = Gpu()
    with pytest.raises(ValueError, match="tile"):
        cuda_measure(cuda=gpu)(broken)
    assert "capture thread_local" not in gpu.log


def test_an_idle_gpu_is_warmed_up_before_the_first_timing_only() -> None:
    gpu, calls = Gpu(), []
    measure = cuda_measure(cuda=gpu)

    def call() -> None:
        calls.append(1)
        gpu.launch(0.1)

    measure(call)
    first = len(calls)
    measure(call)
    assert first > 2 * (len(calls) - first)
