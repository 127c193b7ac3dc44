"""The error of a check is that of its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from l2c_rt.backends.dynamic.filtered import FilteredChange
from l2c_rt.backends.dynamic.gauge import gauge_for
from l2c_rt.methods import SpeCa
from l2c_rt.plan.decisions import ModelFacts
from l2c_rt.plan.spectrum import Spectrum

FACTS = ModelFacts("Model", ("blocks.0",), frozenset({"blocks.0"}))
PREDICTED, COMPUTED = (
    torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(2)
)
CHANGE = (PREDICTED - COMPUTED).abs()
RELATIVE = CHANGE / COMPUTED.abs()
COSINES = [
    float((a * b).sum() / (a.norm() * b.norm())) for a, b in zip(PREDICTED, COMPUTED, strict=True)
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relative_l1", RELATIVE.mean()),
        ("relative_l2", (RELATIVE**2).mean() ** 0.5),
        ("l1", CHANGE.mean()),
        ("l2", (CHANGE**2).mean() ** 0.5),
        ("cosine_similarity", torch.tensor(1 - sum(COSINES) / 3)),
        ("all", RELATIVE.mean()),
    ],
)
def test_an_error_is_its_published_formula(name: str, expected: Tensor) -> None:
    gauge = gauge_for(SpeCa(error_metric=name).cut(FACTS).look)
    gauge.begin_run()
    gauge.measure(torch.stack([PREDICTED, COMPUTED]), 0.0)
    gauge.shown()
    torch.testing.assert_close(gauge.metric(), expected)


def test_filtered_latents_have_changed_by_the_mean_of_their_samples_changes() -> None:
    before, now = torch.rand(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    now[1] = 1.01 * before[1]

    def change(*samples: int) -> float:
        gauge = FilteredChange(Spectrum(3.0, 1000.0))
        gauge.begin_run()
        for latents in (before, now):
            gauge.measure_latents([latents[i] for i in samples], 0.5)
            gauge.end(latents, computed=True)
        return float(gauge.metric())

    alone = [change(i) for i in range(3)]
    assert max(alone) > 2 * min(alone)
    assert change(0, 1, 2) == pytest.approx(sum(alone) / 3)
