"""Static policies: each makes a CacheSchedule from a number of steps and the branch names.

Full, EveryN, Random and NoisiestFirst need no learning; the last three, through `like`, are the
controls that a learned schedule is compared with at an equal number of computed branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from l2c_rt.schedule import FAMILIES, CacheSchedule, cached_evaluations
from l2c_rt.schedule_checks import check_size

BoolArray = npt.NDArray[np.bool_]
Rule = Literal["fora", "modulo"]


class Policy(Protocol):
    """Anything that makes a schedule for a run of `steps` evaluations of these branches."""

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule: ...


@dataclass(frozen=True, slots=True)
class Full:
    """Computes everything: the uncached run."""

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        return CacheSchedule(_full(steps, branches), branches, source="full")


@dataclass(frozen=True, slots=True)
class EveryN:
    """Computes all branches at every n-th evaluation and reuses all of them in between.

    rule "fora": the published step sets of FORA, which counts down: evaluation k is full when
    c = steps - 1 - k is steps - 1 or a multiple of n (50 steps, n = 3: 0, 1, 4, 7, ..., 49).
    rule "modulo": evaluation k is full when k is a multiple of n.
    Source: FORA, arXiv 2407.01425.
    """

    n: int
    rule: Rule = "fora"

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"EveryN: n is {self.n!r}, wanted an int of at least 1 (1 is full)")
        if self.rule not in ("fora", "modulo"):
            raise ValueError(f'EveryN: rule is {self.rule!r}, wanted "fora" or "modulo"')

    def full_steps(self, steps: int) -> tuple[int, ...]:
        """The evaluations that compute everything."""
        last = steps - 1 if self.rule == "fora" else 0
        return tuple(k for k in range(steps) if k == 0 or (k - last) % self.n == 0)

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        compute = np.zeros_like(_full(steps, branches))
        compute[list(self.full_steps(steps))] = True
        return CacheSchedule(compute, branches, source=f"every {self.n}, {self.rule}")

    @staticmethod
    def like(schedule: CacheSchedule) -> CacheSchedule:
        """The every-N shape with exactly as many computed branches as `schedule`.

        With F = computed // K, the F full evaluations are those where floor(k * F / S) steps up:
        evenly spread, and k % N == 0 where S = N * F. The remaining computed % K branches are
        the first ones, in execution order, of the last evaluation that is not full.
        """
        steps, branches = schedule.compute.shape
        full, partial = divmod(int(schedule.compute.sum()), branches)
        compute = np.zeros((steps, branches), np.bool_)
        compute[_spread(steps, full)] = True
        if partial:
            compute[np.flatnonzero(~compute.any(axis=1))[-1], :partial] = True
        assert compute.sum() == schedule.compute.sum(), f"{full=} {partial=}"
        return _alike(schedule, compute, "every-N")


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
        compute = _full(steps, branches)
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
        return _alike(schedule, compute, f"random, seed {seed},")


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
        compute = _full(steps, branches)
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
        return _alike(schedule, compute, "noisiest first")


@dataclass(frozen=True, slots=True, eq=False)
class FromScores:
    """Computes a branch where its score is above the threshold, reuses it elsewhere.

    Shapes: scores [E, K], one row per entry of `evaluations`, in that order; without
    `evaluations`, one row per evaluation, of which row 0 is ignored (the first is full).
    """

    scores: npt.NDArray[np.floating]
    threshold: float
    evaluations: tuple[int, ...] | None = None

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        compute = _full(steps, branches)
        scores = np.asarray(self.scores)
        rows = _rows("FromScores", self.evaluations or tuple(range(1, steps)), steps)
        if self.evaluations is None:
            scores = scores[1:]
        if scores.shape != (len(rows), len(branches)) or scores.dtype.kind != "f":
            raise ValueError(
                f"FromScores: scores are {np.shape(self.scores)} {scores.dtype}, wanted floats, "
                f"[{steps if self.evaluations is None else len(rows)} evaluations, "
                f"{len(branches)} branches]"
            )
        if np.isnan(scores).any():
            row, k = np.argwhere(np.isnan(scores))[0]
            raise ValueError(
                f"FromScores: the score of evaluation {rows[row]}, {branches[k]} is NaN"
            )
        compute[list(rows)] = scores > self.threshold
        threshold = self.threshold if 0 <= self.threshold <= 1 else None
        return CacheSchedule(compute, branches, threshold=threshold, source="scores")


def _full(steps: int, branches: tuple[str, ...]) -> BoolArray:
    check_size(steps, len(branches))
    return np.ones((steps, len(branches)), np.bool_)


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


def _spread(steps: int, full: int) -> list[int]:
    """The k whose bin k * full // steps is entered at k: `full` of them, evenly spread, with 0."""
    return [-(-j * steps // full) for j in range(full)]


def _alike(schedule: CacheSchedule, compute: BoolArray, name: str) -> CacheSchedule:
    source = f"{name} at the compute of: {schedule.source or 'a schedule'}"
    return replace(schedule, compute=compute, threshold=None, source=source[:1_000])
