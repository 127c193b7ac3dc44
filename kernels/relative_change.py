# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""How much a tensor has changed: mean |now - before| / mean |before|.

Each program of the first kernel sums its part of both in float32; one program of the second sums
the parts, always in the same order, so that the same tensors give the same number bitwise.
Shapes: now and before alike, of n elements; the result a float32 scalar.
Passes over n elements: 2 reads, where eager PyTorch makes 4 and 2 writes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._launch import RowTile
from l2c_rt.kernels._launcher import launched, row_options
from l2c_rt.kernels._row_math import let_next_kernel_start, wait_for_kernel_before

BLOCK = 2048
MOST_PARTS = 1024
"""Programs of the first kernel: some eight for each multiprocessor of an H100."""


def relative_change_bytes(elements: int, itemsize: int) -> int:
    """Both tensors read; the parts and the result are nothing beside them."""
    return 2 * elements * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    return {
        "name": f"{metadata.name} [{args['N']}]",
        "bytes": relative_change_bytes(args["N"], args["now_ptr"].element_size()),
        "flops32": 4 * args["N"],
    }


@triton.jit(
    do_not_specialize=["N", "rounds"],
    do_not_specialize_on_alignment=["parts_ptr"],
    launch_metadata=_metadata,
)
def _change_parts_kernel(
    now_ptr, before_ptr, parts_ptr, N, rounds, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    change = tl.zeros((BLOCK,), tl.float32)
    size = tl.zeros((BLOCK,), tl.float32)
    first = tl.program_id(0).to(tl.int64) * rounds * BLOCK
    wait_for_kernel_before(PDL)
    for i in tl.range(0, rounds):
        at = first + i * BLOCK + tl.arange(0, BLOCK)
        # A mask would cut every load to single elements, since N may be any number.
        if first + (i + 1) * BLOCK <= N:
            now = tl.load(now_ptr + at).to(tl.float32)
            before = tl.load(before_ptr + at).to(tl.float32)
        else:
            now = tl.load(now_ptr + at, mask=at < N, other=0.0).to(tl.float32)
            before = tl.load(before_ptr + at, mask=at < N, other=0.0).to(tl.float32)
        change += tl.abs(now - before)
        size += tl.abs(before)
    let_next_kernel_start(PDL)
    tl.store(parts_ptr + 2 * tl.program_id(0), tl.sum(change, axis=0))
    tl.store(parts_ptr + 2 * tl.program_id(0) + 1, tl.sum(size, axis=0))


@triton.jit(do_not_specialize=["parts"], do_not_specialize_on_alignment=["parts_ptr", "out_ptr"])
def _change_quotient_kernel(parts_ptr, out_ptr, parts, BLOCK: tl.constexpr, PDL: tl.constexpr):
    i = tl.arange(0, BLOCK)
    wait_for_kernel_before(PDL)
    change = tl.load(parts_ptr + 2 * i, mask=i < parts, other=0.0)
    size = tl.load(parts_ptr + 2 * i + 1, mask=i < parts, other=0.0)
    tl.store(out_ptr, tl.sum(change, axis=0) / tl.sum(size, axis=0))


def relative_change(now: Tensor, before: Tensor, out: Tensor | None = None) -> Tensor:
    """The change, in `out` where it is given.

    Raises: ValueError for shapes or dtypes that differ, a layout or alignment that the kernel does
    not take, and empty tensors.
    Launches: _change_parts_kernel, _change_quotient_kernel.
    """
    op = "relative_change"
    _check.tensor(op, "now", now, tuple(now.shape), now)
    _check.tensor(op, "before", before, tuple(now.shape), now, (now.dtype,))
    if not now.numel():
        raise ValueError(f"{op}: now {tuple(now.shape)} is empty")
    if out is None:
        out = torch.empty((), dtype=torch.float32, device=now.device)
    elif out.dim() or out.dtype != torch.float32 or out.device != now.device:
        raise ValueError(
            f"{op}: out is {out.dtype} {tuple(out.shape)} on {out.device}, wanted a float32 scalar "
            f"on {now.device}"
        )
    blocks = triton.cdiv(now.numel(), BLOCK)
    rounds = triton.cdiv(blocks, MOST_PARTS)
    parts = triton.cdiv(blocks, rounds)
    sums = torch.empty(2 * parts, dtype=torch.float32, device=now.device)
    launched(_change_parts_kernel, parts)(
        now, before, sums, now.numel(), rounds, BLOCK=BLOCK,
        **row_options(_change_parts_kernel, RowTile(warps=8)),
    )  # fmt: skip
    launched(_change_quotient_kernel, 1)(
        sums, out, parts, BLOCK=MOST_PARTS, **row_options(_change_quotient_kernel, RowTile())
    )
    return out
