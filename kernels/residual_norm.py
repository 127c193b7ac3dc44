# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Add a branch that was just computed, for blocks without gates whose norm has its own weights.

    x' = x + y          h = LN(x') * weight + bias

The split form sums the float32 partial sums that `split_linear` left first, and keeps the sum in y.

Shapes: x, y, x', h [B, T, D], y with `places` [R, T, D]; weight, bias [D]; partial_sums
[s, B T, D], float32, or one in y's dtype.
Passes over [B, T, D]: 2 reads and 2 writes, where eager PyTorch makes 3 and 2; split, s float32
reads, 1 read and 3 writes.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check, _check_lists
from l2c_rt.kernels._launch import RowTile, narrowed_bytes, row_block, row_tile
from l2c_rt.kernels._launcher import launched, row_options
from l2c_rt.kernels._row_math import (
    branch_output,
    let_next_kernel_start,
    loaded,
    normalised,
    own_place,
    own_row,
    stored,
    stored_input,
    wait_for_kernel_before,
)
from l2c_rt.kernels.operands import Rows, parts_of


def residual_norm_bytes(batch: int, tokens: int, width: int, itemsize: int) -> int:
    """x and y read, x' and h written; the norm's weight and bias once."""
    return (4 * batch * tokens + 2) * width * itemsize


def split_residual_norm_bytes(
    batch: int, tokens: int, width: int, splits: int, itemsize: int
) -> int:
    """The partial sums in float32 and x read; y, x' and h written; weight and bias once."""
    return batch * tokens * width * (4 * splits + 4 * itemsize) + 2 * width * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    rows, width, splits, size = grid[0], args["D"], args["SPLITS"], args["y_ptr"].element_size()
    if splits:
        moved = split_residual_norm_bytes(1, rows, width, splits, size)
    else:
        moved = residual_norm_bytes(1, rows, width, size)
    moved -= narrowed_bytes(args["h_ptr"], rows, width, size)
    return {
        "name": f"{metadata.name} [{rows}, {width}] s={splits}",
        "bytes": moved,
        "flops32": (9 + splits) * rows * width,
    }


@triton.jit(
    do_not_specialize_on_alignment=["places_ptr"],
    launch_metadata=_metadata,
)
def _residual_norm_kernel(
    x_ptr, partial_sums_ptr, y_ptr, places_ptr, weight_ptr, bias_ptr, x_out_ptr, h_ptr, scales_ptr,
    eps, T: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    row, columns, inside = own_row(D, BLOCK)
    wait_for_kernel_before(PDL)
    x = loaded(x_ptr + row * D, columns, inside)
    # Before the stores, over which the compiler may not move them.
    weight = loaded(weight_ptr, columns, inside)
    bias = loaded(bias_ptr, columns, inside)
    place = own_place(row, places_ptr, T)
    x += branch_output(partial_sums_ptr, y_ptr, row, place, columns, inside, D, SPLITS)
    stored(x_out_ptr + row * D, columns, x, inside)
    let_next_kernel_start(PDL)
    h = normalised(x, inside, eps, D) * weight + bias
    stored_input(h_ptr, scales_ptr, row, columns, h, inside, D)


def residual_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
    places: Tensor | None = None,
) -> tuple[Tensor, Rows]:
    """x' and h.  x' may be x itself; h has y's dtype where it is allocated here.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _residual_norm_kernel.
    """
    return _launch("residual_norm", x, None, y, weight, bias, eps, out, tile, places)


def split_residual_norm(
    x: Tensor,
    partial_sums: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
    places: Tensor | None = None,
) -> tuple[Tensor, Rows]:
    """x' and h; the sum is written to y.  x' may be x itself.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _residual_norm_kernel.
    """
    return _launch(
        "split_residual_norm", x, partial_sums, y, weight, bias, eps, out, tile, places
    )  # fmt: skip


def _launch(
    op: str,
    x: Tensor,
    partial_sums: Tensor | None,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    out: tuple[Tensor, Rows] | None,
    tile: RowTile | None,
    places: Tensor | None,
) -> tuple[Tensor, Rows]:
    b, t, d = _check.rows(op, x)
    _check_lists.kept(op, "y", y, x, places)
    if partial_sums is not None:
        _check_lists.partial_sums(op, partial_sums, x, y.dtype)
    _check.affine(op, weight, bias, x)
    x_out, h = _check.pair(op, x, y.dtype, out)
    tile = tile or row_tile(d)
    launched(_residual_norm_kernel, b * t)(
        x, y if partial_sums is None else partial_sums, y, places, weight, bias, x_out,
        *parts_of(h, x), eps, T=None if places is None else t, D=d, BLOCK=row_block(d),
        SPLITS=0 if partial_sums is None else len(partial_sums),
        **row_options(_residual_norm_kernel, tile),
    )  # fmt: skip
    return x_out, h
