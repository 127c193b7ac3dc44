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
from l2c_rt.kernels._launch import MatrixTile, linear_tile, options
from l2c_rt.kernels._matrix_math import (
    accumulated,
    gelu_erf,
    gelu_tanh,
    needs_upcast,
    tile_of,
)

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
    GELU: tl.constexpr, HAS_BIAS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    row_tile, column_tile = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    rows = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    # Tiles that stick out read other rows again instead of being masked in the loop.
    total = accumulated(
        tl.zeros((BLOCK_M, BLOCK_N), tl.float32), x_ptr, weight_ptr, rows % M, columns % N, 0,
        inner, K, K, BLOCK_K, K % BLOCK_K == 0, UPCAST,
    )  # fmt: skip
    if HAS_BIAS:
        total += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    if GELU == 1:
        total = gelu_tanh(total)
    elif GELU == 2:
        total = gelu_erf(total)
    ptrs = out_ptr + rows.to(tl.int64)[:, None] * N + columns[None, :]
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    tl.store(ptrs, total.to(out_ptr.dtype.element_ty), mask=inside)


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
    cut = linear_tile(m, n, x.element_size()) if tile is None else tile
    _linear_kernel[(-(-m // cut.m) * -(-n // cut.n),)](
        x, weight, weight if bias is None else bias, out, m, k, N=n, K=k, BLOCK_M=cut.m,
        BLOCK_N=cut.n, BLOCK_K=cut.k, GROUP=cut.group, GELU=_GELU[gelu],
        HAS_BIAS=bias is not None, UPCAST=needs_upcast(_linear_kernel, x.dtype),
        **options(cut.warps, num_stages=cut.stages),
    )  # fmt: skip
    return out
