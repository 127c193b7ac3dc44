"""FasterCache as the scripts of its authors have it: by counts, with constants for each model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from l2c_rt.methods.checks import check_bool, check_names, check_number
from l2c_rt.methods.faster_cache import compounded
from l2c_rt.methods.pab import PAB, kind_of
from l2c_rt.plan.program import BlockProgram
from l2c_rt.policies.policy import full_table
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.halves import HALVED, HalfSchedule
from l2c_rt.schedule.predictions import Predictions

if TYPE_CHECKING:
    from torch import nn


class Constants(NamedTuple):
    """Of one script; counts begin at 1.  The half is left out from `halved_from` on but at
    multiples of `halved_every`; attention is computed at multiples of `computed_every`, or where
    that is negative at all others."""

    halved_from: int
    halved_every: int
    low: float
    low_until: int
    high: float
    high_from: int
    attention_from: int
    computed_every: int
    history_from: int
    weight: float


SCRIPTS: Mapping[str, Constants] = MappingProxyType({
    "cogvideox": Constants(18, 5, 1.1, 40, 1.1, 30, 18, 3, 15, 0.3),
    "latte": Constants(18, 5, 1.1, 44, 1.1, 45, 16, -2, 13, 0.5),
    "open-sora": Constants(12, 5, 1.15, 25, 1.15, 20, 8, -2, 5, 0.5),
    "open-sora-plan": Constants(40, 6, 1.1, 130, 1.2, 131, 45, 3, 40, 0.5),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class FasterCacheScript:
    """The authors' scripts for "cogvideox", "latte", "open-sora" and "open-sora-plan".

    As `FasterCache`, with these differences.  All decisions are by the count of evaluations, from
    1: `SCRIPTS` has them.  Attention is new + attention_weight * (new - old) of the two newest
    *computed* outputs.  The conditional half comes first.
    Two scripts (latte at 16; open-sora at 8 and 10) reuse attention for a whole batch before any
    half is left out; here a whole batch is computed, and as there its outputs do not enter the
    history.  The scripts of Open-Sora and its plan give no weight that could be checked: 0.5 unless
    `attention_weight` says another.
    Source: FasterCache, arXiv 2410.19355; github Vchitect/FasterCache, scripts.
    Raises ValueError for another script; `schedule` for a run too short for any of it.
    """

    script: str = "cogvideox"
    attention_weight: float | None = None
    uncond_first: bool = False
    halved_arguments: tuple[str, ...] = HALVED

    def __post_init__(self) -> None:
        if self.script not in SCRIPTS:
            raise ValueError(
                f"FasterCacheScript: script is {self.script!r:.40}, wanted one of "
                f"{', '.join(SCRIPTS)}"
            )
        if self.attention_weight is not None:
            check_number("FasterCacheScript: attention_weight", self.attention_weight, -math.inf)
        check_bool("FasterCacheScript: uncond_first", self.uncond_first)
        check_names("FasterCacheScript: halved_arguments", self.halved_arguments)

    def sites(self, model: nn.Module) -> tuple[str, ...] | None:
        """The attention modules of a model's blocks."""
        return PAB().sites(model)

    def schedule(
        self,
        steps: int,
        branches: tuple[str, ...],
        *,
        timesteps: Sequence[float] | None = None,
        program: BlockProgram | None = None,
    ) -> CacheSchedule:
        c = SCRIPTS[self.script]
        if steps < c.halved_from:
            raise ValueError(
                f"FasterCacheScript: {self.script!r} begins at evaluation {c.halved_from}, the run "
                f"has {steps}; use FasterCache, which goes by timesteps"
            )
        counts = np.arange(1, steps + 1)
        halved = (counts >= c.halved_from) & (counts % c.halved_every != 0)
        low = compounded(np.where(counts <= c.low_until, c.low, 1.0), halved)
        high = compounded(np.where(counts >= c.high_from, c.high, 1.0), halved)
        terms = self._terms(halved.tolist())
        columns = [
            k for k, n in enumerate(branches) if kind_of(n, program) in ("spatial", "temporal")
        ]
        compute = full_table(steps, branches)
        compute[np.ix_(list(terms), columns)] = False
        predicted = {(n, k): listed for n, listed in terms.items() for k in columns}
        halves = HalfSchedule(
            halved, low, high, bands=True, uncond_first=self.uncond_first,
            names=self.halved_arguments,
        )  # fmt: skip
        return CacheSchedule(
            compute, branches, source=f"FasterCache's script for {self.script}", halves=halves,
            timesteps=None if timesteps is None else tuple(map(float, timesteps)),
            predictions=Predictions.from_terms(steps, len(branches), predicted)
            if predicted else None,
        )  # fmt: skip

    def _terms(self, halved: list[bool]) -> dict[int, list[tuple[int, float]]]:
        """The terms of each evaluation whose attention is extrapolated."""
        c = SCRIPTS[self.script]
        w = c.weight if self.attention_weight is None else self.attention_weight
        terms: dict[int, list[tuple[int, float]]] = {}
        history: list[int] = []
        for n, is_half in enumerate(halved):
            count, every = n + 1, abs(c.computed_every)
            multiple = count % every == 0
            due = count >= c.attention_from and multiple == (c.computed_every < 0)
            # As published: only an output of at least as many rows stands in for another.
            reused = due and len(history) > 1 and (is_half or not halved[history[-1]])
            if not reused:
                history += [n] if count >= c.history_from else []
            elif is_half:
                terms[n] = [(history[-1], 1 + w), (history[-2], -w)]
        return terms
