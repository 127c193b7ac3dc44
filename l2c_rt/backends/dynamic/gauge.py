"""The number that a method decides by: how much what it observes has changed."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from l2c_rt.backends.dynamic.filtered import FilteredChange
from l2c_rt.backends.dynamic.stored import stored
from l2c_rt.plan.decisions import Look


class Gauge(Protocol):
    """What one call of a step observes in a run, in memory of its own, which stays where it is."""

    def begin_run(self) -> None:
        """Nothing that an earlier run has shown counts any more."""

    def observe(self, value: Tensor, noise: float) -> None:
        """What this evaluation shows, at this noise level (0 where it is not needed)."""

    def metric(self) -> Tensor | None:
        """A float32 scalar on the device; None where nothing can be compared."""

    def end(self, out: Tensor, *, computed: bool) -> None:
        """The evaluation is done and gave `out`."""

    @property
    def nbytes(self) -> int: ...


def gauge_for(look: Look) -> Gauge:
    """The gauge for a measure."""
    if look.spectrum is not None:
        return FilteredChange(look.spectrum)
    if look.kind == "checked":
        return Check(look)
    return OutputChange() if look.measure == "output change" else RelativeL1(look)


class RelativeL1:
    """mean |now - reference| / mean |reference|: the distance to an earlier evaluation."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._now: Tensor | None = None
        self._reference: Tensor | None = None
        self._has_reference = self._has_now = False

    def begin_run(self) -> None:
        self._has_reference = self._has_now = False

    def observe(self, value: Tensor, noise: float) -> None:
        self._now = stored(value, self._now)
        self._has_now = True

    def metric(self) -> Tensor | None:
        now, reference = self._now, self._reference
        if now is None or reference is None or not (self._has_now and self._has_reference):
            return None
        if now.shape != reference.shape:
            return None
        return mean_change(now, reference) / reference.abs().mean(dtype=torch.float32)

    def end(self, out: Tensor, *, computed: bool) -> None:
        if self._has_now and (computed or self._look.against == "before"):
            self._now, self._reference = self._reference, self._now
            self._has_reference = True
        self._has_now = False

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self._now, self._reference) if t is not None)


class OutputChange:
    """k mean |x - x'| / mean |v|, with x' the input of the evaluation before, v the last computed
    output, and k = mean |v - v'| / mean |x - x'| of the last two computed evaluations."""

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._now: Tensor | None = None
        self._computed_input: Tensor | None = None
        self._computed_output: Tensor | None = None
        self._k: Tensor | None = None
        self._computed = 0

    def begin_run(self) -> None:
        self._computed = 0
        self._k = None

    def observe(self, value: Tensor, noise: float) -> None:
        self._now = stored(value, self._now)

    def metric(self) -> Tensor | None:
        if self._k is None or self._now is None or self._before is None:
            return None
        assert self._computed_output is not None
        change = mean_change(self._now, self._before)
        return self._k * change / self._computed_output.abs().mean(dtype=torch.float32)

    def end(self, out: Tensor, *, computed: bool) -> None:
        assert self._now is not None
        if computed:
            if self._computed and self._computed_output is not None:
                assert self._computed_input is not None
                rise = mean_change(out, self._computed_output)
                self._k = rise / mean_change(self._now, self._computed_input)
            self._computed_input = stored(self._now, self._computed_input)
            self._computed_output = stored(out, self._computed_output)
            self._computed += 1
        self._now, self._before = self._before, self._now

    @property
    def nbytes(self) -> int:
        tensors = (self._before, self._now, self._computed_input, self._computed_output)
        return sum(t.nbytes for t in tensors if t is not None)


class Check:
    """How far what stands for a block's output is from what the block gives: by element, the mean
    of |p - c| / (|c| + 1e-10) or its square's root, or 1 - cosine."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._error: Tensor | None = None
        self.nbytes = 0

    def begin_run(self) -> None:
        self._error = None

    def observe(self, value: Tensor, noise: float) -> None:
        """`value` [2, ...] is what stands for the output, and the output."""
        predicted, computed = value.float()
        if self._look.measure == "cosine":
            self._error = 1 - torch.cosine_similarity(predicted.flatten(), computed.flatten(), 0)
            return
        change = (predicted - computed).abs() / (computed.abs() + 1e-10)
        if self._look.measure == "elementwise L2":
            self._error = change.square().mean().sqrt()
        else:
            self._error = change.mean()

    def metric(self) -> Tensor | None:
        return self._error

    def end(self, out: Tensor, *, computed: bool) -> None:
        self._error = None


def mean_change(a: Tensor, b: Tensor) -> Tensor:
    """mean |a - b| as float32."""
    return (a - b).abs().mean(dtype=torch.float32)
