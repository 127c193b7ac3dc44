"""The number that a method decides by: how much what it observes has changed."""

from __future__ import annotations

import torch
from torch import Tensor

from l2c_rt.plan.decisions import Look


class Gauge:
    """The relative L1 distance of an observed tensor to an earlier one of the same run.

    Both are kept in memory of its own, which stays where it is.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._now: Tensor | None = None
        self._reference: Tensor | None = None
        self._has_reference = self._has_now = False

    def begin_run(self) -> None:
        """Nothing that an earlier run has shown counts any more."""
        self._has_reference = self._has_now = False

    def observe(self, value: Tensor) -> None:
        """What this evaluation shows."""
        self._now = _stored(value, self._now)
        self._has_now = True

    def metric(self) -> Tensor | None:
        """mean |now - reference| / mean |reference|, a float32 scalar on the device; None where
        nothing can be compared."""
        now, reference = self._now, self._reference
        if now is None or reference is None or not (self._has_now and self._has_reference):
            return None
        if now.shape != reference.shape:
            return None
        change = (now - reference).abs().mean(dtype=torch.float32)
        return change / reference.abs().mean(dtype=torch.float32)

    def end(self, *, computed: bool) -> None:
        """The evaluation is done: what it showed may be what later ones are compared with."""
        if self._has_now and (computed or self._look.against == "before"):
            self._now, self._reference = self._reference, self._now
            self._has_reference = True
        self._has_now = False

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self._now, self._reference) if t is not None)


def _stored(value: Tensor, place: Tensor | None) -> Tensor:
    if place is None or place.shape != value.shape or place.dtype != value.dtype:
        return value.detach().clone()
    return place.copy_(value)
