# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""How much attention each token gets: the column sums of the softmax map, which is never stored.

    logs[b, h, t] = log2 sum_u 2^s[t, u]    s = log2(e) * scale * q[b, t, h] . k[b, u, h]
    received[b, h, u] = sum_t 2^(s[t, u] - logs[b, h, t])

Two passes over the map by tiles, each with the products of q and k of one attention: the sum of a
row is known only after the whole row.  Products in the inputs' dtype on tensor cores, the rest in
float32; no atomics, so that a second run gives the same bits.

Shapes: qkv [B, T, 3 H F], as [3, H, F] per token; logs, received float32 [B, H, T]; F a multiple
of 8 up to 128.  Each kernel reads two of [B, T, D].
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
from l2c_rt.kernels._row_math import let_next_kernel_start, wait_for_kernel_before


def attention_logs_bytes(batch: int, tokens: int, heads: int, head: int, itemsize: int) -> int:
    """q and k read once, one number per head and token written."""
    return batch * tokens * heads * (2 * head * itemsize + 4)


def attention_received_bytes(batch: int, tokens: int, heads: int, head: int, itemsize: int) -> int:
    """q and k read once, one number per head and token read and one written."""
    return batch * tokens * heads * (2 * head * itemsize + 8)


def _metadata(model: Any) -> Any:
    def describe(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
        out, heads, head = args["out_ptr"], args["H"], args["F"]
        size, batch, tokens = args["qkv_ptr"].element_size(), len(out), args["T"]
        return {
            "name": f"{metadata.name} [{batch}, {tokens}, {heads} x {head}]",
            "bytes": model(batch, tokens, heads, head, size),
            f"flops{8 * size}": 2 * batch * heads * tokens * tokens * head,
        }

    return describe


@triton.jit
def _scores(
    a0, ptr, others, a1, T, STRIDE: tl.constexpr, F: tl.constexpr, F0: tl.constexpr,
    F1: tl.constexpr, EVEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Products of a head's columns of some tokens with those of others."""
    b0 = head_tile(ptr, others, T, STRIDE, F, 0, F0, EVEN, UPCAST)
    scores = tl.dot(a0, tl.trans(b0), input_precision="ieee")
    if F1:
        b1 = head_tile(ptr, others, T, STRIDE, F, F0, F1, EVEN, UPCAST)
        scores = tl.dot(a1, tl.trans(b1), scores, input_precision="ieee")
    return scores


@triton.jit
def _place(qkv_ptr, T, H: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr):
    """A program's queries and keys, its first number of [B, H, T], its tokens."""
    tiles = tl.cdiv(T, BLOCK)
    head = tl.program_id(0) // tiles
    # 64 bits: qkv has more than 2^31 elements from thousands of images on.
    q_ptr = qkv_ptr + (head // H).to(tl.int64) * T * (3 * H * F) + head % H * F
    rows = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    return q_ptr, q_ptr + H * F, head.to(tl.int64) * T, rows


@triton.jit(do_not_specialize=["T"], launch_metadata=_metadata(attention_logs_bytes))
def _attention_logs_kernel(
    qkv_ptr, out_ptr, scale, T, H: tl.constexpr, F: tl.constexpr, F0: tl.constexpr,
    F1: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EVEN: tl.constexpr,
    UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    STRIDE: tl.constexpr = 3 * H * F
    q_ptr, k_ptr, first, rows = _place(qkv_ptr, T, H, F, BLOCK_M)
    wait_for_kernel_before(PDL)
    q0 = head_tile(q_ptr, rows, T, STRIDE, F, 0, F0, EVEN, UPCAST)
    q1 = head_tile(q_ptr, rows, T, STRIDE, F, F0, F1, EVEN, UPCAST) if F1 else q0
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for n in tl.range(0, T, BLOCK_N):
        keys = n + tl.arange(0, BLOCK_N)
        scores = _scores(q0, k_ptr, keys, q1, T, STRIDE, F, F0, F1, EVEN, UPCAST)
        # In base 2, as the hardware's exponential is: 1.44... is log2(e).
        scores *= scale * 1.4426950408889634
        if not EVEN:
            scores = tl.where((keys < T)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(scores - higher[:, None]), axis=1)
        top = higher
    let_next_kernel_start(PDL)
    tl.store(out_ptr + first + rows, top + tl.log2(total), mask=rows < T)


@triton.jit(do_not_specialize=["T"], launch_metadata=_metadata(attention_received_bytes))
def _attention_received_kernel(
    qkv_ptr, logs_ptr, out_ptr, scale, T, H: tl.constexpr, F: tl.constexpr, F0: tl.constexpr,
    F1: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EVEN: tl.constexpr,
    UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    STRIDE: tl.constexpr = 3 * H * F
    q_ptr, k_ptr, first, keys = _place(qkv_ptr, T, H, F, BLOCK_M)
    wait_for_kernel_before(PDL)
    k0 = head_tile(k_ptr, keys, T, STRIDE, F, 0, F0, EVEN, UPCAST)
    k1 = head_tile(k_ptr, keys, T, STRIDE, F, F0, F1, EVEN, UPCAST) if F1 else k0
    received = tl.zeros((BLOCK_M,), tl.float32)
    for n in tl.range(0, T, BLOCK_N):
        rows = n + tl.arange(0, BLOCK_N)
        scores = _scores(k0, q_ptr, rows, k1, T, STRIDE, F, F0, F1, EVEN, UPCAST)
        # A query past the end gives nothing to any key.
        logs = tl.load(logs_ptr + first + rows, mask=rows < T, other=float("inf"))
        weights = tl.exp2(scores * (scale * 1.4426950408889634) - logs[None, :])
        received += tl.sum(weights, axis=1)
    let_next_kernel_start(PDL)
    tl.store(out_ptr + first + keys, received, mask=keys < T)


def attention_logs(
    qkv: Tensor,
    heads: int,
    scale: float | None = None,
    out: Tensor | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    """Of every query, the logarithm to base 2 of its softmax's denominator.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _attention_logs_kernel.
    """
    op = "attention_logs"
    b, t, packed = _check.rows(op, qkv, name="qkv")
    _check.head(op, packed, heads)
    out = qkv.new_empty((b, heads, t), dtype=_check.FLOAT32[0]) if out is None else out
    _check.tensor(op, "out", out, (b, heads, t), qkv, _check.FLOAT32)
    launch = attention_launch(_attention_logs_kernel, qkv, heads, scale, tile)
    launched(_attention_logs_kernel, launch.grid)(qkv, out, launch.scale, t, **launch.options)
    return out


def attention_received(
    qkv: Tensor,
    logs: Tensor,
    scale: float | None = None,
    out: Tensor | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    """Of every key, the attention that it gets from all queries of its head.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _attention_received_kernel.
    """
    op = "attention_received"
    b, t, packed = _check.rows(op, qkv, name="qkv")
    _check.tensor(op, "logs", logs, (b, -1, t), qkv, _check.FLOAT32)
    heads = logs.shape[1]
    _check.head(op, packed, heads)
    out = logs.new_empty(logs.shape) if out is None else out
    _check.tensor(op, "out", out, (b, heads, t), qkv, _check.FLOAT32)
    _check.distinct(op, "out", out, "logs", logs)
    launch = attention_launch(_attention_received_kernel, qkv, heads, scale, tile)
    launched(_attention_received_kernel, launch.grid)(
        qkv, logs, out, launch.scale, t, **launch.options
    )
    return out
