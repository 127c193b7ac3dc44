# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Which tokens of a branch are computed: their scores as a unit vector, and the k that lead.

    scores[b, t] = p[b, t] / |p[b]|    p = sum_h parts[b, h, t], or H less that where `inverted`
    sum[b, t] = (scores[b, t] + age_factor * (now - stamps[b, t])) * (1 + bonus if best of its cell)

`now` is how often the branch's tokens were chosen before this evaluation, a number of a table that
the device looks up; a stamp is what it was when the token was computed, so that ages grow without
anything being written.  A cell is 2 x 2 of the last `side`^2 tokens; of equal sums the first token
leads.  Additions and multiplications are rounded one by one, so that the choice is bit for bit
that of the same arithmetic in PyTorch.

Shapes: parts float32 [B, H, T]; scores float32, stamps int32 [B, T]; chosen int64 [B, k].
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels import _check
from l2c_rt.kernels._launch import MAX_TOKENS, RowTile, power_of_2
from l2c_rt.kernels._launcher import launched, row_options
from l2c_rt.kernels._row_math import let_next_kernel_start, wait_for_kernel_before
from l2c_rt.kernels.operands import Refreshes

INT64 = (torch.int64,)


def unit_scores_bytes(batch: int, heads: int, tokens: int) -> int:
    """A number per head and token read, a score and a stamp per token written."""
    return 4 * batch * tokens * (heads + 2)


def choose_tokens_bytes(batch: int, tokens: int, count: int) -> int:
    """A score and a stamp per token read, a stamp and a number of each chosen one written."""
    return batch * (8 * tokens + 12 * count)


def _unit_metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    batch, heads, tokens = grid[0], args["H"], args["T"]
    return {
        "name": f"{metadata.name} [{batch}, {heads}, {tokens}]",
        "bytes": unit_scores_bytes(batch, heads, tokens),
        "flops32": batch * tokens * (heads + 3),
    }


def _choose_metadata(grid: Any, metadata: Any, args: Any) -> dict[str, Any]:
    batch, tokens, count = grid[0], args["T"], args["K"]
    return {
        "name": f"{metadata.name} [{batch}, {tokens}] k={count}",
        "bytes": choose_tokens_bytes(batch, tokens, count),
        "flops32": batch * tokens * tokens,
    }


