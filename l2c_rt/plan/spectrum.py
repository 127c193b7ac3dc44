"""A filter of latents by their noise level.  Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A filter by the noise level, which is the timestep over `scale` where `sigmas` has none."""

    power: float
    scale: float
    sigmas: tuple[float, ...] | None = None

    def noise(self, step: int, timestep: float) -> float:
        """The noise level of an evaluation."""
        return timestep / self.scale if self.sigmas is None else self.sigmas[step]
