# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Add a branch that was just computed, then LayerNorm and modulate for the next one.

    x' = x + gate * y          h = LN(x') * (1 + scale) + shift

The split form sums the float32 partial sums that `split_linear` left first, and keeps the sum in y.

Shapes: x, y, x', h [B, T, D], y with `places` [R, T, D]; partial_sums [s, B T, D], float32, or one
in y's dtype; gate, shift and scale are chunk numbers.
Passes over [B, T, D]: 2 reads and 2 writes, where eager PyTorch makes 8 reads and 5 writes; split,
s float32 reads, 1 read and 3 writes, where a reduction of its own would make 2 more.
"""

from __future__ import annotations

from typing import Any

import torch
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
    own_image,
    own_place,
    own_row,
    stored,
    stored_input,
    table_row,
    wait_with,
)
from l2c_rt.kernels.operands import Modulation, Rows, parts_of


def gate_residual_norm_modulate_bytes(batch: int, tokens: int, width: int, itemsize: int) -> int:
    """x and y read, x' and h written; gate, shift and scale once per image."""
    return 4 * batch * tokens * width * itemsize + 3 * batch * width * itemsize


def gate_residual_bytes(batch: int, tokens: int, width: int, itemsize: int) -> int:
    """x and y read, x' written; the gate once per image."""
    return 3 * batch * tokens * width * itemsize + batch * width * itemsize


def split_gate_residual_norm_modulate_bytes(
    batch: int, tokens: int, width: int, splits: int, itemsize: int
) -> int:
    """The partial sums in float32 and x read; y, x' and h written; gate, shift, scale per image."""
    elements = batch * tokens * width
    return elements * (4 * splits + 4 * itemsize) + 3 * batch * width * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    batch, tokens, width = args["rows_ptr"].numel(), args["T"], args["D"]
    splits, size = args["SPLITS"], args["y_ptr"].element_size()
    if splits:
        moved = split_gate_residual_norm_modulate_bytes(batch, tokens, width, splits, size)
    elif args["WRITE_H"]:
        moved = gate_residual_norm_modulate_bytes(batch, tokens, width, size)
    else:
        moved = gate_residual_bytes(batch, tokens, width, size)
    moved -= narrowed_bytes(args["h_ptr"], batch * tokens, width, size)
    return {
        "name": f"{metadata.name} [{batch}, {tokens}, {width}] s={splits}",
        "bytes": moved,
        "flops32": (2 + splits + 8 * args["WRITE_H"]) * batch * tokens * width,
    }


@triton.jit(
    do_not_specialize=["T", "num_rows", "num_chunks", "gate", "shift", "scale"],
    do_not_specialize_on_alignment=["rows_ptr", "counter_ptr", "places_ptr"],
    launch_metadata=_metadata,
)
def _gate_residual_kernel(
    x_ptr, partial_sums_ptr, y_ptr, places_ptr, table_ptr, rows_ptr, counter_ptr, x_out_ptr,
    h_ptr, scales_ptr, T, num_rows, num_chunks, gate, shift, scale, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr, WRITE_H: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    row, columns, inside = own_row(D, BLOCK)
    image = own_image(T)
    wait_with(image, PDL)
    # All of the table first: it takes two loads one after the other to find, and the compiler may
    # move none of them over a store.
    table_ptr += table_row(rows_ptr, counter_ptr, image, num_rows, num_chunks, D)
    x = loaded(x_ptr + row * D, columns, inside)
    gates = loaded(table_ptr, gate * D + columns, inside)
    if WRITE_H:
        scales = loaded(table_ptr, scale * D + columns, inside)
        shifts = loaded(table_ptr, shift * D + columns, inside)
    place = own_place(row, places_ptr, T)
    x += gates * branch_output(partial_sums_ptr, y_ptr, row, place, columns, inside, D, SPLITS)
    stored(x_out_ptr + row * D, columns, x, inside)
    let_next_kernel_start(PDL)
    if WRITE_H:
        h = normalised(x, inside, eps, D) * (1.0 + scales) + shifts
        stored_input(h_ptr, scales_ptr, row, columns, h, inside, D)


def gate_residual_norm_modulate(
    x: Tensor,
    y: Tensor,
    modulation: Modulation,
    gate: int,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
    places: Tensor | None = None,
) -> tuple[Tensor, Rows]:
    """x' and h.  x' may be x itself; h has y's dtype where it is allocated here.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _gate_residual_kernel.
    """
    op = "gate_residual_norm_modulate"
    _check_row(op, x, y, places, modulation, gate, shift, scale)
    x_out, h = _check.pair(op, x, y.dtype, out)
    _launch(x, None, y, places, modulation, (gate, shift, scale), eps, x_out, h, tile)
    return x_out, h


def split_gate_residual_norm_modulate(
    x: Tensor,
    partial_sums: Tensor,
    y: Tensor,
    modulation: Modulation,
    gate: int,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
    places: Tensor | None = None,
) -> tuple[Tensor, Rows]:
    """x' and h; the sum is written to y.  x' may be x itself.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _gate_residual_kernel.
    """
    op = "split_gate_residual_norm_modulate"
    _check_row(op, x, y, places, modulation, gate, shift, scale)
    _check_lists.partial_sums(op, partial_sums, x, y.dtype)
    x_out, h = _check.pair(op, x, y.dtype, out)
    _launch(x, partial_sums, y, places, modulation, (gate, shift, scale), eps, x_out, h, tile)
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
    _check_row(op, x, y, None, modulation, gate)
    out = torch.empty_like(x) if out is None else out
    _check.tensor(op, "out", out, tuple(x.shape), x, (x.dtype,))
    _launch(x, None, y, None, modulation, (gate, 0, 0), 0.0, out, None, tile)
    return out


def _check_row(
    op: str, x: Tensor, y: Tensor, places: Tensor | None, modulation: Modulation, *chunks: int
) -> None:  # fmt: skip
    _check.rows(op, x)
    _check_lists.kept(op, "y", y, x, places)
    _check.modulation(op, modulation, x.shape, x, *chunks)


def _launch(
    x: Tensor,
    partial_sums: Tensor | None,
    y: Tensor,
    places: Tensor | None,
    modulation: Modulation,
    chunks: tuple[int, int, int],
    eps: float,
    x_out: Tensor,
    h: Rows | None,
    tile: RowTile | None,
) -> None:
    b, t, d = x.shape
    tile, table = tile or row_tile(d), modulation.table
    # Pointers that the flags leave unread still need an address.
    launched(_gate_residual_kernel, b * t)(
        x, y if partial_sums is None else partial_sums, y, places, table,
        modulation.rows, modulation.counter, x_out, *parts_of(h, x),
        t, table.shape[1], table.shape[2], *chunks, eps, D=d, BLOCK=row_block(d),
        SPLITS=0 if partial_sums is None else len(partial_sums), WRITE_H=h is not None,
        **row_options(_gate_residual_kernel, tile),
    )  # fmt: skip
