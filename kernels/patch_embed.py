# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Latents to tokens: patches, linear, position; and the first norm of the first block.

    x[b, t] = weight^T patch[b mod n, t] + bias + positions[t]

The latents are float32 and held once: with guidance both halves of the batch read the same n.
Prefix tokens (U-ViT's label and time) come from a table, as a run knows them before it starts:
token e < E of image b is `table[step, rows[b], e] + positions[e]`.

Shapes: latents float32 [n, C, H, W]; x, h [B, E + T, D], B a multiple of n; the rest as in
`PatchEmbedding`, and a `Modulation` whose table has E chunks.
Passes over [B, T, D]: 1 write, 2 with the norm; a convolution, sum and norm make 5.
"""

from __future__ import annotations

from typing import Any

import torch
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


def patch_embed_bytes(
    images: int, batch: int, tokens: int, width: int, pixels: int, outputs: int, itemsize: int
) -> int:
    """Latents of `pixels` float32 per token read; weight, bias and positions once; x, or x and h,
    written (`outputs` 1 or 2)."""
    weights = (pixels + 1 + tokens) * width
    return 4 * images * tokens * pixels + (weights + outputs * batch * tokens * width) * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    tokens, width, images, batch = args["T"], args["D"], args["N"], args["B"]
    pixels, outputs = args["C"] * args["P"] ** 2, 1 + args["WRITE_H"]
    size = args["x_ptr"].element_size()
    return {
        "name": f"{metadata.name} [{batch}, {tokens}, {width}]",
        "bytes": patch_embed_bytes(images, batch, tokens, width, pixels, outputs, size),
        "flops32": (2 * pixels + 8 * (outputs - 1)) * batch * tokens * width,
    }


@triton.jit(
    do_not_specialize=["B", "N", "T", "H", "W", "num_rows"],
    do_not_specialize_on_alignment=["rows_ptr", "counter_ptr"],
    launch_metadata=_metadata,
)
def _patch_embed_kernel(
    latents_ptr, weight_ptr, bias_ptr, positions_ptr, table_ptr, rows_ptr, counter_ptr,
    norm_weight_ptr, norm_bias_ptr, x_ptr, h_ptr, B, N, T, H, W, num_rows, eps,
    EXTRAS: tl.constexpr, C: tl.constexpr, P: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    TOKENS: tl.constexpr, UNROLL: tl.constexpr, WRITE_H: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    image = (tl.program_id(0) // tl.cdiv(T, TOKENS)).to(tl.int64)
    token = (tl.program_id(0) % tl.cdiv(T, TOKENS)) * TOKENS + tl.arange(0, TOKENS)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    inside = (token < T) & (columns < D)
    wait_for_kernel_before(PDL)
    # A prefix token has no patch; the corner that comes out for it is masked.
    corners = patch_corner(token - EXTRAS, H, W, P)
    x = embedded_patches(
        latents_ptr + image % N * (C * H * W), corners, (token >= EXTRAS) & (token < T), weight_ptr,
        bias_ptr, columns, H, W, C, P, D, BLOCK, UNROLL,
    )  # fmt: skip
    if EXTRAS:
        table_ptr += table_row(rows_ptr, counter_ptr, image, num_rows, EXTRAS, D)
        prefix = loaded(table_ptr, token * D + columns, (token < EXTRAS) & (columns < D))
        x = tl.where(token < EXTRAS, prefix, x)
    x += loaded(positions_ptr, token * D + columns, inside)
    stored(x_ptr + image * T * D, token * D + columns, x, inside)
    let_next_kernel_start(PDL)
    if WRITE_H:
        weight = loaded(norm_weight_ptr, columns, columns < D)
        bias = loaded(norm_bias_ptr, columns, columns < D)
        h = normalised(x, inside, eps, D) * weight + bias
        stored(h_ptr + image * T * D, token * D + columns, h, inside)


def patch_embed(
    latents: Tensor,
    embedding: PatchEmbedding,
    batch: int,
    prefix: Modulation | None = None,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    """x, in the weight's dtype where it is allocated here.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _patch_embed_kernel.
    """
    op = "patch_embed"
    shape = _check.embedding(op, embedding, latents, batch, prefix)
    out = embedding.weight.new_empty(shape) if out is None else out
    _check.tensor(op, "out", out, shape, latents)
    _launch(latents, embedding, prefix, None, 0.0, out, None, tile)
    return out


def patch_embed_norm(
    latents: Tensor,
    embedding: PatchEmbedding,
    batch: int,
    weight: Tensor,
    bias: Tensor,
    prefix: Modulation | None = None,
    eps: float = 1e-5,
    out: tuple[Tensor, Tensor] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Tensor]:
    """x and LN(x) * weight + bias, in the weight's dtype where they are allocated here.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _patch_embed_kernel.
    """
    op = "patch_embed_norm"
    shape = _check.embedding(op, embedding, latents, batch, prefix)
    _check.affine(op, weight, bias, embedding.weight)
    x, h = _check.embedded_pair(op, embedding, shape, out)
    _launch(latents, embedding, prefix, (weight, bias), eps, x, h, tile)
    return x, h


def _launch(
    latents: Tensor,
    embedding: PatchEmbedding,
    prefix: Modulation | None,
    affine: tuple[Tensor, Tensor] | None,
    eps: float,
    x: Tensor,
    h: Tensor | None,
    tile: RowTile | None,
) -> None:
    n, c, height, width = latents.shape
    b, t, d = x.shape
    tile = tile or embed_tile(b * t, d)
    weight, bias = embedding.weight, embedding.bias
    # Pointers that the flags leave unread still need an address.
    index = latents.view(torch.int32)
    table, rows, counter = (
        (bias, index, index) if prefix is None else (prefix.table, prefix.rows, prefix.counter)
    )
    launched(_patch_embed_kernel, b * -(-t // tile.tokens))(
        latents, weight, bias, embedding.positions, table, rows, counter,
        *((bias, bias) if affine is None else affine), x, x if h is None else h,
        b, n, t, height, width, 0 if prefix is None else table.shape[1], eps,
        EXTRAS=0 if prefix is None else table.shape[2], C=c, P=embedding.patch, D=d,
        BLOCK=row_block(d), TOKENS=tile.tokens, UNROLL=tile.unroll, WRITE_H=h is not None,
        **row_options(_patch_embed_kernel, tile),
    )  # fmt: skip
