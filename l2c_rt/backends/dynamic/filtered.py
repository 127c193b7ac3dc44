"""Latents through a filter that follows the noise level, and how much they have changed."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from l2c_rt.backends.dynamic.stored import stored
from l2c_rt.plan.decisions import Spectrum

TINY = 1e-16


class FilteredChange:
    """mean |now - before| / mean |before| of each sample's filtered latents, the mean over them."""

    def __init__(self, spectrum: Spectrum) -> None:
        self._spectrum = spectrum
        self._now: Tensor | None = None
        self._before: Tensor | None = None
        self._metric: Tensor | None = None
        self._has_before = False
        self._gains: dict[tuple[tuple[int, ...], float], Tensor] = {}

    def begin_run(self) -> None:
        self._has_before = False

    def measure(self, value: Tensor, noise: float) -> None:
        """`value` [B, C, H, W] or [B, C, T, H, W]; `noise` is the noise level in 0..1.

        Raises ValueError for another number of axes.
        """
        if value.dim() not in (4, 5):
            raise ValueError(
                f"SeaCache: got latents {tuple(value.shape)}, wanted [B, C, H, W] or "
                "[B, C, T, H, W]; packed tokens have no axes to filter along"
            )
        axes = tuple(range(2, value.dim()))
        spectrum = torch.fft.fftn(value.float(), dim=axes)
        filtered = torch.fft.ifftn(spectrum * self._gain(value, noise), dim=axes).real
        self._now = stored(filtered, self._now)
        if self._before is not None:
            axes = tuple(range(1, value.dim()))
            change = (self._now - self._before).abs().mean(dim=axes)
            change = (change / (self._before.abs().mean(dim=axes) + TINY)).mean()
            self._metric = stored(change, self._metric)

    def shown(self) -> None:
        """What is measured counts from the second evaluation on."""

    @property
    def is_warm(self) -> bool:
        return self._metric is not None

    def metric(self) -> Tensor | None:
        return self._metric if self._has_before else None

    def end(self, out: Tensor, *, computed: bool) -> None:
        assert self._now is not None
        self._before = stored(self._now, self._before)
        self._has_before = True

    @property
    def nbytes(self) -> int:
        tensors = (self._now, self._before, *self._gains.values())
        return sum(t.nbytes for t in tensors if t is not None)

    def _gain(self, value: Tensor, noise: float) -> Tensor:
        key = (tuple(value.shape[2:]), noise)
        if key not in self._gains:
            self._gains[key] = gain(value.shape[2:], noise, self._spectrum.power).to(value.device)
        return self._gains[key]


def gain(sizes: tuple[int, ...], noise: float, power: float) -> Tensor:
    """The filter of axes of these sizes, with a mean of 1; float32.

    Along an axis it is (1 - s) P / ((1 - s)^2 P + s^2) with P = 1 / |f|^power and s the noise.
    """
    s = min(max(noise, 1e-6), 1 - 1e-6)
    whole = torch.ones(())
    for axis, size in enumerate(sizes):
        density = 1 / (torch.fft.fftfreq(size).abs() ** power + TINY)
        along = (1 - s) * density / ((1 - s) ** 2 * density + s**2 + TINY)
        whole = whole * along.reshape([size if i == axis else 1 for i in range(len(sizes))])
    return whole * (prod(sizes) / whole.sum())
