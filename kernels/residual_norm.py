# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Add a branch that was just computed, for blocks without gates whose norm has its own weights.

    x' = x + y          h = LN(x') * weight + bias

The split form sums the float32 parts that `split_linear` left first, and keeps the sum in y, as
`split_gate_residual_norm_modulate` does.

Shapes: x, y, x', h [B, T, D]; weight, bias [D]; parts float32 [s, B T, D].
Passes over [B, T, D]: 2 reads and 2 writes, where eager PyTorch makes 3 and 2; split, s float32
reads, 1 read and 3 writes.
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
    wait_for_kernel_before,
)


def residual_norm_bytes(batch: int, tokens: int, width: int, itemsize: int) -> int:
    """x and y read, x' and h written; the norm's weight and bias once."""
    return (4 * batch * tokens + 2) * width * itemsize


def split_residual_norm_bytes(
    batch: int, tokens: int, width: int, splits: int, itemsize: int
) -> int:
    """The parts in float32 and x read; y, x' and h written; the norm's weight and bias once."""
    return batch * tokens * width * (4 * splits + 4 * itemsize) + 2 * width * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    rows, width, splits, size = grid[0], args["D"], args["SPLITS"], args["y_ptr"].element_size()
    if splits:
        moved = split_residual_norm_bytes(1, rows, width, splits, size)
    else:
        moved = residual_norm_bytes(1, rows, width, size)
    return {
        "name": f"{metadata.name} [{rows}, {width}] s={splits}",
        "bytes": moved,
        "flops32": (9 + splits) * rows * width,
    }


@triton.jit(launch_metadata=_metadata)
def _residual_norm_kernel(
    x_ptr, parts_ptr, y_ptr, weight_ptr, bias_ptr, x_out_ptr, h_ptr, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_kernel_before(PDL)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)[None, :]
    inside = columns < D
    x = loaded(x_ptr + row * D, columns, inside)
    if SPLITS:
        y = summed_parts(parts_ptr, row, columns, inside, tl.num_programs(0), D, SPLITS)
        y = y.to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + row * D + columns, y, mask=inside)
        x += y.to(tl.float32)
    else:
        x += loaded(y_ptr + row * D, columns, inside)
    stored(x_out_ptr + row * D, columns, x, inside)
    let_next_kernel_start(PDL)
    weight = loaded(weight_ptr, columns, inside)
    bias = loaded(bias_ptr, columns, inside)
    stored(h_ptr + row * D, columns, normalised(x, inside, eps, D) * weight + bias, inside)


def residual_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: tuple[Tensor, Tensor] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Tensor]:
    """x' and h.  x' may be x itself; h has y's dtype where it is allocated here.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _residual_norm_kernel.
    """
    return _launch("residual_norm", x, None, y, weight, bias, eps, out, tile)


def split_residual_norm(
    x: Tensor,
    parts: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: tuple[Tensor, Tensor] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Tensor]:
    """x' and h; the sum of the parts is written to y.  x' may be x itself.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _residual_norm_kernel.
    """
    return _launch("split_residual_norm", x, parts, y, weight, bias, eps, out, tile)


def _launch(
    op: str,
    x: Tensor,
    parts: Tensor | None,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    out: tuple[Tensor, Tensor] | None,
    tile: RowTile | None,
) -> tuple[Tensor, Tensor]:
    b, t, d = _check.rows(op, x)
    _check.tensor(op, "y", y, (b, t, d), x)
    if parts is not None:
        _check.parts(op, parts, b * t, d, x)
    _check.affine(op, weight, bias, x)
    x_out, h = _check.pair(op, x, y.dtype, out)
    cut = row_tile(d) if tile is None else tile
    _residual_norm_kernel[(b * t,)](
        x, y if parts is None else parts, y, weight, bias, x_out, h, eps,
        D=d, BLOCK=row_block(d), SPLITS=0 if parts is None else len(parts), PDL=cut.pdl,
        **options(cut.warps, pdl=cut.pdl),
    )  # fmt: skip
    return x_out, h
