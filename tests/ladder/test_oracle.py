"""The oracle and the loops against the published programs' own outputs (tests/goldens)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import Oracle
from published_loops import ddim_sample_loop, dpm_solver_loop
from published_outputs import NAMES, Golden, relative

TOLERANCE = 1e-4


def run(golden: Golden, compute: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """Latents, the first image's guided prediction per evaluation, and the times of all calls."""
    oracle = Oracle(golden.model(), compute, golden.lanes)
    predictions, times = [], []

    def called(x, t, y, **options):
        assert (t == t[0]).all()
        times.append(t[0].item())
        return (oracle.forward_with_cfg if options else oracle)(x, t, y, **options)

    loop = ddim_sample_loop if golden.family == "dit" else dpm_solver_loop
    with torch.no_grad():
        latents = loop(
            called,
            golden.noise,
            golden.labels,
            golden.null_label,
            golden.steps,
            golden.guidance,
            on_output=lambda _, out: predictions.append(out[0, :4]),
        )
    return latents, torch.stack(predictions), times


@pytest.mark.parametrize("name", NAMES)
def test_the_cached_run_agrees_with_the_published_program(name):
    golden = Golden.load(name)
    latents, predictions, times = run(golden, golden.compute)
    assert times == pytest.approx(golden.timesteps.tolist(), rel=1e-5)
    assert relative(latents, golden.cached) < TOLERANCE
    for step, (got, wanted) in enumerate(zip(predictions, golden.cached_predictions, strict=True)):
        assert relative(got, wanted) < TOLERANCE, f"evaluation {step}"


@pytest.mark.parametrize("name", NAMES)
def test_the_full_run_agrees_with_the_published_program(name):
    golden = Golden.load(name)
    latents, predictions, _ = run(golden, np.ones_like(golden.compute))
    assert relative(latents, golden.full) < TOLERANCE
    assert relative(predictions, golden.full_predictions) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_caching_changes_the_golden_latents_far_more_than_the_tolerance(name):
    golden = Golden.load(name)
    assert relative(golden.cached, golden.full) > 100 * TOLERANCE
