# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""What the kernels at both ends of an evaluation have in common, inlined into each."""

from __future__ import annotations

import triton
import triton.language as tl

from l2c_rt.kernels._row_math import loaded


@triton.jit
def patch_corner(token, H, W, P: tl.constexpr):
    """Where the patch of a token starts in its image's first channel."""
    per_row = W // P
    return (token // per_row) * P * W + (token % per_row) * P


@triton.jit
def embedded_patches(
    image_ptr, corners, inside, weight_ptr, bias_ptr, columns, H, W,
    C: tl.constexpr, P: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The linear of each token's patch.  Shapes: corners, inside [T, 1]; [T, BLOCK]."""
    total = tl.zeros((corners.shape[0], BLOCK), tl.float32)
    for k in tl.range(0, C * P * P, loop_unroll_factor=UNROLL):
        pixel = (k // (P * P)) * H * W + (k // P % P) * W + k % P
        value = tl.load(image_ptr + corners + pixel, mask=inside, other=0.0)
        # No matrix product: a patch has some 16 values, and the latents stay float32.
        total += value * loaded(weight_ptr + k * D, columns, columns < D)
    return total + loaded(bias_ptr, columns, columns < D)


@triton.jit
def read_solver(coefficients_ptr, counter_ptr):
    """a, b, c, save and the guidance scale of the evaluation under way."""
    row = coefficients_ptr + tl.load(counter_ptr) * 8
    return tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)


@triton.jit
def updated(latents_ptr, anchor_ptr, pixels, inside, eps, a, b, c, save):
    """a * latents + b * eps + c * anchor, keeping the latents as anchor where `save` says so.

    The anchor is neither read nor written unless the row of the table asks for it.
    """
    before = tl.load(latents_ptr + pixels, mask=inside, other=0.0)
    # By masks and not by branches: c and save are numbers of run time, so that one graph serves
    # every step, and without an anchor its pointer is that of the latents.
    anchor = tl.load(anchor_ptr + pixels, mask=tl.where(inside, c, 0.0) != 0.0, other=0.0)
    tl.store(anchor_ptr + pixels, before, mask=tl.where(inside, save, 0.0) != 0.0)
    return a * before + b * eps + c * anchor


@triton.jit
def update_patch(
    h, columns, weight_ptr, bias_ptr, latents_ptr, out_ptr, anchor_ptr, coefficients_ptr,
    counter_ptr, corner, H, W, C: tl.constexpr, OUT_C: tl.constexpr, P: tl.constexpr,
    GUIDED: tl.constexpr, D: tl.constexpr, HALVES: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The final linear of one token, guidance and solver update, into its patch.

    h [HALVES, BLOCK] is the normed token with its label and, where HALVES is 2, without.
    GROUP outputs at a time; those past the latents' channels are not computed.
    """
    a, b, c, save, guidance = read_solver(coefficients_ptr, counter_ptr)
    half = tl.arange(0, HALVES)[:, None]
    # Sums over a mask, since Triton cannot index a tensor; with one half both are h.
    cond = tl.sum(tl.where(half == 0, h, 0.0), axis=0)[None, :]
    uncond = tl.sum(tl.where(half == HALVES - 1, h, 0.0), axis=0)[None, :]
    for first in tl.range(0, P * P * C, GROUP):
        output = first + tl.arange(0, GROUP)
        inside = output < P * P * C
        place, channel = output // C, output % C
        row = place * OUT_C + channel
        weight = loaded(weight_ptr, row[:, None] * D + columns, inside[:, None] & (columns < D))
        bias = loaded(bias_ptr, row, inside)
        eps = tl.sum(weight * cond, axis=1) + bias
        if HALVES == 2:
            free = tl.sum(weight * uncond, axis=1) + bias
            eps = tl.where(channel < GUIDED, free + guidance * (eps - free), eps)
        pixels = channel * H * W + corner + (place // P) * W + place % P
        value = updated(latents_ptr, anchor_ptr, pixels, inside, eps, a, b, c, save)
        tl.store(out_ptr + pixels, value, mask=inside)


@triton.jit
def end_evaluation(counter_ptr):
    """Count the evaluation once every program has read the counter.

    The last program to take a ticket is the only one left: it adds 1 and puts the ticket back.
    """
    step = tl.load(counter_ptr)
    # Every thread of this program has read the step before one of them takes the ticket.
    tl.debug_barrier()
    ticket = tl.atomic_add(counter_ptr + 1, 1, sem="acq_rel")
    if ticket == tl.num_programs(0) - 1:
        tl.store(counter_ptr + 1, 0)
        tl.store(counter_ptr, step + 1)
