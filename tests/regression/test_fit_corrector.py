"""fit_corrector: against a naive fit, in the user's own loop, resumed, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_outputs import relative
from small_models import run_loop, times, two_stream_model
from toys import toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.policies.static import EveryN
from l2c_rt.regression import fit_corrector as fit_module
from l2c_rt.regression.checkpoint import Checkpoint
from l2c_rt.regression.fits import Fits
from l2c_rt.regression.grams import gram_of

STEPS = 8
OPTIONS = {"steps": STEPS, "runs": 2, "batch_size": 2, "progress": False}


def own_loop(model, seed):
    with torch.no_grad():
        return torch.stack(run_loop(model, STEPS))


@pytest.mark.parametrize(("toy", "share"), [(toy_dit, 0.9), (toy_uvit, 1.0)])
def test_a_fit_is_never_farther_from_the_full_run_than_plain_reuse(toy, share):
    model = toy()
    fit = rt.fit_corrector(model, EveryN(4), **OPTIONS)
    loop = rt.compile(model, fit.fit).bound_model.sampling
    noise = torch.randn(
        (2, loop.channels, loop.size, loop.size), generator=torch.Generator().manual_seed(9)
    )
    full, plain, fitted = (
        rt.compile(model, policy, steps=STEPS, **options).sample(noise, [1, 2])
        for policy, options in ((EveryN(1), {}), (EveryN(4), {}), (EveryN(4), {"corrector": fit}))
    )
    assert relative(fitted, full) <= share * relative(plain, full)


def test_what_is_fitted_are_values_along_the_cached_trajectory_as_they_were_used():
    odd_reused = np.repeat(np.arange(STEPS)[:, None] % 2 == 0, 6, axis=1)
    fit = rt.fit_corrector(toy_dit(), rt.CacheSchedule(odd_reused), history=2, **OPTIONS).fit
    sources = fit.predictions.sources
    assert set(sources[3][sources[3] >= 0]) == {1, 2}
    assert set(sources[5][sources[5] >= 0]) == {3, 4}
    assert (sources[fit.compute] == -1).all()
    assert fit.sampler == "ddim"
    assert len(fit.timesteps) == STEPS


@pytest.mark.parametrize("granularity", ["branch", "block"])
def test_a_loop_of_the_users_own_is_fitted(granularity):
    model = two_stream_model()
    fit = rt.fit_corrector(model, EveryN(4), own_loop, granularity=granularity, **OPTIONS)
    assert (fit.fit.predictions.sources >= 0).any()
    options = {"steps": STEPS, "granularity": granularity, "timesteps": times(STEPS)}
    full, plain, fitted = (
        own_loop(rt.compile(model, EveryN(n), corrector=corrector, **options), 0)
        for n, corrector in ((1, None), (4, None), (4, fit))
    )
    assert relative(fitted, full) < relative(plain, full)


def first_of(_: Any, candidates: Any, *__: Any) -> rt.CacheSchedule:
    """In the place of whole runs: the first fit, lane by lane."""
    return candidates[0]


def test_lanes_are_fitted_each_by_itself_kept_in_a_file_and_run(tmp_path, monkeypatch):
    monkeypatch.setattr("l2c_rt.regression.fit_corrector.judged", first_of)
    model, path = toy_dit(), tmp_path / "fit.safetensors"
    fit = rt.fit_corrector(model, EveryN(4), lanes=True, out=path, **OPTIONS)
    predictions = fit.fit.predictions
    assert predictions.lanes == 2
    first, second = predictions.coefficients
    assert np.abs(first - second).max() > 1e-3
    assert rt.correctors.Fitted.load(path) == fit
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    swapped = replace(predictions, coefficients=predictions.coefficients[::-1])
    fitted, again, other = (
        rt.compile(model, schedule, corrector=corrector).sample(noise, [1, 2])
        for schedule, corrector in (
            (fit.fit, None),
            (rt.CacheSchedule(fit.fit.compute), fit),
            (replace(fit.fit, predictions=swapped), None),
        )
    )
    assert torch.equal(fitted, again)
    assert relative(fitted, other) > 1e-4


def test_each_lane_has_the_coefficients_of_its_own_least_squares():
    compute = np.array([[True], [True], [True], [False]])
    fits, cell = Fits(compute, 2, 2, 0.0, lanes=2), (3, 0)
    generator = torch.Generator().manual_seed(0)
    for fold in range(2):
        newest, older = torch.randn(2, 100, generator=generator)
        for lane, value in enumerate((2 * newest - older, 0.5 * newest)):
            fits.add(cell, lane, fold, gram_of([[newest], [older]], [value]))
    for lane, wanted in enumerate(([2.0, -1.0], [0.5, 0.0])):
        numbers = [term.coefficient for term in fits.predictions().at(3, 0, lane)]
        np.testing.assert_allclose(numbers, wanted, atol=1e-3)
    shared = [term.coefficient for term in fits.shared().predictions().at(3, 0)]
    np.testing.assert_allclose(shared, [1.25, -0.5], atol=0.05)


def test_lanes_that_no_call_has_shown_are_one(monkeypatch):
    """A model that is not guided fits as it does without lanes."""
    options = OPTIONS | {"cfg_scale": 1.0}
    monkeypatch.setattr("l2c_rt.regression.fit_corrector.judged", first_of)
    fits = [rt.fit_corrector(toy_dit(), EveryN(2), lanes=lanes, **options).fit
            for lanes in (True, False)]  # fmt: skip
    assert fits[0] == fits[1]


def test_lanes_are_taken_only_where_a_held_out_run_ends_nearer(monkeypatch):
    candidates = []
    judge = fit_module.judged

    def watched(calibration: Any, fits: Any, *rest: Any) -> rt.CacheSchedule:
        candidates.extend(fits)
        return judge(calibration, fits, *rest)

    monkeypatch.setattr("l2c_rt.regression.fit_corrector.judged", watched)
    rt.fit_corrector(toy_dit(), EveryN(4), lanes=True, **OPTIONS)
    assert [fit.predictions.lanes for fit in candidates] == [2, 2, 1, 1]


def test_the_header_of_a_file_says_how_many_lanes_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr("l2c_rt.regression.fit_corrector.judged", first_of)
    path = tmp_path / "fit.safetensors"
    for lanes, version in ((False, b'"version":"1"'), (True, b'"version":"2"')):
        rt.fit_corrector(toy_dit(), EveryN(2), lanes=lanes, **OPTIONS).save(path)
        assert version in path.read_bytes()
    content = path.read_bytes()
    for old, new in ((b'"lanes":"2"', b'"lanes":"3"'), (b'"version":"2"', b'"version":"1"')):
        path.write_bytes(content.replace(old, new))
        with pytest.raises(ValueError, match=r"fit\.safetensors: header field lanes"):
            rt.correctors.Fitted.load(path)


def test_a_fit_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    whole = rt.fit_corrector(toy_dit(), EveryN(2), **OPTIONS | {"runs": 3})
    out, save = tmp_path / "fit.safetensors", Checkpoint.save

    def save_and_stop(self, fits, done, timesteps):
        save(self, fits, done, timesteps)
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        rt.fit_corrector(toy_dit(), EveryN(2), out=out, **OPTIONS | {"runs": 3})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"begun with .*history.* now it is"):
        rt.fit_corrector(toy_dit(), EveryN(2), out=out, resume=True, history=2, **OPTIONS)
    resumed = rt.fit_corrector(toy_dit(), EveryN(2), out=out, resume=True, **OPTIONS | {"runs": 3})
    assert resumed.fit == whole.fit
    assert rt.correctors.Fitted.load(out).fit == whole.fit
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_fit_of_another_model_run_or_schedule_is_refused_at_compile():
    model = toy_dit()
    fit = rt.fit_corrector(model, EveryN(2), **OPTIONS)
    with pytest.raises(ValueError, match="it is of 8 steps, the run has 6; fit anew"):
        rt.compile(model, EveryN(2), steps=6, corrector=fit)
    with pytest.raises(ValueError, match=r"it is of another schedule, 37\.5% reused"):
        rt.compile(model, EveryN(4), steps=STEPS, corrector=fit)
    ddpm = rt.CacheSchedule(fit.fit.compute, fit.fit.branches, sampler="ddpm")
    with pytest.raises(ValueError, match="for the sampler ddim, the schedule for ddpm"):
        rt.compile(model, ddpm, corrector=fit)
    moved = rt.CacheSchedule(fit.fit.compute, timesteps=times(STEPS))
    with pytest.raises(ValueError, match="fitted at other timesteps"):
        rt.compile(model, moved, corrector=fit)
    with pytest.raises(ValueError, match="made for timestep .* at evaluation 0, timesteps= has"):
        rt.compile(model, fit.fit, timesteps=times(STEPS))
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="Fitted is of a model of other weights; fit anew"):
        rt.compile(model, EveryN(2), steps=STEPS, corrector=fit)
    with pytest.raises(ValueError, match="other weights.*its predictions were fitted there"):
        rt.compile(model, fit.fit)


def test_a_damaged_file_is_refused(tmp_path: Path):
    path = tmp_path / "fit.safetensors"
    rt.fit_corrector(toy_dit(), EveryN(2), **OPTIONS).save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"fit\.safetensors: the digest does not match"):
        rt.correctors.Fitted.load(path)
    rt.calibrate(toy_dit(), steps=4, samples=1, out=path)
    with pytest.raises(ValueError, match=r"format 'l2c_rt\.calibration'"):
        rt.correctors.Fitted.load(path)


@pytest.mark.parametrize("name", ["history", "runs", "batch_size", "calls_per_step"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"fit_corrector: {name} is 0"):
        rt.fit_corrector(toy_dit(), EveryN(2), **OPTIONS | {name: 0})


def test_lanes_are_a_yes_or_no_and_few():
    with pytest.raises(ValueError, match="lanes is 2, wanted True or False"):
        rt.fit_corrector(toy_dit(), EveryN(2), lanes=2, **OPTIONS)
    with pytest.raises(ValueError, match="9 calls per step are more than 8 lanes"):
        rt.fit_corrector(toy_dit(), EveryN(2), own_loop, lanes=True, calls_per_step=9, **OPTIONS)


def test_a_schedule_of_nothing_reused_has_nothing_to_fit():
    fit = rt.fit_corrector(toy_dit(), EveryN(1), **OPTIONS)
    assert not np.any(fit.fit.predictions.sources >= 0)
