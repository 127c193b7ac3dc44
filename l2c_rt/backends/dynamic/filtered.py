"""Latents through a filter that follows the noise level, and how much they have changed."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from l2c_rt.plan.spectrum import Spectrum

TINY = 1e-16


class FilteredChange:
    """mean |now - before| / mean |before| of each sample's filtered latents, the mean over them."""

    def __init__(self, spectrum: Spectrum) -> None:
        self._spectrum = spectrum
        self._now: list[Tensor] = []
        self._before: list[Tensor] = []
        self._metric: Tensor | None = None
        self._gains: dict[tuple[tuple[int, ...], float], Tensor] = {}

    def begin_run(self) -> None:
        self._before = []

    def measure(self, value: Tensor, noise: float) -> None:
        """`value` [B, C, H, W] or [B, C, T, H, W]; `noise` is the noise level in 0..1.

        Raises ValueError for another number of axes.
        """
        if value.dim() not in (4, 5):
            raise ValueError(
                f"SeaCache: got latents {tuple(value.shape)}, wanted [B, C, H, W] or "
                "[B, C, T, H, W]; packed tokens have no axes to filter along: say what is made of "
                "them, raw_vision_callback=..."
            )
        self.measure_latents(value.unbind(), noise)

    def measure_latents(self, samples: Sequence[Tensor] | None, noise: float) -> None:
        """The same of samples [C, H, W] or [C, T, H, W], which may differ in shape; None can be
        compared with nothing.  Raises ValueError for anything else."""
        if samples is not None and not all(
            isinstance(sample, Tensor) and sample.dim() in (3, 4) for sample in samples
        ):
            raise ValueError(
                f"SeaCache: raw_vision_callback gave {samples!r:.80}, wanted None or a list of "
                "latents, each [C, H, W] or [C, T, H, W]"
            )
        self._now = [self._filtered(sample, noise) for sample in samples or ()]
        self._metric = None
        if self._now and [_kind(t) for t in self._now] == [_kind(t) for t in self._before]:
            changes = [_change(a, b) for a, b in zip(self._now, self._before, strict=True)]
            self._metric = torch.stack(changes).mean()

    def shown(self) -> None:
        """What is measured counts from the second evaluation on."""

    @property
    def is_warm(self) -> bool:
        return False

    def metric(self) -> Tensor | None:
        return self._metric

    def end(self, out: Tensor, *, computed: bool) -> None:
        self._before, self._now = self._now, []

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self._before, *self._gains.values()))

    def _filtered(self, sample: Tensor, noise: float) -> Tensor:
        axes = tuple(range(1, sample.dim()))
        spectrum = torch.fft.fftn(sample.float(), dim=axes) * self._gain(sample, noise)
        # As published, in the latents' own type.
        filtered: Tensor = torch.fft.ifftn(spectrum, dim=axes).real.to(sample.dtype)
        return filtered

    def _gain(self, sample: Tensor, noise: float) -> Tensor:
        key = (tuple(sample.shape[1:]), noise)
        if key not in self._gains:
            self._gains[key] = gain(sample.shape[1:], noise, self._spectrum.power).to(sample.device)
        return self._gains[key]


def _kind(sample: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return sample.shape, sample.dtype, sample.device


def _change(now: Tensor, before: Tensor) -> Tensor:
    size = before.float().abs().mean() + TINY
    change: Tensor = (now.float() - before.float()).abs().mean() / size
    return change


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
