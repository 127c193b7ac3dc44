# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""A linear layer cut along its inner dimension, for grids too small to fill the GPU.

    parts[i] = x[:, K_i] weight[:, K_i]^T  (+ bias in part 0)          y = sum_i parts[i]

The parts stay float32 and are added in order by the kernel that adds the branch
(`split_gate_residual_norm_modulate`, `split_residual_norm`) or by `split_sum`: no atomics, so a
replay gives the same bits, and no launch of its own for the reduction.

Shapes: x [..., K] with M rows; weight [N, K]; bias [N]; parts float32 [s, M, N]; K and N multiples
of 8.
Passes: x and weight once, parts written once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._launch import MatrixTile, linear_tile, options
from l2c_rt.kernels._matrix_math import accumulated, needs_upcast, tile_of


def split_linear_bytes(rows: int, columns: int, inner: int, splits: int, itemsize: int) -> int:
    """x, weight and bias read once, the parts written in float32."""
    read = (rows * inner + columns * inner + columns) * itemsize
    return read + 4 * splits * rows * columns


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    m, n, k, size = args["M"], args["N"], args["K"], args["x_ptr"].element_size()
    return {
        "name": f"{metadata.name} [{m}, {n}, {k}] s={args['SPLITS']}",
        "bytes": split_linear_bytes(m, n, k, args["SPLITS"], size),
        f"flops{8 * size}": 2 * m * n * k,
    }


@triton.jit(do_not_specialize=["M", "inner"], launch_metadata=_metadata)
def _split_linear_kernel(
    x_ptr, weight_ptr, bias_ptr, parts_ptr, M, inner, N: tl.constexpr, K: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr, HAS_BIAS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    LENGTH: tl.constexpr = (K + SPLITS * BLOCK_K - 1) // (SPLITS * BLOCK_K) * BLOCK_K
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    split = tl.program_id(0) // tiles
    row_tile, column_tile = tile_of(tl.program_id(0) % tiles, M, N, BLOCK_M, BLOCK_N, GROUP)
    rows = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    total = accumulated(
        tl.zeros((BLOCK_M, BLOCK_N), tl.float32), x_ptr, weight_ptr, rows % M, columns % N,
        split * LENGTH, min(inner, (split + 1) * LENGTH), K, K, BLOCK_K, K % BLOCK_K == 0, UPCAST,
    )  # fmt: skip
    if HAS_BIAS:
        added = columns < tl.where(split == 0, N, 0)
        total += tl.load(bias_ptr + columns, mask=added, other=0.0).to(tl.float32)[None, :]
    row = split.to(tl.int64) * M + rows
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    tl.store(parts_ptr + row[:, None] * N + columns[None, :], total, mask=inside)


def split_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    splits: int = 2,
    out: Tensor | None = None,
    tile: MatrixTile | None = None,
) -> Tensor:
    """The parts, for a kernel that adds them.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _split_linear_kernel.
    """
    op = "split_linear"
    m, n, k = _check.product(op, x, weight, bias)
    cut = linear_tile(m, n, x.element_size()) if tile is None else tile
    if not 1 <= splits <= -(-k // cut.k):
        raise ValueError(
            f"{op}: {splits} splits of {k} columns, wanted 1 to {-(-k // cut.k)} so that each has "
            f"a block of {cut.k}"
        )
    parts = x.new_empty((splits, m, n), dtype=torch.float32) if out is None else out
    _check.tensor(op, "out", parts, (splits, m, n), x, _check.FLOAT32)
    _split_linear_kernel[(splits * -(-m // cut.m) * -(-n // cut.n),)](
        x, weight, weight if bias is None else bias, parts, m, k, N=n, K=k, SPLITS=splits,
        BLOCK_M=cut.m, BLOCK_N=cut.n, BLOCK_K=cut.k, GROUP=cut.group, HAS_BIAS=bias is not None,
        UPCAST=needs_upcast(_split_linear_kernel, x.dtype),
        **options(cut.warps, num_stages=cut.stages),
    )  # fmt: skip
    return parts
