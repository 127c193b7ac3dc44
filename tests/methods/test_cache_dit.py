"""DBCache against cache-dit's own program on Flux, DiT and Wan: decisions, and every output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from cache_dit_runs import Case, Ran, ours, theirs

from l2c_rt.methods import DBCache

pytestmark = pytest.mark.usefixtures("shared_probes")
TWO_IN_THREE = {
    "Fn_compute_blocks": 1, "Bn_compute_blocks": 2, "residual_diff_threshold": 0.3,
    "max_warmup_steps": 4, "max_continuous_cached_steps": 2,
}  # fmt: skip
ONE = {"Fn_compute_blocks": 1, "residual_diff_threshold": 0.3, "max_warmup_steps": 2}
SHARED = {**ONE, "residual_diff_threshold": 0.085, "cfg_diff_compute_separate": False}
MASK = [1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1] + [0] * 14 + [1]
CASES: dict[str, tuple[Case, str]] = {
    # case, and its decisions: 1 where all is computed
    "refreshed once": (
        Case("flux", {**ONE, "force_refresh_step_hint": 10}), "1100000001110000000000100000"
    ),
    "refreshed again and again": (
        Case("flux", {**ONE, "force_refresh_step_hint": 7, "max_cached_steps": 4,
                      "force_refresh_step_policy": "repeat"}),
        "1100001110000111000011100001",
    ),
    "refreshed under a mask": (
        Case("flux", {**ONE, "steps_computation_mask": MASK, "steps_computation_policy": "static",
                      "force_refresh_step_hint": 11}),
        "1110100100011101001000010000",
    ),
    "differences begin anew": (
        Case("flux", {**TWO_IN_THREE, "Bn_compute_blocks": 0, "force_refresh_step_hint": 13},
             {"taylorseer_order": 2}),
        "1111001001001111100100100100",
    ),
    "no limit of zero": (
        Case("flux", {**ONE, "max_accumulated_residual_diff_threshold": 0.0}),
        "1100000001000000000100000000",
    ),
    **{
        f"{stream} alone is predicted, {kind}": (
            Case("flux", TWO_IN_THREE, {off: False, "calibrator_cache_type": kind}),
            "1111001001001001001001001001",
        )
        for stream, off in (("image", "enable_encoder_calibrator"), ("text", "enable_calibrator"))
        for kind in ("residual", "hidden_states")
    },
    "nothing is predicted": (
        Case("dit", TWO_IN_THREE, {"enable_calibrator": False}), "11110010010010010010"
    ),
    "along what was used": (
        Case("flux", {**TWO_IN_THREE, "max_continuous_cached_steps": 5},
             {"calibrator_type": "foca"}),
        "1111000001000001000001000001",
    ),
    "along what was used, of two outputs of which one is new": (
        Case("flux", {**TWO_IN_THREE, "max_continuous_cached_steps": 1},
             {"calibrator_type": "foca", "calibrator_cache_type": "hidden_states"}),
        "1111010101010101010101010101",
    ),
    "along what was used, with one output alone, twice": (
        Case("flux", {**TWO_IN_THREE, "max_continuous_cached_steps": 3, "max_warmup_steps": 1,
                      "force_refresh_step_hint": 11}, {"calibrator_type": "foca"}),
        "1000100010010001000100010001",
    ),
    "along what was used, of the image": (
        Case("flux", {**TWO_IN_THREE, "max_continuous_cached_steps": 3},
             {"calibrator_type": "foca", "enable_encoder_calibrator": False}),
        "1111000100010001000100010001",
    ),
    "along modes, and before there are any": (
        Case("flux", {**TWO_IN_THREE, "max_warmup_steps": 5, "max_continuous_cached_steps": 1},
             {"calibrator_type": "dmd", "dmd_history": 5}),
        "1111101010101010101010101010",
    ),
    "along two modes of what the blocks give": (
        Case("flux", {**TWO_IN_THREE, "max_warmup_steps": 5, "max_continuous_cached_steps": 3},
             {"calibrator_type": "dmd", "dmd_rank": 2, "calibrator_cache_type": "hidden_states",
              "enable_encoder_calibrator": False}),
        "1111100010001000100010001000",
    ),
    "along modes of each call, anew": (
        Case("wan", {**TWO_IN_THREE, "max_warmup_steps": 5, "force_refresh_step_hint": 20,
                     "Bn_compute_blocks": 1},
             {"calibrator_type": "dmd", "dmd_ridge": 0.01, "dmd_svd_precision": "high"}),
        "1111111111000011000011111111110000110000",
    ),
    "along what each call has used": (
        Case("wan", {**TWO_IN_THREE, "max_continuous_cached_steps": 4, "max_warmup_steps": 3,
                     "Bn_compute_blocks": 1}, {"calibrator_type": "foca"}),
        "1111110000000011000000001100000000110000",
    ),
    "refreshed between the calls of two steps": (
        Case("wan", {**ONE, "residual_diff_threshold": 0.2, "force_refresh_step_hint": 20}),
        "1111000000000000000011110000000000000000",
    ),
    "refreshed between the calls of one step": (
        Case("wan", {**ONE, "residual_diff_threshold": 0.2, "force_refresh_step_hint": 9,
                     "force_refresh_step_policy": "repeat"}),
        "1111000001111000001111000001111000001111",
    ),
    "a metric of the call before, which is of another step": (
        Case("wan", {**SHARED, "force_refresh_step_hint": 9}),
        "1111000001111000000110000001100000011001",
    ),
    "uncond first, which has no metric to share": (
        Case("wan", {**SHARED, "cfg_compute_first": True, "force_refresh_step_hint": 15}),
        "1111000000000111111000000100001100000001",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@cache
def of_ours(name: str) -> Ran:
    return ours(CASES[name][0])


def worst(outputs: Ran, expected: Ran) -> float:
    pairs = zip(outputs.outputs, expected.outputs, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("name", CASES)
def test_what_cache_dit_computed_is_computed(name: str) -> None:
    assert "".join(str(int(c)) for c in of_ours(name).computed) == CASES[name][1]


@pytest.mark.parametrize("name", CASES)
def test_decisions_and_outputs_are_those_of_the_installed_cache_dit(name: str) -> None:
    pytest.importorskip("cache_dit")
    published = theirs(CASES[name][0])
    assert of_ours(name).computed == published.computed
    assert worst(of_ours(name), published) < 1e-5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("refreshed once", {"force_refresh_step_hint": 11}),
        ("refreshed again and again", {"force_refresh_step_policy": "once"}),
        ("a metric of the call before, which is of another step",
         {"cfg_diff_compute_separate": True}),
        ("uncond first, which has no metric to share", {"cfg_compute_first": False}),
    ],
)  # fmt: skip
def test_each_option_decides(name: str, options: dict[str, Any]) -> None:
    case = CASES[name][0]
    other = replace(case, options={**case.options, **options})
    assert ours(other).computed != of_ours(name).computed


def test_a_threshold_may_be_a_tensor() -> None:
    assert DBCache(1, 0, torch.tensor(0.25)) == DBCache(1, 0, 0.25)  # type: ignore[arg-type]


def test_which_streams_are_predicted_shows_in_the_outputs() -> None:
    names = [f"{stream} alone is predicted, residual" for stream in ("image", "text")]
    both = ours(Case("flux", TWO_IN_THREE, {"taylorseer_order": 1}))
    none = ours(Case("flux", TWO_IN_THREE))
    runs = [*map(of_ours, names), both, none]
    for i, run in enumerate(runs):
        assert all(worst(run, other) > 1e-4 for other in runs[:i])
