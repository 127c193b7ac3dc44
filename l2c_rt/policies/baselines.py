"""The controls that a learned schedule is compared with, at equal compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2c_rt.families import FAMILIES, cached_evaluations
from l2c_rt.policies.policy import BoolArray, alike, full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule


@dataclass(frozen=True, slots=True)
class Random:
    """Reuses round(reuse * cells) branches drawn uniformly: the control in every comparison.

    cells counts the branches of `evaluations`, by default 1, 3, 5, ... as in Learning-to-Cache;
    all other evaluations are full, and evaluation 0 always is.
    """

    reuse: float
    seed: int
    evaluations: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_share("Random", self.reuse)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        compute = full_table(steps, branches)
        rows = _rows("Random", self.evaluations, steps)
        count = round(self.reuse * len(rows) * len(branches))
        _reuse_random(compute, rows, count, self.seed)
        source = f"random, reuse {self.reuse:g}, seed {self.seed}"
        return CacheSchedule(compute, branches, source=source)

    @staticmethod
    def like(
        schedule: CacheSchedule, seed: int, evaluations: Sequence[int] | None = None
    ) -> CacheSchedule:
        """Random reuse with exactly as many reused branches as `schedule`.

        `evaluations` defaults to those that the schedule's family may cache and any others at
        which the schedule reuses.
        """
        compute = np.ones_like(schedule.compute)
        rows = _rows_like("Random.like", schedule, evaluations)
        _reuse_random(compute, rows, _reused("Random.like", schedule, rows), seed)
        return alike(schedule, compute, f"random, seed {seed},")


@dataclass(frozen=True, slots=True)
class NoisiestFirst:
    """Reuses round(reuse * cells) branches, from the noisiest of the cached evaluations on.

    Whole evaluations are reused; in the last one that is needed, its first branches in execution
    order. cells and `evaluations` are as for Random.
    """

    reuse: float
    evaluations: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_share("NoisiestFirst", self.reuse)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        compute = full_table(steps, branches)
        rows = _rows("NoisiestFirst", self.evaluations, steps)
        _reuse_first(compute, rows, round(self.reuse * len(rows) * len(branches)))
        return CacheSchedule(compute, branches, source=f"noisiest first, reuse {self.reuse:g}")

    @staticmethod
    def like(schedule: CacheSchedule, evaluations: Sequence[int] | None = None) -> CacheSchedule:
        """Noisiest-first reuse with exactly as many reused branches as `schedule`.

        `evaluations` defaults as for Random.like.
        """
        compute = np.ones_like(schedule.compute)
        rows = _rows_like("NoisiestFirst.like", schedule, evaluations)
        _reuse_first(compute, rows, _reused("NoisiestFirst.like", schedule, rows))
        return alike(schedule, compute, "noisiest first")


def _check_share(where: str, reuse: float) -> None:
    if not 0 <= reuse <= 1:
        raise ValueError(f"{where}: reuse is {reuse}, wanted a share in 0..1")


def _rows(where: str, evaluations: Sequence[int] | None, steps: int) -> tuple[int, ...]:
    if evaluations is None:
        return cached_evaluations(steps)
    rows = tuple(evaluations)
    if len(set(rows)) != len(rows) or not all(0 < row < steps for row in rows):
        raise ValueError(
            f"{where}: evaluations are {rows}, wanted different ones in 1..{steps - 1} "
            "(evaluation 0 has nothing to reuse)"
        )
    return rows


def _rows_like(
    where: str, schedule: CacheSchedule, evaluations: Sequence[int] | None
) -> tuple[int, ...]:
    if evaluations is not None:
        return _rows(where, evaluations, schedule.steps)
    reusing = np.flatnonzero(~schedule.compute.all(axis=1)).tolist()
    family = schedule.family if schedule.family in FAMILIES else ""
    return tuple(sorted({*cached_evaluations(schedule.steps, family), *reusing}))


def _reused(where: str, schedule: CacheSchedule, rows: tuple[int, ...]) -> int:
    count = int((~schedule.compute).sum())
    if count > len(rows) * schedule.num_branches:
        raise ValueError(
            f"{where}: the schedule reuses {count} branches, but evaluations {rows} have only "
            f"{len(rows) * schedule.num_branches}; give more of them"
        )
    return count


def _reuse_random(compute: BoolArray, rows: tuple[int, ...], count: int, seed: int) -> None:
    branches = compute.shape[1]
    drawn = np.random.default_rng(seed).permutation(len(rows) * branches)[:count]
    compute[np.asarray(rows, int)[drawn // branches], drawn % branches] = False


def _reuse_first(compute: BoolArray, rows: tuple[int, ...], count: int) -> None:
    for row in sorted(rows):
        compute[row, : max(count, 0)] = False
        count -= compute.shape[1]
