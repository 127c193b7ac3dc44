"""Error against compute, and against time, of many methods on the digits: DDIM-20 and DDIM-50.

The shipped model and routers, three shares of the full run's multiply-accumulates, three seeds.
Writes every figure as JSON and draws both runs; a folder keeps what was measured, so that an
interrupted bench goes on:

    python bench/digits_pareto.py bench/results/digits-pareto.json docs/images [FOLDER]
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import l2c_rt as rt
from l2c_rt.comparison.comparison import Comparison
from l2c_rt.comparison.methods import Entry, controls
from l2c_rt.demo.classifier import train_classifier
from l2c_rt.demo.digits import load_digits
from l2c_rt.demo.run import DemoSettings, load_demo_model, load_demo_router
from l2c_rt.measure.machine import processor_name
from l2c_rt.untrusted.atomic_write import write_whole

STEPS = (20, 50)
COMPUTE = (0.85, 0.675, 0.5)
SEEDS = 3
IMAGES = 6
SAMPLES = 10
"""Of calibration."""


def entries(model: nn.Module, steps: int) -> list[Entry]:
    """The router of the digits, with and without correctors, and methods that need no training."""
    router = load_demo_router(steps)
    guidance = DemoSettings().guidance
    calibration, of_blocks = (
        rt.calibrate(model, steps=steps, samples=SAMPLES, cfg_scale=guidance, granularity=of)
        for of in ("branch", "block")
    )
    return [
        Entry("learned", router),
        Entry("learned + GOC", router, {"corrector": rt.correctors.Goc(0.3, None)}),
        Entry("learned + Taylor", router, {"corrector": rt.correctors.Taylor(1)}),
        *controls(router.schedule(), 0),
        Entry("FORA", rt.methods.FORA()),
        Entry("TaylorSeer", rt.methods.FORA(), {"corrector": rt.correctors.Taylor(2)}),
        Entry("HiCache", rt.methods.FORA(), {"corrector": rt.correctors.HiCache()}),
        Entry("SmoothCache", rt.methods.SmoothCache(calibration)),
        Entry("Delta-DiT", rt.methods.DeltaDiT(num_cached=6, boundary=steps // 2)),
        Entry("MagCache", rt.methods.MagCache(of_blocks)),
        Entry("Block Caching", rt.methods.BlockCaching(of_blocks)),
    ]


def measure(steps: int, folder: Path | None) -> Comparison:
    """One run's comparison, with a progress bar."""
    model = load_demo_model()
    return rt.compare(
        model, entries(model, steps), compute=COMPUTE, seeds=SEEDS, steps=steps, images=IMAGES,
        cfg_scale=DemoSettings().guidance, features=train_classifier(load_digits(), 0).features,
        folder=None if folder is None else folder / f"ddim-{steps}",
    )  # fmt: skip


def main(results: Path, pictures: Path, folder: Path | None = None) -> None:
    """Measure; after each run print its table and write figures and picture."""
    raw: dict[str, Any] = {
        "command": f"python bench/digits_pareto.py {results} {pictures}",
        "machine": processor_name(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "runs": {},
    }
    for steps in STEPS:
        comparison = measure(steps, folder)
        raw["runs"][f"ddim-{steps}"] = comparison.as_dict()
        write_whole(results, json.dumps(raw, indent=1, allow_nan=False) + "\n")
        comparison.plot(pictures / f"digits-pareto-{steps}.png")
        print(comparison, end="\n\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
