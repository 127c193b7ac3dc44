# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The end of a DiT evaluation: the last reuses, final norm, linear, guidance, solver update.

    x' = x + sum_i gate_i * arena[slots_i]          h = LN(x') * (1 + scale) + shift
    eps = weight h + bias, guided in its first channels      latents' as in `Solver`

One program owns a token with and without its label, so that guidance stays inside it, and writes
the patch of one latent: n latents are kept, not 2 n.  `reuse_evaluation` starts from the embedding
of the latents, which makes an evaluation that computes no branch one kernel.  Each adds 1 to
`counter[0]`.  Passes over [B, T, D]: k + 1 reads (k in `reuse_evaluation`).
Shapes: x [B, T, D], B = n or 2 n (all with label, then all without); latents float32 [n, C, H, W].
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
from l2c_rt.kernels._patch_math import embedded_patches, end_evaluation, patch_corner, update_patch
from l2c_rt.kernels._row_math import (
    loaded,
    normalised,
    own_offset,
    own_weights,
    slot_offsets,
    table_row,
    wait_for_kernel_before,
)
from l2c_rt.kernels.operands import (
    FinalLinear,
    Modulation,
    PatchEmbedding,
    Reuses,
    Solver,
    weights_of,
)


def final_update_bytes(
    images: int, batch: int, tokens: int, width: int, pixels: int, count: int, itemsize: int
) -> int:
    """x and k slots, k gates, shift and scale, `pixels` rows read; float32 latents both ways."""
    rows = (count + 1) * batch * tokens + (count + 2) * batch + pixels
    return rows * width * itemsize + 8 * images * tokens * pixels


def reuse_evaluation_bytes(
    images: int, batch: int, tokens: int, width: int, pixels: int, count: int, itemsize: int
) -> int:
    """As `final_update_bytes`, with the embedding's weights read in the place of x."""
    instead = (pixels + 1 + tokens - batch * tokens) * width * itemsize
    return instead + final_update_bytes(images, batch, tokens, width, pixels, count, itemsize)


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    model = reuse_evaluation_bytes if args["EMBED"] else final_update_bytes
    images, tokens, width, count = (args[name] for name in "NTDK")
    batch, pixels = args["HALVES"] * images, args["C"] * args["P"] ** 2
    size = args["arena_ptr"].element_size()
    per_element = 2 * count + 8 + 2 * pixels * (1 + args["EMBED"])
    return {
        "name": f"{metadata.name} [{batch}, {tokens}, {width}] k={count}",
        "bytes": model(images, batch, tokens, width, pixels, count, size),
        "flops32": per_element * batch * tokens * width,
    }


