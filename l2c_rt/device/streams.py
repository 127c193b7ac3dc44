"""Which device and stream work goes to, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


class StreamOrder:
    """Orders one session's work on a device, whichever stream each call comes from.

    Static buffers are written by one call and read by the next, which may be on another stream.
    """

    def __init__(self, device: torch.device, *, replays: bool = True) -> None:
        self._device, self._replays = device, replays
        self._last: Any = None
        self._done: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self._device.type != "cuda":
            yield
            return
        if torch.cuda.is_current_stream_capturing():
            if self._replays:
                raise RuntimeError(
                    "a compiled model replays graphs of its own and cannot be captured into "
                    'another: compile with graph="off" or call it outside the capture'
                )
            yield  # A capture may not wait for what was launched before it: its owner orders that.
            return
        stream = torch.cuda.current_stream(self._device)
        if self._done is None:
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        elif stream != self._last:
            stream.wait_event(self._done)
        self._last = stream
        try:
            yield
        finally:
            self._done.record(stream)


def on(device: torch.device) -> AbstractContextManager[object]:
    """Launches inside go to this device, whichever is the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
