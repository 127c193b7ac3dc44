"""What predictors of reused branches are worth on the digits: DDIM-20 and DDIM-50, three seeds.

The shipped routers at 45, 65 and 85 % of the branches that may be reused: reused plainly, by GOC at
several eta, and as `rt.fit_corrector` fits them; a router that was learned with its predictor; the
schedules of `rt.search`; and at as much compute as each of the three, methods that need no
training.  Then, at 65 %, what seeds of learning and fitting change.  Writes every figure as JSON;
the folder keeps what was learned, fitted, searched and measured, so that an interrupted bench goes
on, and runs that the results have stay in them.  With `--seeds` the last part alone is measured:

    python bench/digits_predictors.py bench/results/digits-predictors.json FOLDER [STEPS ...]
        [--seeds]
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import predictor_seeds
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


def learned_router(model: nn.Module, steps: int, folder: Path, seed: int) -> rt.Router:
    """Gates and predictors, learned together by a seed."""
    return rt.learn(
        model, steps=steps, reuse=LEARNED, corrector="learned", cfg_scale=GUIDANCE, report=0,
        seed=seed, out=folder / (f"learned-{seed}" if seed else "learned"), resume=True,
    )  # fmt: skip


def with_predictors(model: nn.Module, steps: int, folder: Path) -> list[Entry]:
    """Routers with what stands for the branches that they reuse."""
    plain = plain_schedules(steps)
    router = learned_router(model, steps, folder, 0)
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


def all_rows(model: nn.Module, steps: int, folder: Path) -> dict[str, Any]:
    """Everything at three shares of compute."""
    costs = [rt.compile(model, schedule).cost for schedule in plain_schedules(steps)]
    entries = [*with_predictors(model, steps, folder), *without_training(model, steps, folder)]
    shares = [cost.macs / cost.full_macs for cost in costs]
    return measured(model, entries, steps, shares, folder / "comparison")


def of_seeds(model: nn.Module, steps: int, folder: Path) -> dict[str, Any]:
    """One schedule of each row, run as it is."""
    routers = [learned_router(model, steps, folder, seed) for seed in predictor_seeds.SEEDS]
    entries = predictor_seeds.by_seed(
        model, routers, plain_schedules(steps)[REUSE.index(LEARNED)], GUIDANCE, SEED,
        folder / "seeds",
    )  # fmt: skip
    return measured(model, entries, steps, None, folder / "comparison-of-seeds")


def measured(
    model: nn.Module, entries: list[Entry], steps: int, compute: list[float] | None, folder: Path
) -> dict[str, Any]:
    """The comparison, printed."""
    comparison = rt.compare(
        model, entries, compute=compute, seeds=SEEDS, steps=steps, images=IMAGES,
        cfg_scale=GUIDANCE, rounds=0, folder=folder,
    )  # fmt: skip
    print(comparison, end="\n\n")
    return comparison.as_dict()


def main(results: Path, folder: Path, runs: Sequence[int], seeds_alone: bool) -> None:
    """Measure; after each run write the figures."""
    before = json.loads(results.read_text()) if results.exists() else {}
    raw: dict[str, Any] = {
        "command": f"python bench/digits_predictors.py {results} FOLDER [STEPS ...]",
        "machine": processor_name(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "reuse": REUSE,
        "runs": before.get("runs", {}),
        "seeds": before.get("seeds", {}),
    }
    model = load_demo_model()
    for steps in runs:
        of_steps = folder / f"ddim-{steps}"
        of_steps.mkdir(parents=True, exist_ok=True)
        if not seeds_alone:
            raw["runs"][f"ddim-{steps}"] = all_rows(model, steps, of_steps)
        raw["seeds"][f"ddim-{steps}"] = of_seeds(model, steps, of_steps)
        write_whole(results, json.dumps(raw, indent=1, allow_nan=False) + "\n")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="*", type=int)
    parser.add_argument("--seeds", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parsed()
    main(arguments.results, arguments.folder, arguments.runs or STEPS, arguments.seeds)
