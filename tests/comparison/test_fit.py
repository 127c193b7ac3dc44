"""The measurement: a schedule against the full run and against its controls."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Oracle
from toys import random_schedule, toy_dit, toy_uvit

from l2c_rt.api import compile
from l2c_rt.comparison.fit import fit_report
from l2c_rt.comparison.fit_report import FitReport
from l2c_rt.policies import EveryN, Full, NoisiestFirst, Random
from l2c_rt.policies.router import Router
from l2c_rt.sampling import loops as sampling
from l2c_rt.sampling.solvers import solver_for
from l2c_rt.schedule.cache_schedule import CacheSchedule


def report_of(model: Any, schedule: Any, **options: Any) -> FitReport:
    return fit_report(model, schedule, **({"images": 2, "seed": 4} | options))


def schedule_for_dit(steps: int = 4) -> CacheSchedule:
    return random_schedule(steps, 6, family="dit", sampler="ddim")


def test_errors_are_those_of_a_naive_cached_run() -> None:
    model, schedule = toy_dit(), schedule_for_dit()
    report = report_of(model, schedule, cfg_scale=2.0, peak=4.0)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([0, 1])
    runs = []
    for compute in (schedule.compute, np.ones_like(schedule.compute)):
        naive = Oracle(model, compute)
        loop = compile(model, schedule).bound_model.sampling
        guided = sampling.guided_call(naive, loop, labels, 2.0)
        with torch.no_grad():
            runs.append(list(sampling.run(solver_for("ddim", 4), guided, noise)))
    cached, full = runs
    first = report.fits[0]
    for k in range(4):
        expected = float((cached[k] - full[k]).norm() / full[k].norm())
        assert first.error[k] == pytest.approx(expected, rel=1e-3, abs=1e-9)
    squares = (cached[-1] - full[-1]).square().flatten(1).mean(1)
    for value, square in zip(first.psnr, squares.tolist(), strict=True):
        assert value == pytest.approx(10 * math.log10(16 / square), abs=0.01)
    assert first.reused == tuple(1 - schedule.compute.mean(axis=1))
    assert first.final_error == first.error[-1]


def test_the_controls_have_the_same_compute() -> None:
    model, schedule = toy_dit(), schedule_for_dit()
    report = report_of(model, schedule)
    assert [fit.name for fit in report.fits] == [
        "this schedule", "random", "every-N", "noisiest first",
    ]  # fmt: skip
    controls = [Random.like(schedule, 4), EveryN.like(schedule), NoisiestFirst.like(schedule)]
    for fit, control in zip(report.fits[1:], controls, strict=True):
        assert fit.reused == tuple(1 - control.compute.mean(axis=1))
        assert sum(fit.reused) == pytest.approx(sum(report.fits[0].reused))
    assert report.computed == schedule.compute.sum()


def test_a_full_schedule_costs_nothing() -> None:
    model = toy_dit(depth=1)
    full = Full().schedule(4, ("attn-0", "mlp-0"))
    report = report_of(model, full)
    assert report.fits[0].error == (0.0,) * 4
    assert report.fits[0].psnr == (math.inf,) * 2
    assert report.lead == 0


def test_the_peak_is_the_range_of_the_full_run_unless_given() -> None:
    model, schedule = toy_dit(), schedule_for_dit()
    own = report_of(model, schedule)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    latents = compile(model, Full(), steps=4).sample(noise, torch.tensor([0, 1]))
    assert own.peak == pytest.approx(float(latents.max() - latents.min()), rel=1e-5)
    doubled = report_of(model, schedule, peak=2 * own.peak)
    for small, large in zip(own.fits[0].psnr, doubled.fits[0].psnr, strict=True):
        assert large - small == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_a_router_is_cut_as_compile_cuts_it(tmp_path: Path) -> None:
    model = toy_uvit()
    logits = np.random.default_rng(0).normal(2.0, 1.0, (3, 6)).astype(np.float32)
    router = Router(logits, "uvit", 6)
    router.save(tmp_path / "router.safetensors")
    report = report_of(model, router)
    assert report.computed == router.schedule().compute.sum() < 36
    assert report == report_of(model, tmp_path / "router.safetensors")


def test_the_model_is_left_as_it_was() -> None:
    model = toy_dit()
    model.train()
    report_of(model, schedule_for_dit())
    assert model.training
    assert sum(p.requires_grad for p in model.parameters()) == len(list(model.parameters())) - 1


def test_a_model_without_labels_is_reported_on() -> None:
    schedule = random_schedule(4, 6, family="uvit", sampler="dpm-solver")
    assert report_of(toy_uvit(num_classes=-1), schedule).fits[0].final_error > 0


def test_the_same_seed_gives_the_same_report_and_another_another() -> None:
    model, schedule = toy_dit(), schedule_for_dit()
    assert report_of(model, schedule) == report_of(model, schedule)
    assert report_of(model, schedule).fits[0] != report_of(model, schedule, seed=5).fits[0]


@pytest.mark.parametrize("images", [0, -1, True, 1.5])
def test_a_report_needs_images(images: Any) -> None:
    with pytest.raises(ValueError, match="images is"):
        report_of(toy_dit(), schedule_for_dit(), images=images)


def test_a_schedule_of_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="depth"):
        report_of(toy_dit(depth=2), schedule_for_dit())
