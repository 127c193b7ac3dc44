"""Times on a device, read once they are there and never waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

MOST_OPEN = 256
"""Pairs that wait to be read; older ones are forgotten."""


class EventTimes:
    """Seconds between pairs of CUDA events; nothing on a CPU or inside a capture."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._open: deque[tuple[int, Any, Any]] = deque(maxlen=MOST_OPEN)

    @contextmanager
    def around(self, label: int | Callable[[], int]) -> Iterator[None]:
        """Time what is queued inside on the current stream; a label may be known at its end."""
        if not self._cuda or torch.cuda.is_current_stream_capturing():
            yield
            return
        first, last = _event(), _event()
        first.record()
        yield
        last.record()
        self._open.append((label if isinstance(label, int) else label(), first, last))

    def ended(self) -> list[tuple[int, float]]:
        """(label, seconds) of what has ended since the last time, in order."""
        seconds: list[tuple[int, float]] = []
        if self._cuda and torch.cuda.is_current_stream_capturing():
            # Asking for an event ends a capture.
            return seconds
        while self._open and self._open[0][2].query():
            label, first, last = self._open.popleft()
            seconds.append((label, first.elapsed_time(last) * 1e-3))
        return seconds


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
