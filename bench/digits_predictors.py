"""What predictors of reused branches are worth on the digits: DDIM-20 and DDIM-50, three seeds.

The shipped routers at 45, 65 and 85 % of the branches that may be reused: reused plainly, by GOC at
several eta, and as `rt.fit_corrector` fits them; a router that was learned with its predictor; the
schedules of `rt.search`; and at as much compute as each of the three, methods that need no
training.  Writes every figure as JSON; the folder keeps what was learned, fitted, searched and
measured, so that an interrupted bench goes on, and runs that the results have stay in them:

    python bench/digits_predictors.py bench/results/digits-predictors.json FOLDER [STEPS ...]
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import l2c_rt as rt
from l2c_rt import adapters
from l2c_rt.comparison.methods import Entry
from l2c_rt.demo.run import DemoSettings, load_demo_model, load_demo_router
from l2c_rt.measure.machine import processor_name
from l2c_rt.searching.columns import reused_share
from l2c_rt.untrusted.atomic_write import write_whole

STEPS = (20, 50)
REUSE = (0.45, 0.65, 0.85)
LEARNED = 0.65
"""What the learned router is learned for; `learn` fits there itself."""

ETAS = (0.3, 0.6, 0.8, 1.0)
SEEDS = 3
IMAGES = 10
SEED = 1_000
"""Of all that is fitted; those of the measurement are 0 .. 2."""

MINUTES = 0.25
"""Of each search."""

GUIDANCE = DemoSettings().guidance


def plain_schedules(steps: int) -> list[rt.CacheSchedule]:
    """Of the shipped router."""
    router = load_demo_router(steps)
    return [router.schedule(reuse=reuse) for reuse in REUSE]


def fits(
    model: nn.Module, schedules: Sequence[rt.CacheSchedule], folder: Path, name: str, history: int
) -> list[rt.CacheSchedule]:
    """The schedules, each with its fit."""
    found = []
    for i, schedule in enumerate(schedules):
        out = folder / f"{name}-{i}.safetensors"
        if not out.exists():
            rt.fit_corrector(
                model, schedule, history=history, seed=SEED, cfg_scale=GUIDANCE, out=out,
                resume=True,
            )  # fmt: skip
        found.append(rt.correctors.Fitted.load(out).fit)
    return found


def searched(
    model: nn.Module, shares: Sequence[float], steps: int, folder: Path, corrector: str | None
) -> list[rt.CacheSchedule]:
    """A schedule for each share of all branches' arithmetic."""
    found = []
    for i, reuse in enumerate(shares):
        out = folder / f"search-{corrector}-{i}.json"
        if not out.exists():
            rt.search(
                model, steps=steps, reuse=reuse, minutes=MINUTES, corrector=corrector, seed=SEED,
                cfg_scale=GUIDANCE, out=out, resume=True,
            )  # fmt: skip
        found.append(rt.CacheSchedule.load(out))
    return found


def with_predictors(model: nn.Module, steps: int, folder: Path) -> list[Entry]:
    """Routers with what stands for the branches that they reuse."""
    plain = plain_schedules(steps)
    router = rt.learn(
        model, steps=steps, reuse=LEARNED, corrector="learned", cfg_scale=GUIDANCE, report=0,
        out=folder / "learned", resume=True,
    )  # fmt: skip
    # Without what `learn` fitted at its end, for one of the three cuts.
    learned = replace(router, fitted=None)
    cut = [learned.schedule(reuse=reuse) for reuse in REUSE]
    fitted = fits(model, cut, folder, "learned-3", 3)
    fitted[REUSE.index(LEARNED)] = router.schedule()
    goc = [
        Entry(f"L2C, GOC {eta:g}", plain, {"corrector": rt.correctors.Goc(eta, None)})
        for eta in ETAS
    ]
    return [
        Entry("L2C", plain),
        *goc,
        Entry("L2C, fitted of 3", fits(model, plain, folder, "fitted-3", 3)),
        Entry("L2C, fitted of 4", fits(model, plain, folder, "fitted-4", 4)),
        Entry("learned", cut),
        Entry("learned, fitted of 3", fitted),
        Entry("learned, fitted of 4", fits(model, cut, folder, "learned-4", 4)),
    ]


def without_training(model: nn.Module, steps: int, folder: Path) -> list[Entry]:
    """Searched schedules, and published methods."""
    of_branches, of_blocks = (
        rt.calibrate(model, steps=steps, samples=10, cfg_scale=GUIDANCE, granularity=of, seed=SEED)
        for of in ("branch", "block")
    )
    branches = adapters.bind(model).program.branches
    costs = np.array([branch.macs for branch in branches], float)
    shares = [reused_share(schedule.compute, costs) for schedule in plain_schedules(steps)]
    return [
        Entry("search", searched(model, shares, steps, folder, None)),
        Entry("search, fitted", searched(model, shares, steps, folder, "fitted")),
        Entry("FORA", rt.methods.FORA()),
        Entry("TaylorSeer", rt.methods.FORA(), {"corrector": rt.correctors.Taylor(2)}),
        Entry("SmoothCache", rt.methods.SmoothCache(of_branches)),
        Entry("MagCache", rt.methods.MagCache(of_blocks)),
    ]


def main(results: Path, folder: Path, runs: Sequence[int]) -> None:
    """Measure; after each run print its table and write the figures."""
    raw: dict[str, Any] = {
        "command": f"python bench/digits_predictors.py {results} FOLDER [STEPS ...]",
        "machine": processor_name(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "reuse": REUSE,
        "runs": json.loads(results.read_text())["runs"] if results.exists() else {},
    }
    model = load_demo_model()
    for steps in runs:
        of_steps = folder / f"ddim-{steps}"
        of_steps.mkdir(parents=True, exist_ok=True)
        costs = [rt.compile(model, schedule).cost for schedule in plain_schedules(steps)]
        comparison = rt.compare(
            model,
            [*with_predictors(model, steps, of_steps), *without_training(model, steps, of_steps)],
            compute=[cost.macs / cost.full_macs for cost in costs],
            seeds=SEEDS, steps=steps, images=IMAGES, cfg_scale=GUIDANCE, rounds=0,
            folder=of_steps / "comparison",
        )  # fmt: skip
        raw["runs"][f"ddim-{steps}"] = comparison.as_dict()
        write_whole(results, json.dumps(raw, indent=1, allow_nan=False) + "\n")
        print(comparison, end="\n\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [*map(int, sys.argv[3:])] or STEPS)
