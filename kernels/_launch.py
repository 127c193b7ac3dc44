"""Block sizes, warps and candidates by shape.  Arithmetic only: no triton, no device.

What is here was chosen from compiled code (registers, shared memory, load widths), not from
timings: pass another tile, or tune over the candidates, where a device is at hand.  No kernel has
an autotune decorator: it would measure at a first call, which may be inside a capture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_WIDTH = 8192
"""A row is held in registers; wider ones would spill."""
MAX_TOKENS = 4096
"""One program ranks all tokens of an image, held in registers."""
MOST_NUMBERS = 64
"""Of weights' bits, which every program of a composed product compares."""


@dataclass(frozen=True, slots=True)
class RowTile:
    """How a row kernel is cut: warps per program, slots or weight rows in flight, and how many
    tokens share a program where they share weights (`patch_embed`).

    `pdl` launches it before the kernel before it has ended, and lets it wait there; None where the
    device can (sm_90 on).
    """

    warps: int = 4
    unroll: int = 4
    tokens: int = 1
    pdl: bool | None = None


@dataclass(frozen=True, slots=True)
class MatrixTile:
    """How a matrix product is cut; `group` row tiles share their columns of the weight.

    n is a power of two, or, for `linear` and `split_linear`, the sum of two: 144 is 128 + 16.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    group: int = 8

    def count(self, rows: int, columns: int) -> int:
        """Tiles that cover a result of that size."""
        return -(-rows // self.m) * -(-columns // self.n)


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """How attention is cut: m queries against n keys at a time.

    The limit of registers per thread is stated, since the assembler left alone prefers more
    blocks per multiprocessor to keeping everything in registers.
    """

    m: int
    n: int
    warps: int
    stages: int
    registers: int = 255


LINEAR_TILES: tuple[MatrixTile, ...] = (
    MatrixTile(64, 64, 64, 4, 4),
    MatrixTile(64, 128, 64, 4, 4),
    MatrixTile(128, 64, 64, 4, 4),
    MatrixTile(128, 128, 64, 8, 3),
    MatrixTile(128, 256, 64, 8, 3),
)
WIDE_TILES = (MatrixTile(64, 144, 64, 4, 4), MatrixTile(128, 144, 64, 8, 3))
"""For widths of 9 times a power of two: 32 times 144 is DiT-XL's 4608, which 128 blocks of 128 rows
cover at one image, all but 4 of an H100's multiprocessors."""
ATTENTION_TILES = (
    AttentionTile(64, 64, 4, 2),
    AttentionTile(64, 64, 4, 3),
    AttentionTile(64, 128, 4, 2),
    AttentionTile(64, 128, 4, 3),
    AttentionTile(128, 64, 8, 2),
    AttentionTile(128, 64, 8, 3),
    AttentionTile(128, 64, 8, 3, registers=128),
    AttentionTile(128, 128, 8, 2),
)


def power_of_2(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


def row_block(width: int) -> int:
    """Columns of a row's block: a power of two, and a 16-byte vector of bf16 for every lane."""
    return max(256, power_of_2(width))


def row_tile(width: int) -> RowTile:
    """For rows of `width`: 32 elements per thread and slot; an H200 streams them faster than 16."""
    return RowTile(warps=max(1, row_block(width) // 1024))


def mix_tile(width: int) -> RowTile:
    """For a list of slots whose sum is written as it is: with more elements per thread triton 3.6
    would spill."""
    return RowTile(warps=_block_warps(width))


def final_tile(width: int, *, lanes: bool = False) -> RowTile:
    """For a token with and without its label: two rows of `width` per program, so half the
    slots in flight, and one at a time where the rows, or with `lanes` factors of each, fill the
    registers."""
    return RowTile(warps=_block_warps(width), unroll=2 if width <= 4096 and not lanes else 1)


def embed_tile(rows: int, width: int) -> RowTile:
    """For `rows` tokens: one per program until a large GPU is full, then four share the weight."""
    warps = _block_warps(width)
    if rows <= 4096 or width > 4096:
        return RowTile(warps=warps)
    return RowTile(warps=min(16, 2 * warps), tokens=4)


def _block_warps(width: int) -> int:
    """For 16 elements per thread, where one block can hold that."""
    return min(16, max(1, row_block(width) // 512))


def linear_tile(rows: int, columns: int, itemsize: int) -> MatrixTile:
    """Small tiles until the grid fills a large GPU once."""
    if itemsize == 4:
        # Without tensor cores: an inner block of 64 would not fit the registers.
        return MatrixTile(64, 64, 16, 4, 3)
    # Nearly all of the 132 multiprocessors of an H100.
    filled = 128
    for tile in reversed(LINEAR_TILES[:-1]):
        if tile.count(rows, columns) >= filled:
            return tile
    return LINEAR_TILES[0]


def attention_tile(heads: int, tokens: int, itemsize: int) -> AttentionTile:
    """For `heads` heads over the whole batch."""
    if itemsize == 4:
        return AttentionTile(32, 32, 8, 1)
    # Two blocks for each of an H100's 132 multiprocessors.
    if heads * -(-tokens // 128) >= 264:
        return AttentionTile(128, 64, 8, 3)
    return AttentionTile(64, 64, 4, 3)


def two_parts(width: int) -> tuple[int, int]:
    """A width as two powers of two, the second 0 where the first covers it.

    72 is 64 + 16, which wastes 8 columns where the next power of two wastes 56.
    """
    first = max(16, 1 << (width.bit_length() - 1))
    rest = width - first
    return first, max(16, power_of_2(rest)) if rest > 0 else 0


def narrowed_bytes(h: Any, rows: int, width: int, itemsize: int) -> int:
    """What a row kernel leaves out where it writes h in 8 bits, with a scale for each row."""
    return rows * (width * (itemsize - 1) - 4) if h.element_size() == 1 else 0


def options(warps: int, *, pdl: bool = False, **more: int) -> dict[str, Any]:
    """Launch options of every kernel.

    Fusing a * b + c into one rounding is asked for by name: its default differs between the
    supported versions of triton.
    """
    launch: dict[str, Any] = {"num_warps": warps, "enable_fp_fusion": True, **more}
    return launch | {"launch_pdl": True} if pdl else launch
