# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""A composed weight, made anew where a weight has changed: the device finds out, the host need not.

    bits[number] += sum_i (word_i * odd_i modulo 2^32)
    out = weight before + taken                          where now and known differ somewhere

`word_i` are the words of 32 of a weight's bits, `odd_i` odd numbers, so that a change of one word
always shows.  Of `before`, in float32, the products are taken in two parts of the weight's dtype,
which keep 16 of its 24 bits.

Shapes: weight of any shape, of an even number of elements of 16 bits; bits, now, known int64 [k];
of the product weight, taken [D, D] with rows apart, before, out float32 [D, D].
Passes: the weight once; of the product, where nothing has changed, none.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._launch import MOST_NUMBERS, MatrixTile, RowTile
from l2c_rt.kernels._launcher import launched, row_options
from l2c_rt.kernels._matrix_math import needs_upcast, upcast
from l2c_rt.kernels._row_math import let_next_kernel_start, wait_for_kernel_before

WORDS = 2048
MOST_PROGRAMS = 264
"""Programs of the first kernel: two for each multiprocessor of an H100."""
NARROW, INT64 = (torch.bfloat16, torch.float16), (torch.int64,)
ODD = tl.constexpr(0x1E3779B1)
TILE = MatrixTile(64, 64, 32, 4, 3)


def weight_bits_bytes(elements: int) -> int:
    """The weight read once."""
    return 2 * elements


def composed_product_bytes(width: int, itemsize: int) -> int:
    """Where something has changed: the weights and `before` read, the result written twice."""
    return width * width * (3 * itemsize + 8)


def _bits_metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    return {
        "name": f"{metadata.name} [{args['N']}]",
        "bytes": weight_bits_bytes(2 * args["N"]),
    }


