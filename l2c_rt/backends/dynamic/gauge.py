"""The number that a method decides by: how much what it observes has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from l2c_rt.backends.dynamic.filtered import FilteredChange
from l2c_rt.backends.dynamic.stored import stored
from l2c_rt.kernels import reference
from l2c_rt.plan.decisions import Look

Change = Callable[[Tensor, Tensor], Tensor]
"""mean |now - reference| / mean |reference|, as `kernels.relative_change`."""


class Gauge(Protocol):
    """What one call of a step observes in a run, in memory of its own, which stays where it is.

    What `measure` launches may be captured and replayed; `shown` follows either.
    """

    def begin_run(self) -> None:
        """Nothing that an earlier run has shown counts any more."""

    def measure(self, value: Tensor, noise: float) -> None:
        """Measure what an evaluation shows, at this noise level (0 where it is not needed)."""

    def shown(self) -> None:
        """What this evaluation shows has been measured."""

    @property
    def is_warm(self) -> bool:
        """Whether `measure` has done all that it will ever do, so that it may be captured."""

    def metric(self) -> Tensor | None:
        """A float32 scalar on the device, which the next evaluation overwrites; None where nothing
        can be compared."""

    def end(self, out: Tensor, *, computed: bool) -> None:
        """The evaluation is done and gave `out`."""

    @property
    def nbytes(self) -> int: ...


def gauge_for(look: Look, change: Change | None = None) -> Gauge:
    """The gauge for a measure; `change` computes the relative change on its device."""
    if look.spectrum is not None:
        return FilteredChange(look.spectrum)
    if look.kind == "checked":
        return Check(look)
    if look.measure == "output change":
        return OutputChange()
    return RelativeL1(look, change or reference.relative_change)


class RelativeL1:
    """mean |now - reference| / mean |reference|: the distance to an earlier evaluation."""

    def __init__(self, look: Look, change: Change) -> None:
        self._look, self._change = look, change
        self._now: Tensor | None = None
        self._reference: Tensor | None = None
        self._metric: Tensor | None = None
        self._has_reference = self._has_now = False

    def begin_run(self) -> None:
        self._has_reference = self._has_now = False

    def measure(self, value: Tensor, noise: float) -> None:
        # Contiguous: the kernel goes through both from end to end.
        self._now = stored(value.contiguous(), self._now)
        if self._reference is None or self._reference.shape != self._now.shape:
            self._reference, self._has_reference = torch.ones_like(self._now), False
        self._metric = stored(self._change(self._now, self._reference), self._metric)

    def shown(self) -> None:
        self._has_now = True

    @property
    def is_warm(self) -> bool:
        return self._metric is not None

    def metric(self) -> Tensor | None:
        return self._metric if self._has_now and self._has_reference else None

    def end(self, out: Tensor, *, computed: bool) -> None:
        if self._has_now and (computed or self._look.against == "before"):
            assert self._now is not None
            assert self._reference is not None
            self._reference.copy_(self._now)
            self._has_reference = True
        self._has_now = False

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self._now, self._reference) if t is not None)


class OutputChange:
    """k mean |x - x'| / mean |v|, with x' the input of the evaluation before, v the last computed
    output, and k = mean |v - v'| / mean |x - x'| of the last two computed evaluations.  Of both are
    compared the channels that both have: no variances, and no conditions behind latents."""

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._now: Tensor | None = None
        self._computed_input: Tensor | None = None
        self._computed_output: Tensor | None = None
        self._k: Tensor | None = None
        self._metric: Tensor | None = None
        self._computed = 0
        self._sizes: tuple[int, ...] = ()

    def begin_run(self) -> None:
        self._computed = 0

    def measure(self, value: Tensor, noise: float) -> None:
        self._now = stored(common(value, self._sizes), self._now)
        if self._k is None or self._before is None:
            return
        assert self._computed_output is not None
        change = self._k * mean_change(self._now, self._before)
        change = change / self._computed_output.abs().mean(dtype=torch.float32)
        self._metric = stored(change, self._metric)

    def shown(self) -> None:
        """What is measured counts from the third evaluation on."""

    @property
    def is_warm(self) -> bool:
        return self._metric is not None

    def metric(self) -> Tensor | None:
        return self._metric if self._computed > 1 else None

    def end(self, out: Tensor, *, computed: bool) -> None:
        assert self._now is not None
        if not self._sizes:
            self._sizes = tuple(map(min, self._now.shape, out.shape))
            # A graph that measures holds the address: where all is compared it stays.
            self._now = stored(common(self._now, self._sizes), self._now)
        if computed:
            out = common(out, self._sizes)
            if self._computed and self._computed_output is not None:
                assert self._computed_input is not None
                rise = mean_change(out, self._computed_output)
                k = rise / mean_change(self._now, self._computed_input)
                self._k = stored(k, self._k)
            self._computed_input = stored(self._now, self._computed_input)
            self._computed_output = stored(out, self._computed_output)
            self._computed += 1
        self._before = stored(self._now, self._before)

    @property
    def nbytes(self) -> int:
        tensors = (self._before, self._now, self._computed_input, self._computed_output)
        return sum(t.nbytes for t in tensors if t is not None)


class Check:
    """How far what stands for a block's output is from what the block gives: by element, the mean
    of |p - c| or |p - c| / (|c| + 1e-10), or the root of that of its square, or 1 - the mean of the
    samples' cosines."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._error: Tensor | None = None
        self._is_shown = False
        self.nbytes = 0

    def begin_run(self) -> None:
        self._is_shown = False

    def measure(self, value: Tensor, noise: float) -> None:
        """`value` [2, ...] is what stands for the output, and the output."""
        self._error = stored(self._measured(*value.float()), self._error)

    def _measured(self, predicted: Tensor, computed: Tensor) -> Tensor:
        if self._look.measure == "cosine":
            return 1 - torch.cosine_similarity(predicted.flatten(1), computed.flatten(1), 1).mean()
        change = (predicted - computed).abs()
        if self._look.measure in ("elementwise L1", "elementwise L2"):
            change = change / (computed.abs() + 1e-10)
        if self._look.measure in ("elementwise L2", "absolute L2"):
            return change.square().mean().sqrt()
        return change.mean()

    def shown(self) -> None:
        self._is_shown = True

    @property
    def is_warm(self) -> bool:
        return self._error is not None

    def metric(self) -> Tensor | None:
        return self._error if self._is_shown else None

    def end(self, out: Tensor, *, computed: bool) -> None:
        self._is_shown = False


def common(value: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The value as far as the sizes go, all of it where there are none."""
    for dim, size in enumerate(sizes):
        if value.shape[dim] != size:
            value = value.narrow(dim, 0, size)
    return value


def mean_change(a: Tensor, b: Tensor) -> Tensor:
    """mean |a - b| as float32."""
    return (a - b).abs().mean(dtype=torch.float32)
