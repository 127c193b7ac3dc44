"""The ladder of equalities, on a CPU: the original model, a naive oracle, the published programs.

1. an all-compute run equals the original model bitwise;
2. the reference backend equals the oracle bitwise;
3. the fused backend equals the reference within twice its error against float64;
5. the published routers give the published programs' outputs.
"""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from ladder_cases import PRESETS, VARIANTS, published_loop, variant
from oracle import Oracle
from published_outputs import NAMES, Golden, relative
from three_backends import BACKENDS, compiled, every_backend
from toys import call_inputs, count_branches, drive, noise, random_schedule

from l2c_rt import presets
from l2c_rt.api import compile
from l2c_rt.policies import Full
from l2c_rt.schedule.cache_schedule import CacheSchedule


@pytest.mark.parametrize("name", VARIANTS)
def test_rung_1_computing_everything_is_bitwise_the_original_model(name: str) -> None:
    model = variant(name)
    fast = compile(model, Full(), steps=6, backend="reference")
    for got, want in zip(drive(fast, 6), drive(model, 6), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", VARIANTS)
def test_rung_2_the_reference_is_bitwise_the_naive_oracle(name: str, dtype: torch.dtype) -> None:
    model = variant(name).to(dtype)
    schedule = random_schedule(8, count_branches(model), seed=3)
    fast = compile(model, schedule, backend="reference")
    oracle = Oracle(model, schedule.compute)
    for step in range(8):
        x, t, y = call_inputs(step)
        x = x.to(dtype)
        with torch.no_grad():
            want = oracle(x, t, y)
        assert torch.equal(fast(x, t, y), want), step


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("fused", torch.float32), ("cuda", torch.float32), ("cuda", torch.bfloat16)],
)
@pytest.mark.parametrize("name", VARIANTS)
def test_rung_3_the_fused_error_is_at_most_twice_the_references(
    name: str, backend: str, dtype: torch.dtype
) -> None:
    model = variant(name).to(dtype)
    schedule = random_schedule(10, count_branches(model), seed=5)
    fused, reference = (compiled(b, model, schedule) for b in (backend, "reference"))
    oracle = Oracle(copy.deepcopy(model).double(), schedule.compute)
    slack = 1e-6 if dtype == torch.float32 else 2e-2
    for step in range(10):
        x, t, y = call_inputs(step)
        x = x.to(dtype)
        with torch.no_grad():
            truth = oracle(x.double(), t, y)
        errors = [(f(x, t, y) - truth).abs().max().item() for f in (fused, reference)]
        assert errors[0] <= 2 * errors[1] + slack, step


@pytest.mark.parametrize("backend", ["fused", "cuda"])
@pytest.mark.parametrize("scale", [0.0, 2.5])
@pytest.mark.parametrize("name", VARIANTS)
def test_rung_3_a_whole_run_is_the_references(name: str, scale: float, backend: str) -> None:
    model = variant(name)
    schedule = random_schedule(8, count_branches(model), seed=3)
    fused, reference = (compiled(b, model, schedule) for b in (backend, "reference"))
    for seed in range(2):
        latents, expected = (
            f.sample(noise(seed), [1, 7], cfg_scale=scale) for f in (fused, reference)
        )
        assert relative(latents, expected) < 1e-5


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden.load(request.param)


@pytest.fixture(scope="module")
def preset(golden: Golden) -> CacheSchedule:
    name = next(n for n in NAMES if Golden.load(n).router == golden.router)
    return presets.load(PRESETS[name])


# Every run and every backend; `sample` does each of one with each of the other.
@pytest.mark.parametrize(
    ("golden", "backend"),
    [*product(("dit-ddim-20", "uvit-dpm-20"), BACKENDS), ("dit-ddim-50", "fused"),
     ("uvit-dpm-50", "cuda")],
    indirect=["golden"],
)  # fmt: skip
def test_rung_5_the_published_loop_with_our_call_dropped_in_gives_the_published_latents(
    golden: Golden, preset: CacheSchedule, backend: str
) -> None:
    fast = compiled(backend, golden.model(), preset, calls_per_step=golden.lanes)
    predictions: list[torch.Tensor] = []
    assert relative(published_loop(golden, fast, predictions), golden.cached) < 1e-4
    for step, prediction in enumerate(predictions):
        assert relative(prediction, golden.cached_predictions[step]) < 1e-4, step


@every_backend
def test_rung_5_sample_gives_the_published_latents(
    golden: Golden, preset: CacheSchedule, backend: str
) -> None:
    fast = compiled(backend, golden.model(), preset)
    latents = fast.sample(golden.noise, golden.labels, cfg_scale=golden.guidance)
    assert relative(latents, golden.cached) < 1e-4
    assert relative(latents, golden.full) > 1e-2


def test_rung_5_sample_computes_branch_for_branch_what_the_published_program_computed(
    golden: Golden, preset: CacheSchedule
) -> None:
    """Final latents hardly move with one wrong branch near the clean end; this table does."""
    model = golden.model()
    fast = compile(model, preset, backend="reference")
    ran: list[str] = []
    blocks = model.blocks if golden.family == "dit" else [
        *model.in_blocks, model.mid_block, *model.out_blocks
    ]  # fmt: skip
    for i, block in enumerate(blocks):
        for kind in ("attn", "mlp"):
            module = getattr(block, kind)
            module.register_forward_hook(lambda *_, at=f"{kind}-{i}": ran.append(at))
    computed = torch.zeros(preset.compute.shape, dtype=torch.bool)

    def note(step: int, _latents: torch.Tensor) -> None:
        for name in ran:
            computed[step, preset.branches.index(name)] = True
        ran.clear()

    fast.sample(golden.noise, golden.labels, cfg_scale=golden.guidance, callback=note)
    assert (computed.numpy() == golden.compute).all()


# The oracle has done the full runs of 50 steps, and rung 1 holds for any number.
@every_backend
@pytest.mark.parametrize("name", ["dit-ddim-20", "uvit-dpm-20"])
def test_rung_5_without_a_cache_the_published_uncached_latents_come_out(
    name: str, backend: str
) -> None:
    golden = Golden.load(name)
    fast = compiled(backend, golden.model(), Full(), steps=golden.steps)
    latents = fast.sample(golden.noise, golden.labels, cfg_scale=golden.guidance)
    assert relative(latents, golden.full) < 1e-4


def test_the_presets_compute_what_the_published_program_computed(
    golden: Golden, preset: CacheSchedule
) -> None:
    assert (preset.compute == golden.compute).all()
