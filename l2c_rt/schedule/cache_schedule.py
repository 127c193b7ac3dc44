"""CacheSchedule: which branch is computed and which is reused at each evaluation of a run.

Pure data over numpy: policies and routers make schedules, plans read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from l2c_rt._deprecated import renamed_keyword, warn_renamed
from l2c_rt.schedule import files, heatmap, text_map
from l2c_rt.schedule.checks import (
    check_fingerprint,
    check_first_row,
    check_granularity,
    check_text,
    checked_branches,
    checked_calls,
    checked_compute,
    checked_threshold,
    checked_timesteps,
)
from l2c_rt.schedule.halves import HalfSchedule
from l2c_rt.schedule.predictions import Predictions, check_cells
from l2c_rt.schedule.tokens import TokenSchedule
from l2c_rt.untrusted.bounded_read import naming


@renamed_keyword(lanes="calls_per_step")
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CacheSchedule:
    """A run of S evaluations of a model with K reusable branches: True computes, False reuses.

    Shapes: compute [S, K] bool, in execution order (row 0 is the first, noisiest evaluation);
    kept as a read-only copy. Evaluation 0 has nothing to reuse, so its row is all True.
    `branches` names the columns in execution order; omitted, they are attn-0, mlp-0, attn-1, ...
    `calls_per_step` is the number of the model's calls at each evaluation of its loop.
    `fingerprint` names the model that it was learned on; "" where it fits any. `granularity` says
    whether the branches are parts of blocks, whole blocks, or shells of a U-Net.
    `predictions` says what stands for a branch that is not computed, where that is more than its
    latest output. `tokens` says where some tokens of a branch are computed, `halves` where half of
    the batch is run; such a schedule is not saved, but made again.
    Two schedules are equal when they do the same: `compute`, `branches` and the last three fields.
    Raises: ValueError where a field is not what it says above.
    """

    compute: npt.NDArray[np.bool_]
    branches: tuple[str, ...] = ()
    family: str = ""
    sampler: str = ""
    calls_per_step: int = 1
    threshold: float | None = None
    source: str = ""
    timesteps: tuple[float, ...] | None = None
    fingerprint: str = ""
    granularity: str = "branch"
    predictions: Predictions | None = None
    tokens: TokenSchedule | None = None
    halves: HalfSchedule | None = None

    def __post_init__(self) -> None:
        compute = checked_compute(self.compute)
        steps, num_branches = compute.shape
        branches = self.branches or default_branches(num_branches)
        branches = checked_branches(branches, num_branches)
        check_first_row(compute, branches)
        for field in ("family", "sampler", "source"):
            check_text(field, getattr(self, field))
        check_fingerprint(self.fingerprint)
        check_granularity(self.granularity)
        if self.predictions is not None:
            check_cells(self.predictions, compute, branches)
        if self.tokens is not None:
            self.tokens.check_table(compute)
        object.__setattr__(self, "compute", compute)
        object.__setattr__(self, "branches", branches)
        object.__setattr__(self, "calls_per_step", checked_calls(self.calls_per_step))
        object.__setattr__(self, "threshold", checked_threshold(self.threshold))
        object.__setattr__(self, "timesteps", checked_timesteps(self.timesteps, steps))

    @classmethod
    def from_blocks(cls, compute: npt.ArrayLike, **header: Any) -> CacheSchedule:
        """Build from one [attn, mlp] pair per block.

        Shapes: compute [S, L, 2]; `header` is any other field of CacheSchedule.
        """
        blocks = np.asarray(compute)
        if blocks.ndim != 3 or blocks.shape[2] != 2:
            raise ValueError(
                f"compute has shape {blocks.shape}, wanted [steps, blocks, 2] with attn, mlp last; "
                "for [steps, branches] call CacheSchedule(compute)"
            )
        return cls(blocks.reshape(blocks.shape[0], -1), **header)

    @property
    def steps(self) -> int:
        """S, the number of evaluations of a run."""
        return int(self.compute.shape[0])

    @property
    def num_branches(self) -> int:
        """K, the number of branches that can be reused."""
        return int(self.compute.shape[1])

    @property
    def reuse_share(self) -> float:
        """Share of all S * K branch evaluations that are reused."""
        return 1.0 - int(self.compute.sum()) / self.compute.size

    @property
    def digest(self) -> str:
        """sha256 of the branch names, rows and predictions: what the schedule does."""
        return files.digest(self.compute, self.branches, self.predictions)

    @property
    def lanes(self) -> int:
        """The old name of `calls_per_step`."""
        warn_renamed("CacheSchedule.lanes", "calls_per_step", stacklevel=2)
        return self.calls_per_step

    def row(self, step: int) -> tuple[bool, ...]:
        """What evaluation `step` computes, hashable: equal rows can share one plan."""
        if not 0 <= step < self.steps:
            raise ValueError(f"step {step} is outside 0..{self.steps - 1} of this schedule")
        return tuple(self.compute[step].tolist())

    def distinct_rows(self) -> tuple[tuple[bool, ...], ...]:
        """The different rows, in the order in which they first occur."""
        return tuple(dict.fromkeys(tuple(row) for row in self.compute.tolist()))

    def save(self, path: str | Path) -> None:
        """Write the schedule as a JSON file with a header and one readable line per evaluation.

        Raises ValueError for a schedule with `tokens` or `halves`.
        """
        if self.tokens is not None or self.halves is not None:
            raise ValueError(
                "a schedule with tokens or halves is not saved: keep the method that made it, such "
                "as ToCa(fresh_ratio=0.07), and make the schedule again"
            )
        files.write(path, self.as_fields())

    @classmethod
    def load(cls, path: str | Path) -> CacheSchedule:
        """Read a file that `save` wrote; ValueError names what is wrong with any other."""
        with naming(path):
            return cls(**files.read(path))

    def to_smoothcache(self) -> dict[str, list[int]]:
        """The schedule as SmoothCache's dict {branch: [1 compute | 0 reuse, per evaluation]}."""
        return files.to_smoothcache(self.compute, self.branches)

    @classmethod
    def from_smoothcache(
        cls,
        schedule: Mapping[str, list[int]] | str | Path,
        *,
        blocks: int | None = None,
        **header: Any,
    ) -> CacheSchedule:
        """Build from SmoothCache's dict or JSON file, keyed by branch ("attn-0") or by type.

        The type form ("attn", "mlp") needs `blocks`; `header` is any other field of CacheSchedule.
        """
        if not isinstance(schedule, (str, Path)):
            return cls(**{**files.parse_smoothcache(schedule, blocks), **header})
        with naming(schedule):
            return cls(**{**files.read_smoothcache(schedule, blocks), **header})

    def plot(self, path: str | Path) -> None:
        """Draw the schedule as a heatmap PNG (needs matplotlib)."""
        heatmap.draw(path, self.as_fields())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CacheSchedule):
            return NotImplemented
        return (
            self.branches == other.branches
            and np.array_equal(self.compute, other.compute)
            and self.predictions == other.predictions
            and (self.tokens, self.halves) == (other.tokens, other.halves)
        )

    def __hash__(self) -> int:
        table = (self.compute.shape, self.compute.tobytes(), self.branches)
        return hash((*table, self.predictions, self.tokens, self.halves))

    def __str__(self) -> str:
        return text_map.text_map(self.as_fields())

    def __repr__(self) -> str:
        share = f"{100 * self.reuse_share:.1f} % reused"
        return f"<CacheSchedule {self.steps} steps x {self.num_branches} branches, {share}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, so that a copy's array is read-only again.
        return CacheSchedule, tuple(self.as_fields().values())

    def as_fields(self) -> files.Fields:
        """The fields by name, as files and pictures take them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[return-value]


def default_branches(num_branches: int) -> tuple[str, ...]:
    """attn-0, mlp-0, attn-1, ...: SmoothCache's names for the branches of a block stack."""
    if num_branches % 2:
        raise ValueError(f"{num_branches} branches are not pairs of attn and mlp; name them")
    return tuple(f"{kind}-{b}" for b in range(num_branches // 2) for kind in ("attn", "mlp"))
