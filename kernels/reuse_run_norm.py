# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""`reuse_run` for blocks without gates and modulation, whose norm has weights of its own.

    x' = x + sum_i arena[slots_i]          h = LN(x') * weight + bias

Shapes: x, x', h [B, T, D]; arena [N, B, T, D], slots contiguous, or with `places` [N, R, T, D];
slots int32 [k], k >= 0; weight, bias [D].
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
    table_weights,
    wait_for_kernel_before,
)
from l2c_rt.kernels.operands import Reuses, Rows, parts_of, weights_of


def reuse_run_norm_bytes(batch: int, tokens: int, width: int, count: int, itemsize: int) -> int:
    """x and k slots read, x' and h written; the norm's weight and bias once."""
    return ((count + 3) * batch * tokens + 2) * width * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    size, width, count, rows = args["x_ptr"].element_size(), args["D"], args["K"], grid[0]
    moved = reuse_run_norm_bytes(1, rows, width, count, size)
    moved -= narrowed_bytes(args["h_ptr"], rows, width, size)
    moved -= (2 - args["WRITE_X"] - args["WRITE_H"]) * rows * width * size
    return {
        "name": f"{metadata.name} [{rows}, {width}] k={count}",
        "bytes": moved,
        "flops32": (count + 8 * args["WRITE_H"]) * rows * width,
    }


@triton.jit(
    do_not_specialize=["K", "num_weights"],
    do_not_specialize_on_alignment=[
        "slots_ptr",
        "weights_ptr",
        "columns_ptr",
        "counter_ptr",
        "offsets_ptr",
        "places_ptr",
    ],
    launch_metadata=_metadata,
)
def _reuse_run_norm_kernel(
    x_ptr, arena_ptr, slots_ptr, weights_ptr, columns_ptr, counter_ptr, offsets_ptr, places_ptr,
    weight_ptr, bias_ptr, x_out_ptr, h_ptr, scales_ptr, K, stride_slot_vectors, num_weights, eps,
    T: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
    WEIGHTED: tl.constexpr, WRITE_X: tl.constexpr, WRITE_H: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row, columns, inside = own_row(D, BLOCK)
    wait_for_kernel_before(PDL)
    # T is no argument where every image is like all others.
    image = 0 if T is None else own_image(T)
    weights_ptr = own_weights(
        weights_ptr, counter_ptr, num_weights, WEIGHTED, places_ptr, T
    ) + own_offset(offsets_ptr, image)  # fmt: skip
    x = loaded(x_ptr + row * D, columns, inside)
    # Without x' there is nothing to add, and the loop would only cost registers.
    if WRITE_X:
        arena_ptr += own_place(row, places_ptr, T) * D
        for first in tl.range(0, K, UNROLL):
            i = first + tl.arange(0, UNROLL)[:, None]
            slots = slot_offsets(slots_ptr, i, K, stride_slot_vectors)
            y = loaded(arena_ptr, slots + columns, (i < K) & inside)
            if WEIGHTED:
                y *= table_weights(weights_ptr, columns_ptr, i, K)
            x += tl.sum(y, axis=0)[None, :]
    if WRITE_H:
        # Before the store, over which the compiler may not move them.
        weight = loaded(weight_ptr, columns, inside)
        bias = loaded(bias_ptr, columns, inside)
    if WRITE_X:
        stored(x_out_ptr + row * D, columns, x, inside)
    let_next_kernel_start(PDL)
    if WRITE_H:
        h = normalised(x, inside, eps, D) * weight + bias
        stored_input(h_ptr, scales_ptr, row, columns, h, inside, D)


def reuse_run_norm(
    x: Tensor,
    reuses: Reuses,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: tuple[Tensor, Rows] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Rows]:
    """x' and h.  x' may be x itself; h has the slots' dtype where it is allocated here.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _reuse_run_norm_kernel.
    """
    op = "reuse_run_norm"
    _check.rows(op, x)
    _check_lists.reuses(op, reuses, x.shape, x, gated=False)
    _check.affine(op, weight, bias, x)
    x_out, h = _check.pair(op, x, reuses.arena.dtype, out)
    _launch(x, reuses, (weight, bias), eps, x_out, h, tile)
    return x_out, h


def ungated_reuse_sum(
    x: Tensor,
    reuses: Reuses,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    """x' alone, where no branch follows.  It may be x itself.

    Launches: _reuse_run_norm_kernel.
    """
    op = "ungated_reuse_sum"
    _check.rows(op, x)
    _check_lists.reuses(op, reuses, x.shape, x, gated=False)
    out = torch.empty_like(x) if out is None else out
    _check.tensor(op, "out", out, tuple(x.shape), x, (x.dtype,))
    _launch(x, reuses, (x, x), 0.0, out, None, tile)
    return out


def norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    out: Rows | None = None,
    tile: RowTile | None = None,
) -> Rows:
    """h of x itself, without reuses and x'.  It has the weight's dtype where it is allocated here.

    Launches: _reuse_run_norm_kernel.
    """
    op = "norm"
    _check.rows(op, x)
    _check.affine(op, weight, bias, x)
    out = torch.empty_like(x, dtype=weight.dtype) if out is None else out
    _check.branch_input(op, "out", out, x)
    _launch(x, Reuses.none(x), (weight, bias), eps, None, out, tile)
    return out


def _launch(
    x: Tensor,
    reuses: Reuses,
    affine: tuple[Tensor, Tensor],
    eps: float,
    x_out: Tensor | None,
    h: Rows | None,
    tile: RowTile | None,
) -> None:
    b, t, d = x.shape
    tile = tile or list_tile(_reuse_run_norm_kernel, d)
    arena, weights = reuses.arena, weights_of(reuses)
    launched(_reuse_run_norm_kernel, b * t)(
        x, arena, reuses.slots, weights.table, weights.columns, weights.counter, weights.offsets,
        reuses.places, *affine, x if x_out is None else x_out, *parts_of(h, x), len(reuses.slots),
        arena.stride(0) // 8, weights.table.shape[-1], eps,
        T=None if reuses.places is None and weights.offsets is None else t, D=d,
        BLOCK=row_block(d), UNROLL=tile.unroll, WEIGHTED=reuses.weights is weights,
        WRITE_X=x_out is not None, WRITE_H=h is not None,
        **row_options(_reuse_run_norm_kernel, tile),
    )  # fmt: skip
