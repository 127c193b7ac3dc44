# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Self-attention straight from the packed qkv projection, for head dimensions that are no power
of two: 72 is computed as 64 + 16.

    out[b, t, h] = sum_u softmax_u(scale * q[b, t, h] . k[b, u, h]) v[b, u, h]

Products in the inputs' dtype on tensor cores, softmax and sums in float32, one pass over the keys
(the running maximum of arXiv 2205.14135).

Shapes: qkv [B, T, 3 H F], as [3, H, F] per token; out [B, T, H F]; F a multiple of 8 up to 128.
Passes over [B, T, D]: 3 reads and 1 write; eager PyTorch transposes too, which makes 4 more.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._launch import AttentionTile
from l2c_rt.kernels._launcher import launched
from l2c_rt.kernels._matrix_math import attention_launch, head_tile
from l2c_rt.kernels._row_math import let_next_kernel_start, wait_with

FEW_KEYS: tl.constexpr = tl.constexpr(32)
"""Prefix tokens and their like; with 16, the least of a product, copies would be of 4 bytes."""


def attention_bytes(batch: int, tokens: int, width: int, itemsize: int) -> int:
    """q, k and v read once, the result written."""
    return 4 * batch * tokens * width * itemsize


def _metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    tokens, heads, head, size = args["T"], args["H"], args["F"], args["qkv_ptr"].element_size()
    batch = args["out_ptr"].shape[0]
    return {
        "name": f"{metadata.name} [{batch}, {tokens}, {heads} x {head}]",
        "bytes": attention_bytes(batch, tokens, heads * head, size),
        f"flops{8 * size}": 4 * batch * heads * tokens * tokens * head,
    }


@triton.jit
def _store_head(
    ptr, rows, value, T, STRIDE: tl.constexpr, F: tl.constexpr, FIRST: tl.constexpr,
    COUNT: tl.constexpr,
):  # fmt: skip
    columns = FIRST + tl.arange(0, COUNT)
    ptrs = ptr + rows[:, None] * STRIDE + columns[None, :]
    inside = (rows < T)[:, None] & (columns < F)[None, :]
    tl.store(ptrs, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _mixed_in(
    state, q0, q1, k_ptr, v_ptr, scale, n, T, STRIDE: tl.constexpr, F: tl.constexpr,
    F0: tl.constexpr, F1: tl.constexpr, COUNT: tl.constexpr, EVEN: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """The running sums with COUNT keys more, from key n on: what was mixed (the head's two parts),
    the largest score, the sum of the weights."""
    out0, out1, top, total = state
    keys = n + tl.arange(0, COUNT)
    k0 = head_tile(k_ptr, keys, T, STRIDE, F, 0, F0, EVEN, UPCAST)
    scores = tl.dot(q0, tl.trans(k0), input_precision="ieee")
    if F1:
        k1 = head_tile(k_ptr, keys, T, STRIDE, F, F0, F1, EVEN, UPCAST)
        scores = tl.dot(q1, tl.trans(k1), scores, input_precision="ieee")
    # In base 2, as the hardware's exponential is: 1.44... is log2(e).
    scores *= scale * 1.4426950408889634
    if not EVEN:
        # Keys past the end are loaded as zeros, whose score is 0 and not nothing.  The first
        # block has a key, so `higher` is finite from there on.
        scores = tl.where((keys < T)[None, :], scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, axis=1))
    weights = tl.exp2(scores - higher[:, None])
    fade = tl.exp2(top - higher)
    total = total * fade + tl.sum(weights, axis=1)
    v0 = head_tile(v_ptr, keys, T, STRIDE, F, 0, F0, EVEN, UPCAST)
    # Rounded for the tensor cores, after their sum was taken in float32.
    weights = weights.to(v0.dtype)
    out0 = tl.dot(weights, v0, out0 * fade[:, None], input_precision="ieee")
    if F1:
        v1 = head_tile(v_ptr, keys, T, STRIDE, F, F0, F1, EVEN, UPCAST)
        out1 = tl.dot(weights, v1, out1 * fade[:, None], input_precision="ieee")
    return out0, out1, higher, total


@triton.jit(do_not_specialize=["T"], launch_metadata=_metadata)
def _attention_kernel(
    qkv_ptr, out_ptr, scale, T, H: tl.constexpr, F: tl.constexpr, F0: tl.constexpr,
    F1: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EVEN: tl.constexpr,
    UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    STRIDE: tl.constexpr = 3 * H * F
    tiles = tl.cdiv(T, BLOCK_M)
    head = tl.program_id(0) // tiles
    # 64 bits: qkv has more than 2^31 elements from thousands of images on.
    first = (head // H).to(tl.int64) * T
    q_ptr = qkv_ptr + first * STRIDE + head % H * F
    k_ptr, v_ptr = q_ptr + H * F, q_ptr + 2 * H * F
    rows = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    wait_with(head, PDL)
    q0 = head_tile(q_ptr, rows, T, STRIDE, F, 0, F0, EVEN, UPCAST)
    out0 = tl.zeros((BLOCK_M, F0), tl.float32)
    q1, out1 = q0, out0
    if F1:
        q1 = head_tile(q_ptr, rows, T, STRIDE, F, F0, F1, EVEN, UPCAST)
        out1 = tl.zeros((BLOCK_M, F1), tl.float32)
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    state = out0, out1, top, tl.zeros((BLOCK_M,), tl.float32)
    # A few keys beyond the last block (prefix tokens) are not worth a block of their own.
    stop = T
    if not EVEN:
        stop = tl.where(T % BLOCK_N <= FEW_KEYS, T - T % BLOCK_N, T)
    for n in tl.range(0, stop, BLOCK_N):
        state = _mixed_in(
            state, q0, q1, k_ptr, v_ptr, scale, n, T, STRIDE, F, F0, F1, BLOCK_N, EVEN, UPCAST
        )
    if not EVEN:
        for n in tl.range(stop, T, FEW_KEYS):
            state = _mixed_in(
                state, q0, q1, k_ptr, v_ptr, scale, n, T, STRIDE, F, F0, F1, FEW_KEYS, EVEN, UPCAST
            )
    out0, out1, top, total = state
    let_next_kernel_start(PDL)
    out_ptr += first * (H * F) + head % H * F
    _store_head(out_ptr, rows, out0 / total[:, None], T, H * F, F, 0, F0)
    if F1:
        _store_head(out_ptr, rows, out1 / total[:, None], T, H * F, F, F0, F1)


def attention(
    qkv: Tensor,
    heads: int,
    scale: float | None = None,
    out: Tensor | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    """The mixed values, heads side by side as the projection takes them.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _attention_kernel.
    """
    op = "attention"
    b, t, packed = _check.rows(op, qkv, name="qkv")
    head = _check.head(op, packed, heads)
    shape = (b, t, heads * head)
    out = qkv.new_empty(shape) if out is None else out
    _check.tensor(op, "out", out, shape, qkv, (qkv.dtype,))
    launch = attention_launch(_attention_kernel, qkv, heads, scale, tile)
    launched(_attention_kernel, launch.grid)(qkv, out, launch.scale, t, **launch.options)
    return out
