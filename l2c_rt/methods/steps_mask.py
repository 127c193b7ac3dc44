"""cache-dit's steps masks: which evaluations compute the middle blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2c_rt.methods.checks import check_int, mask_of
from l2c_rt.policies.policy import full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule

Bins = tuple[tuple[int, ...], tuple[int, ...]]
"""Lengths of the runs of computed evaluations, and of those of cached ones between them."""

BASE_STEPS = 28
BINS: dict[str, Bins] = {
    "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
    "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
    "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
    "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
}
FEW_STEPS: dict[str, Bins] = {
    "slow": ((4, 2, 2, 2, 1), (1, 1, 1, 1)),
    "medium": ((4, 2, 1, 1, 1), (1, 1, 2, 2)),
    "fast": ((3, 1, 1, 1, 1), (1, 2, 2, 3)),
    "ultra": ((2, 1, 1, 1, 1), (1, 2, 3, 3)),
}
"""For 10 to 15 steps, cut as those of 28 are."""

FIXED = {
    4: dict.fromkeys(BINS, "1101"),
    6: dict.fromkeys(BINS, "111001"),
    8: {"slow": "11111011", "medium": "11110101", "fast": "11101001", "ultra": "11001001"},
    9: {"slow": "111110111", "medium": "111110101", "fast": "111101001", "ultra": "111001001"},
}


def steps_mask(name: str, steps: int) -> tuple[bool, ...]:
    """The mask of that name for a run of `steps` evaluations: True computes.

    "slow" computes most, then "medium", "fast" and "ultra".  Raises ValueError for another name,
    and for the numbers of steps that have no mask: 1 to 3, 5 and 7.
    Source: cache-dit 1.5.3, steps computation masks.
    """
    if name not in BINS:
        raise ValueError(f"steps mask {name!r:.40}, wanted one of {', '.join(BINS)}")
    if steps < 10:
        if steps not in FIXED:
            raise ValueError(
                f"steps mask {name!r}: {steps} steps have no mask; wanted 4, 6, 8, 9 or more, or "
                "a mask of your own: [1, 1, 0, ...]"
            )
        return tuple(mark == "1" for mark in FIXED[steps][name])
    bins = BINS[name] if steps > 15 else FEW_STEPS[name]
    return _marks(*_cut(_grown(bins, steps), steps))


def _grown(bins: Bins, steps: int) -> Bins:
    """Bins of at least `steps`: each in turn longer by half of its share, the last one by one."""
    computed, cached = list(bins[0]), list(bins[1])
    while sum(computed) + sum(cached) < steps:
        for k in range(len(computed)):
            for part, base in ((computed, bins[0]), (cached, bins[1])):
                if k < len(base) and sum(computed) + sum(cached) < steps:
                    is_last = k == len(bins[1])
                    half = int(base[k] * steps / BASE_STEPS * 0.5)
                    part[k] += 1 if is_last else max(half, 1)
    return tuple(computed), tuple(cached)


def _cut(bins: Bins, steps: int) -> Bins:
    """Bins of `steps`: one by one off the last run that is left, cached and computed in turn."""
    computed, cached = list(bins[0]), list(bins[1])
    of_cached = True
    while sum(computed) + sum(cached) > steps:
        part = cached if of_cached else computed
        of_cached = not of_cached
        left = [k for k, length in enumerate(part) if length]
        if left:
            part[left[-1]] -= 1
    return tuple(computed), tuple(cached)


def _marks(computed: Sequence[int], cached: Sequence[int]) -> tuple[bool, ...]:
    marks: list[bool] = []
    for k, length in enumerate(computed):
        marks += [True] * length + [False] * (cached[k] if k < len(cached) else 0)
    return (*marks[:-1], True)


@dataclass(frozen=True, slots=True)
class StepsMask:
    """Reuses what the middle blocks add, at the evaluations of a mask, whatever the values are.

    cache-dit's DBCache with the static policy: the first `Fn_compute_blocks` and the last
    `Bn_compute_blocks` run at every evaluation, the blocks between where the mask is 1; kept is
    what they add to image and text.  The mask is "slow", "medium", "fast" or "ultra", or a list of
    0 and 1 that begins with 1.  Needs nothing but the number of steps.  Field names and numbers of
    blocks are published.  Source: cache-dit 1.5.3 (github vipshop/cache-dit).
    """

    steps_computation_mask: str | Sequence[int] = "medium"
    Fn_compute_blocks: int = 8
    Bn_compute_blocks: int = 0

    granularity = "block"
    """What is kept is what whole blocks add."""

    def __post_init__(self) -> None:
        check_int("StepsMask: Fn_compute_blocks", self.Fn_compute_blocks, 0)
        check_int("StepsMask: Bn_compute_blocks", self.Bn_compute_blocks, 0)
        mask = mask_of("StepsMask: steps_computation_mask", self.steps_computation_mask, BINS)
        if not isinstance(mask, str) and not mask[0]:
            raise ValueError(
                f"StepsMask: steps_computation_mask is {mask!r:.60}, wanted 1, computed, first"
            )
        object.__setattr__(self, "steps_computation_mask", mask)

    def mask(self, steps: int) -> tuple[bool, ...]:
        """Which evaluations compute everything."""
        if isinstance(self.steps_computation_mask, str):
            return steps_mask(self.steps_computation_mask, steps)
        if len(self.steps_computation_mask) != steps:
            raise ValueError(
                f"StepsMask: the mask has {len(self.steps_computation_mask)} steps, the run {steps}"
            )
        return tuple(map(bool, self.steps_computation_mask))

    def schedule(self, steps: int, branches: tuple[str, ...]) -> CacheSchedule:
        compute = full_table(steps, branches)
        first, last = self.Fn_compute_blocks, len(branches) - self.Bn_compute_blocks
        if first >= last:
            raise ValueError(
                f"StepsMask: Fn_compute_blocks + Bn_compute_blocks is "
                f"{first + self.Bn_compute_blocks}, and the model has {len(branches)} blocks, so "
                "none is left to reuse; wanted fewer"
            )
        compute[~np.array(self.mask(steps)), first:last] = False
        mask = self.steps_computation_mask
        name = mask if isinstance(mask, str) else "given"
        source = f"steps mask {name}, F{first}B{self.Bn_compute_blocks}"
        return CacheSchedule(compute, branches, source=source, granularity="block")
