"""Every way of computing a linear layer or an attention gives its values, or refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from l2c_rt.backends.cuda.tuning.runs import run_attention, run_linear, run_skip_linear, run_split
from l2c_rt.backends.tuning.problems import AttentionConfig, LinearConfig
from l2c_rt.kernels import reference

DTYPES = [torch.float32, torch.bfloat16]


TILE = (64, 128, 64, 4, 4, 8)


def bounded(got: Tensor, eager: Tensor, true: Tensor) -> None:
    """Twice the error of eager PyTorch in the same dtype, and a rounding."""
    assert got.dtype == eager.dtype
    limit = 2 * (eager.double() - true).abs().max() + torch.finfo(got.dtype).eps
    assert (got.double() - true).abs().max() <= limit


def operands(dtype: torch.dtype, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 5, 24, generator=generator).to(dtype)
    weight = (torch.randn(16, 24, generator=generator) / 5).to(dtype)
    return x, weight, torch.randn(16, generator=generator).to(dtype) if bias else None


def slot(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Room for three outputs, and the view of the middle one."""
    arena = torch.full((3, 2, 5, 16), 7.0, dtype=dtype)
    return arena, arena[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("choice", [LinearConfig("addmm"), LinearConfig("triton", TILE)])
def test_every_linear_choice_computes_the_layer_into_its_slot(
    choice: LinearConfig, bias: bool, gelu: str | None, dtype: torch.dtype
) -> None:
    x, weight, b = operands(dtype, bias)

    def eager(x: Tensor, weight: Tensor, b: Tensor | None) -> Tensor:
        y = F.linear(x, weight, b)
        return y if gelu is None else F.gelu(y, approximate=gelu)

    arena, out = slot(dtype)
    run_linear(choice, reference, x, weight, b, gelu, out)
    true = eager(x.double(), weight.double(), None if b is None else b.double())
    bounded(out, eager(x, weight, b), true)
    assert (arena[0] == 7).all()
    assert (arena[2] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_the_parts_of_a_split_sum_to_the_layer(bias: bool, dtype: torch.dtype) -> None:
    x, weight, b = operands(dtype, bias)
    parts = torch.full((3, 10, 16), float("nan"))
    run_split(LinearConfig("split", TILE, 3), reference, x, weight, b, parts)
    true = F.linear(x.double(), weight.double(), None if b is None else b.double())
    bounded(parts.sum(0).view(2, 5, 16).to(dtype), F.linear(x, weight, b), true)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("choice", [LinearConfig("halves"), LinearConfig("triton", TILE)])
def test_every_choice_for_a_long_skip_computes_its_linear(
    choice: LinearConfig, bias: bool, dtype: torch.dtype
) -> None:
    x, weight, b = operands(dtype, bias)
    x, skip = (half.contiguous() for half in x.chunk(2, dim=-1))
    _, out = slot(dtype)
    run_skip_linear(choice, reference, x, skip, weight, b, out)
    both = torch.cat([x, skip], dim=-1)
    true = F.linear(both.double(), weight.double(), None if b is None else b.double())
    # As PyTorch rounds a sum of two products.
    d = x.shape[-1]
    eager = F.linear(skip, weight[:, d:], b) + F.linear(x, weight[:, :d])
    bounded(out, eager, true)
    with pytest.raises(ValueError, match='\'addmm\', wanted "triton" or "halves"'):
        run_skip_linear(LinearConfig("addmm"), reference, x, skip, weight, b, out)


@pytest.mark.parametrize("gelu", ["tanh", "none", None])
def test_the_operator_whose_gelu_differs_by_device_is_refused_on_a_cpu(gelu: str | None) -> None:
    x, weight, bias = operands(torch.float32)
    _, out = slot(torch.float32)
    with pytest.raises(ValueError, match='tanh GELU on CUDA only.*device cpu; use "addmm"'):
        run_linear(LinearConfig("addmm_activation"), reference, x, weight, bias, gelu, out)
    assert (out == 7).all()


@pytest.mark.parametrize(("gelu", "bias"), [("none", True), (None, True), ("tanh", False)])
def test_the_fused_gelu_is_refused_for_what_it_does_not_compute_on_any_device(
    gelu: str | None, bias: bool
) -> None:
    _, weight, b = operands(torch.float32, bias)
    _, out = slot(torch.float32)
    # Only its device is asked for before the refusal.
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(ValueError, match="tanh GELU on CUDA only"):
        run_linear(LinearConfig("addmm_activation"), reference, on_gpu, weight, b, gelu, out)


def test_a_choice_of_another_kind_is_refused() -> None:
    x, weight, bias = operands(torch.float32)
    _, out = slot(torch.float32)
    with pytest.raises(ValueError, match="'split', wanted .* run_split"):
        run_linear(LinearConfig("split", TILE, 2), reference, x, weight, bias, None, out)
    with pytest.raises(ValueError, match="'addmm', wanted \"split\""):
        run_split(LinearConfig("addmm"), reference, x, weight, bias, torch.empty(1, 10, 16))
    with pytest.raises(ValueError, match='\'addmm\', wanted one of "triton", "cudnn"'):
        run_attention(AttentionConfig("addmm"), reference, out, 2, None, out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("kind", ["math", "triton"])
def test_every_attention_choice_that_a_cpu_has_mixes_the_values(
    kind: str, scale: float | None, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(5)
    qkv = torch.randn(2, 7, 3 * 3 * 8, generator=generator).to(dtype)
    arena = torch.full((3, 2, 7, 24), 7.0, dtype=dtype)
    choice = AttentionConfig(kind, (64, 64, 4, 2, 255) if kind == "triton" else None)
    mixed = run_attention(choice, reference, qkv, 3, scale, arena[1])
    assert mixed.is_contiguous()

    def eager(qkv: Tensor) -> Tensor:
        q, k, v = (part.view(2, 7, 3, 8).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        values = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return values.transpose(1, 2).reshape(2, 7, 24)

    bounded(mixed, eager(qkv), eager(qkv.double()))
    assert (arena[0] == 7).all()
    assert (arena[2] == 7).all()


@pytest.mark.parametrize("kind", ["cudnn", "flash", "efficient"])
def test_a_backend_that_a_device_lacks_raises_instead_of_being_replaced(kind: str) -> None:
    qkv, out = torch.randn(1, 4, 48), torch.full((1, 4, 16), 7.0)
    with pytest.raises((RuntimeError, UserWarning)):
        run_attention(AttentionConfig(kind), reference, qkv, 2, None, out)
    assert (out == 7).all()


def test_a_choice_sets_no_flags_of_the_whole_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads that set and restore them in turn leave attention switched off.
    def refused(value: bool) -> None:
        raise AssertionError("a flag of the whole process was set")

    for name in dir(torch._C):
        if name.startswith("_set_sdp_"):
            monkeypatch.setattr(torch._C, name, refused)
    qkv, out = torch.randn(1, 4, 48), torch.empty(1, 4, 16)
    run_attention(AttentionConfig("math"), reference, qkv, 2, None, out)
    with pytest.raises(AssertionError, match="flag"), sdpa_kernel(SDPBackend.MATH):
        pass
