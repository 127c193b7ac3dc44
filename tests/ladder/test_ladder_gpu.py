"""The ladder of equalities on a GPU: `pytest -m gpu`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from gpu_runs import STEPS, drive, fresh, noise, on_gpu
from ladder_cases import PRESETS, VARIANTS, variant
from oracle import Oracle
from published_outputs import NAMES, Golden, relative
from three_backends import assert_same
from toys import count_branches, random_schedule, toy_dit, toy_uvit

from l2c_rt import presets
from l2c_rt.api import compile
from l2c_rt.policies import Full

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", VARIANTS)
def test_rung_3_the_fused_error_is_at_most_twice_the_references(
    name: str, dtype: torch.dtype
) -> None:
    model = variant(name).to(dtype).cuda()
    exact = copy.deepcopy(model).double()
    schedule = random_schedule(STEPS, count_branches(model), seed=5)
    backends = [compile(model, schedule, backend=b, tune=False) for b in ("fused", "reference")]
    oracle = Oracle(exact, schedule.compute)
    slack = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    for step in range(STEPS):
        x, t, y = on_gpu(step)
        x = x.to(dtype)
        with torch.no_grad():
            truth = oracle(x.double(), t, y)
        fused, reference = ((f(x, t, y) - truth).abs().max().item() for f in backends)
        assert fused <= 2 * reference + slack, step


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_rung_4_a_hundred_replays_over_poison_are_bitwise_the_kernels_one_by_one(
    make: Any, graph: str
) -> None:
    model = make()
    eager, replayed = fresh(model, graph="off"), fresh(model, graph=graph)
    want, calls = eager.sample(noise(), [1, 2]), drive(eager)
    assert not want.isnan().any()
    for run in range(100):
        replayed.poison()
        assert torch.equal(replayed.sample(noise(), [1, 2]), want), run
    for _ in range(10):
        replayed.poison()
        assert_same(drive(replayed), calls)


@pytest.mark.parametrize("name", NAMES)
def test_rung_5_the_published_outputs_in_float32(name: str) -> None:
    golden = Golden.load(name)
    preset = presets.load(PRESETS[next(n for n in NAMES if Golden.load(n).router == golden.router)])
    model = golden.model().cuda()
    fast = compile(model, preset, backend="fused", tune=False)
    start, labels = golden.noise.cuda(), golden.labels.cuda()
    got = fast.sample(start, labels, cfg_scale=golden.guidance).cpu()
    assert relative(got, golden.cached) < 1e-3
    full = compile(model, Full(), steps=golden.steps, backend="fused", tune=False)
    assert relative(full.sample(start, labels, golden.guidance).cpu(), golden.full) < 1e-3
