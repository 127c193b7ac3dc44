"""How near a cached run stays to the full run, learned against unlearned at equal compute.

The shipped digits model and routers, DDIM-20 and DDIM-50, three shares of reuse, three seeds of
noise and random control.  Writes every image's PSNR as JSON:

    python bench/digits_quality.py bench/results/digits-quality.json
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

from l2c_rt.demo.metrics import psnr_per_image
from l2c_rt.demo.run import (
    DemoSettings,
    Key,
    Trial,
    equal_compute,
    load_demo_model,
    load_demo_router,
    sample_rounds,
    trials_of,
)
from l2c_rt.policies import Full
from l2c_rt.schedule.cache_schedule import CacheSchedule

STEPS = (20, 50)
REUSE = (0.25, 0.45, 0.65)
SEEDS = (0, 1, 2)
IMAGES = 40


def schedules_of(steps: int, seed: int) -> dict[Key, CacheSchedule]:
    """The full run, and at every share the learned schedule and its controls."""
    router = load_demo_router(steps)
    schedules = {("full", 0.0): Full().schedule(steps, router.branches)}
    for reuse in REUSE:
        learned = router.schedule(reuse=reuse)
        schedules["learned", reuse] = learned
        for name, control in equal_compute(learned, seed).items():
            schedules[name, reuse] = control
    return schedules


def cell(steps: int, seed: int, reuse: float, trials: dict[Key, Trial]) -> dict[str, Any]:
    """PSNR per image of each schedule of one share, and by how much the learned one leads."""
    full = trials["full", 0.0].images[0]
    chosen = {name: trial for (name, share), trial in trials.items() if share == reuse}
    psnr = {name: psnr_per_image(t.images[0], full).tolist() for name, t in chosen.items()}
    mean = {name: fmean(values) for name, values in psnr.items()}
    best_control = max(value for name, value in mean.items() if name != "learned")
    return {
        "steps": steps,
        "seed": seed,
        "reuse_of_cached_evaluations": reuse,
        "reuse_of_all_evaluations": chosen["learned"].schedule.reuse_share,
        "computed_branches": {name: int(t.schedule.compute.sum()) for name, t in chosen.items()},
        "mean_psnr_db": mean,
        "lead_db": mean["learned"] - best_control,
        "psnr_db": psnr,
    }


def measure() -> list[dict[str, Any]]:
    """All cells, with a progress bar."""
    cells = []
    model = load_demo_model()
    schedules_by_run = {
        (steps, seed): schedules_of(steps, seed) for steps in STEPS for seed in SEEDS
    }
    total = sum(steps * len(schedules) for (steps, _), schedules in schedules_by_run.items())
    with tqdm(total=total, unit="evaluation") as bar:
        for (steps, seed), schedules in schedules_by_run.items():
            settings = DemoSettings(seed=seed, images=IMAGES, rounds=1)
            trials = trials_of(model, schedules)
            sample_rounds(trials, settings, bar.update)
            cells += [cell(steps, seed, reuse, trials) for reuse in REUSE]
    return cells


def main(path: Path) -> None:
    """Measure, write to `path`, print a line for each cell."""
    cells = measure()
    raw = {
        "command": f"python bench/digits_quality.py {path}",
        "images": IMAGES,
        "guidance": DemoSettings().guidance,
        "peak": 2.0,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "cells": cells,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(raw, indent=1) + "\n")
    for c in cells:
        means = "  ".join(f"{name} {value:.1f}" for name, value in c["mean_psnr_db"].items())
        print(f"DDIM-{c['steps']} reuse {c['reuse_of_cached_evaluations']:.0%} seed {c['seed']}: "
              f"{means}  lead {c['lead_db']:.1f} dB")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
