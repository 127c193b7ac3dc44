# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""What the row kernels have in common, inlined into each.

Everything is float32 from the load on: arithmetic in the narrow dtypes rounds at every step, and
Triton's interpreter gets bf16 arithmetic wrong.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def wait_for_kernel_before(PDL: tl.constexpr):
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def let_next_kernel_start(PDL: tl.constexpr):
    # Only a hint about scheduling: what we wrote is visible to the next kernel after its own wait.
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def table_row(rows_ptr, counter_ptr, image, num_rows, num_chunks, D: tl.constexpr):
    """Where chunk 0 of the image's row starts in the table, at the evaluation under way."""
    step = tl.load(counter_ptr).to(tl.int64)
    row = tl.load(rows_ptr + image).to(tl.int64)
    return (step * num_rows + row) * num_chunks * D


@triton.jit
def slot_offsets(slots_ptr, i, K, stride_slot_vectors):
    """Where the slots of list entries i start in the arena."""
    slots = tl.load(slots_ptr + i, mask=i < K, other=0).to(tl.int64)
    # The stride comes in vectors of 8 elements, so that the compiler knows the alignment.
    return slots * stride_slot_vectors * 8


@triton.jit
def normalised(x, inside, eps, D: tl.constexpr):
    """(x - mean) / sqrt(variance + eps) of every row, in two passes over registers."""
    mean = tl.sum(x, axis=1) / D
    centred = tl.where(inside, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / D
    return centred * tl.rsqrt(variance + eps)[:, None]


@triton.jit
def loaded(ptr, offsets, inside):
    return tl.load(ptr + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def stored(ptr, offsets, value, inside):
    tl.store(ptr + offsets, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def summed_parts(
    ptr, row, columns, inside, num_rows, D: tl.constexpr, SPLITS: tl.constexpr
):  # fmt: skip
    """One row of the sum of [SPLITS, num_rows, D], added in order."""
    total = loaded(ptr + row * D, columns, inside)
    for split in tl.static_range(1, SPLITS):
        total += loaded(ptr + (split * num_rows.to(tl.int64) + row) * D, columns, inside)
    return total
