"""EOC: its prior, the known correction against a stored run, and the judgement, which is ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from method_goldens import dit_28, dit_outputs, golden, worst_evaluation
from small_diffusers import ddim_timesteps
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.adapters import describe
from l2c_rt.adapters.own.describe import own_instead
from l2c_rt.calibration.recorder import Recorder
from l2c_rt.calibration.runs import Runs
from l2c_rt.correctors import EOC
from l2c_rt.methods import FORA


def test_the_prior_is_the_mean_output_with_a_condition_and_eoc_follows_its_trend():
    """The stored run is a naive one; its trends are those of evaluations 1, 3, ... 9."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    calibration = rt.calibrate(
        dit_28(), steps=20, noise=noise.expand(10, -1, -1, -1).contiguous(),
        labels=list(range(10)), cfg_scale=4.0, prior=True,
    )  # fmt: skip
    arrays, corrector = golden("static-methods", "eoc_fora_ddim20"), EOC(calibration)
    for n, trend in zip((1, 3, 5, 7, 9), arrays["trend_sums"], strict=True):
        sums = np.stack([corrector.trend(n, k).sum(axis=0) for k in range(56)])
        np.testing.assert_allclose(sums[:, ::8], trend.numpy(), rtol=1e-3, atol=1e-4)
    schedule = rt.CacheSchedule(arrays["computed"].numpy().astype(bool))
    for backend in ("reference", "fused"):
        fast = rt.compile(
            dit_28(), schedule, corrector=corrector, timesteps=ddim_timesteps(20), backend=backend
        )
        with torch.no_grad():
            outputs = dit_outputs(fast, arrays, 20)
        assert worst_evaluation(outputs, arrays["outputs"]) < 1e-5
    with torch.no_grad():
        plain = dit_outputs(rt.compile(dit_28(), schedule), arrays, 20)
    assert worst_evaluation(plain, arrays["outputs"]) > 1e-4


def test_a_judgement_is_where_the_correction_lowers_the_error_of_held_out_runs():
    model = toy_dit()
    calibration = rt.calibrate(model, steps=6, samples=6, prior=True, held_out=3)
    corrects = calibration.corrects
    assert not corrects[0].any()
    assert 0 < corrects[1:].mean() < 1
    schedule = FORA(2).schedule(6, calibration.branches)
    judged, every = (EOC(calibration, judged=j).predictions(schedule) for j in (True, False))
    reused = ~schedule.compute
    assert ((every.sources >= 0).any(axis=2) == reused).all()
    assert ((judged.sources >= 0).any(axis=2) == (reused & corrects)).all()


def test_a_judgement_can_be_told_from_its_opposite():
    """The correction of the judged cells is nearer to the run's own outputs, by its definition."""
    calibration = rt.calibrate(toy_dit(), steps=5, samples=4, prior=True, held_out=2)
    corrector, seen = EOC(calibration), Judged()
    runs = Runs(own_instead(describe(toy_dit()), "test"), 5)
    runs.over(Recorder(runs.bound_model, [seen]), 2, 4)
    for n in range(1, 5):
        for k in range(len(calibration.branches)):
            kept, now = seen.outputs[n - 1, k], seen.outputs[n, k]
            corrected = kept * (1 + 0.01 * torch.from_numpy(corrector.trend(n, k)))
            better = (corrected - now).norm() < (kept - now).norm()
            assert bool(better) == bool(calibration.corrects[n, k]), (n, k)


class Judged:
    def __init__(self):
        self.outputs = {}

    def see(self, seen):
        self.outputs[seen.place.step, seen.call[0]] = seen.outputs[0].clone()

    def end_evaluation(self, place):
        pass


def test_what_judges_without_a_prior_is_refused():
    with pytest.raises(ValueError, match="give prior=True with them"):
        rt.calibrate(toy_dit(), steps=4, held_out=2)
    plain = rt.calibrate(toy_dit(), steps=4, samples=1)
    with pytest.raises(ValueError, match="has no prior; calibrate with"):
        EOC(plain)
    with pytest.raises(ValueError, match="no judgement; calibrate with held-out"):
        EOC(rt.calibrate(toy_dit(), steps=4, samples=1, prior=True), judged=True)
