"""CacheSchedule: which branch is computed and which is reused at each evaluation of a run.

Pure data over numpy: policies and routers make schedules, plans read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FAMILIES = ("dit", "uvit")
MAX_STEPS = 10_000
MAX_BRANCHES = 10_000
MAX_CELLS = 1 << 24
MAX_NAME_LENGTH = 100
MAX_TEXT_LENGTH = 1_000


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CacheSchedule:
    """A run of S evaluations of a model with K reusable branches: True computes, False reuses.

    Shapes: compute [S, K] bool, in execution order (row 0 is the first, noisiest evaluation);
    kept as a read-only copy. Evaluation 0 has nothing to reuse, so its row is all True.
    `branches` names the columns in execution order; omitted, they are attn-0, mlp-0, attn-1, ...
    `lanes` is the number of calls per evaluation in the loop the schedule was made for.
    Two schedules are equal when `compute` and `branches` are.
    Raises: ValueError where a field is not what it says above.
    """

    compute: npt.NDArray[np.bool_]
    branches: tuple[str, ...] = ()
    family: str = ""
    sampler: str = ""
    lanes: int = 1
    threshold: float | None = None
    source: str = ""
    timesteps: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        compute = _checked_compute(self.compute)
        steps, num_branches = compute.shape
        branches = self.branches or default_branches(num_branches)
        branches = _checked_branches(branches, num_branches)
        _check_first_row(compute, branches)
        for field in ("family", "sampler", "source"):
            _check_text(field, getattr(self, field))
        object.__setattr__(self, "compute", compute)
        object.__setattr__(self, "branches", branches)
        object.__setattr__(self, "lanes", _checked_lanes(self.lanes))
        object.__setattr__(self, "threshold", _checked_threshold(self.threshold))
        object.__setattr__(self, "timesteps", _checked_timesteps(self.timesteps, steps))

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

    def row(self, step: int) -> tuple[bool, ...]:
        """What evaluation `step` computes, hashable: equal rows can share one plan."""
        if not 0 <= step < self.steps:
            raise ValueError(f"step {step} is outside 0..{self.steps - 1} of this schedule")
        return tuple(self.compute[step].tolist())

    def distinct_rows(self) -> tuple[tuple[bool, ...], ...]:
        """The different rows, in the order in which they first occur."""
        return tuple(dict.fromkeys(tuple(row) for row in self.compute.tolist()))

    def save(self, path: str | Path) -> None:
        """Write the schedule as a JSON file with a header and one readable line per evaluation."""
        from l2c_rt.schedule_io import save_schedule

        save_schedule(self, path)

    @staticmethod
    def load(path: str | Path) -> CacheSchedule:
        """Read a file that `save` wrote; ValueError names what is wrong with any other."""
        from l2c_rt.schedule_io import load_schedule

        return load_schedule(path)

    def to_smoothcache(self) -> dict[str, list[int]]:
        """The schedule as SmoothCache's dict {branch: [1 compute | 0 reuse, per evaluation]}."""
        from l2c_rt.schedule_io import to_smoothcache

        return to_smoothcache(self)

    @staticmethod
    def from_smoothcache(
        schedule: dict[str, list[int]], *, blocks: int | None = None, **header: Any
    ) -> CacheSchedule:
        """Build from SmoothCache's dict, keyed by branch ("attn-0") or, with `blocks`, by type."""
        from l2c_rt.schedule_io import from_smoothcache

        return from_smoothcache(schedule, blocks=blocks, **header)

    def plot(self, path: str | Path) -> None:
        """Draw the schedule as a heatmap PNG (needs matplotlib)."""
        from l2c_rt.plotting import plot_schedule

        plot_schedule(self, path)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CacheSchedule):
            return NotImplemented
        return self.branches == other.branches and np.array_equal(self.compute, other.compute)

    def __hash__(self) -> int:
        return hash((self.compute.shape, self.compute.tobytes(), self.branches))

    def __str__(self) -> str:
        from l2c_rt.schedule_map import schedule_map

        return schedule_map(self)

    def __repr__(self) -> str:
        share = f"{100 * self.reuse_share:.1f} % reused"
        return f"<CacheSchedule {self.steps} steps x {self.num_branches} branches, {share}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, so that a copy's array is read-only again.
        header = (self.family, self.sampler, self.lanes, self.threshold, self.source)
        return CacheSchedule, (np.array(self.compute), self.branches, *header, self.timesteps)


