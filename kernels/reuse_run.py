# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Reuse k branches in one pass, then LayerNorm and modulate for the branch that is computed next.

    x' = x + sum_i gate_i * arena[slots_i]          h = LN(x') * (1 + scale) + shift

With weights each term is also multiplied by its factor: predictions are such sums.

Shapes: x, x', h [B, T, D]; arena [N, B, T, D], slots contiguous, or with `places` [N, R, T, D];
slots, gates int32 [k], k >= 0; chunk numbers in `gates`, shift, scale.  k is read at run time: one
kernel serves every plan.
Passes over [B, T, D]: k + 1 reads and 2 writes, where one reuse after another makes 3 k + 2.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check, _check_lists
from l2c_rt.kernels._launch import RowTile, narrowed_bytes, row_block
from l2c_rt.kernels._launcher import launched, list_tile, row_options
from l2c_rt.kernels._row_math import (
    let_next_kernel_start,
    loaded,
    normalised,
    own_image,
    own_offset,
    own_place,
    own_row,
    own_weights,
    slot_offsets,
    stored,
    stored_input,
    table_row,
    table_weights,
    wait_with,
)
from l2c_rt.kernels.operands import Modulation, Reuses, Rows, parts_of, weights_of


def reuse_run_bytes(batch: int, tokens: int, width: int, count: int, itemsize: int) -> int:
    """x and k slots read, x' and h written; k gates, shift and scale once per image."""
    return (count + 3) * batch * tokens * width * itemsize + (count + 2) * batch * width * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    size, width, count = args["x_ptr"].element_size(), args["D"], args["K"]
    batch, tokens = args["rows_ptr"].numel(), args["T"]
    moved = reuse_run_bytes(batch, tokens, width, count, size)
    moved -= (2 - args["WRITE_X"] - args["WRITE_H"]) * batch * tokens * width * size
    moved -= narrowed_bytes(args["h_ptr"], batch * tokens, width, size)
    elements = batch * tokens * width
    return {
        "name": f"{metadata.name} [{batch}, {tokens}, {width}] k={count}",
        "bytes": moved,
        "flops32": (2 * count + 8 * args["WRITE_H"]) * elements,
    }


