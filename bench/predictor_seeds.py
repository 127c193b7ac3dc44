"""How far predictors differ from seed to seed: of learning, and of the runs that fits come from.

By each seed a router that is learned with its predictors, as learned and then fitted, and a fit of
the shipped router.  A fit is taken by the mean of held-out runs; beside it the one that the first
of those runs alone would take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

import l2c_rt as rt
from l2c_rt.comparison.methods import Entry
from l2c_rt.regression import fit_corrector
from l2c_rt.schedule.cache_schedule import CacheSchedule

SEEDS = (0, 1, 2)
APART = 100
"""Seeds of fits are so far apart that none has a run of another."""


def by_seed(
    model: nn.Module, routers: Sequence[rt.Router], plain: CacheSchedule, guidance: float,
    first: int, folder: Path,
) -> list[Entry]:  # fmt: skip
    """The entries, one schedule each; a learned router of each seed is given."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for seed, router in zip(SEEDS, routers, strict=True):
        learned = replace(router, fitted=None).schedule()
        entries.append(Entry(f"learned, seed {seed}", [learned]))
        for name, schedule in (("learned", learned), ("L2C", plain)):
            for runs, fit in fits(model, schedule, guidance, first + APART * seed, folder / name):
                entries.append(Entry(f"{name}, fitted, {runs}, seed {seed}", [fit]))
    return entries


def fits(
    model: nn.Module, schedule: CacheSchedule, guidance: float, seed: int, folder: Path
) -> list[tuple[str, CacheSchedule]]:
    """What one held-out run takes, and what the mean of several does."""
    folder.mkdir(exist_ok=True)
    one, several = (folder / f"{runs}-{seed}.safetensors" for runs in ("one", "several"))
    judged = fit_corrector.judged

    def by_both(calibration: Any, candidates: Any, runs: Sequence[int], *rest: Any) -> Any:
        first = judged(calibration, candidates, runs[:1], *rest)
        rt.correctors.Fitted(first).save(one)
        return judged(calibration, candidates, runs, *rest)

    if not several.exists():
        fit_corrector.judged = by_both
        try:
            rt.fit_corrector(model, schedule, seed=seed, cfg_scale=guidance, out=several,
                             resume=True)  # fmt: skip
        finally:
            fit_corrector.judged = judged
    load = rt.correctors.Fitted.load
    return [("one run", load(one).fit), ("mean of runs", load(several).fit)]
