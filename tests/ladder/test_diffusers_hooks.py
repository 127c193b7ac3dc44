"""Methods against the cache hooks of the installed diffusers, evaluation by evaluation."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
from diffusers_hooks import hooked
from published_cases import HOOK_CASES, case, factory, outputs_of, with_ratios
from published_outputs import relative
from small_diffusers import SMALL, shared
from torch import Tensor

from l2c_rt.methods.mag_cache import PUBLISHED

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),
    pytest.mark.usefixtures("shared_probes"),
]


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def worst(outputs: list[Tensor], expected: list[Tensor]) -> float:
    return max(relative(a, b) for a, b in zip(outputs, expected, strict=True))


@cache
def of_diffusers(name: str) -> list[Tensor]:
    return outputs_of(HOOK_CASES[name], hooked)


@cache
def uncached(model: str, steps: int) -> list[Tensor]:
    return list(SMALL[model][1](shared(model), steps))


@pytest.mark.parametrize("name", HOOK_CASES)
def test_every_evaluation_is_that_of_diffusers_hook(name: str) -> None:
    published = HOOK_CASES[name]
    outputs = outputs_of(published, factory, changes=False)
    assert worst(outputs, of_diffusers(name)) < 1e-5
    # Or it would show nothing; the default threshold is one that nothing passes.
    changed = worst(outputs, uncached(published["model"], published["steps"])) > 1e-4
    assert changed == (name != "fbc_flux_default")


OTHER = [
    ("mag_flux_default", {"threshold": 0.05}),
    ("mag_flux_default", {"max_skip_steps": 2}),
    ("mag_flux_default", {"retention_ratio": 0.3}),
    ("taylor_flux_default", {"max_order": 2}),
    ("taylor_flux_default", {"disable_cache_before_step": 4}),
    ("taylor_flux_default", {"taylor_factors_dtype": "float32"}),
    ("taylor_flux_default", {"taylor_factors_dtype": "float16"}),
    ("taylor_flux_skip", {"skip_predict_identifiers": None}),
    ("pab_flux_named", {"spatial_attention_block_identifiers": None}),
    ("faster_flux_named", {"spatial_attention_block_identifiers": None}),
]


@pytest.mark.parametrize(("name", "options"), OTHER)
def test_another_option_is_another_run(name: str, options: dict[str, Any]) -> None:
    published = HOOK_CASES[name]
    other = {**published, "cfg": {**published["cfg"], **options}}
    assert worst(outputs_of(other, factory, changes=False), of_diffusers(name)) > 1e-5


def test_the_shipped_ratios_are_those_of_diffusers() -> None:
    assert list(PUBLISHED["flux"]) == pytest.approx(FLUX_MAG_RATIOS.tolist(), abs=1e-7)


@pytest.mark.parametrize("model", ["flux", "wan"])
def test_calibrated_ratios_are_those_of_diffusers(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrates = case("mag", model, 12, calibrate=True, num_inference_steps=12)
    outputs_of(calibrates, hooked)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[1.0")]
    ratios = with_ratios(calibrates, SMALL[model][0]())["cfg"]["ratios"]
    np.testing.assert_allclose(ratios, ast.literal_eval(printed[0]), rtol=1e-5)
