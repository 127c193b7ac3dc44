"""Does a learned schedule beat unlearned ones of equal compute?  The digits model, DDIM-20 and -50.

Every seed learns a router of its own (taken up again where `routers` has it), and both shares of
reuse are cut from that one router.  Noise, labels and the random control are of the seed as well.
Writes every image's PSNR:

    python bench/digits_router_quality.py routers/ bench/results/digits-router-quality.json
"""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import l2c_rt as rt
from l2c_rt.demo.run import load_demo_model

STEPS = (20, 50)
SEEDS = (0, 1, 2)
REUSE = (0.45, 0.7)
GUIDANCE = 1.5
IMAGES = 40
PIXEL_RANGE = 2.0
FIRST_NOISE_SEED = 1000


def learned(model: nn.Module, steps: int, seed: int, folder: Path) -> tuple[rt.Router, float]:
    """The router of one seed, and the seconds that its learning took."""
    router = rt.learn(model, steps=steps, seed=seed, cfg_scale=GUIDANCE, out=folder, resume=True)
    with (folder / "log.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return router, float(last["seconds"])


def measured(model: nn.Module, router: rt.Router, reuse: float, seed: int) -> dict[str, Any]:
    """One share of one router: all PSNRs, and the lead over the best control."""
    report = rt.fit_report(
        model,
        router.schedule(reuse=reuse),
        images=IMAGES,
        cfg_scale=GUIDANCE,
        seed=FIRST_NOISE_SEED + seed,
        peak=PIXEL_RANGE,
    )
    mean = {fit.name: fit.mean_psnr for fit in report.fits}
    return {
        "reuse_of_cached_evaluations": reuse,
        "computed_branches": report.computed,
        "of_branches": report.steps * report.branches,
        "mean_psnr_db": mean,
        "lead_db": report.lead,
        "psnr_db": {fit.name: list(fit.psnr) for fit in report.fits},
        "final_relative_l2": {fit.name: fit.final_error for fit in report.fits},
    }


def main(routers: Path, results: Path) -> None:
    """Learn and measure all cells, write them, print a line for each."""
    model = load_demo_model()
    cells = []
    for steps in STEPS:
        for seed in SEEDS:
            folder = routers / f"ddim-{steps}-seed-{seed}"
            router, seconds = learned(model, steps, seed, folder)
            for reuse in REUSE:
                cell = {"steps": steps, "seed": seed, "seconds_of_learning": seconds}
                cells.append(cell | measured(model, router, reuse, seed))
                show(cells[-1])
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    raw = {
        "command": f"python bench/digits_router_quality.py {routers} {results}",
        "commit": subprocess.run(
            commit, capture_output=True, text=True, check=False
        ).stdout.strip(),
        "images": IMAGES,
        "guidance": GUIDANCE,
        "peak": PIXEL_RANGE,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "cells": cells,
    }
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(raw, indent=1) + "\n")


def show(cell: dict[str, Any]) -> None:
    means = "  ".join(f"{name} {value:.1f}" for name, value in cell["mean_psnr_db"].items())
    where = f"DDIM-{cell['steps']} reuse {cell['reuse_of_cached_evaluations']:.0%}"
    print(f"{where} seed {cell['seed']}: {means}  lead {cell['lead_db']:.1f} dB", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
