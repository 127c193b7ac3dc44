"""Products in Triton's interpreter against float64, run by test_interpreter.py."""

from __future__ import annotations

import pytest
import torch
from float64_bound import DTYPES, WARNINGS, check, dtypes_in_turn

from l2c_rt.doctor.kernel_calls import SMALL_ATTENTION, SMALL_MATRIX, arguments, kernel, truth
from l2c_rt.doctor.kernel_operands import Sizes
from l2c_rt.doctor.tensor_trees import float64
from l2c_rt.kernels._launch import MatrixTile

pytestmark = WARNINGS

WIDE_MATRIX = MatrixTile(16, 48, 16, 4, 2)
"""32 + 16 columns."""


@dtypes_in_turn("head, tokens", [8, 24, 40, 64, 72, 104, 128], [1, 7, 18, 32])
def test_attention(head: int, tokens: int, dtype: torch.dtype) -> None:
    sizes = Sizes(dtype, halves=1, grid=(1, tokens), width=2 * head, heads=2)
    check("attention", arguments("attention", sizes), tile=SMALL_ATTENTION)


def test_attention_with_a_scale_of_its_own_and_scores_that_would_overflow() -> None:
    operands = arguments("attention", Sizes(grid=(1, 18), width=80)) | {"scale": 40.0}
    check("attention", operands, tile=SMALL_ATTENTION)


@DTYPES
@pytest.mark.parametrize(("grid", "width"), [((1, 1), 8), ((1, 7), 40), ((3, 6), 72)])
@pytest.mark.parametrize("op", ["linear", "skip_linear"])
def test_products(op: str, grid: tuple[int, int], width: int, dtype: torch.dtype) -> None:
    check(op, arguments(op, Sizes(dtype, grid=grid, width=width)), tile=SMALL_MATRIX)


# Less than one tile; a second that sticks out; two whole ones and a piece of the third's rest.
@DTYPES
@pytest.mark.parametrize(
    ("grid", "width"), [((1, 1), 8), ((1, 7), 40), ((3, 6), 72), ((1, 7), 104)]
)
def test_products_in_wide_tiles(grid: tuple[int, int], width: int, dtype: torch.dtype) -> None:
    check("linear", arguments("linear", Sizes(dtype, grid=grid, width=width)), tile=WIDE_MATRIX)


@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_epilogues(gelu: str | None, bias: bool) -> None:
    operands = arguments("linear", Sizes()) | {"gelu": gelu}
    # Far out, where tanh and erf saturate.
    operands["x"] = operands["x"] * 20
    check("linear", operands if bias else operands | {"bias": None}, tile=SMALL_MATRIX)


@dtypes_in_turn("splits, tile", [1, 2, 3, 5], [SMALL_MATRIX, WIDE_MATRIX])
def test_split_products_sum_to_the_product(
    splits: int, tile: MatrixTile, dtype: torch.dtype
) -> None:
    # Five blocks of 16: three splits leave the last one short, and every cut is covered once.
    operands = arguments("split_linear", Sizes(dtype, width=72)) | {"splits": splits}
    rows = operands["x"].shape[0] * operands["x"].shape[1]
    parts = torch.full((splits, rows, 72), float("nan"))
    kernel("split_linear")(**operands, out=parts, tile=tile)
    true = truth("linear")(*float64((operands["x"], operands["weight"], operands["bias"])))
    assert (parts.double().sum(0) - true.flatten(0, 1)).abs().max() < 1e-5


def test_split_products_go_through_the_kernel_that_adds_them() -> None:
    sizes = Sizes(width=72)
    operands = arguments("split_gate_residual_norm_modulate", sizes)
    product = arguments("split_linear", sizes) | {"splits": 3}
    operands["partial_sums"] = kernel("split_linear")(**product, tile=SMALL_MATRIX)
    x, h = kernel("split_gate_residual_norm_modulate")(**operands)
    product.pop("splits")
    whole = arguments("gate_residual_norm_modulate", sizes)
    whole["y"] = truth("linear")(**product)
    for a, b in zip((x, h), truth("gate_residual_norm_modulate")(**whole), strict=True):
        assert (a - b).abs().max() < 1e-5


@dtypes_in_turn(
    "op, head, tokens", ["attention_logs", "attention_received"], [8, 40, 72], [1, 7, 18, 32]
)
def test_sums_of_the_attention_map(op: str, head: int, tokens: int, dtype: torch.dtype) -> None:
    sizes = Sizes(dtype, halves=1, grid=(1, tokens), width=2 * head, heads=2)
    check(op, arguments(op, sizes), tile=SMALL_ATTENTION)


@pytest.mark.parametrize("tokens", [1, 7, 18, 64])
@pytest.mark.parametrize("op", ["unit_scores", "choose_tokens"])
def test_numbers_of_tokens(op: str, tokens: int) -> None:
    check(op, arguments(op, Sizes(grid=(1, tokens), count=tokens // 2)))


def test_scores_of_values_and_a_choice_without_cells() -> None:
    check("unit_scores", arguments("unit_scores", Sizes()) | {"inverted": True})
    check("choose_tokens", arguments("choose_tokens", Sizes(grid=(4, 4))) | {"bonus": 0.0})


def test_of_equal_sums_the_first_tokens_are_chosen() -> None:
    operands = arguments("choose_tokens", Sizes(grid=(4, 4)))
    operands["scores"].fill_(0.25)
    operands["stamps"].fill_(3)
    check("choose_tokens", operands)
    # The first of each cell leads its cell, and then the first of those.
    out = kernel("choose_tokens")(**operands | {"count": 5})
    assert out[0].tolist() == [0, 2, 8, 10, 1]
