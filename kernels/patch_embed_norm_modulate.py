# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Latents to tokens, LayerNorm and modulate: what a step does before its first branch.

    x[b, t] = weight^T patch[b mod n, t] + bias + positions[t]
    h = LN(x) * (1 + scale) + shift

Shapes: latents float32 [n, C, H, W]; x, h [B, T, D], B a multiple of n; the rest as in
`PatchEmbedding`; shift and scale are chunk numbers.
Passes over [B, T, D]: 2 writes; a convolution, sum, norm and modulation make 9.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._launch import RowTile, embed_tile, row_block
from l2c_rt.kernels._launcher import launched, row_options
from l2c_rt.kernels._patch_math import embedded_patches, patch_corner
from l2c_rt.kernels._row_math import (
    let_next_kernel_start,
    loaded,
    normalised,
    stored,
    table_row,
    wait_for_kernel_before,
)
from l2c_rt.kernels.operands import Modulation, PatchEmbedding


def patch_embed_norm_modulate_bytes(
    images: int, batch: int, tokens: int, width: int, pixels: int, itemsize: int
) -> int:
    """Latents of `pixels` float32 per token read; weight, bias and positions once, shift and scale
    once per image; x and h written."""
    weights = (pixels + 1 + tokens + 2 * batch) * width
    return 4 * images * tokens * pixels + (weights + 2 * batch * tokens * width) * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    tokens, width, images = args["T"], args["D"], args["N"]
    batch, pixels, size = args["B"], args["C"] * args["P"] ** 2, args["x_ptr"].element_size()
    return {
        "name": f"{metadata.name} [{batch}, {tokens}, {width}]",
        "bytes": patch_embed_norm_modulate_bytes(images, batch, tokens, width, pixels, size),
        "flops32": (2 * pixels + 8) * batch * tokens * width,
    }


@triton.jit(
    do_not_specialize=["B", "N", "T", "H", "W", "num_rows", "num_chunks", "shift", "scale"],
    do_not_specialize_on_alignment=["rows_ptr", "counter_ptr"],
    launch_metadata=_metadata,
)
def _patch_embed_norm_modulate_kernel(
    latents_ptr, weight_ptr, bias_ptr, positions_ptr, table_ptr, rows_ptr, counter_ptr,
    x_ptr, h_ptr, B, N, T, H, W, num_rows, num_chunks, shift, scale, eps,
    C: tl.constexpr, P: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    TOKENS: tl.constexpr, UNROLL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    image = (tl.program_id(0) // tl.cdiv(T, TOKENS)).to(tl.int64)
    token = (tl.program_id(0) % tl.cdiv(T, TOKENS)) * TOKENS + tl.arange(0, TOKENS)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    inside = (token < T) & (columns < D)
    wait_for_kernel_before(PDL)
    x = embedded_patches(
        latents_ptr + image % N * (C * H * W), patch_corner(token, H, W, P), token < T, weight_ptr,
        bias_ptr, columns, H, W, C, P, D, BLOCK, UNROLL,
    )  # fmt: skip
    x += loaded(positions_ptr, token * D + columns, inside)
    # All tokens of a program are of one image, and so share a row of the table.  It is read before
    # the store, over which the compiler may not move it.
    table_ptr += table_row(rows_ptr, counter_ptr, image, num_rows, num_chunks, D)
    scales = loaded(table_ptr, scale * D + columns, columns < D)
    shifts = loaded(table_ptr, shift * D + columns, columns < D)
    stored(x_ptr + image * T * D, token * D + columns, x, inside)
    let_next_kernel_start(PDL)
    h = normalised(x, inside, eps, D) * (1.0 + scales) + shifts
    stored(h_ptr + image * T * D, token * D + columns, h, inside)


def patch_embed_norm_modulate(
    latents: Tensor,
    embedding: PatchEmbedding,
    batch: int,
    modulation: Modulation,
    shift: int,
    scale: int,
    eps: float = 1e-6,
    out: tuple[Tensor, Tensor] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Tensor]:
    """x and h, in the weight's dtype where they are allocated here.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _patch_embed_norm_modulate_kernel.
    """
    op = "patch_embed_norm_modulate"
    shape = _check.embedding(op, embedding, latents, batch, None)
    x, h = _check.embedded_pair(op, embedding, shape, out)
    _check.modulation(op, modulation, x.shape, x, shift, scale)
    n, c, height, width = latents.shape
    b, t, d = shape
    tile, table = tile or embed_tile(b * t, d), modulation.table
    launched(_patch_embed_norm_modulate_kernel, b * -(-t // tile.tokens))(
        latents, embedding.weight, embedding.bias, embedding.positions, table, modulation.rows,
        modulation.counter, x, h, b, n, t, height, width, table.shape[1], table.shape[2],
        shift, scale, eps,
        C=c, P=embedding.patch, D=d, BLOCK=row_block(d), TOKENS=tile.tokens, UNROLL=tile.unroll,
        **row_options(_patch_embed_norm_modulate_kernel, tile),
    )  # fmt: skip
    return x, h
