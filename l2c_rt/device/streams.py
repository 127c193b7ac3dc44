"""Which device and stream work goes to, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from l2c_rt._C import wait_for_event


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

    def wait(self) -> None:
        """Wait until nothing that was launched still uses memory which is about to be dropped.

        For this session's work alone: a wait for the device would end the captures of others.
        """
        if self._done is not None:
            wait_for_event(device_index(self._device), self._done.cuda_event)


def wait_for_current_stream(device: torch.device) -> None:
    """Wait for what the current stream has been given, where it was ordered: all of a session."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def device_index(device: torch.device) -> int:
    """The number of a CUDA device; without one in its name the current device's."""
    return torch.cuda.current_device() if device.index is None else device.index


def on(device: torch.device) -> AbstractContextManager[object]:
    """Launches inside go to this device, whichever is the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