@triton.jit(
    do_not_specialize=["H", "T", "num_states", "column"],
    do_not_specialize_on_alignment=["table_ptr", "counter_ptr"],
    launch_metadata=_unit_metadata,
)
def _unit_scores_kernel(
    parts_ptr, table_ptr, counter_ptr, scores_ptr, stamps_ptr, H, T, num_states, column,
    INVERTED: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    tokens = tl.arange(0, BLOCK)
    inside = tokens < T
    wait_for_kernel_before(PDL)
    total = tl.zeros((BLOCK,), tl.float32)
    for head in tl.range(0, H):
        total += tl.load(parts_ptr + (row * H + head) * T + tokens, mask=inside, other=0.0)
    if INVERTED:
        total = tl.where(inside, H - total, 0.0)
    length = tl.sqrt(tl.sum(total * total, axis=0))
    let_next_kernel_start(PDL)
    tl.store(scores_ptr + row * T + tokens, total / tl.maximum(length, 1e-12), mask=inside)
    now = tl.load(table_ptr + tl.load(counter_ptr).to(tl.int64) * num_states + column)
    tl.store(stamps_ptr + row * T + tokens, tl.zeros((BLOCK,), tl.int32) + now, mask=inside)


@triton.jit
def _sum(scores_ptr, stamps_ptr, now, tokens, inside, age_factor):
    age = now - tl.load(stamps_ptr + tokens, mask=inside, other=0)
    return tl.load(scores_ptr + tokens, mask=inside, other=0.0) + age.to(tl.float32) * age_factor


@triton.jit
def _raised_sum(
    scores_ptr, stamps_ptr, now, tokens, T, age_factor, factor, SIDE: tl.constexpr,
):  # fmt: skip
    """The sums of some tokens, multiplied by `factor` where they are the best of their cell."""
    inside = tokens < T
    mine = _sum(scores_ptr, stamps_ptr, now, tokens, inside, age_factor)
    if SIDE:
        place = tokens - (T - SIDE * SIDE)
        in_cell = inside & (place >= 0)
        corner = tokens - place % SIDE % 2 - place // SIDE % 2 * SIDE
        is_best = in_cell
        for i in tl.static_range(4):
            mate = corner + i // 2 * SIDE + i % 2
            other = _sum(scores_ptr, stamps_ptr, now, mate, in_cell, age_factor)
            is_best = is_best & ((other < mine) | ((other == mine) & (mate >= tokens)))
        mine = tl.where(is_best, mine * factor, mine)
    return mine


@triton.jit(
    do_not_specialize=["T", "K", "num_states", "column"],
    do_not_specialize_on_alignment=["table_ptr", "counter_ptr"],
    launch_metadata=_choose_metadata,
)
def _choose_tokens_kernel(
    scores_ptr, stamps_ptr, table_ptr, counter_ptr, chosen_ptr, age_factor, factor, T, K,
    num_states, column, SIDE: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    scores_ptr += row * T
    stamps_ptr += row * T
    wait_for_kernel_before(PDL)
    now = tl.load(table_ptr + tl.load(counter_ptr).to(tl.int64) * num_states + column)
    tokens = tl.arange(0, BLOCK)
    sums = _raised_sum(scores_ptr, stamps_ptr, now, tokens, T, age_factor, factor, SIDE)[:, None]
    rank = tl.zeros((BLOCK,), tl.int32)
    for first in tl.range(0, T, CHUNK):
        others = first + tl.arange(0, CHUNK)
        theirs = _raised_sum(scores_ptr, stamps_ptr, now, others, T, age_factor, factor, SIDE)
        leads = (theirs[None, :] > sums) | (
            (theirs[None, :] == sums) & (others[None, :] < tokens[:, None])
        )
        rank += tl.sum((leads & (others < T)[None, :]).to(tl.int32), axis=1)
    let_next_kernel_start(PDL)
    taken = (tokens < T) & (rank < K)
    tl.store(chosen_ptr + row * K + rank, tokens.to(tl.int64), mask=taken)
    # No thread may write a stamp that another has still to read.
    tl.debug_barrier()
    tl.store(stamps_ptr + tokens, tl.zeros((BLOCK,), tl.int32) + now + 1, mask=taken)


def unit_scores(
    parts: Tensor,
    refreshes: Refreshes,
    inverted: bool = False,
    out: tuple[Tensor, Tensor] | None = None,
    tile: RowTile | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores of the tokens of a branch that is computed as a whole, and stamps of age 0.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _unit_scores_kernel.
    """
    op = "unit_scores"
    _check.tensor(op, "parts", parts, (-1, -1, -1), parts, _check.FLOAT32)
    b, heads, t = parts.shape
    block = _block(op, t)
    if out is None:
        out = parts.new_empty((b, t)), parts.new_empty((b, t), dtype=torch.int32)
    _check_state(op, refreshes, *out, shape=(b, t), like=parts)
    tile = tile or RowTile()
    launched(_unit_scores_kernel, b)(
        parts, refreshes.table, refreshes.counter, *out, heads, t, refreshes.table.shape[1],
        refreshes.column, INVERTED=inverted, BLOCK=block, **row_options(_unit_scores_kernel, tile),
    )  # fmt: skip
    return out


def choose_tokens(
    scores: Tensor,
    stamps: Tensor,
    refreshes: Refreshes,
    count: int,
    age_factor: float,
    bonus: float = 0.0,
    side: int = 0,
    out: Tensor | None = None,
    tile: RowTile | None = None,
) -> Tensor:
    """The `count` tokens that lead in each row, the first one first; their stamps are renewed.

    Raises: ValueError for a shape, dtype, layout or alignment that the kernel does not take.
    Launches: _choose_tokens_kernel.
    """
    op = "choose_tokens"
    _check.tensor(op, "scores", scores, (-1, -1), scores, _check.FLOAT32)
    b, t = scores.shape
    block = _block(op, t)
    _check_state(op, refreshes, scores, stamps, shape=(b, t), like=scores)
    if not 1 <= count <= t or side < 0 or side % 2 or side**2 > t:
        raise ValueError(f"{op}: {count} of {t} tokens, {side} a side, wanted 1..{t}, an even side")
    out = scores.new_empty((b, count), dtype=torch.int64) if out is None else out
    _check.tensor(op, "out", out, (b, count), scores, INT64)
    tile = tile or RowTile(warps=min(16, max(4, block // 128)))
    launched(_choose_tokens_kernel, b)(
        scores, stamps, refreshes.table, refreshes.counter, out, age_factor, 1.0 + bonus, t, count,
        refreshes.table.shape[1], refreshes.column, SIDE=side if bonus else 0, BLOCK=block,
        CHUNK=max(2, min(32, 8192 // block)),
        **row_options(_choose_tokens_kernel, tile) | {"enable_fp_fusion": False},
    )  # fmt: skip
    return out


def _block(op: str, tokens: int) -> int:
    if not 1 <= tokens <= MAX_TOKENS:
        raise ValueError(f"{op}: {tokens} tokens, wanted 1..{MAX_TOKENS}")
    return power_of_2(tokens)


def _check_state(
    op: str, refreshes: Refreshes, scores: Tensor, stamps: Tensor, *, shape: tuple[int, int],
    like: Tensor,
) -> None:  # fmt: skip
    _check.tensor(op, "scores", scores, shape, like, _check.FLOAT32)
    _check.tensor(op, "stamps", stamps, shape, like, _check.INT32)
    _check.tensor(op, "refreshes.table", refreshes.table, (-1, -1), like, _check.INT32)
    _check.counter(op, refreshes.counter, like)
    if not 0 <= refreshes.column < refreshes.table.shape[1]:
        raise ValueError(f"{op}: column {refreshes.column} is outside the table of refreshes")