@triton.jit(
    do_not_specialize=["number", "N", "rounds"],
    do_not_specialize_on_alignment=["bits_ptr"],
    launch_metadata=_bits_metadata,
)
def _weight_bits_kernel(
    words_ptr, bits_ptr, number, N, rounds, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    # Of 64 bits, which nothing here fills: 32 would have to wrap.
    total = tl.zeros((BLOCK,), tl.int64)
    first = tl.program_id(0) * rounds * BLOCK
    wait_for_kernel_before(PDL)
    for i in tl.range(0, rounds):
        at = first + i * BLOCK + tl.arange(0, BLOCK)
        # A mask would cut every load to single words, since N may be any number.
        if first + (i + 1) * BLOCK <= N:
            words = tl.load(words_ptr + at)
        else:
            words = tl.load(words_ptr + at, mask=at < N, other=0)
        odd = at.to(tl.int64) * ODD & 0x7FFFFFFF | 1
        total += words.to(tl.int64) * odd & 0xFFFFFFFF
    let_next_kernel_start(PDL)
    # Of whole numbers the order of sums makes no difference.
    tl.atomic_add(bits_ptr + number, tl.sum(total, axis=0))


@triton.jit(
    do_not_specialize=["count", "inner"],
    do_not_specialize_on_alignment=["now_ptr", "known_ptr"],
)
def _composed_product_kernel(
    weight_ptr, before_ptr, taken_ptr, now_ptr, known_ptr, out_ptr, rounded_ptr, count, inner,
    D: tl.constexpr, STRIDE: tl.constexpr, ROUNDED_STRIDE: tl.constexpr, NUMBERS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, HAS_TAKEN: tl.constexpr,
    ROUNDED: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_kernel_before(PDL)
    i = tl.arange(0, NUMBERS)
    now = tl.load(now_ptr + i, mask=i < count, other=0)
    known = tl.load(known_ptr + i, mask=i < count, other=0)
    if tl.max((now != known).to(tl.int32), axis=0) > 0:
        row_tiles = tl.cdiv(D, BLOCK_M)
        rows = tl.program_id(0) % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
        columns = tl.program_id(0) // row_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
        inside = (rows < D)[:, None] & (columns < D)[None, :]
        ks = tl.arange(0, BLOCK_K)
        weight_ptrs = weight_ptr + (rows % D)[:, None] * STRIDE + ks[None, :]
        before_ptrs = before_ptr + ks[:, None] * D + (columns % D)[None, :]
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in tl.range(0, inner, BLOCK_K):
            weight = tl.load(weight_ptrs + k, mask=(k + ks < D)[None, :], other=0.0)
            before = tl.load(before_ptrs + k * D, mask=(k + ks < D)[:, None], other=0.0)
            high = before.to(weight.dtype)
            low = (before - high.to(tl.float32)).to(weight.dtype)
            weight = upcast(weight, UPCAST)
            total = tl.dot(weight, upcast(high, UPCAST), total, input_precision="ieee")
            total = tl.dot(weight, upcast(low, UPCAST), total, input_precision="ieee")
        if HAS_TAKEN:
            taken_ptrs = taken_ptr + rows[:, None] * STRIDE + columns[None, :]
            total += tl.load(taken_ptrs, mask=inside, other=0.0).to(tl.float32)
        tl.store(out_ptr + rows[:, None] * D + columns[None, :], total, mask=inside)
        if ROUNDED:
            ptrs = rounded_ptr + rows[:, None] * ROUNDED_STRIDE + columns[None, :]
            tl.store(ptrs, total.to(rounded_ptr.dtype.element_ty), mask=inside)
    let_next_kernel_start(PDL)


def weight_bits(weight: Tensor, bits: Tensor, number: int) -> Tensor:
    """`bits`, to whose entry of that number is added.

    Raises: ValueError for a weight of another kind, in other strides, or of no even number of
    elements, and for bits that have no such entry.
    Launches: _weight_bits_kernel.
    """
    op = "weight_bits"
    _check.tensor(op, "weight", weight, tuple(weight.shape), weight, NARROW)
    _check.tensor(op, "bits", bits, (-1,), weight, INT64)
    if not 0 <= number < len(bits):
        raise ValueError(f"{op}: number {number} is outside of {len(bits)} bits")
    words = weight.numel() // 2
    if weight.numel() % 2 or not words:
        raise ValueError(f"{op}: weight has {weight.numel()} elements, wanted an even number")
    blocks = triton.cdiv(words, WORDS)
    rounds = triton.cdiv(blocks, MOST_PROGRAMS)
    launched(_weight_bits_kernel, triton.cdiv(blocks, rounds))(
        weight.view(-1).view(torch.int32), bits, number, words, rounds, BLOCK=WORDS,
        **row_options(_weight_bits_kernel, RowTile(warps=8)),
    )  # fmt: skip
    return bits


def composed_product(
    weight: Tensor,
    before: Tensor,
    taken: Tensor | None,
    now: Tensor,
    known: Tensor,
    out: Tensor,
    rounded: Tensor | None = None,
) -> Tensor:
    """`out`, and the same in `rounded`, in the weight's dtype with rows apart; both are left as
    they are where `now` and `known` are equal.

    Raises: ValueError for a shape, dtype or layout that the kernel does not take.
    Launches: _composed_product_kernel.
    """
    op = "composed_product"
    d = len(weight)
    for name, half in (("weight", weight), ("taken", taken), ("rounded", rounded)):
        if half is not None:
            _check_half(op, name, half, weight)
    if taken is not None and taken.stride() != weight.stride():
        raise ValueError(f"{op}: taken has strides {taken.stride()}, wanted {weight.stride()}")
    for name, square in (("before", before), ("out", out)):
        _check.tensor(op, name, square, (d, d), weight, _check.FLOAT32)
    _check.tensor(op, "now", now, (-1,), weight, INT64)
    _check.tensor(op, "known", known, tuple(now.shape), weight, INT64)
    if len(now) > MOST_NUMBERS:
        raise ValueError(f"{op}: {len(now)} numbers, wanted at most {MOST_NUMBERS}")
    tiles = triton.cdiv(d, TILE.m) * triton.cdiv(d, TILE.n)
    launched(_composed_product_kernel, tiles)(
        weight, before, weight if taken is None else taken, now, known, out,
        out if rounded is None else rounded, len(now), d, D=d, STRIDE=weight.stride(0),
        ROUNDED_STRIDE=d if rounded is None else rounded.stride(0), NUMBERS=MOST_NUMBERS,
        BLOCK_M=TILE.m, BLOCK_N=TILE.n, BLOCK_K=TILE.k, HAS_TAKEN=taken is not None,
        ROUNDED=rounded is not None, UPCAST=needs_upcast(_composed_product_kernel, weight.dtype),
        **row_options(_composed_product_kernel, RowTile(warps=TILE.warps)),
    )  # fmt: skip
    return out


def _check_half(op: str, name: str, got: Tensor, weight: Tensor) -> None:
    d = len(weight)
    if tuple(got.shape) != (d, d) or got.dtype not in NARROW or got.dtype != weight.dtype:
        raise ValueError(
            f"{op}: {name} is {got.dtype} {tuple(got.shape)}, wanted [{d}, {d}] in bfloat16 or "
            f"float16, as the weight"
        )
    if got.stride(1) != 1 or got.stride(0) % 8 or d % 8:
        raise ValueError(
            f"{op}: {name} has strides {got.stride()}, wanted columns side by side and rows a "
            "multiple of 8 apart"
        )
