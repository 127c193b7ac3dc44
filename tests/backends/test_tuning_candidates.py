"""Ways of computing a linear layer or an attention: which are offered, and which comes first."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pytest

from l2c_rt.backends.cuda.tuning.candidates import (
    attention_candidates,
    default_attention,
    default_linear,
    linear_candidates,
)
from l2c_rt.backends.cuda.tuning.pruning import MARGIN, rough_time
from l2c_rt.backends.tuning.problems import (
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)
from l2c_rt.kernels._launch import LINEAR_TILES, WIDE_TILES, MatrixTile


def linear(rows: int = 512, columns: int = 1152, inner: int = 1152, **more: Any) -> LinearProblem:
    given = {"bias": True, "gelu": None, "dtype": "bfloat16", "splittable": False} | more
    return LinearProblem(rows, columns, inner, **given)


def attention(head: int = 72, dtype: str = "bfloat16") -> AttentionProblem:
    return AttentionProblem(2, 256, 16, head, dtype)


def kinds(choices: tuple[Any, ...]) -> list[str]:
    return list(dict.fromkeys(choice.kind for choice in choices))


@pytest.mark.parametrize(
    ("gelu", "bias", "dtype", "device", "kind"),
    [
        (None, True, "bfloat16", "cuda", "addmm"),
        ("tanh", True, "bfloat16", "cuda", "addmm_activation"),
        ("tanh", True, "float16", "cuda", "addmm_activation"),
        # Its approximation of tanh would show in float32.
        ("tanh", True, "float32", "cuda", "addmm"),
        ("tanh", True, "bfloat16", "cpu", "addmm"),
        ("tanh", False, "bfloat16", "cuda", "addmm"),
        ("none", True, "bfloat16", "cuda", "addmm"),
    ],
)
def test_tanh_gelu_is_fused_by_default_where_the_operator_has_it(
    gelu: str | None, bias: bool, dtype: str, device: str, kind: str
) -> None:
    problem = linear(gelu=gelu, bias=bias, dtype=dtype)
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
    for refused in (linear(dtype="float32"), linear(columns=1001), linear(inner=1156)):
        assert kinds(linear_candidates(refused)) == ["addmm"]
    assert kinds(attention_candidates(attention())) == ["triton", "cudnn", "flash"]
    assert kinds(attention_candidates(attention(136))) == ["efficient", "cudnn", "flash"]
    assert kinds(attention_candidates(attention(264))) == ["efficient"]
    assert kinds(attention_candidates(attention(72, "float32"))) == ["efficient"]


def test_splits_are_offered_where_tiles_leave_multiprocessors_idle() -> None:
    # [512, 1152] is 36 tiles of 128 x 128, on 132 multiprocessors.
    found = [c for c in linear_candidates(linear(splittable=True)) if c.kind == "split"]
    assert {c.splits for c in found if c.tile and c.tile[:2] == (128, 128)} >= {2, 3}
    assert all(1 < c.splits <= 4 for c in found)


def test_tiles_that_would_take_much_longer_are_not_offered() -> None:
    # [512, 4608] is 576 tiles of 64 x 64, and 128 of 128 x 144, of 132 that fit.
    tiles = [c.tile[:2] for c in linear_candidates(linear(columns=4608)) if c.tile]
    assert (128, 144) in tiles
    assert (64, 64) not in tiles


@pytest.mark.parametrize("rows", [512, 516, 4096, 8192])
@pytest.mark.parametrize(("columns", "inner"), [(3456, 1152), (1152, 1152), (1152, 4608)])
def test_what_is_offered_holds_the_best_by_the_model_and_nothing_far_from_it(
    rows: int, columns: int, inner: int
) -> None:
    problem = linear(rows, columns, inner, splittable=True)
    times = {
        choice: rough_time(problem, MatrixTile(*choice.tile), choice.splits)
        for choice in linear_candidates(problem)
        if choice.tile is not None
    }
    best = min(rough_time(problem, tile, 1) for tile in LINEAR_TILES + WIDE_TILES)
    assert min(times.values()) <= best
    assert max(times.values()) <= MARGIN * min(times.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("rows", [516, 16512])
def test_a_linear_of_two_sources_is_one_launch_of_ours_or_two_of_cublas(
    rows: int, dtype: str
) -> None:
    offered = linear_candidates(linear(rows=rows, inner=2304, dtype=dtype, sources=2))
    assert offered[0].kind == "triton"
    assert kinds(offered) == ["triton", "halves"]
    # The kernel has no columns beyond a power of two.
    assert not {choice.tile for choice in offered} & {astuple(tile) for tile in WIDE_TILES}
    assert (len(offered) > 2) is (rows == 516 and dtype == "bfloat16")


def test_many_rows_are_left_to_cublas() -> None:
    assert kinds(linear_candidates(linear(8192))) == ["addmm", "triton"]
    assert kinds(linear_candidates(linear(8193))) == ["addmm"]


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
