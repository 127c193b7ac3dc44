"""A method that decides before an evaluation, on the fused backend of a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.methods import EasyCache, SpeCa
from l2c_rt.notices import L2CWarning

STEPS = 12
TIMES = [float(t) for t in range(STEPS - 1, -1, -1)]
METHODS = [
    SpeCa(2, 0.5, 0.5, 1, 3),
    SpeCa(4, 0.02, 0.5, 1, 4, "relative_l2"),
    SpeCa(1, 0.001, 0.9, 1, 5, "cosine_similarity"),
    SpeCa(min_taylor_steps=1, max_taylor_steps=1),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=str)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def compiled(model: Any, method: Any, **options: Any) -> Any:
    return rt.compile(model, method, steps=STEPS, timesteps=TIMES, **options)


def run(fast: Any, seed: int = 0) -> list[Tensor]:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    outputs = []
    for t in TIMES:
        outputs.append(fast(x, torch.full((2,), t), torch.tensor([1, 5])))
        x = x - outputs[-1][:, :4] / STEPS
    return outputs


@every_method
def test_it_decides_as_the_own_forward_does_and_is_equal_up_to_rounding(method: Any) -> None:
    fused = compiled(toy_dit(4), method)
    own = compiled(toy_dit(4), method, pack=False)
    ours, theirs = run(fused), run(own)
    assert [fast.run.version.backend.name for fast in (fused, own)] == ["fused", "own"]
    assert (fused.last_run.acts == own.last_run.acts).all()
    assert 0 < fused.last_run.computed[:, 0].sum() < STEPS
    np.testing.assert_allclose(fused.last_run.metric, own.last_run.metric, rtol=0.02, atol=1e-6)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_check_leaves_the_run_as_it_is() -> None:
    checked = compiled(toy_dit(4), SpeCa(2, 1e9, 1.0, 1, 3))
    unchecked = compiled(toy_dit(4), SpeCa(2, 1e9, 1.0, 3, 3))
    ours, theirs = run(checked), run(unchecked)
    assert np.isfinite(checked.last_run.metric).sum() > 3
    assert np.isnan(unchecked.last_run.metric).all()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@every_method
def test_a_second_run_is_bitwise_the_first_over_poisoned_memory(method: Any) -> None:
    fast = compiled(toy_dit(4), method)
    first = run(fast)
    fast.poison()
    run(fast, seed=1)
    fast.poison()
    assert all(map(torch.equal, run(fast), first))


def test_where_the_description_is_wrong_the_own_forward_runs() -> None:
    class Doubled(type(toy_dit(4).blocks[0])):  # type: ignore[misc]
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return 2 * super().forward(x, c)

    model = toy_dit(4)
    model.blocks[1].__class__ = Doubled
    fast = compiled(model, METHODS[0])
    with pytest.warns(L2CWarning, match="the outputs differ"):
        ours = run(fast)
    assert fast.run.version.backend.name == "own"
    assert all(map(torch.equal, ours, run(compiled(model, METHODS[0], pack=False))))


def test_the_backend_can_be_asked_for_by_name() -> None:
    own, fused = (compiled(toy_dit(4), METHODS[0], backend=name) for name in ("own", "fused"))
    assert [fast.run.version.backend.name for fast in (own, fused)] == ["own", "fused"]
    with pytest.raises(ValueError, match="DiT is described by its sites"):
        compiled(toy_dit(4), EasyCache(ret_steps=2), backend="fused")


def test_what_looks_elsewhere_or_between_branches_keeps_the_own_forward() -> None:
    for model, method in ((toy_dit(4), EasyCache(ret_steps=2)), (toy_uvit(), METHODS[0])):
        assert compiled(model, method).run.version.backend.name == "own"
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(toy_dit(4), METHODS[0]).run.version.backend.name == "own"
