"""Coefficients that were fitted on runs of the model along the cached trajectory; their file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import isclose
from os import PathLike
from typing import ClassVar

from l2c_rt.correctors import fitted_files
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions
from l2c_rt.untrusted.bounded_read import naming


@dataclass(frozen=True, slots=True)
class Fitted:
    """What stands for every reused branch of one schedule, as `rt.fit_corrector` fits it.

    `fit` is that schedule with its predictions: of every cell, coefficients over the branch's
    values at the evaluations before, computed or predicted, as they were used; cells where plain
    reuse did as well on held-out runs have none.  Cond and uncond may have coefficients of their
    own, see `Predictions`.
    Raises ValueError where it has no predictions; `predictions` for another schedule, step count,
    sampler or timesteps, and `compile` for another model.
    """

    fit: CacheSchedule

    REMEDY: ClassVar[str] = "fit anew: rt.fit_corrector(model, schedule)"

    def __post_init__(self) -> None:
        if not isinstance(self.fit, CacheSchedule):
            raise TypeError(f"Fitted: fit is {self.fit!r:.60}, wanted a CacheSchedule")
        if self.fit.predictions is None:
            raise ValueError(
                "Fitted: the schedule has no predictions; make one with "
                "rt.fit_corrector(model, schedule)"
            )

    @property
    def calibration(self) -> CacheSchedule:
        """What it was fitted on."""
        return self.fit

    def predictions(self, schedule: CacheSchedule) -> Predictions:
        """The predictions of the schedule that this was fitted for."""
        fit = self.fit
        assert fit.predictions is not None
        problem = ""
        if schedule.steps != fit.steps:
            problem = f"it is of {fit.steps} steps, the run has {schedule.steps}"
        elif replace(schedule, predictions=None) != replace(fit, predictions=None):
            problem = (
                f"it is of another schedule, {fit.reuse_share:.1%} reused of {fit.num_branches} "
                f"branches; this one reuses {schedule.reuse_share:.1%} of {schedule.num_branches}"
            )
        elif schedule.sampler and fit.sampler and schedule.sampler != fit.sampler:
            problem = f"it is for the sampler {fit.sampler}, the schedule for {schedule.sampler}"
        elif not _same_times(schedule.timesteps, fit.timesteps):
            problem = "it was fitted at other timesteps"
        if problem:
            raise ValueError(f"Fitted: the fit is of another run: {problem}; {self.REMEDY}")
        return fit.predictions

    def save(self, path: str | PathLike[str]) -> None:
        """Write a .safetensors file with a header and a digest."""
        fit = {field.name: getattr(self.fit, field.name) for field in fields(self.fit)}
        fitted_files.write(path, fit)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Fitted:
        """Read a file that `save` wrote; ValueError names what is wrong with any other."""
        with naming(str(path)):
            content, digest = fitted_files.read(path)
            fit = CacheSchedule(**content)
            if fit.digest != digest:
                raise ValueError("the digest does not match the tables; the file was damaged")
            return cls(fit)


def _same_times(times: Sequence[float] | None, others: Sequence[float] | None) -> bool:
    pairs = zip(times or (), others or (), strict=False)
    return all(isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in pairs)
