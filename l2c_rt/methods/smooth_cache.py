"""SmoothCache: each type of branch is reused as long as its calibrated error stays small."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike

import numpy as np
import numpy.typing as npt

from l2c_rt.methods.checks import check_int, check_number
from l2c_rt.plan.program import BlockProgram
from l2c_rt.policies.policy import BoolArray, full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.calibration import Calibration, calibration_of, header_of

Errors = Mapping[str, npt.ArrayLike] | Calibration | str | PathLike[str]


@dataclass(frozen=True, slots=True)
class SmoothCache:
    """Reuses branches of one type together, wherever the calibrated error is at most `threshold`.

    `errors` are a calibration (`rt.calibrate`), its file, or tables by branch ("attn-0") or by type
    ("attn"): [lookback, steps - 1] each, whose entry [k, i] is sum|F_i - F_j| / sum|F_j| between
    evaluations i and j = i + 1 + k of an uncached run; NaN past the end.  Those of branches are
    averaged over the blocks of their type.  From evaluation i = 0 on, the longest k + 1 up to
    `lookback` with an average of at most `threshold` is reused after i; the first and the last
    evaluation are computed.
    Kept is every branch's output before its gate.  Types without errors are computed.
    Source: SmoothCache, arXiv 2411.10510; github Roblox/SmoothCache.  0.18 and 3 are its example
    for DiT at 50 steps; `schedule.to_smoothcache()` gives its JSON.
    """

    errors: Errors = field(hash=False)
    threshold: float = 0.18
    lookback: int = 3

    def __post_init__(self) -> None:
        check_number("SmoothCache: threshold", self.threshold, 0)
        check_int("SmoothCache: lookback", self.lookback, 1)
        if isinstance(self.errors, str | PathLike):
            object.__setattr__(self, "errors", calibration_of(self.errors))
        if not isinstance(self.errors, Mapping | Calibration) or self.errors == {}:
            raise ValueError(
                "SmoothCache: errors are a calibration, rt.calibrate(model, steps=...), or its "
                'tables by branch or type, {"attn": [lookback, steps - 1], ...}; '
                f"got {type(self.errors).__name__}"
            )

    @property
    def calibration(self) -> Calibration | None:
        """What the errors are from, where that is known."""
        return self.errors if isinstance(self.errors, Calibration) else None

    def averages(self, kinds: Mapping[str, str]) -> dict[str, npt.NDArray[np.float64]]:
        """The errors by type, [lookback, steps - 1]; `kinds` are the types of branches."""
        listed: dict[str, list[npt.NDArray[np.float64]]] = {}
        for name, table in tables_of(self.errors).items():
            listed.setdefault(kinds.get(name, name), []).append(_checked(name, table))
        unknown = sorted(set(listed) - set(kinds.values()))
        if unknown:
            raise ValueError(
                f"SmoothCache: errors are of {', '.join(unknown[:4])}, the model has branches of "
                f"the types {', '.join(dict.fromkeys(kinds.values()))}; calibrate on this model"
            )
        return {kind: np.mean(tables, axis=0) for kind, tables in listed.items()}

    def schedule(
        self,
        steps: int,
        branches: tuple[str, ...],
        *,
        timesteps: Sequence[float] | None = None,
        program: BlockProgram | None = None,
    ) -> CacheSchedule:
        header = header_of("SmoothCache", self.calibration, steps, branches, timesteps)
        kinds = kinds_of(branches, program)
        compute = full_table(steps, branches)
        for kind, average in self.averages(kinds).items():
            if average.shape[0] < self.lookback or average.shape[1] != steps - 1:
                raise ValueError(
                    f"SmoothCache: the errors of {kind!r} are {list(average.shape)}, wanted "
                    f"[{self.lookback} or more, {steps - 1}] for lookback {self.lookback} and "
                    f"{steps} steps; calibrate for this run"
                )
            column = scanned(average[: self.lookback], self.threshold)
            compute[:, [kinds[name] == kind for name in branches]] = column[:, None]
        source = f"SmoothCache, threshold {self.threshold:g}, lookback {self.lookback}"
        return CacheSchedule(compute, branches, source=source, **header)


def tables_of(source: Errors) -> Mapping[str, npt.ArrayLike]:
    """By branch or type."""
    if isinstance(source, Calibration):
        return source.errors_by_branch()
    assert isinstance(source, Mapping)
    return source


def scanned(average: npt.NDArray[np.float64], threshold: float) -> BoolArray:
    """The published scan.  Shapes: average [lookback, steps - 1] -> [steps], True computes."""
    lookback, steps = average.shape[0], average.shape[1] + 1
    compute = np.ones(steps, np.bool_)
    i = 0
    while i < steps:
        ages = range(min(lookback, steps - 1 - i), 0, -1)
        # NaN is no error that is small enough.
        reused = next((age for age in ages if average[age - 1, i] <= threshold), 0)
        compute[i + 1 : i + 1 + reused] = False
        i += reused + 1
    compute[-1] = True
    return compute


def kinds_of(branches: Sequence[str], program: BlockProgram | None) -> dict[str, str]:
    """The type of each branch: as the program says, or else its name without its number."""
    if program is not None:
        return {branch.name: branch.kind for branch in program.branches}
    return {name: re.sub(r"[-\d]+$", "", name.rpartition(".")[2]) for name in branches}


def _checked(name: str, table: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(table, np.float64)
    if array.ndim != 2 or (array < 0).any() or np.isinf(array).any():
        raise ValueError(
            f"SmoothCache: errors of {name!r:.40} are {list(array.shape)}, wanted numbers of at "
            "least 0, [lookback, steps - 1]"
        )
    return array
