# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""A predicted branch output that is kept: a weighted sum of k slots, written to a slot.

    out = (sum_i weight_i * arena[slots_i]) * (1 + scale) + shift

Scale and shift, where there are any, are tensors [T, D] of a bank, which a table names for every
evaluation.  Shapes: out [B, T, D], which may be one of the slots; arena [N, B, T, D]; slots int32
[k]; with `places` out is [R, T, D] and the arena [N, R, T, D].  Passes over [B, T, D]: k reads and
1 write.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check, _check_lists
from l2c_rt.kernels._launch import RowTile, mix_tile, row_block
from l2c_rt.kernels._launcher import launched, row_options
from l2c_rt.kernels._row_math import (
    let_next_kernel_start,
    loaded,
    own_image,
    own_offset,
    own_place,
    own_row,
    own_step,
    own_weights,
    slot_offsets,
    stored,
    table_weights,
    wait_for_kernel_before,
)
from l2c_rt.kernels.operands import OperandBank, Reuses, weights_of


def mix_bytes(batch: int, tokens: int, width: int, count: int, operands: int, itemsize: int) -> int:
    """k slots read and one written; `operands` float32 tensors [T, D] read once per image."""
    return batch * tokens * width * ((count + 1) * itemsize + 4 * operands)


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    rows, width, count = grid[0], args["D"], args["K"]
    operands = 2 * args["OPERAND"]
    return {
        "name": f"{metadata.name} [{rows}, {width}] k={count}",
        "bytes": mix_bytes(1, rows, width, count, operands, args["arena_ptr"].element_size()),
        "flops32": (2 * count + operands) * rows * width,
    }


@triton.jit(
    do_not_specialize=["T", "K", "num_weights", "column"],
    do_not_specialize_on_alignment=["slots_ptr", "weights_ptr", "columns_ptr", "counter_ptr",
                                    "offsets_ptr", "index_ptr", "places_ptr"],
    launch_metadata=_metadata,
)  # fmt: skip
def _mix_kernel(
    arena_ptr, slots_ptr, weights_ptr, columns_ptr, counter_ptr, offsets_ptr, places_ptr, bank_ptr,
    index_ptr, out_ptr, T, K, stride_slot_vectors, num_weights, column, D: tl.constexpr,
    BLOCK: tl.constexpr, UNROLL: tl.constexpr, OPERAND: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row, columns, inside = own_row(D, BLOCK)
    wait_for_kernel_before(PDL)
    weights_ptr = own_weights(
        weights_ptr, counter_ptr, num_weights, True, places_ptr, T
    ) + own_offset(offsets_ptr, own_image(T))  # fmt: skip
    place = own_place(row, places_ptr, T)
    arena_ptr += place * D
    total = tl.zeros((1, BLOCK), tl.float32)
    for first in tl.range(0, K, UNROLL):
        i = first + tl.arange(0, UNROLL)[:, None]
        slots = slot_offsets(slots_ptr, i, K, stride_slot_vectors)
        y = loaded(arena_ptr, slots + columns, (i < K) & inside)
        y *= table_weights(weights_ptr, columns_ptr, i, K)
        total += tl.sum(y, axis=0)[None, :]
    let_next_kernel_start(PDL)
    if OPERAND:
        # Two numbers of the bank for each column of weights: its scale and its shift.
        at = (own_step(counter_ptr, places_ptr, T) * num_weights + column) * 2
        # In 32 bits, as programs are numbered.
        token = (tl.program_id(0) % T).to(tl.int64) * D + columns
        scale = tl.load(index_ptr + at).to(tl.int64) * T * D
        shift = tl.load(index_ptr + at + 1).to(tl.int64) * T * D
        total += total * loaded(bank_ptr, scale + token, inside)
        total += loaded(bank_ptr, shift + token, inside)
    stored(out_ptr + place * D, columns, total, inside)


def mix(
    reuses: Reuses,
    out: Tensor,
    operand: OperandBank | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    """The weighted sum of the slots, written to `out`; with `operand`, scaled and shifted.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take, and
    for slots without weights.
    Launches: _mix_kernel.
    """
    op = "mix"
    b, t, d = _check.rows(op, out)
    b = b if reuses.places is None else len(reuses.places)
    _check_lists.reuses(op, reuses, (b, t, d), out, gated=False)
    _check.tensor(op, "out", out, tuple(out.shape), reuses.arena, (reuses.arena.dtype,))
    if reuses.weights is None:
        raise ValueError(f"{op}: reuses have no weights; use ungated_reuse_sum")
    if operand is not None:
        _check_lists.operand(op, operand, (t, d), reuses.weights, out)
    tile, weights = tile or mix_tile(d), weights_of(reuses)
    arena = reuses.arena
    bank, index = (arena, reuses.slots) if operand is None else (operand.bank, operand.index)
    launched(_mix_kernel, b * t)(
        arena, reuses.slots, weights.table, weights.columns, weights.counter, weights.offsets,
        reuses.places, bank, index, out, t, len(reuses.slots), arena.stride(0) // 8,
        weights.table.shape[-1],
        0 if operand is None else operand.column,
        D=d, BLOCK=row_block(d), UNROLL=tile.unroll, OPERAND=operand is not None,
        **row_options(_mix_kernel, tile),
    )  # fmt: skip
    return out
