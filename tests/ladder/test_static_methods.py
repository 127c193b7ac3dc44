"""Static methods against the published programs' own outputs, evaluation by evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from method_goldens import as_rows, dit_28, dit_outputs, golden, worst_evaluation
from published_outputs import FOLDER
from safetensors.torch import load_file
from small_diffusers import SMALL, ddim_timesteps, dit, dit_calls

import l2c_rt as rt
from l2c_rt.methods import FORA, PAB, PlainEveryN, SmoothCache, StepsMask
from l2c_rt.methods.steps_mask import steps_mask

FILE = "static-methods"
BACKENDS = {
    "reference": {"backend": "reference"},
    "fused": {"backend": "fused"},
    "own": {"sites": ["blocks.*.attn", "blocks.*.mlp"]},
}
SMOOTH = golden(FILE, "smoothcache_ddim50")
ERRORS = {"attn": SMOOTH["errors"][0].numpy(), "mlp": SMOOTH["errors"][1].numpy()}
PAB_CASES = {
    "pab_flux": ("flux", PAB(2)),
    "pab_flux_window": ("flux", PAB(3, spatial_attention_timestep_skip_range=(200, 950))),
    "pab_wan": ("wan", PAB(2, None, 5, cross_attention_timestep_skip_range=(-1, 1001))),
    "pab_cogvideox": ("cogvideox", PAB(2)),
    "pab_dit": ("dit", PAB(3, spatial_attention_timestep_skip_range=(-1, 1001))),
}


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def worst_of_dit(case, method, **options):
    arrays = golden(FILE, case)
    steps = len(arrays["outputs"])
    fast = rt.compile(dit_28(), method, steps=steps, timesteps=ddim_timesteps(steps), **options)
    outputs = dit_outputs(fast, arrays, steps)
    return worst_evaluation(outputs, arrays["outputs"]), fast.schedule


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("case", "method"),
    [("fora_ddim20_n2", FORA(2)), ("smoothcache_ddim50", SmoothCache(ERRORS, 0.18, 3))],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_method_on_dit_is_its_published_program(case, method, backend):
    worst, schedule = worst_of_dit(case, method, **BACKENDS[backend])
    assert as_rows(schedule.compute) == golden(FILE, case)["computed"].tolist()
    assert worst < 1e-5


def test_a_counter_that_goes_up_is_not_fora():
    assert worst_of_dit("fora_ddim20_n2", PlainEveryN(2))[0] > 0.01


def test_a_threshold_that_is_not_reached_is_not_smoothcache():
    assert worst_of_dit("smoothcache_ddim50", SmoothCache(ERRORS, 0.16, 3))[0] > 1e-4


@pytest.mark.parametrize("case", PAB_CASES)
def test_pab_is_that_of_diffusers(case):
    """Wan's calls for cond and uncond share a counter and an output in diffusers, which is a loop
    of one call per step that has every timestep twice."""
    name, method = PAB_CASES[case]
    arrays = golden(FILE, case)
    make, calls, timesteps_of = SMALL[name]
    timesteps = [t for t in timesteps_of(20) for _ in range(2 if name == "wan" else 1)]
    fast = rt.compile(make(), method, steps=len(timesteps), timesteps=timesteps)
    attention = ["attn" in branch.kind for branch in fast.bound_model.program.branches]
    assert as_rows(fast.schedule.compute[:, attention]) == arrays["decisions"].tolist()
    assert worst_evaluation(list(calls(fast, 20)), arrays["outputs"]) < 1e-5


def test_pab_with_two_calls_per_step_keeps_an_output_of_each():
    make, calls, timesteps_of = SMALL["wan"]
    fast = rt.compile(make(), PAB(2), steps=20, timesteps=timesteps_of(20), calls_per_step=2)
    worst = worst_evaluation(list(calls(fast, 20)), golden(FILE, "pab_wan")["outputs"])
    assert worst > 1e-3
    assert not fast.schedule.compute.all()


def test_a_static_steps_mask_is_that_of_cache_dit():
    arrays = golden(FILE, "dit_SCM_static")
    fast = rt.compile(dit(12), StepsMask("medium", 1), steps=20, timesteps=ddim_timesteps(20))
    assert as_rows(fast.schedule.compute[:, 1]) == arrays["decisions"].tolist()
    assert worst_evaluation(list(dit_calls(fast, 20)), arrays["outputs"]) < 1e-5


def test_every_steps_mask_is_that_of_cache_dit():
    masks = {k: v for k, v in load_file(FOLDER / f"{FILE}.safetensors").items() if "mask_" in k}
    assert len(masks) == 56
    for key, mask in masks.items():
        _, name, steps = key.split("_")
        assert [int(m) for m in steps_mask(name, int(steps))] == mask.tolist(), key
