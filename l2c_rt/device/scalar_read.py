"""A number that the host reads from a device: 4 bytes through pinned memory."""

from __future__ import annotations

import torch
from torch import Tensor


class ScalarReader:
    """Waits for its own copy alone, and for no work that other streams do."""

    def __init__(self) -> None:
        self._place: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def read(self, value: Tensor) -> float:
        """A tensor of one element as a number."""
        if value.device.type != "cuda":
            return float(value)
        if self._place is None or self._copied is None:
            self._place = torch.empty((), dtype=torch.float32, pin_memory=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._place.copy_(value, non_blocking=True)
        self._copied.record()
        self._copied.synchronize()
        return float(self._place)
