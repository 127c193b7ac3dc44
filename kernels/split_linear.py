# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""A linear layer cut along its inner dimension, for grids too small to fill the GPU.

    partial_sums[i] = x[:, K_i] weight[:, K_i]^T  (+ bias in the first)
    y = sum_i partial_sums[i]

The partial sums stay float32 and are added in order by the kernel that adds the branch
(`split_gate_residual_norm_modulate`, `split_residual_norm`) or by `split_sum`: no atomics, so a
replay gives the same bits, and no launch of its own for the reduction.

Shapes: x [..., K] with M rows; weight [N, K]; bias [N]; partial_sums float32 [s, M, N]; K and N
multiples of 8.
Passes: x and weight once, the partial sums written once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check, _check_lists
from l2c_rt.kernels._launch import MatrixTile, RowTile, linear_tile, row_block, row_tile
from l2c_rt.kernels._launcher import launched, row_options
from l2c_rt.kernels._matrix_math import (
    accumulated,
    accumulated_in_two,
    plus_bias,
    prefetch_weight,
    start_of_tile,
    store_tile,
    wide_options,
)
from l2c_rt.kernels._row_math import (
    let_next_kernel_start,
    own_place,
    own_row,
    stored,
    summed,
    wait_for_kernel_before,
)


def split_linear_bytes(rows: int, columns: int, inner: int, splits: int, itemsize: int) -> int:
    """x, weight and bias read once, the partial sums written in float32."""
    read = (rows * inner + columns * inner + columns) * itemsize
    return read + 4 * splits * rows * columns


def split_sum_bytes(rows: int, width: int, splits: int, itemsize: int) -> int:
    """The partial sums in float32 read, their sum written."""
    return rows * width * (4 * splits + itemsize)


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    m, n, k, size = args["M"], args["N"], args["K"], args["x_ptr"].element_size()
    return {
        "name": f"{metadata.name} [{m}, {n}, {k}] s={args['SPLITS']}",
        "bytes": split_linear_bytes(m, n, k, args["SPLITS"], size),
        f"flops{8 * size}": 2 * m * n * k,
    }


def _sum_metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    rows, width, splits = grid[0], args["D"], args["SPLITS"]
    return {
        "name": f"{metadata.name} [{rows}, {width}] s={splits}",
        "bytes": split_sum_bytes(rows, width, splits, args["y_ptr"].element_size()),
        "flops32": (splits - 1) * rows * width,
    }


@triton.jit(do_not_specialize=["M", "inner"], launch_metadata=_metadata)
def _split_linear_kernel(
    x_ptr, weight_ptr, bias_ptr, partial_sums_ptr, M, inner, N: tl.constexpr, K: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr, REST: tl.constexpr, HAS_BIAS: tl.constexpr,
    UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # Whole blocks, so that every part starts on a 16-byte vector.
    LENGTH: tl.constexpr = (K + SPLITS * BLOCK_K - 1) // (SPLITS * BLOCK_K) * BLOCK_K
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N + REST)
    split = tl.program_id(0) // tiles
    row, column = start_of_tile(tl.program_id(0) % tiles, M, N, BLOCK_M, BLOCK_N + REST, GROUP)
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    first, last = split * LENGTH, min(inner, (split + 1) * LENGTH)
    prefetch_weight(weight_ptr, columns % N, first, last, K, BLOCK_K, PDL)
    wait_for_kernel_before(PDL)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if REST:
        more = column + BLOCK_N + tl.arange(0, REST)
        total, rest = accumulated_in_two(
            total, tl.zeros((BLOCK_M, REST), tl.float32), x_ptr, weight_ptr, rows % M, columns % N,
            more % N, first, last, K, BLOCK_K, K % BLOCK_K == 0, UPCAST,
        )  # fmt: skip
        let_next_kernel_start(PDL)
        _store_part(partial_sums_ptr, bias_ptr, rest, rows, more, split, M, N, HAS_BIAS)
    else:
        total = accumulated(
            total, x_ptr, weight_ptr, rows % M, columns % N, first, last, K, K, BLOCK_K,
            K % BLOCK_K == 0, UPCAST,
        )  # fmt: skip
        let_next_kernel_start(PDL)
    _store_part(partial_sums_ptr, bias_ptr, total, rows, columns, split, M, N, HAS_BIAS)


@triton.jit
def _store_part(
    partial_sums_ptr, bias_ptr, total, rows, columns, split, M, N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    if HAS_BIAS:
        # By its mask the bias is 0 in every part but the first.
        total = plus_bias(total, bias_ptr, columns, columns < tl.where(split == 0, N, 0))
    store_tile(partial_sums_ptr, total, rows, columns, M, N, split.to(tl.int64) * M)


@triton.jit(
    do_not_specialize_on_alignment=["places_ptr"],
    launch_metadata=_sum_metadata,
)
def _split_sum_kernel(
    partial_sums_ptr, y_ptr, places_ptr, T: tl.constexpr,
    D: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row, columns, inside = own_row(D, BLOCK)
    wait_for_kernel_before(PDL)
    y = summed(partial_sums_ptr, row, columns, inside, D, SPLITS)
    place = own_place(row, places_ptr, T)
    let_next_kernel_start(PDL)
    stored(y_ptr + place * D, columns, y, inside)


def split_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    splits: int = 2,
    out: Tensor | None = None,
    tile: MatrixTile | None = None,
) -> Tensor:
    """The partial sums, for a kernel that adds them.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _split_linear_kernel.
    """
    op = "split_linear"
    m, n, k = _check.product(op, x, weight, bias)
    tile = tile or linear_tile(m, n, x.element_size())
    if not 1 <= splits <= -(-k // tile.k):
        raise ValueError(
            f"{op}: {splits} splits of {k} columns, wanted 1 to {-(-k // tile.k)} so that each has "
            f"a block of {tile.k}"
        )
    out = x.new_empty((splits, m, n), dtype=torch.float32) if out is None else out
    _check.tensor(op, "out", out, (splits, m, n), x, _check.FLOAT32)
    launched(_split_linear_kernel, splits * tile.count(m, n))(
        x, weight, weight if bias is None else bias, out, m, k, N=n, K=k, SPLITS=splits,
        **wide_options(_split_linear_kernel, tile, x, bias),
    )  # fmt: skip
    return out


def split_sum(
    partial_sums: Tensor,
    out: Tensor,
    tile: RowTile | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """The sum alone, rounded to the dtype of `out`.

    Shapes: partial_sums [s, M, N], float32, or one in the dtype of `out`; out [..., N] with M rows,
    or with `places` [R, T, N].
    Launches: _split_sum_kernel.
    """
    op = "split_sum"
    _check.width(op, d := out.shape[-1])
    _check.tensor(op, "out", out, tuple(out.shape), out)
    rows, t = out.numel() // d, None
    if places is not None:
        _check_lists.places(op, places, out, len(places))
        t = out.shape[1]
        rows = len(places) * t
    _check_lists.partial_sums(op, partial_sums, out, out.dtype, rows)
    tile = tile or row_tile(d)
    launched(_split_sum_kernel, rows)(
        partial_sums, out, places, T=t, D=d, BLOCK=row_block(d), SPLITS=len(partial_sums),
        **row_options(_split_sum_kernel, tile),
    )  # fmt: skip
    return out
