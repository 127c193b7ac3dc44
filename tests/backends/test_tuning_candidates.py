"""Ways of computing a linear layer or an attention: which are offered, and that each is right."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recording_driver import Launch, recorded_launches
from torch import Tensor

from l2c_rt.backends.cuda.tuning.candidates import (
    attention_candidates,
    default_attention,
    default_linear,
    linear_candidates,
    run_attention,
    run_linear,
    run_split,
)
from l2c_rt.backends.cuda.tuning.problems import (
    AttentionConfig,
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)
from l2c_rt.kernels import reference

DTYPES = [torch.float32, torch.bfloat16]
TILE, OTHER_TILE = (64, 128, 64, 4, 4, 8), (128, 64, 64, 4, 2, 3)


def linear(rows: int = 512, columns: int = 1152, inner: int = 1152, **more: Any) -> LinearProblem:
    given = {"bias": True, "gelu": None, "dtype": "bfloat16", "splittable": False} | more
    return LinearProblem(rows, columns, inner, **given)


def attention(head: int = 72, dtype: str = "bfloat16") -> AttentionProblem:
    return AttentionProblem(2, 256, 16, head, dtype)


def kinds(choices: tuple[Any, ...]) -> list[str]:
    return list(dict.fromkeys(choice.kind for choice in choices))


@pytest.mark.parametrize(
    ("gelu", "bias", "device", "kind"),
    [
        (None, True, "cuda", "addmm"),
        ("tanh", True, "cuda", "addmm_activation"),
        ("tanh", True, "cpu", "addmm"),
        ("tanh", False, "cuda", "addmm"),
        ("none", True, "cuda", "addmm"),
    ],
)
def test_tanh_gelu_is_fused_by_default_where_the_operator_has_it(
    gelu: str | None, bias: bool, device: str, kind: str
) -> None:
    problem = linear(gelu=gelu, bias=bias)
    assert default_linear(problem, device) == LinearConfig(kind)
    offered = [choice.kind == "addmm_activation" for choice in linear_candidates(problem, device)]
    assert any(offered) is (kind == "addmm_activation")


@pytest.mark.parametrize(
    ("head", "dtype", "device", "kind"),
    [
        (72, "bfloat16", "cuda", "triton"),
        (64, "float16", "cuda", "triton"),
        (128, "bfloat16", "cuda", "triton"),
        (136, "bfloat16", "cuda", "efficient"),
        (68, "bfloat16", "cuda", "math"),
        (68, "float32", "cuda", "efficient"),
        (70, "float32", "cuda", "math"),
        (72, "float64", "cuda", "math"),
        (72, "float32", "cpu", "math"),
    ],
)
def test_attention_is_our_kernel_by_default_where_it_applies(
    head: int, dtype: str, device: str, kind: str
) -> None:
    assert default_attention(attention(head, dtype), device).kind == kind


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_default_is_the_first_candidate_and_none_comes_twice(device: str) -> None:
    for gelu in ("tanh", "none", None):
        for dtype in ("bfloat16", "float32"):
            problem = linear(gelu=gelu, dtype=dtype, splittable=gelu is None)
            found = linear_candidates(problem, device)
            assert found[0] == default_linear(problem, device)
            assert len(set(found)) == len(found)
    for head in (72, 68, 136):
        mixed = attention_candidates(attention(head), device)
        assert mixed[0] == default_attention(attention(head), device)
        assert len(set(mixed)) == len(mixed)


def test_kernels_are_offered_only_what_they_take() -> None:
    assert kinds(linear_candidates(linear())) == ["addmm", "triton"]
    assert len(linear_candidates(linear())) == 6
    for refused in (linear(dtype="float32"), linear(columns=1001), linear(inner=1156)):
        assert kinds(linear_candidates(refused)) == ["addmm"]
    assert kinds(attention_candidates(attention())) == ["triton", "cudnn", "flash"]
    assert kinds(attention_candidates(attention(136))) == ["efficient", "cudnn", "flash"]
    assert kinds(attention_candidates(attention(264))) == ["efficient"]
    assert kinds(attention_candidates(attention(72, "float32"))) == ["efficient"]


def test_splits_are_offered_where_tiles_leave_multiprocessors_idle() -> None:
    # [512, 1152] is 144 tiles of 64 x 64, which is enough, and 72 of 64 x 128.
    found = [c for c in linear_candidates(linear(splittable=True)) if c.kind == "split"]
    tiles = {choice.tile and choice.tile[:2] for choice in found}
    assert tiles == {(64, 128), (128, 64), (128, 128), (128, 256)}
    assert {c.splits for c in found if c.tile and c.tile[:2] == (64, 128)} == {2, 3}
    assert {c.splits for c in found if c.tile and c.tile[:2] == (128, 128)} == {2, 3, 4}


@pytest.mark.parametrize(
    "problem",
    [
        linear(splittable=False),
        linear(splittable=True, gelu="tanh"),
        linear(16384, splittable=True),
        linear(inner=64, splittable=True),
        linear(splittable=True, dtype="float32"),
    ],
)
def test_splits_are_not_offered_where_they_cannot_help(problem: LinearProblem) -> None:
    assert "split" not in kinds(linear_candidates(problem))


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
@pytest.mark.parametrize("kind", ["flash", "math", "triton"])
def test_every_attention_choice_that_a_cpu_has_mixes_the_values(
    kind: str, scale: float | None, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(5)
    qkv = torch.randn(2, 7, 3 * 3 * 8, generator=generator).to(dtype)
    arena = torch.full((3, 2, 7, 24), 7.0, dtype=dtype)
    choice = AttentionConfig(kind, (64, 64, 4, 2, 255) if kind == "triton" else None)
    run_attention(choice, reference, qkv, 3, scale, arena[1])

    def eager(qkv: Tensor) -> Tensor:
        q, k, v = (part.view(2, 7, 3, 8).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return mixed.transpose(1, 2).reshape(2, 7, 24)

    bounded(arena[1], eager(qkv), eager(qkv.double()))
    assert (arena[0] == 7).all()
    assert (arena[2] == 7).all()


@pytest.mark.parametrize("kind", ["cudnn", "efficient"])
def test_a_backend_that_a_device_lacks_raises_instead_of_being_replaced(kind: str) -> None:
    qkv, out = torch.randn(1, 4, 48), torch.full((1, 4, 16), 7.0)
    with pytest.raises((RuntimeError, UserWarning)):
        run_attention(AttentionConfig(kind), reference, qkv, 2, None, out)
    assert (out == 7).all()


def kernels() -> SimpleNamespace:
    pytest.importorskip("triton")
    names = ("linear", "split_linear", "attention")
    return SimpleNamespace(
        **{name: getattr(importlib.import_module(f"l2c_rt.kernels.{name}"), name) for name in names}
    )


def blocks(launch: Launch) -> tuple[Any, ...]:
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP")
    return tuple(launch.arguments[name] for name in names if name in launch.arguments)


@pytest.mark.parametrize("tile", [TILE, OTHER_TILE])
def test_a_triton_choice_launches_the_kernel_with_its_tile(tile: tuple[int, ...]) -> None:
    x, weight = torch.empty(2, 72, 80).bfloat16(), torch.empty(160, 80).bfloat16()
    bias, out = torch.empty(160).bfloat16(), torch.empty(2, 72, 160).bfloat16()
    with recorded_launches() as launches:
        run_linear(LinearConfig("triton", tile), kernels(), x, weight, bias, "tanh", out)
    (launch,) = launches
    m, n, k, warps, _, group = tile
    assert launch.kernel == "_linear_kernel"
    assert blocks(launch) == (m, n, k, group)
    assert launch.warps == warps
    assert launch.grid == (-(-144 // m) * -(-160 // n), 1, 1)
    assert launch.arguments["GELU"] == 1
    assert launch.arguments["out_ptr"] is out


@pytest.mark.parametrize("splits", [2, 3])
def test_a_split_choice_launches_the_kernel_with_its_tile_and_splits(splits: int) -> None:
    x, weight = torch.empty(2, 72, 192).bfloat16(), torch.empty(160, 192).bfloat16()
    parts = torch.empty(splits, 144, 160)
    with recorded_launches() as launches:
        run_split(LinearConfig("split", OTHER_TILE, splits), kernels(), x, weight, None, parts)
    (launch,) = launches
    assert launch.kernel == "_split_linear_kernel"
    assert blocks(launch) == (128, 64, 64, 3)
    assert launch.warps == 4
    assert launch.grid == (splits * 2 * 3, 1, 1)
    assert launch.arguments["SPLITS"] == splits
    assert launch.arguments["partial_sums_ptr"] is parts


@pytest.mark.parametrize("tile", [(64, 64, 4, 2, 255), (128, 64, 8, 2, 255)])
def test_a_triton_attention_launches_the_kernel_with_its_tile(tile: tuple[int, ...]) -> None:
    qkv, out = torch.empty(2, 130, 3 * 2 * 72).bfloat16(), torch.empty(2, 130, 144).bfloat16()
    with recorded_launches() as launches:
        run_attention(AttentionConfig("triton", tile), kernels(), qkv, 2, 0.25, out)
    (launch,) = launches
    assert launch.kernel == "_attention_kernel"
    assert blocks(launch) == tile[:2]
    assert launch.warps == tile[2]
    assert launch.grid == (2 * 2 * -(-130 // tile[0]), 1, 1)
    assert launch.arguments["scale"] == 0.25
