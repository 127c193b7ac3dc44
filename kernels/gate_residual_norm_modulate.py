# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Add a branch that was just computed, then LayerNorm and modulate for the next one.

    x' = x + gate * y          h = LN(x') * (1 + scale) + shift

Shapes: x, y, x', h [B, T, D]; gate, shift and scale are chunk numbers.
Passes over [B, T, D]: 2 reads and 2 writes, where eager PyTorch makes 8 reads and 5 writes.
"""

from __future__ import annotations

from typing import Any

import torch
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
    table_row,
    wait_for_kernel_before,
)
from l2c_rt.kernels.operands import Modulation


def gate_residual_norm_modulate_bytes(batch: int, tokens: int, width: int, itemsize: int) -> int:
    """x and y read, x' and h written; gate, shift and scale once per image."""
    return 4 * batch * tokens * width * itemsize + 3 * batch * width * itemsize


def gate_residual_bytes(batch: int, tokens: int, width: int, itemsize: int) -> int:
    """x and y read, x' written; the gate once per image."""
    return 3 * batch * tokens * width * itemsize + batch * width * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    batch, tokens, width = args["rows_ptr"].numel(), args["T"], args["D"]
    model = gate_residual_norm_modulate_bytes if args["WRITE_H"] else gate_residual_bytes
    return {
        "name": f"{metadata.name} [{batch}, {tokens}, {width}]",
        "bytes": model(batch, tokens, width, args["y_ptr"].element_size()),
        "flops32": (2 + 8 * args["WRITE_H"]) * batch * tokens * width,
    }


@triton.jit(
    do_not_specialize=["T", "num_rows", "num_chunks", "gate", "shift", "scale"],
    do_not_specialize_on_alignment=["rows_ptr", "counter_ptr"],
    launch_metadata=_metadata,
)
def _gate_residual_kernel(
    x_ptr, y_ptr, table_ptr, rows_ptr, counter_ptr, x_out_ptr, h_ptr,
    T, num_rows, num_chunks, gate, shift, scale, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, WRITE_H: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_kernel_before(PDL)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)[None, :]
    inside = columns < D
    x = loaded(x_ptr + row * D, columns, inside)
    y = loaded(y_ptr + row * D, columns, inside)
    table_ptr += table_row(rows_ptr, counter_ptr, row // T, num_rows, num_chunks, D)
    x += loaded(table_ptr, gate * D + columns, inside) * y
    stored(x_out_ptr + row * D, columns, x, inside)
    let_next_kernel_start(PDL)
    if WRITE_H:
        scales = loaded(table_ptr, scale * D + columns, inside)
        shifts = loaded(table_ptr, shift * D + columns, inside)
        h = normalised(x, inside, eps, D) * (1.0 + scales) + shifts
        stored(h_ptr + row * D, columns, h, inside)


def gate_residual_norm_modulate(
    x: Tensor,
    y: Tensor,
    modulation: Modulation,
    gate: int,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: tuple[Tensor, Tensor] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Tensor]:
    """x' and h.  x' may be x itself; h has y's dtype where it is allocated here.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _gate_residual_kernel.
    """
    op = "gate_residual_norm_modulate"
    _check.rows(op, x)
    _check.tensor(op, "y", y, tuple(x.shape), x)
    _check.modulation(op, modulation, x.shape, x, gate, shift, scale)
    x_out, h = _check.pair(op, x, y.dtype, out)
    _launch(x, y, modulation, (gate, shift, scale), eps, x_out, h, tile)
    return x_out, h


def gate_residual(
    x: Tensor,
    y: Tensor,
    modulation: Modulation,
    gate: int,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    """x' alone, where no branch follows.  It may be x itself.

    Launches: _gate_residual_kernel.
    """
    op = "gate_residual"
    _check.rows(op, x)
    _check.tensor(op, "y", y, tuple(x.shape), x)
    _check.modulation(op, modulation, x.shape, x, gate)
    out = torch.empty_like(x) if out is None else out
    _check.tensor(op, "out", out, tuple(x.shape), x, (x.dtype,))
    _launch(x, y, modulation, (gate, 0, 0), 0.0, out, None, tile)
    return out


def _launch(
    x: Tensor,
    y: Tensor,
    modulation: Modulation,
    chunks: tuple[int, int, int],
    eps: float,
    x_out: Tensor,
    h: Tensor | None,
    tile: RowTile | None,
) -> None:
    b, t, d = x.shape
    cut = row_tile(d) if tile is None else tile
    table = modulation.table
    _gate_residual_kernel[(b * t,)](
        x, y, table, modulation.rows, modulation.counter, x_out, x if h is None else h,
        t, table.shape[1], table.shape[2], *chunks, eps,
        D=d, BLOCK=row_block(d), WRITE_H=h is not None, PDL=cut.pdl,
        **options(cut.warps, pdl=cut.pdl),
    )  # fmt: skip
