"""The published U-ViT runs in the delta form: the published latents, in our loop and in theirs."""

from __future__ import annotations

import pytest
import torch
from ladder_cases import PRESETS, published_loop
from published_outputs import Golden, relative
from three_backends import compiled, every_backend

from l2c_rt import presets

DELTAS = {"uvit-dpm-20": 6, "uvit-dpm-50": 24}
"""Published runs, and how many of their evaluations are in the delta form."""


@every_backend
@pytest.mark.parametrize("name", DELTAS)
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
