"""Block Caching: each block is reused until its calibrated changes add up to a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike

import numpy as np
import numpy.typing as npt

from l2c_rt.methods.checks import check_number
from l2c_rt.methods.smooth_cache import Errors, tables_of
from l2c_rt.policies.policy import full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.calibration import Calibration, calibration_of, header_of


@dataclass(frozen=True, slots=True)
class BlockCaching:
    """Reuses what a block adds as long as its changes since the last computation are within delta.

    `changes` are a calibration of blocks (`rt.calibrate(..., granularity="block")`), its file, or
    tables by block: L1rel of evaluations i and i + 1, the sum of |C_i+1 - C_i| over that of
    |C_i+1|, [steps - 1], or [lookback, steps - 1], of which the first row is read.  What was
    computed at a is kept while their sum from a on is at most `delta`; then the block is computed,
    and the sum starts over.  Each block has its own schedule; blocks without changes are computed.
    Kept is what the block adds (C), which is added to the current input.
    The paper's denominator is the tensor of its index t; it is the newer one here, as in
    calibrations of SmoothCache.
    Source: Cache Me if You Can, arXiv 2312.03209; there is no published code.  delta 0.5 is that of
    its LDM-512.
    """

    changes: Errors = field(hash=False)
    delta: float = 0.5

    granularity = "block"
    """What is kept is what whole blocks add."""

    def __post_init__(self) -> None:
        check_number("BlockCaching: delta", self.delta, 0)
        if isinstance(self.changes, str | PathLike):
            object.__setattr__(self, "changes", calibration_of(self.changes))
        if not isinstance(self.changes, Mapping | Calibration) or self.changes == {}:
            raise ValueError(
                "BlockCaching: changes are a calibration of blocks or its tables by block, "
                f'{{"blocks.0": [steps - 1], ...}}; got {type(self.changes).__name__}'
            )

    @property
    def calibration(self) -> Calibration | None:
        """What the changes are from, where that is known."""
        return self.changes if isinstance(self.changes, Calibration) else None

    def schedule(
        self,
        steps: int,
        branches: tuple[str, ...],
        *,
        timesteps: Sequence[float] | None = None,
    ) -> CacheSchedule:
        header = header_of("BlockCaching", self.calibration, steps, branches, timesteps)
        compute = full_table(steps, branches)
        tables = tables_of(self.changes)
        unknown = sorted(set(tables) - set(branches))
        if unknown:
            raise ValueError(
                f"BlockCaching: changes are of {', '.join(unknown[:4])}, the model's blocks are "
                f"{branches[0]} .. {branches[-1]}; calibrate on this model"
            )
        for name, table in tables.items():
            column = kept_within(_first_row(name, table, steps), self.delta)
            compute[:, branches.index(name)] = column
        source = f"Block Caching, delta {self.delta:g}"
        return CacheSchedule(compute, branches, source=source, **{**header, "granularity": "block"})


def kept_within(changes: npt.NDArray[np.float64], delta: float) -> list[bool]:
    """Which evaluations compute.  Shapes: changes [steps - 1] -> [steps]."""
    computed, total = [True], 0.0
    for change in changes:
        total += change
        computed.append(not total <= delta)
        if computed[-1]:
            total = 0.0
    return computed


def _first_row(name: str, table: npt.ArrayLike, steps: int) -> npt.NDArray[np.float64]:
    array = np.asarray(table, np.float64)
    row: npt.NDArray[np.float64] = array[0] if array.ndim == 2 else array
    if row.shape != (steps - 1,) or not np.isfinite(row).all() or (row < 0).any():
        raise ValueError(
            f"BlockCaching: the changes of {name!r:.40} are {list(row.shape)}, wanted "
            f"[{steps - 1}] numbers of at least 0 for {steps} steps; calibrate for this run"
        )
    return row
