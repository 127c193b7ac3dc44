# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""U-ViT's long skip: one linear over two sources, which are never concatenated.

    y = [x | skip] weight^T + bias = x weight[:, :D]^T + skip weight[:, D:]^T + bias

One float32 accumulator runs through both halves, so that nothing is rounded between them.

Shapes: x, skip [..., D]; weight [N, 2 D]; bias [N]; y [..., N]; D and N multiples of 8.
Passes: x, skip, weight and y once; a concatenation makes 4 more over [B, T, D].
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
    plus_bias,
    prefetch_weight,
    product_options,
    store_tile,
    tile_of,
)
from l2c_rt.kernels._row_math import let_next_kernel_start, wait_for_kernel_before


def skip_linear_bytes(rows: int, columns: int, width: int, itemsize: int) -> int:
    """x, skip, weight and bias read once, y written."""
    return (2 * (rows + columns) * width + columns + rows * columns) * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    m, n, d, size = args["M"], args["N"], args["D"], args["x_ptr"].element_size()
    return {
        "name": f"{metadata.name} [{m}, {n}, 2 x {d}]",
        "bytes": skip_linear_bytes(m, n, d, size),
        f"flops{8 * size}": 4 * m * n * d,
    }


@triton.jit(do_not_specialize=["M", "inner"], launch_metadata=_metadata)
def _skip_linear_kernel(
    x_ptr, skip_ptr, weight_ptr, bias_ptr, out_ptr, M, inner, N: tl.constexpr, D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr, UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    rows, columns = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    prefetch_weight(weight_ptr, columns % N, 0, inner, 2 * D, BLOCK_K, PDL)
    wait_for_kernel_before(PDL)
    total = accumulated(
        tl.zeros((BLOCK_M, BLOCK_N), tl.float32), x_ptr, weight_ptr, rows % M, columns % N, 0,
        inner, D, 2 * D, BLOCK_K, D % BLOCK_K == 0, UPCAST,
    )  # fmt: skip
    total = accumulated(
        total, skip_ptr, weight_ptr + D, rows % M, columns % N, 0,
        inner, D, 2 * D, BLOCK_K, D % BLOCK_K == 0, UPCAST,
    )  # fmt: skip
    let_next_kernel_start(PDL)
    if HAS_BIAS:
        total = plus_bias(total, bias_ptr, columns, columns < N)
    store_tile(out_ptr, total, rows, columns, M, N)


def skip_linear(
    x: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    tile: MatrixTile | None = None,
) -> Tensor:
    """y, in x's dtype where it is allocated here.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _skip_linear_kernel.
    """
    op = "skip_linear"
    m, n, d = _check.product(op, x, weight, bias, halves=2)
    _check.tensor(op, "skip", skip, tuple(x.shape), x, (x.dtype,))
    out = x.new_empty((*x.shape[:-1], n)) if out is None else out
    _check.tensor(op, "out", out, (*x.shape[:-1], n), x)
    tile = tile or linear_tile(m, n, x.element_size())
    launched(_skip_linear_kernel, tile.count(m, n))(
        x, skip, weight, weight if bias is None else bias, out, m, d, N=n, D=d,
        **product_options(_skip_linear_kernel, tile, x, bias),
    )  # fmt: skip
    return out