def default_branches(num_branches: int) -> tuple[str, ...]:
    """attn-0, mlp-0, attn-1, ...: SmoothCache's names for the branches of a block stack."""
    if num_branches % 2:
        raise ValueError(
            f"{num_branches} branches are no attn and mlp pairs; name them: branches=(...)"
        )
    return tuple(f"{kind}-{b}" for b in range(num_branches // 2) for kind in ("attn", "mlp"))


def cached_evaluations(steps: int, family: str = "") -> tuple[int, ...]:
    """The evaluations at which Learning-to-Cache may reuse: every second, never the first.

    DiT's loop pairs evaluations from the clean end; U-ViT's caches the first stage of each
    second-order solver step; without a family they are the odd ones, as DiT's for even `steps`.
    Source: arXiv 2406.01733, section 3 and appendix B.1.
    """
    first = {"": 1, "dit": 1 + steps % 2, "uvit": 2}
    if family not in first:
        raise ValueError(f"family {family!r} is unknown; wanted one of {sorted(first)}")
    return tuple(range(first[family], steps, 2))


def _checked_compute(compute: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    array = np.asarray(compute)
    if array.ndim != 2:
        raise ValueError(
            f"compute has shape {array.shape}, wanted [steps, branches]; "
            "for [steps, blocks, 2] call CacheSchedule.from_blocks"
        )
    check_size(*array.shape)
    if array.dtype == np.bool_:
        pass
    elif array.dtype.kind not in "iu":
        nans = int(np.isnan(array).sum()) if array.dtype.kind == "f" else 0
        found = f"{array.dtype}" + (f" with {nans} NaN" if nans else "")
        raise ValueError(
            f"compute has dtype {found}, wanted bool (or integers 0 and 1); "
            "threshold scores first: scores > threshold"
        )
    elif ((array != 0) & (array != 1)).any():
        step, branch = np.argwhere((array != 0) & (array != 1))[0]
        raise ValueError(
            f"compute[{step}, {branch}] is {array[step, branch]}, wanted 1 (compute) or 0 (reuse)"
        )
    own = np.array(array, dtype=np.bool_, order="C")
    own.setflags(write=False)
    return own


def check_size(steps: int, num_branches: int) -> None:
    """ValueError where a schedule of this size would be empty or unreasonably large."""
    for name, size, most in (("steps", steps, MAX_STEPS), ("branches", num_branches, MAX_BRANCHES)):
        if not 1 <= size <= most:
            raise ValueError(f"the schedule has {size} {name}, wanted 1..{most}")
    if steps * num_branches > MAX_CELLS:
        raise ValueError(f"{steps} steps x {num_branches} branches is more than {MAX_CELLS} cells")


def _checked_branches(branches: Sequence[str], num_branches: int) -> tuple[str, ...]:
    if isinstance(branches, str) or not all(isinstance(name, str) for name in branches):
        raise ValueError(f"branches is {branches!r:.80}, wanted a tuple of {num_branches} names")
    if len(branches) != num_branches:
        raise ValueError(
            f"{len(branches)} branch names for {num_branches} columns of compute; give one each"
        )
    for name in branches:
        if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable() or " " in name:
            raise ValueError(
                f"branch name {name[:MAX_NAME_LENGTH]!r} is empty, over {MAX_NAME_LENGTH} "
                'characters or not printable; wanted a name such as "attn-0"'
            )
    if len(set(branches)) != num_branches:
        twice = next(name for k, name in enumerate(branches) if name in branches[:k])
        raise ValueError(f"branch name {twice!r} occurs twice; names must differ")
    return tuple(branches)


def _check_first_row(compute: npt.NDArray[np.bool_], branches: tuple[str, ...]) -> None:
    if not compute[0].all():
        k = int(np.argmin(compute[0]))
        raise ValueError(
            f"step 0 reuses branch {k} ({branches[k]}), but nothing was computed before it; "
            f"set compute[0, {k}] = True"
        )


def _check_text(field: str, text: str) -> None:
    if not isinstance(text, str) or len(text) > MAX_TEXT_LENGTH:
        raise ValueError(f"{field} is {text!r:.80}, wanted a str of at most {MAX_TEXT_LENGTH}")


def _checked_lanes(lanes: int) -> int:
    if isinstance(lanes, bool) or not isinstance(lanes, (int, np.integer)) or not 1 <= lanes <= 64:
        raise ValueError(f"lanes is {lanes!r:.80}, wanted 1..64 calls per evaluation")
    return int(lanes)


def _checked_threshold(threshold: float | None) -> float | None:
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float, np.floating)):
        raise ValueError(f"threshold is {threshold!r:.80}, wanted a number in 0..1 or None")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, wanted a number in 0..1 or None")
    return float(threshold)


def _checked_timesteps(timesteps: Sequence[float] | None, steps: int) -> tuple[float, ...] | None:
    if timesteps is None:
        return None
    if len(timesteps) != steps:
        raise ValueError(f"{len(timesteps)} timesteps for {steps} steps; give one for each or None")
    values = tuple(float(t) for t in timesteps)
    if not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"timesteps[{bad}] is {values[bad]}, wanted finite numbers")
    return values
