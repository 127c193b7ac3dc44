"""Runs of the demo: what it writes, and what the shipped router achieves."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from l2c_rt.backends.cpu.packed import why_not_narrow
from l2c_rt.demo.metrics import psnr_per_image
from l2c_rt.demo.run import (
    NARROW,
    DemoSettings,
    load_demo_model,
    load_demo_router,
    run_demo,
    sample_rounds,
    schedules_of,
    trials_of,
)


@pytest.mark.slow
def test_the_demo_writes_pictures_table_and_raw_samples(tmp_path: Path) -> None:
    settings = DemoSettings(rounds=2, steps=(20,), more_reuse=(0.65,))
    text = run_demo(tmp_path, settings, progress=False)
    for name in ("samples.png", "schedule-20.png", "latency.png", "report.md", "report.json"):
        assert (tmp_path / name).stat().st_size > 1000
        assert name == "report.json" or str(tmp_path / name) in text
    raw = json.loads((tmp_path / "report.json").read_text())
    narrow = [] if why_not_narrow(load_demo_model()) else [NARROW]
    assert [r["name"] for r in raw["results"]] == [
        "full", "learned", "every-N", "random", "noisiest first", "learned", *narrow,
    ]  # fmt: skip
    if narrow:
        assert NARROW in text
        # Of the same schedule in float32: a pixel is wrong by less than a hundredth.
        assert 50 < fmean(raw["results"][-1]["psnr"]) < 120
    assert {len(r["psnr"]) for r in raw["results"][1:]} == {80}
    assert raw["results"][0]["accuracy"] > 0.8


def test_too_few_rounds_or_images_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for settings in (DemoSettings(rounds=1), DemoSettings(images=39)):
        with pytest.raises(ValueError, match="2 rounds or more"):
            run_demo(tmp_path / "out", settings, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [20, 50])
def test_learned_beats_every_control_by_six_decibels(steps: int) -> None:
    settings = DemoSettings(images=20, rounds=1, steps=(steps,), more_reuse=())
    schedules = schedules_of(load_demo_router(steps), settings)
    trials = trials_of(load_demo_model(), schedules)
    sample_rounds(trials, settings, lambda evaluations: None)
    full = torch.cat(trials["full", 0.0].images)
    psnr = {
        name: fmean(psnr_per_image(torch.cat(trial.images), full).tolist())
        for (name, _), trial in trials.items()
        if name != "full"
    }
    learned = psnr.pop("learned")
    assert learned >= max(psnr.values()) + 6.0, f"{learned=} {psnr=}"
    assert torch.equal(full.isfinite(), torch.ones_like(full, dtype=torch.bool))