@triton.jit(
    do_not_specialize=["N", "T", "H", "W", "K", "num_rows", "num_chunks", "num_weights", "shift",
                       "scale"],
    do_not_specialize_on_alignment=["slots_ptr", "gates_ptr", "rows_ptr", "counter_ptr",
                                    "weights_ptr", "columns_ptr", "offsets_ptr"],
    launch_metadata=_metadata,
)  # fmt: skip
def _final_update_kernel(
    x_ptr, arena_ptr, slots_ptr, gates_ptr, table_ptr, rows_ptr, counter_ptr, weights_ptr,
    columns_ptr, offsets_ptr, weight_ptr, bias_ptr, latents_ptr, out_ptr, anchor_ptr,
    coefficients_ptr, embed_weight_ptr, embed_bias_ptr, positions_ptr, N, T, H, W, K,
    stride_slot_vectors, num_rows, num_chunks, num_weights, shift, scale, eps, C: tl.constexpr,
    OUT_C: tl.constexpr, P: tl.constexpr, GUIDED: tl.constexpr, D: tl.constexpr,
    BLOCK: tl.constexpr, HALVES: tl.constexpr, UNROLL: tl.constexpr, WEIGHTED: tl.constexpr,
    EMBED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    image, token = (tl.program_id(0) // T).to(tl.int64), tl.program_id(0) % T
    corner = patch_corner(token + tl.zeros((1, 1), tl.int32), H, W, P)
    columns = tl.arange(0, BLOCK)[None, :]
    inside = columns < D
    # An image with its label and the same without lie N apart in the batch.
    images = image + tl.arange(0, HALVES)[:, None] * N
    offsets = (images * T + token) * D + columns
    wait_for_kernel_before(PDL)
    table = table_row(rows_ptr, counter_ptr, images, num_rows, num_chunks, D)
    weights_ptr = own_weights(weights_ptr, counter_ptr, num_weights, WEIGHTED)
    latents_ptr += image * C * H * W
    # Added here and not where it is used: for sm_100 the assembler spills otherwise.
    out_ptr += image * C * H * W
    if EMBED:
        x = embedded_patches(
            latents_ptr, corner, corner >= 0, embed_weight_ptr, embed_bias_ptr, columns, H, W,
            C, P, D, BLOCK, 4,
        )  # fmt: skip
        x += loaded(positions_ptr, token * D + columns, inside)
        # With and without its label a token starts from the same patch.
        x += tl.zeros((HALVES, BLOCK), tl.float32)
    else:
        x = loaded(x_ptr, offsets, inside)
    for i in tl.range(0, K, loop_unroll_factor=UNROLL):
        y = loaded(arena_ptr + slot_offsets(slots_ptr, i, K, stride_slot_vectors), offsets, inside)
        if WEIGHTED:
            # The offset anew at each: to hold it takes registers that there are none of.
            column = tl.load(columns_ptr + i) + own_offset(offsets_ptr, images)
            y *= tl.load(weights_ptr + column)
        x += loaded(table_ptr, table + tl.load(gates_ptr + i) * D + columns, inside) * y
    scales = loaded(table_ptr, table + scale * D + columns, inside)
    shifts = loaded(table_ptr, table + shift * D + columns, inside)
    h = normalised(x, inside, eps, D) * (1.0 + scales) + shifts
    update_patch(
        h, columns, weight_ptr, bias_ptr, latents_ptr, out_ptr, anchor_ptr + image * C * H * W,
        coefficients_ptr, counter_ptr, tl.sum(corner), H, W, C, OUT_C, P, GUIDED, D, HALVES, 4,
    )  # fmt: skip
    end_evaluation(counter_ptr)


def final_update(
    x: Tensor,
    reuses: Reuses,
    modulation: Modulation,
    shift: int,
    scale: int,
    final: FinalLinear,
    latents: Tensor,
    solver: Solver,
    eps: float = 1e-6,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    """The latents after this evaluation, which may be written over the latents before it.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _final_update_kernel.
    """
    op = "final_update"
    _check.rows(op, x)
    _check.tensor(op, "x", x, tuple(x.shape), latents)
    out = torch.empty_like(latents) if out is None else out
    _check_end(op, x.shape, reuses, modulation, (shift, scale), final, latents, solver, out)
    _launch(x, reuses, modulation, (shift, scale), final, latents, solver, eps, out, tile)
    return out


def reuse_evaluation(
    latents: Tensor,
    embedding: PatchEmbedding,
    reuses: Reuses,
    modulation: Modulation,
    shift: int,
    scale: int,
    final: FinalLinear,
    solver: Solver,
    eps: float = 1e-6,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    """A whole evaluation that computes no branch: the latents after it, from those before it.

    They may be the same tensor.
    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _final_update_kernel.
    """
    op = "reuse_evaluation"
    shape = _check.embedding(op, embedding, latents, len(modulation.rows), None)
    out = torch.empty_like(latents) if out is None else out
    _check_end(op, shape, reuses, modulation, (shift, scale), final, latents, solver, out)
    _launch(embedding, reuses, modulation, (shift, scale), final, latents, solver, eps, out, tile)
    return out


def _check_end(
    op: str,
    shape: tuple[int, ...],
    reuses: Reuses,
    modulation: Modulation,
    chunks: tuple[int, int],
    final: FinalLinear,
    latents: Tensor,
    solver: Solver,
    out: Tensor,
) -> None:
    extras, _ = _check.final(op, final, latents, shape)
    _check.no_prefix(op, extras)
    _check_lists.reuses(op, reuses, shape, latents, gated=True)
    _check.modulation(op, modulation, shape, latents, *chunks)
    _check.solver(op, solver, latents, modulation.counter)
    _check.tensor(op, "out", out, tuple(latents.shape), latents, _check.FLOAT32)


def _launch(
    start: Tensor | PatchEmbedding,
    reuses: Reuses,
    modulation: Modulation,
    chunks: tuple[int, int],
    final: FinalLinear,
    latents: Tensor,
    solver: Solver,
    eps: float,
    out: Tensor,
    tile: RowTile | None,
) -> None:
    """`start` is x, or the embedding that makes it of the latents."""
    n, c, height, width = latents.shape
    arena, table, d = reuses.arena, modulation.table, final.weight.shape[-1]
    tokens = height * width // final.patch**2
    weights = weights_of(reuses)
    tile = tile or final_tile(d, lanes=weights.offsets is not None)
    # Pointers that the flags leave unread still need an address.
    unread = PatchEmbedding(final.weight, final.bias, final.bias, final.patch)
    x, embedding = (start, unread) if isinstance(start, Tensor) else (arena, start)
    launched(_final_update_kernel, n * tokens)(
        x, arena, reuses.slots, reuses.gates,
        table, modulation.rows, modulation.counter, weights.table, weights.columns, weights.offsets,
        final.weight, final.bias, latents, out,
        latents if solver.anchor is None else solver.anchor, solver.coefficients,
        embedding.weight, embedding.bias, embedding.positions,
        n, tokens, height, width, len(reuses.slots), arena.stride(0) // 8, table.shape[1],
        table.shape[2], weights.table.shape[-1], *chunks, eps,
        C=c, OUT_C=len(final.weight) // final.patch**2, P=final.patch, GUIDED=final.guided, D=d,
        BLOCK=row_block(d), HALVES=len(modulation.rows) // n, UNROLL=tile.unroll,
        WEIGHTED=reuses.weights is weights, EMBED=start is not x,
        **row_options(_final_update_kernel, tile),
    )  # fmt: skip
