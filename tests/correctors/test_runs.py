"""Corrected runs: against a naive loop on every backend, and against the published programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from method_goldens import DitGolden, dit_28
from oracle import Oracle
from published_outputs import relative
from small_models import run_loop, times, two_stream_model
from taped_graphs import compile_taped
from three_backends import compiled, every_backend
from torch import Tensor, nn
from toys import count_branches, drive, noise, random_schedule, timesteps, toy_dit, toy_uvit

from l2c_rt.api import compile
from l2c_rt.correctors import Goc, HiCache, Taylor, corrected
from l2c_rt.policies.static import EveryN
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions

STEPS = 9
CORRECTORS = {"taylor": Taylor(2), "hicache": HiCache(3), "goc": Goc(0.8, None)}


class PredictingOracle(Oracle):
    """Keeps every value of every branch, and predicts as the definition says."""

    def __init__(self, model: nn.Module, schedule: CacheSchedule) -> None:
        self.predictions = schedule.predictions
        super().__init__(model, schedule.compute)

    def _branch(self, k: int, f: nn.Module, x: Tensor) -> Tensor:
        s = self.calls
        terms = self.predictions.at(s, k)
        if self.row[k]:
            value = f(x)
        elif terms:
            value = sum(c * self.kept[q, k].double() for q, c in terms)
            scale = self.predictions.scale.get((s, k), np.zeros(1))
            shift = self.predictions.shift.get((s, k), np.zeros(1))
            value = (value * (1 + torch.from_numpy(scale)) + torch.from_numpy(shift)).float()
        else:
            value = self.kept[s - 1, k]
        self.kept[s, k] = value
        return value


def assert_near_the_oracle(fast: Any, model: nn.Module, schedule: CacheSchedule) -> None:
    outputs = drive(fast, STEPS)
    expected = drive(PredictingOracle(model, schedule), STEPS)
    for step, (a, b) in enumerate(zip(outputs, expected, strict=True)):
        assert relative(a, b) < 2e-6, f"step {step}"


@every_backend
@pytest.mark.parametrize("name", CORRECTORS)
@pytest.mark.parametrize("toy", [toy_dit, toy_uvit])
def test_a_corrected_run_is_the_naive_one(toy: Any, name: str, backend: str) -> None:
    model = toy()
    plain = random_schedule(STEPS, count_branches(model), seed=3)
    schedule = corrected(plain, CORRECTORS[name])
    fast = compiled(backend, model, schedule, timesteps=timesteps(STEPS))
    assert_near_the_oracle(fast, model, schedule)


@every_backend
def test_tensors_of_a_corrector_scale_and_shift_the_sum(backend: str) -> None:
    model = toy_dit()
    plain = random_schedule(STEPS, count_branches(model), seed=3)
    random = np.random.default_rng(0)
    cells = [tuple(cell) for cell in np.argwhere(~plain.compute).tolist()]
    terms = {(s, k): [(s - 1, 1.0)] for s, k in cells}
    shapes = {0: (32,), 1: (16, 32)}
    scale = {c: 0.1 * random.normal(size=shapes[sum(c) % 2]).astype(np.float32) for c in cells}
    shift = {c: 0.1 * random.normal(size=32).astype(np.float32) for c in cells[::2]}
    predictions = Predictions.from_terms(*plain.compute.shape, terms, scale=scale, shift=shift)
    schedule = CacheSchedule(plain.compute, predictions=predictions)
    fast = compiled(backend, model, schedule, timesteps=timesteps(STEPS))
    assert_near_the_oracle(fast, model, schedule)


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("window", [1 << 30, 20_000])
@pytest.mark.parametrize("toy", [toy_dit, toy_uvit])
def test_whole_runs_on_a_gpu_take_each_evaluation_its_own_coefficients(
    toy: Any, window: int, graph: str
) -> None:
    """Also where tables hold a few evaluations at a time."""
    model = toy()
    steps = 10
    schedule = corrected(random_schedule(steps, count_branches(model), seed=3), Taylor(2))
    taped = compile_taped(model, schedule, graph=graph, table_bytes=window)
    reference = compile(model, schedule, backend="reference")
    labels = torch.arange(2)
    for seed in range(2):
        expected = reference.sample(noise(seed), labels)
        assert relative(taped.sample(noise(seed), labels), expected) < 1e-5


@pytest.mark.parametrize("granularity", ["branch", "block"])
def test_the_own_forward_predicts_outputs_of_several_tensors(granularity: str) -> None:
    """At order 1 and equal distances the two-term sum is 2 a - b of kept outputs or differences."""
    model = two_stream_model()
    options = {"granularity": granularity, "timesteps": times(STEPS)}
    every = EveryN(2)
    plain = compile(model, every, steps=STEPS, **options)
    flat = compile(model, every, steps=STEPS, corrector=Taylor(0), **options)
    predicted = compile(model, every, steps=STEPS, corrector=Taylor(1), **options)
    unmerged = compile(model, every, steps=STEPS, corrector=Taylor(1), merge=False, **options)
    outputs, again, other = (run_loop(fast, STEPS) for fast in (predicted, predicted, unmerged))
    for a, b, c, d, e in zip(
        outputs, again, other, run_loop(plain, STEPS), run_loop(flat, STEPS), strict=True
    ):
        assert torch.equal(a, b)
        assert relative(a, c) < 1e-5
        assert torch.equal(d, e)
    assert any(relative(a, d) > 1e-5 for a, d in zip(outputs, run_loop(plain, STEPS), strict=True))


def test_the_own_forward_of_a_dit_predicts_as_its_adapter_does() -> None:
    model = toy_dit()
    schedule = EveryN(3).schedule(
        STEPS, tuple(f"blocks.{b}.{p}" for b in range(3) for p in ("attn", "mlp"))
    )
    own = compile(model, schedule, corrector=Taylor(2), sites=["blocks.*.attn", "blocks.*.mlp"],
                  timesteps=timesteps(STEPS))  # fmt: skip
    ours = compile(model, EveryN(3), steps=STEPS, corrector=Taylor(2), backend="reference",
                   timesteps=timesteps(STEPS))  # fmt: skip
    for a, b in zip(drive(own, STEPS), drive(ours, STEPS), strict=True):
        assert torch.equal(a, b)


GOLDENS = {
    "taylorseer_ddim50_i4_o2": Taylor(2),
    "goc_fora_ddim20": Goc(),
    "goc_l2c_ddim20": Goc(0.8, pairs=True),
}
WRONG = {
    "taylorseer_ddim50_i4_o2": [Taylor(1), Taylor(3), HiCache(2), Taylor(0)],
    "goc_fora_ddim20": [Goc(0.8), Goc(1.2, (3, 5, 7)), Taylor(1)],
    "goc_l2c_ddim20": [Goc(0.8), Goc(1.2, pairs=True), Goc(0.8, (3, 5, 7, 11, 13, 15, 19), True)],
}


def error_of(name: str, corrector: Any, backend: str = "reference") -> float:
    golden = DitGolden.load(name)
    model = dit_28(golden.size)
    fast = compile(model, CacheSchedule(golden.compute), corrector=corrector, backend=backend,
                   timesteps=golden.timesteps)  # fmt: skip
    return golden.worst_error(fast.forward_with_cfg)


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("name", GOLDENS)
def test_the_worst_evaluation_is_the_published_programs(name: str, backend: str) -> None:
    assert error_of(name, GOLDENS[name], backend) < 1e-5


@pytest.mark.parametrize(
    ("name", "corrector"), [(name, wrong) for name in WRONG for wrong in WRONG[name]], ids=str
)
def test_another_corrector_is_not_taken_for_the_published_one(name: str, corrector: Any) -> None:
    assert error_of(name, corrector) > 1e-3
