"""GPU time of a call, without the time that the host takes to launch it."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from l2c_rt.backends.tuning.chooser import CaptureInProgress
from l2c_rt.device.graphs import undisturbed

Call = Callable[[], None]

LAUNCHES, GROUPS = 20, 5
BUDGET_S = 0.02
"""GPU time spent on one call, beyond its warm-up; a call longer than this is timed once."""
SPIN_UP_S = 0.1
"""Of work before the very first timing: an idle GPU starts with a low clock."""


def cuda_measure(
    *, cuda: Any = None, device: str | torch.device = "cuda"
) -> Callable[[Call], float]:
    """A function that times a call: its GPU time in seconds, the median of a few groups.

    A call finds the L2 cache as the launch before left it.
    `device` is where the calls run; it is the current device while they do.
    `cuda` stands in for `torch.cuda` where there is no GPU.
    Raises: CaptureInProgress; whatever the call raises.
    """
    return _Stopwatch(torch.cuda if cuda is None else cuda, device)


class _Stopwatch:
    """Everything runs on a stream of its own: a graph that goes away takes along the cuBLAS
    workspace of the stream it was captured on, which other graphs may still be using
    (pytorch issue 193402)."""

    def __init__(self, cuda: Any, device: str | torch.device) -> None:
        self._cuda, self._device = cuda, device
        self._stream: Any = None

    def __call__(self, call: Call) -> float:
        if self._cuda.is_current_stream_capturing():
            raise CaptureInProgress("timing: a graph is being captured; tune before the capture")
        first = self._stream is None
        if first:
            # Streams are handed out from one pool per priority, again and again: from this pool
            # nobody captures.
            self._stream = self._cuda.Stream(self._device, priority=-1)
        # What the call reads may still be under way on the caller's stream.
        self._stream.wait_stream(self._cuda.current_stream(self._device))
        with self._cuda.stream(self._stream):
            if first:
                self._spin_up(call)
            seconds = self._time(call)
        # Below what an event resolves, all are equally fast.
        return max(seconds, 1e-7)

    def _spin_up(self, call: Call) -> None:
        begun = time.perf_counter()
        call()
        while time.perf_counter() - begun < SPIN_UP_S:
            call()
            self._stream.synchronize()

    def _time(self, call: Call) -> float:
        # The launches ahead of it compile, and let libraries choose and allocate, which a capture
        # forbids.
        rough = self._between(call, 2)[0] / 2
        launches = max(1, min(LAUNCHES, int(BUDGET_S / (GROUPS + 1) / max(rough, 1e-9))))
        groups = max(1, min(GROUPS, int(BUDGET_S / (launches * max(rough, 1e-9))) - 1))
        graph = self._captured(call, launches)
        if graph is None:
            times = self._between(call, launches, groups)
        else:
            times = self._between(graph.replay, 1, groups)
            graph.reset()
        return statistics.median(times) / launches

    def _between(self, call: Call, launches: int, groups: int = 1) -> list[float]:
        """Seconds of each group of launches.  One more goes ahead untimed, so that the GPU is busy
        while the host queues those that count."""
        events = [self._cuda.Event(enable_timing=True) for _ in range(groups + 1)]
        for event in events:
            for _ in range(launches):
                call()
            event.record(self._stream)
        events[-1].synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(events)]

    def _captured(self, call: Call, launches: int) -> Any:
        """A graph of so many launches; None where the call cannot be captured."""
        graph = self._cuda.CUDAGraph()
        try:
            with undisturbed():
                # Not `torch.cuda.graph`: it gives the whole allocator's cache back to the driver.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    for _ in range(launches):
                        call()
                finally:
                    graph.capture_end()
        except RuntimeError:
            return None
        return graph
