"""Calibration: what it measures, against published and naive measurements; what it refuses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from method_goldens import dit_28, golden
from published_outputs import relative
from small_diffusers import SMALL, dit, dit_calls, flux, flux_calls, wan
from toys import toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.methods import BlockCaching, MagCache, SmoothCache

SMOOTH = golden("static-methods", "smoothcache_ddim50")


def flux_loop(model, seed):
    return list(flux_calls(model, 6))


def test_the_errors_of_dit_are_those_of_the_published_helper_and_so_is_its_schedule():
    seed = int(SMOOTH["calibration_seed"])
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    labels = SMOOTH["calibration_labels"].tolist()
    calibration = rt.calibrate(dit_28(), steps=50, noise=noise, labels=labels, cfg_scale=4.0)
    for kind in range(2):
        expected = SMOOTH["first_block_errors"][kind].numpy()
        np.testing.assert_allclose(calibration.errors[kind], expected, rtol=1e-5)
        mean = calibration.errors[kind::2].mean(axis=0)
        np.testing.assert_allclose(mean, SMOOTH["errors"][kind].numpy(), rtol=1e-5)
    schedule = SmoothCache(calibration, 0.18).schedule(50, calibration.branches)
    assert schedule.compute.astype(int).tolist() == SMOOTH["computed"].tolist()
    assert schedule.sampler == "ddim"
    assert schedule.fingerprint == calibration.fingerprint


@torch.no_grad()
def test_the_magnitudes_are_those_of_all_blocks_by_token():
    steps, model, residuals = 6, flux(), []
    entered = []
    model.x_embedder.register_forward_hook(lambda m, a, out: entered.append(out))
    model.single_transformer_blocks[-1].register_forward_hook(
        lambda m, a, out: residuals.append(out[1] - entered[-1])
    )
    outputs = flux_loop(model, 0)
    norms = [residual.norm(dim=-1) for residual in residuals]
    ratios = [float((b / (a + 1e-8)).mean()) for a, b in pairwise(norms)]
    calibration = rt.calibrate(flux(), flux_loop, steps=steps, samples=1, granularity="block")
    assert calibration.magnitudes.shape == (1, steps)
    np.testing.assert_allclose(calibration.magnitudes[0], [1.0, *ratios], rtol=1e-5)
    assert MagCache(calibration, 0.5).ratios(steps).tolist() == pytest.approx([1.0, *ratios])
    assert len(outputs) == steps


def test_two_calls_per_step_have_ratios_of_their_own():
    def loop(model, seed):
        list(SMALL["wan"][1](model, 5))

    calibration = rt.calibrate(
        wan(), loop, steps=5, samples=1, granularity="block", calls_per_step=2
    )
    assert calibration.magnitudes.shape == (2, 5)
    assert not np.allclose(calibration.magnitudes[0], calibration.magnitudes[1], rtol=1e-6)
    assert calibration.timesteps == pytest.approx(SMALL["wan"][2](5))


def test_a_calibration_of_blocks_compiles_for_its_model_and_its_loop():
    calibration = rt.calibrate(flux(), flux_loop, steps=6, samples=1, granularity="block")
    assert np.isfinite(calibration.errors[:, 0]).all()
    for method in (BlockCaching(calibration, 0.9), MagCache(calibration, 0.9)):
        fast = rt.compile(flux(), method, steps=6)
        assert fast.schedule.granularity == "block"
        assert not fast.schedule.compute.all()
        with torch.no_grad():
            assert len(flux_loop(fast, 0)) == 6


@torch.no_grad()
def test_the_runs_are_the_models_own_and_no_more_of_them_than_samples():
    model, calls = flux(), []
    model.x_embedder.register_forward_hook(lambda m, a, out: calls.append(len(out)))
    outputs = []

    def loop(replaced, seed):
        outputs.append(flux_loop(replaced, seed))

    rt.calibrate(model, loop, steps=6, samples=3, lookback=3)
    assert len(calls) == 3 * 6
    for out, expected in zip(outputs[-1], flux_loop(model, 0), strict=True):
        assert relative(out, expected) == 0


def test_runs_are_averaged_and_batches_are_runs():
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    arguments = {"steps": 5, "labels": [0, 1, 2, 3]}
    together = rt.calibrate(toy_dit(), noise=noise, batch_size=2, **arguments)
    parts = [
        rt.calibrate(toy_dit(), steps=5, labels=labels, noise=rows)
        for labels, rows in (([0, 1], noise[:2]), ([2, 3], noise[2:]))
    ]
    mean = np.mean([part.errors for part in parts], axis=0)
    np.testing.assert_allclose(together.errors, mean, rtol=1e-6)


def test_a_uvit_is_calibrated_in_its_published_loop():
    calibration = rt.calibrate(toy_uvit(), steps=6, samples=2, lookback=2)
    assert calibration.sampler == "dpm-solver"
    assert calibration.errors.shape[1:] == (2, 5)
    assert np.isnan(calibration.errors[:, 1, -1]).all()


def test_lookbacks_stay_within_a_short_run():
    assert rt.calibrate(toy_dit(), steps=2, samples=1).errors.shape[1:] == (1, 1)


def test_progress_is_told_for_every_evaluation():
    told = []
    rt.calibrate(
        toy_dit(), steps=3, samples=2, batch_size=1, progress=lambda *done: told.append(done)
    )
    assert told == [(k, 6) for k in range(1, 7)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 1}, "steps is 1, wanted an int of at least 2"),
        ({"steps": 4, "samples": 0}, "samples is 0"),
        ({"steps": 4, "lookback": 0}, "lookback is 0"),
        ({"steps": 4, "calls_per_step": True}, "calls_per_step is True"),
        ({"steps": 4, "labels": [99]}, "labels|sample: y"),
        ({"steps": 4, "granularity": "layer"}, "wanted 'branch', 'block' or 'model'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rt.calibrate(toy_dit(), **arguments)


def test_a_loop_that_makes_other_calls_is_refused():
    with pytest.raises(ValueError, match=r"called the model 6 times, wanted .* 5 x 1"):
        rt.calibrate(flux(), flux_loop, steps=5, samples=1)
    with pytest.raises(ValueError, match="no published loop for FluxTransformer2DModel"):
        rt.calibrate(flux(), steps=5)
    with pytest.raises(TypeError, match="loop is 3, wanted a function"):
        rt.calibrate(flux(), 3, steps=5)


def test_a_calibration_of_another_model_or_run_is_refused_at_compile():
    def loop(model, seed):
        with torch.no_grad():
            list(dit_calls(model, 4))

    calibration = rt.calibrate(dit(3), loop, steps=4, samples=1)
    method, model = SmoothCache(calibration), dit(3)
    with pytest.raises(ValueError, match="it is of 4 steps, the run has 5; calibrate for this"):
        rt.compile(model, method, steps=5)
    with pytest.raises(ValueError, match="evaluation 1 was at timestep 666, in the run it is at 5"):
        rt.compile(model, method, steps=4, timesteps=(999, 500, 100, 0))
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="calibration of SmoothCache is of a model of other weig"):
        rt.compile(model, method, steps=4)
    with pytest.raises(ValueError, match="it is of 6 branches attn-0 .. mlp-2, the model has 8"):
        SmoothCache(calibration).schedule(4, tuple(f"b{k}" for k in range(8)))
