# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""What the row kernels have in common, inlined into each: float32 from the load on."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def wait_for_kernel_before(PDL: tl.constexpr):
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def wait_with(number, PDL: tl.constexpr):
    """`wait_for_kernel_before` once a number that is not negative is there: left alone, the
    assembler waits first, and what it could have computed meanwhile comes after."""
    if PDL:
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ge.s32 p, $1, 0; @p griddepcontrol.wait; mov.b32 $0, 0; }",
            "=r,r", [number], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def let_next_kernel_start(PDL: tl.constexpr):
    # Only a hint about scheduling: what we wrote is visible to the next kernel after its own wait.
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def own_row(D: tl.constexpr, BLOCK: tl.constexpr):
    """The program's row, its columns [1, BLOCK], and which of those lie inside the row."""
    columns = tl.arange(0, BLOCK)[None, :]
    # 64 bits, since a large batch has more than 2^31 elements.
    return tl.program_id(0).to(tl.int64), columns, columns < D


@triton.jit
def own_image(T):
    """The image of the program's row, in 32 bits, as programs are numbered."""
    return tl.program_id(0) // T


@triton.jit
def table_row(rows_ptr, counter_ptr, image, num_rows, num_chunks, D: tl.constexpr):
    """Where chunk 0 of the image's row starts in the table, at the evaluation under way."""
    # Read on the device, so that one captured graph serves every step.
    step = tl.load(counter_ptr).to(tl.int64)
    row = tl.load(rows_ptr + image).to(tl.int64)
    return (step * num_rows + row) * num_chunks * D


@triton.jit
def own_place(row, places_ptr, T):
    """Where the program's row is in a slot: there, or, with places, where that of its image is.

    Without places the pointer is None and no argument of the compiled kernel.
    """
    if places_ptr is not None:
        image = own_image(T)
        row += (tl.load(places_ptr + 2 * image) - image).to(tl.int64) * T
    return row


@triton.jit
def own_step(counter_ptr, places_ptr, T):
    """The evaluation under way: that of all images, or, with places, of the program's."""
    if places_ptr is not None:
        counter_ptr = places_ptr + 2 * own_image(T) + 1
    return tl.load(counter_ptr).to(tl.int64)


@triton.jit
def slot_offsets(slots_ptr, i, K, stride_slot_vectors):
    """Where the slots of list entries i start in the arena."""
    slots = tl.load(slots_ptr + i, mask=i < K, other=0).to(tl.int64)
    # The stride comes in vectors of 8 elements, so that the compiler knows the alignment.
    return slots * stride_slot_vectors * 8


@triton.jit
def own_weights(
    weights_ptr, counter_ptr, num_weights, WEIGHTED: tl.constexpr, places_ptr=None, T=None
):  # fmt: skip
    """Where the factors of the evaluation under way are; unread where there are none."""
    if WEIGHTED:
        weights_ptr += own_step(counter_ptr, places_ptr, T) * num_weights
    return weights_ptr


@triton.jit
def own_offset(offsets_ptr, image):
    """How far the columns of an image's factors lie behind those of the first lane."""
    return tl.load(offsets_ptr + image) if offsets_ptr is not None else 0


@triton.jit
def table_weights(weights_ptr, columns_ptr, i, K):
    """The factors of list entries i, of those that `own_weights` has found."""
    columns = tl.load(columns_ptr + i, mask=i < K, other=0)
    return tl.load(weights_ptr + columns, mask=i < K, other=0.0)


@triton.jit
def normalised(x, inside, eps, D: tl.constexpr):
    """(x - mean) / sqrt(variance + eps) of every row, in two passes over registers."""
    mean = tl.sum(x, axis=1) / D
    # Columns past the row are 0 in x, but not after the mean is taken off.
    centred = tl.where(inside, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / D
    return centred * tl.rsqrt(variance + eps)[:, None]


@triton.jit
def loaded(ptr, offsets, inside):
    # Widened here: narrow arithmetic rounds at every step, and Triton's interpreter takes that of
    # bf16 on the bit patterns, without an error.
    return tl.load(ptr + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def stored(ptr, offsets, value, inside):
    tl.store(ptr + offsets, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def in_eights(values_ptr):
    """The same address, of which the compiler does not know that it is a multiple of 16: a thread
    then writes the 8 elements that it read, where it would write 16, and for that compute the whole
    row twice, once for its maximum."""
    return values_ptr + 8 * tl.program_id(1)


@triton.jit
def row_scale(x):
    """What the largest of a row is 448 times of, e4m3's largest number; x is 0 outside."""
    return tl.maximum(tl.max(tl.abs(x), axis=1), 1e-12) / 448.0


@triton.jit
def stored_narrow(values_ptr, scales_ptr, row, columns, x, inside, D: tl.constexpr):
    """One row in e4m3, and its scale; x is 0 outside."""
    scale = row_scale(x)
    # The inverse once, where a division of every element would cost as much as all the rest.
    stored(in_eights(values_ptr) + row * D, columns, x * (1.0 / scale)[:, None], inside)
    tl.store(scales_ptr + row + tl.zeros((1,), tl.int32), scale)


@triton.jit
def stored_input(h_ptr, scales_ptr, row, columns, h, inside, D: tl.constexpr):
    """One row of a branch's input, as it is or, in e4m3, with its scale; h is 0 outside."""
    if h_ptr.dtype.element_ty == tl.float8e4nv:
        # As if it had been kept in bfloat16 and quantised from there.
        h = h.to(tl.bfloat16).to(tl.float32)
        stored_narrow(h_ptr, scales_ptr, row, columns, h, inside, D)
    else:
        stored(h_ptr + row * D, columns, h, inside)


@triton.jit
def summed(partial_sums_ptr, row, columns, inside, D: tl.constexpr, SPLITS: tl.constexpr):
    """One row of the sum of [SPLITS, rows, D], added in order, with one program per row."""
    total = loaded(partial_sums_ptr + row * D, columns, inside)
    for split in tl.static_range(1, SPLITS):
        first = (split * tl.num_programs(0).to(tl.int64) + row) * D
        total += loaded(partial_sums_ptr + first, columns, inside)
    return total


@triton.jit
def branch_output(
    partial_sums_ptr, y_ptr, row, place, columns, inside, D: tl.constexpr, SPLITS: tl.constexpr
):
    """One row, at `place` in y, as it is, or, where SPLITS is not 0, summed from its parts and kept
    there."""
    if SPLITS:
        y = summed(partial_sums_ptr, row, columns, inside, D, SPLITS)
        # Rounded before it is used: a later reuse adds what it finds in the slot, the very same.
        y = y.to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + place * D + columns, y, mask=inside)
    else:
        y = tl.load(y_ptr + place * D + columns, mask=inside, other=0.0)
    return y.to(tl.float32)
