# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""What the kernels with matrix products have in common, inlined into each."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels._launch import MatrixTile, options


def needs_upcast(kernel: Any, dtype: torch.dtype) -> bool:
    """Whether products must be taken in float32: only for bf16 in Triton's interpreter, which
    multiplies its bit patterns.  Compiled kernels use the tensor cores."""
    return dtype == torch.bfloat16 and not isinstance(kernel, triton.runtime.JITFunction)


def product_options(
    kernel: Any, tile: MatrixTile, x: Tensor, bias: Tensor | None
) -> dict[str, Any]:
    """What every launch of a product says of its tile, its bias and its dtype."""
    return {
        **{"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "GROUP": tile.group},
        **{"HAS_BIAS": bias is not None, "UPCAST": needs_upcast(kernel, x.dtype)},
        **options(tile.warps, num_stages=tile.stages),
    }


@triton.jit
def upcast(tile, UPCAST: tl.constexpr):
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit
def head_tile(
    ptr, rows, T, STRIDE: tl.constexpr, F: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr,
    EVEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """COUNT columns of a head from column FIRST on, for some tokens; zero where there are none."""
    columns = FIRST + tl.arange(0, COUNT)
    ptrs = ptr + rows[:, None] * STRIDE + columns[None, :]
    if EVEN and FIRST + COUNT <= F:
        tile = tl.load(ptrs)
    elif EVEN:
        tile = tl.load(ptrs, mask=(columns < F)[None, :], other=0.0)
    else:
        tile = tl.load(ptrs, mask=(rows < T)[:, None] & (columns < F)[None, :], other=0.0)
    return upcast(tile, UPCAST)


@triton.jit
def tile_of(program, M, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
            GROUP: tl.constexpr):  # fmt: skip
    """Rows and columns of a program's tile; GROUP tiles of rows run down each column of tiles
    together, so that they find the weight in the cache."""
    row_tiles, column_tiles = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    group = program // (GROUP * column_tiles)
    size = min(row_tiles - group * GROUP, GROUP)
    inside = program % (GROUP * column_tiles)
    row_tile, column_tile = group * GROUP + inside % size, inside // size
    rows = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    return rows, column_tile * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def accumulated(
    total, a_ptr, w_ptr, rows, columns, first, last, STRIDE_A: tl.constexpr,
    STRIDE_W: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """total + a[rows, first:last] @ w[columns, first:last]^T, in float32.

    EVEN: the range is whole blocks.  `first` and `last` are numbers of run time, since bounds known
    at compile time would unroll the whole loop.
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
def plus_bias(total, bias_ptr, columns, inside):
    return total + tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]


@triton.jit
def store_tile(out_ptr, total, rows, columns, M, N: tl.constexpr, first=0):
    """Write what of a tile lies inside of [M, N], from row `first` of the output on."""
    row = tl.cast(first, tl.int64) + rows
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    ptrs = out_ptr + row[:, None] * N + columns[None, :]
    tl.store(ptrs, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gelu_tanh(x):
    # 0.5 x (1 + tanh u) = x sigmoid(2 u), which does not cancel for negative x.
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def gelu_erf(x):
    return 0.5 * x * (1.0 + tl.erf(0.7071067811865476 * x))
