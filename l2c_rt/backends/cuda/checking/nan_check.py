"""Whether a run has ended in NaN, read when the device has said so and never waited for."""

from __future__ import annotations

import torch
from torch import Tensor

NOTE = (
    "a run ended in NaN: float16 overflows where bfloat16 or float32 does not, and weights or "
    "noise may hold NaN; if neither is so, `l2c-rt doctor` checks this machine"
)


class NanCheck:
    """Of one program's latents.  A NaN stays in them from the step that made it to the end.

    `notes` is told of it, once.
    """

    def __init__(self, device: torch.device, notes: list[str]) -> None:
        self._notes = notes
        self._cuda = device.type == "cuda"
        self._host = torch.zeros(1, dtype=torch.bool, device="cpu", pin_memory=self._cuda)
        self._copied: torch.cuda.Event | None = None
        self._pending = False

    def queue(self, latents: Tensor) -> None:
        """Behind the run that the current stream has been given."""
        if self._capturing():
            return
        # Of the run before, on a GPU: this one has only been queued.
        self._note()
        self._host.copy_(latents.isnan().any().reshape(1), non_blocking=True)
        self._pending = True
        if self._cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        self._note()

    def _note(self) -> None:
        if self._found() and NOTE not in self._notes:
            self._notes.append(NOTE)

    def _found(self) -> bool:
        """Whether the last run that has ended did so in NaN; each run is told of once."""
        if not self._pending:
            return False
        if self._copied is not None and not self._copied.query():  # type: ignore[no-untyped-call]
            return False
        self._pending = False
        return bool(self._host[0])

    def _capturing(self) -> bool:
        """Inside a user's capture nothing can be read, and its replays are not known here."""
        return self._cuda and torch.cuda.is_current_stream_capturing()
