"""Predicted outputs in graphs: coefficients and tensors of a corrector are the evaluation's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from block_models import OneStream, built, inputs, times
from own_tapes import compile_own
from torch import Tensor

import l2c_rt as rt
from l2c_rt.backends.graphs.call_graphs import CallGraphs
from l2c_rt.methods import TaylorSeer
from l2c_rt.policies import EveryN
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions

STEPS = 12
both_cuts = pytest.mark.parametrize("granularity", ["branch", "block"])


def run(model: Any) -> list[Tensor]:
    with torch.no_grad():
        return [model(**inputs(step)).clone() for step in range(STEPS)]


def check(granularity: str, **options: Any) -> Any:
    """Runs on tapes, which are those without graphs."""
    net = built(OneStream)
    options |= {"steps": STEPS, "timesteps": times(STEPS), "granularity": granularity}
    router = options.pop("router")
    expected = run(rt.compile(net, router, **options))
    fast = compile_own(net, router, adapter=None, **options)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(run(fast), expected, strict=True))
    assert fast.summary().graphs.replays > 0
    return fast


@both_cuts
def test_evaluations_with_other_coefficients_share_a_graph(granularity: str) -> None:
    fast = check(granularity, router=TaylorSeer())
    assert fast.summary().graphs.graphs < STEPS - 2


@both_cuts
@pytest.mark.filterwarnings("ignore:the forward is captured in parts")
def test_so_they_do_in_parts(granularity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CallGraphs, "_capture_whole", lambda *_: "not here")
    check(granularity, router=TaylorSeer())


class Scaled:
    """Another scale and shift at each reuse, at some of them only one of both."""

    def predictions(self, schedule: CacheSchedule) -> Predictions:
        random = np.random.default_rng(0)
        cells = [(int(s), int(k)) for s, k in zip(*np.where(~schedule.compute), strict=True)]
        terms = {(s, k): [(s - 1, 1.0 + 0.01 * s)] for s, k in cells}
        scale, shift = (
            {c: random.normal(size=8).astype(np.float32) for c in cells if sum(c) % n}
            for n in (3, 4)
        )
        return Predictions.from_terms(*schedule.compute.shape, terms, scale=scale, shift=shift)


def test_tensors_of_a_corrector_are_those_of_the_evaluation() -> None:
    check("branch", router=EveryN(2), corrector=Scaled())
