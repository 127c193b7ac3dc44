"""MagCache: all blocks are skipped while calibrated norms say that what they add stays alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l2c_rt.methods.checks import check_int, check_number, numbers_of
from l2c_rt.policies.policy import full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.calibration import Calibration, calibration_of, header_of

Ratios = npt.NDArray[np.float32]

PUBLISHED: dict[str, tuple[float, ...]] = {
    "flux": (
        1.0, 1.21094, 1.11719, 1.07812, 1.0625, 1.03906, 1.03125, 1.03906, 1.02344, 1.03125,
        1.02344, 0.98047, 1.01562, 1.00781, 1.0, 1.00781, 1.0, 1.00781, 1.0, 1.0, 0.99609, 0.99609,
        0.98047, 0.98828, 0.96484, 0.95703, 0.93359, 0.89062,
    ),
}  # fmt: skip
"""Ratios that diffusers 0.42.1 ships, by model, for 28 steps."""


@dataclass(frozen=True, slots=True)
class MagCache:
    """Reuses what all blocks together add, as long as calibrated ratios of its norm stay near 1.

    gamma_n = mean over tokens of |r_n| / |r_n-1|, r the residual of the trunk; gamma_0 = 1.  From
    evaluation int(retention_ratio * steps + 0.5) on: ratio *= gamma_n, count += 1,
    error += |1 - ratio|; where error <= threshold and count <= max_skip_steps the evaluation reuses
    the last computed residual, else it computes and ratio, error and count start over.  The ratios
    are known before the run, so the schedule is.  Kept is what the blocks add to every stream that
    goes through them, one schedule for all calls of a step.
    `mag_ratios`: "flux", as published; a calibration of blocks of this model, of which the first
    call of a step (cond) is read, or its file (.safetensors); or a list, which is taken at the
    nearest positions where it has another length, as published.
    Source: MagCache, arXiv 2506.09045; diffusers 0.42.1, MagCacheConfig, whose field names and
    defaults these are; it has the number of steps from `compile`.
    """

    mag_ratios: str | Sequence[float] | Calibration
    threshold: float = 0.06
    max_skip_steps: int = 3
    retention_ratio: float = 0.2

    granularity = "block"
    """What is kept is what whole blocks add."""

    def __post_init__(self) -> None:
        check_number("MagCache: threshold", self.threshold, 0)
        check_int("MagCache: max_skip_steps", self.max_skip_steps, 0)
        check_number("MagCache: retention_ratio", self.retention_ratio, 0, 1)
        if isinstance(self.mag_ratios, str) and self.mag_ratios.endswith(".safetensors"):
            object.__setattr__(self, "mag_ratios", calibration_of(self.mag_ratios))
        if isinstance(self.mag_ratios, Calibration):
            if not self.mag_ratios.magnitudes.size:
                raise ValueError(
                    "MagCache: the calibration has no ratios of norms; calibrate blocks, "
                    'rt.calibrate(..., granularity="block"), of one width'
                )
            return
        if isinstance(self.mag_ratios, str):
            if self.mag_ratios not in PUBLISHED:
                raise ValueError(
                    f"MagCache: no ratios are published for {self.mag_ratios!r:.40}, but for "
                    f"{', '.join(PUBLISHED)}; calibrate them on your model"
                )
            return
        ratios = numbers_of("MagCache: mag_ratios", self.mag_ratios, 0)
        object.__setattr__(self, "mag_ratios", ratios)

    def ratios(self, steps: int) -> Ratios:
        """One ratio per evaluation.  Shapes: [steps] float32, as the published program has them."""
        source = self.mag_ratios
        if isinstance(source, Calibration):
            source = source.magnitudes[0]
        ratios = np.array(PUBLISHED[source] if isinstance(source, str) else source, np.float32)
        if len(ratios) == steps:
            return ratios
        if steps == 1:
            return ratios[-1:]
        places = np.arange(steps, dtype=np.float32) * np.float32((len(ratios) - 1) / (steps - 1))
        nearest: Ratios = ratios[np.rint(places).astype(int)]
        return nearest

    def computed(self, steps: int) -> list[bool]:
        """Which evaluations compute the trunk."""
        retention = int(self.retention_ratio * steps + 0.5)
        ratio, error, count = np.float32(1), np.float32(0), 0
        computed = []
        for n, gamma in enumerate(self.ratios(steps)):
            skips = False
            if n >= retention:
                ratio, count = ratio * gamma, count + 1
                error = error + abs(np.float32(1) - ratio)
                # Evaluation 0 has nothing to reuse.
                skips = n > 0 and bool(error <= self.threshold) and count <= self.max_skip_steps
                if not skips:
                    ratio, error, count = np.float32(1), np.float32(0), 0
            computed.append(not skips)
        return computed

    @property
    def calibration(self) -> Calibration | None:
        """What the ratios are from, where that is known."""
        return self.mag_ratios if isinstance(self.mag_ratios, Calibration) else None

    def schedule(
        self,
        steps: int,
        branches: tuple[str, ...],
        *,
        timesteps: Sequence[float] | None = None,
    ) -> CacheSchedule:
        header = header_of("MagCache", self.calibration, steps, branches, timesteps)
        compute = full_table(steps, branches)
        compute[~np.array(self.computed(steps))] = False
        source = f"MagCache, threshold {self.threshold:g}, {self.max_skip_steps} skips"
        return CacheSchedule(compute, branches, source=source, **{**header, "granularity": "block"})
