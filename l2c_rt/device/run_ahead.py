"""How far the host is ahead of a device."""

from __future__ import annotations

from collections import deque

import torch


class RunAhead:
    """Lets the host prepare the next piece of work while the device does one, and no further."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._queued: deque[torch.cuda.Event] = deque()

    def queued(self) -> None:
        """The current stream has been given a piece: wait until the one before it has ended."""
        if self._device.type != "cuda":
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._queued.append(event)
        if len(self._queued) > 1:
            self._queued.popleft().synchronize()
