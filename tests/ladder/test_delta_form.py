"""U-ViT in the delta form: the published runs give the published latents, in our loop and theirs,
and random ones, some of their branches predicted, what the ordinary form gives."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from ladder_cases import PRESETS, published_loop
from published_outputs import Golden, relative
from three_backends import BACKENDS, compiled, every_backend
from toys import count_branches, drive, noise, toy_uvit

from l2c_rt import presets
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions

DELTAS = {"uvit-dpm-20": 6, "uvit-dpm-50": 24}
"""Published runs, and how many of their evaluations are in the delta form."""


# Every run and every backend; `sample` does each of one with each of the other.
@pytest.mark.parametrize(
    ("name", "backend"),
    [*product(("uvit-dpm-20",), BACKENDS), ("uvit-dpm-50", "cuda")],
)
def test_the_published_loop_gives_the_published_latents_and_predictions(
    name: str, backend: str
) -> None:
    golden, preset = Golden.load(name), presets.load(PRESETS[name])
    fast = compiled(backend, golden.model(), preset, calls_per_step=golden.lanes, delta_form=True)
    assert fast.summary().delta_evaluations == DELTAS[name]
    predictions: list[torch.Tensor] = []
    assert relative(published_loop(golden, fast, predictions), golden.cached) < 1e-4
    for step, prediction in enumerate(predictions):
        assert relative(prediction, golden.cached_predictions[step]) < 1e-4, step


@every_backend
@pytest.mark.parametrize("name", DELTAS)
def test_sample_gives_the_published_latents_again_and_again_after_a_run_that_was_left(
    name: str, backend: str
) -> None:
    golden, preset = Golden.load(name), presets.load(PRESETS[name])
    fast = compiled(backend, golden.model(), preset, delta_form=True)
    options = {"cfg_scale": golden.guidance}
    latents = fast.sample(golden.noise, golden.labels, **options)
    assert relative(latents, golden.cached) < 1e-4
    assert relative(latents, golden.full) > 1e-2

    def leave(step: int, latents: torch.Tensor) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fast.sample(-golden.noise, golden.labels, callback=leave, **options)
    fast.poison()
    assert torch.equal(fast.sample(golden.noise, golden.labels, **options), latents)


def random_schedule(seed: int, branches: int) -> CacheSchedule:
    """Twelve evaluations.  Each third computes everything, the two after it reuse much, and
    of that the second of them predicts some, for every other seed by half as much in a second
    lane."""
    random = np.random.default_rng(seed)
    compute = random.random((12, branches)) >= (0.95, 0.9, 0.8)[seed % 3]
    compute[::3] = True
    terms = {
        (s, k): [(s - 1, 1.5), (int(random.integers(s - 1)), -0.5)]
        for s, k in np.argwhere(~compute).tolist()
        if s % 3 == 2 and random.random() < 0.3
    }
    one = Predictions.from_terms(12, branches, terms)
    two = replace(one, coefficients=np.concatenate([one.coefficients, 0.5 * one.coefficients]))
    return CacheSchedule(compute, predictions=two if seed % 2 else one)


@every_backend
@pytest.mark.parametrize("seed", range(6))
def test_random_runs_of_which_some_is_predicted_are_those_of_the_ordinary_form(
    seed: int, backend: str
) -> None:
    """Each share of reuse with and without layers after the last linear, which end a run in
    another kernel."""
    conv = seed < 3
    model = toy_uvit(depth=4, conv=conv)
    schedule = random_schedule(seed, count_branches(model))
    plain, fast = (
        compiled(name, model, schedule, delta_form=form)
        for name, form in (("reference", False), (backend, True))
    )
    assert fast.summary().delta_evaluations > 0
    for got, expected in zip(drive(fast, 12), drive(plain, 12), strict=True):
        assert relative(got, expected) < 1e-6
    latents, expected = (f.sample(noise(), [1, 7], cfg_scale=1.5) for f in (fast, plain))
    assert relative(latents, expected) < 1e-5
