"""Predictions along modes: exact for what follows a linear recursion, sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from l2c_rt.backends import extrapolation
from l2c_rt.backends.extrapolation import extrapolated
from l2c_rt.plan.mode_fit import ModeFit

ALL = ModeFit((0, 1, 2, 3, 4), 1.0, 0, 0.0)


def turning(t: float, sample: int) -> Tensor:
    """A damped oscillation and a decay in seven dimensions, of each sample its own."""
    g = torch.Generator().manual_seed(sample)
    a, b, c = torch.randn(3, 7, dtype=torch.float64, generator=g)
    angle, damping = torch.tensor(0.5 + sample, dtype=torch.float64), 0.9**t
    return damping * ((angle * t).cos() * a + (angle * t).sin() * b) + 0.7**t * c


def at(t: float, samples: int = 2) -> Tensor:
    return torch.stack([turning(t, sample) for sample in range(samples)])


@pytest.mark.parametrize("horizon", [1.0, 2.0, 4.0])
def test_a_linear_recursion_is_continued(horizon: float) -> None:
    values = [at(t) for t in range(5)]
    out = extrapolated(values, ALL._replace(horizon=horizon))
    assert torch.allclose(out, at(4 + horizon), rtol=1e-8)


def test_the_values_are_read_in_the_order_that_is_named() -> None:
    values = [at(t) for t in (3, 4, 9, 1, 2, 0)]
    out = extrapolated(values, ALL._replace(values=(5, 3, 4, 0, 1)))
    assert torch.allclose(out, at(5), rtol=1e-8)


def test_samples_do_not_know_of_each_other_and_chunks_are_one_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extrapolation, "CHUNK", 3)
    together = extrapolated([at(t) for t in range(5)], ALL)
    alone = extrapolated([at(t, 1) for t in range(5)], ALL)
    assert torch.allclose(together[:1], alone, rtol=1e-8)
    assert torch.allclose(together, at(5), rtol=1e-8)


def test_the_rank_and_the_ridge_leave_modes_out() -> None:
    values = [at(t) for t in range(5)]
    one = extrapolated(values, ALL._replace(rank=1))
    weak = extrapolated(values, ALL._replace(ridge=10.0))
    assert not torch.allclose(one, at(5), rtol=1e-2)
    assert weak.norm() < 0.4 * at(5).norm()


@pytest.mark.parametrize("value", [0.0, float("nan"), 1e300])
def test_the_newest_value_stands_where_there_is_no_finite_prediction(value: float) -> None:
    values = [torch.full((1, 3), value, dtype=torch.float64) * t**2 for t in range(5)]
    out = extrapolated(values, ALL._replace(horizon=900.0))
    assert torch.equal(out, values[-1]) or bool(out.isnan().all())
    assert out is not values[-1]


def test_half_precision_stays_and_whole_numbers_are_the_newest() -> None:
    values = [at(t).bfloat16() for t in range(5)]
    assert extrapolated(values, ALL).dtype == torch.bfloat16
    assert extrapolated([0, 1, 2, 3, 4], ALL) == 4
