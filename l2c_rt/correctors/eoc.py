"""EOC: a reused branch follows the trend that its mean output has in uncached runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike

import numpy as np
import numpy.typing as npt

from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.calibration import Calibration, calibration_of
from l2c_rt.schedule.predictions import Predictions


@dataclass(frozen=True, slots=True)
class EOC:
    """`used = kept * (1 + theta * trend)`, elementwise, before the gate, of reused branches.

    kept is what was used at the evaluation before; trend is P_n - P_n-1, P_n the mean output of the
    branch at evaluation n over uncached runs (the prior).
    What is published (arXiv 2501.19243: abstract, and the correction with theta 0.01 as a survey
    restates it): three stages, prior, judgement, correction; the paper's own text of the judgement
    and a program are not.  The prior is what its authors' next program extracts.  The judgement is
    ours: with `judged`, a branch is corrected at the evaluations where that lowered the error of
    held-out runs (`rt.calibrate(..., prior=True, held_out=...)`), else at all where it is reused.
    `prior` is a calibration with a prior, or its file.  Keeps one value of each corrected branch,
    and [T, D] float32 for each of its corrected evaluations.
    Raises ValueError where there is no prior, or no judgement; `predictions` where it is of another
    run.
    """

    prior: Calibration | str | PathLike[str] = field(hash=False)
    theta: float = 0.01
    judged: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "prior", calibration_of(self.prior))
        if isinstance(self.theta, bool) or not isinstance(self.theta, int | float):
            raise ValueError(f"EOC: theta is {self.theta!r:.40}, wanted a number such as 0.01")
        if not np.isfinite(self.theta):
            raise ValueError(f"EOC: theta is {self.theta!r:.40}, wanted a finite number")
        if not self.calibration.prior.size:
            raise ValueError(
                "EOC: the calibration has no prior; calibrate with rt.calibrate(..., prior=True)"
            )
        if not isinstance(self.judged, bool):
            raise ValueError(f"EOC: judged is {self.judged!r:.40}, wanted True or False")
        if self.judged and not self.calibration.corrects.size:
            raise ValueError(
                "EOC: the calibration has no judgement; calibrate with held-out runs, "
                "rt.calibrate(..., prior=True, held_out=4), or leave judged=False"
            )

    @property
    def calibration(self) -> Calibration:
        """What the prior is from."""
        assert isinstance(self.prior, Calibration)
        return self.prior

    def trend(self, evaluation: int, branch: int) -> npt.NDArray[np.float32]:
        """P_n - P_n-1 of a branch.  Shapes: [T, D]."""
        prior = self.calibration.prior
        return np.asarray(prior[evaluation, branch] - prior[evaluation - 1, branch])

    def predictions(self, schedule: CacheSchedule) -> Predictions:
        """The corrected values of a schedule."""
        calibration = self.calibration
        calibration.check_run("EOC", schedule.steps, schedule.branches, schedule.timesteps)
        corrects = ~schedule.compute
        if self.judged:
            corrects &= calibration.corrects
        cells = [(int(s), int(k)) for s, k in np.argwhere(corrects)]
        theta = np.float32(self.theta)
        return Predictions.from_terms(
            schedule.steps,
            schedule.num_branches,
            {(s, k): [(s - 1, 1.0)] for s, k in cells},
            scale={(s, k): theta * self.trend(s, k) for s, k in cells},
        )
