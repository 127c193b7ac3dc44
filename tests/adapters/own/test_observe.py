"""A forward that is observed computes what it computes unobserved, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l2c_rt.adapters.own.modes import run_observed
from l2c_rt.adapters.own.observe import Observer


@pytest.fixture
def rms_kernel() -> Iterator[None]:
    """A kernel of the CPU's own for RMSNorm, as a GPU has one, with last bits of its own."""
    library = torch.library.Library("aten", "IMPL")

    def fused(x: Tensor, shape: Any, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
        rstd = (x.double().square().mean(-1, keepdim=True) + eps).rsqrt()
        return (x * rstd * weight * (1 + 2**-20)).float(), rstd.float()

    library.impl("_fused_rms_norm", fused, "CPU")
    yield
    library._destroy()  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("rms_kernel")
@pytest.mark.parametrize("inference", [False, True])
def test_what_a_device_has_a_kernel_for_is_not_taken_apart(inference: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 16), nn.RMSNorm(16, eps=1e-6)), torch.randn(4, 16)
    with torch.inference_mode(inference), torch.no_grad():
        expected = model(x)
        observer = Observer((), follow=True)
        out = run_observed(observer, lambda: model(x))
    assert torch.equal(out, expected)
    assert observer.linear_macs[""] == 4 * 16 * 16
