# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Rows in 8 bits with a scale each, for products in e4m3; a GELU before it where one is asked for.

    scale[row] = max |gelu(x[row])| / 448        values[row] = e4m3(gelu(x[row]) / scale[row])

448 is the largest number of e4m3.  Needs sm_89.
Shapes: x [..., D], values e4m3 like x, scales float32 [rows].  Passes: 1 read, half a write.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._launch import RowTile, two_parts
from l2c_rt.kernels._launcher import capability, launched, row_options
from l2c_rt.kernels._matrix_math import gelu_erf, gelu_tanh
from l2c_rt.kernels._row_math import (
    in_eights,
    let_next_kernel_start,
    loaded,
    own_row,
    row_scale,
    stored,
    wait_for_kernel_before,
)

_GELU = {None: 0, "tanh": 1, "none": 2}


def quantize_rows_bytes(rows: int, width: int, itemsize: int) -> int:
    """x read; a byte per element and a scale per row written."""
    return rows * (width * (itemsize + 1) + 4)


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    rows, width = grid[0], args["D"]
    return {
        "name": f"{metadata.name} [{rows}, {width}]",
        "bytes": quantize_rows_bytes(rows, width, args["x_ptr"].element_size()),
        "flops32": (10 if args["GELU"] else 3) * rows * width,
    }


@triton.jit(do_not_specialize_on_alignment=["scales_ptr"], launch_metadata=_metadata)
def _quantize_rows_kernel(
    x_ptr, values_ptr, scales_ptr, D: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
    GELU: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # Two blocks of powers of two: one would compute a GELU for nearly as many columns that are
    # not there, 8192 for 4608.
    row, columns, inside = own_row(D, FIRST)
    rest = FIRST + tl.arange(0, REST if REST else 16)[None, :]
    values_ptr = in_eights(values_ptr)
    wait_for_kernel_before(PDL)
    x = loaded(x_ptr + row * D, columns, inside)
    if REST:
        y = loaded(x_ptr + row * D, rest, rest < D)
    let_next_kernel_start(PDL)
    x = _activated(x, GELU)
    scale = row_scale(x)
    if REST:
        y = _activated(y, GELU)
        scale = tl.maximum(scale, row_scale(y))
        stored(values_ptr + row * D, rest, y * (1.0 / scale)[:, None], rest < D)
    stored(values_ptr + row * D, columns, x * (1.0 / scale)[:, None], inside)
    tl.store(scales_ptr + row + tl.zeros((1,), tl.int32), scale)


@triton.jit
def _activated(x, GELU: tl.constexpr):
    if GELU == 1:
        x = gelu_tanh(x)
    elif GELU == 2:
        x = gelu_erf(x)
    elif GELU == 3:
        # One instruction of the unit that every exponential and division shares, where the exact
        # form takes four: it is off by 2^-11 of 1, which e4m3 hardly tells.
        u = x * (0.7978845608028654 + 0.035677408136300125 * x * x)
        x *= 0.5
        x += x * tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [u], dtype=tl.float32, is_pure=True, pack=1
        )
    return x


def quantize_rows(
    x: Tensor,
    gelu: str | None = None,
    out: tuple[Tensor, Tensor] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Tensor]:
    """Values and scales; `gelu` is PyTorch's `approximate`, None for no activation.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _quantize_rows_kernel.
    """
    op = "quantize_rows"
    if gelu not in _GELU:
        raise ValueError(f'{op}: gelu is {gelu!r}, wanted None, "tanh" or "none"')
    _check.tensor(op, "x", x, tuple(x.shape), x)
    d = x.shape[-1]
    _check.width(op, d)
    rows = x.numel() // d
    if out is None:
        values = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
        out = values, torch.empty(rows, dtype=torch.float32, device=x.device)
    _check.tensor(op, "out[0]", out[0], tuple(x.shape), x, (torch.float8_e4m3fn,))
    _check.tensor(op, "out[1]", out[1], (rows,), x, _check.FLOAT32)
    first, rest = two_parts(d)
    # So few warps that each thread also reads 16 bytes of the rest: another layout there would have
    # the GELU of the whole row computed twice.
    tile = tile or RowTile(warps=max(1, first // 2048, rest // 256))
    launched(_quantize_rows_kernel, rows)(
        x, *out, D=d, FIRST=first, REST=rest,
        GELU=3 if gelu == "tanh" and capability(_quantize_rows_kernel) else _GELU[gelu],
        **row_options(_quantize_rows_kernel, tile),
    )  # fmt: skip
    return out
