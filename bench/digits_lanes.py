"""Coefficients for cond and uncond each, against shared ones, on the digits: DDIM-20 and DDIM-50.

The shipped routers at 65 % of the branches that may be reused, and FORA at an interval of 4, which
reuses three of four evaluations: reused plainly, by a fit, and by a fit with `lanes=True`, which
takes coefficients of lanes where a held-out run ends nearer with them; `forced` takes them anyway.
Beside them routers whose coefficients were learned with the gates, shared and by lane, as learned
and fitted again.  Three seeds of ten images that no fit has seen.  Writes every figure as JSON; the
folder keeps what was learned, fitted and measured:

    python bench/digits_lanes.py bench/results/digits-lanes.json FOLDER [STEPS ...]
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from digits_predictors import GUIDANCE, IMAGES, SEED, SEEDS, STEPS
from torch import nn

import l2c_rt as rt
from l2c_rt.comparison.methods import Entry
from l2c_rt.demo.run import load_demo_model, load_demo_router
from l2c_rt.measure.machine import processor_name
from l2c_rt.regression import fit_corrector
from l2c_rt.untrusted.atomic_write import write_whole


def schedules(steps: int) -> dict[str, rt.CacheSchedule]:
    """By name."""
    router = load_demo_router(steps)
    every = rt.policies.EveryN(4).schedule(steps, router.branches)
    return {"L2C": router.schedule(reuse=0.65), "FORA": replace(every, sampler=router.sampler)}


def fit(model: nn.Module, schedule: rt.CacheSchedule, out: Path, *, lanes: bool) -> Entry:
    """The schedule with its fit."""
    if not out.exists():
        rt.fit_corrector(
            model, schedule, seed=SEED, cfg_scale=GUIDANCE, lanes=lanes, out=out, resume=True
        )
    return Entry(out.stem, [rt.correctors.Fitted.load(out).fit])


def forced(model: nn.Module, schedule: rt.CacheSchedule, out: Path) -> Entry:
    """The better one of the two fits by lanes, whatever shared coefficients or none would do."""
    judged = fit_corrector.judged
    try:
        fit_corrector.judged = lambda runs, fits, *rest: judged(runs, fits[:2], *rest)
        return fit(model, schedule, out, lanes=True)
    finally:
        fit_corrector.judged = judged


def learned(model: nn.Module, steps: int, folder: Path) -> list[Entry]:
    """Routers for a share of 65 %, with coefficients shared and by lane."""
    entries = []
    for name, lanes in (("shared", False), ("lanes", True)):
        router = rt.learn(
            model, steps=steps, reuse=0.65, corrector="learned", lanes=lanes, cfg_scale=GUIDANCE,
            report=0, out=folder / name, resume=True,
        )  # fmt: skip
        entries.append(Entry(f"{name}, not fitted", [replace(router, fitted=None).schedule()]))
        entries.append(Entry(name, [router.schedule()]))
    return entries


def fits(model: nn.Module, schedule: rt.CacheSchedule, folder: Path) -> list[Entry]:
    """Of one schedule."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        Entry("plain", [schedule]),
        fit(model, schedule, folder / "shared.safetensors", lanes=False),
        fit(model, schedule, folder / "lanes.safetensors", lanes=True),
        forced(model, schedule, folder / "forced.safetensors"),
    ]


def measure(model: nn.Module, entries: list[Entry], steps: int, folder: Path) -> Any:
    """Every entry is one schedule, run as it is."""
    return rt.compare(
        model, entries, compute=None, seeds=SEEDS, steps=steps, images=IMAGES,
        cfg_scale=GUIDANCE, rounds=0, folder=folder / "comparison",
    ).as_dict()  # fmt: skip


def main(results: Path, folder: Path, runs: Sequence[int]) -> None:
    """Measure; after each run write the figures."""
    raw: dict[str, Any] = {
        "command": f"python bench/digits_lanes.py {results} FOLDER [STEPS ...]",
        "machine": processor_name(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "runs": json.loads(results.read_text())["runs"] if results.exists() else {},
    }
    model = load_demo_model()
    for steps in runs:
        of_steps = raw["runs"][f"ddim-{steps}"] = {}
        for name, schedule in schedules(steps).items():
            path = folder / f"ddim-{steps}" / name
            of_steps[name] = measure(model, fits(model, schedule, path), steps, path)
        path = folder / f"ddim-{steps}" / "learned"
        of_steps["learned"] = measure(model, learned(model, steps, path), steps, path)
        write_whole(results, json.dumps(raw, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [*map(int, sys.argv[3:])] or STEPS)
