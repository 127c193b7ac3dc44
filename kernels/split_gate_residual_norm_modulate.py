# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Sum the float32 parts that `split_linear` left, keep the sum in its slot, then go on as
`gate_residual_norm_modulate` does.

    y = sum_i parts_i          x' = x + gate * y          h = LN(x') * (1 + scale) + shift

The parts are added in order, so a replay gives the same bits; y is rounded before it is used, so
that a later reuse adds the very same value.

Shapes: parts float32 [s, B T, D]; x, y, x', h [B, T, D]; gate, shift and scale are chunk numbers.
Passes over [B, T, D]: s float32 reads, 1 read and 3 writes; a reduction of its own would make
2 more, and one more launch.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._launch import RowTile, options, row_block, row_tile
from l2c_rt.kernels._row_math import (
    let_next_kernel_start,
    loaded,
    normalised,
    stored,
    summed_parts,
    table_row,
    wait_for_kernel_before,
)
from l2c_rt.kernels.operands import Modulation


def split_gate_residual_norm_modulate_bytes(
    batch: int, tokens: int, width: int, splits: int, itemsize: int
) -> int:
    """The parts in float32 and x read; y, x' and h written; gate, shift, scale once per image."""
    elements = batch * tokens * width
    return elements * (4 * splits + 4 * itemsize) + 3 * batch * width * itemsize


def split_sum_bytes(rows: int, width: int, splits: int, itemsize: int) -> int:
    """The parts in float32 read, their sum written."""
    return rows * width * (4 * splits + itemsize)


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    batch, tokens, width = args["rows_ptr"].numel(), args["T"], args["D"]
    splits, size = args["SPLITS"], args["y_ptr"].element_size()
    return {
        "name": f"{metadata.name} [{batch}, {tokens}, {width}] s={splits}",
        "bytes": split_gate_residual_norm_modulate_bytes(batch, tokens, width, splits, size),
        "flops32": (10 + splits) * batch * tokens * width,
    }


def _sum_metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    rows, width, splits = grid[0], args["D"], args["SPLITS"]
    return {
        "name": f"{metadata.name} [{rows}, {width}] s={splits}",
        "bytes": split_sum_bytes(rows, width, splits, args["y_ptr"].element_size()),
        "flops32": (splits - 1) * rows * width,
    }


@triton.jit(
    do_not_specialize=["T", "num_rows", "num_chunks", "gate", "shift", "scale"],
    do_not_specialize_on_alignment=["rows_ptr", "counter_ptr"],
    launch_metadata=_metadata,
)
def _split_gate_residual_kernel(
    x_ptr, parts_ptr, y_ptr, table_ptr, rows_ptr, counter_ptr, x_out_ptr, h_ptr,
    T, num_rows, num_chunks, gate, shift, scale, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_kernel_before(PDL)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)[None, :]
    inside = columns < D
    x = loaded(x_ptr + row * D, columns, inside)
    y = summed_parts(parts_ptr, row, columns, inside, tl.num_programs(0), D, SPLITS)
    y = y.to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + row * D + columns, y, mask=inside)
    table_ptr += table_row(rows_ptr, counter_ptr, row // T, num_rows, num_chunks, D)
    x += loaded(table_ptr, gate * D + columns, inside) * y.to(tl.float32)
    stored(x_out_ptr + row * D, columns, x, inside)
    let_next_kernel_start(PDL)
    scales = loaded(table_ptr, scale * D + columns, inside)
    shifts = loaded(table_ptr, shift * D + columns, inside)
    h = normalised(x, inside, eps, D) * (1.0 + scales) + shifts
    stored(h_ptr + row * D, columns, h, inside)


@triton.jit(launch_metadata=_sum_metadata)
def _split_sum_kernel(
    parts_ptr, y_ptr, D: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr
):
    wait_for_kernel_before(PDL)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)[None, :]
    inside = columns < D
    y = summed_parts(parts_ptr, row, columns, inside, tl.num_programs(0), D, SPLITS)
    let_next_kernel_start(PDL)
    stored(y_ptr + row * D, columns, y, inside)


def split_gate_residual_norm_modulate(
    x: Tensor,
    parts: Tensor,
    y: Tensor,
    modulation: Modulation,
    gate: int,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: tuple[Tensor, Tensor] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Tensor]:
    """x' and h; the sum is written to y.  x' may be x itself.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _split_gate_residual_kernel.
    """
    op = "split_gate_residual_norm_modulate"
    b, t, d = _check.rows(op, x)
    _check.parts(op, parts, b * t, d, x)
    _check.tensor(op, "y", y, (b, t, d), x)
    _check.modulation(op, modulation, x.shape, x, gate, shift, scale)
    x_out, h = _check.pair(op, x, y.dtype, out)
    cut = row_tile(d) if tile is None else tile
    table = modulation.table
    _split_gate_residual_kernel[(b * t,)](
        x, parts, y, table, modulation.rows, modulation.counter, x_out, h,
        t, table.shape[1], table.shape[2], gate, shift, scale, eps,
        D=d, BLOCK=row_block(d), SPLITS=len(parts), PDL=cut.pdl, **options(cut.warps, pdl=cut.pdl),
    )  # fmt: skip
    return x_out, h


def split_sum(parts: Tensor, out: Tensor, tile: RowTile | None = None) -> Tensor:
    """The sum of the parts alone, rounded to the dtype of `out`.

    Shapes: parts float32 [s, M, N]; out [..., N] with M rows.
    Launches: _split_sum_kernel.
    """
    op = "split_sum"
    _check.width(op, out.shape[-1])
    _check.tensor(op, "out", out, tuple(out.shape), out)
    rows, d = out.numel() // out.shape[-1], out.shape[-1]
    _check.parts(op, parts, rows, d, out)
    cut = row_tile(d) if tile is None else tile
    _split_sum_kernel[(rows,)](
        parts, out, D=d, BLOCK=row_block(d), SPLITS=len(parts), PDL=cut.pdl,
        **options(cut.warps, pdl=cut.pdl),
    )  # fmt: skip
    return out
