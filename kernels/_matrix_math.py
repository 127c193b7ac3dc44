# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""What the kernels with matrix products have in common, inlined into each."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels._launch import (
    AttentionTile,
    MatrixTile,
    attention_tile,
    options,
    two_parts,
)
from l2c_rt.kernels._launcher import capability, dependent


def needs_upcast(kernel: Any, dtype: torch.dtype) -> bool:
    """Whether products must be taken in float32: only for bf16 in Triton's interpreter, which
    multiplies its bit patterns.  Compiled kernels use the tensor cores."""
    return dtype == torch.bfloat16 and not isinstance(kernel, triton.runtime.JITFunction)


def product_options(
    kernel: Any, tile: MatrixTile, x: Tensor, bias: Tensor | None
) -> dict[str, Any]:
    """What every launch of a product says of its tile, its bias and its dtype."""
    pdl = dependent(kernel)
    return {
        **{"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "GROUP": tile.group},
        **{"HAS_BIAS": bias is not None, "UPCAST": needs_upcast(kernel, x.dtype), "PDL": pdl},
        **options(tile.warps, pdl=pdl, num_stages=tile.stages),
    }


def wide_options(kernel: Any, tile: MatrixTile, x: Tensor, bias: Tensor | None) -> dict[str, Any]:
    """`product_options` of a kernel whose tile may have columns beyond a power of two."""
    columns, rest = two_parts(tile.n)
    cut: dict[str, Any] = {"BLOCK_N": columns, "REST": rest}
    if rest and capability(kernel) == 90:
        # Two blocks for each multiprocessor; triton 3.6 left alone takes a few registers too many.
        cut["maxnreg"] = 128
    return product_options(kernel, tile, x, bias) | cut


class AttentionLaunch(NamedTuple):
    """A program per head and tile of tokens; `options` are the kernel's own and Triton's."""

    grid: int
    scale: float
    options: dict[str, Any]


def attention_launch(
    kernel: Any, qkv: Tensor, heads: int, scale: float | None, tile: AttentionTile | None
) -> AttentionLaunch:
    """How a kernel over packed qkv is launched; `scale` and `tile` None are the usual ones."""
    b, t, packed = qkv.shape
    head = packed // (3 * heads)
    tile = tile or attention_tile(b * heads, t, qkv.element_size())
    first, second, pdl = *two_parts(head), dependent(kernel)
    more = {
        **{"H": heads, "F": head, "F0": first, "F1": second, "PDL": pdl},
        **{"BLOCK_M": tile.m, "BLOCK_N": tile.n, "UPCAST": needs_upcast(kernel, qkv.dtype)},
        "EVEN": t % tile.m == 0 and t % tile.n == 0,
        **options(tile.warps, pdl=pdl, num_stages=tile.stages, maxnreg=tile.registers),
    }
    scale = 1.0 / math.sqrt(head) if scale is None else scale
    return AttentionLaunch(b * heads * -(-t // tile.m), scale, more)


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
def start_of_tile(program, M, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                  GROUP: tl.constexpr):  # fmt: skip
    """The first row and the first column of a program's tile; GROUP tiles of rows run down each
    column of tiles together, so that they find the weight in the cache."""
    row_tiles, column_tiles = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    group = program // (GROUP * column_tiles)
    size = min(row_tiles - group * GROUP, GROUP)
    inside = program % (GROUP * column_tiles)
    row_tile, column_tile = group * GROUP + inside % size, inside // size
    return row_tile * BLOCK_M, column_tile * BLOCK_N


@triton.jit
def tile_of(program, M, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
            GROUP: tl.constexpr):  # fmt: skip
    """Rows and columns of a program's tile."""
    row, column = start_of_tile(program, M, N, BLOCK_M, BLOCK_N, GROUP)
    return row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)


@triton.jit
def prefetch_weight(
    w_ptr, columns, first, last, STRIDE_W: tl.constexpr, BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Bring the first blocks of a tile's weight into L2 while the kernel before still runs.

    A hint: nothing is read into the program, so that a weight which that kernel writes is right.
    """
    if PDL:
        # 64 elements of two bytes are a line.
        ks = first + tl.arange(0, 4) * BLOCK_K
        ptrs = w_ptr + columns.to(tl.int64)[:, None] * STRIDE_W + tl.minimum(ks, last - 1)[None, :]
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [ptrs], dtype=tl.int32,
            is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def accumulated_in_two(
    total, rest, a_ptr, w_ptr, rows, columns, more, first, last, STRIDE: tl.constexpr,
    BLOCK_K: tl.constexpr, EVEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """`accumulated` over two blocks of columns, which share what is read of a."""
    ks = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + rows.to(tl.int64)[:, None] * STRIDE + ks[None, :]
    w_ptrs = w_ptr + columns.to(tl.int64)[None, :] * STRIDE + ks[:, None]
    more_ptrs = w_ptr + more.to(tl.int64)[None, :] * STRIDE + ks[:, None]
    for k in tl.range(first, last, BLOCK_K):
        if EVEN:
            a, w, v = tl.load(a_ptrs + k), tl.load(w_ptrs + k), tl.load(more_ptrs + k)
        else:
            inside = (k + ks < last)[:, None]
            a = tl.load(a_ptrs + k, mask=(k + ks < last)[None, :], other=0.0)
            w = tl.load(w_ptrs + k, mask=inside, other=0.0)
            v = tl.load(more_ptrs + k, mask=inside, other=0.0)
        a = upcast(a, UPCAST)
        total = tl.dot(a, upcast(w, UPCAST), total, input_precision="ieee")
        rest = tl.dot(a, upcast(v, UPCAST), rest, input_precision="ieee")
    return total, rest


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
