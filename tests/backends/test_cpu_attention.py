"""The extension's attention against PyTorch's in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from l2c_rt.backends.cpu.attention import CLOSE, Attention
from l2c_rt.backends.tuning.chooser import Chooser

NO_CHOICES = Chooser("", None, None)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("tokens", "head"), [(1, 8), (65, 24), (256, 64)])
def test_it_is_as_near_to_float64_as_pytorchs(dtype: torch.dtype, tokens: int, head: int) -> None:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, tokens, 3, 3, head, generator=generator).to(dtype).unbind(2)
    exact = F.scaled_dot_product_attention(*(x.double().transpose(1, 2) for x in qkv), scale=0.3)
    exact = exact.transpose(1, 2).flatten(2)

    def error(way: str) -> float:
        got = Attention(NO_CHOICES, way)(*qkv, 0.3)
        assert got.dtype == dtype
        return float((got.double() - exact).norm() / exact.norm())

    assert error("native") <= 1.2 * error("sdpa") + 1e-7


@pytest.mark.parametrize("place", [0, 20, 40, 64])
def test_a_score_far_above_all_others_is_found_wherever_it_is(place: int) -> None:
    q, k, v = torch.randn(3, 1, 65, 2, 24, generator=torch.Generator().manual_seed(0)).unbind(0)
    k[:, place] = 40.0
    got = Attention(NO_CHOICES, "native")(q.abs(), k, v, 1.0)
    assert torch.allclose(got, v[:, place].flatten(1).unsqueeze(1).expand_as(got), atol=1e-6)
