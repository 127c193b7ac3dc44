# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Linear layers for few rows: a candidate beside cuBLAS, with GELU in the epilogue.

    y = gelu(x weight^T + bias)

Shapes: x [..., K]; weight [N, K]; bias [N]; y [..., N]; K and N multiples of 8.
`gelu` is PyTorch's `approximate` ("tanh" or "none", which is erf), None for no activation.
Passes: x, weight and y once; an activation of its own makes 2 more over y.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._launch import MatrixTile, linear_tile
from l2c_rt.kernels._launcher import launched
from l2c_rt.kernels._matrix_math import (
    accumulated,
    accumulated_in_two,
    gelu_erf,
    gelu_tanh,
    plus_bias,
    prefetch_weight,
    start_of_tile,
    store_tile,
    wide_options,
)
from l2c_rt.kernels._row_math import let_next_kernel_start, wait_for_kernel_before

_GELU = {None: 0, "tanh": 1, "none": 2}


def linear_bytes(rows: int, columns: int, inner: int, itemsize: int) -> int:
    """x, weight and bias read once, y written."""
    return (rows * inner + columns * inner + columns + rows * columns) * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    m, n, k, size = args["M"], args["N"], args["K"], args["x_ptr"].element_size()
    return {
        "name": f"{metadata.name} [{m}, {n}, {k}]",
        "bytes": linear_bytes(m, n, k, size),
        f"flops{8 * size}": 2 * m * n * k,
    }


@triton.jit(do_not_specialize=["M", "inner"], launch_metadata=_metadata)
def _linear_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, M, inner, N: tl.constexpr, K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    REST: tl.constexpr, GELU: tl.constexpr, HAS_BIAS: tl.constexpr,
    UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row, column = start_of_tile(tl.program_id(0), M, N, BLOCK_M, BLOCK_N + REST, GROUP)
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    prefetch_weight(weight_ptr, columns % N, 0, inner, K, BLOCK_K, PDL)
    wait_for_kernel_before(PDL)
    # Tiles that stick out read other rows again instead of being masked in the loop.
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if REST:
        more = column + BLOCK_N + tl.arange(0, REST)
        total, rest = accumulated_in_two(
            total, tl.zeros((BLOCK_M, REST), tl.float32), x_ptr, weight_ptr, rows % M, columns % N,
            more % N, 0, inner, K, BLOCK_K, K % BLOCK_K == 0, UPCAST,
        )  # fmt: skip
        let_next_kernel_start(PDL)
        _activated(out_ptr, bias_ptr, rest, rows, more, M, N, GELU, HAS_BIAS)
    else:
        total = accumulated(
            total, x_ptr, weight_ptr, rows % M, columns % N, 0, inner, K, K, BLOCK_K,
            K % BLOCK_K == 0, UPCAST,
        )  # fmt: skip
        let_next_kernel_start(PDL)
    _activated(out_ptr, bias_ptr, total, rows, columns, M, N, GELU, HAS_BIAS)


@triton.jit
def _activated(
    out_ptr, bias_ptr, total, rows, columns, M, N: tl.constexpr, GELU: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    if HAS_BIAS:
        total = plus_bias(total, bias_ptr, columns, columns < N)
    if GELU == 1:
        total = gelu_tanh(total)
    elif GELU == 2:
        total = gelu_erf(total)
    store_tile(out_ptr, total, rows, columns, M, N)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gelu: str | None = None,
    out: Tensor | None = None,
    tile: MatrixTile | None = None,
) -> Tensor:
    """y, which may be a slot.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _linear_kernel.
    """
    op = "linear"
    if gelu not in _GELU:
        raise ValueError(f'{op}: gelu is {gelu!r}, wanted "tanh", "none" (erf) or None')
    m, n, k = _check.product(op, x, weight, bias)
    out = x.new_empty((*x.shape[:-1], n)) if out is None else out
    _check.tensor(op, "out", out, (*x.shape[:-1], n), x)
    tile = tile or linear_tile(m, n, x.element_size())
    launched(_linear_kernel, tile.count(m, n))(
        x, weight, weight if bias is None else bias, out, m, k, N=n, K=k, GELU=_GELU[gelu],
        **wide_options(_linear_kernel, tile, x, bias),
    )  # fmt: skip
    return out
