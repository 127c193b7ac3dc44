# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The end of a U-ViT evaluation: the last reuses, norm with its own weights, linear, guidance on
all channels, solver update.

    x' = x + sum_i arena[slots_i]          h = LN(x') * weight + bias
    eps = weight_final h + bias_final, guided      latents' as in `Solver`

Only the tokens of patches are touched: the prefix tokens come first in x and end here.
For models whose output passes a convolution after that, see `guided_update`.

Shapes: x [B, E + T, D], B = n or 2 n (all with label, then all without); latents float32
[n, C, H, W]; weight, bias [D].
Passes over [B, T, D]: k + 1 reads; norm, linear, guidance and update one by one make 5 and a
dozen small ones.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check, _check_lists
from l2c_rt.kernels._launch import RowTile, final_tile, row_block
from l2c_rt.kernels._launcher import launched, row_options
from l2c_rt.kernels._patch_math import end_evaluation, patch_corner, update_patch
from l2c_rt.kernels._row_math import (
    loaded,
    normalised,
    own_offset,
    own_weights,
    slot_offsets,
    wait_for_kernel_before,
)
from l2c_rt.kernels.operands import FinalLinear, Reuses, Solver, weights_of


def final_update_norm_bytes(
    images: int, batch: int, tokens: int, width: int, pixels: int, count: int, itemsize: int
) -> int:
    """x and k slots read, without their prefix tokens; the norm's weight and bias and the
    linear's `pixels` rows once; float32 latents read and written."""
    rows = (count + 1) * batch * tokens + 2 + pixels
    return rows * width * itemsize + 8 * images * tokens * pixels


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    images, tokens, width, count = args["N"], grid[0] // args["N"], args["D"], args["K"]
    batch, pixels = args["HALVES"] * images, args["C"] * args["P"] ** 2
    size = args["x_ptr"].element_size()
    return {
        "name": f"{metadata.name} [{batch}, {tokens}, {width}] k={count}",
        "bytes": final_update_norm_bytes(images, batch, tokens, width, pixels, count, size),
        "flops32": (count + 8 + 2 * pixels) * batch * tokens * width,
    }


@triton.jit(
    do_not_specialize=["N", "T", "EXTRAS", "H", "W", "K", "num_weights"],
    do_not_specialize_on_alignment=[
        "slots_ptr",
        "counter_ptr",
        "weights_ptr",
        "columns_ptr",
        "offsets_ptr",
    ],
    launch_metadata=_metadata,
)
def _final_update_norm_kernel(
    x_ptr, arena_ptr, slots_ptr, weights_ptr, columns_ptr, offsets_ptr, norm_weight_ptr,
    norm_bias_ptr, weight_ptr, bias_ptr, latents_ptr, out_ptr, anchor_ptr, coefficients_ptr,
    counter_ptr, N, T, EXTRAS, H, W, K, stride_slot_vectors, num_weights, eps, C: tl.constexpr,
    OUT_C: tl.constexpr, P: tl.constexpr, GUIDED: tl.constexpr, D: tl.constexpr,
    BLOCK: tl.constexpr, HALVES: tl.constexpr, UNROLL: tl.constexpr, WEIGHTED: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    patches = T - EXTRAS
    image, token = (tl.program_id(0) // patches).to(tl.int64), tl.program_id(0) % patches
    columns = tl.arange(0, BLOCK)[None, :]
    inside = columns < D
    # An image with its label and the same without lie N apart in the batch.
    images = image + tl.arange(0, HALVES)[:, None] * N
    offsets = (images * T + EXTRAS + token) * D + columns
    wait_for_kernel_before(PDL)
    weights_ptr = own_weights(weights_ptr, counter_ptr, num_weights, WEIGHTED)
    x = loaded(x_ptr, offsets, inside)
    for i in tl.range(0, K, loop_unroll_factor=UNROLL):
        slot = slot_offsets(slots_ptr, i, K, stride_slot_vectors)
        y = loaded(arena_ptr + slot, offsets, inside)
        if WEIGHTED:
            column = tl.load(columns_ptr + i) + own_offset(offsets_ptr, images)
            y *= tl.load(weights_ptr + column)
        x += y
    norm_weight = loaded(norm_weight_ptr, columns, inside)
    h = normalised(x, inside, eps, D) * norm_weight + loaded(norm_bias_ptr, columns, inside)
    update_patch(
        h, columns, weight_ptr, bias_ptr, latents_ptr + image * C * H * W,
        out_ptr + image * C * H * W, anchor_ptr + image * C * H * W, coefficients_ptr, counter_ptr,
        patch_corner(token, H, W, P), H, W, C, OUT_C, P, GUIDED, D, HALVES, 4,
    )  # fmt: skip
    end_evaluation(counter_ptr)


def final_update_norm(
    x: Tensor,
    reuses: Reuses,
    weight: Tensor,
    bias: Tensor,
    final: FinalLinear,
    latents: Tensor,
    solver: Solver,
    eps: float = 1e-5,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    """The latents after this evaluation, which may be written over the latents before it.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _final_update_norm_kernel.
    """
    op = "final_update_norm"
    _, t, d = _check.rows(op, x)
    _check.tensor(op, "x", x, tuple(x.shape), latents)
    _check_lists.reuses(op, reuses, x.shape, x, gated=False)
    _check.affine(op, weight, bias, x)
    extras, halves = _check.final(op, final, latents, tuple(x.shape))
    _check.solver(op, solver, latents, solver.counter)
    out = torch.empty_like(latents) if out is None else out
    _check.tensor(op, "out", out, tuple(latents.shape), latents, _check.FLOAT32)
    n, c, height, width = latents.shape
    arena, weights = reuses.arena, weights_of(reuses)
    tile = tile or final_tile(d, lanes=weights.offsets is not None)
    launched(_final_update_norm_kernel, n * (t - extras))(
        x, arena, reuses.slots, weights.table, weights.columns, weights.offsets, weight, bias,
        final.weight,
        final.bias, latents, out,
        latents if solver.anchor is None else solver.anchor, solver.coefficients, solver.counter,
        n, t, extras, height, width, len(reuses.slots), arena.stride(0) // 8,
        weights.table.shape[-1], eps,
        C=c, OUT_C=len(final.weight) // final.patch**2, P=final.patch, GUIDED=final.guided, D=d,
        BLOCK=row_block(d), HALVES=halves, UNROLL=tile.unroll, WEIGHTED=reuses.weights is weights,
        **row_options(_final_update_norm_kernel, tile),
    )  # fmt: skip
    return out
