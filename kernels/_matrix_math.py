# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""What the kernels with matrix products have in common, inlined into each."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


def needs_upcast(kernel: Any, dtype: torch.dtype) -> bool:
    """Whether products must be taken in float32: only for bf16 in Triton's interpreter, which
    multiplies its bit patterns.  Compiled kernels use the tensor cores."""
    return dtype == torch.bfloat16 and not isinstance(kernel, triton.runtime.JITFunction)


@triton.jit
def upcast(tile, UPCAST: tl.constexpr):
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
def tile_of(program, M, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
            GROUP: tl.constexpr):  # fmt: skip
    """Row and column tile of a program; GROUP row tiles run down each column of tiles together,
    so that they find the weight in the cache."""
    rows, columns = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    group = program // (GROUP * columns)
    size = min(rows - group * GROUP, GROUP)
    inside = program % (GROUP * columns)
    return group * GROUP + inside % size, inside // size


@triton.jit
def accumulated(
    total, a_ptr, w_ptr, rows, columns, first, last, STRIDE_A: tl.constexpr,
    STRIDE_W: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """total + a[rows, first:last] @ w[columns, first:last]^T, in float32.

    EVEN: the range is whole blocks.  Bounds known at compile time would unroll the whole loop.
    """
    ks = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + rows.to(tl.int64)[:, None] * STRIDE_A + ks[None, :]
    w_ptrs = w_ptr + columns.to(tl.int64)[None, :] * STRIDE_W + ks[:, None]
    for k in tl.range(first, last, BLOCK_K):
        if EVEN:
            a, w = tl.load(a_ptrs + k), tl.load(w_ptrs + k)
        else:
            a = tl.load(a_ptrs + k, mask=(k + ks < last)[None, :], other=0.0)
            w = tl.load(w_ptrs + k, mask=(k + ks < last)[:, None], other=0.0)
        total = tl.dot(upcast(a, UPCAST), upcast(w, UPCAST), total, input_precision="ieee")
    return total


@triton.jit
def gelu_tanh(x):
    # 0.5 x (1 + tanh u) = x sigmoid(2 u), which does not cancel for negative x.
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def gelu_erf(x):
    return 0.5 * x * (1.0 + tl.erf(0.7071067811865476 * x))