# Numbers that a run may change compile no other kernel, since compiling ends a capture; the index
# lists lie at any address.
@triton.jit(
    do_not_specialize=["T", "K", "num_rows", "num_chunks", "num_weights", "shift", "scale"],
    do_not_specialize_on_alignment=[
        "slots_ptr",
        "gates_ptr",
        "rows_ptr",
        "counter_ptr",
        "weights_ptr",
        "columns_ptr",
        "offsets_ptr",
        "places_ptr",
    ],
    launch_metadata=_metadata,
)
def _reuse_run_kernel(
    x_ptr, arena_ptr, slots_ptr, gates_ptr, table_ptr, rows_ptr, counter_ptr, weights_ptr,
    columns_ptr, offsets_ptr, places_ptr, x_out_ptr, h_ptr, scales_ptr, T, K, stride_slot_vectors,
    num_rows, num_chunks, num_weights, shift, scale, eps, D: tl.constexpr, BLOCK: tl.constexpr,
    UNROLL: tl.constexpr, WEIGHTED: tl.constexpr, WRITE_X: tl.constexpr, WRITE_H: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    row, columns, inside = own_row(D, BLOCK)
    image = own_image(T)
    wait_with(image, PDL)
    table_ptr += table_row(rows_ptr, counter_ptr, image, num_rows, num_chunks, D)
    weights_ptr = own_weights(
        weights_ptr, counter_ptr, num_weights, WEIGHTED, places_ptr, T
    ) + own_offset(offsets_ptr, image)  # fmt: skip
    x = loaded(x_ptr + row * D, columns, inside)
    # Without x' there is nothing to add, and the loop alone would nearly double the registers.
    if WRITE_X:
        arena_ptr += own_place(row, places_ptr, T) * D
        # UNROLL slots in flight at once; a list that does not fill the last round is masked.
        for first in tl.range(0, K, UNROLL):
            i = first + tl.arange(0, UNROLL)[:, None]
            slots = slot_offsets(slots_ptr, i, K, stride_slot_vectors)
            y = loaded(arena_ptr, slots + columns, (i < K) & inside)
            gates = tl.load(gates_ptr + i, mask=i < K, other=0) * D
            gate = loaded(table_ptr, gates + columns, (i < K) & inside)
            if WEIGHTED:
                gate *= table_weights(weights_ptr, columns_ptr, i, K)
            x += tl.sum(gate * y, axis=0)[None, :]
    if WRITE_H:
        # Before the store, over which the compiler may not move them.
        scales = loaded(table_ptr, scale * D + columns, inside)
        shifts = loaded(table_ptr, shift * D + columns, inside)
    if WRITE_X:
        stored(x_out_ptr + row * D, columns, x, inside)
    let_next_kernel_start(PDL)
    if WRITE_H:
        h = normalised(x, inside, eps, D) * (1.0 + scales) + shifts
        stored_input(h_ptr, scales_ptr, row, columns, h, inside, D)


def reuse_run(
    x: Tensor,
    reuses: Reuses,
    modulation: Modulation,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Rows]:
    """x' and h.  x' may be x itself; h has the slots' dtype where it is allocated here.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _reuse_run_kernel.
    """
    op = "reuse_run"
    _check.rows(op, x)
    _check_lists.reuses(op, reuses, x.shape, x, gated=True)
    _check.modulation(op, modulation, x.shape, x, shift, scale)
    x_out, h = _check.pair(op, x, reuses.arena.dtype, out)
    _launch(x, reuses, modulation, (shift, scale), eps, x_out, h, tile)
    return x_out, h


def reuse_sum(
    x: Tensor,
    reuses: Reuses,
    modulation: Modulation,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    """x' alone, where no branch follows.  It may be x itself.

    Launches: _reuse_run_kernel.
    """
    op = "reuse_sum"
    _check.rows(op, x)
    _check_lists.reuses(op, reuses, x.shape, x, gated=True)
    _check.modulation(op, modulation, x.shape, x)
    out = torch.empty_like(x) if out is None else out
    _check.tensor(op, "out", out, tuple(x.shape), x, (x.dtype,))
    _launch(x, reuses, modulation, (0, 0), 0.0, out, None, tile)
    return out


def norm_modulate(
    x: Tensor,
    modulation: Modulation,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: Rows | None = None,
    tile: RowTile | None = None,
) -> Rows:
    """h of x itself, without reuses and x'.  It has the table's dtype where it is allocated here.

    Launches: _reuse_run_kernel.
    """
    op = "norm_modulate"
    _check.rows(op, x)
    _check.modulation(op, modulation, x.shape, x, shift, scale)
    out = torch.empty_like(x, dtype=modulation.table.dtype) if out is None else out
    _check.branch_input(op, "out", out, x)
    _launch(x, Reuses.none(x), modulation, (shift, scale), eps, None, out, tile)
    return out


def _launch(
    x: Tensor,
    reuses: Reuses,
    modulation: Modulation,
    chunks: tuple[int, int],
    eps: float,
    x_out: Tensor | None,
    h: Rows | None,
    tile: RowTile | None,
) -> None:
    b, t, d = x.shape
    tile = tile or list_tile(_reuse_run_kernel, d)
    arena, table, weights = reuses.arena, modulation.table, weights_of(reuses)
    launched(_reuse_run_kernel, b * t)(
        x, arena, reuses.slots, reuses.gates, table, modulation.rows, modulation.counter,
        weights.table, weights.columns, weights.offsets, reuses.places,
        x if x_out is None else x_out, *parts_of(h, x), t, len(reuses.slots),
        arena.stride(0) // 8, table.shape[1], table.shape[2],
        weights.table.shape[-1], *chunks, eps,
        D=d, BLOCK=row_block(d), UNROLL=tile.unroll, WEIGHTED=reuses.weights is weights,
        WRITE_X=x_out is not None, WRITE_H=h is not None, **row_options(_reuse_run_kernel, tile),
    )  # fmt: skip
