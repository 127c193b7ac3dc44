# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Guidance and solver update on predicted noise: for models whose own last layers run before it.

    eps = uncond + s (cond - uncond) in the first channels, cond in the others
    latents' as in `Solver`

Shapes: eps [B, K, H, W], B = n or 2 n (all with label, then all without), K >= C; latents float32
[n, C, H, W].
Passes over the latents: 1 read and 1 write, and 1 or 2 reads of eps; eager PyTorch makes 8 and 4.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._launch import RowTile, row_block
from l2c_rt.kernels._launcher import launched, row_options
from l2c_rt.kernels._patch_math import end_evaluation, read_solver, updated
from l2c_rt.kernels._row_math import loaded, wait_for_kernel_before
from l2c_rt.kernels.operands import Solver


def guided_update_bytes(latents: int, halves: int, itemsize: int) -> int:
    """`latents` elements in float32 read and written, and one or two halves of eps read."""
    return latents * (8 + halves * itemsize)


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    count, halves = args["N"] * args["C"] * args["PIXELS"], args["HALVES"]
    return {
        "name": f"{metadata.name} [{count}]",
        "bytes": guided_update_bytes(count, halves, args["eps_ptr"].element_size()),
        "flops32": 8 * count,
    }


# PIXELS is specialised on purpose: planes of whole vectors are read 16 bytes at a time.
@triton.jit(
    do_not_specialize=["N", "C", "K", "GUIDED"],
    do_not_specialize_on_alignment=["counter_ptr"],
    launch_metadata=_metadata,
)
def _guided_update_kernel(
    eps_ptr, latents_ptr, out_ptr, anchor_ptr, coefficients_ptr, counter_ptr,
    N, C, K, PIXELS, GUIDED, HALVES: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(PIXELS, BLOCK)
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    pixels = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = pixels < PIXELS
    image, channel = plane // C, plane % C
    wait_for_kernel_before(PDL)
    a, b, c, save, guidance = read_solver(coefficients_ptr, counter_ptr)
    noise = loaded(eps_ptr + (image * K + channel) * PIXELS, pixels, inside)
    if HALVES == 2:
        free = loaded(eps_ptr + ((image + N) * K + channel) * PIXELS, pixels, inside)
        noise = tl.where(channel < GUIDED, free + guidance * (noise - free), noise)
    place = plane * PIXELS + pixels
    value = updated(latents_ptr, anchor_ptr, place, inside, noise, a, b, c, save)
    tl.store(out_ptr + place, value, mask=inside)
    end_evaluation(counter_ptr)


def guided_update(
    eps: Tensor,
    latents: Tensor,
    solver: Solver,
    guided: int,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    """The latents after this evaluation, which may be written over the latents before it.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _guided_update_kernel.
    """
    op = "guided_update"
    n, c, pixels = _check.image(op, latents, 1)
    _check.tensor(op, "eps", eps, (-1, -1, *latents.shape[2:]), latents)
    if len(eps) not in (n, 2 * n) or eps.shape[1] < c or not 0 <= guided <= c:
        raise ValueError(
            f"{op}: eps {tuple(eps.shape)} with {guided} guided channels for latents "
            f"{tuple(latents.shape)}, wanted {n} or {2 * n} images of at least {c} channels"
        )
    _check.solver(op, solver, latents, solver.counter)
    out = torch.empty_like(latents) if out is None else out
    _check.tensor(op, "out", out, tuple(latents.shape), latents, _check.FLOAT32)
    tile = tile or RowTile()
    block = min(1024, row_block(pixels))
    launched(_guided_update_kernel, n * c * -(-pixels // block))(
        eps, latents, out, latents if solver.anchor is None else solver.anchor,
        solver.coefficients, solver.counter, n, c, eps.shape[1], pixels, guided,
        HALVES=len(eps) // n, BLOCK=block, **row_options(_guided_update_kernel, tile),
    )  # fmt: skip
    return out
